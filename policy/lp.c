#include "lp.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <glpk.h>

#include "glpk_call.h"

/* A program of a dozen columns takes some tens of iterations. */
enum { TIME_LIMIT_MS = 2000, WHOLE_TIME_LIMIT_MS = 5000, ITERATION_LIMIT = 100000 };

/* Largest violation of a row, relative to its terms, that counts as kept. */
static const double accepted = 1e-7;

struct sl_lp {
    int n_cols, n_rows, n_rows_max;
    double *col_lower, *col_upper, *cost; /* [n_cols] */
    double *row_lower, *row_upper;        /* [n_rows_max] */
    double *coefs;                        /* [n_rows_max, n_cols] */
    unsigned char *whole;                 /* [n_cols] */
};

/* ---- building ---- */

sl_status sl_lp_open(int n_cols, int n_rows_max, sl_lp **out) {
    if (n_cols < 1 || n_cols > SL_LP_MAX_COLS || n_rows_max < 1 || n_rows_max > SL_LP_MAX_ROWS)
        return SL_FAIL(SL_ERR_ARG, "linear program of %d columns and %d rows", n_cols, n_rows_max);
    const size_t cols = (size_t)n_cols, rows = (size_t)n_rows_max;
    sl_lp *lp = calloc(1, sizeof *lp);
    double *numbers = calloc(3 * cols + 2 * rows + rows * cols, sizeof *numbers);
    unsigned char *whole = calloc(cols, 1);
    if (!lp || !numbers || !whole) {
        free(lp);
        free(numbers);
        free(whole);
        return SL_FAIL(SL_ERR_NOMEM, "linear program of %d columns and %d rows: out of host memory",
                       n_cols, n_rows_max);
    }
    lp->n_cols = n_cols;
    lp->whole = whole;
    lp->n_rows_max = n_rows_max;
    lp->col_lower = numbers;
    lp->col_upper = lp->col_lower + cols;
    lp->cost = lp->col_upper + cols;
    lp->row_lower = lp->cost + cols;
    lp->row_upper = lp->row_lower + rows;
    lp->coefs = lp->row_upper + rows;
    for (int c = 0; c < n_cols; c++) lp->col_upper[c] = INFINITY;
    *out = lp;
    return SL_OK;
}

void sl_lp_close(sl_lp *lp) {
    if (!lp) return;
    free(lp->col_lower); /* the others lie behind it */
    free(lp->whole);
    free(lp);
}

int sl_lp_n_cols(const sl_lp *lp) {
    return lp->n_cols;
}

int sl_lp_n_rows(const sl_lp *lp) {
    return lp->n_rows;
}

/* False for NaN too. */
static int is_interval(double lower, double upper) {
    return lower <= upper && lower < INFINITY && upper > -INFINITY;
}

sl_status sl_lp_set_col(sl_lp *lp, int col, double lower, double upper, double cost) {
    if (col < 0 || col >= lp->n_cols || !is_interval(lower, upper) || !isfinite(cost))
        return SL_FAIL(SL_ERR_ARG, "column %d of %d within [%g, %g] at cost %g", col, lp->n_cols,
                       lower, upper, cost);
    lp->col_lower[col] = lower;
    lp->col_upper[col] = upper;
    lp->cost[col] = cost;
    return SL_OK;
}

sl_status sl_lp_set_whole(sl_lp *lp, int col) {
    if (col < 0 || col >= lp->n_cols || !isfinite(lp->col_lower[col]) ||
        !isfinite(lp->col_upper[col]))
        return SL_FAIL(SL_ERR_ARG, "column %d of %d is to be whole, without bounds", col,
                       lp->n_cols);
    lp->whole[col] = 1;
    return SL_OK;
}

sl_status sl_lp_add_row(sl_lp *lp, const double *coefs, double lower, double upper) {
    if (lp->n_rows == lp->n_rows_max)
        return SL_FAIL(SL_ERR_ARG, "more than %d rows", lp->n_rows_max);
    if (!is_interval(lower, upper))
        return SL_FAIL(SL_ERR_ARG, "row %d within [%g, %g]", lp->n_rows, lower, upper);
    for (int c = 0; c < lp->n_cols; c++) {
        if (!isfinite(coefs[c]))
            return SL_FAIL(SL_ERR_ARG, "row %d, column %d: coefficient %g", lp->n_rows, c,
                           coefs[c]);
    }
    memcpy(lp->coefs + (size_t)lp->n_rows * (size_t)lp->n_cols, coefs,
           (size_t)lp->n_cols * sizeof *coefs);
    lp->row_lower[lp->n_rows] = lower;
    lp->row_upper[lp->n_rows] = upper;
    lp->n_rows++;
    return SL_OK;
}

