// Norms over columns, with the sums of kernels/src/ops/norm.rs to the bit: value i goes to sum i % 64, each sum in
// order, then the 64 sums are added in halves.
//
//   input, out   [columns, n], n contiguous; `out` may be the input
//   weight, bias [n]; no bias: null
//   q, meta      blocks of the result (activations.cuh)
//
// Grid (columns), a block of 64 to 1,024 threads to a column (1,024 for a few columns, where the blocks that each warp
// makes one after the other are what takes time); dynamic shared memory of n floats. All threads bring the
// column in with 16-byte loads, so that its latency is paid once; 64 of them then run the 64 chains of sums from
// shared memory (a warp reads 32 words in a row: no bank conflict). A column is read once and written once.
#include "activations.cuh"
#include "sums.cuh"

enum NormKind { RMS = 0, LAYER = 1 };

// Brings a column into shared memory and takes the mean off where asked; the factor that its values get.
DEVICE float prepare(const float *input, float *x, int n, int kind, float epsilon) {
    if (n % 4 == 0) {
        for (int i = thread(); i < n / 4; i += blockDim.x)
            reinterpret_cast<float4 *>(x)[i] = reinterpret_cast<const float4 *>(input)[i];
    } else {
        for (int i = thread(); i < n; i += blockDim.x) x[i] = input[i];
    }
    __syncthreads();
    if (kind == LAYER) {
        float mean = __fdiv_rn(block_sum<false>(x, n), float(n));
        for (int i = thread(); i < n; i += blockDim.x) x[i] = x[i] - mean;
        __syncthreads();
    }
    return scale_of(block_sum<true>(x, n), n, epsilon);
}

DEVICE float normed(const float *x, float scale, const float *weight, const float *bias, int i) {
    float v = x[i] * scale * weight[i];
    return bias ? v + bias[i] : v;
}

// `out = norm(input)`.
KERNEL(1024, 1, norm_columns, const float *input, const float *weight, const float *bias, float *out, int n, int kind,
       float epsilon) {
    begin();
    DYNAMIC_SHARED(float, x);
    size_t at = size_t(blockIdx.x) * n;
    float scale = prepare(input + at, x, n, kind, epsilon);
    for (int i = thread(); i < n; i += blockDim.x) out[at + i] = normed(x, scale, weight, bias, i);
}

// The blocks of `norm(input)`; n is a multiple of 32.
KERNEL(1024, 1, norm_quantize, const float *input, const float *weight, const float *bias, i8 *q, BlockMeta *meta,
       int n, int kind, float epsilon) {
    begin();
    DYNAMIC_SHARED(float, x);
    float scale = prepare(input + size_t(blockIdx.x) * n, x, n, kind, epsilon);
#pragma unroll 2
    for (int block = warp(); block < n / 32; block += blockDim.x / WARP)
        quantize_block(normed(x, scale, weight, bias, block * 32 + lane()), q, meta,
                       block_place(blockIdx.x, block, n / 32));
}

// What a root-mean-square norm of `input` + `at` multiplies with before its weight: `out` [columns]. Columns are `stride`
// floats apart.
KERNEL(256, 4, rms_scales, const float *input, int stride, int at, float *out, int n, float epsilon) {
    begin();
    float squares = block_sum<true>(input + size_t(blockIdx.x) * stride + at, n);
    if (thread() == 0) out[blockIdx.x] = scale_of(squares, n, epsilon);
}
