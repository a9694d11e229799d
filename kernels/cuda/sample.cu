// The next token of each sequence, from logits that stay on the device (src/runtime/sampler).
//
//   logits  [rows, vocabulary]
//   masks   [rows, ceil(vocabulary / 32)], a bit for each token that may be chosen; or null
//   out     [rows]: the token, and how many candidates were left: with one, no random number was used. The token is -1
//           where a logit that may be chosen is NaN or infinite, -2 where none is possible
//
// Grid (rows), blocks of 1024 threads. Logits are read out of the second-level cache, where the product has just put
// them; a block reads its 512 KB a few times, which is 10 to 20 microseconds, and no copy to the host.
#include "kernel.cuh"

constexpr int THREADS = 1024, WARPS = THREADS / WARP;
// Candidates there is room for: top-k is at most MOST_K.
constexpr int ROOM = 2048, MOST_K = 1024;

// Greater for what is likelier, of equals for the lower number; -0 and 0 are one. 0 is nothing.
DEVICE u64 rank(float logit, int token) {
    u32 bits = bits_of(logit + 0.0f);
    u32 key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return u64(key) << 32 | u32(~token);
}
DEVICE int token_of(u64 rank) { return int(~u32(rank)); }
DEVICE float logit_of(u64 rank) {
    u32 key = u32(rank >> 32);
    return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The rank of a token that may be chosen, or 0. NaN and infinity set `bad`.
struct Logits {
    const float *logits;
    const u32 *mask;
    int n;

    METHOD Logits(const float *logits, const u32 *masks, int n)
        : logits(logits + size_t(blockIdx.x) * n), mask(masks ? masks + size_t(blockIdx.x) * ceil_div(n, 32) : nullptr),
          n(n) {}
    METHOD u64 operator()(int i, bool &bad) const {
        if (mask && !(mask[i / 32] >> (i % 32) & 1)) return 0;
        float v = logits[i];
        bad |= !(v < float_of(0x7f800000u));
        return v > float_of(0xff800000u) ? rank(v, i) : 0;
    }
};

// The greatest of the block's values, in every thread.
DEVICE u64 block_most(u64 v) {
    __shared__ u64 room[WARPS];
    for (int step = WARP / 2; step > 0; step /= 2) v = most(v, __shfl_xor_sync(ALL, v, step));
    __syncthreads();
    if (lane() == 0) room[warp()] = v;
    __syncthreads();
    v = room[lane()];
    for (int step = WARP / 2; step > 0; step /= 2) v = most(v, __shfl_xor_sync(ALL, v, step));
    return v;
}

// The likeliest token. A thread has every 1024th logit.
KERNEL(1024, 1, sample_greedy, const float *logits, const u32 *masks, int n, int2 *out) {
    begin();
    Logits all(logits, masks, n);
    bool bad = false;
    u64 best = 0;
    for (int i = thread(); i < n; i += THREADS) best = most(best, all(i, bad));
    best = block_most(best);
    u64 any_bad = block_most(bad);
    if (thread() == 0) out[blockIdx.x] = int2{any_bad ? -1 : best ? token_of(best) : -2, 1};
}

// Sorts the ranks, the greatest first: Batcher's bitonic sort, `size` a power of two.
DEVICE void sort(u64 *ranks, int size) {
    for (int width = 2; width <= size; width *= 2)
        for (int step = width / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = thread(); i < size / 2; i += THREADS) {
                int a = i / step * 2 * step + i % step, b = a + step;
                bool descending = (a & width) == 0;
                u64 x = ranks[a], y = ranks[b];
                if ((x < y) == descending) {
                    ranks[a] = y;
                    ranks[b] = x;
                }
            }
        }
    __syncthreads();
}

// How many ranks are `least` or greater, in every thread.
DEVICE int count_from(const Logits &all, u64 least) {
    __shared__ int counts[WARPS];
    bool bad;
    int count = 0;
    for (int i = thread(); i < all.n; i += THREADS) count += all(i, bad) >= least;
    count = warp_sum(count);
    __syncthreads();
    if (lane() == 0) counts[warp()] = count;
    __syncthreads();
    return warp_sum(counts[lane()]);
}

struct SampleOptions {
    // More than 0.
    float temperature;
    // 1 to MOST_K.
    int top_k;
    float top_p, min_p;
    // From [0, 1).
    double draw;
};

DEVICE double weight(u64 rank, float max, float temperature) {
    return exp((double(logit_of(rank)) - double(max)) / double(temperature));
}

