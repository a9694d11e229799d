// Attention of a few queries, a chunk of 256 positions at a time: decoding, and any kind of cache or head. To the bit
// what kernels/src/ops/attention defines, whose chunks these are.
//
//   q         [columns, heads, key_length], from prepare_queries
//   plane     the cache of a block of the model (kv.cuh), `width` bytes a column
//   pages     [sequences, table_width]: the pages of each sequence
//   sequences [columns]; seen [columns]: the positions that a column sees, start and end
//   parts     [columns, heads, chunks, value_length + 2]: the weighted values, the sum of the weights, the greatest score
//   counters  [columns, grid y], zeros, or null: with them the last block of a column's heads merges their parts
//   out       [columns, heads * value_length], or blocks of it (value_length a multiple of 32); the others null
//
// attention_KIND_G: grid (chunks, kv_heads * ceil(group / G), columns), blocks of 128 threads, G of 1, 4 or 8 query heads
// that share each load of a key or value; dynamic shared memory of G * (key_length, in fours, + 256) floats.
// attention_merge: grid (heads, columns), blocks of 128 threads.
//
// Scores: a thread has two positions and all values of their keys in order, four bytes a load of which a warp's fill
// four sectors of 32 bytes (a page has 16 positions of a value side by side), sixteen loads in flight. No sum goes across
// threads. Weights: a warp a head. Values: a thread has values of all positions in order, a warp 64 or 128 bytes of a
// row. What is loaded is used for G heads, so for half precision arithmetic is 2 G operations for two bytes; the bound
// is memory, of which a block has its 128 KiB in flight by and by, and a multiprocessor sixteen blocks.
#include "activations.cuh"
#include "kv.cuh"
#include "number.cuh"

constexpr int CHUNK = 256, THREADS = 128;

// Two keys side by side, at an even position of a page.
template <int KIND>
struct KeyPair {
    // The page's keys, at the positions; the scales of the 32 values around.
    const u8 *at;
    int length;
    float scale[2];

    METHOD KeyPair(const u8 *column, int slot, int length) : length(length), scale{0.0f, 0.0f} {
        size_t page = size_t(slot / PAGE) * PAGE * row_bytes<KIND>(length);
        at = column + page + slot % PAGE * (KIND == KV_F32 ? 4 : KIND == KV_F16 ? 2 : 1);
    }
    METHOD void load_scales(int i, int position) {
        if constexpr (KIND == KV_Q8_0 || KIND == KV_Q4_0) {
            // The scales are two bytes for each position, the values one.
            u32 both = *reinterpret_cast<const u32 *>(at + i / 32 * PAGE * (2 + BLOCK_BYTES<KIND>) + position);
            scale[0] = f16_to_f32(both & 0xffff);
            scale[1] = f16_to_f32(both >> 16);
        }
    }
    // Values i to i + N - 1, which do not cross a multiple of 16.
    template <int N>
    METHOD void values(int i, float2 (&to)[N]) const {
        if constexpr (KIND == KV_F16) {
            const u8 *from = at + i * (2 * PAGE);
#pragma unroll
            for (int j = 0; j < N; j++) {
                u32 both = load(reinterpret_cast<const u32 *>(from + j * (2 * PAGE)));
                to[j] = make_float2(f16_to_f32(both & 0xffff), f16_to_f32(both >> 16));
            }
        } else if constexpr (KIND == KV_F32) {
            const u8 *from = at + i * (4 * PAGE);
#pragma unroll
            for (int j = 0; j < N; j++) to[j] = load(reinterpret_cast<const float2 *>(from + j * (4 * PAGE)));
        } else {
            int k = i % 32, shift = k / 16 * 4;
            const u8 *from = at + i / 32 * PAGE * (2 + BLOCK_BYTES<KIND>) + 2 * PAGE + (KIND == KV_Q8_0 ? k : k % 16) * PAGE;
#pragma unroll
            for (int j = 0; j < N; j++) {
                u32 both = load(reinterpret_cast<const u16 *>(from + j * PAGE));
                int first = KIND == KV_Q8_0 ? int(i8(both & 0xff)) : int(both >> shift & 15) - 8;
                int second = KIND == KV_Q8_0 ? int(i8(both >> 8)) : int(both >> shift >> 8 & 15) - 8;
                to[j] = make_float2(scale[0] * float(first), scale[1] * float(second));
            }
        }
    }
};

