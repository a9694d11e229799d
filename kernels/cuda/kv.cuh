// Keys and values as the cache stores them (src/runtime/kv.rs, kernels/src/ops/kv_quantized.rs).
//
// A block of the model has one plane: a column of `width` bytes for each head's keys, then one for each head's values.
// A column is pages of sixteen positions; a slot is page * 16 + position in the page.
//
//   keys    [pages, key_length, 16 positions]: value i of sixteen keys side by side
//   values  [pages * 16, value_length]
//
// In blocks of 32 values (Q8_0, Q4_0): of keys, for each 32 values the halves that scale sixteen positions (32 bytes),
// then for each value (Q8_0) or pair of values i and i + 16 (Q4_0) a byte of each position; a value's row is GGUF's
// blocks, one after the other.
#pragma once
#include "kernel.cuh"

enum KvKind { KV_F16 = 0, KV_F32 = 1, KV_Q8_0 = 2, KV_Q4_0 = 3 };

constexpr int PAGE = 16;

// Bytes of the values of a block, without its scale.
template <int KIND>
constexpr int BLOCK_BYTES = KIND == KV_Q8_0 ? 32 : 16;

// Bytes of a key or value of `length` values.
template <int KIND>
DEVICE int row_bytes(int length) {
    return KIND == KV_F16 ? 2 * length : KIND == KV_F32 ? 4 * length : length / 32 * (2 + BLOCK_BYTES<KIND>);
}

// Where the scales of the 32 keys' values around value i of a page are.
template <int KIND>
DEVICE size_t group_place(int page, int i, int length) {
    return size_t(page) * PAGE * row_bytes<KIND>(length) + i / 32 * PAGE * (2 + BLOCK_BYTES<KIND>);
}

// Quantizes a block whose value i lane i has: the lane's level, and the scale. By the whole warp. What is not finite
// makes the scale so.
template <int KIND>
DEVICE int quantize_kv(float v, f16 &scale) {
    u32 magnitude = bits_of(v) & 0x7fffffffu, largest = warp_most(magnitude);
    // The first of the largest, with its sign.
    float extreme = __shfl_sync(ALL, v, __ffs(int(__ballot_sync(ALL, magnitude == largest))) - 1);
    if (largest >= 0x7f800000u) {
        scale = 0x7e00;
        return 0;
    }
    float d = KIND == KV_Q8_0 ? __fdiv_rn(fabsf(extreme), 127.0f) : __fdiv_rn(extreme, -8.0f);
    float inverse = d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d);
    scale = f32_to_f16(d);
    if (KIND == KV_Q8_0) return i8(int(most(-128.0f, least(127.0f, roundf(v * inverse)))));
    return least(int(most(0.0f, v * inverse + 8.5f)), 15);
}

// Writes 32 values of a key, from value `first` on, to a head's column; value i is that of lane i.
template <int KIND>
DEVICE void put_key(u8 *column, int slot, int first, int length, float v) {
    int page = slot / PAGE, at = slot % PAGE, i = first + lane();
    if constexpr (KIND == KV_F16 || KIND == KV_F32) {
        if (i >= length) return;
        size_t place = size_t(page) * PAGE * length + i * PAGE + at;
        if (KIND == KV_F16) reinterpret_cast<f16 *>(column)[place] = f32_to_f16(v);
        else reinterpret_cast<float *>(column)[place] = v;
    } else {
        f16 scale;
        int level = quantize_kv<KIND>(v, scale), other = __shfl_xor_sync(ALL, level, 16);
        u8 *group = column + group_place<KIND>(page, first, length);
        if (lane() == 0) reinterpret_cast<f16 *>(group)[at] = scale;
        if (KIND == KV_Q8_0) group[2 * PAGE + lane() * PAGE + at] = u8(level);
        else if (lane() < 16) group[2 * PAGE + lane() * PAGE + at] = u8(level | other << 4);
    }
}

// The same of a value's row.
template <int KIND>
DEVICE void put_value(u8 *column, int slot, int first, int length, float v) {
    int i = first + lane();
    u8 *row = column + size_t(slot) * row_bytes<KIND>(length);
    if constexpr (KIND == KV_F16 || KIND == KV_F32) {
        if (i >= length) return;
        if (KIND == KV_F16) reinterpret_cast<f16 *>(row)[i] = f32_to_f16(v);
        else reinterpret_cast<float *>(row)[i] = v;
    } else {
        f16 scale;
        int level = quantize_kv<KIND>(v, scale), other = __shfl_xor_sync(ALL, level, 16);
        u8 *block = row + first / 32 * (2 + BLOCK_BYTES<KIND>);
        if (lane() == 0) *reinterpret_cast<f16 *>(block) = scale;
        if (KIND == KV_Q8_0) block[2 + lane()] = u8(level);
        else if (lane() < 16) block[2 + lane()] = u8(level | other << 4);
    }
}

// Value i of the key in a slot.
template <int KIND>
DEVICE float get_key(const u8 *column, int slot, int i, int length) {
    int page = slot / PAGE, at = slot % PAGE;
    if constexpr (KIND == KV_F16 || KIND == KV_F32) {
        size_t place = size_t(page) * PAGE * length + i * PAGE + at;
        return KIND == KV_F16 ? f16_to_f32(reinterpret_cast<const f16 *>(column)[place])
                              : reinterpret_cast<const float *>(column)[place];
    } else {
        const u8 *group = column + group_place<KIND>(page, i, length);
        float d = f16_to_f32(reinterpret_cast<const f16 *>(group)[at]);
        int k = i % 32;
        if (KIND == KV_Q8_0) return d * float(i8(group[2 * PAGE + k * PAGE + at]));
        int byte = group[2 * PAGE + k % 16 * PAGE + at];
        return d * float((byte >> (k / 16 * 4) & 15) - 8);
    }
}

// Value i of a value's row.
template <int KIND>
DEVICE float row_value(const u8 *row, int i) {
    if constexpr (KIND == KV_F16) return f16_to_f32(reinterpret_cast<const f16 *>(row)[i]);
    else if constexpr (KIND == KV_F32) return reinterpret_cast<const float *>(row)[i];
    else {
        const u8 *block = row + i / 32 * (2 + BLOCK_BYTES<KIND>);
        float d = f16_to_f32(*reinterpret_cast<const f16 *>(block));
        int k = i % 32;
        if (KIND == KV_Q8_0) return d * float(i8(block[2 + k]));
        return d * float((block[2 + k % 16] >> (k / 16 * 4) & 15) - 8);
    }
}
