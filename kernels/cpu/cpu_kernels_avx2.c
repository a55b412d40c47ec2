/* The inner kernels in AVX2 with FMA and F16C. */
#include "cpu/cpu_kernels.h"

#if !defined(__x86_64__)

const sl_cpu_kernels *sl_cpu_kernels_avx2(void) {
    return NULL;
}

#else

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_simd_avx2.h"
#include "model/pack.h"
#include "model/quant.h"

enum {
    CHUNK = 16, /* bytes of a row that are transposed at a time */
    BLOCK = 6   /* rows: 6 x 2 sums + 2 weights + 1 broadcast = 15 of 16 registers */
};

/* ---- expansion: 8 rows at a time, transposed in the narrow type ---- */

INLINE __m256 widen(__m128i half, int is_bf16) {
    if (!is_bf16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Two columns: each 64-bit half of a lane has four rows of one of them. */
INLINE void store_columns(float *panel, __m256i pair, int is_bf16) {
    const __m256i v = _mm256_permute4x64_epi64(pair, _MM_SHUFFLE(3, 1, 2, 0));
    _mm256_store_ps(panel, widen(_mm256_castsi256_si128(v), is_bf16));
    _mm256_store_ps(panel + SL_STRIP, widen(_mm256_extracti128_si256(v, 1), is_bf16));
}

INLINE void expand_chunk(float *panel, const __m256i z[4], sl_dtype dtype) {
    if (dtype == SL_DTYPE_F32) {
        __m256 column[4];
        transpose_dwords(column, z);
        SL_UNROLL
        for (int i = 0; i < 4; i++) _mm256_store_ps(panel + i * SL_STRIP, column[i]);
        return;
    }
    const int is_bf16 = dtype == SL_DTYPE_BF16; /* 8 columns */
    const __m256i a = _mm256_unpacklo_epi16(z[0], z[1]), b = _mm256_unpacklo_epi16(z[2], z[3]);
    const __m256i c = _mm256_unpackhi_epi16(z[0], z[1]), d = _mm256_unpackhi_epi16(z[2], z[3]);
    store_columns(panel, _mm256_unpacklo_epi32(a, b), is_bf16);
    store_columns(panel + 2 * SL_STRIP, _mm256_unpackhi_epi32(a, b), is_bf16);
    store_columns(panel + 4 * SL_STRIP, _mm256_unpacklo_epi32(c, d), is_bf16);
    store_columns(panel + 6 * SL_STRIP, _mm256_unpackhi_epi32(c, d), is_bf16);
}

/* panel: column 0 of 8 rows; row: already at k0 */
INLINE void expand_plain(float *panel, const char *const row[LANES], sl_dtype dtype, int n_k) {
    const int chunk_k = dtype == SL_DTYPE_F32 ? 4 : 8;
    const int elem_bytes = CHUNK / chunk_k;
    __m256i z[4];
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
INLINE void transpose_bytes(__m256i bytes[4], const __m256i z[4]) {
    const __m256i by_byte = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i a = _mm256_unpacklo_epi8(z[0], z[1]), b = _mm256_unpacklo_epi8(z[2], z[3]);
    const __m256i c = _mm256_unpackhi_epi8(z[0], z[1]), d = _mm256_unpackhi_epi8(z[2], z[3]);
    bytes[0] = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi16(a, b), by_byte);
    bytes[1] = _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi16(a, b), by_byte);
    bytes[2] = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi16(c, d), by_byte);
    bytes[3] = _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi16(c, d), by_byte);
}

/* Q4_0: (q - 8) d, as one fma it is the same number; Q4_1: q d + m.  Element i < 16 is the low
 * nibble of byte i, element i + 16 the high one. */
