/* The tasks of a sweep: how each is started, polled, ordered on the device, and accounted for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/stage_impl.h"

/* Tickets of tasks that are no transfers on the wire mean nothing but "under way": the task itself
 * tells what to ask.  Those of attention are the host's own, from 1 on. */
static const sl_ticket UNDER_WAY = 1;

static int number_of(const sl_stage *s, const sl_task *task) {
    return (int)(task - s->turn[s->set].sweep.task);
}

static sl_stage_work *work_of(const sl_stage *s, const sl_task *task) {
    return &s->turn[s->set].work[number_of(s, task)];
}

/* Which stream of the device a queue's tasks go to; -1: none. */
static int stream_of(const sl_stage *s, sl_queue queue) {
    if (!s->device) return -1;
    switch (queue) {
    case SL_QUEUE_COMPUTE:
        return SL_STREAM_COMPUTE;
    case SL_QUEUE_H2D:
        return SL_STREAM_H2D;
    case SL_QUEUE_D2H:
        return SL_STREAM_D2H;
    case SL_QUEUE_ASK:
        return SL_STREAM_ASK;
    case SL_QUEUE_ANSWER:
        return SL_STREAM_ANSWER;
    default:
        return -1;
    }
}

static size_t hidden_bytes(const sl_stage *s, int mb) {
    return (size_t)s->turn[s->set].block->micro_batch[mb].n_rows * sl_stage_row_bytes(s);
}

static int lane_of(const sl_stage *s, const sl_task *task) {
    const int item = (task->layer - s->opt.first_layer) * s->turn[s->set].block->n_micro_batches +
                     task->micro_batch;
    return item % s->n_lanes;
}

static void *hidden_of(const sl_stage *s, const sl_task *task) {
    return s->travels ? sl_hidden_place(s->hidden_store, task->place)
                      : s->hidden[s->set][task->micro_batch];
}

/* Whether the micro-batch's hidden states come from the wire into this layer, not from their home.
 */
static int from_wire(const sl_stage *s, const sl_task *task) {
    return !s->is_first && task->layer == s->opt.first_layer;
}

static int is_last_layer(const sl_stage *s, const sl_task *task) {
    return task->layer == s->opt.last_layer - 1;
}

static const char *name_of(sl_task_kind kind) {
    static const char *const names[SL_TASK_COUNT] = {
        [SL_TASK_EMBED] = "embed",
        [SL_TASK_RECEIVE] = "receive",
        [SL_TASK_LAYER] = "layer",
        [SL_TASK_BEFORE] = "before attention",
        [SL_TASK_AFTER] = "after attention",
        [SL_TASK_HEAD] = "head",
        [SL_TASK_SEND] = "send",
        [SL_TASK_LOWER] = "hidden states out",
        [SL_TASK_FETCH] = "weights from disk",
        [SL_TASK_UPLOAD] = "weights in",
        [SL_TASK_ASK] = "queries out",
        [SL_TASK_ATTEND] = "attention",
        [SL_TASK_ANSWER] = "results in",
        [SL_TASK_VISIT_FETCH] = "visit from disk",
        [SL_TASK_VISIT_UPLOAD] = "visit in",
        [SL_TASK_VISIT_STORE] = "visit out",
        [SL_TASK_VISIT_WRITE] = "visit to disk",
    };
    return names[kind];
}

void sl_stage_account(sl_stage *s, const sl_span *span) {
    /* Transfers of the disk and the wire run beside each other: the queue's time counts once. */
    double *until_s = &s->busy_until_s[span->queue];
    if (span->end_s > *until_s) {
        s->busy_s[span->queue] +=
            span->end_s - (span->start_s > *until_s ? span->start_s : *until_s);
        *until_s = span->end_s;
    }
    s->moved_bytes[span->queue] += span->bytes;
    if (span->queue == SL_QUEUE_COMPUTE) sl_stage_count_gap(s, span);
    if (s->opt.on_span) s->opt.on_span(s->opt.span_user, span);
}

static void account(sl_stage *s, const sl_task *task, double begin_s, double end_s) {
    const sl_span span = {.name = name_of(task->kind),
                          .queue = task->queue,
                          .layer = task->layer,
                          .micro_batch = task->micro_batch,
                          .start_s = begin_s,
                          .end_s = end_s,
                          .bytes = work_of(s, task)->bytes};
    sl_stage_account(s, &span);
}

