/* Decode attention over host pages in AVX2 with FMA and F16C. */
#include "cpu/cpu_host_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_simd_avx2.h"
#include "model/config.h"

enum {
    PARTS = SL_GROUP_ELEMS / LANES,
    MAX_QUERIES = 2,
    SCORED = 8,   /* sums of a block of scores: 4 of one query, 8 of two */
    MAX_SUMS = 8, /* of a block of means */
    REDUCED = 4
};

typedef __m256 vec;
typedef __m256i raw;

INLINE vec zero(void) {
    return _mm256_setzero_ps();
}
INLINE vec load(const float *x) {
    return _mm256_load_ps(x);
}
INLINE void store(float *y, vec x) {
    _mm256_store_ps(y, x);
}
INLINE vec splat(const float *x) {
    return _mm256_broadcast_ss(x);
}
INLINE vec mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
INLINE vec fmadd(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE float first_lane(vec x) {
    return _mm256_cvtss_f32(x);
}

/* Widths are multiples of 16 here: the others are left to plain C. */

/* 32 bits of a Q4G64 group in each lane: nibble p of lane i is element 8i + p. */
INLINE raw load_raw(sl_dtype dtype, const char *from, int width) {
    if (dtype != SL_DTYPE_Q4G64) return _mm256_setzero_si256();
    if (width == SL_GROUP_ELEMS) return _mm256_loadu_si256((const __m256i *)(const void *)from);
    return _mm256_maskload_epi32((const int *)(const void *)from, first_lanes(width / LANES));
}

INLINE int has_part(sl_dtype dtype, int p, int width) {
    return dtype == SL_DTYPE_Q4G64 || p * LANES < width;
}

INLINE vec part(sl_dtype dtype, raw codes, const char *from, int p, int width) {
    (void)width;
    if (dtype == SL_DTYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)from + p * LANES);
    if (dtype == SL_DTYPE_F16)
        return _mm256_cvtph_ps(
            _mm_loadu_si128((const __m128i *)(const void *)(from + p * LANES * 2)));
    if (dtype == SL_DTYPE_Q8G64)
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(
            _mm_loadl_epi64((const __m128i *)(const void *)(from + p * LANES))));
    /* A nibble stays where it is, 16^p times too large, which the order's factors undo: no shift.
     * The highest one would come out negative. */
    return _mm256_cvtepi32_ps(p == PARTS - 1
                                  ? _mm256_srli_epi32(codes, 4 * p)
                                  : _mm256_and_si256(codes, _mm256_set1_epi32(15 << 4 * p)));
}

/* y[i] is ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7)) of x[i]'s lanes. */
INLINE void reduce(float *y, const vec *x) {
    const vec sum = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1)));
}

#include "cpu/cpu_host_simd.h"

SL_HOST_KERNELS(AVX2, whole_scores, whole_mix)

static int is_whole(const sl_kv_format *format) {
    return format->head_dim % 16 == 0;
}

static void avx2_scores(float *score, size_t ldscore, const float *q, int n_q,
                        const sl_cpu_host_part *keys, int first, int last) {
    if (is_whole(keys->format))
        whole_scores(score, ldscore, q, n_q, keys, first, last);
    else
        sl_cpu_host_kernels_plain()->scores(score, ldscore, q, n_q, keys, first, last);
}

static void avx2_mix(float *mean, const float *shrink, const float *p, int n_q,
                     const sl_cpu_host_part *values, const uint8_t *token, int n) {
    if (is_whole(values->format))
        whole_mix(mean, shrink, p, n_q, values, token, n);
    else
        sl_cpu_host_kernels_plain()->mix(mean, shrink, p, n_q, values, token, n);
}

static void avx2_order(const sl_kv_format *format, sl_cpu_host_order *out) {
    if (format->dtype != SL_DTYPE_Q4G64 || !is_whole(format)) {
        sl_cpu_host_kernels_plain()->order(format, out);
        return;
    }
    for (int e = 0; e < SL_GROUP_ELEMS; e++) {
        const int p = e % PARTS;
        out->place[e] = (uint8_t)(p * LANES + e / PARTS);
        out->factor[e] = p == PARTS - 1 ? 1.0f : 1.0f / (float)(1 << 4 * p);
    }
}

AVX2 static void avx2_from_f16(float *y, const void *x, int n) {
    const char *from = x;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                    (const __m128i *)(const void *)(from + (size_t)i * 2))));
    for (; i < n; i++) {
        sl_f16 half;
        memcpy(&half, from + (size_t)i * sizeof half, sizeof half);
        y[i] = sl_f16_to_f32(half);
    }
}

AVX2 static int avx2_count_at_least(const int32_t *x, int n, int32_t bound) {
    const __m256i low = _mm256_set1_epi32(bound);
    __m256i below = _mm256_setzero_si256(); /* minus the number in each lane */
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        below = _mm256_add_epi32(
            below,
            _mm256_cmpgt_epi32(low, _mm256_loadu_si256((const __m256i *)(const void *)(x + i))));
    int32_t lane[LANES];
    _mm256_storeu_si256((__m256i *)(void *)lane, below);
    int count = i;
    for (int k = 0; k < LANES; k++) count += lane[k];
    for (; i < n; i++) count += x[i] >= bound;
    return count;
}

const sl_cpu_host_kernels *sl_cpu_host_kernels_avx2(void) {
    static const sl_cpu_host_kernels kernels = {
        .order = avx2_order,
        .scores = avx2_scores,
        .mix = avx2_mix,
        .from_f16 = avx2_from_f16,
        .count_at_least = avx2_count_at_least,
    };
    return &kernels;
}

#else

const sl_cpu_host_kernels *sl_cpu_host_kernels_avx2(void) {
    return sl_cpu_host_kernels_plain();
}

#endif
