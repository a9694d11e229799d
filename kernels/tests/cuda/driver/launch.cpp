// Functions and launches: what a launch must hold to, and the shim that runs it.

#include "driver.h"
#include "entry.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <sstream>

#include <pthread.h>

extern "C" const char *shim_launch(const char *name, const unsigned *grid, const unsigned *block, size_t shared_bytes,
                                   void **arguments, const size_t *sizes, size_t n, int order);

// registers.txt, as it was when this was built.
asm(".section .rodata\nstandin_registers:\n.incbin \"" REGISTERS "\"\n.byte 0\n.text\n");
extern const char standin_registers[] __attribute__((visibility("hidden")));

using namespace standin;

namespace {

constexpr int DYNAMIC_SHARED_ALLOWED = 8, CARVEOUT = 9;
constexpr int REGISTERS_OF_BLOCK = 65536;

struct Launch {
    std::string name;
    const Kernel *kernel;
    Handle context;
    unsigned grid[3], block[3];
    size_t shared;
    // The arguments, each from a multiple of 16 bytes on.
    std::vector<unsigned char> bytes;
    std::vector<size_t> places;
};

// The thread that runs a kernel, where it goes back to after a fault, and what the fault was.
volatile sig_atomic_t running;
pthread_t runner;
sigjmp_buf back;
volatile int fault;
void *volatile fault_at;
const int FAULTS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
struct sigaction others[NSIG];

void on_fault(int signal, siginfo_t *info, void *) {
    if (running && pthread_equal(runner, pthread_self())) {
        fault = signal;
        fault_at = info->si_addr;
        siglongjmp(back, 1);
    }
    // Not a kernel's: whoever was asked before is asked when the instruction runs again.
    sigaction(signal, &others[signal], nullptr);
}

void catch_faults() {
    static bool done = false;
    if (done) return;
    done = true;
    for (int signal : FAULTS) sigaction(signal, nullptr, &others[signal]);
    // The shim would end the process at a fault; it sets that up once.
    unsigned none[3] = {0, 0, 0};
    shim_launch("", none, none, 0, nullptr, nullptr, 0, 1);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : FAULTS) sigaction(signal, &action, nullptr);
}

// What went wrong in the kernel, after the jump out of it.
Result after_fault(const Launch &l) {
    const shim::Thread none{};
    const shim::Thread &t = shim::current ? *shim::current : none;
    const dim3 &b = shim::block_index;
    shim::current = nullptr;
    if (fault == SIGSEGV || fault == SIGBUS)
        return mistake(ILLEGAL_ADDRESS, "%s touched %s (thread %u of block %u %u %u)", l.name.c_str(),
                       describe(reinterpret_cast<Address>(fault_at)).c_str(), t.number, b.x, b.y, b.z);
    return mistake(LAUNCH_FAILED, "%s: %s (thread %u of block %u %u %u)", l.name.c_str(),
                   fault == SIGFPE ? "a division by zero" : "an index beyond an array or an address that is not aligned",
                   t.number, b.x, b.y, b.z);
}

Result run(Launch &l) {
    std::vector<void *> arguments;
    for (size_t i = 0; i < l.places.size(); i++) {
        arguments.push_back(l.bytes.data() + l.places[i]);
        if (!l.kernel->addresses[i]) continue;
        Address at;
        memcpy(&at, arguments[i], sizeof at);
        if (at && !there(at, 0, l.context) && !pinned(at, 0))
            return mistake(ILLEGAL_ADDRESS, "%s: argument %zu is %s; not memory of its device", l.name.c_str(), i,
                           describe(at).c_str());
    }
    state().launches++;
    catch_faults();
    runner = pthread_self();
    if (sigsetjmp(back, 1)) {
        running = 0;
        return after_fault(l);
    }
    running = 1;
    const char *wrong = shim_launch(l.name.c_str(), l.grid, l.block, l.shared, arguments.data(), l.kernel->sizes,
                                    l.kernel->count, state().settings.order);
    running = 0;
    return wrong ? mistake(LAUNCH_FAILED, "%s", wrong) : Result(OK);
}

