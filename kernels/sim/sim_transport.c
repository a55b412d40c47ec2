#include "sim/sim_transport.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_cost.h"

enum { TAIL_BYTES = 4096, MESSAGE_BYTES = 1024, FIRST_TRANSFERS = 64 };

/* A message on its way, or waiting for its receiver; the n-th of its sender and channel. */
typedef struct message {
    int from;
    sl_channel channel;
    uint64_t number;
    size_t bytes, n_kept; /* kept: the last ones */
    int n_users;          /* the sender until it has seen the end, the receiver until it has it */
    sl_sim_mark arrived;
    struct message *next;
    unsigned char kept[];
} message;

typedef struct {
    message *first, *last; /* not yet received */
} inbox;

/* A rank's part of a collective, valid while it is in it. */
typedef struct {
    sl_status status;
    char text[MESSAGE_BYTES];
    void *data;
    const void *mine;
} offer;

struct sl_sim_mail {
    sl_sim *sim;
    inbox *inbox; /* [n_ranks] by receiver */
    offer *offer; /* [n_ranks] */
};

/* A send or a receive under way. */
typedef struct {
    int is_used, is_recv, peer;
    sl_channel channel;
    message *sent;   /* send */
    uint64_t number; /* recv: of the message that is its */
    void *buf;
    size_t bytes;
} transfer;

typedef struct {
    uint64_t sent[SL_CHANNEL_COUNT], received[SL_CHANNEL_COUNT]; /* to and from one peer */
} peer_counts;

typedef struct {
    sl_transport base;
    sl_sim_mail *mail;
    sl_sim *sim;
    peer_counts *peer;  /* [n_ranks] */
    transfer *transfer; /* [n_transfers]; ticket i + 1 */
    int n_transfers;
} transport;

sl_status sl_sim_mail_open(sl_sim *sim, sl_sim_mail **out) {
    const size_t n = (size_t)sl_sim_n_ranks(sim);
    sl_sim_mail *m = calloc(1, sizeof *m);
    if (m) {
        m->sim = sim;
        m->inbox = calloc(n, sizeof *m->inbox);
        m->offer = calloc(n, sizeof *m->offer);
    }
    if (!m || !m->inbox || !m->offer) {
        sl_sim_mail_close(m);
        return SL_FAIL(SL_ERR_NOMEM, "simulated transport: out of host memory for %zu ranks", n);
    }
    *out = m;
    return SL_OK;
}

static void leave_message(message *m) {
    if (--m->n_users == 0) free(m);
}

void sl_sim_mail_close(sl_sim_mail *m) {
    if (!m) return;
    for (int r = 0; m->inbox && r < sl_sim_n_ranks(m->sim); r++)
        for (message *x = m->inbox[r].first, *next; x; x = next) {
            next = x->next;
            leave_message(x);
        }
    free(m->inbox);
    free(m->offer);
    free(m);
}

static transport *self_of(sl_transport *t) {
    return (transport *)t;
}

static void transport_close(sl_transport *base) {
    transport *t = self_of(base);
    for (int i = 0; i < t->n_transfers; i++) {
        const transfer *x = &t->transfer[i];
        if (x->is_used && !x->is_recv) leave_message(x->sent);
    }
    free(t->transfer);
    free(t->peer);
    free(t);
}

static sl_status check_peer(const transport *t, int peer, sl_channel channel) {
    if (peer >= 0 && peer < t->base.n_ranks && (int)channel >= 0 && channel < SL_CHANNEL_COUNT)
        return SL_OK;
    return SL_FAIL(SL_ERR_ARG, "simulated transport: rank %d of %d, channel %d", peer,
                   t->base.n_ranks, (int)channel);
}

static sl_status take_transfer(transport *t, const transfer *what, sl_ticket *ticket_out) {
    int i = 0;
    while (i < t->n_transfers && t->transfer[i].is_used) i++;
    if (i == t->n_transfers) {
        const int more = t->n_transfers ? 2 * t->n_transfers : FIRST_TRANSFERS;
        transfer *all = realloc(t->transfer, (size_t)more * sizeof *all);
        if (!all) return SL_FAIL(SL_ERR_NOMEM, "simulated transport: out of host memory");
        memset(all + t->n_transfers, 0, (size_t)(more - t->n_transfers) * sizeof *all);
        t->transfer = all;
        t->n_transfers = more;
    }
    t->transfer[i] = *what;
    *ticket_out = (sl_ticket)i + 1;
    return SL_OK;
}

/* ---- messages ---- */

