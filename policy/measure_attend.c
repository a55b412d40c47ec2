#include "measure_attend.h"

#include <stdlib.h>

#include "measure_pages.h"

/* A 4096-wide layer. */
enum { HEADS = 32, HEAD_DIM = 128, COLS = HEADS * HEAD_DIM };
enum { CONTEXT = 512, MOST_SEQUENCES = 256, MOST_PROMPT = 2048, MOST_SETS = 8 };
enum { PAGES_OF = CONTEXT / SL_PAGE_TOKENS, POOL_BYTES = 512 << 20 };

static const int sequences_at[] = {1, 4, 16, 64, MOST_SEQUENCES};
static const int tokens_at[] = {128, 512, MOST_PROMPT};
enum {
    N_SEQUENCES = sizeof sequences_at / sizeof sequences_at[0],
    N_TOKENS = sizeof tokens_at / sizeof tokens_at[0],
    N_POINTS = N_SEQUENCES + N_TOKENS,
};

typedef struct {
    sl_measure *m;
    sl_kv_view cache;
    int n_pages, most_rows;
    void *q, *out;           /* where the backend computes: [most_rows, COLS] */
    int32_t *page;           /* [MOST_SETS * MOST_SEQUENCES * PAGES_OF] */
    sl_segment *segment;     /* [MOST_SETS * MOST_SEQUENCES] */
    sl_rows rows[MOST_SETS]; /* sets of rows on different pages, which take turns */
    int n_sets;
} attend_bench;

static sl_status attend(void *context, int run) {
    const attend_bench *b = context;
    sl_backend *be = b->m->be;
    return be->ops->attend(be, b->out, b->q, COLS, HEADS, &b->cache, 0.088f, 0,
                           &b->rows[run % b->n_sets]);
}

/* n sequences of which n_rows tokens behind `position0` are computed, in as many sets as the pool
 * has pages for.  Where it has not enough for one set, sequences share pages, far apart. */
