// How weights lie in the memory of a device, and how their values are taken out.
//
// A row of a GGUF weight is blocks of 18, 144 or 210 bytes, which no wide load fits. Here each part of the blocks is
// a plane of its own, and 32 rows are a panel whose entries are side by side: lane = row, so a warp's load of 16
// bytes a lane is 512 bytes in a row, no sum goes across lanes, and what belongs to a row stays in its lane:
//
//   plane  [panels, units, count, 32 rows, entry]     a unit is 256 values of a row; `entry` bytes, `count` a unit
//
// in this order, each plane of a format only where its entry is not 0:
//
//   NIBBLES  16 bytes for each 32 values: byte i has value i (low) and i + 16 (high)
//            (of tables: word w has the values 8 w.., in order)
//   BYTES    32 values as they are, in two entries of 16 bytes
//   PAIRS    8 bytes for each 32 values: byte b of word a has at bits 2 p the value 16 a + 4 p + b
//   BITS     4 bytes for each 32 values: bit p of byte b is the one of value 4 p + b
//   SCALES   16 bytes a unit; MINS: the same; TAIL: 2, 4 or 8 bytes a unit
//
// Rows are filled with zeros to whole panels, columns to whole units. So a weight takes what it takes in its file,
// but for what fills up (and 2 bytes a superblock of Q3_K). Plane sizes are multiples of 64, so entries are aligned.
//
// The value of a code u is scale * (u - OFFSET) - min, with the scales of kernels/src/ops/unpack.rs: products of a
// half and an integer, exact in float32.
#pragma once
#include "kernel.cuh"

// Values of a unit.
constexpr int UNIT = 256;
// Blocks of 32 in a unit.
constexpr int SUBS = UNIT / 32;
// Rows of a panel.
constexpr int PANEL = 32;

// What is loaded of a unit's scales.
struct RawScales {
    uint4 scales, mins;
    uint2 tail;
};

// The scales of 32 values: of all, or of each half; and what is added for each activation: less the minimum.
struct Scales {
    float scale[2], less_min[2];
};

DEVICE u32 word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
DEVICE u32 byte_of(const uint4 &v, int i) { return word_of(v, i / 4) >> (8 * (i % 4)) & 0xff; }
DEVICE float half_of(const uint4 &v, int i) { return f16_to_f32(word_of(v, i / 2) >> (16 * (i % 2)) & 0xffff); }
DEVICE float low_half(u32 v) { return f16_to_f32(v & 0xffff); }
DEVICE float high_half(u32 v) { return f16_to_f32(v >> 16); }

// 16 bytes to 32 nibbles: words 0 to 3 the low ones, 4 to 7 the high ones.
DEVICE void nibbles(const uint4 &v, u32 (&u)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u[i] = word_of(v, i) & 0x0f0f0f0f;
        u[4 + i] = word_of(v, i) >> 4 & 0x0f0f0f0f;
    }
}

// 32 pairs of bits.
DEVICE void pairs(const uint2 &v, u32 (&u)[8]) {
#pragma unroll
    for (int p = 0; p < 4; p++) {
        u[p] = v.x >> (2 * p) & 0x03030303;
        u[4 + p] = v.y >> (2 * p) & 0x03030303;
    }
}

// Adds a bit to each of 32 codes, at place AT.
template <int AT>
DEVICE void add_bits(u32 v, u32 (&u)[8]) {
#pragma unroll
    for (int p = 0; p < 8; p++) u[p] |= (v >> p & 0x01010101) << AT;
}

// The sixteen levels of IQ4_NL and IQ4_XS, four bytes a word.
constexpr u32 IQ4_0 = 0xbfad9881, IQ4_1 = 0xf6eaddcf, IQ4_2 = 0x26190d01, IQ4_3 = 0x71594535;

// Four levels for the low four nibbles of `codes`: each of two halves of the table by the low three bits, then one
// of them by the fourth.
DEVICE u32 look_up(u32 codes) {
    u32 low = __byte_perm(IQ4_0, IQ4_1, codes & 0x7777), high = __byte_perm(IQ4_2, IQ4_3, codes & 0x7777);
    return __byte_perm(low, high, 0x3210 + (codes >> 1 & 0x4444));
}
DEVICE void levels(const uint4 &v, u32 (&u)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u[2 * i] = look_up(word_of(v, i));
        u[2 * i + 1] = look_up(word_of(v, i) >> 16);
    }
}

