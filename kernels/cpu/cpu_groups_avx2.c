/* The group formats in AVX2 with FMA and F16C. */
#include "cpu/cpu_groups.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd_avx2.h"
#include "model/pack.h"

/* ---- expansion: 8 rows at a time ----
 *
 * Rows are transposed in pieces of four bytes: a lane then has four codes of 8 bits or eight of 4
 * bits of one row, and a shuffle, or a shift and a mask, makes a number of each. */

/* 16 columns of codes of 8 bits; only n of them are stored. */
INLINE void expand_bytes(float *panel, const char *const code[LANES], size_t offset, __m256 step,
                         __m256 minimum, int n) {
    __m256i z[4];
    __m256 column[4];
    load_rows(z, code, offset);
    transpose_dwords(column, z);
    const int none = (int)0x80808000;
    const __m256i lowest =
        _mm256_setr_epi32(none, none + 4, none + 8, none + 12, none, none + 4, none + 8, none + 12);
    SL_UNROLL
    for (int c = 0; c < 4; c++) {
        SL_UNROLL
        for (int i = 0; i < 4; i++) {
            if (4 * c + i >= n) return;
            /* Byte i of each lane, zeros above. */
            const __m256i pick = _mm256_add_epi8(lowest, _mm256_set1_epi32(i));
            const __m256 q =
                _mm256_cvtepi32_ps(_mm256_shuffle_epi8(_mm256_castps_si256(column[c]), pick));
            _mm256_store_ps(panel + (4 * c + i) * SL_STRIP, _mm256_fmadd_ps(q, step, minimum));
        }
    }
}

/* 32 columns of codes of 4 bits; only n of them are stored. */
INLINE void expand_nibbles(float *panel, const char *const code[LANES], size_t offset, __m256 step,
                           __m256 minimum, int n) {
    const __m256i nibble = _mm256_set1_epi32(15);
    __m256i z[4];
    __m256 column[4];
    load_rows(z, code, offset);
    transpose_dwords(column, z);
    SL_UNROLL
    for (int c = 0; c < 4; c++) {
        SL_UNROLL
        for (int i = 0; i < 8; i++) {
            if (8 * c + i >= n) return;
            const __m256i shifted = _mm256_srli_epi32(_mm256_castps_si256(column[c]), i * 4);
            const __m256 q = _mm256_cvtepi32_ps(_mm256_and_si256(shifted, nibble));
            _mm256_store_ps(panel + (8 * c + i) * SL_STRIP, _mm256_fmadd_ps(q, step, minimum));
        }
    }
}

AVX2 void sl_cpu_expand_groups_avx2(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0,
                                    int n_k) {
    const size_t code0 = (size_t)k0 * (size_t)rows->bits / 8;
    const size_t pair0 = (size_t)(k0 / SL_GROUP_ELEMS) * 4;
    for (int n0 = 0; n0 < n_rows; n0 += LANES) {
        const char *code[LANES], *pair[LANES];
        for (int i = 0; i < LANES; i++) {
            /* Lanes without a row repeat the last one. */
            const size_t n = (size_t)(n0 + i < n_rows ? n0 + i : n_rows - 1);
            code[i] = (const char *)rows->codes + n * rows->code_stride + code0;
            pair[i] = (const char *)rows->pairs + n * rows->pair_stride + pair0;
        }
        for (int k = 0; k < n_k; k += SL_GROUP_ELEMS) {
            const size_t at = (size_t)(k / SL_GROUP_ELEMS) * 4;
            const __m256 step = gather_halves(pair, at), minimum = gather_halves(pair, at + 2);
            const int end = n_k - k < SL_GROUP_ELEMS ? n_k : k + SL_GROUP_ELEMS;
            float *to = panel + n0;
            int c = k;
            if (rows->bits == 8) {
                for (; c + 16 <= end; c += 16)
                    expand_bytes(to + c * SL_STRIP, code, (size_t)c, step, minimum, 16);
                if (c < end)
                    expand_bytes(to + c * SL_STRIP, code, (size_t)c, step, minimum, end - c);
            } else {
                for (; c + 32 <= end; c += 32)
                    expand_nibbles(to + c * SL_STRIP, code, (size_t)c / 2, step, minimum, 32);
                if (c < end)
                    expand_nibbles(to + c * SL_STRIP, code, (size_t)c / 2, step, minimum, end - c);
            }
        }
    }
}

/* ---- values: one token's row at a time ---- */

/* Eight numbers from the low half of `codes`. */
INLINE void decode(float *to, __m128i codes, __m256 step, __m256 minimum, __m256 mask) {
    const __m256 q = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
    _mm256_store_ps(to, _mm256_and_ps(mask, _mm256_fmadd_ps(q, step, minimum)));
}

