/* transport_mpi.c - the transport over MPI with host buffers.
 *
 * A message travels as whole pieces of piece_bytes and one shorter piece at its end (perhaps of no
 * bytes at all), so that MPI's counts, which are ints, never limit a message, and a receiver that
 * does not know the length sees where it ends.  Pieces of a channel keep their order, because MPI
 * does not let messages of one (communicator, source, tag) overtake each other.
 */
#include "transport_mpi.h"

#include <ctype.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "mpi_check.h"
#include "session.h"
#include "tickets.h"

enum { MESSAGE_BYTES = 1024 };

/* Within a host each look at a large transfer carries a fragment of some ten KiB. */
enum { LARGE_BYTES = 256 << 10, LOOKS = 16 };

/* 1 GiB: hidden states are split rarely, and every int holds it. */
static const size_t PIECE_BYTES = (size_t)1 << 30;

/* How long close() lets transfers that nobody waited for come to their end. */
static const double CLOSE_PATIENCE_S = 0.2;

typedef struct {
    sl_transport base;
    MPI_Comm comm; /* this transport's own: its tags meet no others */
    size_t piece_bytes;
    sl_tickets tickets;
} transport_mpi;

static transport_mpi *self_of(sl_transport *t) {
    return (transport_mpi *)t;
}

static const char *channel_name(sl_channel channel) {
    static const char *const names[SL_CHANNEL_COUNT] = {"header", "hidden", "result", "notice",
                                                        "credit"};
    return names[channel];
}

static sl_status check_peer(const transport_mpi *t, int peer, sl_channel channel) {
    if (peer < 0 || peer >= t->base.n_ranks)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: rank %d of %d", peer, t->base.n_ranks);
    if ((int)channel < 0 || channel >= SL_CHANNEL_COUNT)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: channel %d of %d", (int)channel,
                       SL_CHANNEL_COUNT);
    return SL_OK;
}

/* "receive header from rank 3": names a transfer in messages. */
typedef struct {
    char text[64];
} transfer_name;

static transfer_name name_of(int is_recv, int peer, sl_channel channel) {
    transfer_name n;
    snprintf(n.text, sizeof n.text, "%s %s %s rank %d", is_recv ? "receive" : "send",
             channel_name(channel), is_recv ? "from" : "to", peer);
    return n;
}

/* ---- messages ---- */

static size_t bytes_of_piece(const transport_mpi *t, size_t bytes, int piece) {
    const size_t at = (size_t)piece * t->piece_bytes;
    return bytes - at < t->piece_bytes ? bytes - at : t->piece_bytes;
}

static sl_status start(transport_mpi *t, int is_recv, int peer, sl_channel channel, char *buf,
                       size_t bytes, sl_ticket *ticket_out) {
    SL_TRY(check_peer(t, peer, channel));
    const size_t n_pieces = bytes / t->piece_bytes + 1;
    if (n_pieces > INT_MAX)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: a message of %zu bytes", bytes);
    sl_ticket ticket;
    sl_transfer *x;
    SL_TRY(sl_tickets_get(&t->tickets, (int)n_pieces, &ticket, &x));
    x->is_recv = is_recv;
    x->peer = peer;
    x->channel = channel;
    x->bytes = bytes;
    for (int i = 0; i < x->n_requests; i++) {
        const int n = (int)bytes_of_piece(t, bytes, i);
        char *piece = n > 0 ? buf + (size_t)i * t->piece_bytes : NULL;
        const int err =
            is_recv ? MPI_Irecv(piece, n, MPI_BYTE, peer, (int)channel, t->comm, &x->requests[i])
                    : MPI_Isend(piece, n, MPI_BYTE, peer, (int)channel, t->comm, &x->requests[i]);
        if (err != MPI_SUCCESS) {
            x->failed = 1; /* stays in the table: close() ends the pieces already under way */
            return SL_MPI(err, name_of(is_recv, peer, channel).text);
        }
    }
    *ticket_out = ticket;
    return SL_OK;
}

static sl_status mpi_send(sl_transport *base, int to, sl_channel channel, const void *buf,
                          size_t bytes, sl_ticket *ticket_out) {
    /* MPI_Isend takes a const buffer; `start` serves both ways. */
    return start(self_of(base), 0, to, channel, (char *)(uintptr_t)buf, bytes, ticket_out);
}

