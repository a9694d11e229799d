// Attention of many queries of a sequence over a cache in half precision, on the matrix unit: prefill.
//
//   q, plane, pages, sequences, seen, out: as in attention.cu; key_length and value_length are both D
//   tiles  [n]: the first column of each tile, and its columns, of one sequence; at most 64 / group
//
// Grid (tiles, kv_heads), blocks of 128 threads; dynamic shared memory of 512 D bytes (64 KiB for D of 128), for D of 256 of
// 96 KiB.
//
// FlashAttention-2 (arXiv:2307.08691): a block has 64 rows, query heads of a group times columns, so keys and values
// are shared by the group too; a warp has 16 rows. It goes over the positions in tiles of 64 (of long heads 32), the next of
// which comes by cp.async while this one is computed. Scores and weights stay in registers: the accumulators of the
// first product are the fragments of the second. Keys are transposed within a page and values are not, so both are
// loaded by transposing ldmatrix; pieces of 16 bytes change places (by row) so that no eight rows meet in a bank.
//
// Scores, the largest score and the sums are float32; queries and weights are rounded to half precision, so results
// are within about 2^-10 of those of attention.cu, and not the same to the bit.
#include "activations.cuh"
#include "kv.cuh"
#include "number.cuh"

constexpr int THREADS = 128;

// Positions of a tile: of long heads half as many, so that two tiles and the queries fit every device.
template <int D>
constexpr int TILE_OF = D > 128 ? 32 : 64;

// Where a tile of positions is in shared memory.
template <int D>
struct Room {
    static constexpr int TILE = TILE_OF<D>;
    // [pages, D, 16 positions], then [positions, D].
    f16 *keys, *values;

    METHOD Room(unsigned char *at, int buffer) {
        keys = reinterpret_cast<f16 *>(at) + buffer * 2 * TILE * D;
        values = keys + TILE * D;
    }
    // Eight positions (half h of a page) of value i.
    METHOD f16 *key(int page, int i, int h) const { return keys + ((page * D + i) * 2 + (h ^ (i >> 2 & 1))) * 8; }
    // Eight values, piece c, of a position: as many pieces change places as divide a row.
    METHOD f16 *value(int position, int c) const {
        constexpr int turn = D / 8 % 8 == 0 ? 7 : D / 8 % 4 == 0 ? 3 : 1;
        return values + position * D + (c ^ (position & turn)) * 8;
    }
};

