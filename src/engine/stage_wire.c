/* How a stage hands on hidden states: per micro-batch, ahead of use, and so that computation waits
 * for nothing but what it needs.
 *
 *   receiver                                    sender
 *   expects a block: its header is known
 *   posts notice and data; on the device's      a micro-batch has left the slice: sends notice and
 *   own wire gives a credit instead of data     data; on the device's own wire waits for the credit
 *   has the notice: on the wire                 first, so that no transfer sits on a device idly
 *   has the data: raises them to the device
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/stage_impl.h"

/* Transfers of a device take milliseconds: one that is under way for longer is looked at. */
static const double LOOK_AFTER_S = 0.05;

/* ---- beginning and end ---- */

static sl_status open_events(sl_stage *s, sl_event **begin, sl_event **end) {
    SL_TRY(s->device->event_open(s->opt.backend, begin));
    return s->device->event_open(s->opt.backend, end);
}

sl_status sl_stage_wire_open(sl_stage *s) {
    const size_t k = (size_t)s->opt.num_micro_batches;
    for (int set = 0; set < s->n_sets; set++) {
        s->arrival[set] = calloc(k, sizeof *s->arrival[set]);
        s->departure[set] = calloc(k, sizeof *s->departure[set]);
        if (!s->arrival[set] || !s->departure[set])
            return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu micro-batches", k);
        for (size_t i = 0; s->device && s->n_sets > 1 && i < k; i++) {
            sl_stage_arrival *in = &s->arrival[set][i];
            sl_stage_departure *out = &s->departure[set][i];
            if (!s->is_first) SL_TRY(open_events(s, &in->begin, &in->end));
            if (!s->is_last && s->direct) SL_TRY(open_events(s, &out->begin, &out->end));
        }
    }
    return SL_OK;
}

void sl_stage_wire_close(sl_stage *s) {
    for (int set = 0; set < SL_STAGE_SETS; set++) {
        for (int i = 0; s->device && i < s->opt.num_micro_batches; i++) {
            if (s->arrival[set]) {
                s->device->event_close(s->opt.backend, s->arrival[set][i].begin);
                s->device->event_close(s->opt.backend, s->arrival[set][i].end);
            }
            if (s->departure[set]) {
                s->device->event_close(s->opt.backend, s->departure[set][i].begin);
                s->device->event_close(s->opt.backend, s->departure[set][i].end);
            }
        }
        free(s->arrival[set]);
        free(s->departure[set]);
    }
}

/* Nobody can go on after these. */
static sl_status broken(sl_stage *s, sl_status st) {
    if (st == SL_OK) return SL_OK;
    char text[sizeof s->message + 512];
    snprintf(text, sizeof text, "%s", s->failed != SL_OK ? s->message : sl_error_message());
    return sl_fail_text(SL_ERR_COMM, text);
}

static sl_status start_stream(sl_stage *s, sl_stream stream, sl_event *event) {
    return broken(s, s->device->record(s->opt.backend, stream, event));
}

/* ---- arrivals ---- */

void sl_stage_expect(sl_stage *s, const sl_block *block) {
    if (s->is_first) return;
    const int set = (s->set + 1) % s->n_sets;
    for (int m = 0; m < block->n_micro_batches; m++) {
        sl_stage_arrival *a = &s->arrival[set][m];
        a->state = SL_WIRE_WANTED;
        a->bytes = (size_t)block->micro_batch[m].n_rows * sl_stage_row_bytes(s);
    }
    s->expects = 1;
}

/* Its buffer is free: lets the data come. */
static sl_status post(sl_stage *s, int set, int mb) {
    sl_transport *t = s->opt.transport;
    sl_stage_arrival *a = &s->arrival[set][mb];
    SL_TRY(t->ops->recv(t, t->rank - 1, SL_CHANNEL_NOTICE, &a->notice, sizeof a->notice,
                        &a->notice_ticket));
    if (s->direct) {
        a->credit = s->failed == SL_ERR_DEVICE ? SL_CREDIT_NONE : SL_CREDIT_ROOM;
        SL_TRY(t->ops->send(t, t->rank - 1, SL_CHANNEL_CREDIT, &a->credit, sizeof a->credit,
                            &a->data_ticket));
    } else {
        SL_TRY(t->ops->recv(t, t->rank - 1, SL_CHANNEL_HIDDEN, s->wire[set][mb], a->bytes,
                            &a->data_ticket));
    }
    s->received_bytes += a->bytes + sizeof a->notice;
    a->state = SL_WIRE_POSTED;
    return SL_OK;
}

