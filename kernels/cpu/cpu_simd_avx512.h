/* cpu_simd_avx512.h - what the AVX-512 kernels (F, BW, DQ, VL) share: rows to columns.
 *
 * Layer: kernels/cpu.  Only for cpu_*_avx512.c, on x86-64.
 */
#ifndef SL_CPU_SIMD_AVX512_H
#define SL_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu/cpu_simd.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum { LANES = 16 };

/* The first n of 16 lanes, none for n <= 0. */
INLINE __mmask16 first_lanes(int n) {
    return n >= LANES ? 0xffff : n <= 0 ? 0 : (__mmask16)((UINT32_C(1) << n) - 1);
}

/* Register r of the four holds, in its 128-bit lane i, 16 bytes of row 4i + r: after interleaving
 * the registers, lane i has rows 4i .. 4i+3 side by side, and the lanes are in row order. */
INLINE void load_rows(__m512i z[4], const char *const row[LANES], size_t offset) {
    SL_UNROLL
    for (int r = 0; r < 4; r++) {
        __m512i v = _mm512_castsi128_si512(
            _mm_loadu_si128((const __m128i *)(const void *)(row[r] + offset)));
        v = _mm512_mask_broadcast_i32x4(
            v, 0x00f0, _mm_loadu_si128((const __m128i *)(const void *)(row[4 + r] + offset)));
        v = _mm512_mask_broadcast_i32x4(
            v, 0x0f00, _mm_loadu_si128((const __m128i *)(const void *)(row[8 + r] + offset)));
        z[r] = _mm512_mask_broadcast_i32x4(
            v, 0xf000, _mm_loadu_si128((const __m128i *)(const void *)(row[12 + r] + offset)));
    }
}

/* 4 columns of 32 bits */
INLINE void transpose_dwords(__m512 column[4], const __m512i z[4]) {
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpacklo_epi32(z[2], z[3]);
    const __m512i c = _mm512_unpackhi_epi32(z[0], z[1]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    column[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi64(a, b));
    column[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi64(a, b));
    column[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi64(c, d));
    column[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi64(c, d));
}

/* Each row's four bytes at `offset`. */
INLINE __m512i gather_heads(const char *const row[LANES], size_t offset) {
    int32_t head[LANES];
    for (int i = 0; i < LANES; i++) memcpy(&head[i], row[i] + offset, sizeof head[i]);
    return _mm512_loadu_si512(head);
}

INLINE __m512 halves_to_float(__m512i low_halves) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(low_halves));
}

#endif
