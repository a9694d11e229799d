// Activations as blocks of int8: what a quantized weight is multiplied with. The values are those of
// kernels/src/ops/activation.rs: 32 values `d * q`, d the largest magnitude over 127; NaN where one is not finite.
//
// Layout, for columns of `cols` values, `blocks` = cols / 32, of two buffers:
//
//   q     [columns / 8, blocks, 8, 32] bytes: eight columns' blocks side by side, as a matrix instruction takes
//         them. Within a block the word 2 t holds the values 4 t.., the word 2 t + 1 the values 16 + 4 t.. (t of 0
//         to 3), so that a lane's fragment (values 4 t.. and 16 + 4 t..) is one load of eight bytes, a warp's 256
//         bytes in a row, and a column's block is two loads of sixteen.
//   meta  [columns / 8, blocks, 8]: the scale `d`, and the sums of both halves of `q` as two int16.
//
// Buffers have room for a multiple of eight columns; what is in the rest is no matter.
#pragma once
#include "kernel.cuh"

struct __align__(8) BlockMeta {
    float d;
    // The sum of values 0 to 15 in the low half, of 16 to 31 in the high one.
    u32 sums;
};

DEVICE int first_sum(u32 sums) { return i16(sums & 0xffff); }
DEVICE int second_sum(u32 sums) { return i16(sums >> 16); }

// Where the block `block` of column `column` is, counted in blocks.
DEVICE size_t block_place(int column, int block, int blocks) {
    return (size_t(column / 8) * blocks + block) * 8 + column % 8;
}

// Where value `i` of a block is among its bytes.
DEVICE int byte_place(int i) { return (i % 16 / 4 * 2 + i / 16) * 4 + i % 4; }

// Below this a block is zero: the inverse of its scale would not be finite.
constexpr float TINY = 1e-36f;

// Quantizes a block whose value i lane i has. By the whole warp; lane 0 writes what belongs to the block.
DEVICE void quantize_block(float x, i8 *q, BlockMeta *meta, size_t place) {
    float largest = float_of(warp_most(bits_of(x) & 0x7fffffffu));
    bool finite = largest >= TINY && largest < float_of(0x7f800000u);
    float inverse = finite ? __fdiv_rn(127.0f, largest) : 0.0f;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits. What is not finite is 0.
    int v = finite ? i8(bits_of(x * inverse + 12582912.0f) & 0xff) : 0;
    // Each half of the warp adds its own values.
    int sum = v;
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    int second = __shfl_sync(ALL, sum, 16);
    q[place * 32 + byte_place(lane())] = i8(v);
    if (lane() == 0) {
        float d = finite ? __fdiv_rn(largest, 127.0f) : largest < TINY ? 0.0f : not_a_number();
        meta[place] = BlockMeta{d, u32(u16(sum)) | u32(u16(second)) << 16};
    }
}