// Value i of a head: its parts merged in order, and divided by the sum of the weights. Parts may be those that other
// blocks have just written, so they are read past the first-level cache.
DEVICE float merged(const float *part, int count, int value_length, int i) {
    float a = __ldcg(part + i), weights = __ldcg(part + value_length), greatest = __ldcg(part + value_length + 1);
    for (int c = 1; c < count; c++) {
        part += value_length + 2;
        float score = __ldcg(part + value_length + 1), top = greater(score, greatest);
        float f = exp2_of_negative(greatest - top), g = exp2_of_negative(score - top);
        a = fmaf(__ldcg(part + i), g, a * f);
        weights = fmaf(__ldcg(part + value_length), g, weights * f);
        greatest = top;
    }
    return __fdiv_rn(a, weights);
}

// Where results go: floats [columns, heads * value_length], or blocks of them where value_length is a multiple of 32; the
// others are null.
struct Results {
    float *out;
    i8 *q;
    BlockMeta *meta;

    // Merges a head of a column: by a block, of whole warps for the blocks.
    METHOD void merge(const float *part, int count, int column, int head, int heads, int value_length) const {
        for (int i = thread(); i < ceil_div(value_length, WARP) * WARP; i += THREADS) {
            float v = merged(part, count, value_length, least(i, value_length - 1));
            if (out && i < value_length) out[(size_t(column) * heads + head) * value_length + i] = v;
            if (q)
                quantize_block(v, q, meta,
                               block_place(column, (head * value_length + i) / 32, heads * value_length / 32));
        }
    }
};

template <int KIND, int G>
DEVICE void attention(const float *q, int heads, int kv_heads, int key_length, int value_length, float scale, float cap,
                      const u8 *plane, i64 width, const int *pages, int table_width, const int *sequences,
                      const int2 *seen, float *parts, int chunks, int *counters, Results results) {
    DYNAMIC_SHARED(float, queries);
    begin();
    int stride = ceil_div(key_length, 4) * 4;
    // [G, 256]: scores, then weights.
    float *scores = queries + G * stride;
    int column = blockIdx.z, group = heads / kv_heads, rounds = ceil_div(group, G);
    int kv_head = blockIdx.y / rounds, first = kv_head * group + blockIdx.y % rounds * G;
    // Heads there are; the others compute what nobody takes.
    int count = least(G, group - int(blockIdx.y) % rounds * G);
    int chunk = seen[column].x / CHUNK + blockIdx.x, from = chunk * CHUNK;
    int start = most(seen[column].x - from, 0), end = least(seen[column].y - from, CHUNK);
    if (start >= end) return;
    pages += size_t(sequences[column]) * table_width;
    auto slot = [&](int p) { return pages[(from + p) / PAGE] * PAGE + p % PAGE; };

    float factor = cap > 0.0f ? scale : scale * 1.44269504f;
    for (int i = thread(); i < G * stride; i += THREADS) {
        int g = i / stride, k = i % stride;
        bool own = g < count && k < key_length;
        queries[i] = own ? q[(size_t(column) * heads + first + g) * key_length + k] * factor : 0.0f;
    }
    __syncthreads();

    int p = 2 * thread();
    float sums[G][2] = {};
    if (p / PAGE * PAGE < end && p / PAGE * PAGE + PAGE > start) {
        KeyPair<KIND> keys(plane + kv_head * width, slot(p), key_length);
        int whole = key_length / 4 * 4;
#pragma unroll 4
        for (int i = 0; i < whole; i += 4) {
            if (i % 32 == 0) keys.load_scales(i, p % PAGE);
            float2 k[4];
            keys.values(i, k);
#pragma unroll
            for (int g = 0; g < G; g++) {
                float4 own = *reinterpret_cast<const float4 *>(queries + g * stride + i);
                float v[4] = {own.x, own.y, own.z, own.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sums[g][0] = fmaf(v[j], k[j].x, sums[g][0]);
                    sums[g][1] = fmaf(v[j], k[j].y, sums[g][1]);
                }
            }
        }
        for (int i = whole; i < key_length; i++) {
            float2 k[1];
            keys.values(i, k);
#pragma unroll
            for (int g = 0; g < G; g++) {
                sums[g][0] = fmaf(queries[g * stride + i], k[0].x, sums[g][0]);
                sums[g][1] = fmaf(queries[g * stride + i], k[0].y, sums[g][1]);
            }
        }
    }
    float nothing = float_of(0xff800000u);
#pragma unroll
    for (int g = 0; g < G; g++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float s = cap > 0.0f ? soft_cap_score(sums[g][j], cap) : sums[g][j];
            scores[g * CHUNK + p + j] = p + j >= start && p + j < end ? s : nothing;
        }
    __syncthreads();

    size_t part_length = value_length + 2;
    for (int g = warp(); g < count; g += THREADS / WARP) {
        float *own = scores + g * CHUNK, greatest = -3.40282347e38f;
        for (int i = lane(); i < CHUNK; i += WARP) greatest = greater(own[i], greatest);
        for (int step = WARP / 2; step > 0; step /= 2) greatest = greater(greatest, __shfl_xor_sync(ALL, greatest, step));
        for (int i = lane(); i < CHUNK; i += WARP) own[i] = exp2_of_negative(own[i] - greatest);
        __syncwarp();
        // Sixteen sums, in order; the upper half of the warp does the same.
        float sum = 0.0f;
        for (int page = 0; page < CHUNK / PAGE; page++) sum = sum + own[page * PAGE + lane() % PAGE];
        for (int step = 8; step > 0; step /= 2) sum = sum + __shfl_xor_sync(ALL, sum, step);
        if (lane() == 0) {
            float *part = parts + ((size_t(column) * heads + first + g) * chunks + blockIdx.x) * part_length;
            part[value_length] = sum;
            part[value_length + 1] = greatest;
        }
    }
    __syncthreads();

    const u8 *values = plane + (kv_heads + kv_head) * width;
    int bytes = row_bytes<KIND>(value_length);
    for (int i = thread(); i < value_length; i += THREADS) {
        float a[G] = {};
        for (int p = start; p < end;) {
            const u8 *row = values + (size_t(pages[(from + p) / PAGE]) * PAGE + p % PAGE) * bytes;
            if (p % PAGE || p + PAGE > end) {
                float v = row_value<KIND>(row, i);
#pragma unroll
                for (int g = 0; g < G; g++) a[g] = fmaf(scores[g * CHUNK + p], v, a[g]);
                p++;
                continue;
            }
            // A whole page: sixteen loads on the way.
            float v[PAGE];
#pragma unroll
            for (int j = 0; j < PAGE; j++) v[j] = row_value<KIND>(row + j * bytes, i);
#pragma unroll
            for (int j = 0; j < PAGE; j += 4)
#pragma unroll
                for (int g = 0; g < G; g++) {
                    float4 w = *reinterpret_cast<const float4 *>(scores + g * CHUNK + p + j);
                    a[g] = fmaf(w.x, v[j], a[g]);
                    a[g] = fmaf(w.y, v[j + 1], a[g]);
                    a[g] = fmaf(w.z, v[j + 2], a[g]);
                    a[g] = fmaf(w.w, v[j + 3], a[g]);
                }
            p += PAGE;
        }
#pragma unroll
        for (int g = 0; g < G; g++)
            if (g < count)
                parts[((size_t(column) * heads + first + g) * chunks + blockIdx.x) * part_length + i] = a[g];
    }
    if (!counters) return;
    // The last block of a column's heads merges their parts.
    __shared__ int last;
    __threadfence();
    __syncthreads();
    int all = ceil_div(seen[column].y, CHUNK) - seen[column].x / CHUNK;
    if (thread() == 0) {
        int *counter = counters + size_t(column) * gridDim.y + blockIdx.y;
        last = atomicAdd(counter, 1) == all - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int g = 0; g < count; g++)
        results.merge(parts + (size_t(column) * heads + first + g) * chunks * part_length, all, column, first + g, heads,
                      value_length);
}

