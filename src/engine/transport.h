/* transport.h - how ranks hand blocks and results to each other.
 *
 * A transport is a table of functions and its state: loopback (one rank), MPI, NCCL.
 * Messages of one (source, destination, channel) arrive in the order they were sent.
 * Layer: engine.  May include: base.  Thread safety: one thread per transport.
 */
#ifndef SL_ENGINE_TRANSPORT_H
#define SL_ENGINE_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SL_CHANNEL_HEADER, /* block headers, first rank -> ... -> last rank */
    SL_CHANNEL_HIDDEN, /* hidden states of a micro-batch, rank r -> r + 1 */
    SL_CHANNEL_RESULT, /* chosen tokens, last rank -> first rank */
    SL_CHANNEL_NOTICE, /* that a micro-batch's hidden states are on their way, rank r -> r + 1 */
    SL_CHANNEL_CREDIT, /* that there is room for them on its device, rank r + 1 -> r */
    SL_CHANNEL_COUNT
} sl_channel;

typedef struct sl_transport sl_transport;

/* A transfer under way; 0 is "none" and counts as done. */
typedef uint64_t sl_ticket;

typedef struct {
    const char *name; /* "loopback", "mpi", "nccl" */

    void (*close)(sl_transport *t);

    /* Starts sending; returns at once.  `buf` may be reused when the ticket is done. */
    sl_status (*send)(sl_transport *t, int to, sl_channel channel, const void *buf, size_t bytes,
                      sl_ticket *ticket_out);

    /* Starts receiving exactly `bytes` into buf; returns at once. */
    sl_status (*recv)(sl_transport *t, int from, sl_channel channel, void *buf, size_t bytes,
                      sl_ticket *ticket_out);

    /* Whether a transfer is done; never waits.  A done ticket may be asked for once only. */
    sl_status (*test)(sl_transport *t, sl_ticket ticket, int *done_out);

    /* Waits without burning a core until the ticket is done. */
    sl_status (*wait)(sl_transport *t, sl_ticket ticket);

    /* Waits for a message of unknown length and gives it in a malloc'ed buffer, the caller frees
     * it. `wait` 0: returns at once with *buf_out = NULL if none is there. */
    sl_status (*recv_message)(sl_transport *t, int from, sl_channel channel, int wait,
                              void **buf_out, size_t *bytes_out);

    /* Collective.  All ranks give their status; all get SL_OK, or the status of the lowest failing
     * rank with its message, prefixed with "rank R: ". */
    sl_status (*agree)(sl_transport *t, sl_status mine);

    /* Collective.  values[i] = minimum over the ranks, [n]. */
    sl_status (*min_i64)(sl_transport *t, int64_t *values, int n);

    /* Collective.  root's bytes to all, in place. */
    sl_status (*broadcast)(sl_transport *t, int root, void *buf, size_t bytes);

    /* Collective.  Each rank's `bytes` to `out` on rank 0, in rank order, [n_ranks * bytes]. */
    sl_status (*gather)(sl_transport *t, const void *mine, size_t bytes, void *out);

    /* Of a transport that reaches the memory of devices; all four, or NULL. */

    /* Queue a transfer of hidden states to the rank after, from the rank before, on a stream of the
     * device (sl_device_ops.native_stream).  The device carries it out when both sides have queued
     * it, in order; until then it occupies both devices, so queue it when the peer is about to. */
    sl_status (*send_device)(sl_transport *t, const void *memory, size_t bytes, void *stream);
    sl_status (*recv_device)(sl_transport *t, void *memory, size_t bytes, void *stream);
    /* Called now and then while one waits for such transfers; `waited_s`: how long for the oldest.
     * Errors: SL_ERR_COMM when one has failed, or the peer is too late. */
    sl_status (*check_device)(sl_transport *t, double waited_s);
    /* Ends them, whatever state they are in, and for good. */
    void (*cut_device)(sl_transport *t);
} sl_transport_ops;

/* Every transport's state begins with this. */
struct sl_transport {
    const sl_transport_ops *ops;
    int rank;
    int n_ranks;
};

static inline int sl_transport_is_first(const sl_transport *t) {
    return t->rank == 0;
}
static inline int sl_transport_is_last(const sl_transport *t) {
    return t->rank == t->n_ranks - 1;
}
static inline void sl_transport_close(sl_transport *t) {
    if (t) t->ops->close(t);
}

/* The transport of a single rank: collectives give back their input, sends are errors. */
sl_status sl_transport_open_loopback(sl_transport **out);

#ifdef __cplusplus
}
#endif
#endif
