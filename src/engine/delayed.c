#include "engine/delayed.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"

/* A message under way: its bytes with the time of sending behind them. */
typedef struct {
    int is_open, is_recv, is_here;
    sl_ticket inner;
    char *copy;
    void *to; /* receives: where the bytes go */
    size_t bytes;
} letter;

typedef struct {
    sl_transport base;
    sl_transport *inner;
    double delay_s;
    int n;
    letter *letters; /* [n]; ticket i + 1 */
    /* The next message of each channel, if it has come too early. */
    char *early[SL_CHANNEL_COUNT];
    size_t early_bytes[SL_CHANNEL_COUNT];
} delayed;

static delayed *self_of(sl_transport *t) {
    return (delayed *)t;
}

static double sent_s(const char *copy, size_t bytes) {
    double s;
    memcpy(&s, copy + bytes, sizeof s);
    return s;
}

static int is_due(const delayed *d, const char *copy, size_t bytes) {
    return sl_clock_s() >= sent_s(copy, bytes) + d->delay_s;
}

/* A free letter with room for a message and its time. */
static sl_status open_letter(delayed *d, size_t bytes, letter **out, sl_ticket *ticket_out) {
    size_t room;
    int i = 0;
    while (i < d->n && d->letters[i].is_open) i++;
    if (i == d->n) {
        letter *more = realloc(d->letters, ((size_t)d->n + 1) * sizeof *more);
        if (!more) return SL_FAIL(SL_ERR_NOMEM, "delayed transport: out of host memory");
        d->letters = more;
        d->n++;
    }
    d->letters[i] = (letter){.bytes = bytes};
    SL_TRY(sl_size_add(bytes, sizeof(double), &room));
    char *copy = malloc(room);
    if (!copy) return SL_FAIL(SL_ERR_NOMEM, "delayed transport: out of host memory");
    d->letters[i].copy = copy;
    d->letters[i].is_open = 1;
    *out = &d->letters[i];
    *ticket_out = (sl_ticket)i + 1;
    return SL_OK;
}

static void close_letter(letter *l) {
    free(l->copy);
    *l = (letter){0};
}

static sl_status delayed_send(sl_transport *t, int to, sl_channel channel, const void *buf,
                              size_t bytes, sl_ticket *ticket_out) {
    delayed *d = self_of(t);
    letter *l;
    sl_ticket ticket;
    SL_TRY(open_letter(d, bytes, &l, &ticket));
    const double now_s = sl_clock_s();
    if (bytes > 0) memcpy(l->copy, buf, bytes);
    memcpy(l->copy + bytes, &now_s, sizeof now_s);
    const sl_status st =
        d->inner->ops->send(d->inner, to, channel, l->copy, bytes + sizeof now_s, &l->inner);
    if (st != SL_OK) {
        close_letter(l);
        return st;
    }
    *ticket_out = ticket;
    return SL_OK;
}

static sl_status delayed_recv(sl_transport *t, int from, sl_channel channel, void *buf,
                              size_t bytes, sl_ticket *ticket_out) {
    delayed *d = self_of(t);
    letter *l;
    sl_ticket ticket;
    SL_TRY(open_letter(d, bytes, &l, &ticket));
    l->is_recv = 1;
    l->to = buf;
    const sl_status st =
        d->inner->ops->recv(d->inner, from, channel, l->copy, bytes + sizeof(double), &l->inner);
    if (st != SL_OK) {
        close_letter(l);
        return st;
    }
    *ticket_out = ticket;
    return SL_OK;
}

static sl_status find_letter(delayed *d, sl_ticket ticket, letter **out) {
    if (ticket > (sl_ticket)d->n || !d->letters[ticket - 1].is_open)
        return SL_FAIL(SL_ERR_ARG, "delayed transport: no transfer has the ticket %llu",
                       (unsigned long long)ticket);
    *out = &d->letters[ticket - 1];
    return SL_OK;
}

/* The bytes are here; done when they are old enough too. */
static int deliver(const delayed *d, letter *l) {
    if (l->is_recv && !is_due(d, l->copy, l->bytes)) return 0;
    if (l->is_recv && l->bytes > 0) memcpy(l->to, l->copy, l->bytes);
    close_letter(l);
    return 1;
}

