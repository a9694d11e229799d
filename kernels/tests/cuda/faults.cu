// Kernels that are wrong, for a test of the machine of shim.h: each must be told apart from a right one.
#include "kernel.cuh"

// Half of the threads leave before a barrier.
KERNEL(64, 1, fault_barrier, int *out) {
    if (thread() >= WARP) return;
    __syncthreads();
    out[thread()] = 1;
}

// Half of the lanes leave before a shuffle.
KERNEL(32, 1, fault_lanes, int *out) {
    if (lane() >= 16) return;
    out[lane()] = __shfl_xor_sync(ALL, lane(), 1);
}

// Lanes shuffle at different places.
KERNEL(32, 1, fault_places, int *out) {
    if (lane() % 2)
        out[lane()] = __shfl_xor_sync(ALL, lane(), 1);
    else
        out[lane()] = __shfl_xor_sync(ALL, lane(), 2);
}

// Some lanes are at a barrier, some at a shuffle.
KERNEL(32, 1, fault_mixed, int *out) {
    if (lane() == 3) __syncthreads();
    else out[lane()] = __shfl_xor_sync(ALL, lane(), 1);
}

// A mask without a lane.
KERNEL(32, 1, fault_mask, int *out) { out[lane()] = int(__ballot_sync(0x7fffffffu, 1)); }

// A barrier is missing: the result is right in one order of threads.
KERNEL(64, 1, fault_race, int *out) {
    __shared__ int room[64];
    room[thread()] = 0;
    __syncthreads();
    room[thread()] = thread() + 1;
    out[thread()] = room[(thread() + 63) % 64];
}
