// Functions of one number, with the operations and their order of the portable definition
// (kernels/src/ops/elementwise.rs, simd.rs), so that a GPU gives the same bits as the CPU.
#pragma once
#include "kernel.cuh"

// The second where one is a NaN.
DEVICE float greater(float a, float b) { return a > b ? a : b; }
DEVICE float lesser(float a, float b) { return a < b ? a : b; }

// 1.5 * 2^23: what is added and taken off again is rounded to an integer, ties to even; in between, the low bits
// are the integer in two's complement.
constexpr float ROUND = 12582912.0f;

// `p` and an integral `n` with e^x = p 2^n (Cephes `expf`).
DEVICE float exp_parts(float x, float &n) {
    n = fmaf(x, 1.44269504f, ROUND) - ROUND;
    float r = fmaf(n, -0.6933594f, x);
    r = fmaf(n, 2.1219444e-4f, r);
    float p = 1.9875692e-4f;
    p = fmaf(p, r, 1.3982e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 0.5f);
    return fmaf(p, r * r, r) + 1.0f;
}

// 2^n for an integral n of -126 to 127.
DEVICE float power_of_two(float n) { return float_of(u32(int(n) + 127) << 23); }

// e^x within 2 units in the last place; 0 below -104, infinite above 89, NaN for NaN.
DEVICE float exp_full(float x) {
    float n, p = exp_parts(lesser(89.0f, greater(-104.0f, x)), n);
    // In two factors that are no denormals; the first product is exact. A NaN has no exponent: `p` carries it.
    n = n == n ? n : 0.0f;
    float half = fmaf(n, 0.5f, ROUND) - ROUND;
    return p * power_of_two(half) * power_of_two(n - half);
}

// `exp_full` where a result of less than e^-87 or more than e^88 may be that: it is added to 1, or divides.
DEVICE float exp_within(float x) {
    float n, p = exp_parts(lesser(88.0f, greater(-87.0f, x)), n);
    return p * power_of_two(n == n ? n : 0.0f);
}

// 2^x within 2 units in the last place for x of 0 or less; 0 below -126, NaN for NaN.
DEVICE float exp2_of_negative(float x) {
    constexpr float shift = 12582912.0f + 127.0f;
    float shifted = x + shift, r = x - (shifted - shift);
    float p = 1.5353362e-4f;
    p = fmaf(p, r, 1.3398875e-3f);
    p = fmaf(p, r, 9.618437e-3f);
    p = fmaf(p, r, 5.5503324e-2f);
    p = fmaf(p, r, 2.4022648e-1f);
    p = fmaf(p, r, 6.931472e-1f);
    p = fmaf(p, r, 1.0f);
    return x < -126.0f ? 0.0f : p * float_of(bits_of(shifted) << 23);
}

// What a feed-forward network applies to its gate.
enum Activation { SILU = 0, GELU_TANH = 1, GELU_ERF = 2, RELU = 3, RELU_SQUARED = 4 };

DEVICE float activate(int activation, float x) {
    switch (activation) {
    case SILU: return __fdiv_rn(x, 1.0f + exp_within(0.0f - x));
    case GELU_TANH: {
        // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
        float cubic = fmaf(x * x * x, 0.044715f, x);
        return __fdiv_rn(x, 1.0f + exp_within(cubic * -1.595769f));
    }
    case GELU_ERF: {
        // Abramowitz and Stegun 7.1.26: erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2), t = 1 / (1 + p z).
        float z = fabsf(x) * 0.70710678f, t = __fdiv_rn(1.0f, fmaf(z, 0.3275911f, 1.0f));
        float p = 1.0614054f;
        p = fmaf(p, t, -1.453152f);
        p = fmaf(p, t, 1.4214137f);
        p = fmaf(p, t, -0.28449674f);
        p = fmaf(p, t, 0.2548296f);
        float tail = p * t * exp_within(0.0f - z * z);
        return greater(0.0f, x) - fabsf(x) * 0.5f * tail;
    }
    case RELU: return greater(0.0f, x);
    default: {
        float v = greater(0.0f, x);
        return v * v;
    }
    }
}

// cap * tanh(v / cap) = cap - 2 cap / (1 + e^(2 v / cap)).
DEVICE float soft_cap(float v, float cap) {
    float e = exp_within(__fdiv_rn(v, cap) * 2.0f);
    return cap - __fdiv_rn(2.0f * cap, 1.0f + e);
}
// The same for scores of attention.
DEVICE float soft_cap_score(float v, float cap) {
    float e = exp_full(__fdiv_rn(v, cap) * 2.0f);
    return (cap - __fdiv_rn(2.0f * cap, 1.0f + e)) * 1.44269504f;
}
