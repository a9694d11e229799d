// Products of a float weight with float32 columns, one to four of them at a time: Op::MatMul and Op::Experts.
//
//   weight  [panels, ceil(cols / n), 32 rows, 16 bytes], n values of 4 or 2 bytes to 16 (repack.cu)
//   x       [columns, cols] float32
//   the rest, the grid and the blocks: as in matvec.cu, `x` in place of q and meta
//
// As on the CPU (kernels/src/ops/matmul_float.rs): blocks of 128 terms, each a sum from 0 of fused multiply-adds in order,
// added in order; here for each segment of the columns (formats.cuh), and the segments in order. A lane is a row, a
// warp's load 512 bytes in a row; a value of x is one address for the warp. For half precision that is one conversion
// and C fused multiply-adds for each two bytes: memory is the bound for any C here.
#include "formats.cuh"

constexpr int TERMS = 128;

// A chunk of 16 bytes as floats.
struct F32 {
    static constexpr int N = 4;
    static METHOD void widen(const uint4 &v, float (&to)[N]) {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = float_of(word_of(v, i));
    }
};
struct F16 {
    static constexpr int N = 8;
    static METHOD void widen(const uint4 &v, float (&to)[N]) {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = half_of(v, i);
    }
};
struct BF16 {
    static constexpr int N = 8;
    static METHOD void widen(const uint4 &v, float (&to)[N]) {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = bf16_to_f32(bf16(word_of(v, i / 2) >> (16 * (i % 2)) & 0xffff));
    }
};

// The sums of a segment of a row with C columns, which are `cols` floats apart.
template <class T, int C>
DEVICE void multiply_segment(const uint4 *weight, int cols, int panel, int segment, const float *x, float (&sums)[C]) {
    int units = ceil_div(cols, UNIT), chunks = ceil_div(cols, T::N);
    int start = segment_start(units, segment) * UNIT, end = least(segment_start(units, segment + 1) * UNIT, cols);
    const uint4 *row = weight + size_t(panel) * chunks * PANEL + lane();
    bool aligned = cols % 4 == 0;
#pragma unroll 1
    for (int block = start; block < end; block += TERMS) {
        int stop = least(block + TERMS, end), whole = block + (stop - block) / T::N * T::N;
        float own[C] = {};
#pragma unroll 4
        for (int k = block; k < whole; k += T::N) {
            float w[T::N];
            T::widen(load_once(row + size_t(k / T::N) * PANEL), w);
#pragma unroll
            for (int c = 0; c < C; c++)
#pragma unroll
                for (int i = 0; i < T::N; i += 4) {
                    const float *from = x + size_t(c) * cols + k + i;
                    float4 v = aligned ? load(reinterpret_cast<const float4 *>(from))
                                       : make_float4(from[0], from[1], from[2], from[3]);
                    own[c] = fmaf(w[i], v.x, own[c]);
                    own[c] = fmaf(w[i + 1], v.y, own[c]);
                    own[c] = fmaf(w[i + 2], v.z, own[c]);
                    own[c] = fmaf(w[i + 3], v.w, own[c]);
                }
        }
        // What is left of a row that is no whole number of chunks.
        if (whole < stop) {
            float w[T::N];
            T::widen(load_once(row + size_t(whole / T::N) * PANEL), w);
#pragma unroll
            for (int i = 0; i < T::N; i++)
#pragma unroll
                for (int c = 0; c < C; c++)
                    if (whole + i < stop) own[c] = fmaf(w[i], x[size_t(c) * cols + whole + i], own[c]);
        }
#pragma unroll
        for (int c = 0; c < C; c++) sums[c] = block == start ? own[c] : sums[c] + own[c];
    }
}

DEVICE void put(float *out, float v, const float *bias, int row, bool add) {
    if (bias) v = v + bias[row];
    *out = add ? *out + v : v;
}

template <class T, int C>
DEVICE void matvec_float(const u8 *weight, int rows, int cols, const float *x, const float *bias, float *out, int stride,
                         int columns, int add, const float *chosen, int used, int each, i64 expert_bytes) {
    __shared__ float partial[SEGMENTS][C][PANEL];
    int first = blockIdx.y * C, place = 0, units = ceil_div(cols, UNIT);
    begin();
    if (C == 1 && chosen) {
        first = blockIdx.y / used;
        place = blockIdx.y % used;
        weight += i64(chosen[size_t(first) * 2 * used + place]) * expert_bytes;
    }
    float sums[C] = {};
    // Columns beyond the end are the last one; nobody takes them.
    const float *from = x + size_t(each ? blockIdx.y : first) * cols;
    const uint4 *chunks = reinterpret_cast<const uint4 *>(weight);
    if (C > 1 && first + C > columns) {
#pragma unroll
        for (int c = 0; c < C; c++) {
            float one[1] = {0.0f};
            if (first + c < columns) multiply_segment<T, 1>(chunks, cols, blockIdx.x, warp(), from + size_t(c) * cols, one);
            sums[c] = one[0];
        }
    } else {
        multiply_segment<T, C>(chunks, cols, blockIdx.x, warp(), from, sums);
    }
#pragma unroll
    for (int c = 0; c < C; c++) partial[warp()][c][lane()] = sums[c];
    __syncthreads();
    int row = blockIdx.x * PANEL + lane();
    for (int c = warp(); c < C; c += blockDim.x / WARP) {
        if (row >= rows || (C > 1 && first + c >= columns)) continue;
        float sum = partial[0][c][lane()];
        for (int segment = 1; segment < segments_of(units); segment++) sum = sum + partial[segment][c][lane()];
        put(out + size_t(first + c) * stride + size_t(place) * rows + row, sum, bias, row, add);
    }
}

#define MATVEC_FLOAT(name, T)                                                                                     \
    KERNEL(512, 2, matvec_##name##_1, const u8 *weight, int rows, int cols, const float *x, const float *bias,    \
           float *out, int stride, int add, const float *chosen, int used, int each, i64 expert_bytes) {          \
        matvec_float<T, 1>(weight, rows, cols, x, bias, out, stride, 1, add, chosen, used, each, expert_bytes);   \
    }                                                                                                             \
    KERNEL(512, 1, matvec_##name##_4, const u8 *weight, int rows, int cols, const float *x, const float *bias,    \
           float *out, int stride, int columns, int add) {                                                        \
        matvec_float<T, 4>(weight, rows, cols, x, bias, out, stride, columns, add, nullptr, 1, 0, 0);             \
    }
MATVEC_FLOAT(f32, F32)
MATVEC_FLOAT(f16, F16)
MATVEC_FLOAT(bf16, BF16)
