/* Decode attention over host pages in plain C: for processors without a vector variant, for head
 * sizes that one leaves out, and to compare with. */
#include <string.h>

#include "base/half.h"
#include "cpu/cpu_host_kernels.h"
#include "model/config.h"

static void plain_order(const sl_kv_format *format, sl_cpu_host_order *out) {
    (void)format;
    for (int e = 0; e < SL_GROUP_ELEMS; e++) {
        out->place[e] = (uint8_t)e;
        out->factor[e] = 1.0f;
    }
}

static void plain_scores(float *score, size_t ldscore, const float *q, int n_q,
                         const sl_cpu_host_part *keys, int first, int last) {
    const sl_kv_format *format = keys->format;
    const size_t ldq = sl_cpu_host_query_floats(format->head_dim);
    float k[SL_MAX_HEAD_DIM];
    for (int j = first; j < last; j++) {
        sl_kv_get(format, keys->data, j, k);
        for (int i = 0; i < n_q; i++) {
            float sum = 0.0f;
            for (int d = 0; d < format->head_dim; d++) sum += q[(size_t)i * ldq + (size_t)d] * k[d];
            score[(size_t)i * ldscore + (size_t)j] = sum;
        }
    }
}

static void plain_mix(float *mean, const float *shrink, const float *p, int n_q,
                      const sl_cpu_host_part *values, const uint8_t *token, int n) {
    const sl_kv_format *format = values->format;
    const size_t ldmean = sl_cpu_host_mean_floats(format->head_dim);
    float v[SL_MAX_HEAD_DIM];
    for (int i = 0; i < n_q; i++)
        for (int d = 0; d < format->head_dim; d++)
            mean[(size_t)i * ldmean + (size_t)d] *= shrink[i];
    for (int j = 0; j < n; j++) {
        sl_kv_get(format, values->data, token[j], v);
        for (int i = 0; i < n_q; i++) {
            const float weight = p[i * SL_PAGE_TOKENS + j];
            for (int d = 0; d < format->head_dim; d++)
                mean[(size_t)i * ldmean + (size_t)d] += weight * v[d];
        }
    }
}

static void plain_from_f16(float *y, const void *x, int n) {
    for (int i = 0; i < n; i++) {
        sl_f16 half;
        memcpy(&half, (const char *)x + (size_t)i * sizeof half, sizeof half);
        y[i] = sl_f16_to_f32(half);
    }
}

static int plain_count_at_least(const int32_t *x, int n, int32_t bound) {
    int count = 0;
    for (int i = 0; i < n; i++) count += x[i] >= bound;
    return count;
}

const sl_cpu_host_kernels *sl_cpu_host_kernels_plain(void) {
    static const sl_cpu_host_kernels kernels = {
        .order = plain_order,
        .scores = plain_scores,
        .mix = plain_mix,
        .from_f16 = plain_from_f16,
        .count_at_least = plain_count_at_least,
    };
    return &kernels;
}
