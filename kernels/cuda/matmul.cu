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
// of two buffers; one barrier a step. Float32 is what bounds it: of the about 27 instructions of a warp for each matrix
// instruction (16 by 8 by 32, as sm_90's machine code has them for Q4_K), 12 make floats of its sums, scale and add them,
// 4 add the minimum, 4 bring and unpack. That is 6.8 cycles of a multiprocessor for 8,192 operations, 270 TOP/s of an
// H200; formats with a scale for 16 values take nearly twice that. The sums of a segment and of the whole are 64 registers
// of a thread; those of the whole spill a few words, which are touched once in 256 columns.
#include "matmul.cuh"

constexpr int ROWS = 128, COLUMNS = 128, STEP = 2, THREADS = 512;

// What a step takes: bytes of rows and columns, [STEP][ROWS or COLUMNS][32], and their numbers.
template <class F>
struct Stage {
    u8 a[STEP][ROWS * 32];
    u8 b[STEP][COLUMNS * 32];
    RowNumbers<F> rows[STEP][ROWS];
    ColumnNumbers<F> columns[STEP][COLUMNS];
};

// The numbers of two columns side by side: one load of 8 or 16 bytes, or two.
DEVICE void load_pair(Numbers<1> (&to)[2], const Numbers<1> *from) {
    float2 v = *reinterpret_cast<const float2 *>(from);
    to[0].v[0] = v.x;
    to[1].v[0] = v.y;
}
DEVICE void load_pair(Numbers<2> (&to)[2], const Numbers<2> *from) {
    float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = Numbers<2>{v.x, v.y};
    to[1] = Numbers<2>{v.z, v.w};
}
DEVICE void load_pair(Numbers<4> (&to)[2], const Numbers<4> *from) {
    to[0] = from[0];
    to[1] = from[1];
}

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
            uint2 numbers = load(reinterpret_cast<const uint2 *>(meta) + (meta_from + u32(block_of(step, meta_step)) * 8));
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
            to.rows[a_step][a_row] = row_numbers<F>(F::scales(raw, step * STEP % SUBS + a_step));
        } else {
            to.columns[meta_step][meta_column] = column_numbers<F>(float_of(column_scale), column_sums);
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
            load_rows(a[0], here.a[k], m_first);
            load_rows(a[1], here.a[k], m_first + 16);
            RowNumbers<F> rows[2][2];
#pragma unroll
            for (int m = 0; m < 4; m++) rows[m / 2][m % 2] = here.rows[k][m_first + 8 * m + g];
#pragma unroll
            for (int n = 0; n < 4; n++) {
                int column = n_first + 8 * n;
                uint2 b = *reinterpret_cast<const uint2 *>(&here.b[k][column * 32 + lane() * 8]);
                ColumnNumbers<F> columns[2];
                load_pair(columns, &here.columns[k][column + 2 * t]);
#pragma unroll
                for (int m = 0; m < 2; m++) add_tile<F>(acc[m][n], a[m], b, rows[m], columns);
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
