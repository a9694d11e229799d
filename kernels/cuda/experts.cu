// A mixture of experts: which a column goes through, which columns an expert has, and the weighted sum.
//
// As src/runtime/backend/cpu_experts.rs: the experts with the highest logits, the first of equals before the second;
// their weights are a softmax over all experts, or over the chosen ones where `normalised`.
//
//   logits  [columns, experts]
//   chosen  [columns, 2 used]: the numbers of the experts, the likeliest first, as floats; then their weights
//
// The CPU's weights come from `expf` of libm; here from the exponential of number.cuh, within 2 units in the last
// place. The order of sums is the CPU's, so which experts are chosen is the same.
#include "number.cuh"

// Greater for what is chosen first: the order of `f32::total_cmp`, then the lower number.
DEVICE u64 rank(float logit, int expert) {
    u32 bits = bits_of(logit);
    u32 key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return u64(key) << 32 | u32(~expert);
}
DEVICE u64 warp_greatest(u64 v) {
    for (int step = WARP / 2; step > 0; step /= 2) v = most(v, __shfl_xor_sync(ALL, v, step));
    return v;
}

// Op::Route. Grid (columns), a warp to a column: dynamic shared memory of `experts` floats. A choice is one pass over
// the logits in shared memory; of 512 experts 16 values a lane, so even eight choices are a few microseconds.
KERNEL(32, 16, route, const float *logits, float *chosen, int experts, int used, int normalised) {
    begin();
    DYNAMIC_SHARED(float, own);
    logits += size_t(blockIdx.x) * experts;
    chosen += size_t(blockIdx.x) * 2 * used;
    for (int i = lane(); i < experts; i += WARP) own[i] = logits[i];
    __syncwarp();
    u64 last = ~u64(0);
    float highest = 0.0f;
    for (int place = 0; place < used; place++) {
        u64 best = 0;
        for (int i = lane(); i < experts; i += WARP) {
            u64 r = rank(own[i], i);
            if (r < last) best = most(best, r);
        }
        last = warp_greatest(best);
        int expert = int(~u32(last));
        if (place == 0) highest = own[expert];
        if (lane() == 0) {
            chosen[place] = float(expert);
            chosen[used + place] = exp_full(own[expert] - highest);
        }
    }
    __syncwarp();
    float sum = 0.0f;
    // In order, by one lane.
    if (lane() == 0) {
        for (int i = 0; i < (normalised ? used : experts); i++)
            sum = sum + (normalised ? chosen[used + i] : exp_full(own[i] - highest));
        for (int place = 0; place < used; place++) chosen[used + place] = __fdiv_rn(chosen[used + place], sum);
    }
}

// The pairs (column * used + place) of each expert, in order: `pairs` expert by expert, `offsets` [experts + 1].
// One block of 256 threads; dynamic shared memory of `experts` ints. A warp takes an expert and goes over all pairs:
// the order does not depend on which thread is first, so products are the same each time.
KERNEL(256, 1, experts_group, const float *chosen, int columns, int used, int experts, int *pairs, int *offsets) {
    begin();
    DYNAMIC_SHARED(int, counts);
    int all = columns * used;
    auto expert_of = [&](int pair) { return int(chosen[size_t(pair / used) * 2 * used + pair % used]); };
    for (int e = warp(); e < experts; e += blockDim.x / WARP) {
        int count = 0;
        for (int i = lane(); i < all; i += WARP) count += expert_of(i) == e;
        count = warp_sum(count);
        if (lane() == 0) counts[e] = count;
    }
    __syncthreads();
    if (thread() == 0) {
        int start = 0;
        for (int e = 0; e < experts; e++) {
            offsets[e] = start;
            start += counts[e];
            counts[e] = offsets[e];
        }
        offsets[experts] = start;
    }
    __syncthreads();
    for (int e = warp(); e < experts; e += blockDim.x / WARP) {
        int at = counts[e];
        for (int first = 0; first < all; first += WARP) {
            int i = first + lane();
            bool own = i < all && expert_of(i) == e;
            u32 votes = __ballot_sync(ALL, own);
            if (own) pairs[at + __popc(votes & ((1u << lane()) - 1))] = i;
            at += __popc(votes);
        }
    }
}

// `out = sum over the chosen of weight * part`: Op::Mix. parts [columns, used, n], out [columns, n].
// Grid (ceil(n / 256), columns), blocks of 256 threads.
KERNEL(256, 4, mix, const float *parts, const float *chosen, float *out, int n, int used) {
    begin();
    int i = blockIdx.x * blockDim.x + thread();
    if (i >= n) return;
    parts += size_t(blockIdx.y) * used * n;
    chosen += size_t(blockIdx.y) * 2 * used;
    float sum = 0.0f;
    for (int place = 0; place < used; place++) sum = sum + chosen[used + place] * parts[size_t(place) * n + i];
    out[size_t(blockIdx.y) * n + i] = sum;
}
