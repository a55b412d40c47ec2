/* watch.h - ends all ranks together: what the guard finds is told to the user, once, and every
 * process goes.
 *
 * Layer: launch.  May include: all.  Thread safety: main thread.
 */
#ifndef SL_LAUNCH_WATCH_H
#define SL_LAUNCH_WATCH_H

#include <stddef.h>

#include "base/pulse.h"
#include "commands.h"

typedef struct sl_watch sl_watch;

typedef struct {
    double timeout_s;      /* silence after which a rank counts as lost */
    double patience_s;     /* that all have to end by themselves after a failure or a signal */
    double stall_s;        /* in which no rank gets anything done, although there is work; 0: any */
    const sl_pulse *pulse; /* this rank's, borrowed until close */
    int quiet;             /* no note about ranks that cannot be watched */
} sl_watch_options;

/* Collective.  Ranks watch each other from now on, and signals are noted.  Without MPI all that is
 * watched is whether this rank gets anything done; what is neither watched so nor under MPI, and
 * simulated ranks: *out = NULL, and nothing happens.
 * Errors: SL_ERR_COMM, SL_ERR_NOMEM, on this rank alone. */
sl_status sl_watch_open(const sl_launch *launch, const sl_watch_options *options, sl_watch **out);

/* A failure of this rank, with its message.  NULL is allowed. */
void sl_watch_tell(void *watch, const char *message);

/* See sl_guard_close(): does not return where a lost rank is behind the outcome. */
void sl_watch_close(sl_watch *watch, sl_status outcome);

/* "rank 1 on node2: out of memory" out of "rank 1: out of memory".  culprit: the rank to name
 * instead of the message's, -1: none.  Without MPI and with one rank: the message. */
void sl_watch_name_rank(const sl_launch *launch, int culprit, const char *message, char *out,
                        size_t out_bytes);

/* Which rank got the signal that ended the work. */
int sl_watch_signalled_rank(void);

#endif