// What formats have in common: by default, blocks of 32 values with a half as scale (and one as minimum).
struct Format {
    static constexpr bool NIBBLES = false, BYTES = false, PAIRS = false, BITS = false, MINS = false, SCALES = true;
    static constexpr int TAIL = 0;
    // Values that share a scale: 32 or 16.
    static constexpr int SUB = 32;
    // Whether there is a minimum.
    static constexpr bool MIN = false;
    // What a code is above the value; codes are signed bytes after it is taken off.
    static constexpr int OFFSET = 0;
    // Whether nibbles are numbers of a table, in order.
    static constexpr bool TABLE = false;
    // Values of a block of the file, and its bytes.
    static constexpr int BLOCK = 32;

    static METHOD Scales scales(const RawScales &raw, int sub) {
        float d = half_of(raw.scales, sub);
        return Scales{{d, d}, {0.0f, 0.0f}};
    }
};

struct Q4_0 : Format {
    static constexpr bool NIBBLES = true;
    static constexpr int OFFSET = 8, BYTES_OF_BLOCK = 18;
};
struct Q4_1 : Format {
    static constexpr bool NIBBLES = true, MINS = true, MIN = true;
    static constexpr int BYTES_OF_BLOCK = 20;
    static METHOD Scales scales(const RawScales &raw, int sub) {
        float d = half_of(raw.scales, sub), m = half_of(raw.mins, sub);
        return Scales{{d, d}, {m, m}};
    }
};
struct Q5_0 : Format {
    static constexpr bool NIBBLES = true, BITS = true;
    static constexpr int OFFSET = 16, BYTES_OF_BLOCK = 22;
};
struct Q5_1 : Q4_1 {
    static constexpr bool BITS = true;
    static constexpr int BYTES_OF_BLOCK = 24;
};
struct Q8_0 : Format {
    static constexpr bool BYTES = true;
    static constexpr int BYTES_OF_BLOCK = 34;
};
struct IQ4_NL : Format {
    static constexpr bool NIBBLES = true, TABLE = true;
    static constexpr int BYTES_OF_BLOCK = 18;
};

// Scales: 16 bytes, a scale (low nibble) and a minimum each; tail: d, dmin.
struct Q2_K : Format {
    static constexpr bool PAIRS = true, MIN = true;
    static constexpr int TAIL = 4, SUB = 16, BLOCK = 256, BYTES_OF_BLOCK = 84;
    static METHOD Scales scales(const RawScales &raw, int sub) {
        float d = low_half(raw.tail.x), dmin = high_half(raw.tail.x);
        u32 a = byte_of(raw.scales, 2 * sub), b = byte_of(raw.scales, 2 * sub + 1);
        return Scales{{d * float(a & 15), d * float(b & 15)}, {-(dmin * float(a >> 4)), -(dmin * float(b >> 4))}};
    }
};

// Scales: 12 bytes with sixteen scales of 6 bits, then d.
struct Q3_K : Format {
    static constexpr bool PAIRS = true, BITS = true;
    static constexpr int SUB = 16, OFFSET = 4, BLOCK = 256, BYTES_OF_BLOCK = 110;
    static METHOD float scale_of(const RawScales &raw, int j) {
        u32 low = byte_of(raw.scales, j % 8) >> (4 * (j / 8)) & 15;
        u32 high = byte_of(raw.scales, 8 + j % 4) >> (2 * (j / 4)) & 3;
        return low_half(raw.scales.w) * float(int(low | high << 4) - 32);
    }
    static METHOD Scales scales(const RawScales &raw, int sub) {
        return Scales{{scale_of(raw, 2 * sub), scale_of(raw, 2 * sub + 1)}, {0.0f, 0.0f}};
    }
};

// Scales: d, dmin, and 12 bytes with eight scales and minimums of 6 bits.
struct Q4_K : Format {
    static constexpr bool NIBBLES = true, MIN = true;
    static constexpr int BLOCK = 256, BYTES_OF_BLOCK = 144;
    static METHOD Scales scales(const RawScales &raw, int j) {
        float d = low_half(raw.scales.x), dmin = high_half(raw.scales.x);
        // Bytes j % 4 of three words: of the first four, a scale and a minimum; of the last four, their low nibbles are
        // in the third word and their high bits above those of the first.
        int at = 8 * (j % 4);
        u32 a = raw.scales.y >> at, b = raw.scales.z >> at, c = raw.scales.w >> at;
        u32 scale = j < 4 ? a & 63 : (c & 15) | (a >> 2 & 48), min = j < 4 ? b & 63 : (c >> 4 & 15) | (b >> 2 & 48);
        float s = d * float(scale), m = -(dmin * float(min));
        return Scales{{s, s}, {m, m}};
    }
};
struct Q5_K : Q4_K {
    static constexpr bool BITS = true;
    static constexpr int BYTES_OF_BLOCK = 176;
};

