// Products of a quantized weight with many columns of int8 blocks: Op::MatMul and Op::Experts in prefill.
//
//   weight   planes of [rows, cols] (formats.cuh)
//   q, meta  blocks of the columns (activations.cuh), of less than 4 GiB
//   bias     [rows] or null
//   out      columns of `stride` floats, from the product's first row on; with `add` it is added to what is there
//
// Grid (ceil(columns / 128), ceil(rows / 128), 1), blocks of 512 threads: a tile of 128 rows and 128 columns, sixteen warps
// of 32 by 32. The tiles of columns of one tile of rows run side by side, so weights are read from memory once.
//
// Experts: grid (ceil(most columns of an expert / 128), ceil(rows / 128), experts). `order` lists, expert by expert, the
// pairs (column * used + place) that an expert was chosen for, from offsets[e] to offsets[e + 1] (experts_group); the
// planes of expert e begin e * expert_bytes further. The product of place p of column c is rows p * rows.. of column c
// of `out`; its input is column c, or with `each` column c * used + p. Without experts `order` is null.
//
// A step takes 64 values. Half of the threads load and unpack 32 values of a row each (16 bytes ahead of their use, in
// registers: they have to be unpacked anyway), the other half bring the columns' blocks by cp.async, both into the other
// of two buffers; one barrier a step. For each 32 values a warp does 8 matrix instructions, 128 of float32 (96 without
// a minimum) and 20 loads of shared memory without conflicts: that is what bounds it, about 5.5 cycles of a
// multiprocessor for 8,192 operations, and bringing and unpacking takes a fifth of that again. Formats with a scale for
// 16 values take twice the instructions. The sums of a segment and of the whole are 64 registers of a thread.
#include "matmul.cuh"

constexpr int ROWS = 128, COLUMNS = 128, STEP = 2, THREADS = 512;

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
    begin();
    if (order) {
        weight += blockIdx.z * expert_bytes;
        order += offsets[blockIdx.z];
        columns = offsets[blockIdx.z + 1] - offsets[blockIdx.z];
    }
    int first_column = blockIdx.x * COLUMNS, first_row = blockIdx.y * ROWS;
    if (first_column >= columns) return;
    Planes<F> planes(weight, rows, cols);
    int blocks = cols / 32, panels = ceil_div(rows, PANEL), steps = planes.units * (SUBS / STEP);

    // What this thread brings: 32 values of a row, or 16 bytes of two blocks of a column and the numbers of one.
    bool brings_rows = thread() < THREADS / 2;
    int a_step = warp() / 4, a_row = warp() % 4 * PANEL + lane(), a_panel = least(first_row / PANEL + warp() % 4, panels - 1);
    Walk<F> walk(planes, a_panel, lane());
    auto input = [&](int n) {
        int i = least(first_column + n, columns - 1);
        return !order ? i : each ? order[i] : order[i] / used;
    };
    int own = thread() % (THREADS / 2), meta_step = own / COLUMNS, meta_column = own % COLUMNS;
    u32 b_from = u32(block_place(input(own / 2), 0, blocks)) * 32 + own % 2 * 16;
    u32 meta_from = u32(block_place(input(meta_column), 0, blocks));

    RawCodes<F> codes;
    RawScales raw{};
    // A thread that brings columns has no scales: their numbers take the place.
    u32 &column_scale = F::SCALES ? raw.scales.x : raw.tail.x, &column_sums = F::SCALES ? raw.scales.y : raw.tail.y;
    auto block_of = [&](int step, int of) { return F::BLOCK == 32 ? least(step * STEP + of, blocks - 1) : step * STEP + of; };
    auto bring = [&](int step, Stage<F> &to) {
        if (brings_rows) {
            if (step * STEP % SUBS == 0) raw = planes.load_scales(a_panel, step * STEP / SUBS, lane());
            walk.load(weight, step * STEP + a_step, codes);
        } else {
#pragma unroll
            for (int k = 0; k < STEP; k++) copy_async(&to.b[k][own * 16], q + (b_from + u32(block_of(step, k)) * 256));
            uint2 numbers = __ldg(reinterpret_cast<const uint2 *>(meta) + (meta_from + u32(block_of(step, meta_step)) * 8));
            column_scale = numbers.x;
            column_sums = numbers.y;
        }
        commit_copies();
    };
    auto lay_down = [&](int step, Stage<F> &to) {
        if (brings_rows) {
            u32 u[8];
            codes.unpack_signed(u);
            put_row(to.a[a_step], a_row, u);
            put_numbers<F>(&to.numbers[a_step][0][a_row], ROWS, F::scales(raw, step * STEP % SUBS + a_step));
        } else {
            to.d[meta_step][meta_column] = float_of(column_scale);
            if constexpr (F::MIN) {
                float sums[2];
                scaled_sums<F>(make_uint2(column_scale, column_sums), sums);
                to.sums[meta_step][0][meta_column] = sums[0];
                if constexpr (F::SUB == 16) to.sums[meta_step][1][meta_column] = sums[1];
            }
        }
        wait_for_copies<0>();
    };

    int g = lane() / 4, t = lane() % 4, m_first = warp() / 4 * 32, n_first = warp() % 4 * 32;
    float acc[2][4][4] = {}, totals[2][4][4] = {};
    int segment = 0, segment_end = segment_start(planes.units, 1) * (SUBS / STEP);
    bring(0, stages[0]);
    lay_down(0, stages[0]);
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        Stage<F> &here = stages[step % 2], &other = stages[(step + 1) % 2];
        if (step + 1 < steps) bring(step + 1, other);
        // Both halves of a step at once where registers allow it.
#pragma unroll (F::SUB == 16 ? 1 : STEP)
        for (int k = 0; k < STEP; k++) {
            u32 a[2][4];
            float numbers[2][2][NUMBERS<F>];
            load_rows(a[0], here.a[k], m_first);
            load_rows(a[1], here.a[k], m_first + 16);
#pragma unroll
            for (int m = 0; m < 4; m++) {
                int row = m_first + 8 * m + g;
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
                for (int m = 0; m < 2; m++) add_tile<F>(acc[m][n], a[m], b, numbers[m], d, sums);
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
    KERNEL(512, 1, matmul_##name, const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta,       \
           const float *bias, float *out, int stride, int columns, int add, const int *order, const int *offsets, \
           int used, int each, i64 expert_bytes) {                                                                \
        matmul<F>(weight, rows, cols, q, meta, bias, out, stride, columns, add, order, offsets, used, each,       \
                  expert_bytes);                                                                                  \
    }
EACH_FORMAT(MATMUL)
