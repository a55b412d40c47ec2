/* The inner kernels in AVX-512 (F, BW, DQ, VL). */
#include "cpu/cpu_kernels.h"

#if !defined(__x86_64__)

const sl_cpu_kernels *sl_cpu_kernels_avx512(void) {
    return NULL;
}

#else

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cpu/cpu_simd_avx512.h"
#include "model/pack.h"
#include "model/quant.h"

enum { CHUNK = 16 /* bytes of a row that are transposed at a time */ };

/* ---- expansion: 16 rows at a time, transposed in the narrow type ---- */

INLINE void expand_chunk_f32(float *panel, const __m512i z[4]) {
    __m512 column[4];
    transpose_dwords(column, z);
    SL_UNROLL
    for (int i = 0; i < 4; i++) _mm512_store_ps(panel + i * SL_STRIP, column[i]);
}

INLINE __m512 widen(__m256i half, int is_bf16) {
    if (!is_bf16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Two columns: each 64-bit half of a lane has four rows of one of them. */
INLINE void store_columns(float *panel, __m512i pair, int is_bf16) {
    const __m512i by_column = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i v = _mm512_permutexvar_epi64(by_column, pair);
    _mm512_store_ps(panel, widen(_mm512_castsi512_si256(v), is_bf16));
    _mm512_store_ps(panel + SL_STRIP, widen(_mm512_extracti64x4_epi64(v, 1), is_bf16));
}

/* 8 columns of float16 or bfloat16 */
INLINE void expand_chunk_half(float *panel, const __m512i z[4], int is_bf16) {
    const __m512i a = _mm512_unpacklo_epi16(z[0], z[1]), b = _mm512_unpacklo_epi16(z[2], z[3]);
    const __m512i c = _mm512_unpackhi_epi16(z[0], z[1]), d = _mm512_unpackhi_epi16(z[2], z[3]);
    store_columns(panel, _mm512_unpacklo_epi32(a, b), is_bf16);
    store_columns(panel + 2 * SL_STRIP, _mm512_unpackhi_epi32(a, b), is_bf16);
    store_columns(panel + 4 * SL_STRIP, _mm512_unpacklo_epi32(c, d), is_bf16);
    store_columns(panel + 6 * SL_STRIP, _mm512_unpackhi_epi32(c, d), is_bf16);
}

INLINE void expand_chunk(float *panel, const __m512i z[4], sl_dtype dtype) {
    if (dtype == SL_DTYPE_F32)
        expand_chunk_f32(panel, z);
    else
        expand_chunk_half(panel, z, dtype == SL_DTYPE_BF16);
}

/* panel: column 0 of 16 rows; row: already at k0 */
INLINE void expand_plain(float *panel, const char *const row[LANES], sl_dtype dtype, int n_k) {
    const int chunk_k = dtype == SL_DTYPE_F32 ? 4 : 8;
    const int elem_bytes = CHUNK / chunk_k;
    __m512i z[4];
    int k = 0;
    for (; k + chunk_k <= n_k; k += chunk_k) {
        load_rows(z, row, (size_t)(k * elem_bytes));
        expand_chunk(panel + k * SL_STRIP, z, dtype);
    }
    if (k == n_k) return;
    /* The last columns go through copies, so that nothing is read behind the rows' end. */
    _Alignas(64) float part[8 * SL_STRIP] = {0};
    char copy[LANES][CHUNK];
    const char *copied[LANES];
    memset(copy, 0, sizeof copy);
    for (int i = 0; i < LANES; i++) {
        memcpy(copy[i], row[i] + k * elem_bytes, (size_t)((n_k - k) * elem_bytes));
        copied[i] = copy[i];
    }
    load_rows(z, copied, 0);
    expand_chunk(part, z, dtype);
    for (int i = 0; k + i < n_k; i++)
        memcpy(panel + (k + i) * SL_STRIP, part + i * SL_STRIP, LANES * sizeof *part);
}

/* bytes[b][i] = byte b of row i */
INLINE void transpose_bytes(__m512i bytes[4], const __m512i z[4]) {
    const __m512i by_byte = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i a = _mm512_unpacklo_epi8(z[0], z[1]), b = _mm512_unpacklo_epi8(z[2], z[3]);
    const __m512i c = _mm512_unpackhi_epi8(z[0], z[1]), d = _mm512_unpackhi_epi8(z[2], z[3]);
    bytes[0] = _mm512_permutexvar_epi32(by_byte, _mm512_unpacklo_epi16(a, b));
    bytes[1] = _mm512_permutexvar_epi32(by_byte, _mm512_unpackhi_epi16(a, b));
    bytes[2] = _mm512_permutexvar_epi32(by_byte, _mm512_unpacklo_epi16(c, d));
    bytes[3] = _mm512_permutexvar_epi32(by_byte, _mm512_unpackhi_epi16(c, d));
}

/* Q4_0: (q - 8) d, as one fma it is the same number; Q4_1: q d + m.  Element i < 16 is the low
 * nibble of byte i, element i + 16 the high one. */
INLINE void expand_q4(float *panel, const char *const row[LANES], sl_dtype dtype, int n_k) {
    const size_t block_bytes = dtype == SL_DTYPE_Q4_0 ? 18 : 20;
    const size_t codes = dtype == SL_DTYPE_Q4_0 ? 2 : 4;
    const __m512i low_nibble = _mm512_set1_epi8(0x0f);
    size_t offset = 0;
    for (int k = 0; k < n_k; k += 32, offset += block_bytes, panel += 32 * SL_STRIP) {
        const __m512i heads = gather_heads(row, offset);
        const __m512 step = halves_to_float(heads);
        const __m512 minimum = dtype == SL_DTYPE_Q4_0
                                   ? _mm512_mul_ps(step, _mm512_set1_ps(-8.0f))
                                   : halves_to_float(_mm512_srli_epi32(heads, 16));
        __m512i z[4], bytes[4];
        load_rows(z, row, offset + codes);
        transpose_bytes(bytes, z);
        _Alignas(64) uint8_t code[2][16][LANES];
        for (int i = 0; i < 4; i++) {
            _mm512_store_si512(code[0][4 * i], _mm512_and_si512(bytes[i], low_nibble));
            _mm512_store_si512(code[1][4 * i],
                               _mm512_and_si512(_mm512_srli_epi16(bytes[i], 4), low_nibble));
        }
        for (int i = 0; i < 32; i++) {
            const __m128i c = _mm_load_si128((const __m128i *)(const void *)code[i / 16][i % 16]);
            const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(c));
            _mm512_store_ps(panel + i * SL_STRIP, _mm512_fmadd_ps(q, step, minimum));
        }
    }
}

/* Q8_0: q d */
INLINE void expand_q8(float *panel, const char *const row[LANES], int n_k) {
    size_t offset = 0;
    for (int k = 0; k < n_k; k += 32, offset += 34) {
        const __m512 step = halves_to_float(gather_heads(row, offset));
        for (size_t half = 0; half < 2; half++, panel += 16 * SL_STRIP) {
            __m512i z[4], bytes[4];
            load_rows(z, row, offset + 2 + 16 * half);
            transpose_bytes(bytes, z);
            _Alignas(64) int8_t code[16][LANES];
            for (int i = 0; i < 4; i++) _mm512_store_si512(code[4 * i], bytes[i]);
            for (int i = 0; i < 16; i++) {
                const __m128i c = _mm_load_si128((const __m128i *)(const void *)code[i]);
                const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(c));
                _mm512_store_ps(panel + i * SL_STRIP, _mm512_mul_ps(q, step));
            }
        }
    }
}

