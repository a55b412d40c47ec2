/* cuda_groups.cuh - device code that reads codes, steps and minima of the group formats.
 *
 * Layer: kernels/cuda.  The formats are those of model/pack.h.
 */
#ifndef SL_CUDA_GROUPS_CUH
#define SL_CUDA_GROUPS_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "base/dtype.h"

static __device__ __forceinline__ __half2 sl_as_half2(uint32_t bits) {
    __half2 h;
    memcpy(&h, &bits, sizeof h);
    return h;
}

static __device__ __forceinline__ uint32_t sl_as_bits(__half2 h) {
    uint32_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}

/* 16 bytes that are read once: the L2 cache fetches their neighbours with them, since the same warp
 * comes for those next, and device memory is slow to give 64 bytes at a time. */
static __device__ __forceinline__ uint4 sl_load_stream(const void *from) {
    uint4 v;
#if __CUDA_ARCH__ >= 800
    asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(from));
#else
    v = __ldg((const uint4 *)from);
#endif
    return v;
}

/* Codes become halves without a conversion: 0x6400 | q is 1024 + q, and subtracting 1024 is exact.
 * Then q * step + min is one fused multiply-add, rounded once to f16: every CUDA kernel that reads
 * packed data sees the same f16 values. */
static __device__ __forceinline__ uint32_t sl_decode_pair(uint32_t biased, __half2 step,
                                                          __half2 min) {
    const __half2 q = __hsub2(sl_as_half2(biased), sl_as_half2(0x64006400u));
    return sl_as_bits(__hfma2(q, step, min));
}

/* Eight codes of 4 bits to four pairs of f16, in order. */
static __device__ __forceinline__ void sl_decode_q4x8(uint32_t out[4], uint32_t codes, __half2 step,
                                                      __half2 min) {
    const uint32_t even = codes & 0x0f0f0f0fu, odd = (codes >> 4) & 0x0f0f0f0fu;
    const uint32_t low = __byte_perm(even, odd, 0x5140);  /* codes 0, 1, 2, 3 in bytes */
    const uint32_t high = __byte_perm(even, odd, 0x7362); /* codes 4, 5, 6, 7 */
    out[0] = sl_decode_pair(__byte_perm(low, 0x64646464u, 0x4140), step, min);
    out[1] = sl_decode_pair(__byte_perm(low, 0x64646464u, 0x4342), step, min);
    out[2] = sl_decode_pair(__byte_perm(high, 0x64646464u, 0x4140), step, min);
    out[3] = sl_decode_pair(__byte_perm(high, 0x64646464u, 0x4342), step, min);
}

/* codes & mask | rest, in one instruction although both are constants. */
static __device__ __forceinline__ uint32_t sl_and_or(uint32_t codes, uint32_t mask, uint32_t rest) {
    uint32_t v;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(codes), "r"(mask), "r"(rest));
    return v;
}

/* Codes 0 and 4, then 1 and 5, of a word of eight codes of 4 bits to two pairs: the same values,
 * with less work than in order.  0x6400 | q << 4 is 1024 + 16 q, and what makes q of that is exact.
 */
static __device__ __forceinline__ void sl_decode_q4_apart(uint32_t out[2], uint32_t codes,
                                                          __half2 step, __half2 min) {
    const uint32_t upper = sl_and_or(codes, 0x00f000f0u, 0x64006400u);
    const __half2 q = __hfma2(sl_as_half2(upper), sl_as_half2(0x2c002c00u) /* 1/16 */,
                              sl_as_half2(0xd400d400u) /* -64 */);
    out[0] = sl_decode_pair(sl_and_or(codes, 0x000f000fu, 0x64006400u), step, min);
    out[1] = sl_as_bits(__hfma2(q, step, min));
}

/* Four codes of 8 bits to two pairs. */
static __device__ __forceinline__ void sl_decode_q8x4(uint32_t out[2], uint32_t codes, __half2 step,
                                                      __half2 min) {
    out[0] = sl_decode_pair(__byte_perm(codes, 0x64646464u, 0x4140), step, min);
    out[1] = sl_decode_pair(__byte_perm(codes, 0x64646464u, 0x4342), step, min);
}

/* A stored pair (step, min) as two vectors of twice the same. */
static __device__ __forceinline__ void sl_load_pair(const void *at, __half2 *step, __half2 *min) {
    const __half2 pair = *(const __half2 *)at;
    *step = __low2half2(pair);
    *min = __high2half2(pair);
}

/* Element i of a row whose codes and pairs begin at the given addresses. */
static __device__ __forceinline__ __half sl_decode_one(const uint8_t *codes, const uint8_t *pairs,
                                                       int bits, int i) {
    const int q = bits == 8 ? codes[i] : codes[i / 2] >> (i % 2 * 4) & 15;
    const __half2 pair = ((const __half2 *)pairs)[i / SL_GROUP_ELEMS];
    return __hfma(__int2half_rn(q), __low2half(pair), __high2half(pair));
}

/* One warp packs n <= 64 elements to the bytes that sl_pack_group() gives: lane i has elements 2i
 * and 2i + 1.  Steps and order of rounding are that function's; the divisions are IEEE's. */
static __device__ __forceinline__ void sl_pack_group_by_warp(uint8_t *codes, __half2 *pair_out,
                                                             const __half *x, int bits, int n,
                                                             int lane) {
    const float top = (float)((1 << bits) - 1), infinity = __int_as_float(0x7f800000);
    const int i = 2 * lane;
    const float a = i < n ? __half2float(x[i]) : 0.0f;
    const float b = i + 1 < n ? __half2float(x[i + 1]) : 0.0f;
    float low = i < n ? a : infinity, high = i < n ? a : -infinity;
    if (i + 1 < n) {
        low = fminf(low, b);
        high = fmaxf(high, b);
    }
    const bool finite = __all_sync(0xffffffffu, isfinite(a) && isfinite(b));
    for (int d = 16; d > 0; d /= 2) {
        low = fminf(low, __shfl_xor_sync(0xffffffffu, low, d));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, d));
    }
    /* f16 input: the minimum is exact, and the step cannot leave f16's range. */
    const __half min = finite ? __float2half_rd(low) : __ushort_as_half(0x7e00);
    const float base = __half2float(min);
    const __half step =
        finite ? __float2half_ru(__fsub_rn(high / top, base / top)) : __ushort_as_half(0);
    const float width = __half2float(step);
    unsigned first = 0, second = 0;
    if (width > 0.0f) {
        first = (unsigned)fminf(fmaxf(rintf((a - base) / width), 0.0f), top);
        second = (unsigned)fminf(fmaxf(rintf((b - base) / width), 0.0f), top);
    }
    if (bits == 8) {
        if (i < n) codes[i] = (uint8_t)first;
        if (i + 1 < n) codes[i + 1] = (uint8_t)second;
    } else if (i < n) {
        codes[lane] = (uint8_t)(first | (i + 1 < n ? second << 4 : 0));
    }
    if (lane == 0) *pair_out = __halves2half2(step, min);
}

#endif
