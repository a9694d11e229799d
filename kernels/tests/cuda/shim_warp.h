// What instructions do on the machine of shim.h: those of a thread, of a warp, of the matrix units.
#pragma once

typedef unsigned short shim_half;

static inline unsigned __float_as_uint(float v) { unsigned out; memcpy(&out, &v, 4); return out; }
static inline float __uint_as_float(unsigned v) { float out; memcpy(&out, &v, 4); return out; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }

static inline float f16_to_f32(shim_half h) {
    // Moves the exponent's bias by a multiplication, which also normalises denormals.
    unsigned magnitude = h & 0x7fffu, sign = unsigned(h & 0x8000u) << 16;
    float value = __uint_as_float(magnitude << 13) * __uint_as_float((127u + 112u) << 23);
    return __uint_as_float(__float_as_uint(value) | (magnitude >= 0x7c00 ? 0x7f800000u : 0) | sign);
}

static inline shim_half f32_to_f16(float v) {
    unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return shim_half(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) return shim_half(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // A denormal: the sum rounds at the last place of one, ties to even.
        float sum = __uint_as_float(magnitude) + __uint_as_float(126u << 23);
        return shim_half(sign | (__float_as_uint(sum) - (126u << 23)));
    }
    unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return shim_half(sign | ((rounded - (112u << 23)) >> 13));
}