template <int D>
DEVICE void attention_prefill(const float *q, int heads, int kv_heads, float scale, float cap, const u8 *plane, i64 width,
                              const int *pages, int table_width, const int *sequences, const int2 *seen,
                              const int2 *tiles, float *out) {
    constexpr int TILE = TILE_OF<D>, PAGES = TILE / PAGE;
    DYNAMIC_SHARED(unsigned char, shared);
    begin();
    int group = heads / kv_heads, kv_head = blockIdx.y, first = tiles[blockIdx.x].x;
    int rows = tiles[blockIdx.x].y * group, g = lane() / 4, t = lane() % 4;
    pages += size_t(sequences[first]) * table_width;
    const f16 *all_keys = reinterpret_cast<const f16 *>(plane + kv_head * width);
    const f16 *all_values = reinterpret_cast<const f16 *>(plane + (kv_heads + kv_head) * width);

    // What the tile's columns see together.
    int begin = 0x7fffffff, end = 0;
    for (int c = 0; c < tiles[blockIdx.x].y; c++) {
        begin = least(begin, seen[first + c].x);
        end = most(end, seen[first + c].y);
    }
    begin = begin / TILE * TILE;

    auto bring = [&](int from, const Room<D> &to) {
        // 16 bytes a copy: of keys two for each value of a page, of values D / 8 for each position.
#pragma unroll 4
        for (int i = thread(); i < TILE * D / 8; i += THREADS) {
            int page = i / (2 * D), k = i / 2 % D, h = i % 2;
            bool there = from + page * PAGE < end;
            int id = there ? pages[from / PAGE + page] : 0;
            copy_async(to.key(page, k, h), all_keys + (size_t(id) * D + k) * PAGE + h * 8, there);
        }
#pragma unroll 4
        for (int i = thread(); i < TILE * D / 8; i += THREADS) {
            int position = i / (D / 8), c = i % (D / 8);
            bool there = from + position < end;
            int id = there ? pages[(from + position) / PAGE] : 0;
            copy_async(to.value(position, c), all_values + (size_t(id) * PAGE + position % PAGE) * D + c * 8, there);
        }
        commit_copies();
    };
    bring(begin, Room<D>(shared, 0));

    // Rows of this lane: warp * 16 + g, and 8 further. A row beyond the end sees nothing.
    int row[2] = {warp() * 16 + g, warp() * 16 + g + 8};
    int2 sees[2];
    const float *query[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int own = least(row[r], rows - 1), column = first + own / group;
        sees[r] = row[r] < rows ? seen[column] : int2{0, 0};
        query[r] = q + (size_t(column) * heads + kv_head * group + own % group) * D;
    }
    // The queries' fragments: in registers, or of long heads in shared memory, where each lane keeps its own.
    constexpr bool SHARED = D > 128;
    u32 fragments[SHARED ? 1 : D / 16][4];
    uint4 *kept = reinterpret_cast<uint4 *>(shared + 8 * TILE * D) + warp() * (D / 16) * WARP + lane();
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 own[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *at = query[i % 2] + k * 16 + i / 2 * 8 + 2 * t;
            own[i] = pack_f16(at[0], at[1]);
            if constexpr (!SHARED) fragments[k][i] = own[i];
        }
        if constexpr (SHARED) kept[k * WARP] = make_uint4(own[0], own[1], own[2], own[3]);
    }

    float acc[D / 8][4] = {}, greatest[2] = {-3.40282347e38f, -3.40282347e38f}, sums[2] = {};
    float factor = cap > 0.0f ? scale : scale * 1.44269504f, nothing = float_of(0xff800000u);
    int buffer = 0;
    for (int from = begin; from < end; from += TILE, buffer ^= 1) {
        Room<D> here(shared, buffer);
        bool more = from + TILE < end;
        if (more) bring(from + TILE, Room<D>(shared, buffer ^ 1));
        if (more) wait_for_copies<1>(); else wait_for_copies<0>();
        __syncthreads();

        float scores[TILE / 8][4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            u32 a[4];
            if constexpr (SHARED) {
                uint4 own = kept[k * WARP];
                a[0] = own.x, a[1] = own.y, a[2] = own.z, a[3] = own.w;
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++) a[i] = fragments[k][i];
            }
#pragma unroll
            for (int page = 0; page < PAGES; page++) {
                u32 b[4];
                int m = lane() / 8;
                load_matrices_transposed(b, here.key(page, k * 16 + m % 2 * 8 + lane() % 8, m / 2));
                mma_f16(scores[2 * page], a, b[0], b[1]);
                mma_f16(scores[2 * page + 1], a, b[2], b[3]);
            }
        }

        float top[2] = {greatest[0], greatest[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int position = from + n * 8 + 2 * t + i % 2;
                float s = scores[n][i] * factor;
                if (cap > 0.0f) s = soft_cap_score(s, cap);
                s = position >= sees[i / 2].x && position < sees[i / 2].y ? s : nothing;
                scores[n][i] = s;
                top[i / 2] = greater(s, top[i / 2]);
            }
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = greater(__shfl_xor_sync(ALL, top[r], 1), top[r]);
            top[r] = greater(__shfl_xor_sync(ALL, top[r], 2), top[r]);
            shrink[r] = exp2_fast(greatest[r] - top[r]);
            greatest[r] = top[r];
            sums[r] *= shrink[r];
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[n][i] *= shrink[i / 2];
#pragma unroll
        for (int page = 0; page < PAGES; page++) {
            u32 weights[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *s = scores[2 * page + i / 2] + i % 2 * 2;
                float a = exp2_fast(s[0] - greatest[i % 2]), b = exp2_fast(s[1] - greatest[i % 2]);
                sums[i % 2] += a + b;
                weights[i] = pack_f16(a, b);
            }
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 b[4];
                int m = lane() / 8;
                load_matrices_transposed(b, here.value(page * PAGE + m % 2 * 8 + lane() % 8, 2 * n + m / 2));
                mma_f16(acc[2 * n], weights, b[0], b[1]);
                mma_f16(acc[2 * n + 1], weights, b[2], b[3]);
            }
        }
        // The buffer is filled anew in the next turn.
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums[r] += __shfl_xor_sync(ALL, sums[r], 1);
        sums[r] += __shfl_xor_sync(ALL, sums[r], 2);
        if (row[r] >= rows) continue;
        int column = first + row[r] / group, head = kv_head * group + row[r] % group;
        float *to = out + (size_t(column) * heads + head) * D;
        float inverse = __fdiv_rn(1.0f, sums[r]);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *reinterpret_cast<float2 *>(to + n * 8 + 2 * t) =
                make_float2(acc[n][2 * r] * inverse, acc[n][2 * r + 1] * inverse);
    }
}

#define PREFILL(D)                                                                                                \
    KERNEL(128, D > 128 ? 1 : D > 64 ? 2 : 3, attention_prefill_##D, const float *q, int heads, int kv_heads, float scale, float cap, \
           const u8 *plane, i64 width, const int *pages, int table_width, const int *sequences, const int2 *seen, \
           const int2 *tiles, float *out) {                                                                       \
        attention_prefill<D>(q, heads, kv_heads, scale, cap, plane, width, pages, table_width, sequences, seen,   \
                             tiles, out);                                                                         \
    }
PREFILL(64)
PREFILL(80)
PREFILL(96)
PREFILL(112)
PREFILL(128)
PREFILL(256)