static sl_status account_device(sl_stage *s, const sl_task *task) {
    const sl_stage_work *w = work_of(s, task);
    const sl_stage_turn *t = &s->turn[s->set];
    double begin_s, end_s;
    SL_TRY(s->device->elapsed(s->opt.backend, t->epoch, w->begin, &begin_s));
    SL_TRY(s->device->elapsed(s->opt.backend, w->begin, w->end, &end_s));
    account(s, task, t->epoch_s + begin_s, t->epoch_s + begin_s + end_s);
    return SL_OK;
}

/* ---- computation ---- */

static sl_status choose(sl_stage *s, const sl_task *task) {
    const sl_stage_rows *m = sl_stage_rows_of(s, task->micro_batch);
    const sl_layer_weights *head = sl_weights_layer(s->weights, s->config.n_layers);
    const sl_choice_ask *ask = s->turn[s->set].ask + m->choice0;
    if (m->is_begun)
        return sl_program_begin_head(s->program, head, &m->rows, hidden_of(s, task), ask);
    return sl_program_head(s->program, head, &m->rows, hidden_of(s, task), ask,
                           s->result->choice + m->choice0);
}

/* The tokens of a head that is done on the device. */
static sl_status fetch_choices(sl_stage *s, const sl_task *task) {
    const sl_stage_rows *m = sl_stage_rows_of(s, task->micro_batch);
    if (task->kind != SL_TASK_HEAD || !m->is_begun) return SL_OK;
    return sl_program_end_head(s->program, m->rows.n_wanted, s->turn[s->set].ask + m->choice0,
                               s->result->choice + m->choice0);
}

static sl_status compute_before(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch, layer = task->layer - s->opt.first_layer;
    sl_stage_rows *m = sl_stage_rows_of(s, mb);
    void *hidden = hidden_of(s, task);
    /* Hidden states that travel have no place of their own before. */
    if (from_wire(s, task) && s->own_wire && s->travels) {
        const void *wire = s->wire[s->set][mb];
        if (s->device)
            SL_TRY(s->device->copy(s->opt.backend, SL_STREAM_COMPUTE, hidden, wire,
                                   hidden_bytes(s, mb)));
        else
            memcpy(hidden, wire, hidden_bytes(s, mb));
    }
    sl_program_part part[SL_ROW_PARTS];
    for (int p = 0; p < m->n_parts; p++) {
        part[p] = (sl_program_part){.row0 = m->part[p].row0, .rows = &m->part[p].rows};
        if (m->part[p].kind == SL_PART_HERE)
            part[p].cache = sl_kv_layer(s->kv, sl_tier_get_kind(s->fast), layer);
        else if (m->part[p].kind == SL_PART_VISIT)
            part[p].cache = sl_kv_visits_view(s->visits, task->place);
    }
    return sl_program_before(s->program, sl_weights_layer(s->weights, task->layer), &m->rows, part,
                             m->n_parts, lane_of(s, task), hidden);
}

static sl_status compute_after(sl_stage *s, const sl_task *task) {
    return sl_program_after(s->program, sl_weights_layer(s->weights, task->layer),
                            sl_stage_rows_of(s, task->micro_batch)->rows.n_rows, lane_of(s, task),
                            hidden_of(s, task));
}

/* ---- attention on the host ---- */

static int host_rows_of(const sl_stage *s, int mb) {
    const sl_stage_rows *m = sl_stage_rows_of(s, mb);
    return m->part[m->host_part].rows.n_rows;
}

static sl_status copy_small(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch, lane = lane_of(s, task), n = host_rows_of(s, mb);
    const int q = sl_program_q_cols(s->program), kv = sl_program_kv_cols(s->program);
    const size_t act = s->opt.backend->ops->act_bytes;
    const int asks = task->kind == SL_TASK_ASK;
    const size_t bytes = (size_t)n * (size_t)(asks ? q + 2 * kv : q) * act;
    work_of(s, task)->bytes = bytes;
    if (asks)
        return s->device->copy(s->opt.backend, SL_STREAM_ASK, s->lane[lane].ask,
                               sl_program_outbox(s->program, lane), bytes);
    const sl_stage_rows *m = sl_stage_rows_of(s, mb);
    const int row0 = m->part[m->host_part].row0;
    return s->device->copy(s->opt.backend, SL_STREAM_ANSWER,
                           sl_program_inbox(s->program, lane, row0), s->lane[lane].answer, bytes);
}

