/* loopback.c - the transport of a single rank. */
#include <stdlib.h>
#include <string.h>

#include "engine/transport.h"

static void loopback_close(sl_transport *t) {
    free(t);
}

static sl_status no_peer(const char *verb, int peer) {
    return SL_FAIL(SL_ERR_ARG, "loopback transport: cannot %s rank %d, there is one rank only",
                   verb, peer);
}

static sl_status loopback_send(sl_transport *t, int to, sl_channel channel, const void *buf,
                               size_t bytes, sl_ticket *ticket_out) {
    (void)t, (void)channel, (void)buf, (void)bytes, (void)ticket_out;
    return no_peer("send to", to);
}

static sl_status loopback_recv(sl_transport *t, int from, sl_channel channel, void *buf,
                               size_t bytes, sl_ticket *ticket_out) {
    (void)t, (void)channel, (void)buf, (void)bytes, (void)ticket_out;
    return no_peer("receive from", from);
}

static sl_status loopback_recv_message(sl_transport *t, int from, sl_channel channel, int wait,
                                       void **buf_out, size_t *bytes_out) {
    (void)t, (void)channel, (void)wait, (void)buf_out, (void)bytes_out;
    return no_peer("receive from", from);
}

static sl_status loopback_wait(sl_transport *t, sl_ticket ticket) {
    (void)t;
    if (ticket != 0)
        return SL_FAIL(SL_ERR_ARG, "loopback transport: ticket %#llx was never given out",
                       (unsigned long long)ticket);
    return SL_OK;
}

static sl_status loopback_test(sl_transport *t, sl_ticket ticket, int *done_out) {
    SL_TRY(loopback_wait(t, ticket));
    *done_out = 1;
    return SL_OK;
}

/* One rank agrees with itself: its own message stays as it is, there is no rank to name. */
static sl_status loopback_agree(sl_transport *t, sl_status mine) {
    (void)t;
    return mine;
}

static sl_status loopback_min_i64(sl_transport *t, int64_t *values, int n) {
    (void)t, (void)values;
    if (n < 0) return SL_FAIL(SL_ERR_ARG, "loopback transport: minimum of %d values", n);
    return SL_OK;
}

static sl_status loopback_broadcast(sl_transport *t, int root, void *buf, size_t bytes) {
    (void)t, (void)buf, (void)bytes;
    return root == 0 ? SL_OK : no_peer("broadcast from", root);
}

static sl_status loopback_gather(sl_transport *t, const void *mine, size_t bytes, void *out) {
    (void)t;
    if (bytes > 0) memcpy(out, mine, bytes);
    return SL_OK;
}

static const sl_transport_ops loopback_ops = {
    .name = "loopback",
    .close = loopback_close,
    .send = loopback_send,
    .recv = loopback_recv,
    .test = loopback_test,
    .wait = loopback_wait,
    .recv_message = loopback_recv_message,
    .agree = loopback_agree,
    .min_i64 = loopback_min_i64,
    .broadcast = loopback_broadcast,
    .gather = loopback_gather,
};

sl_status sl_transport_open_loopback(sl_transport **out) {
    sl_transport *t = calloc(1, sizeof *t);
    if (!t) return SL_FAIL(SL_ERR_NOMEM, "loopback transport: out of host memory");
    t->ops = &loopback_ops;
    t->rank = 0;
    t->n_ranks = 1;
    *out = t;
    return SL_OK;
}
