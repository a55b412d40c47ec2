/* Decode attention over host pages in AVX-512 (F, BW, DQ, VL). */
#include "cpu/cpu_host_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "cpu/cpu_simd_avx512.h"
#include "model/config.h"

enum {
    PARTS = SL_GROUP_ELEMS / LANES,
    MAX_QUERIES = 4,
    SCORED = 16,   /* sums of a block of scores: 16 + 4 of queries + 4 parts + 8 of one query */
    MAX_SUMS = 16, /* of a block of means, likewise */
    REDUCED = 8
};

typedef __m512 vec;
typedef __m512i raw;

INLINE vec zero(void) {
    return _mm512_setzero_ps();
}
INLINE vec load(const float *x) {
    return _mm512_load_ps(x);
}
INLINE void store(float *y, vec x) {
    _mm512_store_ps(y, x);
}
INLINE vec splat(const float *x) {
    return _mm512_set1_ps(*x);
}
INLINE vec mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
INLINE vec fmadd(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE float first_lane(vec x) {
    return _mm512_cvtss_f32(x);
}

/* 16 bits of a Q4G64 group in each lane: nibble p of lane i is element 4i + p. */
INLINE raw load_raw(sl_dtype dtype, const char *from, int width) {
    if (dtype != SL_DTYPE_Q4G64) return _mm512_setzero_si512();
    if (width == SL_GROUP_ELEMS)
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)from));
    const __mmask32 bytes = (__mmask32)((UINT32_C(1) << (width + 1) / 2) - 1);
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi8(bytes, from));
}

/* Lanes behind the last element are zero, and nothing is read for them. */
INLINE int has_part(sl_dtype dtype, int p, int width) {
    (void)dtype, (void)p, (void)width;
    return 1;
}

INLINE vec part(sl_dtype dtype, raw codes, const char *from, int p, int width) {
    const int is_whole = width == SL_GROUP_ELEMS;
    const __mmask16 mask = first_lanes(width - p * LANES);
    if (dtype == SL_DTYPE_F32) {
        const char *at = from + p * LANES * 4;
        return is_whole ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps(mask, at);
    }
    if (dtype == SL_DTYPE_F16) {
        const char *at = from + p * LANES * 2;
        return _mm512_cvtph_ps(is_whole ? _mm256_loadu_si256((const __m256i *)(const void *)at)
                                        : _mm256_maskz_loadu_epi16(mask, at));
    }
    if (dtype == SL_DTYPE_Q8G64) {
        const char *at = from + p * LANES;
        const __m128i bytes = is_whole ? _mm_loadu_si128((const __m128i *)(const void *)at)
                                       : _mm_maskz_loadu_epi8(mask, at);
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    }
    /* A permutation looks at the low four bits of an index: shift and look-up do what shift, mask
     * and conversion would. */
    const __m512 number = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(p == 0 ? codes : _mm512_srli_epi32(codes, (unsigned)(4 * p)),
                                 number);
}

/* Lanes of a where the mask has 0 and of b where it has 1, each with its partner of the same
 * vector added; `by` exchanges partners. */
#define MERGE(a, b, mask, by)                                                                      \
    _mm512_add_ps(_mm512_mask_blend_ps(mask, a, b), by(_mm512_mask_blend_ps(mask, b, a)))
#define BY_8(x) _mm512_shuffle_f32x4(x, x, 0x4e)
#define BY_4(x) _mm512_shuffle_f32x4(x, x, 0xb1)
#define BY_2(x) _mm512_permute_ps(x, 0x4e)
#define BY_1(x) _mm512_permute_ps(x, 0xb1)

INLINE void reduce(float *y, const vec *x) {
    vec four[4], two[2];
    SL_UNROLL
    for (int i = 0; i < 4; i++) four[i] = MERGE(x[i], x[i + 4], 0xff00, BY_8);
    SL_UNROLL
    for (int i = 0; i < 2; i++) two[i] = MERGE(four[i], four[i + 2], 0xf0f0, BY_4);
    vec one = MERGE(two[0], two[1], 0xcccc, BY_2);
    one = _mm512_add_ps(one, BY_1(one));
    /* Lanes 2i and 2i + 1 both have the sum of x[i]. */
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    _mm256_storeu_ps(y, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, one)));
}

#include "cpu/cpu_host_simd.h"

SL_HOST_KERNELS(AVX512, avx512_scores, avx512_mix)

static void avx512_order(const sl_kv_format *format, sl_cpu_host_order *out) {
    for (int e = 0; e < SL_GROUP_ELEMS; e++) {
        out->place[e] =
            (uint8_t)(format->dtype == SL_DTYPE_Q4G64 ? e % PARTS * LANES + e / PARTS : e);
        out->factor[e] = 1.0f;
    }
}

AVX512 static void avx512_from_f16(float *y, const void *x, int n) {
    for (int i = 0; i < n; i += LANES) {
        const __mmask16 mask = first_lanes(n - i);
        const __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_cvtph_ps(half));
    }
}

AVX512 static int avx512_count_at_least(const int32_t *x, int n, int32_t bound) {
    const __m512i low = _mm512_set1_epi32(bound);
    int count = 0;
    for (int i = 0; i < n; i += LANES) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512i v = _mm512_maskz_loadu_epi32(mask, x + i);
        count += __builtin_popcount(_mm512_mask_cmpge_epi32_mask(mask, v, low));
    }
    return count;
}

const sl_cpu_host_kernels *sl_cpu_host_kernels_avx512(void) {
    static const sl_cpu_host_kernels kernels = {
        .order = avx512_order,
        .scores = avx512_scores,
        .mix = avx512_mix,
        .from_f16 = avx512_from_f16,
        .count_at_least = avx512_count_at_least,
    };
    return &kernels;
}

#else

const sl_cpu_host_kernels *sl_cpu_host_kernels_avx512(void) {
    return sl_cpu_host_kernels_plain();
}

#endif
