// Memory: of devices, in one range of addresses of which each is used once; of the host, pinned; copies and fills.

#include "driver.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

using namespace standin;

namespace {

constexpr size_t ALIGNMENT = 16;
// What is around an allocation within its pages; new memory; as much of it as is filled.
constexpr unsigned char AROUND = 0xa5, NEW = 0xff;
constexpr size_t FILLED = 64 << 20;

struct Allocation {
    size_t bytes;
    Handle context;
    int device;
    unsigned char *pages;
    size_t size;
};

unsigned char *range, *next_pages;
size_t range_size;
std::map<Address, Allocation> &live = *new std::map<Address, Allocation>;
// Bytes of what is freed.
std::map<Address, size_t> &dead = *new std::map<Address, size_t>;

struct Pinned {
    size_t bytes;
    // What was mapped; null if it was only registered.
    void *pages;
    size_t size;
};
std::map<Address, Pinned> &host = *new std::map<Address, Pinned>;

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }
size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }
unsigned char *pointer(Address at) { return reinterpret_cast<unsigned char *>(at); }
Address address(const void *at) { return reinterpret_cast<Address>(at); }

// The entry that starts at `at` or is the last before it.
template <class M>
auto before(M &map, Address at) {
    auto found = map.upper_bound(at);
    return found == map.begin() ? map.end() : std::prev(found);
}

