/* cost_sweep.h - what one sweep of a block takes: busy queues, and the schedule played through.
 *
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_COST_SWEEP_H
#define SL_POLICY_COST_SWEEP_H

#include "cost_measured.h"
#include "replay.h"

typedef struct {
    double queue_s[SL_COST_N_QUEUES]; /* of the rank that takes longest */
    double sweep_s;                   /* from the start of one to that of the next */
    double cold_s;                    /* more if it is the first of all: nothing is loaded, and the
                                       * ranks wait for their first block */
} sl_cost_sweep;

/* The mean sweep of turns->load[phase]; its terms come out too.  Of several ranks the slowest
 * counts, or the way through all of them where there are too few blocks to hide it.
 * Errors: those of sl_cost_terms_make() and of the replay; a rate that is missing. */
sl_status sl_cost_sweep_of(const sl_cost_problem *problem, const sl_policy *policy,
                           const sl_turns *turns, int phase, sl_cost_terms *terms_out,
                           sl_cost_sweep *out);

#endif
