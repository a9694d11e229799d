// Floats to Q4_K, Q5_K and Q6_K for a build, without an importance matrix: the bytes of kernels/src/quantize (search.rs,
// pack.rs), which are ggml's: every sum in order, no fused multiply-add, ties as there.
//
//   x    values, all finite, a whole number of superblocks of 256
//   out  the superblocks as in a GGUF file
//
// Grid (ceil(superblocks / 8)), blocks of 64 threads (Q4_K, Q5_K: eight sub-blocks of 32 each) or 128 (Q6_K: sixteen of
// 16): a thread searches a sub-block, whose values it has in shared memory at a stride that meets no bank twice; then
// the threads of a superblock quantize its scales, each for itself, and their own levels. About 21 candidates of a
// dozen operations a value: 8 billion parameters are a second of an H200, less than the bus takes.
#include "number.cuh"

constexpr int SUPERBLOCKS = 8;
// Below this magnitude a sub-block counts as zero.
constexpr float ZERO = 1e-15f;

// The nearest integer, ties to even; outside +-2^22 whatever the bits then say.
DEVICE int nearest(float v) { return int(bits_of(v + ROUND) & 0x7fffff) - 0x400000; }
// `nearest`, within low and high, of values within +-2^22 or NaN (which gives low).
DEVICE float limited(float v, float low, float high) { return lesser(greater(v + ROUND, ROUND + low), ROUND + high) - ROUND; }
DEVICE int clamp(int v, int low, int high) { return most(low, least(v, high)); }

// What a search finds: the levels are the nearest integers to `inverse * (x - origin)`.
struct Fit {
    float scale, min, inverse, origin;
};

// x ~ scale * level + min with levels of 0 to TOP and a minimum that is not positive: the fit of least weighted squares
// among candidates that stretch the range, from the minimum found so far.
template <int TOP>
DEVICE Fit affine(const float *x, float first, int steps) {
    constexpr int LEN = 32;
    float squares = 0.0f;
    for (int i = 0; i < LEN; i++) squares = squares + x[i] * x[i];
    float rms = __fsqrt_rn(__fdiv_rn(squares, float(LEN)));
    auto weight = [&](int i) { return rms + fabsf(x[i]); };
    float lowest = x[0], highest = x[0], sum_w = weight(0), sum_x = sum_w * x[0];
    for (int i = 1; i < LEN; i++) {
        lowest = lesser(x[i], lowest);
        highest = greater(x[i], highest);
        sum_w = sum_w + weight(i);
        sum_x = sum_x + weight(i) * x[i];
    }
    float min = lesser(0.0f, lowest);
    bool flat = highest == min;
    auto level = [&](int i, float inverse, float origin) {
        return lesser(greater(float(nearest(inverse * (x[i] - origin))), 0.0f), float(TOP));
    };
    auto difference = [&](float inverse, float origin, float scale, float min) {
        float sum = 0.0f;
        for (int i = 0; i < LEN; i++) {
            float d = scale * level(i, inverse, origin) + min - x[i];
            sum = sum + weight(i) * (d * d);
        }
        return sum;
    };
    float inverse = __fdiv_rn(float(TOP), flat ? 1.0f : highest - min);
    Fit best{__fdiv_rn(1.0f, inverse), min, inverse, min};
    float smallest = difference(inverse, min, best.scale, min);
#pragma unroll 1
    for (int k = 0; k <= steps; k++) {
        float stretched = first + 0.1f * float(k) + float(TOP), origin = best.min;
        float inverse = __fdiv_rn(stretched, flat ? 1.0f : highest - origin);
        float sum_l = 0.0f, sum_l2 = 0.0f, sum_xl = 0.0f;
        for (int i = 0; i < LEN; i++) {
            float l = level(i, inverse, origin), wl = weight(i) * l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l;
            sum_xl = sum_xl + wl * x[i];
        }
        float determinant = sum_w * sum_l2 - sum_l * sum_l;
        float scale = __fdiv_rn(sum_w * sum_xl - sum_x * sum_l, determinant);
        float min = __fdiv_rn(sum_l2 * sum_x - sum_l * sum_xl, determinant);
        if (0.0f < min) {
            scale = __fdiv_rn(sum_xl, sum_l2);
            min = 0.0f;
        }
        float error = difference(inverse, origin, scale, min);
        if (0.0f < determinant && error < smallest) {
            smallest = error;
            best = Fit{scale, min, inverse, origin};
        }
    }
    if (flat) best.scale = best.inverse = 0.0f;
    return best;
}