static void arrive(sl_stage *s, int mb, sl_stage_arrival *a, double end_s) {
    a->state = SL_WIRE_HERE;
    a->here_s = end_s;
    const sl_span span = {.name = "receive",
                          .queue = SL_QUEUE_WIRE_IN,
                          .layer = -1,
                          .micro_batch = mb,
                          .start_s = a->notice_s,
                          .end_s = end_s,
                          .bytes = a->bytes};
    sl_stage_account(s, &span);
}

/* The rank before has sent it. */
static sl_status take_notice(sl_stage *s, int set, int mb) {
    sl_stage_arrival *a = &s->arrival[set][mb];
    a->notice_s = sl_clock_s();
    a->notice.message[sizeof a->notice.message - 1] = '\0';
    sl_stage_note_failure(s, (sl_status)a->notice.status, a->notice.message, 0);
    a->state = SL_WIRE_FLOWING;
    if (!s->direct) return SL_OK;
    if (a->credit == SL_CREDIT_NONE || a->notice.status == SL_ERR_DEVICE) { /* nothing follows */
        arrive(s, mb, a, a->notice_s);
        return SL_OK;
    }
    void *stream = s->device->native_stream(s->opt.backend, SL_STREAM_WIRE_IN);
    SL_TRY(start_stream(s, SL_STREAM_WIRE_IN, a->begin));
    SL_TRY(
        s->opt.transport->ops->recv_device(s->opt.transport, s->hidden[set][mb], a->bytes, stream));
    a->state = SL_WIRE_RAISED;
    return start_stream(s, SL_STREAM_WIRE_IN, a->end);
}

/* They are in host memory. */
static sl_status raise(sl_stage *s, int set, int mb) {
    sl_stage_arrival *a = &s->arrival[set][mb];
    if (!s->device || s->travels || s->failed != SL_OK) {
        arrive(s, mb, a, sl_clock_s());
        return SL_OK;
    }
    sl_status st = s->device->record(s->opt.backend, SL_STREAM_WIRE_IN, a->begin);
    if (st == SL_OK)
        st = s->device->copy(s->opt.backend, SL_STREAM_WIRE_IN, s->hidden[set][mb],
                             s->wire[set][mb], a->bytes);
    if (st == SL_OK) st = s->device->record(s->opt.backend, SL_STREAM_WIRE_IN, a->end);
    a->state = SL_WIRE_RAISED;
    a->raised_s = sl_clock_s();
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    if (st != SL_OK) arrive(s, mb, a, a->raised_s);
    return SL_OK;
}

/* When the device was done, by this rank's clock: it may have been looked at long after. */
static sl_status end_of(sl_stage *s, sl_event *begin, sl_event *end, double start_s,
                        double *end_out) {
    double took_s = 0.0;
    const double now_s = sl_clock_s();
    SL_TRY(s->device->elapsed(s->opt.backend, begin, end, &took_s));
    *end_out = start_s + took_s < now_s ? start_s + took_s : now_s;
    return SL_OK;
}

static sl_status look_at_raised(sl_stage *s, int mb, sl_stage_arrival *a) {
    int done = 0;
    const double start_s = s->direct ? a->notice_s : a->raised_s;
    sl_status st = s->device->is_done(s->opt.backend, a->end, &done);
    if (st == SL_OK && !done) {
        const double waited_s = sl_clock_s() - start_s;
        return s->direct && waited_s > LOOK_AFTER_S
                   ? broken(s, s->opt.transport->ops->check_device(s->opt.transport, waited_s))
                   : SL_OK;
    }
    double end_s = start_s;
    if (st == SL_OK) st = end_of(s, a->begin, a->end, start_s, &end_s);
    if (s->direct) SL_TRY(broken(s, st));
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    arrive(s, mb, a, end_s);
    return SL_OK;
}

/* may_begin: those that are sent before it have begun.  A notice that has come since they were
 * looked at must not overtake theirs. */
static sl_status advance_arrival(sl_stage *s, int set, int mb, int may_begin) {
    sl_transport *t = s->opt.transport;
    sl_stage_arrival *a = &s->arrival[set][mb];
    int done = 0;
    if (a->state == SL_WIRE_POSTED && may_begin) {
        SL_TRY(t->ops->test(t, a->notice_ticket, &done));
        if (done) SL_TRY(take_notice(s, set, mb));
    }
    if (a->data_ticket != 0 && (s->direct || a->state == SL_WIRE_FLOWING)) {
        SL_TRY(t->ops->test(t, a->data_ticket, &done));
        if (done) a->data_ticket = 0;
        if (done && !s->direct) SL_TRY(raise(s, set, mb));
    }
    return a->state == SL_WIRE_RAISED ? look_at_raised(s, mb, a) : SL_OK;
}

