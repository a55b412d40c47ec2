#include "engine/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/stage_impl.h"

/* Remembers the first failure; those that follow are its echo. */
static void note_failure(sl_stage *s, sl_status status, const char *message, int add_rank) {
    if (s->failed != SL_OK || status == SL_OK) return;
    s->failed = status;
    if (add_rank && s->opt.transport->n_ranks > 1)
        snprintf(s->message, sizeof s->message, "rank %d: %.230s", s->opt.transport->rank, message);
    else
        snprintf(s->message, sizeof s->message, "%.250s", message);
}

sl_block_limits sl_stage_limits(const sl_stage *s) {
    return (sl_block_limits){.n_slots = s->opt.n_slots,
                             .max_micro_batches = s->opt.num_micro_batches,
                             .max_rows = s->opt.max_rows,
                             .vocab = s->config.vocab,
                             .max_context = s->opt.max_context};
}

/* The forked sequence's own copy of a partly filled page, in every layer. */
static sl_status copy_page(sl_stage *s, int32_t from, int32_t to) {
    for (int l = 0; from >= 0 && l < sl_stage_n_layers(s); l++) {
        const sl_kv_view view = sl_kv_layer(s->kv, l);
        SL_TRY(s->opt.backend->ops->page_copy(s->opt.backend, &view, from, to));
    }
    return SL_OK;
}

static sl_status apply_op(sl_stage *s, const sl_block_op *op) {
    SL_TRY(sl_slots_apply(&s->slots, op));
    if (op->kind == SL_OP_RELEASE) sl_kv_release(s->kv, op->slot);
    if (op->kind != SL_OP_FORK) return SL_OK;
    int32_t from, to;
    SL_TRY(sl_kv_fork(s->kv, op->from, op->slot, op->n_tokens, &from, &to));
    return copy_page(s, from, to);
}

/* Lays out the rows of one micro-batch from its header. */
static sl_status lay_out(sl_stage *s, const sl_block *b, const sl_block_micro_batch *header,
                         sl_stage_rows *m) {
    int row = 0, n_wanted = 0;
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &b->segment[header->segment0 + i];
        const int32_t *token = b->token + seg->token0;
        SL_TRY(sl_slots_note(&s->slots, seg, token));
        SL_TRY(sl_kv_extend(s->kv, seg->slot, seg->position0 + seg->n_rows));
        sl_segment *out = &m->segment[i];
        *out = (sl_segment){.row0 = row, .n_rows = seg->n_rows, .position0 = seg->position0};
        out->pages = sl_kv_pages(s->kv, seg->slot, &out->n_pages);
        for (int r = 0; r < seg->n_rows; r++, row++) {
            m->token[row] = token[r];
            m->position[row] = seg->position0 + r;
            const int is_last = r == seg->n_rows - 1;
            if (is_last ? seg->want_last : seg->score) m->wanted[n_wanted++] = row;
        }
    }
    m->rows = (sl_rows){.n_rows = row,
                        .token = m->token,
                        .position = m->position,
                        .n_segments = header->n_segments,
                        .segment = m->segment,
                        .n_wanted = n_wanted,
                        .wanted = m->wanted};
    return SL_OK;
}

/* Applies the header to this rank's state. */
static sl_status take_in(sl_stage *s, const sl_block *b) {
    for (int i = 0; i < b->n_ops; i++) SL_TRY(apply_op(s, &b->op[i]));
    int choice0 = 0;
    for (int m = 0; m < b->n_micro_batches; m++) {
        if (b->micro_batch[m].n_segments > s->opt.micro_batch)
            return SL_FAIL(SL_ERR_COMM, "a micro-batch of %d sequences, at most %d",
                           b->micro_batch[m].n_segments, s->opt.micro_batch);
        SL_TRY(lay_out(s, b, &b->micro_batch[m], &s->mb[m]));
        if (s->opt.backend->ops->bind_rows)
            SL_TRY(s->opt.backend->ops->bind_rows(
                s->opt.backend, s->set * s->opt.num_micro_batches + m, &s->mb[m].rows));
        s->mb[m].choice0 = choice0;
        choice0 += s->mb[m].rows.n_wanted;
    }
    return SL_OK;
}

static sl_status choose(sl_stage *s, int mb) {
    sl_stage_rows *m = &s->mb[mb];
    const sl_block_micro_batch *header = &s->block->micro_batch[mb];
    int n = 0;
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &s->block->segment[header->segment0 + i];
        for (int r = 0; r < seg->n_rows; r++)
            if (r == seg->n_rows - 1 ? seg->want_last : seg->score)
                s->ask[n++] = sl_slots_ask(&s->slots, seg, r, s->block->token + seg->token0);
    }
    return sl_program_head(s->program, sl_weights_layer(s->weights, s->config.n_layers), &m->rows,
                           s->hidden[s->set][mb], s->ask, s->result->choice + m->choice0);
}

static size_t hidden_bytes(const sl_stage *s, int mb) {
    return (size_t)s->block->micro_batch[mb].n_rows * sl_stage_row_bytes(s);
}

