// `out = activation(gate) * up` of a feed-forward network in decoding, where gate and up are products of two
// quantized weights with the same columns: Op::GatedMatMul.
//
//   gate, up  planes of weights with `weight_rows` rows and `cols` columns; up's rows begin `up_panel` panels into
//             its own (0, or rows / 32 where both are the halves of one weight)
//   rows      rows of each, a multiple of 32 where blocks are made
//   biases    [rows] or null
//   out       [columns, rows], or blocks of it in q_out and meta_out; the other is null
//
// Grid (ceil(rows / 32), ceil(columns / C)), blocks of 32 * min(16, ceil(cols / 256)) threads, C of 1 or 4. A lane
// takes the same row of both weights, so activations are read once for both, and a block's 32 results are a block of
// the next product's input: neither the products nor the hidden layer go through memory as floats. Without a gate
// (`up` null) the result is `activation(product)`.
#include "matvec.cuh"
#include "number.cuh"

template <class F, int C>
DEVICE void gated(const u8 *gate, const u8 *up, int weight_rows, int up_panel, int rows, int cols, const i8 *q,
                  const BlockMeta *meta, const float *gate_bias, const float *up_bias, int activation, float *out,
                  i8 *q_out, BlockMeta *meta_out, int columns) {
    __shared__ float partial[SEGMENTS][2 * C][PANEL];
    int first = blockIdx.y * C;
    Planes<F> gates(gate, weight_rows, cols);
    let_next_begin();
    gates.prefetch(blockIdx.x, segment_start(gates.units, warp()));
    if (up) Planes<F>(up, weight_rows, cols).prefetch(blockIdx.x + up_panel, segment_start(gates.units, warp()));
    wait_for_inputs();
    Columns x(q, meta, cols, first);
    float sums[C] = {};
    multiply_segment<F, C>(gates, blockIdx.x, warp(), x, sums);
#pragma unroll
    for (int c = 0; c < C; c++) partial[warp()][c][lane()] = sums[c];
    if (up) {
        float sums[C] = {};
        multiply_segment<F, C>(Planes<F>(up, weight_rows, cols), blockIdx.x + up_panel, warp(), x, sums);
#pragma unroll
        for (int c = 0; c < C; c++) partial[warp()][C + c][lane()] = sums[c];
    }
    __syncthreads();
    int row = blockIdx.x * PANEL + lane();
    for (int c = warp(); c < C && first + c < columns; c += blockDim.x / WARP) {
        float v = add_segments(&partial[0][c][lane()], 2 * C * PANEL, gates.units);
        if (gate_bias && row < rows) v = v + gate_bias[row];
        v = activate(activation, v);
        if (up) {
            float u = add_segments(&partial[0][C + c][lane()], 2 * C * PANEL, gates.units);
            if (up_bias && row < rows) u = u + up_bias[row];
            v = v * u;
        }
        if (q_out) quantize_block(v, q_out, meta_out, block_place(first + c, blockIdx.x, rows / 32));
        if (out && row < rows) out[size_t(first + c) * rows + row] = v;
    }
}

#define GATED_OF(name, F, C)                                                                                      \
    KERNEL(512, C == 1 ? 2 : 1, gated_##name##_##C, const u8 *gate, const u8 *up, int weight_rows, int up_panel, int rows,     \
           int cols, const i8 *q, const BlockMeta *meta, const float *gate_bias, const float *up_bias,            \
           int activation, float *out, i8 *q_out, BlockMeta *meta_out, int columns) {                             \
        gated<F, C>(gate, up, weight_rows, up_panel, rows, cols, q, meta, gate_bias, up_bias, activation, out,    \
                    q_out, meta_out, columns);                                                                    \
    }
#define GATED(name, F) GATED_OF(name, F, 1) GATED_OF(name, F, 4)
EACH_FORMAT(GATED)
