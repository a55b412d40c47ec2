/* trace_clock.h - how far the clocks of the ranks are apart.
 *
 * Each rank has a clock of its own (base/clock.h) that starts when its host does.  All ranks leave
 * a collective at nearly the same moment; what their clocks show then tells them apart, and the
 * median over several collectives is not moved by a rank that was late once.  It is right to about
 * the time that a message takes, some 10 to 100 us between hosts.  Ranks of one host read the same
 * clock, and are not apart at all.  That clocks of hosts run at rates that differ by some
 * millionths is not made up for: a few us for each second since. Layer: job.  May include: base,
 * engine.  Thread safety: pure functions, and a collective.
 */
#ifndef SL_JOB_TRACE_CLOCK_H
#define SL_JOB_TRACE_CLOCK_H

#include "base/status.h"
#include "engine/transport.h"

enum { SL_TRACE_CLOCK_ROUNDS = 9, SL_TRACE_HOST_BYTES = 64 };

/* One rank's clock. */
typedef struct {
    char host[SL_TRACE_HOST_BYTES];
    double at_s[SL_TRACE_CLOCK_ROUNDS]; /* what it showed at the end of each collective */
} sl_trace_clock;

/* Collective.  On the first rank all is [n_ranks], in rank order; elsewhere it may be NULL.
 * Errors: SL_ERR_COMM. */
sl_status sl_trace_clock_read(sl_transport *transport, sl_trace_clock *all);

/* Seconds that `clock` is ahead of `first`; 0 for two ranks of a host. */
double sl_trace_clock_ahead_s(const sl_trace_clock *first, const sl_trace_clock *clock);

#endif
