/* shortage_flexgen.h - why a block does not fit, and what would help.
 *
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_SHORTAGE_FLEXGEN_H
#define SL_POLICY_SHORTAGE_FLEXGEN_H

#include "base/status.h"
#include "cost_flexgen.h"

typedef struct {
    /* What one tier's budget lacks while the others stay as they are; INFINITY: no size of this
     * tier alone is enough. */
    double alone_bytes[SL_TIER_COUNT];
    /* The peak that needs it, where alone_bytes is finite and positive. */
    sl_flexgen_peak alone_peak[SL_TIER_COUNT];
    /* What they lack when all of them may grow, as little GPU memory and as much disk as possible
     * among it; always enough. */
    double together_bytes[SL_TIER_COUNT];

    /* A smaller block that fits the budgets as they are, as large as could be found by taking fewer
     * micro-batches, then by halving them; 0 x 0: none. */
    int micro_batch, num_micro_batches;
    int fits_when_free; /* 1: the block fits if its shares are not fixed */
} sl_flexgen_shortage;

/* For a block that sl_cost_flexgen() found infeasible.  Errors: as there. */
sl_status sl_shortage_flexgen(const sl_flexgen_problem *problem, int micro_batch,
                              int num_micro_batches, sl_flexgen_shortage *out);

#endif
