#include "shortage_flexgen.h"

#include <math.h>

#include "search_flexgen.h"

#define GIB 1073741824.0

/* A byte of GPU memory is the dearest: together, as little of it as possible. */
static const double dearness[SL_TIER_COUNT] = {100, 10, 1};

static void group_rows(int *groups) {
    for (int r = 0; r < SL_FLEXGEN_N_ROWS; r++) {
        const int peak = r - SL_FLEXGEN_ROW_PEAKS;
        groups[r] = peak < 0 ? -1 : (int)sl_cost_flexgen_tier((sl_flexgen_peak)peak);
    }
}

/* The tier's larger peak at x. */
static sl_status find_peak(const sl_flexgen_problem *q, int micro_batch, int num, const double *x,
                           int tier, sl_flexgen_peak *out) {
    sl_flexgen_plan plan;
    double most = -INFINITY;
    SL_TRY(sl_cost_flexgen_evaluate(q, micro_batch, num, x, &plan)); /* the shares come first */
    for (int p = 0; p < SL_FLEXGEN_N_PEAKS; p++) {
        if ((int)sl_cost_flexgen_tier((sl_flexgen_peak)p) != tier || plan.peak_bytes[p] <= most)
            continue;
        most = plan.peak_bytes[p];
        *out = (sl_flexgen_peak)p;
    }
    return SL_OK;
}

static sl_status relax_one(const sl_flexgen_problem *q, int micro_batch, int num, const sl_lp *lp,
                           int tier, sl_flexgen_shortage *out) {
    int groups[SL_FLEXGEN_N_ROWS];
    double weights[SL_TIER_COUNT], slack[SL_TIER_COUNT], x[SL_FLEXGEN_N_COLS];
    sl_lp_outcome outcome;
    group_rows(groups);
    for (int t = 0; t < SL_TIER_COUNT; t++) weights[t] = t == tier ? 1 : INFINITY;
    SL_TRY(sl_lp_relax(lp, groups, weights, SL_TIER_COUNT, slack, x, &outcome));
    out->alone_bytes[tier] = INFINITY;
    if (outcome == SL_LP_INFEASIBLE) return SL_OK;
    out->alone_bytes[tier] = slack[tier] * GIB;
    return find_peak(q, micro_batch, num, x, tier, &out->alone_peak[tier]);
}

static sl_status relax_all(const sl_lp *lp, sl_flexgen_shortage *out) {
    int groups[SL_FLEXGEN_N_ROWS];
    double slack[SL_TIER_COUNT], x[SL_FLEXGEN_N_COLS];
    sl_lp_outcome outcome;
    group_rows(groups);
    SL_TRY(sl_lp_relax(lp, groups, dearness, SL_TIER_COUNT, slack, x, &outcome));
    if (outcome == SL_LP_INFEASIBLE)
        return SL_FAIL(SL_ERR_ARG, "no size of memory is enough: the shares contradict each other");
    for (int t = 0; t < SL_TIER_COUNT; t++) out->together_bytes[t] = slack[t] * GIB;
    return SL_OK;
}

static sl_status find_smaller(const sl_flexgen_problem *q, int micro_batch, int num,
                              sl_flexgen_shortage *out) {
    int n_programs = 0, most = num - 1; /* of the shape itself, fewer; of smaller ones, as many */
    for (int size = micro_batch; size >= 1; size /= 2, most = num) {
        int largest;
        SL_TRY(sl_search_flexgen_largest(q, size, most, &n_programs, &largest));
        if (largest == 0) continue;
        out->micro_batch = size;
        out->num_micro_batches = largest;
        return SL_OK;
    }
    return SL_OK;
}

static sl_status fill(const sl_flexgen_problem *q, int micro_batch, int num, const sl_lp *lp,
                      sl_flexgen_shortage *out) {
    for (int t = 0; t < SL_TIER_COUNT; t++) SL_TRY(relax_one(q, micro_batch, num, lp, t, out));
    SL_TRY(relax_all(lp, out));
    SL_TRY(find_smaller(q, micro_batch, num, out));
    if (!q->is_fixed) return SL_OK;
    sl_flexgen_problem loose = *q;
    sl_flexgen_plan plan;
    loose.is_fixed = 0;
    SL_TRY(sl_cost_flexgen(&loose, micro_batch, num, &plan));
    out->fits_when_free = plan.is_feasible;
    return SL_OK;
}

sl_status sl_shortage_flexgen(const sl_flexgen_problem *problem, int micro_batch,
                              int num_micro_batches, sl_flexgen_shortage *out) {
    sl_lp *lp = NULL;
    sl_flexgen_shortage found = {.micro_batch = 0};
    SL_TRY(sl_cost_flexgen_program(problem, micro_batch, num_micro_batches, &lp));
    const sl_status st = fill(problem, micro_batch, num_micro_batches, lp, &found);
    sl_lp_close(lp);
    if (st == SL_OK) *out = found;
    return st;
}