/* Nothing leaves from its place any more, and the credit given for it before has gone. */
static int is_free(const sl_stage *s, int set, int mb) {
    return s->departure[set][mb].state == SL_WIRE_IDLE && s->arrival[set][mb].data_ticket == 0;
}

/* In the order of blocks and micro-batches, as they are sent. */
static sl_status advance_arrivals(sl_stage *s) {
    int may_post = 1, may_begin = 1;
    for (int i = 0; i < s->n_sets; i++) {
        const int set = (s->set + i) % s->n_sets;
        for (int mb = 0; mb < s->opt.num_micro_batches; mb++) {
            sl_stage_arrival *a = &s->arrival[set][mb];
            SL_TRY(advance_arrival(s, set, mb, may_begin));
            may_begin = may_begin && a->state != SL_WIRE_POSTED;
            if (a->state != SL_WIRE_WANTED) continue;
            may_post = may_post && is_free(s, set, mb);
            if (may_post) SL_TRY(post(s, set, mb));
        }
    }
    return SL_OK;
}

/* ---- departures ---- */

/* Tells the next rank, and queues the data where the device sends them itself. */
static sl_status put_on_wire(sl_stage *s, int set, int mb) {
    sl_transport *t = s->opt.transport;
    sl_stage_departure *d = &s->departure[set][mb];
    d->notice.status = (int32_t)s->failed;
    memcpy(d->notice.message, s->message, sizeof d->notice.message);
    d->start_s = sl_clock_s();
    SL_TRY(t->ops->send(t, t->rank + 1, SL_CHANNEL_NOTICE, &d->notice, sizeof d->notice,
                        &d->notice_ticket));
    s->sent_bytes += d->bytes + sizeof d->notice;
    d->state = SL_WIRE_FLOWING;
    if (!s->direct)
        return t->ops->send(t, t->rank + 1, SL_CHANNEL_HIDDEN, s->wire[set][mb], d->bytes,
                            &d->data_ticket);
    if (d->credit == SL_CREDIT_NONE || d->notice.status == SL_ERR_DEVICE) return SL_OK;
    void *stream = s->device->native_stream(s->opt.backend, SL_STREAM_WIRE_OUT);
    SL_TRY(start_stream(s, SL_STREAM_WIRE_OUT, d->begin));
    SL_TRY(t->ops->send_device(t, s->hidden[set][mb], d->bytes, stream));
    d->state = SL_WIRE_RAISED;
    return start_stream(s, SL_STREAM_WIRE_OUT, d->end);
}

sl_status sl_stage_depart(sl_stage *s, int mb) {
    sl_transport *t = s->opt.transport;
    sl_stage_departure *d = &s->departure[s->set][mb];
    s->left_set = s->set;
    d->bytes = (size_t)s->turn[s->set].block->micro_batch[mb].n_rows * sl_stage_row_bytes(s);
    d->state = SL_WIRE_WANTED;
    d->credit = SL_CREDIT_ROOM;
    if (!s->direct) return put_on_wire(s, s->set, mb);
    return t->ops->recv(t, t->rank + 1, SL_CHANNEL_CREDIT, &d->credit, sizeof d->credit,
                        &d->data_ticket);
}

static void leave(sl_stage *s, int mb, sl_stage_departure *d, double end_s) {
    d->state = SL_WIRE_IDLE;
    const sl_span span = {.name = "send",
                          .queue = SL_QUEUE_WIRE_OUT,
                          .layer = -1,
                          .micro_batch = mb,
                          .start_s = d->start_s,
                          .end_s = end_s,
                          .bytes = d->bytes};
    sl_stage_account(s, &span);
}