AVX512 static void avx512_expand(float *panel, const void *data, sl_dtype dtype, size_t row_bytes,
                                 int n_rows, int k0, int n_k, float *scratch) {
    const size_t offset = (size_t)(k0 / sl_dtype_block_elems(dtype)) * sl_dtype_block_bytes(dtype);
    for (int n0 = 0; n0 < n_rows; n0 += LANES) {
        /* Lanes without a row repeat the last one. */
        const char *row[LANES];
        for (int i = 0; i < LANES; i++) {
            const int n = n0 + i < n_rows ? n0 + i : n_rows - 1;
            row[i] = (const char *)data + (size_t)n * row_bytes + offset;
        }
        switch (dtype) {
        case SL_DTYPE_F32:
            expand_plain(panel + n0, row, SL_DTYPE_F32, n_k);
            break;
        case SL_DTYPE_F16:
            expand_plain(panel + n0, row, SL_DTYPE_F16, n_k);
            break;
        case SL_DTYPE_BF16:
            expand_plain(panel + n0, row, SL_DTYPE_BF16, n_k);
            break;
        case SL_DTYPE_Q4_0:
            expand_q4(panel + n0, row, SL_DTYPE_Q4_0, n_k);
            break;
        case SL_DTYPE_Q4_1:
            expand_q4(panel + n0, row, SL_DTYPE_Q4_1, n_k);
            break;
        case SL_DTYPE_Q8_0:
            expand_q8(panel + n0, row, n_k);
            break;
        default:
            for (int i = 0; i < LANES; i++) {
                if (n0 + i < n_rows)
                    sl_dequantize_row(scratch + (size_t)i * (size_t)n_k, row[i], dtype, n_k);
                const int last = n0 + i < n_rows ? i : n_rows - 1 - n0;
                row[i] = (const char *)(scratch + (size_t)last * (size_t)n_k);
            }
            expand_plain(panel + n0, row, SL_DTYPE_F32, n_k);
            break;
        }
    }
}

