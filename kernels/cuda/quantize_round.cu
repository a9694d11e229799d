// Floats to blocks of the formats that round, for a build: the bytes of kernels/src/quantize/round.rs.
//
//   x    values, all finite (the host has looked), a whole number of blocks of 32
//   out  the blocks as in a GGUF file
//
// Grid (ceil(blocks / 64)), blocks of 64 threads: a thread has a block. Values come through shared memory, rows of 33
// floats, so that memory is read in lines and no column meets a bank twice. A block's few bytes are written one by one:
// the bus to the host brings values at a hundredth of what this takes.
#include "kernel.cuh"

constexpr int THREADS = 64;

// A value without its fraction. Only a scale that is no normal number makes it leave +-256 or be NaN: that gives 0.
DEVICE int truncate(float v) { return fabsf(v) < 256.0f ? int(v) : 0; }
DEVICE float inverse_of(float d) { return d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d); }
DEVICE int level(float v, float origin, float factor, float offset, int top) {
    return u8(least(truncate((v - origin) * factor + offset), top));
}
DEVICE void put_half(u8 *at, float v) {
    f16 h = f32_to_f16(v);
    at[0] = u8(h & 0xff);
    at[1] = u8(h >> 8);
}

// How a format's levels begin in a block, and what they are.
struct Q8_0 {
    static constexpr int BYTES = 34;
};
struct Q4_0 {
    static constexpr int BYTES = 18, BITS = 4;
    static constexpr bool AFFINE = false;
};
struct Q4_1 {
    static constexpr int BYTES = 20, BITS = 4;
    static constexpr bool AFFINE = true;
};
struct Q5_0 {
    static constexpr int BYTES = 22, BITS = 5;
    static constexpr bool AFFINE = false;
};
struct Q5_1 {
    static constexpr int BYTES = 24, BITS = 5;
    static constexpr bool AFFINE = true;
};

// The number of greatest magnitude, the first of several.
DEVICE float extreme(const float *x) {
    float found = 0.0f, magnitude = 0.0f;
    for (int i = 0; i < 32; i++)
        if (magnitude < fabsf(x[i])) {
            magnitude = fabsf(x[i]);
            found = x[i];
        }
    return found;
}

DEVICE void pack(Q8_0, const float *x, u8 *out) {
    float d = __fdiv_rn(fabsf(extreme(x)), 127.0f), factor = inverse_of(d);
    put_half(out, d);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * factor;
        // The greatest number below a half: adding a half itself would lift 0.49999997 to 1.
        out[2 + i] = u8(truncate(v + (bits_of(v) >> 31 ? -0.49999997f : 0.49999997f)));
    }
}

template <class F>
DEVICE void pack(F, const float *x, u8 *out) {
    float origin = 0.0f, factor, offset;
    int top = (1 << F::BITS) - 1;
    if (F::AFFINE) {
        float low = 3.40282347e38f, high = -3.40282347e38f;
        for (int i = 0; i < 32; i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
        }
        float d = __fdiv_rn(high - low, float(top));
        put_half(out, d);
        put_half(out + 2, low);
        origin = low;
        factor = inverse_of(d);
        offset = 0.5f;
    } else {
        float half = float(1 << (F::BITS - 1)), d = __fdiv_rn(extreme(x), -half);
        put_half(out, d);
        factor = inverse_of(d);
        offset = half + 0.5f;
    }
    u8 *to = out + (F::AFFINE ? 4 : 2);
    u32 fifth = 0;
    u8 *nibbles = to + (F::BITS == 5 ? 4 : 0);
    for (int i = 0; i < 16; i++) {
        int a = level(x[i], origin, factor, offset, top), b = level(x[i + 16], origin, factor, offset, top);
        nibbles[i] = u8((a & 15) | b << 4);
        fifth |= u32(a >> 4 & 1) << i | u32(b >> 4 & 1) << (i + 16);
    }
    if (F::BITS == 5)
        for (int i = 0; i < 4; i++) to[i] = u8(fifth >> (8 * i));
}

template <class F>
DEVICE void quantize(const float *x, u8 *out, int blocks) {
    __shared__ float room[THREADS * 33];
    int first = blockIdx.x * THREADS, count = least(blocks - first, THREADS);
    for (int i = thread(); i < count * 32; i += THREADS) room[i / 32 * 33 + i % 32] = x[size_t(first) * 32 + i];
    __syncthreads();
    if (thread() < count) pack(F(), room + thread() * 33, out + size_t(first + thread()) * F::BYTES);
}

#define QUANTIZE(name, F)                                                                     \
    KERNEL(64, 8, quantize_to_##name, const float *x, u8 *out, int blocks) { quantize<F>(x, out, blocks); }
QUANTIZE(q8_0, Q8_0)
QUANTIZE(q4_0, Q4_0)
QUANTIZE(q4_1, Q4_1)
QUANTIZE(q5_0, Q5_0)
QUANTIZE(q5_1, Q5_1)
