// Heads of queries, keys and values between the products and attention: norm, rotation, and the way into the cache
// (src/runtime/backend/cpu_attention.rs, kernels/src/ops/rope.rs, to the bit).
//
//   qkv      [columns, qkv_width]: heads of queries, of keys, of values, one after the other
//   weight   of the norm of queries or keys, or null: [length] (HEAD), [heads, length] (LAYER_OF_HEAD, ALL_HEADS)
//   factors  [columns], what a norm over all heads multiplies with (rms_scales); for ALL_HEADS only
//   angles   [columns, 2, pairs]: cosines and sines of the columns' positions, or null for no rotation
//   kind     0: values 2 i and 2 i + 1 turn (Norm); 1: i and i + pairs (NeoX)
//
// A warp has a head of a column, in 32 threads of shared memory of its own; heads are 64 to 256 values, so each
// value is loaded once, and a head is a few hundred cycles of one warp of thousands. A key's values go 32 bytes apart:
// sixteen positions of one value fill a sector, in prefill out of the second-level cache.
#include "kv.cuh"
#include "sums.cuh"

enum HeadNorm { HEAD = 0, LAYER_OF_HEAD = 1, ALL_HEADS = 2 };

// Norms and turns head `head` of a column in shared memory.
DEVICE void prepare(float *x, int length, int head, int column, const float *weight, int norm, float epsilon,
                    const float *factors, const float *angles, int pairs, int kind) {
    if (weight) {
        float mean = 0.0f;
        if (norm == LAYER_OF_HEAD) {
            mean = __fdiv_rn(warp_sum_of<false>(x, length), float(length));
            for (int i = lane(); i < length; i += WARP) x[i] = x[i] - mean;
            __syncwarp();
        }
        float scale = norm == ALL_HEADS ? factors[column] : scale_of(warp_sum_of<true>(x, length), length, epsilon);
        if (norm != HEAD) weight += head * length;
        // Each lane its own values.
        for (int i = lane(); i < length; i += WARP) x[i] = x[i] * scale * weight[i];
        __syncwarp();
    }
    if (angles) {
        const float *cosines = angles + size_t(column) * 2 * pairs, *sines = cosines + pairs;
        for (int i = lane(); i < pairs; i += WARP) {
            int a = kind ? i : 2 * i, b = kind ? i + pairs : 2 * i + 1;
            float x0 = x[a], x1 = x[b];
            x[a] = x0 * cosines[i] - x1 * sines[i];
            x[b] = x0 * sines[i] + x1 * cosines[i];
        }
        __syncwarp();
    }
}

// Brings a head into shared memory.
DEVICE void bring(float *x, const float *from, int length) {
    for (int i = lane(); i < length; i += WARP) x[i] = from[i];
    __syncwarp();
}

// Queries of the columns as attention takes them (Op::Attention), and keys and values to their slots (Op::StoreKv):
//
//   queries       [columns, heads, key_length]
//   temperatures  [columns] or null: what queries are multiplied with in the end
//   slots         [columns]; plane, width: the cache of the block, and bytes of a column of it
//
// Grid (heads + 2 kv_heads, columns), 32 threads; dynamic shared memory of max(key_length, value_length) floats. The
// first block of a column is that of head `first` (queries, then keys, then values), so that a grid can be a part of
// them.
template <int KIND>
DEVICE void prepare_heads(const float *qkv, int qkv_width, int heads, int kv_heads, int key_length, int value_length,
                          const float *q_weight, const float *k_weight, int norm, float epsilon, const float *q_factors,
                          const float *k_factors, const float *angles, int pairs, int kind, const float *temperatures,
                          float *queries, const int *slots, u8 *plane, i64 width, int first_head) {
    DYNAMIC_SHARED(float, x);
    begin();
    int head = first_head + blockIdx.x, column = blockIdx.y;
    bool is_query = head < heads, is_value = head >= heads + kv_heads;
    int length = is_value ? value_length : key_length;
    int at = is_value ? (heads + kv_heads) * key_length + (head - heads - kv_heads) * value_length : head * key_length;
    bring(x, qkv + size_t(column) * qkv_width + at, length);
    if (!is_value)
        prepare(x, length, is_query ? head : head - heads, column, is_query ? q_weight : k_weight, norm, epsilon,
                is_query ? q_factors : k_factors, angles, pairs, kind);
    if (is_query) {
        float temperature = temperatures ? temperatures[column] : 1.0f;
        float *out = queries + (size_t(column) * heads + head) * length;
        for (int i = lane(); i < length; i += WARP) out[i] = temperature == 1.0f ? x[i] : x[i] * temperature;
        return;
    }
    u8 *to = plane + (head - heads) * width;
    int slot = slots[column];
    for (int first = 0; first < length; first += WARP) {
        float v = first + lane() < length ? x[first + lane()] : 0.0f;
        if (is_value) put_value<KIND>(to, slot, first, length, v);
        else put_key<KIND>(to, slot, first, length, v);
    }
}