static sl_status mpi_recv(sl_transport *base, int from, sl_channel channel, void *buf, size_t bytes,
                          sl_ticket *ticket_out) {
    return start(self_of(base), 1, from, channel, buf, bytes, ticket_out);
}

/* A receive must have got exactly what was asked for; MPI itself refuses only longer messages. */
static sl_status check_received(const transport_mpi *t, const sl_transfer *x,
                                const MPI_Status *status) {
    int got = 0;
    const size_t expected = bytes_of_piece(t, x->bytes, x->n_done);
    const transfer_name name = name_of(1, x->peer, x->channel);
    SL_TRY(SL_MPI(MPI_Get_count(status, MPI_BYTE, &got), name.text));
    if (got < 0 || (size_t)got != expected)
        return SL_FAIL(SL_ERR_COMM, "%s: %d bytes came, expected %zu (piece %d of %d)", name.text,
                       got, expected, x->n_done + 1, x->n_requests);
    return SL_OK;
}

/* Looks after the pieces of a transfer; *done_out = 1 when all are done. */
static sl_status advance(const transport_mpi *t, sl_transfer *x, int *done_out) {
    sl_status st = SL_OK;
    while (x->n_done < x->n_requests) {
        int done = 0, err = MPI_SUCCESS;
        MPI_Status status;
        const int looks = x->bytes < LARGE_BYTES ? 1 : LOOKS;
        for (int i = 0; i < looks && !done && err == MPI_SUCCESS; i++)
            err = MPI_Test(&x->requests[x->n_done], &done, &status);
        if (err != MPI_SUCCESS) SL_GO(SL_MPI(err, name_of(x->is_recv, x->peer, x->channel).text));
        if (!done) break;
        if (x->is_recv) SL_GO(check_received(t, x, &status));
        x->n_done++;
    }
    *done_out = x->n_done == x->n_requests;
    return SL_OK;
fail:
    x->failed = 1;
    return st;
}

static sl_status find_transfer(const transport_mpi *t, sl_ticket ticket, sl_transfer **out) {
    sl_transfer *x = sl_tickets_find(&t->tickets, ticket);
    if (!x)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: ticket %#llx is done already or was never given",
                       (unsigned long long)ticket);
    if (x->failed)
        return SL_FAIL(SL_ERR_COMM, "%s: failed before",
                       name_of(x->is_recv, x->peer, x->channel).text);
    *out = x;
    return SL_OK;
}

static sl_status mpi_test(sl_transport *base, sl_ticket ticket, int *done_out) {
    transport_mpi *t = self_of(base);
    int done = 1;
    if (ticket != 0) {
        sl_transfer *x;
        SL_TRY(find_transfer(t, ticket, &x));
        SL_TRY(advance(t, x, &done));
        if (done) sl_tickets_put(&t->tickets, ticket);
    }
    *done_out = done;
    return SL_OK;
}

static sl_status mpi_wait(sl_transport *base, sl_ticket ticket) {
    sl_backoff backoff = {0};
    for (int done = 0;;) {
        SL_TRY(mpi_test(base, ticket, &done));
        if (done) return SL_OK;
        sl_backoff_pause(&backoff);
    }
}

/* The next piece from a rank, or MPI_MESSAGE_NULL if there is none and `wait` is 0. */
static sl_status probe_piece(const transport_mpi *t, int from, sl_channel channel, int wait,
                             MPI_Message *message_out, int *bytes_out) {
    const transfer_name name = name_of(1, from, channel);
    sl_backoff backoff = {0};
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    int bytes = 0;
    for (int found = 0;;) {
        SL_TRY(
            SL_MPI(MPI_Improbe(from, (int)channel, t->comm, &found, &message, &status), name.text));
        if (found) break;
        if (!wait) {
            *message_out = MPI_MESSAGE_NULL;
            return SL_OK;
        }
        sl_backoff_pause(&backoff);
    }
    SL_TRY(SL_MPI(MPI_Get_count(&status, MPI_BYTE, &bytes), name.text));
    if (bytes < 0 || (size_t)bytes > t->piece_bytes)
        return SL_FAIL(SL_ERR_COMM, "%s: a piece of %d bytes came, at most %zu are sent", name.text,
                       bytes, t->piece_bytes);
    *message_out = message;
    *bytes_out = bytes;
    return SL_OK;
}

