#include "measure_wire.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Hidden states of a micro-batch are some MiB. */
enum { MESSAGE_BYTES = 4 << 20, FLIGHT = 4, FIRST_MESSAGES = 8, MOST_MESSAGES = 1 << 14 };
enum { DIRECT_FLIGHT = 32 };
enum { FIRST_TURNS = 16, MOST_TURNS = 1 << 14 };

/* Sends n messages to the next rank and receives as many from the one before, FLIGHT under way.
 * *received_s_out: from the call to the last one's arrival. */
static sl_status stream(sl_transport *t, char *buffer, int n, double *received_s_out) {
    sl_ticket in[FLIGHT] = {0}, out[FLIGHT] = {0};
    char *const to = buffer, *const from = buffer + MESSAGE_BYTES;
    const double start_s = sl_clock_s();
    for (int i = 0; i < n + FLIGHT; i++) {
        const int slot = i % FLIGHT;
        SL_TRY(t->ops->wait(t, in[slot]));
        *received_s_out = sl_clock_s() - start_s;
        SL_TRY(t->ops->wait(t, out[slot]));
        in[slot] = out[slot] = 0;
        if (i >= n) continue;
        if (t->rank > 0)
            SL_TRY(t->ops->recv(t, t->rank - 1, SL_CHANNEL_HIDDEN,
                                from + (size_t)slot * MESSAGE_BYTES, MESSAGE_BYTES, &in[slot]));
        if (!sl_transport_is_last(t))
            SL_TRY(t->ops->send(t, t->rank + 1, SL_CHANNEL_HIDDEN, to, MESSAGE_BYTES, &out[slot]));
    }
    return SL_OK;
}

/* From device to device, on its own streams. */
typedef struct {
    sl_measure *m;
    void *memory; /* of a message from the rank before, and one to the next */
    sl_event *arrived, *left;
} direct_wire;

static sl_status wait_event(const sl_measure *m, sl_event *event) {
    sl_transport *t = m->opt->transport;
    const double start_s = sl_clock_s();
    for (int done = 0; !done;) {
        SL_TRY(m->device->is_done(m->be, event, &done));
        if (!done) SL_TRY(t->ops->check_device(t, sl_clock_s() - start_s));
    }
    return SL_OK;
}

/* As stream(). */
static sl_status stream_direct(direct_wire *w, int n, double *received_s_out) {
    sl_transport *t = w->m->opt->transport;
    const sl_device_ops *device = w->m->device;
    sl_backend *be = w->m->be;
    void *const in = device->native_stream(be, SL_STREAM_WIRE_IN);
    void *const out = device->native_stream(be, SL_STREAM_WIRE_OUT);
    char *const memory = w->memory;
    const double start_s = sl_clock_s();
    for (int i = 0; i < n; i++) {
        if (t->rank > 0) SL_TRY(t->ops->recv_device(t, memory, MESSAGE_BYTES, in));
        if (!sl_transport_is_last(t))
            SL_TRY(t->ops->send_device(t, memory + MESSAGE_BYTES, MESSAGE_BYTES, out));
        if ((i + 1) % DIRECT_FLIGHT != 0 && i + 1 < n) continue;
        SL_TRY(device->record(be, SL_STREAM_WIRE_IN, w->arrived));
        SL_TRY(device->record(be, SL_STREAM_WIRE_OUT, w->left));
        SL_TRY(wait_event(w->m, w->arrived));
        *received_s_out = sl_clock_s() - start_s;
        SL_TRY(wait_event(w->m, w->left));
    }
    return SL_OK;
}

static sl_status exchange(sl_transport *t, int to, const void *out, int from, void *in,
                          size_t bytes, sl_channel channel) {
    sl_ticket sent = 0, received = 0;
    if (from >= 0 && from < t->n_ranks)
        SL_TRY(t->ops->recv(t, from, channel, in, bytes, &received));
    if (to >= 0 && to < t->n_ranks) SL_TRY(t->ops->send(t, to, channel, out, bytes, &sent));
    SL_TRY(t->ops->wait(t, received));
    return t->ops->wait(t, sent);
}

/* How often all ranks are to do what took `seconds` n times, so that it takes a sample. */
static sl_status agree_times(const sl_measure *m, double seconds, int n, int most, int *out) {
    int64_t times = most;
    if (seconds > 0.0 && m->opt->sample_s / seconds * n < most)
        times = (int64_t)(m->opt->sample_s / seconds * n) + 1;
    SL_TRY(m->opt->transport->ops->min_i64(m->opt->transport, &times, 1));
    *out = (int)times;
    return SL_OK;
}

