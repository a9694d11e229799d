// A GPU of one thread: kernels/cuda/*.cu compiled as C++17, blocks one after the other, the threads of a block as
// fibers that change at barriers, shuffles and matrix instructions.
//
// It is strict where a GPU is not: a barrier or a warp's instruction that not all threads reach at the same place,
// a mask that is not the whole warp, a block that is no whole number of warps or larger than the kernel's bound,
// arguments of other sizes than the kernel's are errors. Threads run from the first to the last or the other way
// round, so that a missing barrier shows in the results. Buffers and dynamic shared memory end at memory that
// cannot be touched.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#define MDL_SHIM 1
#define DEVICE static inline
#define METHOD inline
#define __shared__ static
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(shim::dynamic_shared())
#define KERNEL(threads, blocks, name, ...)                                              \
    extern "C" void name(__VA_ARGS__);                                                  \
    static shim::Register register_##name(#name, threads, name);                        \
    extern "C" void name(__VA_ARGS__)

struct uint2 { unsigned x, y; } __attribute__((aligned(8)));
struct uint4 { unsigned x, y, z, w; } __attribute__((aligned(16)));
struct int2 { int x, y; } __attribute__((aligned(8)));
struct int4 { int x, y, z, w; } __attribute__((aligned(16)));
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
struct dim3 { unsigned x, y, z; };

static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace shim {

// One thread of the block that runs.
struct Thread {
    void *stack_pointer;
    dim3 index;
    unsigned number;
    // Instructions of its warp, and barriers of its block, that it has reached.
    unsigned warp_steps, barriers;
    bool done, at_barrier;
};

// What lanes show each other at an instruction of the warp, by the parity of the instruction's number.
struct Warp {
    uint32_t words[2][32][12];
    int places[2][32];
    // How often lanes have come to an instruction of the warp.
    unsigned arrivals;
};

extern dim3 block_index, block_size, grid_size;
extern Thread *current;

unsigned char *dynamic_shared();
// Where this lane puts what it shows at its warp's next instruction.
uint32_t *show();
// Waits for the other lanes of the warp at the same place; what they show then.
uint32_t (*meet(int operation, int line))[12];
// Waits for the other threads of the block.
void barrier(int line);
[[noreturn]] void fail(const char *what, int line);

// A kernel's entry: calls it with arguments that are given by address.
typedef void (*Entry)(void *function, void **arguments);

struct Register {
    template <class... A>
    Register(const char *name, int threads, void (*function)(A...)) {
        static const size_t sizes[] = {sizeof(A)...};
        add(name, threads, reinterpret_cast<void *>(function), call<A...>, sizes, sizeof...(A));
    }
    template <class... A, size_t... I>
    static void call_with(void (*function)(A...), void **arguments, std::index_sequence<I...>) {
        function(*static_cast<A *>(arguments[I])...);
    }
    template <class... A>
    static void call(void *function, void **arguments) {
        call_with(reinterpret_cast<void (*)(A...)>(function), arguments, std::index_sequence_for<A...>());
    }
    static void add(const char *, int, void *, Entry, const size_t *, size_t);
};

}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

#include "shim_warp.h"