int registers_of(const Kernel &k, unsigned threads) {
    // Given to warps, 256 at a time.
    return int((threads + 31) / 32) * ((k.registers * 32 + 255) / 256 * 256);
}

// Whether a launch of this shape may be.
Result allowed(const Function &f, const unsigned *grid, const unsigned *block, size_t shared) {
    const char *name = f.name.c_str();
    size_t threads = size_t(block[0]) * block[1] * block[2];
    for (int i = 0; i < 3; i++)
        if (!grid[i] || !block[i])
            return mistake(INVALID_VALUE, "%s: grid %u %u %u, block %u %u %u", name, grid[0], grid[1], grid[2], block[0],
                           block[1], block[2]);
    if (grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535)
        return mistake(INVALID_VALUE, "%s: a grid of %u %u %u", name, grid[0], grid[1], grid[2]);
    if (block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > 1024)
        return mistake(INVALID_VALUE, "%s: a block of %u %u %u", name, block[0], block[1], block[2]);
    if (threads > size_t(f.kernel->threads))
        return mistake(OUT_OF_RESOURCES, "%s: %zu threads, its bound is %d", name, threads, f.kernel->threads);
    if (registers_of(*f.kernel, unsigned(threads)) > REGISTERS_OF_BLOCK)
        return mistake(OUT_OF_RESOURCES, "%s: %zu threads of %d registers", name, threads, f.kernel->registers);
    if (shared > size_t(f.dynamic_shared))
        return mistake(INVALID_VALUE, "%s: %zu bytes of dynamic shared memory, %d are allowed", name, shared,
                       f.dynamic_shared);
    return OK;
}

Result launch(const char *called_as, Handle handle, const unsigned *grid, const unsigned *block, unsigned shared,
              Handle stream, void **arguments, void **extra) {
    return call(called_as, CONTEXT, [=]() -> Result {
        State &s = state();
        Function *f = s.functions.find(handle);
        if (!f || s.modules.find(f->module)->context != current()) return INVALID_HANDLE;
        if (Result code = allowed(*f, grid, block, shared)) return code;
        if (extra) return mistake(NOT_SUPPORTED, "%s: arguments as a buffer", f->name.c_str());
        if (!arguments && f->kernel->count) return INVALID_VALUE;
        auto l = std::make_shared<Launch>();
        l->name = f->name;
        l->kernel = f->kernel;
        l->context = current();
        std::copy_n(grid, 3, l->grid);
        std::copy_n(block, 3, l->block);
        l->shared = shared;
        for (size_t i = 0; i < f->kernel->count; i++) {
            if (!arguments[i]) return mistake(INVALID_VALUE, "%s: argument %zu is missing", f->name.c_str(), i);
            size_t place = l->bytes.size(), size = f->kernel->sizes[i];
            l->places.push_back(place);
            l->bytes.resize(place + (size + 15) / 16 * 16);
            memcpy(l->bytes.data() + place, arguments[i], size);
        }
        std::ostringstream line;
        line << "launch " << l->name << " grid " << grid[0] << ' ' << grid[1] << ' ' << grid[2] << " block " << block[0]
             << ' ' << block[1] << ' ' << block[2] << " shared " << shared;
        return submit(stream, {line.str(), [l] { return run(*l); }});
    });
}

}  // namespace

void standin::Note::note(const char *name, int threads, const size_t *sizes, const bool *addresses, size_t count) {
    state().kernels[name] = Kernel{threads, sizes, addresses, count};
}

