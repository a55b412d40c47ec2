/* search_flexgen.h - the block shape with the highest throughput, by enumeration.
 *
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 * Source: FlexGen section 4.3 and the authors' published program.
 */
#ifndef SL_POLICY_SEARCH_FLEXGEN_H
#define SL_POLICY_SEARCH_FLEXGEN_H

#include "base/status.h"
#include "cost_flexgen.h"

/* Beyond these the enumeration ends, as those of `sluice run` do; nothing else bounds it where
 * memory is plentiful. */
enum { SL_SEARCH_FLEXGEN_MAX_MICRO_BATCH = 65536, SL_SEARCH_FLEXGEN_MAX_NUM = 4096 };

typedef struct {
    sl_flexgen_plan
        best;       /* is_feasible 0: no shape fits; the shape is the smallest that was tried */
    int n_programs; /* linear programs that were solved */
} sl_flexgen_found;

/* Tries micro-batches of 1, 2, 3, 4, 8, 16, ... sequences until one of them alone does not fit;
 * with each, blocks of 1, 2, 3, ... micro-batches up to the largest that fits or until throughput
 * falls. Of equal throughputs the smaller micro-batch wins, then the larger number. micro_batch,
 * num_micro_batches  0: all; else only this one Takes some tenths of a second for large models,
 * below ten seconds where memory never runs out. Errors: as sl_cost_flexgen(); SL_ERR_ARG for
 * shapes beyond the limits above. */
sl_status sl_search_flexgen(const sl_flexgen_problem *problem, int micro_batch,
                            int num_micro_batches, sl_flexgen_found *out);

/* The largest number of micro-batches, at most `most`, that fits; 0: not even one.
 *   n_programs  is counted up */
sl_status sl_search_flexgen_largest(const sl_flexgen_problem *problem, int micro_batch, int most,
                                    int *n_programs, int *out);

#endif