INLINE void expand_q4(float *panel, const char *const row[LANES], sl_dtype dtype, int n_k) {
    const size_t block_bytes = dtype == SL_DTYPE_Q4_0 ? 18 : 20;
    const size_t codes = dtype == SL_DTYPE_Q4_0 ? 2 : 4;
    const __m256i low_nibble = _mm256_set1_epi8(0x0f);
    size_t offset = 0;
    for (int k = 0; k < n_k; k += 32, offset += block_bytes, panel += 32 * SL_STRIP) {
        const __m256 step = gather_halves(row, offset);
        const __m256 minimum = dtype == SL_DTYPE_Q4_0 ? _mm256_mul_ps(step, _mm256_set1_ps(-8.0f))
                                                      : gather_halves(row, offset + 2);
        __m256i z[4], bytes[4];
        load_rows(z, row, offset + codes);
        transpose_bytes(bytes, z);
        _Alignas(32) uint8_t code[2][16][LANES];
        for (int i = 0; i < 4; i++) {
            _mm256_store_si256((__m256i *)(void *)code[0][4 * i],
                               _mm256_and_si256(bytes[i], low_nibble));
            _mm256_store_si256((__m256i *)(void *)code[1][4 * i],
                               _mm256_and_si256(_mm256_srli_epi16(bytes[i], 4), low_nibble));
        }
        for (int i = 0; i < 32; i++) {
            const __m128i c = _mm_loadl_epi64((const __m128i *)(const void *)code[i / 16][i % 16]);
            const __m256 q = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(c));
            _mm256_store_ps(panel + i * SL_STRIP, _mm256_fmadd_ps(q, step, minimum));
        }
    }
}

/* Q8_0: q d */
INLINE void expand_q8(float *panel, const char *const row[LANES], int n_k) {
    size_t offset = 0;
    for (int k = 0; k < n_k; k += 32, offset += 34) {
        const __m256 step = gather_halves(row, offset);
        for (size_t half = 0; half < 2; half++, panel += 16 * SL_STRIP) {
            __m256i z[4], bytes[4];
            load_rows(z, row, offset + 2 + 16 * half);
            transpose_bytes(bytes, z);
            _Alignas(32) int8_t code[16][LANES];
            for (int i = 0; i < 4; i++)
                _mm256_store_si256((__m256i *)(void *)code[4 * i], bytes[i]);
            for (int i = 0; i < 16; i++) {
                const __m128i c = _mm_loadl_epi64((const __m128i *)(const void *)code[i]);
                const __m256 q = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c));
                _mm256_store_ps(panel + i * SL_STRIP, _mm256_mul_ps(q, step));
            }
        }
    }
}

