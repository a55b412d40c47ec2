#include "measure_host.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "measure_pages.h"
#include "store/host_memory.h"

/* Heads of a 4096-wide layer; a key and a value of a token have as many columns as a query. */
enum { HEADS = 32, HEAD_DIM = 128, COLS = HEADS * HEAD_DIM, MOST_ROWS = 64 };
enum { POOL_BYTES = 1 << 30, MOST_TOKENS = 8192 };

static const int lengths[] = {32, 128, 512, 2048, MOST_TOKENS};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

typedef struct {
    sl_measure *m;
    char *pool; /* [pool_bytes] pages of the format at hand */
    size_t pool_bytes;
    char *ask, *answer; /* pinned: [MOST_ROWS, 3 * COLS] q, k, v; [MOST_ROWS, COLS] */
    void *device;       /* as long as ask; NULL without a device */
    void **page;        /* [n_pages], in random order */
    int n_pages, next_page;
    sl_host_row row[MOST_ROWS];
    sl_host_job job;
} host_bench;

static size_t act_bytes(const host_bench *b) {
    return b->m->be->ops->act_bytes;
}

/* Fills the pool with pages of a format. */
static sl_status use_format(host_bench *b, sl_dtype dtype) {
    b->job.format = sl_kv_format_make(dtype, HEADS, HEAD_DIM);
    b->n_pages = (int)(b->pool_bytes / b->job.format.page_bytes);
    b->next_page = 0;
    SL_TRY(sl_measure_fill_pages(&b->job.format, b->pool, b->n_pages));
    sl_measure_mix_pages(b->pool, b->job.format.page_bytes, b->n_pages, b->page);
    return SL_OK;
}

/* Rows of n_tokens each on the next pages of the pool. */
static void use_rows(host_bench *b, int n_rows, int n_tokens) {
    const int per = (n_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    for (int r = 0; r < n_rows; r++) {
        if (b->next_page + per > b->n_pages) b->next_page = 0;
        b->row[r] = (sl_host_row){.n_tokens = n_tokens, .page = b->page + b->next_page};
        b->next_page += per;
    }
    b->job.n_rows = n_rows;
}

static sl_status attend(host_bench *b, double *seconds_out) {
    sl_host_attention *ha = b->m->opt->host_attention;
    uint64_t ticket;
    double start_s = 0.0, end_s = 0.0;
    SL_TRY(ha->ops->start(ha, &b->job, &ticket));
    for (int done = 0;; sl_clock_sleep(10e-6)) {
        SL_TRY(ha->ops->is_done(ha, ticket, &done, &start_s, &end_s));
        if (done) break;
    }
    *seconds_out = end_s - start_s;
    return SL_OK;
}

/* Page bytes per second; jobs of about as many bytes whatever the length. */
static sl_status measure_length(host_bench *b, int n_tokens, double *bps_out) {
    const size_t bytes = (size_t)n_tokens * b->job.format.page_bytes / SL_PAGE_TOKENS;
    const size_t fit = b->pool_bytes / 4 / bytes; /* of the pool, which no cache is to hold */
    const int n_rows = fit > MOST_ROWS ? MOST_ROWS : fit > 1 ? (int)fit : 1;
    double busy_s = 0.0, seconds;
    int n = 0;
    use_rows(b, n_rows, n_tokens);
    SL_TRY(attend(b, &seconds)); /* wakes the threads */
    while (busy_s < b->m->opt->sample_s) {
        use_rows(b, n_rows, n_tokens);
        SL_TRY(attend(b, &seconds));
        busy_s += seconds;
        n++;
    }
    *bps_out = (double)n * n_rows * (double)bytes / busy_s;
    return SL_OK;
}

static sl_status measure_formats(host_bench *b, sl_profile *p) {
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        SL_TRY(use_format(b, dtypes[f]));
        for (int i = 0; i < N_LENGTHS; i++) {
            double bps;
            if (lengths[i] > SL_PAGE_TOKENS * b->n_pages) break;
            SL_TRY(measure_length(b, lengths[i], &bps));
            SL_TRY(sl_curve_add(&p->host_attend_bps[f], lengths[i], sl_measure_round(bps)));
            sl_measure_point(b->m, f * N_LENGTHS + i + 1, SL_PROFILE_FORMATS * N_LENGTHS + 1);
            if (sl_measure_is_late(b->m)) break;
        }
    }
    return SL_OK;
}