/* ---- solving ---- */

typedef enum { DECIDED_OPTIMAL, DECIDED_INFEASIBLE, DECIDED_UNBOUNDED, UNDECIDED } decision;

/* What one call into GLPK works on; outside of it because a failure does not return. */
typedef struct {
    const sl_lp *lp;
    sl_lp_method method;
    int *index;    /* [n_cols + 1] */
    double *value; /* [n_cols + 1] */
    double *x;     /* [n_cols] */
    double *y;     /* [n_rows] duals of the rows */
    decision made;
    int code, status; /* what GLPK said, for the message */
} job;

static int bound_type(double lower, double upper) {
    if (lower == upper) return GLP_FX;
    if (isinf(lower)) return isinf(upper) ? GLP_FR : GLP_UP;
    return isinf(upper) ? GLP_LO : GLP_DB;
}

static glp_prob *load(const job *j) {
    const sl_lp *lp = j->lp;
    glp_prob *p = glp_create_prob();
    glp_set_obj_dir(p, GLP_MIN);
    glp_add_cols(p, lp->n_cols);
    for (int c = 0; c < lp->n_cols; c++) {
        const double lower = lp->col_lower[c], upper = lp->col_upper[c];
        glp_set_col_bnds(p, c + 1, bound_type(lower, upper), lower, upper);
        glp_set_obj_coef(p, c + 1, lp->cost[c]);
        if (lp->whole[c]) glp_set_col_kind(p, c + 1, GLP_IV);
    }
    if (lp->n_rows > 0) glp_add_rows(p, lp->n_rows);
    for (int r = 0; r < lp->n_rows; r++) {
        const double *coefs = lp->coefs + (size_t)r * (size_t)lp->n_cols;
        int n = 0;
        for (int c = 0; c < lp->n_cols; c++) {
            if (coefs[c] == 0) continue;
            j->index[++n] = c + 1;
            j->value[n] = coefs[c];
        }
        glp_set_mat_row(p, r + 1, n, j->index, j->value);
        glp_set_row_bnds(p, r + 1, bound_type(lp->row_lower[r], lp->row_upper[r]), lp->row_lower[r],
                         lp->row_upper[r]);
    }
    return p;
}

static decision decide(job *j) {
    /* Without presolver infeasibility is a status, with it a code (ENOPFS). */
    if (j->code == GLP_ENOPFS) return DECIDED_INFEASIBLE;
    if (j->code == GLP_ENODFS) return DECIDED_UNBOUNDED;
    if (j->code != 0) return UNDECIDED;
    if (j->status == GLP_OPT) return DECIDED_OPTIMAL;
    if (j->status == GLP_NOFEAS) return DECIDED_INFEASIBLE;
    if (j->status == GLP_UNBND) return DECIDED_UNBOUNDED;
    return UNDECIDED;
}

/* Moves x into the column bounds and says whether the rows hold. */
static int is_kept(const sl_lp *lp, double *x) {
    for (int c = 0; c < lp->n_cols; c++) {
        if (!isfinite(x[c])) return 0;
        x[c] = fmin(fmax(x[c], lp->col_lower[c]), lp->col_upper[c]);
    }
    for (int r = 0; r < lp->n_rows; r++) {
        const double *coefs = lp->coefs + (size_t)r * (size_t)lp->n_cols;
        double sum = 0, size = DBL_MIN;
        for (int c = 0; c < lp->n_cols; c++) {
            sum += coefs[c] * x[c];
            size += fabs(coefs[c] * x[c]);
        }
        if (isfinite(lp->row_lower[r])) size = fmax(size, fabs(lp->row_lower[r]));
        if (isfinite(lp->row_upper[r])) size = fmax(size, fabs(lp->row_upper[r]));
        if (sum < lp->row_lower[r] - accepted * size || sum > lp->row_upper[r] + accepted * size)
            return 0;
    }
    return 1;
}

/* Whether the duals prove that no point is better than x: for any row duals y, with
 * d = cost - y.coefs, each solution costs at least the sum of y and d times the bounds that their
 * signs choose.  Signs that choose a missing bound must be rounding. */
