/* Blocks through the pipeline: the first rank forms them and takes results in, the others follow.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine_impl.h"
#include "engine/executor.h"

/* Sends the block's header to the next rank, if there is one.  `out` is reused, so the message
 * before has to be gone. */
static sl_status send_out(sl_engine *e, int to, sl_channel channel) {
    e->sent_bytes += e->out.n;
    return e->transport->ops->send(e->transport, to, channel, e->out.data, e->out.n, &e->sending);
}

static sl_status wait_sent(sl_engine *e) {
    if (e->sending == 0) return SL_OK;
    const sl_ticket ticket = e->sending;
    e->sending = 0;
    return e->transport->ops->wait(e->transport, ticket);
}

static sl_status send_header(sl_engine *e, const sl_block *block) {
    if (sl_transport_is_last(e->transport)) return SL_OK;
    SL_TRY(wait_sent(e));
    SL_TRY(sl_block_write(block, &e->out));
    return send_out(e, e->transport->rank + 1, SL_CHANNEL_HEADER);
}

/* Waits for a message, while hidden states go on to the next rank. */
static sl_status wait_message(sl_engine *e, int from, sl_channel channel, void **data_out,
                              size_t *bytes_out) {
    sl_transport *t = e->transport;
    double pause_s = 0.0;
    while (sl_stage_is_handing_on(e->stage)) {
        SL_TRY(t->ops->recv_message(t, from, channel, 0, data_out, bytes_out));
        if (*data_out) return SL_OK;
        SL_TRY(sl_stage_progress(e->stage));
        sl_executor_pause(&pause_s);
    }
    return t->ops->recv_message(t, from, channel, 1, data_out, bytes_out);
}

/* Waits for (or looks for) the oldest block's result and takes it in. */
static sl_status take_result(sl_engine *e, int wait, int *taken_out) {
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    const double t0 = sl_clock_s();
    if (wait)
        SL_TRY(wait_message(e, t->n_ranks - 1, SL_CHANNEL_RESULT, &data, &bytes));
    else
        SL_TRY(t->ops->recv_message(t, t->n_ranks - 1, SL_CHANNEL_RESULT, 0, &data, &bytes));
    e->wait_s += sl_clock_s() - t0;
    if (wait) sl_stage_waited(e->stage);
    *taken_out = data != NULL;
    if (!data) return SL_OK;
    sl_pulse_count(e->policy.pulse);
    e->received_bytes += bytes;
    const sl_status st = sl_block_result_read(data, bytes, &e->result);
    free(data);
    if (st != SL_OK) return st;
    e->waits_for_prefill -= e->is_prefill[e->result.number % (uint64_t)e->policy.blocks_in_flight];
    return sl_scheduler_absorb(e->sched, &e->result);
}

/* Ends the pipeline: blocks in flight come back, then STOP travels to the last rank. */
static sl_status stop_pipeline(sl_engine *e, sl_status why) {
    char message[SL_BLOCK_MESSAGE_BYTES];
    snprintf(message, sizeof message, "%s", why == SL_OK ? "" : sl_error_message());
    sl_transport *t = e->transport;
    e->stopped = 1;
    while (t->n_ranks > 1 && sl_scheduler_n_in_flight(e->sched) > 0) {
        void *data = NULL;
        size_t bytes = 0;
        SL_TRY(wait_message(e, t->n_ranks - 1, SL_CHANNEL_RESULT, &data, &bytes));
        sl_pulse_count(e->policy.pulse);
        const sl_status read = sl_block_result_read(data, bytes, &e->result);
        free(data);
        if (read != SL_OK) return read;
        sl_scheduler_skip(e->sched);
    }
    sl_block_reset(&e->block, SL_BLOCK_STOP, e->n_blocks);
    e->block.status = why;
    memcpy(e->block.message, message, sizeof message);
    SL_TRY(send_header(e, &e->block));
    SL_TRY(wait_sent(e));
    SL_TRY(sl_stage_finish(e->stage));
    return why == SL_OK ? SL_OK : sl_fail_text(why, message);
}

/* Forms the next block, if there is one, and tells the next rank. */
static sl_status form_next(sl_engine *e) {
    int formed, has_prefill;
    SL_TRY(sl_scheduler_form(e->sched, &e->next, &formed, &has_prefill));
    e->tried = !formed;
    if (!formed) return SL_OK;
    e->has_next = 1;
    e->is_prefill[e->next.number % (uint64_t)e->policy.blocks_in_flight] = (uint8_t)has_prefill;
    e->waits_for_prefill += has_prefill;
    e->n_blocks++;
    sl_pulse_count(e->policy.pulse);
    return send_header(e, &e->next);
}

static void take_next(sl_engine *e) {
    const sl_block block = e->block;
    e->block = e->next;
    e->next = block; /* its arrays are used again */
    e->has_next = 0;
}

/* Computes this rank's part of the block that has been formed. */
static sl_status run_next(sl_engine *e) {
    take_next(e);
    SL_TRY(sl_stage_run(e->stage, &e->block, &e->result));
    if (e->transport->n_ranks > 1)
        return e->ahead == SL_OK ? SL_OK : sl_fail_text(e->ahead, e->ahead_message);
    e->waits_for_prefill -= e->is_prefill[e->block.number % (uint64_t)e->policy.blocks_in_flight];
    return sl_scheduler_absorb(e->sched, &e->result);
}

static sl_status take_results(sl_engine *e) {
    int taken = 1;
    while (taken && e->transport->n_ranks > 1 && sl_scheduler_n_in_flight(e->sched) > 0)
        SL_TRY(take_result(e, 0, &taken));
    return SL_OK;
}

