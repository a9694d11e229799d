// Products of a quantized weight with many columns of int8 blocks: Op::MatMul and Op::Experts in prefill.
//
//   weight   planes of [rows, cols] (formats.cuh)
//   q, meta  blocks of the columns (activations.cuh)
//   bias     [rows] or null
//   out      columns of `stride` floats, from the product's first row on; with `add` it is added to what is there
//
// Grid (ceil(columns / 64), ceil(rows / 128), 1), blocks of 256 threads: a tile of 128 rows and 64 columns, eight warps
// of 32 by 32. The tiles of columns of one tile of rows run side by side, so weights are read from memory once.
//
// Experts: grid (ceil(most columns of an expert / 64), ceil(rows / 128), experts). `order` lists, expert by expert, the
// pairs (column * used + place) that an expert was chosen for, from offsets[e] to offsets[e + 1] (experts_group); the
// planes of expert e begin e * expert_bytes further. The product of place p of column c is rows p * rows.. of column c
// of `out`; its input is column c, or with `each` column c * used + p. Without experts `order` is null.
//
// A step takes 64 values: a thread loads and unpacks 32 values of one row (16 bytes ahead of their use, in registers:
// they have to be unpacked anyway), the columns' blocks come by cp.async, both into the other of two buffers; one
// barrier a step. For each 32 values a warp does 8 matrix instructions, about 110 of float32 and 20 loads of shared
// memory without conflicts, so what bounds it is the issue of float32: about 5 cycles of a multiprocessor for 8,192
// operations, 390 TOP/s of an H200. Formats with a scale for 16 values take twice the instructions. An accumulator of a
// segment and one of the whole are 64 registers of a thread.
#include "matmul.cuh"

constexpr int ROWS = 128, COLUMNS = 64, STEP = 2;

// What a step takes: bytes of rows and columns, [STEP][ROWS or COLUMNS][32], and their numbers.
template <class F>
struct Stage {
    u8 a[STEP][ROWS * 32];
    u8 b[STEP][COLUMNS * 32];
    float numbers[STEP][NUMBERS<F>][ROWS];
    float d[STEP][COLUMNS];
    float sums[STEP][F::MIN ? F::SUB == 16 ? 2 : 1 : 1][COLUMNS];
};