static int is_proven(const sl_lp *lp, const double *x, const double *y) {
    double primal = 0, dual = 0, size = DBL_MIN;
    for (int r = 0; r < lp->n_rows; r++) {
        const double bound = y[r] > 0 ? lp->row_lower[r] : lp->row_upper[r];
        if (y[r] == 0) continue;
        if (!isfinite(bound)) return 0;
        dual += y[r] * bound;
        size += fabs(y[r] * bound);
    }
    for (int c = 0; c < lp->n_cols; c++) {
        double d = lp->cost[c], terms = fabs(d);
        for (int r = 0; r < lp->n_rows; r++) {
            const double term = y[r] * lp->coefs[(size_t)r * (size_t)lp->n_cols + (size_t)c];
            d -= term;
            terms += fabs(term);
        }
        const double bound = d > 0 ? lp->col_lower[c] : lp->col_upper[c];
        primal += lp->cost[c] * x[c];
        size += fabs(lp->cost[c] * x[c]);
        if (fabs(d) <= accepted * terms) continue;
        if (!isfinite(bound)) return 0;
        dual += d * bound;
        size += fabs(d * bound);
    }
    return primal - dual <= accepted * size;
}

/* One of GLPK's solvers on p, and what it decided; p keeps its basis. */
static void run(job *j, glp_prob *p, int exact, int presolve) {
    glp_smcp parm;
    glp_init_smcp(&parm);
    parm.msg_lev = GLP_MSG_OFF;
    parm.tm_lim = TIME_LIMIT_MS;
    parm.it_lim = ITERATION_LIMIT;
    parm.presolve = presolve ? GLP_ON : GLP_OFF;
    parm.tol_bnd = parm.tol_dj = 1e-9; /* budgets are to hold to the last MiB of a TiB */
    j->code = exact ? glp_exact(p, &parm) : glp_simplex(p, &parm);
    j->status = glp_get_status(p);
    j->made = decide(j);
    if (j->made != DECIDED_OPTIMAL) return;
    for (int c = 0; c < j->lp->n_cols; c++) j->x[c] = glp_get_col_prim(p, c + 1);
    for (int r = 0; r < j->lp->n_rows; r++) j->y[r] = glp_get_row_dual(p, r + 1);
    if (!is_kept(j->lp, j->x)) j->made = UNDECIDED;
}

/* GLPK's floating-point simplex now and then takes a program for infeasible or unbounded that is
 * not, also one with numbers near 1.  What it solves is proven by the duals; anything else is left
 * to its simplex in exact numbers, from where the first one stopped. */
static sl_status solve_in_glpk(void *arg) {
    job *j = arg;
    glp_prob *p = load(j);
    glp_scale_prob(p, GLP_SF_AUTO);
    run(j, p, 0, j->method == SL_LP_PRESOLVE);
    if (j->method == SL_LP_AUTO && !(j->made == DECIDED_OPTIMAL && is_proven(j->lp, j->x, j->y)))
        run(j, p, 1, 0);
    glp_delete_prob(p);
    return SL_OK;
}

/* Branch and bound, with GLPK's presolver, which solves the first relaxation too. */
static sl_status solve_whole_in_glpk(void *arg) {
    job *j = arg;
    glp_prob *p = load(j);
    glp_iocp parm;
    glp_init_iocp(&parm);
    parm.msg_lev = GLP_MSG_OFF;
    parm.tm_lim = WHOLE_TIME_LIMIT_MS;
    parm.mip_gap = 1e-3;
    parm.presolve = GLP_ON;
    j->code = glp_intopt(p, &parm);
    j->status = glp_mip_status(p);
    const int is_good = j->status == GLP_OPT || j->status == GLP_FEAS;
    const int has_ended = j->code == 0 || j->code == GLP_EMIPGAP || j->code == GLP_ETMLIM;
    if (has_ended && is_good) {
        for (int c = 0; c < j->lp->n_cols; c++) {
            const double x = glp_mip_col_val(p, c + 1);
            j->x[c] = j->lp->whole[c] ? floor(x + 0.5) : x;
        }
        j->made = is_kept(j->lp, j->x) ? DECIDED_OPTIMAL : UNDECIDED;
    } else if (j->code == GLP_ENOPFS || (j->code == 0 && j->status == GLP_NOFEAS)) {
        j->made = DECIDED_INFEASIBLE;
    }
    glp_delete_prob(p);
    return SL_OK;
}

