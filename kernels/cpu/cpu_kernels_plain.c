/* The inner kernels in plain C: for processors without a vector variant, and to compare with. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_kernels.h"
#include "model/pack.h"
#include "model/quant.h"

static void plain_expand(float *panel, const void *data, sl_dtype dtype, size_t row_bytes,
                         int n_rows, int k0, int n_k, float *scratch) {
    const size_t offset = (size_t)(k0 / sl_dtype_block_elems(dtype)) * sl_dtype_block_bytes(dtype);
    if (n_rows < SL_STRIP) memset(panel, 0, (size_t)n_k * SL_STRIP * sizeof *panel); /* defined */
    for (int n = 0; n < n_rows; n++) {
        sl_dequantize_row(scratch, (const char *)data + (size_t)n * row_bytes + offset, dtype, n_k);
        for (int k = 0; k < n_k; k++) panel[k * SL_STRIP + n] = scratch[k];
    }
}

static void plain_pack(float *to, const float *x, int ldx, int n_rows, int n_k) {
    for (int m = 0; m < n_rows; m++, x += ldx)
        for (int k = 0; k < n_k; k++) to[k * n_rows + m] = x[k];
}

static void plain_multiply(float *y, int ldy, const float *x, const float *panel, int n_rows,
                           int n_k, int n_cols, int add) {
    for (int m = 0; m < n_rows; m++) {
        float sum[SL_STRIP] = {0};
        for (int k = 0; k < n_k; k++) {
            const float xk = x[(size_t)k * (size_t)n_rows + (size_t)m];
            const float *row = panel + (size_t)k * SL_STRIP;
            for (int n = 0; n < SL_STRIP; n++) sum[n] += xk * row[n];
        }
        float *ym = y + (size_t)m * (size_t)ldy;
        for (int n = 0; n < n_cols; n++) ym[n] = add ? ym[n] + sum[n] : sum[n];
    }
}

static void plain_mix(float *y, int ldy, const float *p, const float *panel, int n_rows) {
    for (int m = 0; m < n_rows; m++) {
        float sum[SL_STRIP] = {0};
        for (int j = 0; j < SL_STRIP; j++) {
            const float pj = p[m * SL_STRIP + j];
            for (int n = 0; n < SL_STRIP; n++) sum[n] += pj * panel[j * SL_STRIP + n];
        }
        float *ym = y + (size_t)m * (size_t)ldy;
        for (int n = 0; n < SL_STRIP; n++) ym[n] += sum[n];
    }
}

static void plain_values(float *panels, const void *src, sl_dtype dtype, int head_dim,
                         int n_valid) {
    const size_t elem_bytes = sl_dtype_block_bytes(dtype);
    for (int d0 = 0; d0 < head_dim; d0 += SL_STRIP, panels += SL_STRIP * SL_STRIP) {
        const int width = head_dim - d0 < SL_STRIP ? head_dim - d0 : SL_STRIP;
        if (width < SL_STRIP || n_valid < SL_STRIP)
            memset(panels, 0, (size_t)SL_STRIP * SL_STRIP * sizeof *panels);
        for (int j = 0; j < n_valid; j++) {
            const size_t first = (size_t)j * (size_t)head_dim + (size_t)d0;
            sl_dequantize_row(panels + j * SL_STRIP, (const char *)src + first * elem_bytes, dtype,
                              width);
        }
    }
}

static float plain_softmax(float *s, int first, int last, float *max, float *sum) {
    float top = *max;
    for (int j = first; j < last; j++)
        if (s[j] > top) top = s[j];
    const float scale = expf(*max - top);
    float total = 0.0f;
    for (int j = 0; j < SL_STRIP; j++) {
        s[j] = j >= first && j < last ? expf(s[j] - top) : 0.0f;
        total += s[j];
    }
    *max = top;
    *sum = *sum * scale + total;
    return scale;
}

static void plain_to_f16(void *y, const float *x, int n) {
    for (int i = 0; i < n; i++) {
        const sl_f16 h = sl_f32_to_f16(x[i]);
        memcpy((char *)y + (size_t)i * sizeof h, &h, sizeof h);
    }
}

static void plain_silu(float *y, const float *g, const float *u, int n) {
    for (int i = 0; i < n; i++) {
        const float a = g[i] / (1.0f + expf(-g[i]));
        y[i] = u ? a * u[i] : a;
    }
}

const sl_cpu_kernels *sl_cpu_kernels_plain(void) {
    static const sl_cpu_kernels kernels = {
        .name = "c",
        .expand = plain_expand,
        .expand_groups = sl_cpu_expand_groups_plain,
        .pack = plain_pack,
        .multiply = plain_multiply,
        .mix = plain_mix,
        .values = plain_values,
        .group_values = sl_cpu_group_values_plain,
        .softmax = plain_softmax,
        .to_f16 = plain_to_f16,
        .pack_group = sl_pack_group,
        .silu = plain_silu,
    };
    return &kernels;
}
