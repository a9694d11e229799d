// The inside of the stand-in driver: what it knows, and how a function of its interface begins.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

typedef int Result;
typedef void *Handle;
typedef uint64_t Address;

// What functions answer, with the numbers of cuda.h.
enum : Result {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701,
    CONTEXT_IS_DESTROYED = 709,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

// What `standin_report` tells: what is there now (of device memory also what was there when its context ended).
struct Report {
    uint64_t allocations, bytes, host_allocations, streams, events, modules, graphs;
    // So far: launches of kernels, those by graphs too, and the most bytes at a time.
    uint64_t launches, peak_bytes;
};

namespace standin {

// A call of `function`, from its `from`th time to its `to`th, fails.
struct Failure {
    std::string function;
    uint64_t from, to;
    Result code;
};

struct Settings {
    int devices = 1, version = 12080, major = 9, minor = 0, multiprocessors = 132, pools = 0;
    size_t memory = size_t(8) << 30;
    bool lazy = false;
    int order = 1;
    std::vector<Failure> failures;
    std::string log;
};

// Something that work does, later or now, and again when a graph is launched.
struct Work {
    // A line of the log.
    std::string line;
    std::function<Result()> run;
};

// Work of a stream that was captured.
struct Capture {
    Handle origin;
    int mode;
    std::thread::id thread;
    bool invalid = false, ended = false;
    std::vector<Work> works;
};

// How far the work of each captured stream is known to have come.
typedef std::map<Handle, unsigned> Clock;

struct Context {
    int device;
};

struct Stream {
    Handle context;
    bool blocking;
    std::shared_ptr<Capture> capture;
    // Of the capture: pieces of work on this stream, and what it has waited for.
    unsigned works = 0;
    Clock seen;
};

struct Event {
    Handle context;
    bool timed;
    bool recorded = false;
    int pending = 0;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<Capture> capture;
    Clock seen;
};

struct Module {
    Handle context;
    std::set<std::string> kernels;
    int architecture, ptx_version;
};

// A kernel of the shim.
struct Kernel {
    int threads;
    const size_t *sizes;
    const bool *addresses;
    size_t count;
    // From registers.txt, for this device.
    int registers = 32, shared = 0, local = 0;
};

struct Function {
    Handle module;
    std::string name;
    const Kernel *kernel;
    int dynamic_shared, carveout = -1;
};

struct Graph {
    Handle context;
    std::shared_ptr<const std::vector<Work>> works;
};

// Things by their handles, which are numbers that are used once.
Handle fresh_handle();
template <class T>
struct Table {
    std::map<Handle, T> all;
    Handle add(T value) {
        Handle handle = fresh_handle();
        all.emplace(handle, std::move(value));
        return handle;
    }
    T *find(Handle handle) {
        auto found = all.find(handle);
        return found == all.end() ? nullptr : &found->second;
    }
    bool remove(Handle handle) { return all.erase(handle) != 0; }
    template <class F>
    void remove_if(F dead) {
        for (auto at = all.begin(); at != all.end();) at = dead(at->second) ? all.erase(at) : std::next(at);
    }
};

struct Device {
    // The number it has when all are visible.
    int ordinal;
    Handle context = nullptr;
    int retained = 0;
    size_t used = 0;
};

// All of it, under one lock. It is never destroyed: functions may be called while the process ends.
struct State {
    std::mutex lock;
    Settings settings;
    bool configured = false, initialised = false;
    // An error that stays, as a fault of a kernel does.
    Result stuck = OK;
    std::map<std::string, uint64_t> calls;
    std::vector<Device> devices;
    Table<Context> contexts;
    Table<Stream> streams;
    Table<Event> events;
    Table<Module> modules;
    Table<Function> functions;
    Table<Graph> graphs, executables;
    std::map<std::string, Kernel> kernels;
    // Work that waits, with `lazy`.
    std::vector<Work> waiting;
    uint64_t lost_allocations = 0, lost_bytes = 0, launches = 0, bytes = 0, peak_bytes = 0;
};
State &state();
// device.cpp
// The context that is current in this thread.
Handle current();
// Its device; a context is current.
Device &device();

// What differs from capability to capability: what a multiprocessor has, and a block of its shared memory.
struct Multiprocessor {
    int capability, threads, blocks, shared, shared_of_block;
};
const Multiprocessor &multiprocessor();

void log(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Says on stderr what was wrong; returns the code.
Result mistake(Result code, const char *format, ...) __attribute__((format(printf, 2, 3)));

// What a function needs: nothing, cuInit, a current context without an error that stays, and that no capture
// forbids it.
enum Needs { NOTHING, INIT, CONTEXT, UNCAPTURED };

// Begins a call: takes the lock, fails as the settings say, looks whether what the function needs is there.
Result call(const char *function, Needs needs, const std::function<Result()> &body);
// The function that was called.
const char *called();

// memory.cpp
// Whether so many bytes of device memory are there, in the context or, if it is null, in any.
bool there(Address at, size_t bytes, Handle context);
// Whether the address is one that was given out as device memory, dead or alive.
bool of_device(Address at);
// Whether so many bytes of pinned host memory are there.
bool pinned(Address at, size_t bytes);
// What is at an address, in words.
std::string describe(Address at);
void release_memory_of(Handle context);
size_t live_allocations(), live_bytes(), host_allocations();

// stream.cpp
// Does the work now, or later if the stream is captured or work waits.
Result submit(Handle stream, Work work);
// Does the work now, after all that waits: what a copy or a memset without a stream does.
Result synchronous(Work work);
// Does all that waits.
Result drain();
// Whether the stream is captured, where that is not allowed; ends the capture then.
Result capture_forbids(Handle stream);
// Whether a call that a capture forbids may be done; ends the capture otherwise.
Result forbidden();

// launch.cpp
void read_registers();

}  // namespace standin
