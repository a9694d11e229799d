// Devices and their primary contexts.

#include "driver.h"

#include <climits>
#include <cstdio>
#include <cstring>

using namespace standin;

namespace {

// The contexts of this thread, the current one last. No destructor: threads call the driver while they end.
constexpr int DEPTH = 16;
thread_local Handle contexts[DEPTH];
thread_local int depth;

const Multiprocessor GENERATIONS[] = {
    {90, 2048, 32, 233472, 232448}, {89, 1536, 24, 102400, 101376}, {86, 1536, 16, 102400, 101376},
    {80, 2048, 32, 167936, 166912}, {75, 1024, 16, 65536, 65536},   {0, 2048, 32, 98304, 49152},
};

int attribute(int id, int ordinal) {
    const Settings &s = state().settings;
    switch (id) {
        case 1: return 1024;         // threads of a block
        case 2: case 3: return 1024; // and by its axes
        case 4: return 64;
        case 5: return INT_MAX;      // blocks of a grid
        case 6: case 7: return 65535;
        case 8: return 48 << 10;     // shared memory of a block
        case 9: return 64 << 10;     // constant memory
        case 10: return 32;          // threads of a warp
        case 11: return INT_MAX;     // pitch
        case 12: case 82: return 65536; // registers of a block, of a multiprocessor
        case 13: return 1980000;     // kHz
        case 14: return 512;         // alignment of textures
        case 15: return 1;           // copies beside kernels
        case 16: return s.multiprocessors;
        case 19: return 1;           // host memory can be mapped
        case 31: return 1;           // kernels beside kernels
        case 33: return 1 + ordinal; // PCI bus
        case 36: return 2619000;     // kHz of memory
        case 37: return 5120;        // bits of its bus
        case 38: return 50 << 20;    // L2
        case 39: return multiprocessor().threads;
        case 40: return 3;           // engines that copy
        case 41: return 1;           // one address space
        case 75: return s.major;
        case 76: return s.minor;
        case 78: return 1;           // priorities of streams
        case 79: case 80: return 1;  // L1
        case 81: return multiprocessor().shared;
        case 87: return 2;           // single to double precision
        case 90: return 1;           // preemption
        case 95: return 1;           // cooperative launches
        case 97: return multiprocessor().shared_of_block;
        case 99: return 1;           // host memory can be registered
        case 106: return multiprocessor().blocks;
        case 111: return 1024;       // shared memory that the system keeps of a block
        case 115: return s.pools;
        default: return 0;
    }
}

bool is_device(int device) { return device >= 0 && size_t(device) < state().devices.size(); }

void end_context(Device &d) {
    State &s = state();
    Handle context = d.context;
    drain();
    auto of_it = [&](auto &thing) { return thing.context == context; };
    s.functions.remove_if([&](Function &f) { return of_it(*s.modules.find(f.module)); });
    s.streams.remove_if(of_it);
    s.events.remove_if(of_it);
    s.modules.remove_if(of_it);
    s.graphs.remove_if(of_it);
    s.executables.remove_if(of_it);
    release_memory_of(context);
    s.contexts.remove(context);
    d.context = nullptr;
}

Result uuid(const char *function, unsigned char *out, int device) {
    return call(function, INIT, [=] {
        if (!out) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        memcpy(out, "mdl stand-in 000", 16);
        out[15] = (unsigned char)('0' + state().devices[size_t(device)].ordinal);
        return OK;
    });
}

}  // namespace

const Multiprocessor &standin::multiprocessor() {
    const Settings &s = state().settings;
    const Multiprocessor *m = GENERATIONS;
    while (m->capability > s.major * 10 + s.minor) m++;
    return *m;
}

Handle standin::current() { return depth ? contexts[depth - 1] : nullptr; }
Device &standin::device() { return state().devices[size_t(state().contexts.find(current())->device)]; }

API Result cuInit(unsigned flags) {
    return call("cuInit", NOTHING, [=] {
        if (flags) return INVALID_VALUE;
        if (state().devices.empty()) return NO_DEVICE;
        state().initialised = true;
        return OK;
    });
}

API Result cuDriverGetVersion(int *out) {
    return call("cuDriverGetVersion", NOTHING, [=] {
        if (!out) return INVALID_VALUE;
        *out = state().settings.version;
        return OK;
    });
}

API Result cuDeviceGetCount(int *out) {
    return call("cuDeviceGetCount", INIT, [=] {
        if (!out) return INVALID_VALUE;
        *out = int(state().devices.size());
        return OK;
    });
}