#define ATTENTION_OF(name, KIND, G)                                                                               \
    KERNEL(128, G == 8 ? 4 : G == 4 ? 5 : 8, attention_##name##_##G, const float *q, int heads, int kv_heads, int key_length,               \
           int value_length, float scale, float cap, const u8 *plane, i64 width, const int *pages,                \
           int table_width, const int *sequences, const int2 *seen, float *parts, int chunks, int *counters,      \
           float *out, i8 *q_out, BlockMeta *meta_out) {                                                          \
        attention<KIND, G>(q, heads, kv_heads, key_length, value_length, scale, cap, plane, width, pages,         \
                           table_width, sequences, seen, parts, chunks, counters, Results{out, q_out, meta_out}); \
    }
#define ATTENTION(name, KIND) ATTENTION_OF(name, KIND, 1) ATTENTION_OF(name, KIND, 4) ATTENTION_OF(name, KIND, 8)
ATTENTION(f16, KV_F16)
ATTENTION(f32, KV_F32)
ATTENTION(q8_0, KV_Q8_0)
ATTENTION(q4_0, KV_Q4_0)

// Merges the parts of each head, where the blocks that made them do not.
KERNEL(128, 8, attention_merge, const float *parts, const int2 *seen, int chunks, int value_length, float *out, i8 *q,
       BlockMeta *meta) {
    begin();
    int head = blockIdx.x, column = blockIdx.y, heads = gridDim.x;
    int count = ceil_div(seen[column].y, CHUNK) - seen[column].x / CHUNK;
    Results{out, q, meta}.merge(parts + (size_t(column) * heads + head) * chunks * (value_length + 2), count, column, head,
                                heads, value_length);
}
