/* guard.h - ranks that watch each other, so that all end soon when one of them cannot go on.
 *
 * A thread beside the one that computes holds a TCP connection to the first rank (the first rank:
 * to all), over which signs of life go.  A connection that closes is a rank that died; silence is a
 * host that vanished.  MPI itself tells neither in time.  A failure or a signal is told to all, and
 * when the ranks have not ended by themselves after some patience, they are made to; so are ranks
 * that all live, have work, and get nothing done.  One rank alone is watched for that, without MPI.
 * Layer: mpi.  May include: src.  Thread safety: open and close from the main thread; tell from
 * any; signal from a signal handler too.
 */
#ifndef SL_MPI_GUARD_H
#define SL_MPI_GUARD_H

#include "base/pulse.h"
#include "base/status.h"
#include "session.h"

typedef struct sl_guard sl_guard;

/* What is done about it is the caller's business.  All are called from the guard's thread. */
typedef struct {
    double timeout_s;  /* silence after which a rank counts as lost, > 0 */
    double patience_s; /* from a failure or a signal until ranks are made to end */
    /* Time without anything done on any rank while the first one is busy, until ranks are made to
     * end; 0: any.  Ranks that are not watched may be at work unseen, so there has to be none. */
    double stall_s;
    const sl_pulse *pulse; /* this rank's, borrowed until close; NULL: it never moves */
    /* Tells the user: once over all ranks.  rank: whose fault, -1: nobody's alone; reason: without
     * rank and host. */
    void (*say)(void *context, int rank, const char *reason);
    /* Ends this process at once; where it returns, the guard is over. */
    void (*end)(void *context);
    /* First rank: rank `rank` got a signal, and the work should come to its end. */
    void (*stop)(void *context, int rank, const char *reason);
    void *context;
} sl_guard_options;

/* Collective, with one rank without MPI.  n_unlinked_out: ranks that could not reach the first one
 * and are not watched. Errors: SL_ERR_COMM, SL_ERR_NOMEM, on this rank alone. */
sl_status sl_guard_open(const sl_mpi_info *info, const sl_guard_options *options,
                        int *n_unlinked_out, sl_guard **out);

/* Says goodbye and ends the thread.  `outcome`: of the work; one that a lost rank may have caused
 * is looked into first, and then this may not return.  NULL is allowed. */
void sl_guard_close(sl_guard *guard, sl_status outcome);

/* A failure of this rank: the others learn of it at once.  NULL is allowed. */
void sl_guard_tell(sl_guard *guard, const char *message);

/* This process got a signal.  Async-signal-safe. */
void sl_guard_signal(sl_guard *guard, int number);

/* The rank that got the signal of which `stop` was told, -1: none. */
int sl_guard_signalled_rank(sl_guard *guard);

#endif
