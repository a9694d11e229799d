// Products of a quantized weight with 5 to 32 columns of int8 blocks, bound by memory: Op::MatMul for a batch.
//
// The arguments are those of matvec_*_4 (matvec.cu). Grid (ceil(rows / 32), ceil(columns / (8 N))), blocks of 256
// threads, N of 1 or 4 groups of eight columns.
//
// A block has a panel of 32 rows, each of its eight warps every eighth segment of their columns. A warp loads its rows
// as matvec does (lane = row, 512 bytes in a row, one step ahead), turns them into fragments by way of 1 KiB of shared
// memory of its own (two buffers, one __syncwarp a step, no conflicts of banks), and takes the fragments of the
// columns as they lie in memory, 256 bytes in a row out of the first-level cache. A step of 32 values with 32 columns
// is about 300 instructions of a warp, so a multiprocessor takes 7.7 bytes of 4-bit weights a cycle, 37 % of what an
// H200's memory brings; with eight columns the memory is the bound. Partial sums meet in shared memory.
#include "matmul.cuh"

constexpr int WARPS = 8;

template <class F, int N>
DEVICE void matmul_few(const u8 *weight, int rows, int cols, const i8 *q, const BlockMeta *meta, const float *bias,
                       float *out, int stride, int columns, int add) {
    constexpr int TILE = PANEL * (32 + int(sizeof(RowNumbers<F>))), PARTIAL = PANEL * 8 * N * 4;
    // Two tiles of each warp; then the sums of each warp's segment, [8 N columns, 32 rows].
    __shared__ __align__(16) u8 room[WARPS * (2 * TILE > PARTIAL ? 2 * TILE : PARTIAL)];
    Planes<F> planes(weight, rows, cols);
    let_next_begin();
    if (warp() < segments_of(planes.units)) planes.prefetch(blockIdx.x, segment_start(planes.units, warp()));
    wait_for_inputs();
    int panel = blockIdx.x, g = lane() / 4, t = lane() % 4, blocks = cols / 32;
    // Groups of columns there are; others meet any.
    int groups = ceil_div(columns, 8), first = blockIdx.y * N;
    u8 *own = room + warp() * 2 * TILE;
    // The first blocks of the groups, counted in blocks of eight columns.
    u32 group[N];
#pragma unroll
    for (int n = 0; n < N; n++) group[n] = u32(least(first + n, groups - 1)) * blocks;
    float *partial = reinterpret_cast<float *>(room);
    // Results of this thread: row lane(), columns warp(), warp() + 8...
    float totals[N] = {};
    for (int round = 0; round < segments_of(planes.units); round += WARPS) {
        int segment = round + warp();
        float acc[2][N][4] = {};
        if (segment < segments_of(planes.units)) {
            int step = segment_start(planes.units, segment) * SUBS, end = segment_start(planes.units, segment + 1) * SUBS;
            Walk<F> walk(planes, panel, lane());
            RawCodes<F> codes;
            RawScales raw{};
            walk.load(weight, step, codes);
#pragma unroll 1
            for (; step < end; step++) {
                if (step % SUBS == 0) {
                    if (step + SUBS < end) planes.prefetch(panel, step / SUBS + 1);
                    raw = planes.load_scales(panel, step / SUBS, lane());
                }
                u8 *tile = own + step % 2 * TILE;
                RowNumbers<F> *numbers = reinterpret_cast<RowNumbers<F> *>(tile + PANEL * 32);
                u32 u[8];
                codes.unpack_signed(u);
                put_row(tile, lane(), u);
                numbers[lane()] = row_numbers<F>(F::scales(raw, step % SUBS));
                walk.load(weight, least(step + 1, end - 1), codes);
                __syncwarp();
                u32 a[2][4];
                load_rows(a[0], tile, 0);
                load_rows(a[1], tile, 16);
                RowNumbers<F> rows[2][2];
#pragma unroll
                for (int m = 0; m < 4; m++) rows[m / 2][m % 2] = numbers[8 * m + g];
                int block = F::BLOCK == 32 ? least(step, blocks - 1) : step;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    u32 place = group[n] + block;
                    uint2 b = load(reinterpret_cast<const uint2 *>(q + (place * 256 + lane() * 8)));
                    // Of columns 2 t and 2 t + 1.
                    uint4 both = load(reinterpret_cast<const uint4 *>(meta) + (place * 4 + t));
                    ColumnNumbers<F> columns[2] = {column_numbers<F>(float_of(both.x), both.y),
                                                   column_numbers<F>(float_of(both.z), both.w)};
#pragma unroll
                    for (int m = 0; m < 2; m++) add_tile<F>(acc[m][n], a[m], b, rows[m], columns);
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int row = 16 * m + 8 * (i / 2) + g, column = 8 * n + 2 * t + i % 2;
                    partial[(warp() * 8 * N + column) * PANEL + row] = acc[m][n][i];
                }
        __syncthreads();
        int here = least(WARPS, segments_of(planes.units) - round);
#pragma unroll
        for (int n = 0; n < N; n++)
            for (int w = 0; w < here; w++)
                totals[n] = totals[n] + partial[(w * 8 * N + 8 * n + warp()) * PANEL + lane()];
        __syncthreads();
    }
    int row = panel * PANEL + lane();
#pragma unroll
    for (int n = 0; n < N; n++) {
        int column = (first + n) * 8 + warp();
        if (row < rows && column < columns) put_product(out + size_t(column) * stride + row, totals[n], bias, row, add);
    }
}

#define MATMUL_FEW_OF(name, F, N, COLUMNS)                                                                        \
    KERNEL(256, 2, matmul_##name##_##COLUMNS, const u8 *weight, int rows, int cols, const i8 *q,                  \
           const BlockMeta *meta, const float *bias, float *out, int stride, int columns, int add) {              \
        matmul_few<F, N>(weight, rows, cols, q, meta, bias, out, stride, columns, add);                           \
    }
#define MATMUL_FEW(name, F) MATMUL_FEW_OF(name, F, 1, 8) MATMUL_FEW_OF(name, F, 4, 32)
EACH_FORMAT(MATMUL_FEW)