static sl_status compute_layer(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch;
    void *hidden = s->hidden[s->set][mb];
    /* What came over the wire goes to the device here, on the stream that uses it. */
    if (s->device && !s->is_first && task->layer == s->opt.first_layer)
        SL_TRY(s->device->copy(s->opt.backend, SL_STREAM_COMPUTE, hidden, s->wire[s->set][mb],
                               hidden_bytes(s, mb)));
    const sl_kv_view cache = sl_kv_layer(s->kv, task->layer - s->opt.first_layer);
    return sl_program_layer(s->program, sl_weights_layer(s->weights, task->layer), &cache,
                            &s->mb[mb].rows, hidden);
}

/* Work of the backend: done on return, or queued on one of the device's streams. */
static sl_status compute(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch;
    int started;
    switch (task->kind) {
    case SL_TASK_EMBED:
        return sl_program_embed(s->program, sl_weights_layer(s->weights, SL_LAYER_EMBED),
                                &s->mb[mb].rows, s->hidden[s->set][mb]);
    case SL_TASK_LAYER:
        return compute_layer(s, task);
    case SL_TASK_HEAD:
        return choose(s, mb);
    case SL_TASK_LOWER:
        return s->device->copy(s->opt.backend, SL_STREAM_D2H, s->wire[s->set][mb],
                               s->hidden[s->set][mb], hidden_bytes(s, mb));
    case SL_TASK_UPLOAD:
        return sl_weights_upload(s->weights, task->layer, &started);
    case SL_TASK_RECEIVE:
    case SL_TASK_SEND:
    case SL_TASK_FETCH:
        break;
    }
    return SL_FAIL(SL_ERR_ARG, "task %d is no work of the backend", (int)task->kind);
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
    default:
        return -1;
    }
}

static int number_of(const sl_stage *s, const sl_task *task) {
    return (int)(task - s->sweep.task);
}

/* Tickets of tasks that are no transfers on the wire mean nothing but "under way": the task itself
 * tells what to ask. */
static const sl_ticket UNDER_WAY = 1;

/* Starts a fetch; a failure is noted like one of computation, and the fetch counts as done. */
static void start_fetch(sl_stage *s, const sl_task *task, sl_ticket *ticket_out) {
    int done = 1;
    sl_status st = sl_weights_fetch(s->weights, task->layer);
    if (st == SL_OK) st = sl_weights_is_fetched(s->weights, task->layer, &done);
    note_failure(s, st, sl_error_message(), 1);
    *ticket_out = st == SL_OK && !done ? UNDER_WAY : 0;
}

static sl_status start_receive(sl_stage *s, int mb, sl_ticket *ticket_out) {
    sl_transport *t = s->opt.transport;
    const size_t bytes = hidden_bytes(s, mb) + sizeof(sl_stage_trailer);
    s->received_bytes += bytes;
    return t->ops->recv(t, t->rank - 1, SL_CHANNEL_HIDDEN, s->wire[s->set][mb], bytes, ticket_out);
}

static sl_status start_send(sl_stage *s, int mb) {
    sl_transport *t = s->opt.transport;
    unsigned char *wire = s->wire[s->set][mb];
    const size_t bytes = hidden_bytes(s, mb);
    sl_stage_trailer end = {.status = (int32_t)s->failed};
    memcpy(end.message, s->message, sizeof end.message);
    memcpy(wire + bytes, &end, sizeof end);
    s->sent_bytes += bytes + sizeof end;
    return t->ops->send(t, t->rank + 1, SL_CHANNEL_HIDDEN, wire, bytes + sizeof end,
                        &s->sending[s->set][mb]);
}

static sl_status start_task(void *context, const sl_task *task, sl_ticket *ticket_out) {
    sl_stage *s = context;
    if (task->kind == SL_TASK_RECEIVE) return start_receive(s, task->micro_batch, ticket_out);
    if (task->kind == SL_TASK_SEND) return start_send(s, task->micro_batch);
    if (s->failed != SL_OK) return SL_OK; /* nothing worth computing any more */
    if (task->kind == SL_TASK_FETCH) {
        start_fetch(s, task, ticket_out);
        return SL_OK;
    }
    const double t0 = sl_clock_s();
    const int stream = stream_of(s, task->queue);
    sl_status st = compute(s, task);
    if (st == SL_OK && stream >= 0)
        st = s->device->record(s->opt.backend, (sl_stream)stream, s->event[number_of(s, task)]);
    else if (st == SL_OK)
        st = s->opt.backend->ops->sync(s->opt.backend);
    if (st == SL_OK && stream >= 0) *ticket_out = UNDER_WAY;
    s->compute_s += sl_clock_s() - t0;
    note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}

