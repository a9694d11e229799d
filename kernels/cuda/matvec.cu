// Products of a quantized weight with a few columns of int8 blocks: Op::MatMul and Op::Experts in decoding.
//
//   weight   planes of [rows, cols] (formats.cuh)
//   q, meta  blocks of the columns (activations.cuh)
//   bias     [rows], added to the product, or null
//   out      columns of `stride` floats, from the product's first row on; with `add` it is added to what is there
//
// Grid (ceil(rows / 32), ceil(columns / C)), blocks of 32 * min(16, ceil(cols / 256)) threads, C of 1 or 4: a block
// has a panel of 32 rows, each of its warps a segment of their columns. The reasoning is in matvec.cuh.
//
// Experts (C of 1): `chosen` holds for each column first the numbers of its `used` experts, as floats. Grid (panels,
// columns * used): the product of place p of column c is rows p * rows.. of column c of `out`, of expert
// chosen[c][p], whose planes are `expert_bytes` further for each; with `each`, a place has a column of its own,
// c * used + p. Without experts `chosen` is null and `used` 1.
#include "matvec.cuh"

DEVICE void put(float *out, float v, const float *bias, int row, bool add) {
    if (bias) v = v + bias[row];
    *out = add ? *out + v : v;
}

template <class F>
DEVICE void matvec(const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta, const float *bias,
                   float *out, int stride, int add, const float *chosen, int used, int each, i64 expert_bytes) {
    __shared__ float partial[SEGMENTS * PANEL];
    int column = blockIdx.y / used, place = blockIdx.y % used;
    let_next_begin();
    if (chosen) {
        wait_for_inputs();
        weight += i64(chosen[size_t(column) * 2 * used + place]) * expert_bytes;
    }
    Planes<F> planes(weight, rows, cols);
    planes.prefetch(blockIdx.x, segment_start(planes.units, warp()));
    wait_for_inputs();
    float sums[1] = {0.0f};
    multiply_segment<F, 1>(planes, blockIdx.x, warp(), Columns(q, meta, cols, each ? blockIdx.y : column), sums);
    partial[thread()] = sums[0];
    __syncthreads();
    int row = blockIdx.x * PANEL + thread();
    if (thread() < PANEL && row < rows)
        put(out + size_t(column) * stride + size_t(place) * rows + row,
            add_segments(partial + thread(), PANEL, planes.units), bias, row, add);
}

template <class F, int C>
DEVICE void matvec_few(const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta, const float *bias,
                       float *out, int stride, int columns, int add) {
    __shared__ float partial[SEGMENTS][C][PANEL];
    Planes<F> planes(weight, rows, cols);
    let_next_begin();
    planes.prefetch(blockIdx.x, segment_start(planes.units, warp()));
    wait_for_inputs();
    int first = blockIdx.y * C;
    float sums[C] = {};
    multiply_segment<F, C>(planes, blockIdx.x, warp(), Columns(q, meta, cols, first), sums);
#pragma unroll
    for (int c = 0; c < C; c++) partial[warp()][c][lane()] = sums[c];
    __syncthreads();
    int row = blockIdx.x * PANEL + lane();
    for (int c = warp(); c < C; c += blockDim.x / WARP)
        if (row < rows && first + c < columns)
            put(out + size_t(first + c) * stride + row,
                add_segments(&partial[0][c][lane()], C * PANEL, planes.units), bias, row, add);
}

#define MATVEC(name, F)                                                                                           \
    KERNEL(512, 2, matvec_##name##_1, const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta,   \
           const float *bias, float *out, int stride, int add, const float *chosen, int used, int each,           \
           i64 expert_bytes) {                                                                                    \
        matvec<F>(weight, rows, cols, q, meta, bias, out, stride, add, chosen, used, each, expert_bytes);         \
    }                                                                                                             \
    KERNEL(512, 1, matvec_##name##_4, const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta,   \
           const float *bias, float *out, int stride, int columns, int add) {                                     \
        matvec_few<F, 4>(weight, rows, cols, q, meta, bias, out, stride, columns, add);                           \
    }
EACH_FORMAT(MATVEC)
