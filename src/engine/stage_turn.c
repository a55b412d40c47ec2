/* A block's turn: its sweep, and the next block beside the one under way, so that a device goes
 * from one to the other without waiting for the host. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/stage_impl.h"

/* Computations of the next block behind the last of the one under way: enough for the time in which
 * the host hands hidden states on and comes to the next sweep. */
enum { MOST_AHEAD = 4 };

static sl_status reserve_work(sl_stage *s, sl_stage_turn *t, int n) {
    if (n <= t->n_work) return SL_OK;
    sl_stage_work *work = realloc(t->work, (size_t)n * sizeof *work);
    if (!work) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d tasks", n);
    t->work = work;
    memset(work + t->n_work, 0, (size_t)(n - t->n_work) * sizeof *work);
    const int from = t->n_work;
    t->n_work = n;
    for (int i = from; s->device && i < n; i++) {
        SL_TRY(s->device->event_open(s->opt.backend, &work[i].begin));
        SL_TRY(s->device->event_open(s->opt.backend, &work[i].end));
    }
    return SL_OK;
}

sl_status sl_stage_begin_sweep(sl_stage *s, sl_stream idle) {
    sl_stage_turn *t = &s->turn[s->set];
    int bits = 0;
    for (int m = 0; m < t->block->n_micro_batches; m++) {
        if (s->failed != SL_OK) s->visit[m] = 0;
        if (s->travels && s->opt.hidden.frac[SL_TIER_DISK] > 0.0)
            s->visit[m] |= SL_VISIT_FETCH | SL_VISIT_WRITE;
        bits |= s->visit[m];
    }
    const sl_sweep_shape shape = {.first_layer = s->opt.first_layer,
                                  .last_layer = s->opt.last_layer,
                                  .is_first_rank = s->is_first,
                                  .is_last_rank = s->is_last,
                                  .n_micro_batches = t->block->n_micro_batches,
                                  .is_fetched = s->is_fetched,
                                  .is_uploaded = s->is_uploaded,
                                  .has_device = s->device != NULL,
                                  .is_direct = s->direct,
                                  .visit = bits ? s->visit : NULL,
                                  .hidden_travels = s->travels,
                                  .n_places = s->n_places};
    SL_TRY(sl_sweep_make(&shape, &t->sweep));
    SL_TRY(reserve_work(s, t, t->sweep.n_tasks));
    for (int i = 0; i < t->sweep.n_tasks; i++) t->work[i].is_queued = 0;
    t->next_ahead = t->n_ahead = 0;
    if (!s->device) return SL_OK;
    t->epoch_s = sl_clock_s();
    t->epoch_is_done = 0;
    return s->device->record(s->opt.backend, idle, t->epoch);
}

/* ---- the next block ---- */

int sl_stage_is_queued(const sl_stage *s) {
    return s->n_unqueued == 0 && s->failed == SL_OK && !s->opt.no_overlap;
}

/* Whether the hidden states that the micro-batch begins with are there when the device comes to it:
 * its buffer is free, or they are on the device's stream. */
static sl_status await_hidden(sl_stage *s, int mb, int *may_out) {
    const sl_stage_arrival *a = &s->arrival[s->set][mb];
    *may_out = s->is_first ? !sl_stage_is_sending(s, s->set)
                           : a->state == SL_WIRE_RAISED || a->state == SL_WIRE_HERE;
    if (s->is_first || a->state != SL_WIRE_RAISED) return SL_OK;
    return s->device->wait(s->opt.backend, SL_STREAM_COMPUTE, a->end);
}

/* Queues the next computation of the block at hand, in the order of its sweep. */
static sl_status queue_next(sl_stage *s) {
    sl_stage_turn *t = &s->turn[s->set];
    while (t->next_ahead < t->sweep.n_tasks &&
           t->sweep.task[t->next_ahead].queue != SL_QUEUE_COMPUTE)
        t->next_ahead++;
    if (t->n_ahead == MOST_AHEAD || t->next_ahead == t->sweep.n_tasks) return SL_OK;
    const sl_task *task = &t->sweep.task[t->next_ahead];
    int may = task->kind == SL_TASK_LAYER;
    const int is_entry =
        task->kind == SL_TASK_EMBED || (!s->is_first && task->layer == s->opt.first_layer);
    if (is_entry) SL_TRY(await_hidden(s, task->micro_batch, &may));
    if (!may) return SL_OK;
    SL_TRY(sl_stage_queue_ahead(s, task));
    t->next_ahead++;
    t->n_ahead++;
    return SL_OK;
}

sl_status sl_stage_prepare(sl_stage *s, const sl_block *block) {
    if (!sl_stage_is_queued(s) || s->travels || s->n_sets == 1) return SL_OK;
    /* Rows that attend elsewhere share what is remembered of visits with the block under way; where
     * the host attends, no stream is idle. */
    if (s->visits && (s->host_rows > 0 || !sl_stage_stays(s, block))) return SL_OK;
    const int now = s->set;
    s->set = (now + 1) % s->n_sets;
    s->turn[s->set].block = block;
    sl_status st = SL_OK;
    if (!s->is_prepared) {
        st = sl_stage_take_in(s, s->set, block);
        if (st == SL_OK) st = sl_stage_begin_sweep(s, SL_STREAM_ASK);
        s->is_prepared = st == SL_OK;
    } else if (s->device && s->is_resident) {
        st = queue_next(s);
    }
    s->set = now;
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}