// Scales: 16 int8; tail: d.
struct Q6_K : Format {
    static constexpr bool NIBBLES = true, PAIRS = true;
    static constexpr int TAIL = 2, SUB = 16, OFFSET = 32, BLOCK = 256, BYTES_OF_BLOCK = 210;
    static METHOD Scales scales(const RawScales &raw, int sub) {
        float d = low_half(raw.tail.x);
        int a = i8(byte_of(raw.scales, 2 * sub)), b = i8(byte_of(raw.scales, 2 * sub + 1));
        return Scales{{d * float(a), d * float(b)}, {0.0f, 0.0f}};
    }
};

// Tail: d, the high 2 bits of eight scales, the low 4 bits of them.
struct IQ4_XS : Format {
    static constexpr bool NIBBLES = true, TABLE = true, SCALES = false;
    static constexpr int TAIL = 8, BLOCK = 256, BYTES_OF_BLOCK = 136;
    static METHOD Scales scales(const RawScales &raw, int j) {
        u32 low = raw.tail.y >> (4 * j) & 15, high = raw.tail.x >> (16 + 2 * j) & 3;
        float s = low_half(raw.tail.x) * float(int(low | high << 4) - 32);
        return Scales{{s, s}, {0.0f, 0.0f}};
    }
};

// Every quantized format: calls X(name in lower case, type).
#define EACH_FORMAT(X)                                                                                       \
    X(q4_0, Q4_0) X(q4_1, Q4_1) X(q5_0, Q5_0) X(q5_1, Q5_1) X(q8_0, Q8_0) X(q2_k, Q2_K) X(q3_k, Q3_K)        \
    X(q4_k, Q4_K) X(q5_k, Q5_K) X(q6_k, Q6_K) X(iq4_nl, IQ4_NL) X(iq4_xs, IQ4_XS)

// A weight on the device: where its planes are, in bytes. A weight takes less than 4 GiB (the host cuts a larger one
// between rows), so that places are 32 bits and only its address is 64.
template <class F>
struct Planes {
    const u8 *weight;
    u32 pairs, bits, scales, mins, tail;
    int units;
    // The first plane.
    static constexpr u32 nibbles = 0;

    METHOD Planes(const u8 *weight, int rows, int cols) : weight(weight), units(ceil_div(cols, UNIT)) {
        u32 all = u32(ceil_div(rows, PANEL)) * units * PANEL;
        pairs = all * (F::NIBBLES ? 128 : F::BYTES ? 256 : 0);
        bits = pairs + all * (F::PAIRS ? 64 : 0);
        scales = bits + all * (F::BITS ? 32 : 0);
        mins = scales + all * (F::SCALES ? 16 : 0);
        tail = mins + all * (F::MINS ? 16 : 0);
    }

    // The entry of a row in a plane with `count` entries of type T a unit.
    template <class T>
    METHOD const T *at(u32 plane, int count, int panel, int unit, int i, int row) const {
        u32 entry = ((u32(panel) * units + unit) * count + i) * PANEL + row;
        return reinterpret_cast<const T *>(weight + (plane + entry * u32(sizeof(T))));
    }

    // Asks for the codes and scales of a panel's unit, a line a lane: by a warp.
    METHOD void prefetch(int panel, int unit) const {
        auto ask = [&](u32 plane, int lines) {
            u32 at = plane + (u32(panel) * units + unit) * lines * 128;
            for (int i = threadIdx.x % PANEL; i < lines; i += PANEL) ::prefetch(weight + (at + i * 128));
        };
        if (F::NIBBLES) ask(nibbles, 32);
        if (F::BYTES) ask(nibbles, 64);
        if (F::PAIRS) ask(pairs, 16);
        if (F::BITS) ask(bits, 8);
        if (F::SCALES) ask(scales, 4);
    }

    METHOD RawScales load_scales(int panel, int unit, int row) const {
        RawScales raw{};
        if (F::SCALES) raw.scales = load_once(at<uint4>(scales, 1, panel, unit, 0, row));
        if (F::MINS) raw.mins = load_once(at<uint4>(mins, 1, panel, unit, 0, row));
        if (F::TAIL == 8) raw.tail = load_once(at<uint2>(tail, 1, panel, unit, 0, row));
        if (F::TAIL == 4) raw.tail.x = load_once(at<u32>(tail, 1, panel, unit, 0, row));
        if (F::TAIL == 2) raw.tail.x = load_once(at<u16>(tail, 1, panel, unit, 0, row));
        return raw;
    }
};

