// One to four columns times panels of a quantized weight: what decoding a token takes.
//
// A warp has a segment of a panel's columns (formats.cuh), a lane a row of it. A lane walks its row as the CPU does
// (kernels/src/ops/panel.rs): each 32 values are eight `dp4a` on the same integers, which enter the row's sum by one
// fused multiply-add, `y = fma(sum(q x), scale * d, y)`, then with a minimum `y = fma(-min, d * sum(x), y)`. So up to
// 256 columns give the CPU's bits, and beyond them the sum of the segments' products in order does.
//
// The bound is memory. For 32 values of 4 bits (576 bytes of a warp, with their scales) the machine code has 48
// instructions, so a multiprocessor of an H200 could take 84 bytes a nanosecond where the memory brings it 36. A warp
// asks for a whole unit (4.6 KiB) by prefetch instructions before its first load, before the kernel's inputs are there,
// and for the next unit while it multiplies one; so sixteen warps have 74 KiB on the way, twice what latency times
// bandwidth asks for, whatever registers leave in flight (three to four loads of 16 bytes a lane). Activations are
// one address for a whole warp: a broadcast out of the first-level cache, which weights do not go through.
#pragma once
#include "activations.cuh"
#include "formats.cuh"

// The products of one row's 32 values with a column's, added to the row's sum.
template <class F>
DEVICE void add_products(const u32 (&u)[8], const Scales &scales, const uint4 *x, const BlockMeta *meta, float &sum) {
    uint4 a = load(x), b = load(x + 1);
    // Word 2 t: values 4 t..; word 2 t + 1: values 16 + 4 t...
    int first = 0, second = 0;
    first = __dp4a(int(u[0]), int(a.x), first);
    first = __dp4a(int(u[1]), int(a.z), first);
    first = __dp4a(int(u[2]), int(b.x), first);
    first = __dp4a(int(u[3]), int(b.z), first);
    second = __dp4a(int(u[4]), int(a.y), second);
    second = __dp4a(int(u[5]), int(a.w), second);
    second = __dp4a(int(u[6]), int(b.y), second);
    second = __dp4a(int(u[7]), int(b.w), second);
    uint2 raw = load(reinterpret_cast<const uint2 *>(meta));
    float d = float_of(raw.x);
    int sums[2] = {first_sum(raw.y), second_sum(raw.y)};
    if (F::SUB == 32) {
        int all = sums[0] + sums[1];
        sum = fmaf(float(first + second - F::OFFSET * all), scales.scale[0] * d, sum);
        if (F::MIN) sum = fmaf(scales.less_min[0], d * float(all), sum);
    } else {
        sum = fmaf(float(first - F::OFFSET * sums[0]), scales.scale[0] * d, sum);
        if (F::MIN) sum = fmaf(scales.less_min[0], d * float(sums[0]), sum);
        sum = fmaf(float(second - F::OFFSET * sums[1]), scales.scale[1] * d, sum);
        if (F::MIN) sum = fmaf(scales.less_min[1], d * float(sums[1]), sum);
    }
}

// The blocks of columns that follow each other, all in one group of eight.
struct Columns {
    const i8 *q;
    const BlockMeta *meta;
    int blocks;

    METHOD Columns(const i8 *q, const BlockMeta *meta, int cols, int first)
        : q(q + block_place(first, 0, cols / 32) * 32), meta(meta + block_place(first, 0, cols / 32)),
          blocks(cols / 32) {}
};

// The sums of a segment of a row with C columns.
template <class F, int C>
DEVICE void multiply_segment(const Planes<F> &weight, int panel, int segment, const Columns &x, float (&sums)[C]) {
    int row = lane(), end = segment_start(weight.units, segment + 1);
#pragma unroll 1
    for (int unit = segment_start(weight.units, segment); unit < end; unit++) {
        // The next unit is on its way into the second-level cache while this one is multiplied.
        if (unit + 1 < end) weight.prefetch(panel, unit + 1);
        RawScales raw = weight.load_scales(panel, unit, row);
        // What is taken at once: as much as leaves its sums and codes in registers.
        constexpr int STEP = F::BYTES ? SUBS / 4 : SUBS;
#pragma unroll 1
        for (int half = 0; half < SUBS; half += STEP)
#pragma unroll
        for (int i = 0; i < STEP; i++) {
            int sub = half + i;
            RawCodes<F> codes;
            codes.load(weight, panel, unit, sub, row);
            u32 u[8];
            codes.unpack(u);
            Scales scales = F::scales(raw, sub);
            // Where the last unit is not whole, its weights have scales of 0 and meet any block there is.
            int block = unit * SUBS + sub;
            if (F::BLOCK == 32) block = least(block, x.blocks - 1);
#pragma unroll
            for (int c = 0; c < C; c++) {
                size_t place = size_t(block) * 8 + c;
                add_products<F>(u, scales, reinterpret_cast<const uint4 *>(x.q + place * 32), x.meta + place, sums[c]);
            }
        }
    }
}

// The sum of the segments' sums, which lie `stride` floats apart, in order.
DEVICE float add_segments(const float *sums, int stride, int units) {
    float sum = sums[0];
    for (int segment = 1; segment < segments_of(units); segment++) sum = sum + sums[segment * stride];
    return sum;
}
