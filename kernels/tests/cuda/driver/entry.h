// Included before each kernel by the build of the stand-in driver: entry points are the shim's, and are noted with
// which of their parameters are addresses.
#pragma once

#include "../shim.h"

#include <type_traits>

namespace standin {

struct Note {
    template <class... A>
    Note(const char *name, int threads, void (*)(A...)) {
        static const size_t sizes[] = {sizeof(A)...};
        static const bool addresses[] = {std::is_pointer<A>::value...};
        note(name, threads, sizes, addresses, sizeof...(A));
    }
    static void note(const char *name, int threads, const size_t *sizes, const bool *addresses, size_t count);
};

}  // namespace standin

#undef KERNEL
#define KERNEL(threads, blocks, name, ...)                       \
    extern "C" void name(__VA_ARGS__);                           \
    static shim::Register register_##name(#name, threads, name); \
    static standin::Note note_##name(#name, threads, name);      \
    extern "C" void name(__VA_ARGS__)
