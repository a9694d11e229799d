// What products of a quantized weight with many columns share: tiles of int8 for the matrix unit, and how its sums of
// 32 (or 16) products become float32.
//
// A matrix instruction gives the same integers as the CPU; each enters its float32 sum as there (matvec.cuh), in the
// same order and by the same segments. So whatever the number of columns, a column's product has the same bits.
#pragma once
#include "activations.cuh"
#include "formats.cuh"

// Sums of the matrix unit start at the bits of 1.5 * 2^23, so they are floats: less that number, the sum, exactly
// (its magnitude is at most 32 * 127 * 128). That is one operation of float32 instead of a conversion, of which a
// multiprocessor does half as many.
constexpr int MAGIC = 0x4b400000;
DEVICE float float_of_sum(int sum) { return float_of(u32(sum)) - 12582912.0f; }

// Rows of 32 signed bytes in shared memory, as two pieces of 16 bytes. In every other four rows the pieces change places,
// so that neither the writes (lane = row, 16 bytes) nor a matrix's reads (a piece of eight rows) meet in a bank.
DEVICE int piece_of(int row, int half) { return row * 2 + (half ^ (row >> 2 & 1)); }

DEVICE void put_row(u8 *tile, int row, const u32 (&u)[8]) {
    uint4 *pieces = reinterpret_cast<uint4 *>(tile);
    pieces[piece_of(row, 0)] = make_uint4(u[0], u[1], u[2], u[3]);
    pieces[piece_of(row, 1)] = make_uint4(u[4], u[5], u[6], u[7]);
}
// The fragments of 16 rows from `row` on: values 4 t.. of rows g and g + 8, then values 16 + 4 t.. of both.
DEVICE void load_rows(u32 (&a)[4], const u8 *tile, int row) {
    int m = lane() / 8;
    load_matrices(a, tile + piece_of(row + m % 2 * 8 + lane() % 8, m / 2) * 16);
}

// Numbers that go together, and are loaded together.
template <int N>
struct __align__(4 * N) Numbers {
    float v[N];
};

// What a row has for 32 values: scales, then what is added for the sums.
template <class F>
using RowNumbers = Numbers<(F::SUB == 16 ? 2 : 1) * (F::MIN ? 2 : 1)>;
template <class F>
DEVICE RowNumbers<F> row_numbers(const Scales &scales) {
    constexpr int HALVES = F::SUB == 16 ? 2 : 1;
    RowNumbers<F> to;
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        to.v[h] = scales.scale[h];
        if constexpr (F::MIN) to.v[HALVES + h] = scales.less_min[h];
    }
    return to;
}

// What a column has for 32 values: its scale; where the format wants them, the scale times the sums of all values, or of
// both halves.
template <class F>
using ColumnNumbers = Numbers<!F::MIN ? 1 : F::SUB == 16 ? 4 : 2>;
template <class F>
DEVICE ColumnNumbers<F> column_numbers(float d, u32 sums) {
    ColumnNumbers<F> to;
    int first = first_sum(sums), second = second_sum(sums);
    to.v[0] = d;
    if constexpr (F::MIN && F::SUB == 32) to.v[1] = d * float(first + second);
    if constexpr (F::MIN && F::SUB == 16) {
        to.v[1] = d * float(first);
        to.v[2] = d * float(second);
        to.v[3] = 0.0f;
    }
    return to;
}

// Adds the products of 32 values of 16 rows (g and g + 8 of this lane) and 8 columns (2 t and 2 t + 1) to their sums.
// a: the fragments of the rows; b: that of column g; rows, columns: the numbers of both rows and of both columns.
template <class F>
DEVICE void add_tile(float (&acc)[4], const u32 (&a)[4], uint2 b, const RowNumbers<F> (&rows)[2],
                     const ColumnNumbers<F> (&columns)[2]) {
    if constexpr (F::SUB == 32) {
        int c[4] = {MAGIC, MAGIC, MAGIC, MAGIC};
        mma_i8_k32(c, a[0], a[1], a[2], a[3], b.x, b.y);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i] = fmaf(float_of_sum(c[i]), rows[i / 2].v[0] * columns[i % 2].v[0], acc[i]);
            if constexpr (F::MIN) acc[i] = fmaf(rows[i / 2].v[1], columns[i % 2].v[1], acc[i]);
        }
    } else {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int c[4] = {MAGIC, MAGIC, MAGIC, MAGIC};
            mma_i8_k16(c, a[2 * h], a[2 * h + 1], h ? b.y : b.x);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[i] = fmaf(float_of_sum(c[i]), rows[i / 2].v[h] * columns[i % 2].v[0], acc[i]);
                if constexpr (F::MIN) acc[i] = fmaf(rows[i / 2].v[2 + h], columns[i % 2].v[1 + h], acc[i]);
            }
        }
    }
}

DEVICE void put_product(float *out, float v, const float *bias, int row, bool add) {
    if (bias) v = v + bias[row];
    *out = add ? *out + v : v;
}