static inline shim_half shim_bf16(float v) {
    unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return shim_half(0x7fff);
    return shim_half((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline unsigned pack_f16(float low, float high) { return f32_to_f16(low) | unsigned(f32_to_f16(high)) << 16; }
static inline unsigned pack_bf16(float low, float high) { return shim_bf16(low) | unsigned(shim_bf16(high)) << 16; }
static inline float exp2_fast(float x) { return exp2f(x); }

template <class T>
static inline T load_once(const T *at) { return *at; }

template <class T>
static inline T __ldcg(const T *at) { return *at; }

// The four bytes that the selectors (three bits each; the fourth repeats a sign) take out of eight.
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
    uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selectors >> (4 * i) & 15, byte = unsigned(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}

static inline int shim_dot(unsigned a, unsigned b) {
    int sum = 0;
    for (int i = 0; i < 4; i++) sum += int(int8_t(a >> (8 * i))) * int(int8_t(b >> (8 * i)));
    return sum;
}
static inline int __dp4a(int a, int b, int sum) { return sum + shim_dot(unsigned(a), unsigned(b)); }

static inline unsigned atomicAdd(unsigned *at, unsigned v) { unsigned old = *at; *at += v; return old; }
static inline int atomicAdd(int *at, int v) { int old = *at; *at += v; return old; }
static inline unsigned atomicMax(unsigned *at, unsigned v) { unsigned old = *at; *at = old < v ? v : old; return old; }
static inline int atomicOr(int *at, int v) { int old = *at; *at |= v; return old; }

namespace shim {

enum Operation { SYNC, SHUFFLE, VOTE, MMA_I8_K32, MMA_I8_K16, MMA_F16, MMA_BF16, MATRICES, TRANSPOSED };

static inline int lane_of_current() { return current->number % 32; }

static inline void whole(unsigned mask, int line) {
    if (mask != 0xffffffffu) fail("a mask that is not the whole warp", line);
}

template <class T>
static inline T shuffle(T v, int from, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves words");
    memcpy(show(), &v, sizeof(T));
    T out;
    memcpy(&out, meet(SHUFFLE, line)[from], sizeof(T));
    return out;
}

}  // namespace shim

static inline void __syncthreads(int line = __builtin_LINE()) { shim::barrier(line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    shim::meet(shim::SYNC, line);
}
static inline void __threadfence() {}
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int from, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    return shim::shuffle(v, from & 31, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int with, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    return shim::shuffle(v, (shim::lane_of_current() ^ with) & 31, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    int from = shim::lane_of_current() - int(by);
    return shim::shuffle(v, from < 0 ? shim::lane_of_current() : from, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    int from = shim::lane_of_current() + int(by);
    return shim::shuffle(v, from > 31 ? shim::lane_of_current() : from, line);
}
static inline unsigned __ballot_sync(unsigned mask, int v, int line = __builtin_LINE()) {
    shim::whole(mask, line);
    shim::show()[0] = v != 0;
    auto words = shim::meet(shim::VOTE, line);
    unsigned out = 0;
    for (int i = 0; i < 32; i++) out |= words[i][0] << i;
    return out;
}
static inline int __any_sync(unsigned mask, int v, int line = __builtin_LINE()) { return __ballot_sync(mask, v, line) != 0; }
static inline int __all_sync(unsigned mask, int v, int line = __builtin_LINE()) {
    return __ballot_sync(mask, v, line) == 0xffffffffu;
}

// Fragments: of lane l, g = l / 4 and t = l % 4. A row of `a` and a column of `b` are spread over the four lanes of
// their g.
static inline void mma_i8_k32(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1,
                              int line = __builtin_LINE()) {
    unsigned mine[] = {a0, a1, a2, a3, b0, b1};
    memcpy(shim::show(), mine, sizeof mine);
    auto words = shim::meet(shim::MMA_I8_K32, line);
    int g = shim::lane_of_current() / 4, t = shim::lane_of_current() % 4;
    for (int i = 0; i < 4; i++) {
        int row = g, high = i / 2, column = 2 * t + i % 2;
        for (int k = 0; k < 4; k++) {
            c[i] += shim_dot(words[row * 4 + k][high], words[column * 4 + k][4]);
            c[i] += shim_dot(words[row * 4 + k][2 + high], words[column * 4 + k][5]);
        }
    }
}
static inline void mma_i8_k16(int (&c)[4], unsigned a0, unsigned a1, unsigned b0, int line = __builtin_LINE()) {
    unsigned mine[] = {a0, a1, b0};
    memcpy(shim::show(), mine, sizeof mine);
    auto words = shim::meet(shim::MMA_I8_K16, line);
    int g = shim::lane_of_current() / 4, t = shim::lane_of_current() % 4;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) c[i] += shim_dot(words[g * 4 + k][i / 2], words[(2 * t + i % 2) * 4 + k][2]);
}

// Products are exact in float32; the order of the unit's sum is not defined, here it is that of the values.
template <class Widen>
static inline void shim_mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, int operation, int line,
                            Widen widen) {
    unsigned mine[] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(shim::show(), mine, sizeof mine);
    auto words = shim::meet(operation, line);
    int g = shim::lane_of_current() / 4, t = shim::lane_of_current() % 4;
    for (int i = 0; i < 4; i++) {
        float sum = c[i];
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 8; k++) {
                unsigned x = words[g * 4 + k / 2][2 * half + i / 2], y = words[(2 * t + i % 2) * 4 + k / 2][4 + half];
                sum += widen(shim_half(x >> (16 * (k % 2)))) * widen(shim_half(y >> (16 * (k % 2))));
            }
        c[i] = sum;
    }
}
static inline void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, int line = __builtin_LINE()) {
    shim_mma(c, a, b0, b1, shim::MMA_F16, line, [](shim_half v) { return f16_to_f32(v); });
}
static inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, int line = __builtin_LINE()) {
    shim_mma(c, a, b0, b1, shim::MMA_BF16, line, [](shim_half v) { return __uint_as_float(unsigned(v) << 16); });
}

static inline void shim_matrices(unsigned (&r)[4], const void *row, bool transposed, int line) {
    if (reinterpret_cast<uintptr_t>(row) % 16) shim::fail("a row of a matrix that is not aligned", line);
    memcpy(shim::show(), &row, sizeof row);
    auto words = shim::meet(transposed ? shim::TRANSPOSED : shim::MATRICES, line);
    int g = shim::lane_of_current() / 4, t = shim::lane_of_current() % 4;
    for (int m = 0; m < 4; m++) {
        r[m] = 0;
        for (int i = 0; i < 2; i++) {
            const shim_half *from;
            memcpy(&from, words[8 * m + (transposed ? 2 * t + i : g)], sizeof from);
            r[m] |= unsigned(from[transposed ? g : 2 * t + i]) << (16 * i);
        }
    }
}
static inline void load_matrices(unsigned (&r)[4], const void *row, int line = __builtin_LINE()) {
    shim_matrices(r, row, false, line);
}
static inline void load_matrices_transposed(unsigned (&r)[4], const void *row, int line = __builtin_LINE()) {
    shim_matrices(r, row, true, line);
}

// A copy is done at once, so what is read before the wait shows; what is written too early shows as well, because
// threads also run from the last to the first.
static inline void copy_async(void *to, const void *from, bool valid = true, int line = __builtin_LINE()) {
    if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % 16)
        shim::fail("a copy that is not aligned", line);
    if (valid) memcpy(to, from, 16); else memset(to, 0, 16);
}
static inline void let_next_begin() {}
static inline void wait_for_inputs() {}
static inline void prefetch(const void *) {}
static inline void commit_copies() {}
template <int N>
static inline void wait_for_copies() {}
