#include "support/direct.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_UNDER_WAY = 64 };

typedef struct {
    sl_transport base;
    sl_transport *inner;
    struct {
        sl_ticket ticket;
        void *copy; /* NULL: free */
    } sent[MAX_UNDER_WAY];
    size_t sent_bytes;
    int is_cut;
} direct;

static direct *self_of(sl_transport *t) {
    return (direct *)t;
}

static sl_status direct_send(sl_transport *t, int to, sl_channel channel, const void *buf,
                             size_t bytes, sl_ticket *ticket_out) {
    sl_transport *inner = self_of(t)->inner;
    if (channel == SL_CHANNEL_HIDDEN)
        return SL_FAIL(SL_ERR_ARG, "hidden states through host memory, not from device to device");
    return inner->ops->send(inner, to, channel, buf, bytes, ticket_out);
}

static sl_status direct_recv(sl_transport *t, int from, sl_channel channel, void *buf, size_t bytes,
                             sl_ticket *ticket_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->recv(inner, from, channel, buf, bytes, ticket_out);
}

static sl_status direct_test(sl_transport *t, sl_ticket ticket, int *done_out) {
    return self_of(t)->inner->ops->test(self_of(t)->inner, ticket, done_out);
}

static sl_status direct_wait(sl_transport *t, sl_ticket ticket) {
    return self_of(t)->inner->ops->wait(self_of(t)->inner, ticket);
}

static sl_status direct_recv_message(sl_transport *t, int from, sl_channel channel, int wait,
                                     void **buf_out, size_t *bytes_out) {
    sl_transport *inner = self_of(t)->inner;
    return inner->ops->recv_message(inner, from, channel, wait, buf_out, bytes_out);
}

static sl_status direct_agree(sl_transport *t, sl_status mine) {
    return self_of(t)->inner->ops->agree(self_of(t)->inner, mine);
}

static sl_status direct_min_i64(sl_transport *t, int64_t *values, int n) {
    return self_of(t)->inner->ops->min_i64(self_of(t)->inner, values, n);
}

static sl_status direct_broadcast(sl_transport *t, int root, void *buf, size_t bytes) {
    return self_of(t)->inner->ops->broadcast(self_of(t)->inner, root, buf, bytes);
}

static sl_status direct_gather(sl_transport *t, const void *mine, size_t bytes, void *out) {
    return self_of(t)->inner->ops->gather(self_of(t)->inner, mine, bytes, out);
}

/* Gives copies of what has gone back; `wait`: all of them. */
static sl_status collect(direct *d, int wait) {
    sl_transport *in = d->inner;
    for (int i = 0; i < MAX_UNDER_WAY; i++) {
        int done = 1;
        if (!d->sent[i].copy) continue;
        if (wait) SL_TRY(in->ops->wait(in, d->sent[i].ticket));
        if (!wait) SL_TRY(in->ops->test(in, d->sent[i].ticket, &done));
        if (!done) continue;
        free(d->sent[i].copy);
        d->sent[i].copy = NULL;
    }
    return SL_OK;
}

static sl_status direct_send_device(sl_transport *t, const void *memory, size_t bytes,
                                    void *stream) {
    direct *d = self_of(t);
    int i = 0;
    if (!stream || d->is_cut) return SL_FAIL(SL_ERR_COMM, "a transfer without a stream or a link");
    SL_TRY(collect(d, 0));
    while (i < MAX_UNDER_WAY && d->sent[i].copy) i++;
    if (i == MAX_UNDER_WAY) return SL_FAIL(SL_ERR_COMM, "%d transfers are under way", i);
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy) return SL_FAIL(SL_ERR_NOMEM, "no memory for %zu bytes", bytes);
    memcpy(copy, memory, bytes);
    d->sent[i].copy = copy;
    d->sent_bytes += bytes;
    return d->inner->ops->send(d->inner, t->rank + 1, SL_CHANNEL_HIDDEN, copy, bytes,
                               &d->sent[i].ticket);
}

static sl_status direct_recv_device(sl_transport *t, void *memory, size_t bytes, void *stream) {
    direct *d = self_of(t);
    sl_ticket ticket;
    if (!stream || d->is_cut) return SL_FAIL(SL_ERR_COMM, "a transfer without a stream or a link");
    SL_TRY(d->inner->ops->recv(d->inner, t->rank - 1, SL_CHANNEL_HIDDEN, memory, bytes, &ticket));
    return d->inner->ops->wait(d->inner, ticket);
}

static sl_status direct_check_device(sl_transport *t, double waited_s) {
    return waited_s < 60.0 && !self_of(t)->is_cut
               ? SL_OK
               : SL_FAIL(SL_ERR_COMM, "a transfer has not ended in %g s", waited_s);
}

static void direct_cut_device(sl_transport *t) {
    self_of(t)->is_cut = 1;
}

static void direct_close(sl_transport *t) {
    (void)collect(self_of(t), 1);
    free(t);
}

static const sl_transport_ops direct_ops = {
    .name = "direct",
    .close = direct_close,
    .send = direct_send,
    .recv = direct_recv,
    .test = direct_test,
    .wait = direct_wait,
    .recv_message = direct_recv_message,
    .agree = direct_agree,
    .min_i64 = direct_min_i64,
    .broadcast = direct_broadcast,
    .gather = direct_gather,
    .send_device = direct_send_device,
    .recv_device = direct_recv_device,
    .check_device = direct_check_device,
    .cut_device = direct_cut_device,
};

sl_status direct_open(sl_transport *inner, sl_transport **out) {
    direct *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "direct transport: out of host memory");
    d->base = (sl_transport){.ops = &direct_ops, .rank = inner->rank, .n_ranks = inner->n_ranks};
    d->inner = inner;
    *out = &d->base;
    return SL_OK;
}

size_t direct_sent_bytes(const sl_transport *t) {
    return ((const direct *)t)->sent_bytes;
}