static sl_status use_rows(attend_bench *b, int n, int position0, int n_rows) {
    const int per = (position0 + n_rows + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    const int fit = b->n_pages / (n * per);
    b->n_sets = fit < 1 ? 1 : fit > MOST_SETS ? MOST_SETS : fit;
    for (int i = 0; i < b->n_sets * n * per; i++) {
        const int set = i / (n * per), within = i % (n * per);
        /* Neighbours in a sequence are none in memory. */
        b->page[i] = (set * n * per + within % per * n + within / per) % b->n_pages;
    }
    for (int set = 0; set < b->n_sets; set++) {
        sl_segment *segment = b->segment + set * n;
        for (int i = 0; i < n; i++)
            segment[i] =
                (sl_segment){i * n_rows, n_rows, position0, per, b->page + (set * n + i) * per};
        b->rows[set] = (sl_rows){.n_rows = n * n_rows, .n_segments = n, .segment = segment};
        if (b->m->be->ops->bind_rows)
            SL_TRY(b->m->be->ops->bind_rows(b->m->be, set, &b->rows[set]));
    }
    return SL_OK;
}

static sl_status measure_decode(attend_bench *b, int f, sl_curve *out) {
    const double bytes = (double)PAGES_OF * (double)b->cache.format.page_bytes;
    double s = 0.0;
    for (int i = 0; i < N_SEQUENCES && sequences_at[i] <= b->most_rows; i++) {
        const int n = sequences_at[i];
        if (i > 0 && s * n / sequences_at[i - 1] > 4.0 * b->m->opt->sample_s) break;
        SL_TRY(use_rows(b, n, CONTEXT - 1, 1));
        SL_TRY(sl_measure_time(b->m, attend, b, &s));
        SL_TRY(sl_curve_add(out, n, sl_measure_round(n * bytes / s)));
        sl_measure_point(b->m, f * N_POINTS + i + 1, SL_PROFILE_FORMATS * N_POINTS);
        if (sl_measure_is_late(b->m)) break;
    }
    return SL_OK;
}

static sl_status measure_prefill(attend_bench *b, int f, sl_curve *out) {
    double s = 0.0, flop = 0.0;
    for (int i = 0; i < N_TOKENS && tokens_at[i] <= b->most_rows; i++) {
        const int tokens = tokens_at[i];
        int n = b->most_rows / tokens;
        const double of_one = 4.0 * tokens * tokens / 2.0 * COLS;
        /* One sequence where all would take long, none where that would. */
        const double sample_s = 4.0 * b->m->opt->sample_s;
        if (i > 0 && s * n * of_one / flop > sample_s) n = 1;
        if (i > 0 && s * of_one / flop > sample_s) break;
        if (!b->m->device) n = 1;
        SL_TRY(use_rows(b, n, 0, tokens));
        SL_TRY(sl_measure_time(b->m, attend, b, &s));
        flop = n * of_one;
        SL_TRY(sl_curve_add(out, tokens, sl_measure_round(flop / s)));
        sl_measure_point(b->m, f * N_POINTS + N_SEQUENCES + i + 1, SL_PROFILE_FORMATS * N_POINTS);
        if (sl_measure_is_late(b->m)) break;
    }
    return SL_OK;
}

/* Pages of a format; the first is made on the host, the others are copies. */
static sl_status use_format(attend_bench *b, sl_dtype dtype) {
    const sl_kv_format format = sl_kv_format_make(dtype, HEADS, HEAD_DIM);
    const size_t room = sl_measure_room(b->m) / 2;
    const size_t bytes = room < POOL_BYTES ? room : POOL_BYTES;
    b->cache.format = format;
    b->n_pages = bytes / format.page_bytes < 1 ? 1 : (int)(bytes / format.page_bytes);
    SL_TRY(sl_measure_take(b->m, (size_t)b->n_pages * format.page_bytes, "cache pages",
                           &b->cache.base));
    void *page = malloc(format.page_bytes);
    if (!page) return SL_FAIL(SL_ERR_NOMEM, "a cache page: out of host memory");
    sl_status st = sl_measure_fill_pages(&format, page, 1);
    if (st == SL_OK) st = sl_measure_upload(b->m, b->cache.base, page, format.page_bytes);
    free(page);
    for (int i = 1; st == SL_OK && i < b->n_pages; i++)
        st = b->m->be->ops->page_copy(b->m->be, &b->cache, 0, i);
    return st;
}

static sl_status measure_formats(attend_bench *b, sl_profile *p) {
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        sl_status st = use_format(b, dtypes[f]);
        if (st == SL_OK) st = measure_decode(b, f, &p->attend_bps[f]);
        if (st == SL_OK) st = measure_prefill(b, f, &p->prefill_attend_flops[f]);
        const sl_status waited = sl_measure_wait(b->m);
        sl_measure_put(b->m, b->cache.base);
        b->cache.base = NULL;
        SL_TRY(st);
        SL_TRY(waited);
    }
    return SL_OK;
}

static sl_status take_buffers(attend_bench *b) {
    const size_t act = b->m->be->ops->act_bytes, row = (size_t)COLS * act;
    const size_t n = (size_t)MOST_SETS * MOST_SEQUENCES;
    b->most_rows = b->m->device ? 2 * MOST_PROMPT : MOST_PROMPT;
    while (b->most_rows > tokens_at[0] && 8 * (size_t)b->most_rows * row > sl_measure_room(b->m))
        b->most_rows /= 2;
    SL_TRY(sl_measure_take(b->m, (size_t)b->most_rows * row, "queries", &b->q));
    SL_TRY(sl_measure_take(b->m, (size_t)b->most_rows * row, "results", &b->out));
    b->segment = malloc(n * sizeof *b->segment);
    b->page = malloc(n * PAGES_OF * sizeof *b->page);
    if (!b->segment || !b->page) return SL_FAIL(SL_ERR_NOMEM, "rows to attend: out of host memory");
    return sl_measure_fill_rows(b->m, b->q, b->most_rows, COLS);
}

sl_status sl_measure_attend(sl_measure *m, sl_profile *profile) {
    attend_bench b = {.m = m};
    sl_status st = take_buffers(&b);
    if (st == SL_OK) st = measure_formats(&b, profile);
    free(b.page);
    free(b.segment);
    sl_measure_put(m, b.out);
    sl_measure_put(m, b.q);
    return st;
}