static sl_status advance_departure(sl_stage *s, int set, int mb) {
    sl_transport *t = s->opt.transport;
    sl_stage_departure *d = &s->departure[set][mb];
    double end_s = 0.0;
    int done = 0;
    if (d->state == SL_WIRE_WANTED) {
        SL_TRY(t->ops->test(t, d->data_ticket, &done));
        if (!done) return SL_OK;
        d->data_ticket = 0;
        SL_TRY(put_on_wire(s, set, mb));
    }
    if (d->state == SL_WIRE_RAISED) {
        const double waited_s = sl_clock_s() - d->start_s;
        SL_TRY(broken(s, s->device->is_done(s->opt.backend, d->end, &done)));
        if (!done && waited_s > LOOK_AFTER_S) SL_TRY(broken(s, t->ops->check_device(t, waited_s)));
        if (!done) return SL_OK;
        SL_TRY(broken(s, end_of(s, d->begin, d->end, d->start_s, &end_s)));
        d->state = SL_WIRE_FLOWING; /* the notice may still be under way */
    }
    if (d->state != SL_WIRE_FLOWING) return SL_OK;
    if (d->data_ticket != 0) {
        SL_TRY(t->ops->test(t, d->data_ticket, &done));
        if (!done) return SL_OK;
        d->data_ticket = 0;
    }
    SL_TRY(t->ops->test(t, d->notice_ticket, &done));
    if (!done) return SL_OK;
    d->notice_ticket = 0;
    leave(s, mb, d, end_s > 0.0 ? end_s : sl_clock_s());
    return SL_OK;
}

static sl_status advance_departures(sl_stage *s) {
    for (int i = 1; i <= s->n_sets; i++) { /* the set that left last comes last */
        const int set = (s->left_set + i) % s->n_sets;
        for (int mb = 0; mb < s->opt.num_micro_batches; mb++) {
            SL_TRY(advance_departure(s, set, mb));
            /* In order: what is behind has no credit either. */
            if (s->departure[set][mb].state == SL_WIRE_WANTED) return SL_OK;
        }
    }
    return SL_OK;
}

sl_status sl_stage_progress(sl_stage *s) {
    if (!s->is_last) SL_TRY(advance_departures(s));
    return s->is_first ? SL_OK : advance_arrivals(s);
}

int sl_stage_is_sending(const sl_stage *s, int set) {
    for (int mb = 0; s->departure[set] && mb < s->opt.num_micro_batches; mb++)
        if (s->departure[set][mb].state != SL_WIRE_IDLE) return 1;
    return 0;
}

int sl_stage_is_handing_on(const sl_stage *s) {
    for (int set = 0; set < s->n_sets; set++)
        if (sl_stage_is_sending(s, set)) return 1;
    return 0;
}

int sl_stage_has_wire_work(const sl_stage *s) {
    for (int set = 0; set < s->n_sets; set++)
        for (int mb = 0; s->arrival[set] && mb < s->opt.num_micro_batches; mb++)
            if (s->arrival[set][mb].state == SL_WIRE_RAISED) return 1;
    return sl_stage_is_handing_on(s);
}

sl_status sl_stage_wait_sent(sl_stage *s, int set) {
    double pause_s = 0.0;
    while (sl_stage_is_sending(s, set)) {
        SL_TRY(sl_stage_progress(s));
        if (sl_stage_is_sending(s, set)) sl_executor_pause(&pause_s);
    }
    return SL_OK;
}

/* ---- where the time went ---- */

static double overlap_s(double from_s, double to_s, double begin_s, double end_s) {
    const double a = from_s > begin_s ? from_s : begin_s, b = to_s < end_s ? to_s : end_s;
    return b > a ? b - a : 0.0;
}

/* Before this computation its queue was idle since the one before: for what? */
void sl_stage_count_gap(sl_stage *s, const sl_span *span) {
    double from_s = s->computed_s;
    if (span->end_s > s->computed_s) s->computed_s = span->end_s;
    if (span->start_s <= from_s || s->opt.transport->n_ranks == 1) return;
    double *waited_s = s->has_computed ? &s->bubble_s : &s->start_s;
    s->has_computed = 1;
    /* For a message of another rank that says what to do ... */
    *waited_s += overlap_s(from_s, s->waited_s, from_s, span->start_s);
    if (s->waited_s > from_s) from_s = s->waited_s;
    const int is_entry = span->layer == s->opt.first_layer && span->micro_batch >= 0;
    if (s->is_first || !is_entry || from_s >= span->start_s) return;
    /* ... for the rank before to compute what comes next, or for the wire. */
    const sl_stage_arrival *a = &s->arrival[s->set][span->micro_batch];
    *waited_s += overlap_s(from_s, a->notice_s, from_s, span->start_s);
    s->exposed_s += overlap_s(a->notice_s, a->here_s, from_s, span->start_s);
}

void sl_stage_start(sl_stage *s) {
    s->computed_s = s->started_s = sl_clock_s();
}

void sl_stage_end(sl_stage *s) {
    s->ended_s = sl_clock_s();
    if (s->has_computed) s->bubble_s += s->ended_s - s->computed_s;
}

void sl_stage_waited(sl_stage *s) {
    s->waited_s = sl_clock_s();
}