/* Work on the device's streams waits for each other there. */
static sl_status chain_task(void *context, const sl_task *task, const sl_task *dep,
                            sl_ticket ticket, int *chained_out) {
    sl_stage *s = context;
    (void)ticket;
    const int stream = stream_of(s, task->queue), before = stream_of(s, dep->queue);
    *chained_out = stream >= 0 && before >= 0 && s->failed == SL_OK;
    if (!*chained_out || stream == before) return SL_OK;
    const sl_status st =
        s->device->wait(s->opt.backend, (sl_stream)stream, s->event[number_of(s, dep)]);
    note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}

static sl_status poll_task(void *context, const sl_task *task, sl_ticket ticket, int *done_out) {
    sl_stage *s = context;
    sl_status st = SL_OK;
    if (task->kind == SL_TASK_RECEIVE) {
        SL_TRY(s->opt.transport->ops->test(s->opt.transport, ticket, done_out));
        if (!*done_out) return SL_OK;
        sl_stage_trailer end;
        memcpy(&end, s->wire[s->set][task->micro_batch] + hidden_bytes(s, task->micro_batch),
               sizeof end);
        end.message[sizeof end.message - 1] = '\0';
        note_failure(s, (sl_status)end.status, end.message, 0);
        return SL_OK;
    }
    if (task->kind == SL_TASK_FETCH)
        st = sl_weights_is_fetched(s->weights, task->layer, done_out);
    else
        st = s->device->is_done(s->opt.backend, s->event[number_of(s, task)], done_out);
    note_failure(s, st, sl_error_message(), 1);
    if (st != SL_OK) *done_out = 1;
    return SL_OK;
}

/* Moves sends along and notes which are done. */
static sl_status progress(void *context) {
    sl_stage *s = context;
    sl_transport *t = s->opt.transport;
    for (int set = 0; set < SL_STAGE_SETS; set++) {
        for (int i = 0; i < s->opt.num_micro_batches; i++) {
            int done = 0;
            if (s->sending[set][i] == 0) continue;
            SL_TRY(t->ops->test(t, s->sending[set][i], &done));
            if (done) s->sending[set][i] = 0;
        }
    }
    return SL_OK;
}

static sl_status wait_sent(sl_stage *s, int set) {
    sl_transport *t = s->opt.transport;
    for (int i = 0; i < s->opt.num_micro_batches; i++) {
        if (s->sending[set][i] == 0) continue;
        SL_TRY(t->ops->wait(t, s->sending[set][i]));
        s->sending[set][i] = 0;
    }
    return SL_OK;
}

sl_status sl_stage_finish(sl_stage *s) {
    for (int set = 0; set < SL_STAGE_SETS; set++) SL_TRY(wait_sent(s, set));
    for (int slot = 0; slot < s->opt.n_slots; slot++) sl_kv_release(s->kv, slot);
    return SL_OK;
}

/* One event for each task; their number settles with the largest block. */
static sl_status reserve_events(sl_stage *s) {
    if (!s->device || s->sweep.n_tasks <= s->n_events) return SL_OK;
    sl_event **event = realloc(s->event, (size_t)s->sweep.n_tasks * sizeof *event);
    if (!event) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d events", s->sweep.n_tasks);
    s->event = event;
    for (; s->n_events < s->sweep.n_tasks; s->n_events++)
        SL_TRY(s->device->event_open(s->opt.backend, &s->event[s->n_events]));
    return SL_OK;
}

sl_status sl_stage_run(sl_stage *s, const sl_block *block, sl_block_result *result) {
    s->block = block;
    s->result = result;
    s->set = (s->set + 1) % SL_STAGE_SETS;
    const double t0 = sl_clock_s();
    SL_TRY(wait_sent(s, s->set));
    s->wait_s += sl_clock_s() - t0;

    sl_status st = s->failed == SL_OK ? take_in(s, block) : s->failed;
    if (st == SL_OK && s->is_last) st = sl_block_result_reserve(result, sl_block_n_wanted(block));
    note_failure(s, st, sl_error_message(), 1);

    const sl_sweep_shape shape = {.first_layer = s->opt.first_layer,
                                  .last_layer = s->opt.last_layer,
                                  .is_first_rank = s->is_first,
                                  .is_last_rank = s->is_last,
                                  .n_micro_batches = block->n_micro_batches,
                                  .is_fetched = s->is_fetched,
                                  .is_uploaded = s->is_uploaded,
                                  .has_device = s->device != NULL};
    SL_TRY(sl_sweep_make(&shape, &s->sweep));
    SL_TRY(reserve_events(s));
    const sl_task_runner runner = {s, start_task, poll_task, s->device ? chain_task : NULL,
                                   progress};
    double wait_s = 0.0;
    SL_TRY(sl_executor_run(s->executor, &s->sweep, &runner, &wait_s));
    s->wait_s += wait_s;
    /* After a failure work may still be queued on buffers that are about to be used again. */
    if (s->failed != SL_OK && s->device) (void)s->device->drain(s->opt.backend);

    if (s->is_last) {
        result->number = block->number;
        result->status = s->failed;
        result->n_choices = s->failed == SL_OK ? sl_block_n_wanted(block) : 0;
        snprintf(result->message, sizeof result->message, "%s", s->message);
    }
    return SL_OK;
}
