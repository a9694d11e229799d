// Weights from the bytes of a GGUF file to planes (formats.cuh), once, when a model is loaded.
//
//   file    rows of `cols` values, each contiguous, as blocks of the format; any alignment
//   weight  the planes; rows 0.. of them from `first` on (a large weight comes in pieces: `first` is a multiple of 32)
//   rows    of the whole weight; `count` of them are in `file`
//
// Grid (units, ceil(count / 32)), a block of 32 threads: lane = row. The file's blocks are read a byte at a time, at
// odd addresses; that is slow, and less than what the bus brings them at (the lanes' rows are far apart, but each
// reads its line to the end, from the first-level cache). The last panel's missing rows and columns become zeros.
#include "formats.cuh"

// A block of a row: bytes, or zeros beyond the end.
struct Block {
    const u8 *at;
    METHOD u32 operator[](int i) const { return at ? at[i] : 0; }
};

// `code`: code i of the 32 values `sub` of a unit (0 to 7), as the file has it, of the block that they are in.
DEVICE u32 nibble(const Block &b, int at, int i) { return b[at + i % 16] >> (4 * (i / 16)) & 15; }
DEVICE u32 fifth(const Block &b, int at, int i) { return (b[at + i / 8] >> (i % 8) & 1) << 4; }
// A nibble of Q4_K and Q5_K: byte 32 g + l has values 64 g + l and 64 g + l + 32.
DEVICE u32 far_nibble(const Block &b, int at, int sub, int i) { return b[at + sub / 2 * 32 + i] >> (4 * (sub % 2)) & 15; }
// Two bits: byte 32 h + l has the values 128 h + l + {0, 32, 64, 96}.
DEVICE u32 pair(const Block &b, int at, int sub, int i) { return b[at + sub / 4 * 32 + i] >> (2 * (sub % 4)) & 3; }

DEVICE u32 code(Q4_0, const Block &b, int, int i) { return nibble(b, 2, i); }
DEVICE u32 code(Q4_1, const Block &b, int, int i) { return nibble(b, 4, i); }
DEVICE u32 code(Q5_0, const Block &b, int, int i) { return nibble(b, 6, i) | fifth(b, 2, i); }
DEVICE u32 code(Q5_1, const Block &b, int, int i) { return nibble(b, 8, i) | fifth(b, 4, i); }
DEVICE u32 code(Q8_0, const Block &b, int, int i) { return b[2 + i]; }
DEVICE u32 code(IQ4_NL, const Block &b, int, int i) { return nibble(b, 2, i); }
DEVICE u32 code(Q2_K, const Block &b, int sub, int i) { return pair(b, 16, sub, i); }
DEVICE u32 code(Q3_K, const Block &b, int sub, int i) {
    return pair(b, 32, sub, i) | (b[i] >> sub & 1) << 2;
}
DEVICE u32 code(Q4_K, const Block &b, int sub, int i) { return far_nibble(b, 16, sub, i); }
DEVICE u32 code(Q5_K, const Block &b, int sub, int i) {
    return far_nibble(b, 48, sub, i) | (b[16 + i] >> sub & 1) << 4;
}
DEVICE u32 code(Q6_K, const Block &b, int sub, int i) {
    u32 low = b[sub / 4 * 64 + sub % 2 * 32 + i] >> (4 * (sub % 4 / 2)) & 15;
    return low | pair(b, 128, sub, i) << 4;
}
DEVICE u32 code(IQ4_XS, const Block &b, int sub, int i) { return nibble(b, 8 + 16 * sub, i); }