/* ---- rows, transposed likewise ---- */

AVX512 static void avx512_pack(float *to, const float *x, int ldx, int n_rows, int n_k) {
    const char *row[LANES];
    for (int i = 0; i < LANES; i++)
        row[i] = (const char *)(x + (size_t)(i < n_rows ? i : n_rows - 1) * (size_t)ldx);
    const __mmask16 mask = (__mmask16)((UINT32_C(1) << n_rows) - 1);
    int k = 0;
    for (; k + 4 <= n_k; k += 4, to += 4 * n_rows) {
        __m512i z[4];
        __m512 column[4];
        load_rows(z, row, (size_t)k * sizeof *x);
        transpose_dwords(column, z);
        SL_UNROLL
        for (int i = 0; i < 4; i++) _mm512_mask_storeu_ps(to + i * n_rows, mask, column[i]);
    }
    for (; k < n_k; k++)
        for (int m = 0; m < n_rows; m++) *to++ = x[(size_t)m * (size_t)ldx + (size_t)k];
}

/* ---- products: n_rows is a constant at each call, so the sums stay in registers ---- */

/* x[m * row_stride + k * k_stride]; row_stride is a constant, too. */
INLINE void tile(float *y, int ldy, const float *x, int row_stride, int k_stride,
                 const float *panel, int n_rows, int n_k, int n_cols, int add) {
    __m512 left[SL_TILE], right[SL_TILE];
    SL_UNROLL
    for (int m = 0; m < n_rows; m++) left[m] = right[m] = _mm512_setzero_ps();
    for (int k = 0; k < n_k; k++) {
        const __m512 w0 = _mm512_load_ps(panel);
        const __m512 w1 = _mm512_load_ps(panel + LANES);
        SL_UNROLL
        for (int m = 0; m < n_rows; m++) {
            const __m512 xm = _mm512_set1_ps(x[m * row_stride]);
            left[m] = _mm512_fmadd_ps(xm, w0, left[m]);
            right[m] = _mm512_fmadd_ps(xm, w1, right[m]);
        }
        panel += SL_STRIP;
        x += k_stride;
    }
    const uint32_t mask = n_cols == SL_STRIP ? UINT32_MAX : (UINT32_C(1) << n_cols) - 1;
    const __mmask16 m0 = (__mmask16)mask, m1 = (__mmask16)(mask >> LANES);
    SL_UNROLL
    for (int m = 0; m < n_rows; m++, y += ldy) {
        if (add) {
            left[m] = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, y), left[m]);
            right[m] = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, y + LANES), right[m]);
        }
        _mm512_mask_storeu_ps(y, m0, left[m]);
        _mm512_mask_storeu_ps(y + LANES, m1, right[m]);
    }
}

#define FOR_EACH_TILE(CASE)                                                                        \
    CASE(1)                                                                                        \
    CASE(2)                                                                                        \
    CASE(3)                                                                                        \
    CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)

AVX512 static void avx512_multiply(float *y, int ldy, const float *x, const float *panel,
                                   int n_rows, int n_k, int n_cols, int add) {
    switch (n_rows) {
#define CASE(N)                                                                                    \
    case N:                                                                                        \
        tile(y, ldy, x, 1, N, panel, N, n_k, n_cols, add);                                         \
        break;
        FOR_EACH_TILE(CASE)
#undef CASE
    }
}

AVX512 static void avx512_mix(float *y, int ldy, const float *p, const float *panel, int n_rows) {
    switch (n_rows) {
#define CASE(N)                                                                                    \
    case N:                                                                                        \
        tile(y, ldy, p, SL_STRIP, 1, panel, N, SL_STRIP, SL_STRIP, 1);                             \
        break;
        FOR_EACH_TILE(CASE)
#undef CASE
    }
}

/* ---- attention's other parts, and activations ---- */

