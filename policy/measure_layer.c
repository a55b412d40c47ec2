#include "measure_layer.h"

#include <math.h>

#include "base/clock.h"
#include "base/half.h"
#include "measure_pages.h"

enum { HEADS = 32, HEAD_DIM = 128, WIDTH = HEADS * HEAD_DIM, FFN = 4 * WIDTH, ROWS = 16 };
/* A product that computes next to nothing; one that keeps the device busy. */
enum { SMALL = 64, BUSY_ROWS = 2048, BUSY_OUTPUTS = 1024 };
/* Launches of all these layers fit into the queue of a device, and so do the busy products. */
enum { LAYERS = 16, MOST_BUSY = 256, SAMPLES = 9 };

typedef struct {
    sl_measure *m;
    void *x, *y;           /* [BUSY_ROWS, WIDTH], [BUSY_ROWS, BUSY_OUTPUTS] */
    void *wide;            /* [ROWS, FFN] */
    void *weights, *pages; /* f16 [BUSY_OUTPUTS, WIDTH]; a page to a row */
    sl_slab slab, small_slab;
    sl_weight busy, small;
    sl_kv_view cache;
    int32_t page[ROWS];
    sl_segment segment[ROWS];
    sl_rows rows;
    int n_busy;
} layer_bench;

static sl_status take(layer_bench *b) {
    sl_measure *m = b->m;
    const size_t act = m->be->ops->act_bytes, row = (size_t)WIDTH * act;
    b->cache.format = sl_kv_format_make(SL_DTYPE_F16, HEADS, HEAD_DIM);
    SL_TRY(sl_measure_take(m, BUSY_ROWS * row, "rows", &b->x));
    SL_TRY(sl_measure_take(m, BUSY_ROWS * BUSY_OUTPUTS * act, "rows", &b->y));
    SL_TRY(sl_measure_take(m, (size_t)ROWS * FFN * act, "rows", &b->wide));
    SL_TRY(
        sl_measure_take(m, (size_t)BUSY_OUTPUTS * WIDTH * sizeof(sl_f16), "weights", &b->weights));
    SL_TRY(sl_measure_take(m, ROWS * b->cache.format.page_bytes, "pages", &b->pages));
    b->cache.base = b->pages;
    b->slab = (sl_slab){.dtype = SL_DTYPE_F16,
                        .n_rows = BUSY_OUTPUTS,
                        .cols = WIDTH,
                        .row_bytes = WIDTH * sizeof(sl_f16),
                        .data = b->weights};
    b->small_slab = b->slab;
    b->small_slab.n_rows = b->small_slab.cols = SMALL;
    b->small_slab.row_bytes = SMALL * sizeof(sl_f16);
    b->busy = (sl_weight){BUSY_OUTPUTS, WIDTH, 1, &b->slab};
    b->small = (sl_weight){SMALL, SMALL, 1, &b->small_slab};
    for (int i = 0; i < ROWS; i++) {
        b->page[i] = i;
        b->segment[i] = (sl_segment){i, 1, 0, 1, &b->page[i]};
    }
    b->rows = (sl_rows){.n_rows = ROWS, .n_segments = ROWS, .segment = b->segment};
    SL_TRY(m->be->ops->bind_rows(m->be, 0, &b->rows));
    SL_TRY(sl_measure_fill_rows(m, b->x, BUSY_ROWS, WIDTH));
    SL_TRY(sl_measure_fill_rows(m, b->wide, ROWS, FFN));
    return sl_measure_fill_rows(m, b->weights, BUSY_OUTPUTS, WIDTH);
}

static sl_status multiply_small(const layer_bench *b) {
    sl_backend *be = b->m->be;
    return be->ops->linear(be, b->y, SMALL, b->x, &b->small, NULL, ROWS, 0);
}

/* A layer's kernels as engine/program.c queues them, its products nearly empty; or these alone. */
static sl_status queue_layer(const layer_bench *b, int products_alone) {
    sl_backend *be = b->m->be;
    const sl_backend_ops *op = be->ops;
    const int all = !products_alone;
    const char *k = b->x, *v = k + (size_t)ROWS * WIDTH * op->act_bytes;
    if (all) SL_TRY(op->norm(be, b->y, b->x, NULL, NULL, SL_NORM_LAYER, 1e-5f, ROWS, WIDTH));
    SL_TRY(multiply_small(b));
    if (all) SL_TRY(op->kv_append(be, &b->cache, k, v, WIDTH, &b->rows));
    SL_TRY(multiply_small(b));
    if (all) SL_TRY(op->norm(be, b->y, b->x, NULL, NULL, SL_NORM_LAYER, 1e-5f, ROWS, WIDTH));
    SL_TRY(multiply_small(b));
    if (all) SL_TRY(op->activate(be, b->wide, b->wide, NULL, FFN, SL_ACT_RELU, ROWS, FFN));
    return multiply_small(b);
}

/* Seconds of n layers behind the busy products, and how long it took to queue both. */
static sl_status time_layers(const layer_bench *b, int n, int products_alone, double *all_out,
                             double *queue_out) {
    sl_backend *be = b->m->be;
    SL_TRY(sl_measure_wait(b->m));
    const double start_s = sl_clock_s();
    for (int i = 0; i < b->n_busy; i++)
        SL_TRY(be->ops->linear(be, b->y, BUSY_OUTPUTS, b->x, &b->busy, NULL, BUSY_ROWS, 0));
    for (int i = 0; i < n; i++) SL_TRY(queue_layer(b, products_alone));
    *queue_out = sl_clock_s() - start_s;
    SL_TRY(sl_measure_wait(b->m));
    *all_out = sl_clock_s() - start_s;
    return SL_OK;
}

/* So many busy products that all layers are queued before the device gets to the first. */
static sl_status keep_busy(layer_bench *b) {
    double layers_s, busy_s, queue_s, ignored_s;
    b->n_busy = 1;
    SL_TRY(time_layers(b, LAYERS, 0, &layers_s, &queue_s)); /* loads the kernels */
    for (;; b->n_busy *= 2) {
        SL_TRY(time_layers(b, LAYERS, 0, &layers_s, &queue_s));
        SL_TRY(time_layers(b, 0, 0, &busy_s, &ignored_s));
        if (busy_s > 2 * queue_s || 2 * b->n_busy > MOST_BUSY) return SL_OK;
    }
}

sl_status sl_measure_layer(sl_measure *m, double *seconds_out) {
    layer_bench b = {.m = m};
    double s[SAMPLES], whole_s, products_s, queue_s;
    sl_status st = take(&b);
    if (st == SL_OK) st = keep_busy(&b);
    for (int i = 0; i < SAMPLES && st == SL_OK; i++) {
        st = time_layers(&b, LAYERS, 0, &whole_s, &queue_s);
        if (st == SL_OK) st = time_layers(&b, LAYERS, 1, &products_s, &queue_s);
        s[i] = whole_s - products_s;
    }
    const sl_status waited = sl_measure_wait(m);
    void *const all[] = {b.x, b.y, b.wide, b.weights, b.pages};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) sl_measure_put(m, all[i]);
    SL_TRY(st);
    SL_TRY(waited);
    *seconds_out = fmax(sl_measure_median(s, SAMPLES) / LAYERS, 1e-7);
    return SL_OK;
}
