/* cuda_mma.cuh - the tensor core instructions that the kernels use, for compute capability 7.5 up.
 *
 * Fragments of mma.m16n8k16 for lane = 4g + t: A holds rows g and g + 8, columns 2t, 2t+1 and
 * 2t+8, 2t+9 (a[0] row g low, a[1] row g+8 low, a[2] row g high, a[3] row g+8 high); B holds column
 * g, rows 2t, 2t+1 (b0) and 2t+8, 2t+9 (b1); C holds rows g (c[0], c[1]) and g + 8 (c[2], c[3]),
 * columns 2t, 2t+1.  The order of k is free as long as A and B agree on it.
 * Layer: kernels/cuda.  Source: PTX ISA, warp-level matrix instructions.
 */
#ifndef SL_CUDA_MMA_CUH
#define SL_CUDA_MMA_CUH

#include <stdint.h>

/* c += A B, f16 in, float32 sums. */
static __device__ __forceinline__ void sl_mma(float c[4], const uint32_t a[4], uint32_t b0,
                                              uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else /* Turing has half the depth only */
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

static __device__ __forceinline__ uint32_t sl_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8x8 matrices of f16; lane i gives the address of row i % 8 of matrix i / 8. */
static __device__ __forceinline__ void sl_ldmatrix(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(sl_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void sl_ldmatrix_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(sl_shared_address(row))
                 : "memory");
}

/* 16 bytes from global to shared memory, or zeros; asynchronous where the device can. */
static __device__ __forceinline__ void sl_copy16(void *shared, const void *global, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sl_shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)shared = valid ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
#endif
}

static __device__ __forceinline__ void sl_copy_commit(void) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most `N` of the thread's latest groups of copies are still on their way. */
template <int N> static __device__ __forceinline__ void sl_copy_wait(void) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* 2^x by the special function unit alone, 2 ulp; denormal results are zero, and 2^-inf is. */
static __device__ __forceinline__ float sl_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
