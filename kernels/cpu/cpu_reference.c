#include "cpu/cpu_reference.h"

#include <math.h>
#include <string.h>

#include "model/quant.h"

void sl_cpu_reference_norm(float *y, const float *x, const float *gain, const float *bias,
                           sl_norm_kind kind, float eps, int n_rows, int cols) {
    for (int r = 0; r < n_rows; r++) {
        const float *xr = x + (size_t)r * (size_t)cols;
        float *yr = y + (size_t)r * (size_t)cols;
        double mean = 0.0;
        if (kind == SL_NORM_LAYER) {
            for (int c = 0; c < cols; c++) mean += xr[c];
            mean /= cols;
        }
        double square = 0.0;
        for (int c = 0; c < cols; c++) square += (xr[c] - mean) * (xr[c] - mean);
        const double scale = 1.0 / sqrt(square / cols + (double)eps);
        for (int c = 0; c < cols; c++) {
            double v = (xr[c] - mean) * scale;
            if (gain) v *= gain[c];
            if (bias) v += bias[c];
            yr[c] = (float)v;
        }
    }
}

void sl_cpu_reference_linear(float *y, int ldy, const float *x, const sl_weight *w,
                             const float *bias, int n_rows, int accumulate, float *scratch) {
    for (int s = 0; s < w->n_slabs; s++) {
        const sl_slab *slab = &w->slabs[s];
        for (int i = 0; i < slab->n_rows; i++) {
            const int n = slab->row0 + i;
            sl_dequantize_row(scratch, (const char *)slab->data + (size_t)i * slab->row_bytes,
                              slab->dtype, w->cols);
            for (int r = 0; r < n_rows; r++) {
                const float *xr = x + (size_t)r * (size_t)w->cols;
                float *yrn = &y[(size_t)r * (size_t)ldy + (size_t)n];
                double sum = 0.0;
                for (int k = 0; k < w->cols; k++) sum += (double)xr[k] * scratch[k];
                if (bias) sum += bias[n];
                if (accumulate) sum += *yrn;
                *yrn = (float)sum;
            }
        }
    }
}

void sl_cpu_reference_rope(float *x, int ldx, int n_heads, int head_dim, const float *inv_freq,
                           const sl_rows *rows) {
    const int half = head_dim / 2;
    for (int r = 0; r < rows->n_rows; r++) {
        for (int h = 0; h < n_heads; h++) {
            float *head = x + (size_t)r * (size_t)ldx + (size_t)h * (size_t)head_dim;
            for (int i = 0; i < half; i++) {
                /* The angle is rounded to float32, as in HF: positions beyond 2^24 / inv_freq are
                 * out of reach, and the models were trained so. */
                const float angle = (float)rows->position[r] * inv_freq[i];
                const double c = cos((double)angle), s = sin((double)angle);
                const float a = head[i], b = head[i + half];
                head[i] = (float)(a * c - b * s);
                head[i + half] = (float)(b * c + a * s);
            }
        }
    }
}

/* x = token `position` of kv head `head`; is_value picks the half of the page.  x: [head_dim] */
static void cached(float *x, const sl_kv_view *cache, const sl_segment *segment, int position,
                   int head, int is_value) {
    const sl_kv_format *f = &cache->format;
    const char *page = (const char *)cache->base +
                       (size_t)segment->pages[position / SL_PAGE_TOKENS] * f->page_bytes;
    const char *stored = page + (is_value ? f->half_bytes : 0) + (size_t)head * f->head_bytes;
    sl_kv_get(f, stored, position % SL_PAGE_TOKENS, x);
}

static void attend_row(float *out, const float *q, const sl_kv_view *cache,
                       const sl_segment *segment, int kv_head, float scale, int first, int last,
                       double *scratch) {
    const int head_dim = cache->format.head_dim;
    double *weight = scratch; /* [last - first] */
    double *mean = scratch + (last - first);
    float x[SL_MAX_HEAD_DIM];
    double max = -INFINITY, sum = 0.0;
    for (int p = first; p < last; p++) {
        double dot = 0.0;
        cached(x, cache, segment, p, kv_head, 0);
        for (int d = 0; d < head_dim; d++) dot += (double)q[d] * x[d];
        weight[p - first] = dot * scale;
        max = fmax(max, weight[p - first]);
    }
    memset(mean, 0, (size_t)head_dim * sizeof *mean);
    for (int p = first; p < last; p++) {
        const double e = exp(weight[p - first] - max);
        sum += e;
        cached(x, cache, segment, p, kv_head, 1);
        for (int d = 0; d < head_dim; d++) mean[d] += e * x[d];
    }
    for (int d = 0; d < head_dim; d++) out[d] = (float)(mean[d] / sum);
}

void sl_cpu_reference_attend(float *out, const float *q, int ldq, int n_heads,
                             const sl_kv_view *cache, float scale, int window, const sl_rows *rows,
                             double *scratch) {
    const int head_dim = cache->format.head_dim;
    const int group = n_heads / cache->format.n_kv_heads;
    for (int s = 0; s < rows->n_segments; s++) {
        const sl_segment *segment = &rows->segment[s];
        for (int i = 0; i < segment->n_rows; i++) {
            const size_t row = (size_t)(segment->row0 + i);
            const int last = segment->position0 + i + 1;
            const int first = window > 0 && last > window ? last - window : 0;
            for (int h = 0; h < n_heads; h++)
                attend_row(out + (row * (size_t)n_heads + (size_t)h) * (size_t)head_dim,
                           q + row * (size_t)ldq + (size_t)h * (size_t)head_dim, cache, segment,
                           h / group, scale, first, last, scratch);
        }
    }
}

static double activation(sl_activation act, double x) {
    switch (act) {
    case SL_ACT_RELU:
        return x < 0.0 ? 0.0 : x; /* keeps NaN */
    case SL_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x * M_SQRT1_2));
    case SL_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    case SL_ACT_SILU:
        return x / (1.0 + exp(-x));
    }
    return NAN;
}

void sl_cpu_reference_activate(float *y, const float *g, const float *u, int ld, sl_activation act,
                               int n_rows, int n_cols) {
    for (int r = 0; r < n_rows; r++) {
        for (int c = 0; c < n_cols; c++) {
            const size_t in = (size_t)r * (size_t)ld + (size_t)c;
            const double a = activation(act, g[in]);
            y[(size_t)r * (size_t)n_cols + (size_t)c] = (float)(u ? a * u[in] : a);
        }
    }
}