#define PREPARE_HEADS(name, KIND)                                                                                 \
    KERNEL(32, 32, prepare_heads_##name, const float *qkv, int qkv_width, int heads, int kv_heads,                \
           int key_length, int value_length, const float *q_weight, const float *k_weight, int norm,              \
           float epsilon, const float *q_factors, const float *k_factors, const float *angles, int pairs,         \
           int kind, const float *temperatures, float *queries, const int *slots, u8 *plane, i64 width,           \
           int first_head) {                                                                                      \
        prepare_heads<KIND>(qkv, qkv_width, heads, kv_heads, key_length, value_length, q_weight, k_weight, norm,  \
                            epsilon, q_factors, k_factors, angles, pairs, kind, temperatures, queries, slots,     \
                            plane, width, first_head);                                                            \
    }
PREPARE_HEADS(f16, KV_F16)
PREPARE_HEADS(f32, KV_F32)
PREPARE_HEADS(q8_0, KV_Q8_0)
PREPARE_HEADS(q4_0, KV_Q4_0)

// Copies a page of the cache: State::copy_page. Sixteen-byte words of a page of keys, and of values. Grid (2 heads),
// blocks of 128 threads.
KERNEL(128, 8, copy_page, u8 *plane, i64 width, int heads, int key_page, int value_page, int from, int to) {
    begin();
    int bytes = int(blockIdx.x) < heads ? key_page : value_page;
    u8 *column = plane + blockIdx.x * width;
    const uint2 *source = reinterpret_cast<const uint2 *>(column + i64(from) * bytes);
    uint2 *target = reinterpret_cast<uint2 *>(column + i64(to) * bytes);
    // A page of sixteen rows of whole halves is a multiple of eight bytes at least.
    for (int i = thread(); i < bytes / 8; i += blockDim.x) target[i] = source[i];
}

template <int KIND>
DEVICE void shift_kv(u8 *plane, i64 width, int heads, int key_length, int value_length, const int *from, const int *to,
                     int moves, int turned_from, const float *angles, int pairs, int kind) {
    DYNAMIC_SHARED(float, x);
    bool is_key = int(blockIdx.x) < heads;
    u8 *column = plane + blockIdx.x * width;
    for (int i = 0; i < moves; i++) {
        int a = from[i], b = to[i];
        if (!is_key) {
            // Halves: a row of any kind is some of them.
            int n = row_bytes<KIND>(value_length) / 2;
            const u16 *source = reinterpret_cast<const u16 *>(column + size_t(a) * 2 * n);
            u16 *target = reinterpret_cast<u16 *>(column + size_t(b) * 2 * n);
            for (int k = lane(); k < n; k += WARP) target[k] = source[k];
            continue;
        }
        for (int k = lane(); k < key_length; k += WARP) x[k] = get_key<KIND>(column, a, k, key_length);
        __syncwarp();
        if (angles && i >= turned_from) prepare(x, key_length, 0, 0, nullptr, 0, 0.0f, nullptr, angles, pairs, kind);
        for (int first = 0; first < key_length; first += WARP)
            put_key<KIND>(column, b, first, key_length, first + lane() < key_length ? x[first + lane()] : 0.0f);
        __syncwarp();
    }
}

// State::shift: rows move from slots `from` to `to`, in order, which only go down, so that nothing is overwritten that
// is still to be read; the keys of those from `turned_from` on turn by `angles` [2, pairs]. Grid (2 heads), 32 threads: a
// head's moves are one after the other. Dynamic shared memory of key_length floats. This is once in half a context.
#define SHIFT_KV(name, KIND)                                                                                      \
    KERNEL(32, 16, shift_kv_##name, u8 *plane, i64 width, int heads, int key_length, int value_length,            \
           const int *from, const int *to, int moves, int turned_from, const float *angles, int pairs, int kind) {\
        shift_kv<KIND>(plane, width, heads, key_length, value_length, from, to, moves, turned_from, angles, pairs,\
                       kind);                                                                                     \
    }
SHIFT_KV(f16, KV_F16)
SHIFT_KV(f32, KV_F32)
SHIFT_KV(q8_0, KV_Q8_0)
SHIFT_KV(q4_0, KV_Q4_0)
