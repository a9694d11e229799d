// Instructions that C++ has no word for, one function each: conversions, the matrix units, asynchronous copies.
//
// Fragments are those of the PTX manual ("Matrix fragments for mma.m16n8k16" and following): of lane `l`,
// g = l / 4 and t = l % 4. On a C++ compiler each function is what the manual says, lane by lane (shim_warp.h).
#pragma once

#ifndef MDL_SHIM

// Half precision to float32, exactly.
DEVICE float f16_to_f32(f16 v) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(v));
    return out;
}

// The nearest half, ties to even; what is too large becomes infinite.
DEVICE f16 f32_to_f16(float v) {
    f16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(v));
    return out;
}

// The nearest halves, `low` in the low half of the word.
DEVICE u32 pack_f16(float low, float high) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// The nearest bfloat16, `low` in the low half of the word.
DEVICE u32 pack_bf16(float low, float high) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// Bytes of a weight, which are read once: they take no place in the first-level cache, and nobody writes them while a
// kernel runs.
DEVICE uint4 load_once(const uint4 *at) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}
DEVICE uint2 load_once(const uint2 *at) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}
DEVICE u32 load_once(const u32 *at) {
    u32 v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}
DEVICE u16 load_once(const u16 *at) {
    u16 v;
    asm("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(at));
    return v;
}

// 2^x within 2 units in the last place; denormal results are 0.
DEVICE float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

DEVICE u32 shared_address(const void *at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// c += a b, int8: a is [16, 32], b is [32, 8]. a[0]: row g, values 4t..; a[1]: row g + 8; a[2], a[3]: the same
// rows, values 16 + 4t..; b[0]: column g, values 4t..; b[1]: values 16 + 4t..; c: (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1).
DEVICE void mma_i8_k32(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += a b, int8: a is [16, 16], b is [16, 8]. a0: row g, values 4t..; a1: row g + 8; b0: column g, values 4t...
DEVICE void mma_i8_k16(int (&c)[4], u32 a0, u32 a1, u32 b0) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
}

// c += a b, half precision with sums in float32: a is [16, 16], b is [16, 8]. a[0]: row g, values 2t, 2t + 1;
// a[1]: row g + 8; a[2], a[3]: the same rows, values 8 + 2t..; b[0]: column g, values 2t..; b[1]: values 8 + 2t...
DEVICE void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// As `mma_f16`, of bfloat16.
DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8, and gets of matrix m
// in r[m] the values 2t, 2t + 1 of row g.
DEVICE void load_matrices(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// As `load_matrices`, each transposed: r[m] has the values of rows 2t, 2t + 1 in column g.
DEVICE void load_matrices_transposed(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// Copies 16 bytes to shared memory without waiting; zeros if not `valid`.
DEVICE void copy_async(void *to, const void *from, bool valid = true) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}

// Lets the next kernel of the stream begin its blocks as soon as all of this one's have begun, where it is launched
// with programmatic stream serialization; then waits until what the kernels before wrote is there. A kernel calls it
// before it reads or writes anything but weights. On devices before compute capability 9.0, and in a launch without
// the attribute, it does nothing.
DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Brings a line of 128 bytes into the second-level cache without waiting.
DEVICE void prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" :: "l"(at)); }

// Ends a group of copies.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups but the last `N`.
template <int N>
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

#endif