static sl_status start_attention(sl_stage *s, const sl_task *task, sl_ticket *ticket_out) {
    const int mb = task->micro_batch, lane_number = lane_of(s, task);
    const sl_stage_rows *m = sl_stage_rows_of(s, mb);
    const sl_stage_part *part = &m->part[m->host_part];
    sl_stage_lane *lane = &s->lane[lane_number];
    const int n = part->rows.n_rows, per_slot = sl_kv_pages_for(s->opt.max_context);
    const size_t act = s->opt.backend->ops->act_bytes;
    const sl_program_outbox_shape shape = sl_program_outbox_of(s->program, n);
    size_t n_tokens = 0;
    for (int i = 0; i < n; i++) {
        void **page = lane->page + i * per_slot;
        sl_kv_visits_host_pages(s->visits, task->layer - s->opt.first_layer, mb, part->visitor0 + i,
                                task->place, page);
        lane->row[i] =
            (sl_host_row){.n_tokens = m->visitor[part->visitor0 + i].position0 + 1, .page = page};
        n_tokens += (size_t)lane->row[i].n_tokens;
    }
    work_of(s, task)->bytes = n_tokens * (s->format.page_bytes / SL_PAGE_TOKENS);
    const sl_host_job job = {.format = s->format,
                             .act = act == sizeof(float) ? SL_DTYPE_F32 : SL_DTYPE_F16,
                             .n_heads = s->config.n_heads,
                             .scale = sl_program_scale(s->program),
                             .window = s->config.sliding_window,
                             .sparsity = s->opt.sparsity,
                             .n_rows = n,
                             .row = lane->row,
                             .q = lane->ask,
                             .ldq = shape.ldq,
                             .k = lane->ask + shape.k * act,
                             .v = lane->ask + shape.v * act,
                             .ldkv = shape.ldkv,
                             .out = lane->answer,
                             .ldo = sl_program_q_cols(s->program)};
    uint64_t ticket;
    SL_TRY(s->opt.host_attention->ops->start(s->opt.host_attention, &job, &ticket));
    *ticket_out = ticket + 1;
    return SL_OK;
}

/* ---- visits ---- */

static sl_status visit(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch, layer = task->layer - s->opt.first_layer;
    const int n_rows = sl_stage_rows_of(s, mb)->rows.n_rows, place = task->place;
    const int brings = task->kind == SL_TASK_VISIT_FETCH || task->kind == SL_TASK_VISIT_UPLOAD;
    const int hidden = s->travels && !(brings ? from_wire(s, task) : is_last_layer(s, task));
    size_t *bytes = &work_of(s, task)->bytes;
    typedef sl_status pages_step(sl_kv_visits *, int, int, int);
    typedef sl_status hidden_step(sl_hidden *, int, int, int);
    pages_step *pages = NULL;
    hidden_step *rows = NULL;
    switch (task->kind) {
    case SL_TASK_VISIT_FETCH:
        pages = sl_kv_visits_fetch;
        rows = sl_hidden_fetch;
        break;
    case SL_TASK_VISIT_UPLOAD:
        pages = sl_kv_visits_upload;
        rows = sl_hidden_load;
        break;
    case SL_TASK_VISIT_STORE:
        pages = sl_kv_visits_store;
        rows = sl_hidden_save;
        break;
    default:
        pages = sl_kv_visits_write;
        rows = sl_hidden_write;
        break;
    }
    if (s->visits && task->layer >= 0) {
        SL_TRY(pages(s->visits, layer, mb, place));
        *bytes += sl_kv_visits_last_bytes(s->visits);
    }
    if (hidden) {
        SL_TRY(rows(s->hidden_store, mb, place, n_rows));
        *bytes += sl_hidden_last_bytes(s->hidden_store);
    }
    return SL_OK;
}

static sl_status visit_is_done(sl_stage *s, const sl_task *task, int *done_out) {
    *done_out = 1;
    if (s->visits && task->layer >= 0)
        SL_TRY(sl_kv_visits_is_done(s->visits, task->place, done_out));
    if (*done_out && s->travels) SL_TRY(sl_hidden_is_done(s->hidden_store, task->place, done_out));
    return SL_OK;
}

/* ---- starting ---- */