AVX2 static void avx2_expand(float *panel, const void *data, sl_dtype dtype, size_t row_bytes,
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

AVX2 static void avx2_pack(float *to, const float *x, int ldx, int n_rows, int n_k) {
    const int n_full = n_rows - n_rows % LANES;
    for (int m = 0; m < n_full; m += LANES) {
        const char *row[LANES];
        for (int i = 0; i < LANES; i++) row[i] = (const char *)(x + (size_t)(m + i) * (size_t)ldx);
        int k = 0;
        for (; k + 4 <= n_k; k += 4) {
            __m256i z[4];
            __m256 column[4];
            load_rows(z, row, (size_t)k * sizeof *x);
            transpose_dwords(column, z);
            for (int i = 0; i < 4; i++) _mm256_storeu_ps(to + (k + i) * n_rows + m, column[i]);
        }
        for (; k < n_k; k++)
            for (int i = 0; i < LANES; i++)
                to[k * n_rows + m + i] = x[(size_t)(m + i) * (size_t)ldx + (size_t)k];
    }
    for (int m = n_full; m < n_rows; m++)
        for (int k = 0; k < n_k; k++) to[k * n_rows + m] = x[(size_t)m * (size_t)ldx + (size_t)k];
}

/* ---- products: n_rows is a constant at each call, so the sums stay in registers ---- */

/* Half a strip.  x[m * row_stride + k * k_stride]; row_stride is a constant, too. */
INLINE void block(float *y, int ldy, const float *x, int row_stride, int k_stride,
                  const float *panel, int n_rows, int n_k, int n_cols, int add) {
    __m256 left[BLOCK], right[BLOCK];
    SL_UNROLL
    for (int m = 0; m < n_rows; m++) left[m] = right[m] = _mm256_setzero_ps();
    for (int k = 0; k < n_k; k++) {
        const __m256 w0 = _mm256_load_ps(panel);
        const __m256 w1 = _mm256_load_ps(panel + LANES);
        SL_UNROLL
        for (int m = 0; m < n_rows; m++) {
            const __m256 xm = _mm256_broadcast_ss(&x[m * row_stride]);
            left[m] = _mm256_fmadd_ps(xm, w0, left[m]);
            right[m] = _mm256_fmadd_ps(xm, w1, right[m]);
        }
        panel += SL_STRIP;
        x += k_stride;
    }
    if (n_cols >= 2 * LANES) {
        SL_UNROLL
        for (int m = 0; m < n_rows; m++, y += ldy) {
            if (add) {
                left[m] = _mm256_add_ps(_mm256_loadu_ps(y), left[m]);
                right[m] = _mm256_add_ps(_mm256_loadu_ps(y + LANES), right[m]);
            }
            _mm256_storeu_ps(y, left[m]);
            _mm256_storeu_ps(y + LANES, right[m]);
        }
        return;
    }
    const __m256i m0 = first_lanes(n_cols), m1 = first_lanes(n_cols - LANES);
    SL_UNROLL
    for (int m = 0; m < n_rows; m++, y += ldy) {
        if (add) {
            left[m] = _mm256_add_ps(_mm256_maskload_ps(y, m0), left[m]);
            right[m] = _mm256_add_ps(_mm256_maskload_ps(y + LANES, m1), right[m]);
        }
        _mm256_maskstore_ps(y, m0, left[m]);
        _mm256_maskstore_ps(y + LANES, m1, right[m]);
    }
}

#define FOR_EACH_BLOCK(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)

AVX2 static void avx2_multiply(float *y, int ldy, const float *x, const float *panel, int n_rows,
                               int n_k, int n_cols, int add) {
    const int n_blocks = (n_rows + BLOCK - 1) / BLOCK;
    for (int n0 = 0; n0 < n_cols; n0 += 2 * LANES) {
        for (int b = 0; b < n_blocks; b++) {
            const int m = b * n_rows / n_blocks;
            float *yb = y + (size_t)m * (size_t)ldy + n0;
            switch ((b + 1) * n_rows / n_blocks - m) {
#define CASE(N)                                                                                    \
    case N:                                                                                        \
        block(yb, ldy, x + m, 1, n_rows, panel + n0, N, n_k, n_cols - n0, add);                    \
        break;
                FOR_EACH_BLOCK(CASE)
#undef CASE
            }
        }
    }
}

AVX2 static void avx2_mix(float *y, int ldy, const float *p, const float *panel, int n_rows) {
    const int n_blocks = (n_rows + BLOCK - 1) / BLOCK;
    for (int n0 = 0; n0 < SL_STRIP; n0 += 2 * LANES) {
        for (int b = 0; b < n_blocks; b++) {
            const int m = b * n_rows / n_blocks;
            const float *pb = p + m * SL_STRIP;
            float *yb = y + (size_t)m * (size_t)ldy + n0;
            switch ((b + 1) * n_rows / n_blocks - m) {
#define CASE(N)                                                                                    \
    case N:                                                                                        \
        block(yb, ldy, pb, SL_STRIP, 1, panel + n0, N, SL_STRIP, 2 * LANES, 1);                    \
        break;
                FOR_EACH_BLOCK(CASE)
#undef CASE
            }
        }
    }
}

/* ---- attention's other parts, and activations ---- */

AVX2 static void avx2_values(float *panels, const void *src, sl_dtype dtype, int head_dim,
                             int n_valid) {
    const __m256 zero = _mm256_setzero_ps();
    for (int d = 0; d < head_dim || d % SL_STRIP != 0; d += LANES) {
        float *panel = panels + d / SL_STRIP * SL_STRIP * SL_STRIP + d % SL_STRIP;
        const int width = d >= head_dim ? 0 : head_dim - d < LANES ? head_dim - d : LANES;
        for (int j = 0; j < SL_STRIP; j++) {
            float *to = panel + j * SL_STRIP;
            const size_t from = (size_t)j * (size_t)head_dim + (size_t)d;
            if (j >= n_valid || width == 0) {
                _mm256_store_ps(to, zero);
            } else if (dtype == SL_DTYPE_F32) {
                _mm256_store_ps(to,
                                _mm256_maskload_ps((const float *)src + from, first_lanes(width)));
            } else if (width == LANES) {
                const uint16_t *half = (const uint16_t *)src + from;
                _mm256_store_ps(
                    to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half)));
            } else {
                uint16_t half[LANES] = {0};
                memcpy(half, (const uint16_t *)src + from, (size_t)width * sizeof *half);
                _mm256_store_ps(
                    to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half)));
            }
        }
    }
}