template <class F>
DEVICE void matmul(const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta, const float *bias, float *out,
                   int stride, int columns, int add, const int *order, const int *offsets, int used, int each,
                   i64 expert_bytes) {
    __shared__ __align__(16) Stage<F> stages[2];
    if (order) {
        weight += blockIdx.z * expert_bytes;
        order += offsets[blockIdx.z];
        columns = offsets[blockIdx.z + 1] - offsets[blockIdx.z];
    }
    int first_column = blockIdx.x * COLUMNS, first_row = blockIdx.y * ROWS;
    if (first_column >= columns) return;
    Planes<F> planes(weight, rows, cols);
    int blocks = cols / 32, panels = ceil_div(rows, PANEL), steps = planes.units * (SUBS / STEP);

    // What this thread brings: 32 values of a row; 16 bytes of a column's block; the numbers of a column.
    int a_step = warp() / 4, a_panel = least(first_row / PANEL + warp() % 4, panels - 1), a_row = warp() % 4 * PANEL + lane();
    auto input = [&](int n) {
        int i = least(first_column + n, columns - 1);
        return !order ? i : each ? order[i] : order[i] / used;
    };
    int b_step = thread() / 128;
    const i8 *b_from = q + block_place(input(thread() / 2 % 64), 0, blocks) * 32 + thread() % 2 * 16;
    int meta_step = thread() / 64 % 2, meta_column = thread() % 64;
    const uint2 *meta_from = reinterpret_cast<const uint2 *>(meta + block_place(input(meta_column), 0, blocks));

    RawCodes<F> codes;
    RawScales raw{};
    uint2 column_numbers;
    auto block_of = [&](int step, int of) { return F::BLOCK == 32 ? least(step * STEP + of, blocks - 1) : step * STEP + of; };
    auto bring = [&](int step, Stage<F> &to) {
        int unit = step * STEP / SUBS, sub = step * STEP % SUBS + a_step;
        if (step * STEP % SUBS == 0) raw = planes.load_scales(a_panel, unit, lane());
        codes.load(planes, a_panel, unit, sub, lane());
        copy_async(&to.b[b_step][thread() % 128 * 16], b_from + size_t(block_of(step, b_step)) * 256);
        commit_copies();
        if (thread() < STEP * COLUMNS) column_numbers = __ldg(meta_from + size_t(block_of(step, meta_step)) * 8);
    };
    auto lay_down = [&](int step, Stage<F> &to) {
        u32 u[8];
        codes.unpack_signed(u);
        put_row(to.a[a_step], a_row, u);
        put_numbers<F>(&to.numbers[a_step][0][a_row], ROWS, F::scales(raw, step * STEP % SUBS + a_step));
        if (thread() < STEP * COLUMNS) {
            to.d[meta_step][meta_column] = float_of(column_numbers.x);
            if constexpr (F::MIN) {
                float sums[2];
                scaled_sums<F>(column_numbers, sums);
                to.sums[meta_step][0][meta_column] = sums[0];
                if constexpr (F::SUB == 16) to.sums[meta_step][1][meta_column] = sums[1];
            }
        }
        wait_for_copies<0>();
    };

    int g = lane() / 4, t = lane() % 4, m_first = warp() / 2 * 32, n_first = warp() % 2 * 32;
    float acc[2][4][4] = {}, totals[2][4][4] = {};
    int segment = 0, segment_end = segment_start(planes.units, 1) * (SUBS / STEP);
    bring(0, stages[0]);
    lay_down(0, stages[0]);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        Stage<F> &here = stages[step % 2], &other = stages[(step + 1) % 2];
        if (step + 1 < steps) bring(step + 1, other);
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            uint2 a[2][2];
            float numbers[2][2][NUMBERS<F>];
#pragma unroll
            for (int m = 0; m < 4; m++) {
                int row = m_first + 8 * m + g;
                a[m / 2][m % 2] = row_fragment(here.a[k], row);
#pragma unroll
                for (int i = 0; i < NUMBERS<F>; i++) numbers[m / 2][m % 2][i] = here.numbers[k][i][row];
            }
#pragma unroll
            for (int n = 0; n < 4; n++) {
                int column = n_first + 8 * n;
                uint2 b = *reinterpret_cast<const uint2 *>(&here.b[k][column * 32 + lane() * 8]);
                float2 scale = *reinterpret_cast<const float2 *>(&here.d[k][column + 2 * t]);
                float d[2] = {scale.x, scale.y}, sums[2][2] = {};
                if constexpr (F::MIN) {
#pragma unroll
                    for (int h = 0; h < (F::SUB == 16 ? 2 : 1); h++) {
                        float2 sum = *reinterpret_cast<const float2 *>(&here.sums[k][h][column + 2 * t]);
                        sums[0][h] = sum.x;
                        sums[1][h] = sum.y;
                    }
                }
#pragma unroll
                for (int m = 0; m < 2; m++) add_tile<F>(acc[m][n], a[m][0], a[m][1], b, numbers[m], d, sums);
            }
        }
        if (step + 1 == segment_end) {
            segment++;
            segment_end = segment_start(planes.units, segment + 1) * (SUBS / STEP);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < 4; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        totals[m][n][i] = totals[m][n][i] + acc[m][n][i];
                        acc[m][n][i] = 0.0f;
                    }
        }
        if (step + 1 < steps) lay_down(step + 1, other);
        __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int column = first_column + n_first + 8 * n + 2 * t + i;
            if (column >= columns) continue;
            int pair = order ? order[column] : column;
            float *to = out + size_t(order ? pair / used : pair) * stride + size_t(order ? pair % used : 0) * rows;
#pragma unroll
            for (int m = 0; m < 4; m++) {
                int row = first_row + m_first + 8 * m + g;
                if (row < rows) put_product(to + row, totals[m / 2][n][m % 2 * 2 + i], bias, row, add);
            }
        }
}

#define MATMUL(name, F)                                                                                           \
    KERNEL(256, 2, matmul_##name, const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta,       \
           const float *bias, float *out, int stride, int columns, int add, const int *order, const int *offsets, \
           int used, int each, i64 expert_bytes) {                                                                \
        matmul<F>(weight, rows, cols, q, meta, bias, out, stride, columns, add, order, offsets, used, each,       \
                  expert_bytes);                                                                                  \
    }
EACH_FORMAT(MATMUL)
