#include "measure_beside.h"

#include "base/clock.h"
#include "measure_copies.h"
#include "measure_pages.h"

/* Like a layer of a sweep with many decode rows: a product that fills the device, and launches
 * after it that are over soon. */
enum { ROWS = 512, SUMS = 4, MOST_RUNS = 128, LEAST_RUNS = 4, BATCHES = 5 };

/* Columns of the square matrix; the smaller ones where a product of the larger takes too long. */
static const int cols_at[] = {4096, 1024, 256};
enum { N_COLS = sizeof cols_at / sizeof cols_at[0] };

typedef struct {
    sl_measure *m;
    int cols;
    void *x, *y, *weights; /* device: [ROWS, cols] twice, [cols, cols] */
    sl_slab slab;
    sl_weight weight;
    sl_event *begin, *end;
    sl_copies copies; /* zeroed: none run beside */
} bench;

static sl_status compute(void *context, int run) {
    bench *b = context;
    sl_backend *be = b->m->be;
    SL_TRY(be->ops->linear(be, b->y, b->cols, b->x, &b->weight, NULL, ROWS, 0));
    for (int i = 0; i < SUMS; i++) SL_TRY(be->ops->add(be, b->y, b->x, ROWS, b->cols));
    return run % 4 == 0 ? sl_copies_poll(&b->copies) : SL_OK;
}

/* Seconds of n runs by the device's clock; copies go on until they are over. */
static sl_status time_runs(bench *b, int n, double *seconds_out) {
    const sl_device_ops *d = b->m->device;
    int done = 0;
    SL_TRY(d->record(b->m->be, SL_STREAM_COMPUTE, b->begin));
    for (int i = 0; i < n; i++) SL_TRY(compute(b, i));
    SL_TRY(d->record(b->m->be, SL_STREAM_COMPUTE, b->end));
    while (!done) {
        SL_TRY(sl_copies_poll(&b->copies));
        SL_TRY(d->is_done(b->m->be, b->end, &done));
        if (!done) sl_clock_sleep(20e-6);
    }
    return d->elapsed(b->m->be, b->begin, b->end, seconds_out);
}

static sl_status median(bench *b, int n, double *seconds_out) {
    double s[BATCHES];
    for (int i = 0; i < BATCHES; i++) SL_TRY(time_runs(b, n, &s[i]));
    *seconds_out = sl_measure_median(s, BATCHES);
    return SL_OK;
}

/* The same runs alone and beside copies. */
static sl_status compare(bench *b, double run_s, double *frac_out) {
    const double wanted = b->m->opt->sample_s / run_s;
    const int n = wanted > MOST_RUNS ? MOST_RUNS : wanted > LEAST_RUNS ? (int)wanted : LEAST_RUNS;
    double alone_s, beside_s = 0.0;
    SL_TRY(median(b, n, &alone_s));
    sl_status st = sl_copies_open(b->m, &b->copies);
    if (st == SL_OK) st = median(b, n, &beside_s);
    sl_copies_close(&b->copies);
    SL_TRY(st);
    *frac_out = beside_s > alone_s && alone_s > 0.0 ? sl_measure_round(alone_s / beside_s) : 1.0;
    return SL_OK;
}

static sl_status open_bench(sl_measure *m, int cols, bench *b) {
    const size_t act = m->be->ops->act_bytes, row_bytes = (size_t)cols * act;
    *b = (bench){.m = m, .cols = cols};
    SL_TRY(sl_measure_take(m, ROWS * row_bytes, "rows", &b->x));
    SL_TRY(sl_measure_take(m, ROWS * row_bytes, "rows", &b->y));
    SL_TRY(sl_measure_take(m, (size_t)cols * row_bytes, "weights", &b->weights));
    SL_TRY(sl_measure_fill_rows(m, b->x, ROWS, cols));
    SL_TRY(sl_measure_fill_rows(m, b->weights, cols, cols));
    b->slab = (sl_slab){.dtype = act == sizeof(float) ? SL_DTYPE_F32 : SL_DTYPE_F16,
                        .n_rows = cols,
                        .cols = cols,
                        .row_bytes = row_bytes,
                        .data = b->weights};
    b->weight = (sl_weight){cols, cols, 1, &b->slab};
    SL_TRY(m->device->event_open(m->be, &b->begin));
    return m->device->event_open(m->be, &b->end);
}

static void close_bench(bench *b) {
    const sl_device_ops *d = b->m->device;
    (void)sl_measure_wait(b->m); /* memory in use is not to be released */
    if (b->end) d->event_close(b->m->be, b->end);
    if (b->begin) d->event_close(b->m->be, b->begin);
    sl_measure_put(b->m, b->weights);
    sl_measure_put(b->m, b->y);
    sl_measure_put(b->m, b->x);
}

sl_status sl_measure_beside(sl_measure *m, sl_profile *profile) {
    double run_s, frac = 0.0;
    for (int i = 0; m->device && i < N_COLS && frac == 0.0 && !sl_measure_is_late(m); i++) {
        const size_t cols = (size_t)cols_at[i];
        bench b;
        if (2 * (cols + 2 * ROWS) * cols * m->be->ops->act_bytes > sl_measure_room(m)) continue;
        sl_status st = open_bench(m, (int)cols, &b);
        if (st == SL_OK) st = sl_measure_time(m, compute, &b, &run_s);
        if (st == SL_OK && (run_s < m->opt->sample_s / LEAST_RUNS || i == N_COLS - 1))
            st = compare(&b, run_s, &frac);
        close_bench(&b);
        SL_TRY(st);
    }
    profile->compute_beside_h2d_frac = frac;
    return SL_OK;
}
