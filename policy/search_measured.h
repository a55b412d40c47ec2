/* search_measured.h - the fastest policy for a job on a measured machine.
 *
 * Block shapes and precisions are enumerated; for each, linear programs give the fastest shares
 * that fit, and what is promising is rounded to whole sequences, measured and timed exactly.
 * Shapes are left out only if what no placement of them avoids takes longer than the best policy
 * that was found.
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_SEARCH_MEASURED_H
#define SL_POLICY_SEARCH_MEASURED_H

#include "plan_problem.h"
#include "shortage_measured.h"

enum { SL_PLAN_MAX_MICRO_BATCH = 1024, SL_PLAN_MAX_NUM = 64, SL_PLAN_MAX_ROWS = 65536 };

typedef struct {
    sl_plan_shape shape;
    sl_policy policy; /* complete; layers_per_rank NULL */
    sl_cost cost;
    sl_footprint memory;
    double pages_frac; /* > 0: not all of its sequences fit on the device at their longest, but that
                        * part of their pages, which is enough when their ages are spread */
} sl_measured_plan;

typedef struct {
    int is_feasible, has_second;
    sl_measured_plan best;
    sl_measured_plan second; /* fastest of another precision or a block of other proportions */
    sl_measured_shortage shortage; /* where nothing is feasible */
    double
        least_request_s; /* the shortest that was seen, where max_request_s rules all out; else 0 */
    int n_shapes, n_programs, n_measured;
} sl_measured_found;

/* Takes some seconds at most.  That nothing fits is no error.
 * Errors: SL_ERR_ARG (numbers out of range, a rate that the profile lacks), SL_ERR_NOMEM. */
sl_status sl_search_measured(const sl_plan_problem *problem, sl_measured_found *out);

#endif