// Top-k, top-p, min-p, temperature and a draw, in float64 and in the order of the CPU; exp is the device's, within a unit
// in the last place of libm's, so a token differs only where a draw falls within that of a boundary.
//
// The k-th greatest of the threads' own greatest ranks is no greater than the k-th of all: what is not below it is
// collected, and sorted. Where ties make that too many, the k-th of all is found by bisecting ranks.
KERNEL(1024, 1, sample, const float *logits, const u32 *masks, int n, const SampleOptions *options, int2 *out) {
    begin();
    __shared__ u64 ranks[ROOM];
    __shared__ double weights[MOST_K];
    __shared__ int found;
    Logits all(logits, masks, n);
    SampleOptions own = options[blockIdx.x];
    int k = least(own.top_k, MOST_K);
    bool bad = false;
    u64 best = 0;
    for (int i = thread(); i < n; i += THREADS) best = most(best, all(i, bad));
    u64 any_bad = block_most(bad);
    ranks[thread()] = best;
    sort(ranks, THREADS);
    u64 threshold = most(ranks[k - 1], u64(1));
    bool none = ranks[0] == 0;
    if (any_bad || none) {
        if (thread() == 0) out[blockIdx.x] = int2{any_bad ? -1 : -2, 0};
        return;
    }
    int count = count_from(all, threshold);
    if (count > ROOM) {
        // The greatest rank that k ranks are not below.
        u64 low = threshold, high = ~u64(0);
        while (low < high) {
            u64 middle = low + (high - low) / 2 + 1;
            count = count_from(all, middle);
            if (count >= k) low = middle; else high = middle - 1;
        }
        threshold = low;
    }
    __syncthreads();
    if (thread() == 0) found = 0;
    for (int i = thread(); i < ROOM; i += THREADS) ranks[i] = 0;
    __syncthreads();
    for (int i = thread(); i < n; i += THREADS) {
        u64 r = all(i, bad);
        if (r >= threshold) ranks[atomicAdd(&found, 1)] = r;
    }
    // In whatever order they came, sorted they are the same.
    sort(ranks, ROOM);
    int length = least(found, k);
    float max = logit_of(ranks[0]);
    if (thread() < length) weights[thread()] = weight(ranks[thread()], max, 1.0f);
    __syncthreads();
    __shared__ int kept;
    if (thread() == 0) {
        int n = length;
        if (own.top_p < 1.0f && n > 1) {
            double sum = 0.0, cumulative = 0.0;
            for (int i = 0; i < n; i++) sum += weights[i];
            double enough = double(own.top_p) * sum;
            for (int i = 0; i < length; i++) {
                cumulative += weights[i];
                if (cumulative >= enough) {
                    n = i + 1;
                    break;
                }
            }
        }
        if (own.min_p > 0.0f) {
            double floor = double(max) + log(double(own.min_p));
            int i = 0;
            while (i < n && double(logit_of(ranks[i])) >= floor) i++;
            n = i;
        }
        kept = n;
    }
    __syncthreads();
    if (thread() < kept) weights[thread()] = weight(ranks[thread()], max, own.temperature);
    __syncthreads();
    if (thread() == 0) {
        double sum = 0.0, cumulative = 0.0;
        for (int i = 0; i < kept; i++) sum += weights[i];
        double target = (kept > 1 ? own.draw : 0.0) * sum;
        int chosen = kept - 1;
        for (int i = 0; i < kept; i++) {
            cumulative += weights[i];
            if (cumulative > target) {
                chosen = i;
                break;
            }
        }
        out[blockIdx.x] = int2{kept ? token_of(ranks[chosen]) : -2, kept};
    }
}

// Makes tokens that were there less likely: penalties.rs. tokens, counts [n]: of one row of logits. Grid (ceil(n / 256)),
// blocks of 256 threads.
KERNEL(256, 4, penalize, float *logits, const int *tokens, const int *counts, int n, int vocabulary, float repeat,
       float presence, float frequency) {
    begin();
    int i = blockIdx.x * blockDim.x + thread();
    if (i >= n || tokens[i] >= vocabulary) return;
    float v = logits[tokens[i]];
    v = v > 0.0f ? __fdiv_rn(v, repeat) : v * repeat;
    v = v - (float(counts[i]) * frequency + presence);
    // No penalty makes a finite logit infinite.
    logits[tokens[i]] = v < 3.40282347e38f ? v : 3.40282347e38f;
}
