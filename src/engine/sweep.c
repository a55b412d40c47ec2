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

sl_status sl_sweep_make(const sl_sweep_shape *shape, sl_sweep *s) {
    const int k = shape->n_micro_batches;
    const int n_layers = shape->last_layer - shape->first_layer;
    if (n_layers < 1 || k < 1)
        return SL_FAIL(SL_ERR_ARG, "sweep of %d layers over %d micro-batches", n_layers, k);
    SL_TRY(reserve(s, (size_t)k * ((size_t)n_layers + 2)));
    s->n_tasks = 0;

    for (int mb = 0; mb < k; mb++) {
        if (shape->is_first_rank)
            add(s, SL_TASK_EMBED, SL_QUEUE_COMPUTE, -1, mb, -1);
        else
            add(s, SL_TASK_RECEIVE, SL_QUEUE_WIRE_IN, -1, mb, -1);
    }
    int previous = 0; /* the task of micro-batch 0 before this layer; the others follow it */
    for (int layer = shape->first_layer; layer < shape->last_layer; layer++) {
        const int start = s->n_tasks;
        const int is_end = layer == shape->last_layer - 1;
        for (int mb = 0; mb < k; mb++) {
            const int done = add(s, SL_TASK_LAYER, SL_QUEUE_COMPUTE, layer, mb, previous + mb);
            if (!is_end) continue;
            if (shape->is_last_rank)
                add(s, SL_TASK_HEAD, SL_QUEUE_COMPUTE, -1, mb, done);
            else
                add(s, SL_TASK_SEND, SL_QUEUE_WIRE_OUT, -1, mb, done);
        }
        previous = start;
    }
    return SL_OK;
}

void sl_sweep_free(sl_sweep *s) {
    free(s->task);
    *s = (sl_sweep){0};
}