/* Work that is done on return, or queued on one of the device's streams. */
static sl_status perform(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch;
    size_t *bytes = &work_of(s, task)->bytes;
    switch (task->kind) {
    case SL_TASK_EMBED:
        return sl_program_embed(s->program, sl_weights_layer(s->weights, SL_LAYER_EMBED),
                                &sl_stage_rows_of(s, mb)->rows, hidden_of(s, task));
    case SL_TASK_LAYER:
        SL_TRY(compute_before(s, task));
        return compute_after(s, task);
    case SL_TASK_BEFORE:
        return compute_before(s, task);
    case SL_TASK_AFTER:
        return compute_after(s, task);
    case SL_TASK_HEAD:
        return choose(s, task);
    case SL_TASK_LOWER:
        *bytes = hidden_bytes(s, mb);
        if (s->device)
            return s->device->copy(s->opt.backend, SL_STREAM_D2H, s->wire[s->set][mb],
                                   hidden_of(s, task), *bytes);
        memcpy(s->wire[s->set][mb], hidden_of(s, task), *bytes);
        return SL_OK;
    case SL_TASK_UPLOAD:
        return sl_weights_upload(s->weights, task->layer, task->part, task->n_parts, bytes);
    case SL_TASK_ASK:
    case SL_TASK_ANSWER:
        return copy_small(s, task);
    case SL_TASK_VISIT_UPLOAD:
    case SL_TASK_VISIT_STORE:
        return visit(s, task);
    default:
        return SL_FAIL(SL_ERR_ARG, "task %d is no work of the backend", (int)task->kind);
    }
}

/* Work that is polled: transfers of the disk, and attention on the host. */
static sl_status start_polled(sl_stage *s, const sl_task *task, sl_ticket *ticket_out) {
    int done = 0;
    if (task->kind == SL_TASK_ATTEND) return start_attention(s, task, ticket_out);
    if (task->kind == SL_TASK_FETCH) {
        SL_TRY(sl_weights_fetch(s->weights, task->layer, &work_of(s, task)->bytes));
        SL_TRY(sl_weights_is_fetched(s->weights, task->layer, &done));
    } else {
        SL_TRY(visit(s, task));
        SL_TRY(visit_is_done(s, task, &done));
    }
    *ticket_out = done ? 0 : UNDER_WAY;
    return SL_OK;
}

/* Work on a stream, between two events that time it. */
static sl_status start_on_stream(sl_stage *s, const sl_task *task, int stream) {
    const sl_stage_work *w = work_of(s, task);
    SL_TRY(s->device->record(s->opt.backend, (sl_stream)stream, w->begin));
    SL_TRY(perform(s, task));
    return s->device->record(s->opt.backend, (sl_stream)stream, w->end);
}

static int is_polled(const sl_task *task) {
    return task->kind == SL_TASK_FETCH || task->kind == SL_TASK_ATTEND ||
           task->kind == SL_TASK_VISIT_FETCH || task->kind == SL_TASK_VISIT_WRITE;
}

static sl_status start_task(void *context, const sl_task *task, sl_ticket *ticket_out) {
    sl_stage *s = context;
    sl_stage_work *w = work_of(s, task);
    w->begin_s = sl_clock_s();
    w->bytes = 0;
    s->n_unqueued -= task->queue == SL_QUEUE_COMPUTE;
    if (task->kind == SL_TASK_RECEIVE) { /* expected before */
        *ticket_out = UNDER_WAY;
        return SL_OK;
    }
    if (task->kind == SL_TASK_SEND) {
        sl_pulse_count(s->opt.pulse);
        return sl_stage_depart(s, task->micro_batch);
    }
    if (s->failed != SL_OK) return SL_OK; /* nothing worth computing any more */
    sl_pulse_begin(s->opt.pulse, name_of(task->kind), task->layer);
    if (w->is_queued) {
        *ticket_out = UNDER_WAY;
        return SL_OK;
    }
    sl_status st;
    const int stream = stream_of(s, task->queue);
    if (is_polled(task)) {
        st = start_polled(s, task, ticket_out);
        /* One that found nothing to do ends before others that are still under way: counted, it
         * would hide what they have done so far. */
        if (st == SL_OK && *ticket_out == 0 && w->bytes > 0)
            account(s, task, w->begin_s, sl_clock_s());
    } else if (stream >= 0) {
        st = start_on_stream(s, task, stream);
        if (st == SL_OK) *ticket_out = UNDER_WAY;
    } else {
        st = perform(s, task);
        if (st == SL_OK) st = s->opt.backend->ops->sync(s->opt.backend);
        if (st == SL_OK) account(s, task, w->begin_s, sl_clock_s());
    }
    /* A failed start leaves nothing that could be asked for. */
    if (st != SL_OK) *ticket_out = 0;
    if (*ticket_out == 0) sl_pulse_end(s->opt.pulse);
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}