// x ~ scale * level with levels of -32 to 31, weighted by squares.
DEVICE Fit symmetric(const float *x) {
    constexpr int LEN = 16;
    constexpr float half = 32.0f;
    float extreme = 0.0f, magnitude = 0.0f;
    for (int i = 0; i < LEN; i++)
        if (magnitude < fabsf(x[i])) {
            magnitude = fabsf(x[i]);
            extreme = x[i];
        }
    if (magnitude < ZERO) return Fit{0.0f, 0.0f, 0.0f, 0.0f};
    float sum_lx, sum_l2;
    auto moments = [&](float inverse) {
        sum_lx = sum_l2 = 0.0f;
        for (int i = 0; i < LEN; i++) {
            float l = limited(inverse * x[i], -half, half - 1.0f), w = x[i] * x[i];
            sum_lx = sum_lx + w * x[i] * l;
            sum_l2 = sum_l2 + w * l * l;
        }
    };
    Fit best{0.0f, 0.0f, __fdiv_rn(-half, extreme), 0.0f};
    moments(best.inverse);
    best.scale = sum_l2 == 0.0f ? 0.0f : __fdiv_rn(sum_lx, sum_l2);
    float greatest = best.scale * sum_lx;
#pragma unroll 1
    for (int tenths = -9; tenths <= 9; tenths++) {
        if (tenths == 0) continue;
        float inverse = __fdiv_rn(-(half + 0.1f * float(tenths)), extreme);
        moments(inverse);
        if (0.0f < sum_l2 && greatest * sum_l2 < sum_lx * sum_lx) {
            best.scale = __fdiv_rn(sum_lx, sum_l2);
            best.inverse = inverse;
            greatest = best.scale * sum_lx;
        }
    }
    return best;
}

// Brings the superblocks of a block into shared memory, sub-blocks `len` + 1 floats apart.
DEVICE void bring(float *room, const float *x, int first, int superblocks, int len) {
    int count = least(superblocks - first, SUPERBLOCKS) * 256;
    for (int i = thread(); i < SUPERBLOCKS * 256; i += blockDim.x)
        room[i / len * (len + 1) + i % len] = i < count ? x[size_t(first) * 256 + i] : 0.0f;
    __syncthreads();
}

// The scales of a superblock, none of them negative, as d * level: the greatest at 63. Level j.
DEVICE int scale_level(const float *scales, int j, f16 &d) {
    float top = 0.0f;
    for (int i = 0; i < 8; i++) top = greater(scales[i], top);
    float inverse = top > 0.0f ? __fdiv_rn(63.0f, top) : 0.0f;
    d = f32_to_f16(__fdiv_rn(top, 63.0f));
    return least(int(u8(nearest(inverse * scales[j]))), 63);
}

// TOP of 15 is Q4_K, of 31 Q5_K.
template <int TOP>
DEVICE void quantize_affine(const float *x, u8 *out, int superblocks, float start, int steps) {
    constexpr int LEN = 32, BYTES = TOP == 15 ? 144 : 176;
    __shared__ float room[SUPERBLOCKS * 8 * (LEN + 1)], scales[SUPERBLOCKS][8], minima[SUPERBLOCKS][8];
    __shared__ u8 levels[SUPERBLOCKS][256], scale_levels[SUPERBLOCKS][16];
    int first = blockIdx.x * SUPERBLOCKS, block = thread() / 8, j = thread() % 8;
    bring(room, x, first, superblocks, LEN);
    const float *own = room + thread() * (LEN + 1);
    Fit fit = affine<TOP>(own, start, steps);
    scales[block][j] = fit.scale;
    minima[block][j] = -fit.min;
    __syncthreads();
    f16 d, dmin;
    int scale_at = scale_level(scales[block], j, d), min_at = scale_level(minima[block], j, dmin);
    float scale = f16_to_f32(d) * float(scale_at), min = f16_to_f32(dmin) * float(min_at);
    for (int i = 0; i < LEN; i++) {
        float v = scale == 0.0f ? fit.inverse * (own[i] - fit.origin) : __fdiv_rn(own[i] + min, scale);
        levels[block][32 * j + i] = u8(clamp(nearest(v), 0, TOP));
    }
    scale_levels[block][j] = u8(scale_at);
    scale_levels[block][8 + j] = u8(min_at);
    __syncthreads();
    if (first + block >= superblocks) return;
    u8 *to = out + size_t(first + block) * BYTES;
    const u8 *s = scale_levels[block], *m = s + 8;
    if (j == 0) {
        to[0] = u8(d & 0xff), to[1] = u8(d >> 8), to[2] = u8(dmin & 0xff), to[3] = u8(dmin >> 8);
        for (int i = 0; i < 4; i++) {
            to[4 + i] = u8(s[i] | s[i + 4] >> 4 << 6);
            to[8 + i] = u8(m[i] | m[i + 4] >> 4 << 6);
            to[12 + i] = u8((s[i + 4] & 15) | m[i + 4] << 4);
        }
    }
    // Sixteen bytes of nibbles, four of fifth bits.
    for (int k = 16 * j; k < 16 * j + 16; k++) {
        const u8 *from = levels[block] + k / 32 * 64 + k % 32;
        to[BYTES - 128 + k] = u8((from[0] & 15) | from[32] << 4);
    }
    if (TOP == 31)
        for (int l = 4 * j; l < 4 * j + 4; l++) {
            int bits = 0;
            for (int part = 0; part < 8; part++) bits |= (levels[block][32 * part + l] >> 4 & 1) << part;
            to[16 + l] = u8(bits);
        }
}

