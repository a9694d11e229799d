// Rows of a weight as floats: Op::Embed and Op::AddPosition.
//
//   weight  planes of a table [rows, cols] (formats.cuh)
//   ids     the row of each column
//   out     [columns, cols]: `out = scale * row` (a scale of 1 changes nothing), or `out += row`
//
// Grid (ceil(cols / 256), columns), a block of 256 threads: a warp has 32 values of a row, which share their scales.
// A row's entries are 512 bytes apart, so half of what a sector brings is unused: one row of a table that is read
// for each token is no matter. The values are those of kernels/src/ops/row.rs.
#include "formats.cuh"

DEVICE void put(float *out, size_t at, float v, float scale, bool add) {
    v = scale == 1.0f ? v : v * scale;
    out[at] = add ? out[at] + v : v;
}

// A row that is beyond the table is the last one.
DEVICE int row_of(const int *ids, int rows) { return least(most(ids[blockIdx.y], 0), rows - 1); }

template <class F>
DEVICE void embed(const u8 *weight, int rows, int cols, const int *ids, float *out, float scale, int add) {
    int unit = blockIdx.x, sub = warp(), i = unit * UNIT + thread();
    begin();
    if (unit * UNIT + sub * 32 >= cols) return;
    int row = row_of(ids, rows);
    Planes<F> planes(weight, rows, cols);
    RawCodes<F> raw;
    raw.load(planes, row / PANEL, unit, sub, row % PANEL);
    Scales scales = F::scales(planes.load_scales(row / PANEL, unit, row % PANEL), sub);
    u32 u[8];
    raw.unpack_signed(u);
    // The word of this lane, without a register that is chosen at run time.
    u32 word = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) word = lane() / 4 == k ? u[k] : word;
    int half = F::SUB == 16 ? lane() / 16 : 0;
    float v = scales.scale[half] * float(i8(word >> (8 * (lane() % 4)) & 0xff));
    put(out, size_t(blockIdx.y) * cols + i, F::MIN ? v + scales.less_min[half] : v, scale, add);
}

#define EMBED(name, F)                                                                                            \
    KERNEL(256, 4, embed_##name, const u8 *weight, int rows, int cols, const int *ids, float *out, float scale,   \
           int add) {                                                                                             \
        embed<F>(weight, rows, cols, ids, out, scale, add);                                                       \
    }
EACH_FORMAT(EMBED)

template <class T, class Widen>
DEVICE void embed_floats(const u8 *weight, int rows, int cols, const int *ids, float *out, float scale, int add,
                         Widen widen) {
    constexpr int N = 16 / sizeof(T);
    begin();
    int i = blockIdx.x * blockDim.x + thread(), row = row_of(ids, rows);
    if (i >= cols) return;
    size_t chunk = (size_t(row / PANEL) * ceil_div(cols, N) + i / N) * PANEL + row % PANEL;
    put(out, size_t(blockIdx.y) * cols + i, widen(reinterpret_cast<const T *>(weight)[chunk * N + i % N]), scale, add);
}

KERNEL(256, 4, embed_f32, const u8 *weight, int rows, int cols, const int *ids, float *out, float scale, int add) {
    embed_floats<u32>(weight, rows, cols, ids, out, scale, add, [](u32 v) { return float_of(v); });
}
KERNEL(256, 4, embed_f16, const u8 *weight, int rows, int cols, const int *ids, float *out, float scale, int add) {
    embed_floats<u16>(weight, rows, cols, ids, out, scale, add, [](u16 v) { return f16_to_f32(v); });
}
KERNEL(256, 4, embed_bf16, const u8 *weight, int rows, int cols, const int *ids, float *out, float scale, int add) {
    embed_floats<u16>(weight, rows, cols, ids, out, scale, add, [](u16 v) { return bf16_to_f32(v); });
}
