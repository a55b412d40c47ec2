#include "replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Layers that show how a sweep begins and ends, and those more that show how it goes on. */
enum { ENDS = 6, MORE = 4 };

/* ---- what a task takes ---- */

static sl_replay_load scaled(sl_replay_load load, double part) {
    load.seconds *= part;
    return load;
}

/* Embedding leaves hidden states only. */
static sl_replay_load visit_of(const sl_replay_work *w, const sl_task *t, sl_replay_load pages,
                               sl_replay_load hidden) {
    const double pages_s = t->layer < 0 ? 0 : pages.seconds * w->batch[t->micro_batch].pages_part;
    const double both_s = pages_s + hidden.seconds;
    return (sl_replay_load){
        both_s, both_s > 0 ? (pages_s * pages.bps + hidden.seconds * hidden.bps) / both_s : 0};
}

static sl_replay_load load_of(const sl_replay_work *w, const sl_task *t, int *n_loads,
                              int *n_fetches) {
    switch (t->kind) {
    case SL_TASK_EMBED:
        return (sl_replay_load){w->embed_s, 0};
    case SL_TASK_LAYER:
        return (sl_replay_load){w->before_s + w->after_s, 0};
    case SL_TASK_BEFORE:
        return (sl_replay_load){w->before_s, 0};
    case SL_TASK_AFTER:
        return (sl_replay_load){w->after_s, 0};
    case SL_TASK_HEAD:
        return (sl_replay_load){w->head_s, 0};
    case SL_TASK_RECEIVE:
    case SL_TASK_SEND:
        return (sl_replay_load){w->wire_s, 0};
    case SL_TASK_LOWER:
        return w->lower;
    case SL_TASK_FETCH: /* the first of each kind were loaded ahead, in the sweep before */
        return scaled(w->fetch, w->is_cold || ++*n_fetches > SL_SWEEP_RING);
    case SL_TASK_UPLOAD:
        return scaled(w->upload, w->is_cold || ++*n_loads > SL_SWEEP_RING ? 1.0 / t->n_parts : 0);
    case SL_TASK_ASK:
        return scaled(w->ask, w->batch[t->micro_batch].host_part);
    case SL_TASK_ATTEND:
        return scaled(w->attend, w->batch[t->micro_batch].host_part);
    case SL_TASK_ANSWER:
        return scaled(w->answer, w->batch[t->micro_batch].host_part);
    case SL_TASK_VISIT_FETCH:
        return visit_of(w, t, w->visit_fetch, w->hidden_fetch);
    case SL_TASK_VISIT_UPLOAD:
        return visit_of(w, t, w->visit_upload, w->hidden_upload);
    case SL_TASK_VISIT_STORE:
        return visit_of(w, t, w->visit_store, w->hidden_store);
    case SL_TASK_VISIT_WRITE:
        return visit_of(w, t, w->visit_write, w->hidden_write);
    default:
        return (sl_replay_load){0, 0};
    }
}

/* ---- playing ---- */

typedef struct {
    const sl_replay_work *w;
    const sl_sweep *s;
    unsigned char *done;      /* [n_tasks] */
    sl_replay_load *load;     /* [n_tasks]; seconds: what is left */
    int *next_in_queue;       /* [n_tasks] */
    int head[SL_QUEUE_COUNT]; /* first task of the queue that is not done; n_tasks: none */
    int runs[SL_QUEUE_COUNT]; /* whether it has begun */
    double speed[SL_QUEUE_COUNT];
    double now_s, first_s, last_s;
} player;

static int may_start(const player *p, int task) {
    const sl_task *t = &p->s->task[task];
    for (int d = 0; d < t->n_deps; d++)
        if (!p->done[t->dep[d]]) return 0;
    return 1;
}

/* Starts what can start; what takes no time is over at once. */
static void start(player *p) {
    for (int moved = 1; moved;) {
        moved = 0;
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            while (p->head[q] < p->s->n_tasks && !p->runs[q] && may_start(p, p->head[q])) {
                if (p->load[p->head[q]].seconds > 0) {
                    p->runs[q] = 1;
                    break;
                }
                p->done[p->head[q]] = 1;
                p->head[q] = p->next_in_queue[p->head[q]];
                moved = 1;
            }
        }
    }
}

static int is_to_device(int q) {
    return q == SL_QUEUE_H2D || q == SL_QUEUE_ANSWER;
}

static int is_from_device(int q) {
    return q == SL_QUEUE_D2H || q == SL_QUEUE_ASK;
}

/* As the machine divides link and memory among those that run. */
static void share(player *p) {
    const sl_replay_work *w = p->w;
    double bps[SL_QUEUE_COUNT], link = 0, dram = 0;
    int n_to = 0, n_from = 0;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        p->speed[q] = p->runs[q];
        bps[q] = p->runs[q] ? p->load[p->head[q]].bps : 0;
        n_to += w->has_device && bps[q] > 0 && is_to_device(q);
        n_from += w->has_device && bps[q] > 0 && is_from_device(q);
    }
    for (int q = 0; q < SL_QUEUE_COUNT && w->has_device; q++) {
        if (bps[q] > 0 && is_to_device(q)) p->speed[q] /= n_to;
        if (bps[q] > 0 && is_from_device(q)) p->speed[q] /= n_from;
        if (is_to_device(q) || is_from_device(q)) link += p->speed[q] * bps[q];
    }
    if (n_to) p->speed[SL_QUEUE_COMPUTE] *= 1 - w->lost_frac;
    const double slower =
        n_to && n_from && w->duplex_bps > 0 && link > w->duplex_bps ? w->duplex_bps / link : 1;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        if (w->has_device && (is_to_device(q) || is_from_device(q))) p->speed[q] *= slower;
        dram += p->speed[q] * bps[q];
    }
    const double most = n_to + n_from > 0 ? w->dram_beside_h2d_bps : w->dram_bps;
    for (int q = 0; q < SL_QUEUE_COUNT && most > 0 && dram > most; q++)
        if (bps[q] > 0) p->speed[q] *= most / dram;
}