/* One strip: up to 32 columns of every token, from column d. */
INLINE void strip_values(float *panel, const sl_cpu_group_rows *rows, int bits, int d, int width,
                         int n_valid) {
    const uint8_t *code = rows->codes + (size_t)d * (size_t)bits / 8;
    const uint8_t *pair = rows->pairs + (size_t)(d / SL_GROUP_ELEMS) * 4;
    __m256 mask[4];
    for (int i = 0; i < 4; i++) mask[i] = _mm256_castsi256_ps(first_lanes(width - i * LANES));
    for (int j = 0; j < n_valid; j++, panel += SL_STRIP) {
        int32_t both;
        memcpy(&both, pair, sizeof both);
        const __m128 numbers = _mm_cvtph_ps(_mm_cvtsi32_si128(both));
        const __m256 step = _mm256_broadcastss_ps(numbers);
        const __m256 minimum = _mm256_broadcastss_ps(_mm_movehdup_ps(numbers));
        __m128i first = _mm_loadu_si128((const __m128i *)(const void *)code);
        __m128i second;
        if (bits == 8) {
            second =
                width > 16 ? _mm_loadu_si128((const __m128i *)(const void *)(code + 16)) : first;
        } else {
            const __m128i low_nibble = _mm_set1_epi8(0x0f);
            const __m128i low = _mm_and_si128(first, low_nibble);
            const __m128i high = _mm_and_si128(_mm_srli_epi16(first, 4), low_nibble);
            first = _mm_unpacklo_epi8(low, high);
            second = _mm_unpackhi_epi8(low, high);
        }
        decode(panel, first, step, minimum, mask[0]);
        decode(panel + LANES, _mm_unpackhi_epi64(first, first), step, minimum, mask[1]);
        decode(panel + 2 * LANES, second, step, minimum, mask[2]);
        decode(panel + 3 * LANES, _mm_unpackhi_epi64(second, second), step, minimum, mask[3]);
        code += rows->code_stride;
        pair += rows->pair_stride;
    }
    for (int j = n_valid; j < SL_STRIP; j++)
        for (int i = 0; i < 4; i++, panel += LANES) _mm256_store_ps(panel, _mm256_setzero_ps());
}

AVX2 void sl_cpu_group_values_avx2(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                                   int n_valid) {
    for (int d = 0; d < head_dim; d += SL_STRIP, panels += SL_STRIP * SL_STRIP) {
        if (rows->bits == 8)
            strip_values(panels, rows, 8, d, head_dim - d, n_valid);
        else
            strip_values(panels, rows, 4, d, head_dim - d, n_valid);
    }
}

/* ---- packing ---- */

AVX2 void sl_cpu_pack_group_avx2(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits,
                                 int n) {
    enum { N = SL_GROUP_ELEMS / LANES };
    const __m256 infinity = _mm256_set1_ps(INFINITY), zero = _mm256_setzero_ps();
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 value[N], low = infinity, high = _mm256_set1_ps(-INFINITY), broken = zero;
    for (int i = 0; i < N; i++) {
        const __m256i mask = first_lanes(n - i * LANES);
        const __m256 seen = _mm256_castsi256_ps(mask);
        value[i] = _mm256_maskload_ps(x + i * LANES, mask);
        low = _mm256_blendv_ps(low, _mm256_min_ps(low, value[i]), seen);
        high = _mm256_blendv_ps(high, _mm256_max_ps(high, value[i]), seen);
        const __m256 size = _mm256_andnot_ps(sign, value[i]);
        broken = _mm256_or_ps(broken, _mm256_cmp_ps(size, infinity, _CMP_NLT_UQ));
    }
    if (_mm256_movemask_ps(broken) != 0) {
        sl_pack_group(codes, pair_out, x, bits, n);
        return;
    }
    sl_pack_range(-reduce_max(_mm256_xor_ps(low, sign)), reduce_max(high), bits, pair_out);
    const float step = sl_f16_to_f32(pair_out[0]);
    if (!(step > 0.0f)) {
        memset(codes, 0, (size_t)(n * bits + 7) / 8);
        return;
    }
    const __m256 minimum = _mm256_set1_ps(sl_f16_to_f32(pair_out[1]));
    const __m256 top = _mm256_set1_ps((float)((1 << bits) - 1));
    uint8_t wide[SL_GROUP_ELEMS]; /* a code in each byte */
    for (int i = 0; i < N; i++) {
        __m256 code = _mm256_div_ps(_mm256_sub_ps(value[i], minimum), _mm256_set1_ps(step));
        code = _mm256_min_ps(_mm256_max_ps(code, zero), top);
        const __m256i whole = _mm256_and_si256(_mm256_cvtps_epi32(code), /* to nearest even */
                                               first_lanes(n - i * LANES));
        const __m128i short_codes =
            _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64((__m128i *)(void *)(wide + i * LANES),
                         _mm_packus_epi16(short_codes, short_codes));
    }
    if (bits == 8) {
        memcpy(codes, wide, (size_t)n);
        return;
    }
    uint8_t narrow[SL_GROUP_ELEMS / 2];
    for (int i = 0; i < SL_GROUP_ELEMS; i += 32) {
        /* even + 16 * odd, in lanes of 16 bits */
        const __m256i two =
            _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(wide + i)),
                                 _mm256_set1_epi16(0x1001));
        _mm_storeu_si128(
            (__m128i *)(void *)(narrow + i / 2),
            _mm_packus_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
    }
    memcpy(codes, narrow, (size_t)(n + 1) / 2);
}

#endif
