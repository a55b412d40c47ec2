/* lp.h - small linear programs: minimise cost.x subject to row bounds and column bounds.
 *
 * A program is dense, ours, and independent of GLPK, which sees a copy while it is solved.  Rows
 * are best written in units in which their numbers are neither huge nor tiny (GiB, ms); they are
 * scaled once more before solving.  A solution is handed out only after it was checked against the
 * rows. Layer: policy.  May include: src, glpk.  Thread safety: one owner while it is built;
 * solving only reads it.
 */
#ifndef SL_POLICY_LP_H
#define SL_POLICY_LP_H

#include <stddef.h>

#include "base/status.h"

typedef struct sl_lp sl_lp;

typedef enum {
    SL_LP_OPTIMAL,
    SL_LP_INFEASIBLE /* no point keeps all bounds */
} sl_lp_outcome;

typedef enum {
    SL_LP_AUTO,    /* simplex; unless that proves an optimum, simplex in exact numbers */
    SL_LP_PLAIN,   /* simplex alone */
    SL_LP_PRESOLVE /* simplex after GLPK's presolver */
} sl_lp_method;

enum { SL_LP_MAX_COLS = 1024, SL_LP_MAX_ROWS = 4096 };

/* An empty program: columns are in [0, inf) at no cost.  The caller closes *out.
 * Errors: SL_ERR_ARG (sizes outside of 1..MAX), SL_ERR_NOMEM. */
sl_status sl_lp_open(int n_cols, int n_rows_max, sl_lp **out);
void sl_lp_close(sl_lp *lp); /* NULL is allowed */

/* Bounds and cost of a column; -INFINITY and INFINITY mean none.
 * Errors: SL_ERR_ARG (column, NaN, lower above upper, infinite cost). */
sl_status sl_lp_set_col(sl_lp *lp, int col, double lower, double upper, double cost);

/* The column takes whole numbers only; its bounds must be finite.  Errors: SL_ERR_ARG. */
sl_status sl_lp_set_whole(sl_lp *lp, int col);

/* Adds lower <= coefs.x <= upper.
 *   coefs  [n_cols], finite
 * Errors: SL_ERR_ARG (no room for another row, NaN, lower above upper, infinite coefficient). */
sl_status sl_lp_add_row(sl_lp *lp, const double *coefs, double lower, double upper);

int sl_lp_n_cols(const sl_lp *lp);
int sl_lp_n_rows(const sl_lp *lp);

/* Minimises.
 *   x  [n_cols], written only if *outcome_out is SL_LP_OPTIMAL; within the column bounds, and
 * within each row's bounds to 1e-7 of the row's size Takes at most some seconds, and well below a
 * millisecond for a program of a dozen columns. Errors: SL_ERR_NOMEM; SL_ERR_ARG if the program is
 * unbounded, or neither solved nor refused within the time (the message says what GLPK returned).
 */
sl_status sl_lp_solve(const sl_lp *lp, sl_lp_method method, double *x, sl_lp_outcome *outcome_out);

/* The same with columns of whole numbers kept whole, to within a thousandth of the optimum.
 * Errors: as above. */
sl_status sl_lp_solve_whole(const sl_lp *lp, double *x, sl_lp_outcome *outcome_out);

/* By how much upper bounds of rows must grow until the program has a solution: minimises
 * weights.slack with the rows of group g allowed to exceed their upper bounds by slack[g], the
 * program's own costs left out.
 *   groups   [n_rows], 0..n_groups-1, or -1: the row stays as it is
 *   weights  [n_groups], > 0; INFINITY: the group stays as it is
 *   slack    [n_groups], x [n_cols]: written only if *outcome_out is SL_LP_OPTIMAL
 * SL_LP_INFEASIBLE: no slack would help.  Errors: as above. */
sl_status sl_lp_relax(const sl_lp *lp, const int *groups, const double *weights, int n_groups,
                      double *slack, double *x, sl_lp_outcome *outcome_out);

#endif