// Pages of the range, with one behind them that cannot be touched.
unsigned char *take(size_t size) {
    if (!range) {
        for (range_size = size_t(1) << 42; range_size >= size_t(1) << 33; range_size /= 2) {
            void *all = mmap(nullptr, range_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (all == MAP_FAILED) continue;
            range = static_cast<unsigned char *>(all);
            next_pages = range + page();
            break;
        }
        if (!range) return nullptr;
    }
    if (size + page() > size_t(range + range_size - next_pages)) return nullptr;
    unsigned char *pages = next_pages;
    if (mprotect(pages, size, PROT_READ | PROT_WRITE)) return nullptr;
    next_pages += size + page();
    return pages;
}

bool untouched(const unsigned char *from, const unsigned char *to) {
    return std::all_of(from, to, [](unsigned char c) { return c == AROUND; });
}

// Gives the pages back; whether all around the allocation is as it was.
bool release(std::map<Address, Allocation>::iterator at) {
    Allocation &a = at->second;
    const unsigned char *start = pointer(at->first);
    bool good = untouched(a.pages, start) && untouched(start + a.bytes, a.pages + a.size);
    mmap(a.pages, a.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    state().devices[size_t(a.device)].used -= a.bytes;
    state().bytes -= a.bytes;
    dead[at->first] = a.bytes;
    live.erase(at);
    return good;
}

enum Kind { HTOD, DTOH, DTOD };
const char *const KINDS[] = {"HtoD", "DtoH", "DtoD"};

// Whether a copy is possible; `code` if not.
Result copyable(Result code, Kind kind, Address to, Address from, size_t bytes) {
    for (int side = 0; side < 2; side++) {
        Address at = side ? from : to;
        bool in_device = kind == DTOD || (kind == HTOD) == (side == 0);
        const char *what = side ? "from" : "to";
        if (in_device ? !there(at, bytes, nullptr) : at == 0 || of_device(at))
            return mistake(code, "a copy %s of %zu bytes %s %s", KINDS[kind], bytes, what, describe(at).c_str());
    }
    if (kind == DTOD && to < from + bytes && from < to + bytes)
        return mistake(code, "a copy of %zu bytes onto itself", bytes);
    return OK;
}

// A copy as work. `kept` is what is copied if it is no longer at `from` then.
Work copying(Kind kind, Address to, Address from, size_t bytes, std::shared_ptr<std::vector<unsigned char>> kept) {
    return {std::string("copy ") + KINDS[kind] + " " + std::to_string(bytes), [=] {
                if (Result code = copyable(ILLEGAL_ADDRESS, kind, to, from, bytes)) return code;
                memcpy(pointer(to), kept ? kept->data() : pointer(from), bytes);
                return Result(OK);
            }};
}

Result copy(const char *function, Kind kind, Address to, Address from, size_t bytes) {
    return call(function, UNCAPTURED, [=]() -> Result {
        if (!bytes) return OK;
        if (Result code = copyable(INVALID_VALUE, kind, to, from, bytes)) return code;
        return synchronous(copying(kind, to, from, bytes, nullptr));
    });
}

Result copy_later(const char *function, Kind kind, Address to, Address from, size_t bytes, Handle stream) {
    return call(function, CONTEXT, [=]() -> Result {
        if (!bytes) return OK;
        if (Result code = copyable(INVALID_VALUE, kind, to, from, bytes)) return code;
        std::shared_ptr<std::vector<unsigned char>> kept;
        bool pageable = kind != DTOD && !pinned(kind == HTOD ? from : to, bytes);
        if (pageable) {
            // The driver copies pageable memory before it returns.
            if (Result code = capture_forbids(stream)) return code;
            if (kind == HTOD && state().settings.lazy)
                kept = std::make_shared<std::vector<unsigned char>>(pointer(from), pointer(from) + bytes);
        }
        Result code = submit(stream, copying(kind, to, from, bytes, kept));
        return code == OK && pageable && kind == DTOH ? drain() : code;
    });
}

Result fillable(Result code, Address to, size_t bytes) {
    if (there(to, bytes, nullptr)) return OK;
    return mistake(code, "%zu bytes to fill at %s", bytes, describe(to).c_str());
}

// `width` bytes of `value`, `n` times.
Result fill(const char *function, Address to, unsigned value, size_t width, size_t n, bool later, Handle stream) {
    return call(function, later ? CONTEXT : UNCAPTURED, [=]() -> Result {
        if (!n) return OK;
        if (to % width) return mistake(INVALID_VALUE, "an address that is not aligned to %zu", width);
        if (Result code = fillable(INVALID_VALUE, to, width * n)) return code;
        Work work{"memset " + std::to_string(width * n), [=] {
                      if (Result code = fillable(ILLEGAL_ADDRESS, to, width * n)) return code;
                      if (width == 1) memset(pointer(to), int(value), n);
                      else std::fill_n(reinterpret_cast<unsigned *>(to), n, value);
                      return Result(OK);
                  }};
        return later ? submit(stream, std::move(work)) : synchronous(std::move(work));
    });
}

Result allocate_host(const char *function, void **out, size_t bytes) {
    return call(function, UNCAPTURED, [=]() -> Result {
        if (!out || !bytes) return INVALID_VALUE;
        size_t size = up(bytes, page());
        void *pages = mmap(nullptr, size + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) return OUT_OF_MEMORY;
        mprotect(static_cast<char *>(pages) + size, page(), PROT_NONE);
        *out = static_cast<char *>(pages) + size - up(bytes, 64);
        host[address(*out)] = {bytes, pages, size + page()};
        log("alloc host %zu", bytes);
        return OK;
    });
}

}  // namespace

namespace standin {

bool of_device(Address at) { return range && at >= address(range) && at < address(range + range_size); }

bool there(Address at, size_t bytes, Handle context) {
    auto a = before(live, at);
    if (a == live.end() || (context && a->second.context != context)) return false;
    size_t offset = at - a->first;
    return offset <= a->second.bytes && bytes <= a->second.bytes - offset;
}

bool pinned(Address at, size_t bytes) {
    auto p = before(host, at);
    if (p == host.end()) return false;
    size_t offset = at - p->first;
    return offset <= p->second.bytes && bytes <= p->second.bytes - offset;
}

std::string describe(Address at) {
    char text[160];
    auto a = before(live, at);
    auto d = before(dead, at);
    if (at == 0) return "address 0";
    if (!of_device(at)) snprintf(text, sizeof text, "%#zx, which is no address of a device", size_t(at));
    else if (a != live.end() && (d == dead.end() || d->first < a->first)) {
        size_t offset = at - a->first, bytes = a->second.bytes;
        if (offset < bytes) snprintf(text, sizeof text, "byte %zu of an allocation of %zu bytes", offset, bytes);
        else snprintf(text, sizeof text, "%zu bytes behind the end of an allocation of %zu bytes", offset - bytes, bytes);
    } else if (d != dead.end() && at - d->first <= d->second)
        snprintf(text, sizeof text, "byte %zu of an allocation of %zu bytes that is freed", size_t(at - d->first),
                 d->second);
    else return "device memory that was never allocated";
    return text;
}

void release_memory_of(Handle context) {
    for (auto at = live.begin(); at != live.end();) {
        auto a = at++;
        if (a->second.context != context) continue;
        state().lost_allocations++;
        state().lost_bytes += a->second.bytes;
        release(a);
    }
}

size_t live_allocations() { return live.size() + state().lost_allocations; }
size_t live_bytes() { return state().bytes + state().lost_bytes; }
size_t host_allocations() { return host.size(); }

}  // namespace standin

API Result cuMemGetInfo_v2(size_t *free, size_t *total) {
    return call("cuMemGetInfo_v2", CONTEXT, [=] {
        if (!free || !total) return INVALID_VALUE;
        *total = state().settings.memory;
        *free = *total - device().used;
        return OK;
    });
}

API Result cuMemAlloc_v2(Address *out, size_t bytes) {
    return call("cuMemAlloc_v2", UNCAPTURED, [=]() -> Result {
        if (!out || !bytes) return INVALID_VALUE;
        State &s = state();
        Device &d = device();
        if (bytes > s.settings.memory - d.used) return OUT_OF_MEMORY;
        size_t size = up(bytes, page());
        unsigned char *pages = take(size);
        if (!pages) return OUT_OF_MEMORY;
        unsigned char *start = pages + size - up(bytes, ALIGNMENT);
        memset(pages, AROUND, size_t(start - pages));
        memset(start, NEW, std::min(bytes, FILLED));
        memset(start + bytes, AROUND, size_t(pages + size - (start + bytes)));
        live[address(start)] = {bytes, current(), s.contexts.find(current())->device, pages, size};
        d.used += bytes;
        s.bytes += bytes;
        s.peak_bytes = std::max(s.peak_bytes, s.bytes);
        log("alloc %zu", bytes);
        *out = address(start);
        return OK;
    });
}

API Result cuMemFree_v2(Address at) {
    return call("cuMemFree_v2", UNCAPTURED, [=]() -> Result {
        if (!at) return OK;
        auto a = live.find(at);
        if (a == live.end() || a->second.context != current())
            return mistake(INVALID_VALUE, "%s", describe(at).c_str());
        // Freeing waits for what may use it.
        if (Result code = drain()) return code;
        size_t bytes = a->second.bytes;
        log("free %zu", bytes);
        if (release(a)) return OK;
        return state().stuck = mistake(ILLEGAL_ADDRESS, "something wrote beside an allocation of %zu bytes", bytes);
    });
}

API Result cuMemAllocHost_v2(void **out, size_t bytes) { return allocate_host("cuMemAllocHost_v2", out, bytes); }
API Result cuMemHostAlloc(void **out, size_t bytes, unsigned) { return allocate_host("cuMemHostAlloc", out, bytes); }

API Result cuMemFreeHost(void *at) {
    return call("cuMemFreeHost", UNCAPTURED, [=]() -> Result {
        auto p = host.find(address(at));
        if (p == host.end() || !p->second.pages) return mistake(INVALID_VALUE, "no pinned memory starts there");
        if (Result code = drain()) return code;
        log("free host %zu", p->second.bytes);
        munmap(p->second.pages, p->second.size);
        host.erase(p);
        return OK;
    });
}

API Result cuMemHostRegister_v2(void *at, size_t bytes, unsigned) {
    return call("cuMemHostRegister_v2", UNCAPTURED, [=]() -> Result {
        if (!at || !bytes) return INVALID_VALUE;
        auto p = before(host, address(at) + bytes - 1);
        if (p != host.end() && p->first + p->second.bytes > address(at)) return ALREADY_REGISTERED;
        host[address(at)] = {bytes, nullptr, 0};
        return OK;
    });
}

API Result cuMemHostUnregister(void *at) {
    return call("cuMemHostUnregister", UNCAPTURED, [=]() -> Result {
        auto p = host.find(address(at));
        if (p == host.end() || p->second.pages) return NOT_REGISTERED;
        if (Result code = drain()) return code;
        host.erase(p);
        return OK;
    });
}

API Result cuMemHostGetDevicePointer_v2(Address *out, void *at, unsigned) {
    return call("cuMemHostGetDevicePointer_v2", CONTEXT, [=] {
        if (!out || !pinned(address(at), 1)) return INVALID_VALUE;
        *out = address(at);
        return OK;
    });
}

API Result cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
    return copy("cuMemcpyHtoD_v2", HTOD, to, address(from), bytes);
}
API Result cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    return copy("cuMemcpyDtoH_v2", DTOH, address(to), from, bytes);
}
API Result cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    return copy("cuMemcpyDtoD_v2", DTOD, to, from, bytes);
}
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) {
    return copy_later("cuMemcpyHtoDAsync_v2", HTOD, to, address(from), bytes, stream);
}
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) {
    return copy_later("cuMemcpyDtoHAsync_v2", DTOH, address(to), from, bytes, stream);
}
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) {
    return copy_later("cuMemcpyDtoDAsync_v2", DTOD, to, from, bytes, stream);
}

API Result cuMemsetD8_v2(Address to, unsigned char value, size_t n) {
    return fill("cuMemsetD8_v2", to, value, 1, n, false, nullptr);
}
API Result cuMemsetD8Async(Address to, unsigned char value, size_t n, Handle stream) {
    return fill("cuMemsetD8Async", to, value, 1, n, true, stream);
}
API Result cuMemsetD32_v2(Address to, unsigned value, size_t n) {
    return fill("cuMemsetD32_v2", to, value, 4, n, false, nullptr);
}
API Result cuMemsetD32Async(Address to, unsigned value, size_t n, Handle stream) {
    return fill("cuMemsetD32Async", to, value, 4, n, true, stream);
}
