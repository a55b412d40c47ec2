/* program_measured.h - the linear program over placements for one block: fastest shares that fit.
 *
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_PROGRAM_MEASURED_H
#define SL_POLICY_PROGRAM_MEASURED_H

#include "lp.h"
#include "plan_problem.h"
#include "room.h"

typedef struct {
    sl_room_mode mode;
    int all_on_device; /* 1: no weights are streamed, and rings hold nothing up */
    int uses_disk;
} sl_program_mode;

/* Columns: the shares' variables without ONE, then a sweep's time by phase, in units of what it
 * takes at least.  Rows: sums of shares, times, and the memory rows, in GiB, from *memory_row_out
 * on: gpu, cpu, disk, and host memory while weights are loaded.  The caller closes *out.
 *   budget_bytes  [SL_TIER_COUNT]
 * Errors: SL_ERR_NOMEM. */
enum { SL_PROGRAM_N_MEMORY_ROWS = SL_TIER_COUNT + 1 };
sl_status sl_program_measured(const sl_plan_problem *problem, const sl_cost_terms *terms,
                              const sl_room *room, sl_program_mode mode, const double *budget_bytes,
                              sl_lp **out, int *memory_row_out);

/* Solves it.  *seconds_out: of the job; *x_out: [SL_COST_N_VARS], written if *found_out.
 * Method PLAIN takes a tenth of a millisecond, but now and then says that there is no solution
 * where there is one; AUTO is sure, and takes up to a hundred times as long where there is none. */
sl_status sl_program_measured_solve(const sl_plan_problem *problem, const sl_cost_terms *terms,
                                    const sl_room *room, sl_program_mode mode,
                                    const double *budget_bytes, sl_lp_method method, int *found_out,
                                    double *seconds_out, double *x_out);

#endif