/* Until the next task is over; 0: none runs. */
static int advance(player *p) {
    double next_s = INFINITY;
    for (int q = 0; q < SL_QUEUE_COUNT; q++)
        if (p->runs[q]) next_s = fmin(next_s, p->load[p->head[q]].seconds / p->speed[q]);
    if (isinf(next_s)) return 0;
    p->now_s += next_s;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        if (!p->runs[q]) continue;
        const int i = p->head[q];
        const double whole_s = p->load[i].seconds;
        p->load[i].seconds -= next_s * p->speed[q];
        if (p->load[i].seconds > 1e-12 * whole_s) continue;
        p->done[i] = 1;
        p->runs[q] = 0;
        p->head[q] = p->next_in_queue[i];
        const sl_task *t = &p->s->task[i];
        if (t->kind != SL_TASK_HEAD && t->kind != SL_TASK_SEND) continue;
        if (t->micro_batch == 0) p->first_s = p->now_s;
        p->last_s = p->now_s;
    }
    return 1;
}

static void line_up(player *p) {
    int last[SL_QUEUE_COUNT], n_loads = 0, n_fetches = 0;
    const int n = p->s->n_tasks;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        p->head[q] = n;
        last[q] = -1;
    }
    for (int i = 0; i < n; i++) {
        const sl_task *t = &p->s->task[i];
        p->load[i] = load_of(p->w, t, &n_loads, &n_fetches);
        p->next_in_queue[i] = n;
        if (last[t->queue] < 0)
            p->head[t->queue] = i;
        else
            p->next_in_queue[last[t->queue]] = i;
        last[t->queue] = i;
    }
}

static sl_status play(const sl_replay_work *w, const sl_sweep *s, sl_replay_times *out) {
    const size_t n = (size_t)s->n_tasks;
    player p = {.w = w, .s = s};
    p.done = calloc(n, 1);
    p.load = calloc(n, sizeof *p.load);
    p.next_in_queue = calloc(n, sizeof *p.next_in_queue);
    const int ok = p.done && p.load && p.next_in_queue;
    if (ok) {
        line_up(&p);
        do {
            start(&p);
            share(&p);
        } while (advance(&p));
        *out = (sl_replay_times){p.now_s, p.first_s > 0 ? p.first_s : p.now_s,
                                 p.last_s > 0 ? p.last_s : p.now_s};
    }
    free(p.next_in_queue);
    free(p.load);
    free(p.done);
    return ok ? SL_OK : SL_FAIL(SL_ERR_NOMEM, "replay: out of host memory");
}

static sl_status replay(const sl_replay_work *w, int n_layers, sl_sweep *sweep,
                        sl_replay_times *out) {
    unsigned char all[ENDS + MORE], visit[1024];
    const int k = w->n_micro_batches;
    memset(all, 1, sizeof all);
    if (k < 1 || k > (int)sizeof visit) return SL_FAIL(SL_ERR_ARG, "replay of %d micro-batches", k);
    int bits = 0;
    for (int i = 0; i < k; i++) bits |= visit[i] = w->batch[i].visit;
    const int on_host = (bits & SL_VISIT_HOST) != 0;
    const sl_sweep_shape shape = {.last_layer = n_layers,
                                  .is_first_rank = w->is_first_rank,
                                  .is_last_rank = w->is_last_rank,
                                  .n_micro_batches = k,
                                  .is_fetched = w->is_fetched ? all : NULL,
                                  .is_uploaded = w->is_uploaded ? all : NULL,
                                  .has_device = w->has_device,
                                  .visit = bits ? visit : NULL,
                                  .hidden_travels = w->hidden_travels,
                                  .n_places = sl_sweep_places(k, on_host, w->hidden_travels)};
    SL_TRY(sl_sweep_make(&shape, sweep));
    return play(w, sweep, out);
}

sl_status sl_replay_sweep(const sl_replay_work *w, sl_replay_times *out) {
    sl_sweep sweep = {0};
    sl_replay_times whole = {0, 0, 0}, ends = {0, 0, 0};
    const int n = w->n_layers < ENDS + MORE ? w->n_layers : ENDS + MORE;
    sl_status st = replay(w, n, &sweep, &whole);
    if (st == SL_OK && n < w->n_layers) {
        st = replay(w, ENDS, &sweep, &ends);
        whole.sweep_s += (whole.sweep_s - ends.sweep_s) / MORE * (w->n_layers - n);
        whole.last_s += (whole.last_s - ends.last_s) / MORE * (w->n_layers - n);
        whole.first_s += (whole.first_s - ends.first_s) / MORE * (w->n_layers - n);
    }
    sl_sweep_free(&sweep);
    if (st == SL_OK) *out = whole;
    return st;
}
