// How every function of the stand-in driver begins, its settings, its log, and the names of errors.

#include "driver.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace standin {

namespace {

int log_file = -1;
thread_local const char *function_called = "";

// `NAME_v2` and `NAME` are one function.
std::string plain(const std::string &name) {
    size_t n = name.size();
    return n > 3 && name.compare(n - 3, 3, "_v2") == 0 ? name.substr(0, n - 3) : name;
}

[[noreturn]] void wrong(const std::string &setting) {
    fprintf(stderr, "cuda stand-in: MDL_STANDIN_CUDA: `%s` is not understood\n", setting.c_str());
    _exit(97);
}

uint64_t number(const std::string &text, const std::string &setting) {
    char *end;
    uint64_t value = strtoull(text.c_str(), &end, 10);
    if (text.empty() || *end) wrong(setting);
    return value;
}

size_t bytes(const std::string &text, const std::string &setting) {
    const char *units = "KMG";
    const char *unit = text.empty() ? nullptr : strchr(units, text.back());
    if (!unit) return number(text, setting);
    return number(text.substr(0, text.size() - 1), setting) << 10 * (unit - units + 1);
}

// NAME:CODE, NAME@N:CODE or NAME@N-M:CODE
Failure failure(const std::string &text, const std::string &setting) {
    Failure f{"", 1, UINT64_MAX, OK};
    size_t colon = text.rfind(':'), at = text.find('@');
    if (colon == std::string::npos) wrong(setting);
    f.code = Result(number(text.substr(colon + 1), setting));
    f.function = plain(text.substr(0, at < colon ? at : colon));
    if (at < colon) {
        std::string range = text.substr(at + 1, colon - at - 1);
        size_t dash = range.find('-');
        f.from = number(range.substr(0, dash), setting);
        if (dash != std::string::npos) f.to = number(range.substr(dash + 1), setting);
    }
    return f;
}

void set(Settings &s, const std::string &setting) {
    size_t equals = setting.find('=');
    std::string key = setting.substr(0, equals), value = equals < setting.size() ? setting.substr(equals + 1) : "";
    if (key == "devices") s.devices = int(number(value, setting));
    else if (key == "memory") s.memory = bytes(value, setting);
    else if (key == "version") s.version = int(number(value, setting));
    else if (key == "multiprocessors") s.multiprocessors = int(number(value, setting));
    else if (key == "pools") s.pools = int(number(value, setting));
    else if (key == "fail") s.failures.push_back(failure(value, setting));
    else if (key == "log") s.log = value;
    else if (setting == "lazy") s.lazy = true;
    else if (setting == "reverse") s.order = -1;
    else if (key == "capability") {
        size_t dot = value.find('.');
        if (dot == std::string::npos) wrong(setting);
        s.major = int(number(value.substr(0, dot), setting));
        s.minor = int(number(value.substr(dot + 1), setting));
    } else wrong(setting);
}

// CUDA_VISIBLE_DEVICES: numbers up to the first that is not there.
std::vector<Device> visible(int count) {
    std::vector<Device> devices;
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    if (!text) {
        for (int i = 0; i < count; i++) devices.push_back({i});
        return devices;
    }
    for (char *end;; text = end + 1) {
        long ordinal = strtol(text, &end, 10);
        if (end == text || ordinal < 0 || ordinal >= count) return devices;
        devices.push_back({int(ordinal)});
        if (*end != ',') return devices;
    }
}

void configure() {
    State &s = state();
    s.configured = true;
    std::string text = getenv("MDL_STANDIN_CUDA") ? getenv("MDL_STANDIN_CUDA") : "";
    for (size_t at = 0; at < text.size();) {
        size_t comma = std::min(text.find(',', at), text.size());
        if (comma > at) set(s.settings, text.substr(at, comma - at));
        at = comma + 1;
    }
    if (!s.settings.log.empty()) {
        log_file = open(s.settings.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (log_file < 0) wrong("log=" + s.settings.log);
    }
    s.devices = visible(s.settings.devices);
    read_registers();
}

Result missing(Needs needs) {
    State &s = state();
    if (needs == NOTHING) return OK;
    if (!s.initialised) return NOT_INITIALIZED;
    if (needs == INIT) return OK;
    if (s.stuck) return s.stuck;
    if (!current()) return INVALID_CONTEXT;
    if (!s.contexts.find(current())) return CONTEXT_IS_DESTROYED;
    return needs == UNCAPTURED ? forbidden() : OK;
}

void say(int file, const char *before, const char *format, va_list arguments) {
    char text[1024];
    int n = snprintf(text, sizeof text, "%s", before);
    n += vsnprintf(text + n, sizeof text - size_t(n) - 1, format, arguments);
    n = std::min(n, int(sizeof text) - 2);
    text[n++] = '\n';
    if (write(file, text, size_t(n)) < 0) {}
}

__attribute__((destructor)) void at_exit() {
    if (state().configured) log("exit %zu allocations %zu bytes", live_allocations(), live_bytes());
}

}  // namespace

State &state() {
    static State *s = new State;
    return *s;
}

Handle fresh_handle() {
    // No address of anything, so that whoever looks into it faults.
    static uintptr_t next = uintptr_t(0x5d) << 56;
    return reinterpret_cast<Handle>(next += 16);
}

void log(const char *format, ...) {
    if (log_file < 0) return;
    va_list arguments;
    va_start(arguments, format);
    say(log_file, "", format, arguments);
    va_end(arguments);
}

Result mistake(Result code, const char *format, ...) {
    char before[128];
    snprintf(before, sizeof before, "cuda stand-in: %s: error %d: ", called(), code);
    va_list arguments;
    va_start(arguments, format);
    say(2, before, format, arguments);
    va_end(arguments);
    return code;
}

const char *called() { return function_called; }

Result call(const char *function, Needs needs, const std::function<Result()> &body) {
    State &s = state();
    std::lock_guard<std::mutex> guard(s.lock);
    if (!s.configured) configure();
    function_called = function;
    std::string name = plain(function);
    uint64_t n = ++s.calls[name];
    Result code = OK;
    for (const Failure &f : s.settings.failures)
        if (f.function == name && f.from <= n && n <= f.to) code = f.code;
    if (code == OK) code = missing(needs);
    if (code == OK) code = body();
    if (code != OK && code != NOT_READY) log("error %s %d", function, code);
    return code;
}

}  // namespace standin

using namespace standin;

namespace {

struct Name {
    Result code;
    const char *name, *words;
};
const Name NAMES[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "pointer does not correspond to a registered memory region"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

Result name_of(Result code, const char **out, const char *Name::*field) {
    if (!out) return INVALID_VALUE;
    *out = nullptr;
    for (const Name &n : NAMES)
        if (n.code == code) *out = n.*field;
    return *out ? OK : INVALID_VALUE;
}

}  // namespace

API Result cuGetErrorName(Result code, const char **out) { return name_of(code, out, &Name::name); }
API Result cuGetErrorString(Result code, const char **out) { return name_of(code, out, &Name::words); }

API void standin_report(Report *out) {
    State &s = state();
    std::lock_guard<std::mutex> guard(s.lock);
    *out = Report{live_allocations(),     live_bytes(),
                  host_allocations(),     s.streams.all.size(),
                  s.events.all.size(),    s.modules.all.size(),
                  s.graphs.all.size() + s.executables.all.size(), s.launches, s.peak_bytes};
}