/* direct: NULL where messages go through host memory. */
static sl_status run_stream(sl_measure *m, char *buffer, direct_wire *direct, int n,
                            double *seconds) {
    return direct ? stream_direct(direct, n, seconds)
                  : stream(m->opt->transport, buffer, n, seconds);
}

static sl_status measure_bandwidth(sl_measure *m, char *buffer, direct_wire *direct,
                                   double *bps_out) {
    sl_transport *t = m->opt->transport;
    double seconds = 0.0, mine, next = 0.0;
    int n;
    SL_TRY(run_stream(m, buffer, direct, FIRST_MESSAGES, &seconds)); /* connects, too */
    SL_TRY(run_stream(m, buffer, direct, FIRST_MESSAGES, &seconds));
    SL_TRY(agree_times(m, seconds, FIRST_MESSAGES, MOST_MESSAGES, &n));
    SL_TRY(run_stream(m, buffer, direct, n, &seconds));
    /* Who receives knows when all has come. */
    mine = (double)n * MESSAGE_BYTES / seconds;
    SL_TRY(exchange(t, t->rank - 1, &mine, t->rank + 1, &next, sizeof mine, SL_CHANNEL_RESULT));
    *bps_out = sl_measure_round(next);
    return SL_OK;
}

/* A word to the next rank and back, n times.  answers: for the rank before. */
static sl_status take_turns(sl_transport *t, int n, int answers) {
    char word[8] = {0};
    const int peer = answers ? t->rank - 1 : t->rank + 1;
    if (peer < 0 || peer >= t->n_ranks) return SL_OK;
    for (int i = 0; i < n; i++) {
        if (!answers) SL_TRY(exchange(t, peer, word, -1, NULL, sizeof word, SL_CHANNEL_HEADER));
        SL_TRY(exchange(t, -1, NULL, peer, word, sizeof word,
                        answers ? SL_CHANNEL_HEADER : SL_CHANNEL_RESULT));
        if (answers) SL_TRY(exchange(t, peer, word, -1, NULL, sizeof word, SL_CHANNEL_RESULT));
    }
    return SL_OK;
}

/* First the even ranks ask and the odd ones answer, then the other way round. */
static sl_status measure_latency(sl_measure *m, double *seconds_out) {
    sl_transport *t = m->opt->transport;
    for (int turn = 0; turn < 2; turn++) {
        const int asks = t->rank % 2 == turn;
        int n;
        double start_s;
        SL_TRY(take_turns(t, FIRST_TURNS, !asks));
        start_s = sl_clock_s();
        SL_TRY(take_turns(t, FIRST_TURNS, !asks));
        SL_TRY(agree_times(m, sl_clock_s() - start_s, FIRST_TURNS, MOST_TURNS, &n));
        start_s = sl_clock_s();
        SL_TRY(take_turns(t, n, !asks));
        if (asks && !sl_transport_is_last(t))
            *seconds_out = sl_measure_round((sl_clock_s() - start_s) / n / 2);
    }
    return SL_OK;
}

static sl_status open_direct(direct_wire *w) {
    const sl_measure *m = w->m;
    SL_TRY(sl_measure_take(w->m, 2 * (size_t)MESSAGE_BYTES, "messages", &w->memory));
    SL_TRY(m->device->event_open(m->be, &w->arrived));
    return m->device->event_open(m->be, &w->left);
}

static void close_direct(direct_wire *w) {
    const sl_measure *m = w->m;
    if (w->arrived) m->device->event_close(m->be, w->arrived);
    if (w->left) m->device->event_close(m->be, w->left);
    sl_measure_put(w->m, w->memory);
}

sl_status sl_measure_wire(sl_measure *m, sl_profile *profile) {
    sl_transport *t = m->opt->transport;
    direct_wire direct = {.m = m};
    void *buffer = NULL;
    double bps = 0.0, latency_s = 0.0;
    const int is_direct = t->ops->send_device && m->device && m->device->native_stream;
    if (t->n_ranks < 2) return SL_OK;
    sl_status st = sl_tier_take_touched(m->host, (FLIGHT + 1) * MESSAGE_BYTES, "messages", &buffer);
    if (st == SL_OK && is_direct) st = open_direct(&direct);
    SL_GO(t->ops->agree(t, st));
    SL_GO(measure_bandwidth(m, buffer, is_direct ? &direct : NULL, &bps));
    sl_measure_point(m, 1, 2);
    SL_GO(measure_latency(m, &latency_s));
    profile->wire_bps = bps;
    profile->wire_latency_s = latency_s;

fail:
    /* After a failure messages may still arrive: the memory then stays until the measure ends. */
    if (st == SL_OK && is_direct) close_direct(&direct);
    if (st == SL_OK) sl_tier_put(m->host, buffer);
    return st;
}