// The codes of 32 values of a row, as they are stored.
template <class F>
struct RawCodes {
    uint4 nibbles[F::BYTES ? 2 : 1];
    uint2 pairs;
    u32 bits;

    METHOD void load(const Planes<F> &planes, int panel, int unit, int sub, int row) {
        if (F::NIBBLES) nibbles[0] = load_once(planes.template at<uint4>(planes.nibbles, SUBS, panel, unit, sub, row));
        if constexpr (F::BYTES) {
            nibbles[0] = load_once(planes.template at<uint4>(planes.nibbles, 2 * SUBS, panel, unit, 2 * sub, row));
            nibbles[1] = load_once(planes.template at<uint4>(planes.nibbles, 2 * SUBS, panel, unit, 2 * sub + 1, row));
        }
        if (F::PAIRS) pairs = load_once(planes.template at<uint2>(planes.pairs, SUBS, panel, unit, sub, row));
        if (F::BITS) bits = load_once(planes.template at<u32>(planes.bits, SUBS, panel, unit, sub, row));
    }

    // Word i has the codes of values 4 i..: as they are, or as signed values for a table and for bytes.
    METHOD void unpack(u32 (&u)[8]) const {
        if constexpr (F::BYTES) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u[i] = word_of(nibbles[0], i);
                u[4 + i] = word_of(nibbles[1], i);
            }
        } else if constexpr (F::TABLE) {
            levels(nibbles[0], u);
        } else if constexpr (F::NIBBLES && F::PAIRS) {
            u32 high[8];
            ::nibbles(nibbles[0], u);
            ::pairs(pairs, high);
#pragma unroll
            for (int i = 0; i < 8; i++) u[i] |= high[i] << 4;
        } else if constexpr (F::NIBBLES) {
            ::nibbles(nibbles[0], u);
            if (F::BITS) add_bits<4>(bits, u);
        } else {
            ::pairs(pairs, u);
            if (F::BITS) add_bits<2>(bits, u);
        }
    }

    // As `unpack`, less the offset: signed values.
    METHOD void unpack_signed(u32 (&u)[8]) const {
        unpack(u);
        if (F::OFFSET == 0) return;
        // Bytes of less than 128: with the top bit set none borrows from the next, and it is turned back after.
        constexpr u32 offset = u32(F::OFFSET) * 0x01010101u;
#pragma unroll
        for (int i = 0; i < 8; i++) u[i] = ((u[i] | 0x80808080u) - offset) ^ 0x80808080u;
    }
};

// A row's codes one after the other: 32 values of a row follow the 32 before at the same distance, through all units.
template <class F>
struct Walk {
    u32 nibbles, pairs, bits;

    METHOD Walk(const Planes<F> &planes, int panel, int row) {
        u32 first = u32(panel) * planes.units * SUBS * PANEL;
        nibbles = first * (F::BYTES ? 32 : 16) + row * 16;
        pairs = planes.pairs + (first + row) * 8;
        bits = planes.bits + (first + row) * 4;
    }
    // The codes of values 32 i...
    METHOD void load(const u8 *weight, u32 i, RawCodes<F> &to) const {
        if constexpr (F::NIBBLES)
            to.nibbles[0] = load_once(reinterpret_cast<const uint4 *>(weight + (nibbles + i * (PANEL * 16))));
        if constexpr (F::BYTES) {
            to.nibbles[0] = load_once(reinterpret_cast<const uint4 *>(weight + (nibbles + i * (PANEL * 32))));
            to.nibbles[1] = load_once(reinterpret_cast<const uint4 *>(weight + (nibbles + i * (PANEL * 32) + PANEL * 16)));
        }
        if constexpr (F::PAIRS) to.pairs = load_once(reinterpret_cast<const uint2 *>(weight + (pairs + i * (PANEL * 8))));
        if constexpr (F::BITS) to.bits = load_once(reinterpret_cast<const u32 *>(weight + (bits + i * (PANEL * 4))));
    }
};

// The part of a row's units that a segment sums: products are sums of at most `SEGMENTS` segments, each in order, and
// added in order. It depends on the number of columns alone, so every kernel has the same sums.
constexpr int SEGMENTS = 16;
DEVICE int segments_of(int units) { return least(units, SEGMENTS); }
DEVICE int segment_start(int units, int segment) { return segment * units / segments_of(units); }