AVX512 static void avx512_values(float *panels, const void *src, sl_dtype dtype, int head_dim,
                                 int n_valid) {
    for (int d = 0; d < head_dim || d % SL_STRIP != 0; d += LANES) {
        float *panel = panels + d / SL_STRIP * SL_STRIP * SL_STRIP + d % SL_STRIP;
        const int width = d >= head_dim ? 0 : head_dim - d < LANES ? head_dim - d : LANES;
        const __mmask16 mask = (__mmask16)((UINT32_C(1) << width) - 1);
        int j = 0;
        if (width > 0 && dtype == SL_DTYPE_F16) {
            const uint16_t *from = (const uint16_t *)src + d;
            for (; j < n_valid; j++, from += head_dim)
                _mm512_store_ps(panel + j * SL_STRIP,
                                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from)));
        } else if (width > 0) {
            const float *from = (const float *)src + d;
            for (; j < n_valid; j++, from += head_dim)
                _mm512_store_ps(panel + j * SL_STRIP, _mm512_maskz_loadu_ps(mask, from));
        }
        for (; j < SL_STRIP; j++) _mm512_store_ps(panel + j * SL_STRIP, _mm512_setzero_ps());
    }
}

/* Below -104 the result is 0, above 100 infinity; NaN stays (x is the second operand of max/min).
 */
INLINE __m512 exp_lanes(__m512 x) {
    static const float term[8] = SL_EXP_TERMS;
    x = _mm512_min_ps(_mm512_set1_ps(100.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(SL_LOG2_E)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(SL_LN2_HIGH), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(SL_LN2_LOW), r);
    __m512 e = _mm512_set1_ps(term[7]);
    for (int i = 6; i >= 0; i--) e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(term[i]));
    return _mm512_scalef_ps(e, n);
}

AVX512 static float avx512_softmax(float *s, int first, int last, float *max, float *sum) {
    const uint32_t below = last == SL_STRIP ? UINT32_MAX : (UINT32_C(1) << last) - 1;
    const uint32_t mask = below & ~((UINT32_C(1) << first) - 1);
    const __mmask16 m0 = (__mmask16)mask, m1 = (__mmask16)(mask >> LANES);
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    const __m512 s0 = _mm512_mask_loadu_ps(lowest, m0, s);
    const __m512 s1 = _mm512_mask_loadu_ps(lowest, m1, s + LANES);
    const float old = *max, found = _mm512_reduce_max_ps(_mm512_max_ps(s0, s1));
    const float top = found > old ? found : old;
    const __m512 e0 = _mm512_maskz_mov_ps(m0, exp_lanes(_mm512_sub_ps(s0, _mm512_set1_ps(top))));
    const __m512 e1 = _mm512_maskz_mov_ps(m1, exp_lanes(_mm512_sub_ps(s1, _mm512_set1_ps(top))));
    _mm512_storeu_ps(s, e0);
    _mm512_storeu_ps(s + LANES, e1);
    const float shrink = top == old ? 1.0f : _mm512_cvtss_f32(exp_lanes(_mm512_set1_ps(old - top)));
    *max = top;
    *sum = *sum * shrink + _mm512_reduce_add_ps(_mm512_add_ps(e0, e1));
    return shrink;
}

AVX512 static void avx512_to_f16(void *y, const float *x, int n) {
    for (int i = 0; i < n; i += LANES) {
        const int width = n - i < LANES ? n - i : LANES;
        const __mmask16 mask = (__mmask16)((UINT32_C(1) << width) - 1);
        const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, x + i),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16((char *)y + (size_t)i * 2, mask, half);
    }
}

AVX512 static void avx512_silu(float *y, const float *g, const float *u, int n) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < n; i += LANES) {
        const int width = n - i < LANES ? n - i : LANES;
        const __mmask16 mask = (__mmask16)((UINT32_C(1) << width) - 1);
        const __m512 x = _mm512_maskz_loadu_ps(mask, g + i);
        const __m512 e = exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), x));
        __m512 a = _mm512_div_ps(x, _mm512_add_ps(one, e));
        if (u) a = _mm512_mul_ps(a, _mm512_maskz_loadu_ps(mask, u + i));
        _mm512_mask_storeu_ps(y + i, mask, a);
    }
}

const sl_cpu_kernels *sl_cpu_kernels_avx512(void) {
    static const sl_cpu_kernels kernels = {
        .name = "avx512",
        .expand = avx512_expand,
        .expand_groups = sl_cpu_expand_groups_avx512,
        .pack = avx512_pack,
        .multiply = avx512_multiply,
        .mix = avx512_mix,
        .values = avx512_values,
        .group_values = sl_cpu_group_values_avx512,
        .softmax = avx512_softmax,
        .to_f16 = avx512_to_f16,
        .pack_group = sl_cpu_pack_group_avx512,
        .silu = avx512_silu,
    };
    const int has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("fma");
    return has ? &kernels : NULL;
}

#endif
