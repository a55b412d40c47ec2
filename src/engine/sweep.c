#include "engine/sweep.h"

#include <stdlib.h>

#include "base/bytes.h"

static sl_status reserve(sl_sweep *s, size_t n) {
    if (n <= (size_t)s->capacity) return SL_OK;
    size_t bytes;
    SL_TRY(sl_size_mul(n, sizeof *s->task, &bytes));
    sl_task *task = realloc(s->task, bytes);
    if (!task) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a sweep of %zu tasks", n);
    s->task = task;
    s->capacity = (int)n;
    return SL_OK;
}

/* Appends a task that waits for `dep` (or nothing, -1) and returns its number. */
static int add(sl_sweep *s, sl_task_kind kind, sl_queue queue, int layer, int mb, int dep) {
    sl_task *t = &s->task[s->n_tasks];
    *t = (sl_task){kind, queue, layer, mb, 0, {0}};
    if (dep >= 0) t->dep[t->n_deps++] = dep;
    return s->n_tasks++;
}

/* One ring: the layers of the slice that pass through it, in cyclic order. */
typedef struct {
    const unsigned char *passes; /* [layers of the slice], NULL: none */
    int first_layer, last_layer;
    int n;                   /* layers that pass through */
    int n_added;             /* of which loads have been added, those for the next sweep included */
    int load[SL_SWEEP_RING]; /* tasks of the loads added last, by place */
    int free_after[SL_SWEEP_RING]; /* task after which the place is free; -1: at once */
    sl_task_kind kind;             /* of a load */
    sl_queue queue;
} ring;

static ring make_ring(const sl_sweep_shape *shape, const unsigned char *passes, sl_task_kind kind,
                      sl_queue queue) {
    ring r = {.passes = passes,
              .first_layer = shape->first_layer,
              .last_layer = shape->last_layer,
              .kind = kind,
              .queue = queue};
    for (int l = 0; passes && l < shape->last_layer - shape->first_layer; l++) r.n += passes[l];
    for (int i = 0; i < SL_SWEEP_RING; i++) r.load[i] = r.free_after[i] = -1;
    return r;
}

static int passes_through(const ring *r, int layer) {
    return r->passes && r->passes[layer - r->first_layer];
}

/* The `index`th layer that passes through the ring. */
static int nth_layer(const ring *r, int index) {
    int layer = r->first_layer;
    while (!passes_through(r, layer) || index-- > 0) layer++;
    return layer;
}

/* Whether the next load may be added: within this sweep, or ahead for the next one; layers that all
 * fit in the ring are loaded once and stay. */
static int has_next(const ring *r) {
    const int end = r->n > SL_SWEEP_RING ? r->n + SL_SWEEP_RING : r->n;
    return r->n_added < end;
}

/* Layer of the next load; -1 if there is none. */
static int next_layer(const ring *r) {
    return has_next(r) ? nth_layer(r, r->n_added % r->n) : -1;
}

/* Adds the next load, which may start once its place is free and `dep` (-1: nothing) is done. */
static int add_load(sl_sweep *s, ring *r, int dep) {
    const int place = r->n_added % SL_SWEEP_RING;
    const int task = add(s, r->kind, r->queue, next_layer(r), -1, r->free_after[place]);
    if (dep >= 0) s->task[task].dep[s->task[task].n_deps++] = dep;
    r->n_added++;
    return r->load[place] = task;
}

typedef struct {
    ring host, device;
} rings;

/* Adds the next upload and, where the layer has pieces on disk that are not in the host's ring yet,
 * the fetch that it waits for; the upload then frees the fetch's place. */
static void add_upload(sl_sweep *s, rings *r) {
    if (!has_next(&r->device)) return;
    if (!has_next(&r->host) || next_layer(&r->host) != next_layer(&r->device)) {
        add_load(s, &r->device, -1);
        return;
    }
    const int place = r->host.n_added % SL_SWEEP_RING;
    const int fetch = add_load(s, &r->host, -1);
    r->host.free_after[place] = add_load(s, &r->device, fetch);
}

/* Adds the next load of the ring that layers are computed from. */
static void add_next(sl_sweep *s, const sl_sweep_shape *shape, rings *r) {
    if (shape->has_device)
        add_upload(s, r);
    else if (has_next(&r->host))
        add_load(s, &r->host, -1);
}

/* One layer for all micro-batches; `previous` is the task of micro-batch 0 before it, `load` that
 * of its weights (-1: none).  *last_out: the task of the last micro-batch. */
static int add_layer(sl_sweep *s, const sl_sweep_shape *shape, int layer, int previous, int load,
                     int *last_out) {
    const int start = s->n_tasks;
    /* At the slice's end a hand-off follows each micro-batch at once. */
    const int is_end = layer == shape->last_layer - 1;
    for (int mb = 0; mb < shape->n_micro_batches; mb++) {
        int done = add(s, SL_TASK_LAYER, SL_QUEUE_COMPUTE, layer, mb, previous + mb);
        if (load >= 0) s->task[done].dep[s->task[done].n_deps++] = load;
        *last_out = done;
        if (!is_end) continue;
        if (shape->is_last_rank) {
            add(s, SL_TASK_HEAD, SL_QUEUE_COMPUTE, -1, mb, done);
            continue;
        }
        if (shape->has_device) done = add(s, SL_TASK_LOWER, SL_QUEUE_D2H, -1, mb, done);
        add(s, SL_TASK_SEND, SL_QUEUE_WIRE_OUT, -1, mb, done);
    }
    return start;
}

sl_status sl_sweep_make(const sl_sweep_shape *shape, sl_sweep *s) {
    const int k = shape->n_micro_batches;
    const int n_layers = shape->last_layer - shape->first_layer;
    if (n_layers < 1 || k < 1)
        return SL_FAIL(SL_ERR_ARG, "sweep of %d layers over %d micro-batches", n_layers, k);
    SL_TRY(reserve(s, (size_t)k * ((size_t)n_layers + 3) + 2 * ((size_t)n_layers + SL_SWEEP_RING)));
    s->n_tasks = 0;
    rings r = {.host = make_ring(shape, shape->is_fetched, SL_TASK_FETCH, SL_QUEUE_DISK_READ),
               .device = make_ring(shape, shape->is_uploaded, SL_TASK_UPLOAD, SL_QUEUE_H2D)};
    ring *computed = shape->has_device ? &r.device : &r.host; /* the ring that is computed from */
    for (int i = 0; i < SL_SWEEP_RING; i++) add_next(s, shape, &r);

    int previous = s->n_tasks; /* the task of micro-batch 0 before this layer; the others follow */
    for (int mb = 0; mb < k; mb++) {
        if (shape->is_first_rank)
            add(s, SL_TASK_EMBED, SL_QUEUE_COMPUTE, -1, mb, -1);
        else
            add(s, SL_TASK_RECEIVE, SL_QUEUE_WIRE_IN, -1, mb, -1);
    }
    int n_used = 0;
    for (int layer = shape->first_layer; layer < shape->last_layer; layer++) {
        const int place = n_used % SL_SWEEP_RING;
        const int streams = passes_through(computed, layer);
        int last = -1;
        previous =
            add_layer(s, shape, layer, previous, streams ? computed->load[place] : -1, &last);
        if (!streams) continue;
        n_used++;
        computed->free_after[place] = last;
        add_next(s, shape, &r);
    }
    return SL_OK;
}

void sl_sweep_free(sl_sweep *s) {
    free(s->task);
    *s = (sl_sweep){0};
}
