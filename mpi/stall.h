/* stall.h - finds out that ranks which are all alive get nothing done any more.
 *
 * Devices that wait for each other, a driver's call that never returns: nobody dies, nobody is
 * silent, and the work stands still.  What shows it is that no rank's pulse has moved for long.
 * Layer: mpi.  May include: src.  Thread safety: one owner.
 */
#ifndef SL_MPI_STALL_H
#define SL_MPI_STALL_H

#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"
#include "base/status.h"

typedef struct sl_stall sl_stall;

/* patience_s: time without anything done by any rank, > 0.  Errors: SL_ERR_NOMEM. */
sl_status sl_stall_open(int n_ranks, double patience_s, double now_s, sl_stall **out);
void sl_stall_close(sl_stall *stall); /* NULL is allowed */

/* What a rank is at, in words for sl_stall_note(): "" when it waits for others. */
void sl_stall_describe(const sl_pulse_view *pulse, char *text, size_t room);

/* What a rank has told of itself: things done so far, and what it is at. */
void sl_stall_note(sl_stall *stall, int rank, uint64_t n_done, const char *at, double now_s);

/* The time until now does not count: there was no work, or nobody was there to see it. */
void sl_stall_forgive(sl_stall *stall, double now_s);

/* 1: the ranks are stalled.  *rank_out: the one with work of its own that stopped first, -1: each
 * waits for another; text: the reason, for the user. */
int sl_stall_check(const sl_stall *stall, double now_s, int *rank_out, char *text, size_t room);

#endif
