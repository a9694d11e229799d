// Operations on one value at a time, with the bits of kernels/src/ops/elementwise.rs.
//
// Grid (ceil(n / threads), columns), blocks of 256 threads: a thread has a value, a warp 128 bytes in a row. These
// are a few kilobytes in decoding, where the launch is all the time they take; in prefill they run at the speed of
// memory. Those that make blocks have a warp for each block of 32 values.
//
//   x, y, out  [columns, n] with a stride in floats from column to column
#include "activations.cuh"
#include "number.cuh"

DEVICE int element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// The blocks of columns of floats: Op::Quantize. n is a multiple of 32.
KERNEL(256, 4, quantize, const float *x, i8 *q, BlockMeta *meta, int n) {
    begin();
    int block = blockIdx.x * (blockDim.x / WARP) + warp(), column = blockIdx.y;
    // A whole warp leaves, or none of it.
    if (block >= n / 32) return;
    quantize_block(x[size_t(column) * n + block * 32 + lane()], q, meta, block_place(column, block, n / 32));
}

// `out = activation(gate) * up`; without `gated`, `out = activation(gate)`. `x` is [columns, 2 n]: the gate, then up
// (or [columns, n]). Op::Gate.
KERNEL(256, 4, gate, const float *x, float *out, int n, int activation, int gated) {
    begin();
    int i = element();
    if (i >= n) return;
    const float *column = x + size_t(blockIdx.y) * (gated ? 2 * n : n);
    float v = activate(activation, column[i]);
    out[size_t(blockIdx.y) * n + i] = gated ? v * column[n + i] : v;
}

// The blocks of what `gate` makes; n is a multiple of 32.
KERNEL(256, 4, gate_quantize, const float *x, i8 *q, BlockMeta *meta, int n, int activation, int gated) {
    begin();
    int block = blockIdx.x * (blockDim.x / WARP) + warp(), column = blockIdx.y;
    if (block >= n / 32) return;
    const float *from = x + size_t(column) * (gated ? 2 * n : n) + block * 32 + lane();
    float v = activate(activation, from[0]);
    quantize_block(gated ? v * from[n] : v, q, meta, block_place(column, block, n / 32));
}

// `out += factor * x`, rounded twice; a factor of 1 changes nothing. Op::Add.
KERNEL(256, 4, add, const float *x, float *out, int n, float factor) {
    begin();
    int i = element();
    size_t at = size_t(blockIdx.y) * n + i;
    if (i < n) out[at] = out[at] + factor * x[at];
}

// `out[c, i] += bias[i]`, of columns `stride` apart. Op::Bias.
KERNEL(256, 4, add_bias, const float *bias, float *out, int n, int stride) {
    begin();
    int i = element();
    size_t at = size_t(blockIdx.y) * stride + i;
    if (i < n) out[at] = out[at] + bias[i];
}

// Column c of `out` is column `columns[c]` of `x`. Op::Select.
KERNEL(256, 4, select_columns, const float *x, const int *columns, float *out, int n) {
    begin();
    int i = element();
    if (i < n) out[size_t(blockIdx.y) * n + i] = x[size_t(columns[blockIdx.y]) * n + i];
}

// `x = cap * tanh(factor * x / cap)`; a cap of 0 is none. Op::ScaleLogits.
KERNEL(256, 4, scale_logits, float *x, int n, float factor, float cap) {
    begin();
    int i = element();
    if (i >= n) return;
    size_t at = size_t(blockIdx.y) * n + i;
    float v = x[at] * factor;
    x[at] = cap > 0.0f ? soft_cap(v, cap) : v;
}

// Sets bit 0 of `flag` if a value of x ([columns, n]) is an infinity or a NaN.
KERNEL(256, 4, check_finite, const float *x, int n, int *flag) {
    begin();
    bool bad = false;
    for (int i = element(); i < n; i += gridDim.x * blockDim.x)
        bad |= (bits_of(x[size_t(blockIdx.y) * n + i]) & 0x7f800000u) == 0x7f800000u;
    if (__any_sync(ALL, bad) && lane() == 0) atomicOr(flag, 1);
}

// Half precision to float32 and back, n values.
KERNEL(256, 4, widen_f16, const f16 *x, float *out, int n) {
    begin();
    int i = element();
    if (i < n) out[i] = f16_to_f32(x[i]);
}
KERNEL(256, 4, narrow_f16, const float *x, f16 *out, int n) {
    begin();
    int i = element();
    if (i < n) out[i] = f32_to_f16(x[i]);
}

// The nearest bfloat16: activations for a product of bfloat16.
KERNEL(256, 4, narrow_bf16, const float *x, bf16 *out, int n) {
    begin();
    int i = element();
    if (i < n) out[i] = bf16(pack_bf16(x[i], 0.0f) & 0xffff);
}

// `sums[i] += hidden[c, i]` for each column in order, in float64: the mean of hidden states in the making.
KERNEL(256, 4, pool, const float *hidden, int columns, int n, double *sums) {
    begin();
    int i = element();
    if (i >= n) return;
    double sum = sums[i];
    for (int c = 0; c < columns; c++) sum += double(hidden[size_t(c) * n + i]);
    sums[i] = sum;
}
