#include "replay.h"

#include <stdlib.h>
#include <string.h>

/* Layers that show how a sweep begins and ends, and those more that show how it goes on. */
enum { ENDS = 6, MORE = 4 };

static double task_s(const sl_replay_work *w, const sl_task *t, int *n_loads, int *n_fetches) {
    switch (t->kind) {
    case SL_TASK_EMBED:
        return w->embed_s;
    case SL_TASK_LAYER:
        return w->before_s + w->after_s;
    case SL_TASK_BEFORE:
        return w->before_s;
    case SL_TASK_AFTER:
        return w->after_s;
    case SL_TASK_HEAD:
        return w->head_s;
    case SL_TASK_RECEIVE:
    case SL_TASK_SEND:
        return w->wire_s;
    case SL_TASK_FETCH: /* the first of each kind were loaded ahead, in the sweep before */
        return ++*n_fetches <= SL_SWEEP_RING ? 0 : w->fetch_s;
    case SL_TASK_UPLOAD:
        return ++*n_loads <= SL_SWEEP_RING ? 0 : w->upload_s / t->n_parts;
    case SL_TASK_ATTEND:
        return w->attend_s;
    case SL_TASK_VISIT_FETCH:
        return w->visit_fetch_s;
    case SL_TASK_VISIT_UPLOAD:
        return w->visit_upload_s;
    case SL_TASK_VISIT_STORE:
        return w->visit_store_s;
    case SL_TASK_VISIT_WRITE:
        return w->visit_write_s;
    default: /* queries, results and hidden states are small */
        return 0;
    }
}

/* Tasks start in the order of their queue, each when what it waits for is done. */
static double play(const sl_replay_work *w, const sl_sweep *s, double *end_s) {
    double free_s[SL_QUEUE_COUNT] = {0}, last_s = 0;
    int n_loads = 0, n_fetches = 0;
    for (int i = 0; i < s->n_tasks; i++) {
        const sl_task *t = &s->task[i];
        double start = free_s[t->queue];
        for (int d = 0; d < t->n_deps; d++)
            if (end_s[t->dep[d]] > start) start = end_s[t->dep[d]];
        end_s[i] = free_s[t->queue] = start + task_s(w, t, &n_loads, &n_fetches);
        if (end_s[i] > last_s) last_s = end_s[i];
    }
    return last_s;
}

static sl_status replay(const sl_replay_work *w, int n_layers, sl_sweep *sweep, double *out) {
    unsigned char all[ENDS + MORE], visit[1024];
    const int k = w->n_micro_batches;
    memset(all, 1, sizeof all);
    if (k < 1 || k > (int)sizeof visit) return SL_FAIL(SL_ERR_ARG, "replay of %d micro-batches", k);
    memset(visit, w->visit, (size_t)k);
    const int on_host = (w->visit & SL_VISIT_HOST) != 0;
    const sl_sweep_shape shape = {.last_layer = n_layers,
                                  .is_first_rank = w->is_first_rank,
                                  .is_last_rank = w->is_last_rank,
                                  .n_micro_batches = k,
                                  .is_fetched = w->is_fetched ? all : NULL,
                                  .is_uploaded = w->is_uploaded ? all : NULL,
                                  .has_device = w->has_device,
                                  .visit = w->visit ? visit : NULL,
                                  .hidden_travels = w->hidden_travels,
                                  .n_places = sl_sweep_places(k, on_host, w->hidden_travels)};
    SL_TRY(sl_sweep_make(&shape, sweep));
    double *end_s = malloc((size_t)sweep->n_tasks * sizeof *end_s);
    if (!end_s) return SL_FAIL(SL_ERR_NOMEM, "replay: out of host memory");
    *out = play(w, sweep, end_s);
    free(end_s);
    return SL_OK;
}

sl_status sl_replay_sweep(const sl_replay_work *w, double *out) {
    sl_sweep sweep = {0};
    double whole_s = 0, ends_s = 0;
    const int n = w->n_layers < ENDS + MORE ? w->n_layers : ENDS + MORE;
    sl_status st = replay(w, n, &sweep, &whole_s);
    if (st == SL_OK && n < w->n_layers) {
        st = replay(w, ENDS, &sweep, &ends_s);
        whole_s += (whole_s - ends_s) / MORE * (w->n_layers - n);
    }
    sl_sweep_free(&sweep);
    if (st == SL_OK) *out = whole_s;
    return st;
}