static sl_status post(transport *t, int to, sl_channel channel, const void *buf, size_t bytes,
                      message **out) {
    const size_t kept = channel == SL_CHANNEL_HIDDEN && bytes > TAIL_BYTES ? TAIL_BYTES : bytes;
    message *m = malloc(sizeof *m + kept);
    if (!m)
        return SL_FAIL(SL_ERR_NOMEM, "simulated transport: out of host memory for %zu bytes", kept);
    *m = (message){.from = t->base.rank,
                   .channel = channel,
                   .number = t->peer[to].sent[channel],
                   .bytes = bytes,
                   .n_kept = kept,
                   .n_users = 2};
    if (kept > 0) memcpy(m->kept, (const unsigned char *)buf + (bytes - kept), kept);
    sl_sim_mark_init(&m->arrived, t->base.rank, to);
    sl_sim_machine *machine = sl_sim_machine_of(t->sim, t->base.rank);
    const sl_sim_load load = sl_sim_message(sl_sim_machine_rates(machine), (double)bytes);
    sl_status st = sl_sim_machine_work(machine, SL_SIM_WIRE, &load);
    if (st == SL_OK) st = sl_sim_machine_mark(machine, SL_SIM_WIRE, &m->arrived);
    if (st != SL_OK) {
        free(m);
        return st;
    }
    t->peer[to].sent[channel]++;
    inbox *box = &t->mail->inbox[to];
    if (box->last)
        box->last->next = m;
    else
        box->first = m;
    box->last = m;
    *out = m;
    return SL_OK;
}

static sl_status transport_send(sl_transport *base, int to, sl_channel channel, const void *buf,
                                size_t bytes, sl_ticket *ticket_out) {
    transport *t = self_of(base);
    transfer x = {.is_used = 1, .peer = to, .channel = channel};
    SL_TRY(check_peer(t, to, channel));
    SL_TRY(post(t, to, channel, buf, bytes, &x.sent));
    return take_transfer(t, &x, ticket_out);
}

static sl_status transport_recv(sl_transport *base, int from, sl_channel channel, void *buf,
                                size_t bytes, sl_ticket *ticket_out) {
    transport *t = self_of(base);
    SL_TRY(check_peer(t, from, channel));
    const transfer x = {.is_used = 1,
                        .is_recv = 1,
                        .peer = from,
                        .channel = channel,
                        .number = t->peer[from].received[channel],
                        .buf = buf,
                        .bytes = bytes};
    SL_TRY(take_transfer(t, &x, ticket_out));
    t->peer[from].received[channel]++;
    return SL_OK;
}

/* Takes a message out of the inbox once it has arrived, NULL until then. */
static sl_status take_message(transport *t, int from, sl_channel channel, uint64_t number,
                              message **out) {
    inbox *box = &t->mail->inbox[t->base.rank];
    message *before = NULL, *m = box->first;
    while (m && (m->from != from || m->channel != channel || m->number != number)) {
        before = m;
        m = m->next;
    }
    *out = NULL;
    if (!m && sl_sim_has_left(t->sim, from))
        return SL_FAIL(SL_ERR_COMM, "simulated rank %d waits for rank %d, which has left",
                       t->base.rank, from);
    if (!m || !sl_sim_mark_is_reached(&m->arrived)) return SL_OK;
    if (before)
        before->next = m->next;
    else
        box->first = m->next;
    if (box->last == m) box->last = before;
    *out = m;
    return SL_OK;
}

static sl_status test_recv(transport *t, transfer *x, int *done_out) {
    message *m;
    SL_TRY(take_message(t, x->peer, x->channel, x->number, &m));
    *done_out = m != NULL;
    if (!m) return SL_OK;
    x->is_used = 0;
    const size_t got = m->bytes;
    if (got == x->bytes && m->n_kept > 0)
        memcpy((unsigned char *)x->buf + (got - m->n_kept), m->kept, m->n_kept);
    leave_message(m);
    if (got == x->bytes) return SL_OK;
    return SL_FAIL(SL_ERR_COMM, "simulated transport: %zu bytes came from rank %d, expected %zu",
                   got, x->peer, x->bytes);
}

static sl_status transport_test(sl_transport *base, sl_ticket ticket, int *done_out) {
    transport *t = self_of(base);
    *done_out = 1;
    if (ticket == 0) return SL_OK;
    if (ticket > (sl_ticket)t->n_transfers || !t->transfer[ticket - 1].is_used)
        return SL_FAIL(SL_ERR_ARG, "simulated transport: ticket %llu is of no transfer under way",
                       (unsigned long long)ticket);
    transfer *x = &t->transfer[ticket - 1];
    if (x->is_recv) return test_recv(t, x, done_out);
    *done_out = sl_sim_mark_is_reached(&x->sent->arrived);
    if (!*done_out) return SL_OK;
    leave_message(x->sent);
    x->is_used = 0;
    return SL_OK;
}

static sl_status transport_wait(sl_transport *base, sl_ticket ticket) {
    for (int done = 0;;) {
        SL_TRY(transport_test(base, ticket, &done));
        if (done) return SL_OK;
        SL_TRY(sl_sim_wait_any(self_of(base)->sim, base->rank, "a message"));
    }
}