KERNEL(64, 4, quantize_to_q4_k, const float *x, u8 *out, int superblocks) {
    quantize_affine<15>(x, out, superblocks, -1.0f, 20);
}
KERNEL(64, 4, quantize_to_q5_k, const float *x, u8 *out, int superblocks) {
    quantize_affine<31>(x, out, superblocks, -0.5f, 15);
}

KERNEL(128, 4, quantize_to_q6_k, const float *x, u8 *out, int superblocks) {
    constexpr int LEN = 16;
    __shared__ float room[SUPERBLOCKS * 16 * (LEN + 1)], scales[SUPERBLOCKS][16];
    __shared__ u8 levels[SUPERBLOCKS][256];
    int first = blockIdx.x * SUPERBLOCKS, block = thread() / 16, j = thread() % 16;
    bring(room, x, first, superblocks, LEN);
    const float *own = room + thread() * (LEN + 1);
    Fit fit = symmetric(own);
    scales[block][j] = fit.scale;
    __syncthreads();
    float extreme = 0.0f, magnitude = 0.0f;
    for (int i = 0; i < 16; i++)
        if (magnitude < fabsf(scales[block][i])) {
            magnitude = fabsf(scales[block][i]);
            extreme = scales[block][i];
        }
    bool empty = magnitude < ZERO;
    float inverse = __fdiv_rn(-128.0f, extreme);
    f16 d = f32_to_f16(__fdiv_rn(1.0f, inverse));
    int scale_at = empty ? 0 : i8(least(nearest(inverse * fit.scale), 127));
    float scale = f16_to_f32(d) * float(scale_at);
    for (int i = 0; i < LEN; i++) {
        int l = 0;
        if (empty || (scale == 0.0f && fit.inverse == 0.0f)) l = 0;
        else l = clamp(nearest(scale == 0.0f ? fit.inverse * own[i] : __fdiv_rn(own[i] + 0.0f, scale)), -32, 31) + 32;
        levels[block][LEN * j + i] = u8(l);
    }
    __syncthreads();
    if (first + block >= superblocks) return;
    u8 *to = out + size_t(first + block) * 210;
    const u8 *l = levels[block];
    for (int k = 8 * j; k < 8 * j + 8; k++) to[k] = u8((l[k / 64 * 128 + k % 64] & 15) | l[k / 64 * 128 + k % 64 + 64] << 4);
    for (int k = 4 * j; k < 4 * j + 4; k++) {
        const u8 *from = l + k / 32 * 128 + k % 32;
        to[128 + k] = u8((from[0] >> 4 & 3) | (from[32] >> 4 & 3) << 2 | (from[64] >> 4 & 3) << 4 | (from[96] >> 4 & 3) << 6);
    }
    to[192 + j] = u8(scale_at);
    if (j == 0) {
        to[208] = empty ? 0 : u8(d & 0xff);
        to[209] = empty ? 0 : u8(d >> 8);
    }
}
