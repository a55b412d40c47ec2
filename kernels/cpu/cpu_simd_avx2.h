/* cpu_simd_avx2.h - what the AVX2 kernels (with FMA and F16C) share: rows to columns.
 *
 * Layer: kernels/cpu.  Only for cpu_*_avx2.c, on x86-64.
 */
#ifndef SL_CPU_SIMD_AVX2_H
#define SL_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu/cpu_simd.h"

#define AVX2   __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) AVX2

enum { LANES = 8 };

/* The first n of 8 lanes, none for n <= 0. */
INLINE __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Register r of the four holds, in its 128-bit lane i, 16 bytes of row 4i + r: after interleaving
 * the registers, lane i has rows 4i .. 4i+3 side by side, and the lanes are in row order. */
INLINE void load_rows(__m256i z[4], const char *const row[LANES], size_t offset) {
    SL_UNROLL
    for (int r = 0; r < 4; r++)
        z[r] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(
                _mm_loadu_si128((const __m128i *)(const void *)(row[r] + offset))),
            _mm_loadu_si128((const __m128i *)(const void *)(row[4 + r] + offset)), 1);
}

/* 4 columns of 32 bits */
INLINE void transpose_dwords(__m256 column[4], const __m256i z[4]) {
    const __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpacklo_epi32(z[2], z[3]);
    const __m256i c = _mm256_unpackhi_epi32(z[0], z[1]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    column[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi64(a, b));
    column[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi64(a, b));
    column[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi64(c, d));
    column[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi64(c, d));
}

/* Each row's half at `offset`. */
INLINE __m256 gather_halves(const char *const row[LANES], size_t offset) {
    uint16_t half[LANES];
    for (int i = 0; i < LANES; i++) memcpy(&half[i], row[i] + offset, sizeof half[i]);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half));
}

INLINE float reduce_max(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

INLINE float reduce_add(__m256 v) {
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_shuffle_ps(m, m, 1)));
}

#endif