/* A block that has been formed is run before anything else: others wait for it. */
static sl_status step_first(sl_engine *e, int *done_out) {
    if (e->stopped) {
        *done_out = 1;
        return SL_OK;
    }
    const double t0 = sl_clock_s();
    const int had_prefill = e->waits_for_prefill;
    const uint64_t blocks_before = e->n_blocks;
    int taken;
    sl_status st = SL_OK;
    if (!e->has_next) st = take_results(e);
    if (st == SL_OK && !e->has_next) st = form_next(e);
    if (st == SL_OK && e->has_next)
        st = run_next(e);
    else if (st == SL_OK && sl_scheduler_n_in_flight(e->sched) > 0)
        st = take_result(e, 1, &taken);
    const int has_prefill = e->n_blocks > blocks_before &&
                            e->is_prefill[(e->n_blocks - 1) % (uint64_t)e->policy.blocks_in_flight];
    const double elapsed = sl_clock_s() - t0;
    *(had_prefill || has_prefill ? &e->prefill_s : &e->decode_s) += elapsed;
    if (st != SL_OK) return stop_pipeline(e, st);

    if (e->finishing && sl_scheduler_n_queued(e->sched) == 0 &&
        sl_scheduler_n_running(e->sched) == 0 && sl_scheduler_n_in_flight(e->sched) == 0) {
        SL_TRY(stop_pipeline(e, SL_OK));
        *done_out = 1;
    }
    return SL_OK;
}

/* Reads the next block's header and passes it on.  *data is freed. */
static sl_status take_header(sl_engine *e, void *data, size_t bytes) {
    const sl_block_limits limits = sl_stage_limits(e->stage);
    sl_pulse_count(e->policy.pulse);
    e->received_bytes += bytes;
    const sl_status st = sl_block_read(data, bytes, &limits, &e->next);
    free(data);
    if (st != SL_OK) return st;
    e->has_next = 1;
    return send_header(e, &e->next);
}

/* First rank: takes results in and forms the next block once the one under way is queued, so that
 * the device need not wait for that.  A failure must not break the block under way off. */
static sl_status form_ahead(sl_engine *e) {
    if (e->ahead != SL_OK || !sl_stage_is_queued(e->stage)) return SL_OK;
    int taken = 1;
    sl_status st = SL_OK;
    while (st == SL_OK && taken && sl_scheduler_n_in_flight(e->sched) > 1) {
        st = take_result(e, 0, &taken);
        if (taken) e->tried = 0;
    }
    if (st == SL_OK && !e->tried) st = form_next(e);
    if (st == SL_OK) return SL_OK;
    e->ahead = st;
    snprintf(e->ahead_message, sizeof e->ahead_message, "%s", sl_error_message());
    return SL_OK;
}

/* While a block is computed.  What this rank has sent is looked after: large messages need both
 * sides, and the receiver may be waiting for this one.  Has the next header come, so may its hidden
 * states. */
sl_status sl_engine_look_ahead(void *user) {
    sl_engine *e = user;
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    int has_sent = 1;
    if (e->sending != 0) SL_TRY(t->ops->test(t, e->sending, &has_sent));
    if (has_sent) e->sending = 0;
    if (e->has_next && e->next.kind == SL_BLOCK_WORK) return sl_stage_prepare(e->stage, &e->next);
    if (e->has_next || !has_sent) return SL_OK; /* `out` is in use */
    if (e->sched) return form_ahead(e);
    SL_TRY(t->ops->recv_message(t, t->rank - 1, SL_CHANNEL_HEADER, 0, &data, &bytes));
    if (!data) return SL_OK;
    SL_TRY(take_header(e, data, bytes));
    if (e->next.kind == SL_BLOCK_WORK) sl_stage_expect(e->stage, &e->next);
    return SL_OK;
}

static sl_status next_header(sl_engine *e) {
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    const double t0 = sl_clock_s();
    SL_TRY(wait_message(e, t->rank - 1, SL_CHANNEL_HEADER, &data, &bytes));
    e->wait_s += sl_clock_s() - t0;
    sl_stage_waited(e->stage);
    return take_header(e, data, bytes);
}

static sl_status step_other(sl_engine *e, int *done_out) {
    sl_transport *t = e->transport;
    if (!e->has_next) SL_TRY(next_header(e));
    take_next(e);
    if (e->block.kind == SL_BLOCK_STOP) {
        e->stopped = 1;
        SL_TRY(wait_sent(e));
        SL_TRY(sl_stage_finish(e->stage));
        *done_out = 1;
        return e->block.status == SL_OK ? SL_OK : sl_fail_text(e->block.status, e->block.message);
    }
    e->n_blocks++;
    SL_TRY(sl_stage_run(e->stage, &e->block, &e->result));
    if (!sl_transport_is_last(t)) return SL_OK;
    SL_TRY(wait_sent(e));
    SL_TRY(sl_block_result_write(&e->result, &e->out));
    return send_out(e, 0, SL_CHANNEL_RESULT);
}

sl_status sl_engine_step(sl_engine *e, int *done_out) {
    *done_out = 0;
    if (!e->started) sl_stage_start(e->stage);
    e->started = 1;
    if (e->sched) {
        sl_pulse_set_busy(e->policy.pulse, 1);
        const sl_status st = step_first(e, done_out);
        sl_pulse_set_busy(e->policy.pulse, 0);
        return st;
    }
    if (e->stopped) {
        *done_out = 1;
        return SL_OK;
    }
    return step_other(e, done_out);
}