static sl_status mpi_recv_message(sl_transport *base, int from, sl_channel channel, int wait,
                                  void **buf_out, size_t *bytes_out) {
    transport_mpi *t = self_of(base);
    SL_TRY(check_peer(t, from, channel));
    const transfer_name name = name_of(1, from, channel);
    sl_status st = SL_OK;
    char *buf = NULL;
    size_t bytes = 0;
    for (int last = 0; !last;) {
        MPI_Message message = MPI_MESSAGE_NULL;
        MPI_Request request = MPI_REQUEST_NULL;
        int n = 0;
        size_t total = 0;
        /* Once the first piece is there, the others are on their way. */
        SL_GO(probe_piece(t, from, channel, wait || buf, &message, &n));
        if (message == MPI_MESSAGE_NULL) {
            *buf_out = NULL;
            *bytes_out = 0;
            return SL_OK;
        }
        SL_GO(sl_size_add(bytes, (size_t)n, &total));
        char *grown = realloc(buf, total > 0 ? total : 1);
        if (!grown) {
            st = SL_FAIL(SL_ERR_NOMEM, "%s: a message of %zu bytes: out of host memory", name.text,
                         total);
            goto fail;
        }
        buf = grown;
        SL_GO(SL_MPI(MPI_Imrecv(buf + bytes, n, MPI_BYTE, &message, &request), name.text));
        SL_GO(sl_mpi_wait(&request, name.text, NULL));
        bytes = total;
        last = (size_t)n < t->piece_bytes;
    }
    *buf_out = buf;
    *bytes_out = bytes;
    return SL_OK;
fail:
    free(buf);
    return st;
}

/* ---- collectives: non-blocking ones, so that a rank that is early sleeps ---- */

/* "rank 12: ": the message has passed through agree() before. */
static int names_a_rank(const char *message) {
    if (strncmp(message, "rank ", 5) != 0) return 0;
    const char *p = message + 5;
    while (isdigit((unsigned char)*p)) p++;
    return p > message + 5 && p[0] == ':' && p[1] == ' ';
}

static sl_status mpi_agree(sl_transport *base, sl_status mine) {
    transport_mpi *t = self_of(base);
    struct {
        int status;
        char message[MESSAGE_BYTES];
    } verdict = {.status = mine};
    const char *text = sl_error_message();
    if (mine != SL_OK && names_a_rank(text))
        snprintf(verdict.message, sizeof verdict.message, "%s", text);
    else if (mine != SL_OK)
        snprintf(verdict.message, sizeof verdict.message, "rank %d: %s", base->rank, text);

    int lowest = mine == SL_OK ? INT_MAX : base->rank;
    MPI_Request request;
    SL_TRY(SL_MPI(MPI_Iallreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, t->comm, &request),
                  "agree on a status"));
    SL_TRY(sl_mpi_wait(&request, "agree on a status", NULL));
    if (lowest == INT_MAX) return SL_OK;

    SL_TRY(SL_MPI(MPI_Ibcast(&verdict, (int)sizeof verdict, MPI_BYTE, lowest, t->comm, &request),
                  "pass on the failing rank's message"));
    SL_TRY(sl_mpi_wait(&request, "pass on the failing rank's message", NULL));
    verdict.message[sizeof verdict.message - 1] = '\0';
    return sl_fail_text((sl_status)verdict.status, verdict.message);
}

static sl_status mpi_min_i64(sl_transport *base, int64_t *values, int n) {
    if (n < 0) return SL_FAIL(SL_ERR_ARG, "mpi transport: minimum of %d values", n);
    MPI_Request request;
    SL_TRY(SL_MPI(MPI_Iallreduce(MPI_IN_PLACE, values, n, MPI_INT64_T, MPI_MIN, self_of(base)->comm,
                                 &request),
                  "take the minimum over the ranks"));
    return sl_mpi_wait(&request, "take the minimum over the ranks", NULL);
}

static sl_status mpi_broadcast(sl_transport *base, int root, void *buf, size_t bytes) {
    transport_mpi *t = self_of(base);
    SL_TRY(check_peer(t, root, SL_CHANNEL_HEADER));
    for (size_t at = 0; at < bytes; at += t->piece_bytes) {
        const size_t n = bytes - at < t->piece_bytes ? bytes - at : t->piece_bytes;
        MPI_Request request;
        SL_TRY(SL_MPI(MPI_Ibcast((char *)buf + at, (int)n, MPI_BYTE, root, t->comm, &request),
                      "broadcast"));
        SL_TRY(sl_mpi_wait(&request, "broadcast", NULL));
    }
    return SL_OK;
}