static sl_status transport_recv_message(sl_transport *base, int from, sl_channel channel, int wait,
                                        void **buf_out, size_t *bytes_out) {
    transport *t = self_of(base);
    message *m = NULL;
    SL_TRY(check_peer(t, from, channel));
    for (;;) {
        SL_TRY(take_message(t, from, channel, t->peer[from].received[channel], &m));
        if (m || !wait) break;
        SL_TRY(sl_sim_wait_any(t->sim, base->rank, "a message"));
    }
    *buf_out = NULL;
    *bytes_out = 0;
    if (!m) return SL_OK;
    t->peer[from].received[channel]++;
    void *buf = malloc(m->bytes > 0 ? m->bytes : 1);
    const size_t bytes = m->bytes;
    if (buf && m->n_kept > 0) memcpy((char *)buf + (bytes - m->n_kept), m->kept, m->n_kept);
    leave_message(m);
    if (!buf) return SL_FAIL(SL_ERR_NOMEM, "a message of %zu bytes: out of host memory", bytes);
    *buf_out = buf;
    *bytes_out = bytes;
    return SL_OK;
}

/* ---- collectives: everybody offers, meets, looks at the offers, and meets again ---- */

static sl_status begin_collective(transport *t, const void *mine, void *data) {
    offer *o = &t->mail->offer[t->base.rank];
    o->mine = mine;
    o->data = data;
    return sl_sim_meet(t->sim, t->base.rank);
}

static sl_status end_collective(transport *t) {
    return sl_sim_meet(t->sim, t->base.rank);
}

static sl_status transport_agree(sl_transport *base, sl_status mine) {
    transport *t = self_of(base);
    offer *o = &t->mail->offer[base->rank], verdict = {.status = SL_OK};
    o->status = mine;
    if (mine != SL_OK) {
        const char *text = sl_error_message();
        if (strncmp(text, "rank ", 5) == 0)
            snprintf(o->text, sizeof o->text, "%s", text);
        else
            snprintf(o->text, sizeof o->text, "rank %d: %.1000s", base->rank, text);
    }
    SL_TRY(begin_collective(t, NULL, NULL));
    for (int r = base->n_ranks - 1; r >= 0; r--)
        if (t->mail->offer[r].status != SL_OK) verdict = t->mail->offer[r];
    SL_TRY(end_collective(t));
    return verdict.status == SL_OK ? SL_OK : sl_fail_text(verdict.status, verdict.text);
}

static sl_status transport_min_i64(sl_transport *base, int64_t *values, int n) {
    transport *t = self_of(base);
    if (n < 0) return SL_FAIL(SL_ERR_ARG, "simulated transport: minimum of %d values", n);
    int64_t *least = calloc(n > 0 ? (size_t)n : 1, sizeof *least);
    sl_status st = begin_collective(t, values, NULL);
    for (int i = 0; st == SL_OK && least && i < n; i++) {
        least[i] = values[i];
        for (int r = 0; r < base->n_ranks; r++) {
            const int64_t v = ((const int64_t *)t->mail->offer[r].mine)[i];
            if (v < least[i]) least[i] = v;
        }
    }
    if (st == SL_OK) st = end_collective(t);
    if (st == SL_OK && !least)
        st = SL_FAIL(SL_ERR_NOMEM, "minimum of %d values: out of host memory", n);
    if (st == SL_OK && n > 0) memcpy(values, least, (size_t)n * sizeof *values);
    free(least);
    return st;
}

static sl_status transport_broadcast(sl_transport *base, int root, void *buf, size_t bytes) {
    transport *t = self_of(base);
    SL_TRY(check_peer(t, root, SL_CHANNEL_HEADER));
    SL_TRY(begin_collective(t, buf, NULL));
    if (base->rank != root && bytes > 0) memcpy(buf, t->mail->offer[root].mine, bytes);
    return end_collective(t);
}

static sl_status transport_gather(sl_transport *base, const void *mine, size_t bytes, void *out) {
    transport *t = self_of(base);
    SL_TRY(begin_collective(t, mine, out));
    for (int r = 0; base->rank == 0 && bytes > 0 && r < base->n_ranks; r++)
        memcpy((char *)out + (size_t)r * bytes, t->mail->offer[r].mine, bytes);
    return end_collective(t);
}

static const sl_transport_ops transport_ops = {
    .name = "sim",
    .close = transport_close,
    .send = transport_send,
    .recv = transport_recv,
    .test = transport_test,
    .wait = transport_wait,
    .recv_message = transport_recv_message,
    .agree = transport_agree,
    .min_i64 = transport_min_i64,
    .broadcast = transport_broadcast,
    .gather = transport_gather,
};

sl_status sl_sim_transport_open(sl_sim_mail *mail, int rank, sl_transport **out) {
    const int n_ranks = sl_sim_n_ranks(mail->sim);
    transport *t = calloc(1, sizeof *t);
    if (!t) return SL_FAIL(SL_ERR_NOMEM, "simulated transport: out of host memory");
    t->base = (sl_transport){.ops = &transport_ops, .rank = rank, .n_ranks = n_ranks};
    t->mail = mail;
    t->sim = mail->sim;
    t->peer = calloc((size_t)n_ranks, sizeof *t->peer);
    if (!t->peer) {
        free(t);
        return SL_FAIL(SL_ERR_NOMEM, "simulated transport: out of host memory");
    }
    *out = &t->base;
    return SL_OK;
}