static sl_status delayed_test(sl_transport *t, sl_ticket ticket, int *done_out) {
    delayed *d = self_of(t);
    letter *l;
    *done_out = 1;
    if (ticket == 0) return SL_OK;
    SL_TRY(find_letter(d, ticket, &l));
    if (!l->is_here) SL_TRY(d->inner->ops->test(d->inner, l->inner, &l->is_here));
    *done_out = l->is_here && deliver(d, l);
    return SL_OK;
}

static void sleep_until_due(const delayed *d, const char *copy, size_t bytes) {
    const double left_s = sent_s(copy, bytes) + d->delay_s - sl_clock_s();
    if (left_s > 0) sl_clock_sleep(left_s);
}

static sl_status delayed_wait(sl_transport *t, sl_ticket ticket) {
    delayed *d = self_of(t);
    letter *l;
    if (ticket == 0) return SL_OK;
    SL_TRY(find_letter(d, ticket, &l));
    if (!l->is_here) SL_TRY(d->inner->ops->wait(d->inner, l->inner));
    l->is_here = 1;
    while (!deliver(d, l)) sleep_until_due(d, l->copy, l->bytes);
    return SL_OK;
}

static sl_status delayed_recv_message(sl_transport *t, int from, sl_channel channel, int wait,
                                      void **buf_out, size_t *bytes_out) {
    delayed *d = self_of(t);
    if (!d->early[channel]) {
        void *buf;
        size_t bytes;
        SL_TRY(d->inner->ops->recv_message(d->inner, from, channel, wait, &buf, &bytes));
        if (buf && bytes < sizeof(double)) {
            free(buf);
            return SL_FAIL(SL_ERR_COMM, "delayed transport: rank %d sent %zu bytes, no time", from,
                           bytes);
        }
        d->early[channel] = buf;
        d->early_bytes[channel] = buf ? bytes - sizeof(double) : 0;
    }
    char *copy = d->early[channel];
    const size_t bytes = d->early_bytes[channel];
    while (copy && wait && !is_due(d, copy, bytes)) sleep_until_due(d, copy, bytes);
    const int is_there = copy && is_due(d, copy, bytes);
    if (is_there) d->early[channel] = NULL;
    *buf_out = is_there ? copy : NULL;
    *bytes_out = is_there ? bytes : 0;
    return SL_OK;
}

/* ---- as they are ---- */

static sl_status delayed_agree(sl_transport *t, sl_status mine) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->agree(inner, mine);
}
static sl_status delayed_min_i64(sl_transport *t, int64_t *values, int n) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->min_i64(inner, values, n);
}
static sl_status delayed_broadcast(sl_transport *t, int root, void *buf, size_t bytes) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->broadcast(inner, root, buf, bytes);
}
static sl_status delayed_gather(sl_transport *t, const void *mine, size_t bytes, void *out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->gather(inner, mine, bytes, out);
}

static void delayed_close(sl_transport *t) {
    delayed *d = self_of(t);
    sl_transport_close(d->inner); /* it may still use the letters until here */
    for (int i = 0; i < d->n; i++) free(d->letters[i].copy);
    for (int c = 0; c < SL_CHANNEL_COUNT; c++) free(d->early[c]);
    free(d->letters);
    free(d);
}

static const sl_transport_ops delayed_ops = {
    .name = "delayed",
    .close = delayed_close,
    .send = delayed_send,
    .recv = delayed_recv,
    .test = delayed_test,
    .wait = delayed_wait,
    .recv_message = delayed_recv_message,
    .agree = delayed_agree,
    .min_i64 = delayed_min_i64,
    .broadcast = delayed_broadcast,
    .gather = delayed_gather,
};

sl_status sl_transport_open_delayed(sl_transport *inner, double delay_s, sl_transport **out) {
    if (!(delay_s >= 0)) return SL_FAIL(SL_ERR_ARG, "delayed transport: a delay of %g s", delay_s);
    delayed *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "delayed transport: out of host memory");
    d->base = (sl_transport){.ops = &delayed_ops, .rank = inner->rank, .n_ranks = inner->n_ranks};
    d->inner = inner;
    d->delay_s = delay_s;
    *out = &d->base;
    return SL_OK;
}
