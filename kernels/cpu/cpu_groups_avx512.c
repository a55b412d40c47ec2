/* The group formats in AVX-512 (F, BW, DQ, VL). */
#include "cpu/cpu_groups.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd_avx512.h"
#include "model/pack.h"

/* ---- expansion: 16 rows at a time ----
 *
 * Rows are transposed in pieces of four bytes: a lane then has four codes of 8 bits or eight of 4
 * bits of one row, and one shuffle makes a number of each. */

/* 16 columns of codes of 8 bits; only n of them are stored. */
INLINE void expand_bytes(float *panel, const char *const code[LANES], size_t offset, __m512 step,
                         __m512 minimum, int n) {
    __m512i z[4];
    __m512 column[4];
    load_rows(z, code, offset);
    transpose_dwords(column, z);
    SL_UNROLL
    for (int c = 0; c < 4; c++) {
        SL_UNROLL
        for (int i = 0; i < 4; i++) {
            if (4 * c + i >= n) return;
            /* Byte i of each lane, zeros above. */
            const __m512i pick =
                _mm512_add_epi8(_mm512_set4_epi32((int)0x8080800c, (int)0x80808008, (int)0x80808004,
                                                  (int)0x80808000),
                                _mm512_set1_epi32(i));
            const __m512 q =
                _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_castps_si512(column[c]), pick));
            _mm512_store_ps(panel + (4 * c + i) * SL_STRIP, _mm512_fmadd_ps(q, step, minimum));
        }
    }
}

/* 32 columns of codes of 4 bits; only n of them are stored. */
INLINE void expand_nibbles(float *panel, const char *const code[LANES], size_t offset, __m512 step,
                           __m512 minimum, int n) {
    const __m512 number = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i z[4];
    __m512 column[4];
    load_rows(z, code, offset);
    transpose_dwords(column, z);
    SL_UNROLL
    for (int c = 0; c < 4; c++) {
        SL_UNROLL
        for (int i = 0; i < 8; i++) {
            if (8 * c + i >= n) return;
            /* The permutation takes its index from the lowest four bits of a lane alone. */
            const __m512 q = _mm512_permutexvar_ps(
                _mm512_srli_epi32(_mm512_castps_si512(column[c]), (unsigned)i * 4), number);
            _mm512_store_ps(panel + (8 * c + i) * SL_STRIP, _mm512_fmadd_ps(q, step, minimum));
        }
    }
}

AVX512 void sl_cpu_expand_groups_avx512(float *panel, const sl_cpu_group_rows *rows, int n_rows,
                                        int k0, int n_k) {
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
            const __m512i heads = gather_heads(pair, (size_t)(k / SL_GROUP_ELEMS) * 4);
            const __m512 step = halves_to_float(heads);
            const __m512 minimum = halves_to_float(_mm512_srli_epi32(heads, 16));
            const int end = n_k - k < SL_GROUP_ELEMS ? n_k : k + SL_GROUP_ELEMS;
            float *to = panel + n0;
            if (rows->bits == 8) {
                int c = k;
                for (; c + 16 <= end; c += 16)
                    expand_bytes(to + c * SL_STRIP, code, (size_t)c, step, minimum, 16);
                if (c < end)
                    expand_bytes(to + c * SL_STRIP, code, (size_t)c, step, minimum, end - c);
            } else {
                int c = k;
                for (; c + 32 <= end; c += 32)
                    expand_nibbles(to + c * SL_STRIP, code, (size_t)c / 2, step, minimum, 32);
                if (c < end)
                    expand_nibbles(to + c * SL_STRIP, code, (size_t)c / 2, step, minimum, end - c);
            }
        }
    }
}

/* ---- values: one token's row at a time ---- */

INLINE __m512 decode(__m128i codes, __m512 step, __m512 minimum, __mmask16 mask) {
    const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
    return _mm512_maskz_fmadd_ps(mask, q, step, minimum);
}