// The columns of one architecture: registers, static shared memory, stack, spills.
void standin::read_registers() {
    std::istringstream text(standin_registers);
    bool second = state().settings.major >= 9;
    for (std::string line; std::getline(text, line);) {
        std::istringstream words(line);
        std::string name;
        int n[8];
        words >> name;
        auto kernel = state().kernels.find(name);
        if (kernel == state().kernels.end()) continue;
        for (int &value : n) words >> value;
        if (!words) continue;
        const int *of_it = second ? n + 4 : n;
        kernel->second.registers = of_it[0];
        kernel->second.shared = of_it[1];
        kernel->second.local = of_it[2];
    }
}

API Result cuFuncSetAttribute(Handle handle, int attribute, int value) {
    return call("cuFuncSetAttribute", CONTEXT, [=]() -> Result {
        Function *f = state().functions.find(handle);
        if (!f) return INVALID_HANDLE;
        if (attribute == CARVEOUT && value >= -1 && value <= 100) return f->carveout = value, OK;
        int most = multiprocessor().shared_of_block - f->kernel->shared;
        if (attribute != DYNAMIC_SHARED_ALLOWED || value < 0 || value > most)
            return mistake(INVALID_VALUE, "%s: attribute %d, value %d", f->name.c_str(), attribute, value);
        f->dynamic_shared = value;
        return OK;
    });
}

API Result cuFuncGetAttribute(int *out, int attribute, Handle handle) {
    return call("cuFuncGetAttribute", CONTEXT, [=]() -> Result {
        Function *f = state().functions.find(handle);
        if (!out) return INVALID_VALUE;
        if (!f) return INVALID_HANDLE;
        const Module &module = *state().modules.find(f->module);
        const Settings &s = state().settings;
        const int values[] = {f->kernel->threads,
                              f->kernel->shared,
                              0,
                              f->kernel->local,
                              f->kernel->registers,
                              module.ptx_version ? module.ptx_version : module.architecture,
                              module.ptx_version ? s.major * 10 + s.minor : module.architecture,
                              0,
                              f->dynamic_shared,
                              f->carveout};
        if (attribute < 0 || attribute > CARVEOUT) return INVALID_VALUE;
        *out = values[attribute];
        return OK;
    });
}

API Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, Handle handle, int threads, size_t dynamic) {
    return call("cuOccupancyMaxActiveBlocksPerMultiprocessor", CONTEXT, [=]() -> Result {
        Function *f = state().functions.find(handle);
        if (!out || threads <= 0) return INVALID_VALUE;
        if (!f) return INVALID_HANDLE;
        const Kernel &k = *f->kernel;
        // 1 KiB of each block is the system's.
        int shared = k.shared + int(dynamic) + 1024;
        bool possible = threads <= k.threads && dynamic <= size_t(f->dynamic_shared);
        *out = !possible ? 0
                         : std::min({multiprocessor().blocks, multiprocessor().threads / ((threads + 31) / 32 * 32),
                                     REGISTERS_OF_BLOCK / registers_of(k, unsigned(threads)),
                                     multiprocessor().shared / shared});
        return OK;
    });
}

API Result cuLaunchKernel(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, Handle stream, void **arguments, void **extra) {
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return launch("cuLaunchKernel", function, grid, block, shared, stream, arguments, extra);
}

namespace {

struct LaunchAttribute {
    int id;
    char padding[4];
    char value[64];
};

struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    Handle stream;
    LaunchAttribute *attributes;
    unsigned attribute_count;
};

}  // namespace

API Result cuLaunchKernelEx(const LaunchConfig *config, Handle function, void **arguments, void **extra) {
    if (!config) return INVALID_VALUE;
    for (unsigned i = 0; i < config->attribute_count; i++) {
        // None, and that a kernel may begin while the one before it ends: which it need not.
        int id = config->attributes[i].id;
        if (id != 0 && id != 6)
            return call("cuLaunchKernelEx", CONTEXT, [=] { return mistake(NOT_SUPPORTED, "launch attribute %d", id); });
    }
    return launch("cuLaunchKernelEx", function, config->grid, config->block, config->shared, config->stream, arguments,
                  extra);
}