static sl_status solve(const sl_lp *lp, sl_lp_method method, sl_status (*in_glpk)(void *arg),
                       double *x, sl_lp_outcome *outcome_out) {
    const size_t n = (size_t)lp->n_cols;
    job j = {.lp = lp, .method = method, .made = UNDECIDED};
    sl_status st;
    j.index = malloc((n + 1) * sizeof *j.index);
    j.value = malloc((2 * n + 1 + (size_t)lp->n_rows) * sizeof *j.value);
    if (!j.index || !j.value) {
        st = SL_FAIL(SL_ERR_NOMEM, "solve %d columns: out of host memory", lp->n_cols);
        goto fail;
    }
    j.x = j.value + n + 1;
    j.y = j.x + n;
    SL_GO(sl_glpk_call(in_glpk, &j));
    if (j.made == DECIDED_UNBOUNDED) {
        st = SL_FAIL(SL_ERR_ARG, "the linear program is unbounded");
    } else if (j.made == UNDECIDED) {
        st = SL_FAIL(SL_ERR_ARG, "the linear program was not solved: GLPK code %d, status %d",
                     j.code, j.status);
    } else {
        *outcome_out = j.made == DECIDED_OPTIMAL ? SL_LP_OPTIMAL : SL_LP_INFEASIBLE;
        if (j.made == DECIDED_OPTIMAL) memcpy(x, j.x, n * sizeof *x);
    }

fail:
    free(j.index);
    free(j.value);
    return st;
}

sl_status sl_lp_solve(const sl_lp *lp, sl_lp_method method, double *x, sl_lp_outcome *outcome_out) {
    return solve(lp, method, solve_in_glpk, x, outcome_out);
}

sl_status sl_lp_solve_whole(const sl_lp *lp, double *x, sl_lp_outcome *outcome_out) {
    return solve(lp, SL_LP_PRESOLVE, solve_whole_in_glpk, x, outcome_out);
}

/* ---- what would make it feasible ---- */

static sl_status copy_relaxed(const sl_lp *lp, const int *groups, const double *weights,
                              int n_groups, double *row, sl_lp *wide) {
    const int n = lp->n_cols;
    for (int c = 0; c < n; c++)
        SL_TRY(sl_lp_set_col(wide, c, lp->col_lower[c], lp->col_upper[c], 0));
    for (int g = 0; g < n_groups; g++) {
        const int is_hard = isinf(weights[g]);
        SL_TRY(sl_lp_set_col(wide, n + g, 0, is_hard ? 0 : INFINITY, is_hard ? 0 : weights[g]));
    }
    for (int r = 0; r < lp->n_rows; r++) {
        memcpy(row, lp->coefs + (size_t)r * (size_t)n, (size_t)n * sizeof *row);
        for (int g = 0; g < n_groups; g++) row[n + g] = groups[r] == g ? -1 : 0;
        SL_TRY(sl_lp_add_row(wide, row, lp->row_lower[r], lp->row_upper[r]));
    }
    return SL_OK;
}

sl_status sl_lp_relax(const sl_lp *lp, const int *groups, const double *weights, int n_groups,
                      double *slack, double *x, sl_lp_outcome *outcome_out) {
    sl_status st;
    sl_lp *wide = NULL;
    double *row = NULL;
    const size_t n = (size_t)lp->n_cols, n_wide = n + (size_t)n_groups;
    for (int g = 0; g < n_groups; g++) {
        if (!(weights[g] > 0))
            return SL_FAIL(SL_ERR_ARG, "group %d: weight %g is not positive", g, weights[g]);
    }
    SL_TRY(sl_lp_open((int)n_wide, lp->n_rows_max, &wide));
    row = malloc(n_wide * sizeof *row);
    if (!row) {
        st = SL_FAIL(SL_ERR_NOMEM, "relax %d columns: out of host memory", lp->n_cols);
        goto fail;
    }
    SL_GO(copy_relaxed(lp, groups, weights, n_groups, row, wide));
    SL_GO(sl_lp_solve(wide, SL_LP_AUTO, row, outcome_out));
    if (*outcome_out == SL_LP_OPTIMAL) {
        memcpy(x, row, n * sizeof *x);
        memcpy(slack, row + n, (size_t)n_groups * sizeof *slack);
    }

fail:
    free(row);
    sl_lp_close(wide);
    return st;
}