/* ---- what a job costs beside attention ---- */

static sl_status copy_and_wait(host_bench *b, sl_stream stream, void *to, const void *from,
                               size_t bytes, sl_event *event) {
    const sl_device_ops *d = b->m->device;
    if (!d) return SL_OK;
    SL_TRY(d->copy(b->m->be, stream, to, from, bytes));
    SL_TRY(d->record(b->m->be, stream, event));
    for (int done = 0; !done;) SL_TRY(d->is_done(b->m->be, event, &done));
    return SL_OK;
}

/* A job of one row and one page, there and back. */
static sl_status round_trip(host_bench *b, sl_event *event, double *seconds_out) {
    const size_t row = COLS * act_bytes(b);
    double attend_s;
    const double start_s = sl_clock_s();
    SL_TRY(copy_and_wait(b, SL_STREAM_ASK, b->ask, b->device, 3 * row, event));
    SL_TRY(attend(b, &attend_s));
    SL_TRY(copy_and_wait(b, SL_STREAM_ANSWER, b->device, b->answer, row, event));
    *seconds_out = sl_clock_s() - start_s;
    return SL_OK;
}

static sl_status measure_job(host_bench *b, double *seconds_out) {
    sl_event *event = NULL;
    sl_status st = SL_OK;
    double total_s = 0.0, seconds;
    int n = 0;
    if (b->m->device) SL_TRY(b->m->device->event_open(b->m->be, &event));
    use_rows(b, 1, SL_PAGE_TOKENS);
    SL_GO(round_trip(b, event, &seconds)); /* warms up */
    while (total_s < b->m->opt->sample_s) {
        SL_GO(round_trip(b, event, &seconds));
        total_s += seconds;
        n++;
    }
    *seconds_out = sl_measure_round(total_s / n);

fail:
    if (event) b->m->device->event_close(b->m->be, event);
    return st;
}

/* ---- all ---- */

static sl_status take_buffers(host_bench *b) {
    sl_measure *m = b->m;
    void *memory;
    const size_t row = COLS * act_bytes(b), ask = MOST_ROWS * 3 * row, answer = MOST_ROWS * row;
    SL_TRY(sl_pinned_take(&m->pinned, ask, "queries", &memory));
    b->ask = memory;
    SL_TRY(sl_pinned_take(&m->pinned, answer, "results", &memory));
    b->answer = memory;
    if (m->device) SL_TRY(sl_measure_take(m, ask, "queries", &b->device));

    b->pool_bytes = (sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host)) / 2;
    if (b->pool_bytes > POOL_BYTES) b->pool_bytes = POOL_BYTES;
    b->pool_bytes -= b->pool_bytes % SL_HOST_PAGE;
    SL_TRY(sl_tier_take_touched(m->host, b->pool_bytes, "cache pages", &memory));
    b->pool = memory;
    const size_t least = sl_kv_format_make(SL_DTYPE_Q4G64, HEADS, HEAD_DIM).page_bytes;
    b->page = malloc((b->pool_bytes / least + 1) * sizeof *b->page);
    if (!b->page) return SL_FAIL(SL_ERR_NOMEM, "cache pages: out of host memory");

    sl_measure_fill_row(b->ask, act_bytes(b), MOST_ROWS * 3 * COLS, 1);
    b->job = (sl_host_job){.act = act_bytes(b) == 2 ? SL_DTYPE_F16 : SL_DTYPE_F32,
                           .n_heads = HEADS,
                           .scale = 0.1f,
                           .row = b->row,
                           .q = b->ask,
                           .ldq = 3 * COLS,
                           .k = b->ask + row,
                           .v = b->ask + 2 * row,
                           .ldkv = 3 * COLS,
                           .out = b->answer,
                           .ldo = COLS};
    return SL_OK;
}

sl_status sl_measure_host(sl_measure *m, sl_profile *profile) {
    host_bench b = {.m = m};
    sl_status st = take_buffers(&b);
    if (st == SL_OK) st = measure_formats(&b, profile);
    if (st == SL_OK) st = measure_job(&b, &profile->host_job_s);
    const sl_status waited = sl_measure_wait(m);
    if (st == SL_OK) st = waited;
    free(b.page);
    sl_tier_put(m->host, b.pool);
    sl_measure_put(m, b.device);
    sl_pinned_put(&m->pinned, b.answer);
    sl_pinned_put(&m->pinned, b.ask);
    return st;
}