API Result cuDeviceGet(int *out, int ordinal) {
    return call("cuDeviceGet", INIT, [=] {
        if (!out) return INVALID_VALUE;
        if (!is_device(ordinal)) return INVALID_DEVICE;
        *out = ordinal;
        return OK;
    });
}

API Result cuDeviceGetName(char *out, int length, int device) {
    return call("cuDeviceGetName", INIT, [=] {
        if (!out || length <= 0) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        snprintf(out, size_t(length), "Stand-in GPU %d", state().devices[size_t(device)].ordinal);
        return OK;
    });
}

API Result cuDeviceGetAttribute(int *out, int id, int device) {
    return call("cuDeviceGetAttribute", INIT, [=] {
        if (!out || id <= 0) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        *out = attribute(id, state().devices[size_t(device)].ordinal);
        return OK;
    });
}

API Result cuDeviceTotalMem_v2(size_t *out, int device) {
    return call("cuDeviceTotalMem_v2", INIT, [=] {
        if (!out) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        *out = state().settings.memory;
        return OK;
    });
}

API Result cuDeviceGetUuid(unsigned char *out, int device) { return uuid("cuDeviceGetUuid", out, device); }
API Result cuDeviceGetUuid_v2(unsigned char *out, int device) { return uuid("cuDeviceGetUuid_v2", out, device); }

API Result cuDevicePrimaryCtxRetain(Handle *out, int device) {
    return call("cuDevicePrimaryCtxRetain", INIT, [=]() -> Result {
        if (!out) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        if (state().stuck) return state().stuck;
        Device &d = state().devices[size_t(device)];
        if (d.retained++ == 0) d.context = state().contexts.add({device});
        *out = d.context;
        return OK;
    });
}

API Result cuDevicePrimaryCtxRelease_v2(int device) {
    return call("cuDevicePrimaryCtxRelease_v2", INIT, [=] {
        if (!is_device(device)) return INVALID_DEVICE;
        Device &d = state().devices[size_t(device)];
        if (!d.retained) return INVALID_CONTEXT;
        if (--d.retained == 0) end_context(d);
        return OK;
    });
}

API Result cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    return call("cuDevicePrimaryCtxGetState", INIT, [=] {
        if (!flags || !active) return INVALID_VALUE;
        if (!is_device(device)) return INVALID_DEVICE;
        *flags = 0;
        *active = state().devices[size_t(device)].retained > 0;
        return OK;
    });
}

API Result cuCtxSetCurrent(Handle context) {
    return call("cuCtxSetCurrent", INIT, [=] {
        if (context && !state().contexts.find(context)) return INVALID_CONTEXT;
        if (context && !depth) depth = 1;
        if (context) contexts[depth - 1] = context;
        else if (depth) depth--;
        return OK;
    });
}

API Result cuCtxGetCurrent(Handle *out) {
    return call("cuCtxGetCurrent", INIT, [=] {
        if (!out) return INVALID_VALUE;
        *out = current();
        return OK;
    });
}

API Result cuCtxPushCurrent_v2(Handle context) {
    return call("cuCtxPushCurrent_v2", INIT, [=] {
        if (!state().contexts.find(context)) return INVALID_CONTEXT;
        if (depth == DEPTH) return INVALID_VALUE;
        contexts[depth++] = context;
        return OK;
    });
}

API Result cuCtxPopCurrent_v2(Handle *out) {
    return call("cuCtxPopCurrent_v2", INIT, [=] {
        if (!depth) return INVALID_CONTEXT;
        depth--;
        if (out) *out = contexts[depth];
        return OK;
    });
}

API Result cuCtxGetDevice(int *out) {
    return call("cuCtxGetDevice", CONTEXT, [=] {
        if (!out) return INVALID_VALUE;
        *out = state().contexts.find(current())->device;
        return OK;
    });
}

API Result cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    return call("cuCtxGetStreamPriorityRange", CONTEXT, [=] {
        if (least) *least = 0;
        if (greatest) *greatest = -5;
        return OK;
    });
}

API Result cuCtxSynchronize() {
    return call("cuCtxSynchronize", UNCAPTURED, [] {
        log("wait");
        return drain();
    });
}

// Old names of functions that never changed otherwise. The old functions that took 32-bit addresses are not here: to
// ask for one of them is a mistake.
#define SAME(old_name, name, ...) API Result old_name(__VA_ARGS__) __attribute__((alias(#name)))
SAME(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, int);
SAME(cuCtxPushCurrent, cuCtxPushCurrent_v2, Handle);
SAME(cuCtxPopCurrent, cuCtxPopCurrent_v2, Handle *);
