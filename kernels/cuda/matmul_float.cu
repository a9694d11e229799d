// Products of a weight in half precision or bfloat16 with many columns, on the matrix unit, where cuBLAS is not there.
//
//   weight  [panels, cols / 8, 32 rows, 16 bytes] (repack.cu)
//   x       [columns, cols] in the weight's type (narrow_f16, narrow_bf16); cols is a multiple of 8
//   bias    [rows] or null
//   out     columns of `stride` floats; with `add` the product is added to what is there
//
// Grid (ceil(columns / 64), ceil(rows / 128)), blocks of 256 threads: a tile of 128 rows and 64 columns, eight warps of 32
// by 32, 32 values a step through three buffers filled by cp.async, two steps ahead. Rows of 64 bytes in shared memory,
// pieces of 16 bytes changing places by row, so that ldmatrix meets no bank twice: four of them feed 16 matrix
// instructions. A warp's 48 fragments and sums leave room for two blocks on a multiprocessor.
//
// Activations are rounded to the weight's type, sums are float32 in the order of the matrix unit: relative errors of
// 2^-11 (2^-8 of bfloat16) of the terms, unlike matvec_float.cu.
#include "formats.cuh"

constexpr int ROWS = 128, COLUMNS = 64, STEP = 32, STAGES = 3;

struct Tiles {
    u16 a[ROWS * STEP], b[COLUMNS * STEP];
};
// Piece c (of 4) of a row.
DEVICE u16 *piece(u16 *tile, int row, int c) { return tile + row * STEP + (c ^ (row >> 1 & 3)) * 8; }

template <bool BF16>
DEVICE void matmul_float(const u8 *weight, int rows, int cols, const u16 *x, const float *bias, float *out, int stride,
                         int columns, int add) {
    __shared__ __align__(16) Tiles stages[STAGES];
    begin();
    int first_column = blockIdx.x * COLUMNS, first_row = blockIdx.y * ROWS;
    int chunks = cols / 8, steps = ceil_div(cols, STEP), panels = ceil_div(rows, PANEL);
    auto bring = [&](int step) {
        Tiles &to = stages[step % STAGES];
#pragma unroll
        for (int i = thread(); i < ROWS * 4; i += 256) {
            // A warp takes a piece of a panel's 32 rows: 512 bytes in a row.
            int c = i / PANEL % 4, panel = first_row / PANEL + i / (4 * PANEL), row = i / (4 * PANEL) * PANEL + lane();
            int chunk = step * 4 + c;
            bool there = step < steps && chunk < chunks && panel < panels;
            size_t at = there ? (size_t(panel) * chunks + chunk) * PANEL + lane() : 0;
            copy_async(piece(to.a, row, c), reinterpret_cast<const uint4 *>(weight) + at, there);
        }
        int column = thread() / 4, chunk = step * 4 + thread() % 4;
        bool there = step < steps && chunk < chunks && first_column + column < columns;
        size_t at = there ? size_t(first_column + column) * cols + chunk * 8 : 0;
        copy_async(piece(to.b, column, thread() % 4), x + at, there);
        commit_copies();
    };
    int m_first = warp() / 2 * 32, n_first = warp() % 2 * 32, m8 = lane() / 8, r8 = lane() % 8;
    float acc[2][4][4] = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) bring(i);
    for (int step = 0; step < steps; step++) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        // The buffer of the step before, which all have left.
        bring(step + STAGES - 1);
        Tiles &here = stages[step % STAGES];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            u32 a[2][4], b[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++)
                load_matrices(a[m], piece(here.a, m_first + 16 * m + m8 % 2 * 8 + r8, 2 * k + m8 / 2));
#pragma unroll
            for (int n = 0; n < 2; n++)
                load_matrices(b[n], piece(here.b, n_first + 16 * n + m8 / 2 * 8 + r8, 2 * k + m8 % 2));
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    if (BF16) mma_bf16(acc[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                    else mma_f16(acc[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                }
        }
    }
    wait_for_copies<0>();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = first_row + m_first + 16 * m + i / 2 * 8 + lane() / 4;
                int column = first_column + n_first + 8 * n + lane() % 4 * 2 + i % 2;
                if (row >= rows || column >= columns) continue;
                float v = acc[m][n][i], *to = out + size_t(column) * stride + row;
                if (bias) v = v + bias[row];
                *to = add ? *to + v : v;
            }
}

KERNEL(256, 2, matmul_f16, const u8 *weight, int rows, int cols, const u16 *x, const float *bias, float *out, int stride,
       int columns, int add) {
    matmul_float<false>(weight, rows, cols, x, bias, out, stride, columns, add);
}
KERNEL(256, 2, matmul_bf16, const u8 *weight, int rows, int cols, const u16 *x, const float *bias, float *out, int stride,
       int columns, int add) {
    matmul_float<true>(weight, rows, cols, x, bias, out, stride, columns, add);
}
