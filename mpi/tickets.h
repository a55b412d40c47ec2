/* tickets.h - the transfers under way, by ticket.
 *
 * A ticket names a place in a table and the place's generation, so that a ticket that was given
 * back is known as such and never mistaken for a later one.  Places are reused: in steady state
 * nothing is allocated.
 * Layer: mpi.  May include: src.  Thread safety: one thread per table.
 */
#ifndef SL_MPI_TICKETS_H
#define SL_MPI_TICKETS_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/transport.h"

/* One message: its pieces are sent or received by one MPI request each. */
typedef struct {
    int is_recv;
    int peer;
    sl_channel channel;
    size_t bytes;
    int failed; /* a request failed; the others may still be under way */
    int n_requests;
    int n_done;            /* requests[0 .. n_done) are done */
    MPI_Request *requests; /* [n_requests] */

    /* The table's own. */
    MPI_Request one; /* requests, for the usual message of one piece */
    uint32_t generation;
    int is_open;
    int next_free; /* index, -1: none */
} sl_transfer;

typedef struct {
    int n;
    int first_free;      /* index, -1: none */
    sl_transfer **place; /* [n], each at a fixed address */
} sl_tickets;

void sl_tickets_init(sl_tickets *t);
void sl_tickets_free(sl_tickets *t);

/* A transfer of `n_requests` (>= 1) null requests; the other fields are zero.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_tickets_get(sl_tickets *t, int n_requests, sl_ticket *ticket_out, sl_transfer **out);

/* The open transfer of a ticket, or NULL. */
sl_transfer *sl_tickets_find(const sl_tickets *t, sl_ticket ticket);

/* Gives an open transfer's place back. */
void sl_tickets_put(sl_tickets *t, sl_ticket ticket);

#endif