/* Between 2^-126 and 2^127, 0 below; NaN stays (x is the second operand of max/min). */
INLINE __m256 exp_lanes(__m256 x) {
    static const float term[8] = SL_EXP_TERMS;
    const __m256 lowest = _mm256_set1_ps(-87.0f);
    const __m256 is_zero = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_max_ps(lowest, x));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(SL_LOG2_E)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(SL_LN2_HIGH), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(SL_LN2_LOW), r);
    __m256 e = _mm256_set1_ps(term[7]);
    for (int i = 6; i >= 0; i--) e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(term[i]));
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(is_zero, _mm256_mul_ps(e, _mm256_castsi256_ps(power)));
}

AVX2 static float avx2_softmax(float *s, int first, int last, float *max, float *sum) {
    enum { N = SL_STRIP / LANES };
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 score[N], seen[N], found = lowest;
    for (int i = 0; i < N; i++) {
        const __m256i before = first_lanes(first - i * LANES);
        const __m256i mask = _mm256_andnot_si256(before, first_lanes(last - i * LANES));
        seen[i] = _mm256_castsi256_ps(mask);
        score[i] = _mm256_blendv_ps(lowest, _mm256_loadu_ps(s + i * LANES), seen[i]);
        found = _mm256_max_ps(found, score[i]);
    }
    const float old = *max, highest = reduce_max(found);
    const float top = highest > old ? highest : old;
    __m256 total = _mm256_setzero_ps();
    for (int i = 0; i < N; i++) {
        const __m256 e =
            _mm256_and_ps(seen[i], exp_lanes(_mm256_sub_ps(score[i], _mm256_set1_ps(top))));
        _mm256_storeu_ps(s + i * LANES, e);
        total = _mm256_add_ps(total, e);
    }
    const float shrink = top == old ? 1.0f : _mm256_cvtss_f32(exp_lanes(_mm256_set1_ps(old - top)));
    *max = top;
    *sum = *sum * shrink + reduce_add(total);
    return shrink;
}

AVX2 static void avx2_to_f16(void *y, const float *x, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm_storeu_si128((__m128i *)(void *)((char *)y + (size_t)i * 2),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) {
        const sl_f16 half = sl_f32_to_f16(x[i]);
        memcpy((char *)y + (size_t)i * sizeof half, &half, sizeof half);
    }
}

AVX2 static void avx2_silu(float *y, const float *g, const float *u, int n) {
    for (int i = 0; i < n; i += LANES) {
        const __m256i mask = first_lanes(n - i);
        const __m256 x = _mm256_maskload_ps(g + i, mask);
        const __m256 e = exp_lanes(_mm256_sub_ps(_mm256_setzero_ps(), x));
        __m256 a = _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
        if (u) a = _mm256_mul_ps(a, _mm256_maskload_ps(u + i, mask));
        _mm256_maskstore_ps(y + i, mask, a);
    }
}

const sl_cpu_kernels *sl_cpu_kernels_avx2(void) {
    static const sl_cpu_kernels kernels = {
        .name = "avx2",
        .expand = avx2_expand,
        .expand_groups = sl_cpu_expand_groups_avx2,
        .pack = avx2_pack,
        .multiply = avx2_multiply,
        .mix = avx2_mix,
        .values = avx2_values,
        .group_values = sl_cpu_group_values_avx2,
        .softmax = avx2_softmax,
        .to_f16 = avx2_to_f16,
        .pack_group = sl_cpu_pack_group_avx2,
        .silu = avx2_silu,
    };
    /* Every processor with AVX2 has F16C, which clang 14 cannot be asked about. */
    const int has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has ? &kernels : NULL;
}

#endif
