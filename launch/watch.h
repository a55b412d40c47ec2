/* watch.h - ends all ranks together: what the guard finds is told to the user, once, and every
 * process goes.
 *
 * Layer: launch.  May include: all.  Thread safety: main thread.
 */
#ifndef SL_LAUNCH_WATCH_H
#define SL_LAUNCH_WATCH_H

#include <stddef.h>

#include "commands.h"

typedef struct sl_watch sl_watch;

/* Collective.  Ranks watch each other from now on, and signals are noted; without MPI *out = NULL
 * and nothing happens.
 *   timeout_s   silence after which a rank counts as lost
 *   patience_s  time that all have to end by themselves after a failure or a signal
 *   quiet       no note about ranks that cannot be watched
 * Errors: SL_ERR_COMM, SL_ERR_NOMEM, on this rank alone. */
sl_status sl_watch_open(const sl_launch *launch, double timeout_s, double patience_s, int quiet,
                        sl_watch **out);

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