template <class F>
DEVICE void repack(const u8 *file, u8 *weight, int rows, int cols, int first, int count) {
    int unit = blockIdx.x, panel = first / PANEL + blockIdx.y, row = blockIdx.y * PANEL + lane();
    Planes<F> planes(weight, rows, cols);
    size_t row_bytes = size_t(cols / F::BLOCK) * F::BYTES_OF_BLOCK;
    const u8 *own = row < count ? file + row * row_bytes : nullptr;
    // The block that 32 values of the unit are in.
    auto block = [&](int sub) {
        int at = (unit * UNIT + 32 * sub) / F::BLOCK;
        return Block{own && at < cols / F::BLOCK ? own + size_t(at) * F::BYTES_OF_BLOCK : nullptr};
    };
    auto entry = [&](u32 plane, int count, int i, auto value) {
        *const_cast<decltype(value) *>(planes.template at<decltype(value)>(plane, count, panel, unit, i, lane())) = value;
    };
    for (int sub = 0; sub < SUBS; sub++) {
        Block b = block(sub);
        u32 low[8] = {}, two[2] = {}, bits = 0;
        for (int i = 0; i < 32; i++) {
            u32 u = code(F(), b, sub, i);
            if (F::BYTES) low[i / 4] |= u << (8 * (i % 4));
            if (F::NIBBLES && F::TABLE) low[i / 8] |= u << (4 * (i % 8));
            if (F::NIBBLES && !F::TABLE) low[i % 16 / 4] |= (u & 15) << (8 * (i % 4) + 4 * (i / 16));
            if (F::PAIRS) two[i / 16] |= (F::NIBBLES ? u >> 4 : u & 3) << (8 * (i % 4) + 2 * (i % 16 / 4));
            if (F::BITS) bits |= (F::NIBBLES ? u >> 4 : u >> 2) << (8 * (i % 4) + i / 4);
        }
        if (F::NIBBLES) entry(planes.nibbles, SUBS, sub, make_uint4(low[0], low[1], low[2], low[3]));
        if (F::BYTES) {
            entry(planes.nibbles, 2 * SUBS, 2 * sub, make_uint4(low[0], low[1], low[2], low[3]));
            entry(planes.nibbles, 2 * SUBS, 2 * sub + 1, make_uint4(low[4], low[5], low[6], low[7]));
        }
        if (F::PAIRS) entry(planes.pairs, SUBS, sub, make_uint2(two[0], two[1]));
        if (F::BITS) entry(planes.bits, SUBS, sub, bits);
    }
    // Scales. Bytes of a superblock, or a half of each block.
    u32 scales[4] = {}, mins[4] = {};
    Block b = block(0);
    auto bytes = [&](u32 (&to)[4], int place, int at, int n) {
        for (int i = 0; i < n; i++) to[(place + i) / 4] |= b[at + i] << (8 * ((place + i) % 4));
    };
    if (F::BLOCK == 32) {
        for (int sub = 0; sub < SUBS; sub++) {
            Block b = block(sub);
            scales[sub / 2] |= (b[0] | b[1] << 8) << (16 * (sub % 2));
            if (F::MINS) mins[sub / 2] |= (b[2] | b[3] << 8) << (16 * (sub % 2));
        }
    } else if (F::BYTES_OF_BLOCK == 144 || F::BYTES_OF_BLOCK == 176) {
        bytes(scales, 0, 0, 16);
    } else if (F::BYTES_OF_BLOCK == 84) {
        bytes(scales, 0, 0, 16);
        bytes(mins, 0, 80, 4);
    } else if (F::BYTES_OF_BLOCK == 110) {
        bytes(scales, 0, 96, 14);
    } else if (F::BYTES_OF_BLOCK == 210) {
        bytes(scales, 0, 192, 16);
        bytes(mins, 0, 208, 2);
    } else {
        bytes(mins, 0, 0, 8);
    }
    if (F::SCALES) entry(planes.scales, 1, 0, make_uint4(scales[0], scales[1], scales[2], scales[3]));
    if (F::MINS) entry(planes.mins, 1, 0, make_uint4(mins[0], mins[1], mins[2], mins[3]));
    if (F::TAIL == 8) entry(planes.tail, 1, 0, make_uint2(mins[0], mins[1]));
    if (F::TAIL == 4) entry(planes.tail, 1, 0, mins[0]);
    if (F::TAIL == 2) entry(planes.tail, 1, 0, u16(mins[0]));
}

#define REPACK(name, F)                                                                                           \
    KERNEL(32, 16, repack_##name, const u8 *file, u8 *weight, int rows, int cols, int first, int count) {         \
        repack<F>(file, weight, rows, cols, first, count);                                                        \
    }
EACH_FORMAT(REPACK)

// Floats: [panels, ceil(cols / n), 32 rows, 16 bytes], n values of 4 or 2 bytes to 16; filled up with zeros.
template <class T>
DEVICE void repack_floats(const u8 *file, u8 *weight, int cols, int first, int count) {
    constexpr int N = 16 / sizeof(T);
    int chunk = blockIdx.x, panel = first / PANEL + blockIdx.y, row = blockIdx.y * PANEL + lane();
    u32 words[4] = {};
    const u8 *from = file + (size_t(row) * cols + size_t(chunk) * N) * sizeof(T);
    int bytes = row < count ? least(N, cols - chunk * N) * int(sizeof(T)) : 0;
    for (int i = 0; i < bytes; i++) words[i / 4] |= u32(from[i]) << (8 * (i % 4));
    reinterpret_cast<uint4 *>(weight)[(size_t(panel) * ceil_div(cols, N) + chunk) * PANEL + lane()] =
        make_uint4(words[0], words[1], words[2], words[3]);
}

// Grid (ceil(cols / 4), ceil(count / 32)) for float32, (ceil(cols / 8), ceil(count / 32)) for 16 bits.
KERNEL(32, 16, repack_f32, const u8 *file, u8 *weight, int cols, int first, int count) {
    repack_floats<u32>(file, weight, cols, first, count);
}
KERNEL(32, 16, repack_16, const u8 *file, u8 *weight, int cols, int first, int count) {
    repack_floats<u16>(file, weight, cols, first, count);
}
