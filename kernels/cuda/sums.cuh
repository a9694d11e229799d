// Sums over a column in the order of kernels/src/ops/norm.rs: value i goes to sum i % 64, each sum in order; then the
// 64 sums are added in halves.
#pragma once
#include "kernel.cuh"

DEVICE float scale_of(float squares, int n, float epsilon) {
    return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(squares, float(n)) + epsilon));
}

template <bool SQUARES>
DEVICE float add_value(float sum, float v) { return SQUARES ? fmaf(v, v, sum) : sum + v; }

// The sum of `first` (of values i % 64 == lane) and `second` (i % 64 == lane + 32) over the warp, in every lane.
DEVICE float add_lanes(float first, float second) {
    float sum = first + second;
    for (int step = WARP / 2; step > 0; step /= 2) sum = sum + __shfl_xor_sync(ALL, sum, step);
    return sum;
}

// The sum of the values, or of their squares, that a block of at least 64 threads finds at `x`; in every thread.
template <bool SQUARES>
DEVICE float block_sum(const float *x, int n) {
    __shared__ float sums[65];
    if (thread() < 64) {
        float sum = 0.0f;
#pragma unroll 8
        for (int i = thread(); i < n; i += 64) sum = add_value<SQUARES>(sum, x[i]);
        sums[thread()] = sum;
    }
    __syncthreads();
    if (warp() == 0) {
        float sum = add_lanes(sums[lane()], sums[lane() + 32]);
        if (lane() == 0) sums[64] = sum;
    }
    __syncthreads();
    return sums[64];
}

// The same by a warp, for a few values.
template <bool SQUARES>
DEVICE float warp_sum_of(const float *x, int n) {
    float first = 0.0f, second = 0.0f;
    for (int i = lane(); i < n; i += 64) {
        first = add_value<SQUARES>(first, x[i]);
        if (i + 32 < n) second = add_value<SQUARES>(second, x[i + 32]);
    }
    return add_lanes(first, second);
}