/* One strip: up to 32 columns of every token, from column d. */
INLINE void strip_values(float *panel, const sl_cpu_group_rows *rows, int bits, int d, int width,
                         int n_valid) {
    const __mmask16 left = first_lanes(width), right = first_lanes(width - LANES);
    const uint8_t *code = rows->codes + (size_t)d * (size_t)bits / 8;
    const uint8_t *pair = rows->pairs + (size_t)(d / SL_GROUP_ELEMS) * 4;
    for (int j = 0; j < n_valid; j++, panel += SL_STRIP) {
        int32_t both;
        memcpy(&both, pair, sizeof both);
        const __m128 numbers = _mm_cvtph_ps(_mm_cvtsi32_si128(both));
        const __m512 step = _mm512_broadcastss_ps(numbers);
        const __m512 minimum = _mm512_broadcastss_ps(_mm_movehdup_ps(numbers));
        __m128i first = _mm_loadu_si128((const __m128i *)(const void *)code);
        __m128i second;
        if (bits == 8) {
            second = right ? _mm_loadu_si128((const __m128i *)(const void *)(code + 16)) : first;
        } else {
            const __m128i low_nibble = _mm_set1_epi8(0x0f);
            const __m128i low = _mm_and_si128(first, low_nibble);
            const __m128i high = _mm_and_si128(_mm_srli_epi16(first, 4), low_nibble);
            first = _mm_unpacklo_epi8(low, high);
            second = _mm_unpackhi_epi8(low, high);
        }
        _mm512_store_ps(panel, decode(first, step, minimum, left));
        _mm512_store_ps(panel + LANES, decode(second, step, minimum, right));
        code += rows->code_stride;
        pair += rows->pair_stride;
    }
    for (int j = n_valid; j < SL_STRIP; j++, panel += SL_STRIP) {
        _mm512_store_ps(panel, _mm512_setzero_ps());
        _mm512_store_ps(panel + LANES, _mm512_setzero_ps());
    }
}

AVX512 void sl_cpu_group_values_avx512(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                                       int n_valid) {
    for (int d = 0; d < head_dim; d += SL_STRIP, panels += SL_STRIP * SL_STRIP) {
        if (rows->bits == 8)
            strip_values(panels, rows, 8, d, head_dim - d, n_valid);
        else
            strip_values(panels, rows, 4, d, head_dim - d, n_valid);
    }
}

/* ---- packing ---- */

AVX512 void sl_cpu_pack_group_avx512(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits,
                                     int n) {
    enum { N = SL_GROUP_ELEMS / LANES };
    const __m512 infinity = _mm512_set1_ps(INFINITY);
    __m512 value[N], low = infinity, high = _mm512_set1_ps(-INFINITY);
    __mmask16 broken = 0;
    SL_UNROLL
    for (int i = 0; i < N; i++) {
        const __mmask16 mask = first_lanes(n - i * LANES);
        value[i] = _mm512_maskz_loadu_ps(mask, x + i * LANES);
        low = _mm512_mask_min_ps(low, mask, low, value[i]);
        high = _mm512_mask_max_ps(high, mask, high, value[i]);
        broken |= _mm512_cmp_ps_mask(_mm512_abs_ps(value[i]), infinity, _CMP_NLT_UQ);
    }
    if (broken) {
        sl_pack_group(codes, pair_out, x, bits, n);
        return;
    }
    sl_pack_range(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high), bits, pair_out);
    const float step = sl_f16_to_f32(pair_out[0]);
    if (!(step > 0.0f)) {
        memset(codes, 0, (size_t)(n * bits + 7) / 8);
        return;
    }
    const __m512 minimum = _mm512_set1_ps(sl_f16_to_f32(pair_out[1]));
    const __m512 top = _mm512_set1_ps((float)((1 << bits) - 1));
    SL_UNROLL
    for (int i = 0; i < N; i++) {
        const int width = n - i * LANES;
        const __mmask16 mask = first_lanes(width);
        __m512 code = _mm512_div_ps(_mm512_sub_ps(value[i], minimum), _mm512_set1_ps(step));
        code = _mm512_min_ps(_mm512_max_ps(code, _mm512_setzero_ps()), top);
        const __m512i whole = _mm512_maskz_cvtps_epi32(mask, code); /* to nearest even */
        if (bits == 8) {
            _mm512_mask_cvtepi32_storeu_epi8(codes + i * LANES, mask, whole);
        } else {
            /* Lanes of 64 bits: the odd element's code goes above the even one's. */
            const __m512i two = _mm512_or_si512(whole, _mm512_srli_epi64(whole, 28));
            _mm512_mask_cvtepi64_storeu_epi8(codes + i * LANES / 2,
                                             (__mmask8)first_lanes((width + 1) / 2), two);
        }
    }
}

#endif
