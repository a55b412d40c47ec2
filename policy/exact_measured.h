/* exact_measured.h - from a block's shape to a placement that fits: programs, rounding, measuring.
 *
 * Layer: policy.  May include: src, glpk.  Thread safety: one owner per object.
 */
#ifndef SL_POLICY_EXACT_MEASURED_H
#define SL_POLICY_EXACT_MEASURED_H

#include "plan_problem.h"
#include "program_measured.h"
#include "room.h"

/* Between init and the last call; nothing is owned. */
typedef struct {
    const sl_plan_problem *q; /* borrowed */
    sl_cost_problem cost;
    sl_lp_method method;                         /* of the programs */
    sl_room_weights weights[SL_PROFILE_FORMATS]; /* of the problem's precisions */
    int n_programs, n_measured;
    /* Of the shape bounded last. */
    sl_plan_shape turns_shape;
    sl_turns turns;
    /* Of the shape solved last. */
    sl_plan_shape shape;
    sl_program_mode mode;
    sl_cost_terms terms;
    sl_room room;
    double x[SL_COST_N_VARS];
    double over_bytes[SL_TIER_COUNT]; /* what the placement measured last takes too much */
} sl_plan_exact;

sl_status sl_plan_exact_init(const sl_plan_problem *problem, sl_plan_exact *out);

/* Seconds of computation and reading that no placement avoids; INFINITY: there is no room. */
sl_status sl_plan_exact_bound(sl_plan_exact *e, const sl_plan_shape *shape, double *seconds_out);

/* Solves the shape's programs; *seconds_out: of the best.  Disk, where there is one, is used if
 * nothing fits without, or if uses_disk says so. */
sl_status sl_plan_exact_solve(sl_plan_exact *e, const sl_plan_shape *shape, int uses_disk,
                              int *found_out, double *seconds_out);

/* Rounds the solution found last, and where that takes more than there is, solves again with as
 * much less.  *found_out 0: it does not come to an end within the budgets. */
sl_status sl_plan_exact_round(sl_plan_exact *e, int *found_out, sl_policy *policy_out,
                              sl_cost *cost_out, sl_footprint *memory_out);

#endif
