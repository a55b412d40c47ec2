#include "measure_pages.h"

#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/config.h"

typedef struct {
    const sl_kv_format *format;
    char *pages;
} filling;

static sl_status fill_page(void *context, int page) {
    const filling *f = context;
    memcpy(f->pages + (size_t)(page + 1) * f->format->page_bytes, f->pages, f->format->page_bytes);
    return SL_OK;
}

sl_status sl_measure_fill_pages(const sl_kv_format *format, void *pages, int n) {
    filling f = {format, pages};
    float x[SL_MAX_HEAD_DIM];
    if (n < 1) return SL_OK;
    for (int t = 0; t < SL_PAGE_TOKENS; t++) {
        for (int d = 0; d < format->head_dim; d++)
            x[d] = (float)sl_rng_unit(sl_rng_at(1, (uint64_t)(t * format->head_dim + d))) - 0.5f;
        sl_kv_put(format, pages, t, x);
    }
    for (size_t at = format->head_bytes; at < format->page_bytes; at += format->head_bytes)
        memcpy(f.pages + at, f.pages, format->head_bytes);
    return sl_parallel_for(0, n - 1, fill_page, &f);
}

void sl_measure_fill_row(void *row, size_t act_bytes, int n, uint64_t seed) {
    const float root3 = 1.7320508f; /* variance 1 */
    for (int i = 0; i < n; i++) {
        const float x = root3 * (float)(2 * sl_rng_unit(sl_rng_at(seed, (uint64_t)i)) - 1);
        if (act_bytes == sizeof(float))
            ((float *)row)[i] = x;
        else
            ((sl_f16 *)row)[i] = sl_f32_to_f16(x);
    }
}

sl_status sl_measure_fill_rows(sl_measure *m, void *rows, int n_rows, int cols) {
    enum { DIFFERENT = 256 };
    const size_t act = m->be->ops->act_bytes, row = (size_t)cols * act;
    const int n = n_rows < DIFFERENT ? n_rows : DIFFERENT;
    char *some = malloc((size_t)n * row);
    if (!some) return SL_FAIL(SL_ERR_NOMEM, "rows to measure with: out of host memory");
    for (int r = 0; r < n; r++)
        sl_measure_fill_row(some + (size_t)r * row, act, cols, (uint64_t)r + 1);
    sl_status st = SL_OK;
    for (int r = 0; r < n_rows && st == SL_OK; r += n) {
        const int now = n_rows - r < n ? n_rows - r : n;
        st = sl_measure_upload(m, (char *)rows + (size_t)r * row, some, (size_t)now * row);
    }
    free(some);
    return st;
}

void sl_measure_mix_pages(void *pages, size_t page_bytes, int n, void **out) {
    sl_rng rng = {.key = 2};
    for (int i = 0; i < n; i++) out[i] = (char *)pages + (size_t)i * page_bytes;
    for (int i = n - 1; i > 0; i--) {
        const int j = (int)sl_rng_below(&rng, (uint64_t)i + 1);
        void *t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}