/* Work on the device's streams waits for each other there. */
static sl_status chain_task(void *context, const sl_task *task, const sl_task *dep,
                            sl_ticket ticket, int *chained_out) {
    sl_stage *s = context;
    (void)ticket;
    const int stream = stream_of(s, task->queue);
    int before = stream_of(s, dep->queue);
    sl_event *end = work_of(s, dep)->end;
    if (dep->kind == SL_TASK_RECEIVE) {
        const sl_stage_arrival *a = &s->arrival[s->set][dep->micro_batch];
        before = a->state == SL_WIRE_RAISED ? SL_STREAM_WIRE_IN : -1;
        end = a->end;
    }
    /* Choosing tokens in one call waits for what is queued before it; other ranks wait for this one
     * meanwhile. */
    const int blocks = task->kind == SL_TASK_HEAD &&
                       !sl_stage_rows_of(s, task->micro_batch)->is_begun &&
                       s->opt.transport->n_ranks > 1;
    *chained_out = stream >= 0 && before >= 0 && !blocks && s->failed == SL_OK;
    if (!*chained_out || stream == before) return SL_OK;
    const sl_status st = s->device->wait(s->opt.backend, (sl_stream)stream, end);
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}

/* Work that has been started and may fail on its own. */
static sl_status poll_work(sl_stage *s, const sl_task *task, sl_ticket ticket, int *done_out) {
    double begin_s = work_of(s, task)->begin_s, end_s = 0.0;
    if (task->kind == SL_TASK_ATTEND) {
        sl_host_attention *ha = s->opt.host_attention;
        SL_TRY(ha->ops->is_done(ha, ticket - 1, done_out, &begin_s, &end_s));
    } else if (task->kind == SL_TASK_FETCH) {
        SL_TRY(sl_weights_is_fetched(s->weights, task->layer, done_out));
        end_s = sl_clock_s();
    } else if (is_polled(task)) {
        SL_TRY(visit_is_done(s, task, done_out));
        end_s = sl_clock_s();
    } else {
        sl_stage_turn *t = &s->turn[s->set];
        SL_TRY(s->device->is_done(s->opt.backend, work_of(s, task)->end, done_out));
        /* Where ranks share a device, a copy may be over before computation's stream has its turn.
         */
        if (*done_out && !t->epoch_is_done)
            SL_TRY(s->device->is_done(s->opt.backend, t->epoch, &t->epoch_is_done));
        *done_out = *done_out && t->epoch_is_done;
        if (!*done_out) return SL_OK;
        SL_TRY(account_device(s, task));
        return fetch_choices(s, task);
    }
    if (*done_out) account(s, task, begin_s, end_s);
    return SL_OK;
}

static sl_status poll_task(void *context, const sl_task *task, sl_ticket ticket, int *done_out) {
    sl_stage *s = context;
    if (task->kind == SL_TASK_RECEIVE) {
        *done_out = s->arrival[s->set][task->micro_batch].state == SL_WIRE_HERE;
        if (*done_out) sl_pulse_count(s->opt.pulse);
        return SL_OK;
    }
    const sl_status st = poll_work(s, task, ticket, done_out);
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    if (st != SL_OK) *done_out = 1;
    if (*done_out) sl_pulse_end(s->opt.pulse);
    return SL_OK;
}

static sl_status progress(void *context) {
    sl_stage *s = context;
    if (s->opt.transport->n_ranks == 1) return SL_OK;
    if (s->opt.on_turn) SL_TRY(s->opt.on_turn(s->opt.turn_user));
    return sl_stage_progress(s);
}

sl_task_runner sl_stage_runner(sl_stage *s) {
    return (sl_task_runner){.context = s,
                            .start = start_task,
                            .poll = poll_task,
                            .chain = s->device && !s->opt.no_overlap ? chain_task : NULL,
                            .progress = progress};
}

sl_status sl_stage_queue_ahead(sl_stage *s, const sl_task *task) {
    SL_TRY(start_on_stream(s, task, SL_STREAM_COMPUTE));
    work_of(s, task)->is_queued = 1;
    return SL_OK;
}
