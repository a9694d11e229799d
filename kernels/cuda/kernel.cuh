// What every kernel is written with: short names of integers, the form of an entry point, lanes and warps.
//
// The same files compile in two ways: by NVRTC for a GPU, and by a C++ compiler as ordinary functions
// (kernels/tests/cuda/shim.h), where tests compare each with its portable definition.
//
// Arithmetic: everything is compiled without contraction (`--fmad=false`), so `a * b + c` is rounded twice and
// `fmaf` once, here as on the CPU. Division and square root are those of IEEE 754.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#ifndef MDL_SHIM
// An entry point: threads of a block at most, blocks that must fit on a multiprocessor, name, parameters.
#define KERNEL(threads, blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
// A function, and one of a struct.
#define DEVICE __device__ __forceinline__
#define METHOD __device__ __forceinline__
// Shared memory whose size the launch says.
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(dynamic_shared)
#endif

// Threads of a warp.
constexpr int WARP = 32;
// All of them.
constexpr u32 ALL = 0xffffffffu;

// Half precision as stored, and bfloat16.
typedef u16 f16;
typedef u16 bf16;

#include "ptx.cuh"

DEVICE u32 bits_of(float v) { return __float_as_uint(v); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE float bf16_to_f32(bf16 v) { return float_of(u32(v) << 16); }
DEVICE float not_a_number() { return float_of(0x7fc00000u); }

template <class T>
DEVICE T least(T a, T b) { return b < a ? b : a; }
template <class T>
DEVICE T most(T a, T b) { return a < b ? b : a; }
DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The thread's number in its block, which is a row of threads.
DEVICE int thread() { return threadIdx.x; }
DEVICE int lane() { return threadIdx.x % WARP; }
DEVICE int warp() { return threadIdx.x / WARP; }

// What a kernel of a step begins with; those that read weights ask for them in between.
DEVICE void begin() {
    let_next_begin();
    wait_for_inputs();
}

// A load of what a kernel before has written: an ordinary one. Such a kernel may still run when this one begins, and
// loads by the read-only path (`__ldg`, `load_once`) are for what nobody writes meanwhile: weights.
template <class T>
DEVICE T load(const T *at) { return *at; }

// The greatest of the lanes' values, in every lane.
DEVICE u32 warp_most(u32 v) {
    for (int step = WARP / 2; step > 0; step /= 2) v = most(v, __shfl_xor_sync(ALL, v, step));
    return v;
}

// The sum of the lanes' values, in every lane.
DEVICE int warp_sum(int v) {
    for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(ALL, v, step);
    return v;
}