static sl_status mpi_gather(sl_transport *base, const void *mine, size_t bytes, void *out) {
    transport_mpi *t = self_of(base);
    if (bytes > INT_MAX)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: gather of %zu bytes a rank, at most %d", bytes,
                       INT_MAX);
    if (bytes == 0) return SL_OK;
    MPI_Request request;
    SL_TRY(SL_MPI(
        MPI_Igather(mine, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, 0, t->comm, &request),
        "gather"));
    return sl_mpi_wait(&request, "gather", NULL);
}

/* ---- beginning and end ---- */

/* Ends what is still under way: only after a failure is there any.  Returns how many transfers had
 * to be left to MPI. */
static int abandon_transfers(transport_mpi *t) {
    const double until_s = sl_clock_s() + CLOSE_PATIENCE_S;
    int n_left = 0;
    for (int i = 0; i < t->tickets.n; i++) {
        sl_transfer *x = t->tickets.place[i];
        if (!x->is_open) continue;
        for (int r = 0; r < x->n_requests; r++) {
            MPI_Request *request = &x->requests[r];
            sl_backoff backoff = {0};
            if (*request == MPI_REQUEST_NULL) continue;
            if (x->is_recv) MPI_Cancel(request);
            for (int done = 0;;) {
                if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done) break;
                if (sl_clock_s() > until_s) {
                    MPI_Request_free(request);
                    n_left++;
                    break;
                }
                sl_backoff_pause(&backoff);
            }
        }
    }
    return n_left;
}

static void mpi_close(sl_transport *base) {
    transport_mpi *t = self_of(base);
    int is_down = 0;
    if (t->comm != MPI_COMM_NULL && MPI_Finalized(&is_down) == MPI_SUCCESS && !is_down &&
        abandon_transfers(t) == 0)
        MPI_Comm_free(&t->comm);
    sl_tickets_free(&t->tickets);
    free(t);
}

static const sl_transport_ops mpi_ops = {
    .name = "mpi",
    .close = mpi_close,
    .send = mpi_send,
    .recv = mpi_recv,
    .test = mpi_test,
    .wait = mpi_wait,
    .recv_message = mpi_recv_message,
    .agree = mpi_agree,
    .min_i64 = mpi_min_i64,
    .broadcast = mpi_broadcast,
    .gather = mpi_gather,
};

sl_status sl_transport_open_mpi_pieces(size_t piece_bytes, sl_transport **out) {
    if (piece_bytes < 1 || piece_bytes > INT_MAX)
        return SL_FAIL(SL_ERR_ARG, "mpi transport: pieces of %zu bytes, expected 1 to %d",
                       piece_bytes, INT_MAX);
    int is_up = 0;
    SL_TRY(SL_MPI(MPI_Initialized(&is_up), "open the mpi transport"));
    if (!is_up) return SL_FAIL(SL_ERR_ARG, "mpi transport: MPI is not started");

    sl_status st = SL_OK;
    transport_mpi *t = calloc(1, sizeof *t);
    if (!t) return SL_FAIL(SL_ERR_NOMEM, "mpi transport: out of host memory");
    t->base.ops = &mpi_ops;
    t->comm = MPI_COMM_NULL;
    t->piece_bytes = piece_bytes;
    sl_tickets_init(&t->tickets);
    SL_GO(SL_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &t->comm), "open the mpi transport"));
    SL_GO(SL_MPI(MPI_Comm_set_errhandler(t->comm, MPI_ERRORS_RETURN), "open the mpi transport"));
    SL_GO(SL_MPI(MPI_Comm_rank(t->comm, &t->base.rank), "open the mpi transport"));
    SL_GO(SL_MPI(MPI_Comm_size(t->comm, &t->base.n_ranks), "open the mpi transport"));
    *out = &t->base;
    return SL_OK;
fail:
    mpi_close(&t->base);
    return st;
}

sl_status sl_transport_open_mpi(sl_transport **out) {
    return sl_transport_open_mpi_pieces(PIECE_BYTES, out);
}

int sl_transport_mpi_n_places(const sl_transport *t) {
    return ((const transport_mpi *)t)->tickets.n;
}
