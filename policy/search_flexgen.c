#include "search_flexgen.h"

/* Two optima of equal throughput differ in their last digits. */
static const double rounding = 1e-9;

typedef struct {
    const sl_flexgen_problem *problem;
    sl_flexgen_found found;
} search;

/* Shapes come in the order of their micro-batches, then of their number. */
static void keep_better(search *s, const sl_flexgen_plan *plan) {
    const sl_flexgen_plan *best = &s->found.best;
    const int is_same_size = plan->micro_batch == best->micro_batch;
    const double wanted = best->tokens_per_s * (1 + (is_same_size ? -rounding : rounding));
    if (!best->is_feasible || plan->tokens_per_s > wanted) s->found.best = *plan;
}

static sl_status fits(const sl_flexgen_problem *problem, int micro_batch, int num, int *n_programs,
                      int *out) {
    sl_flexgen_plan plan;
    (*n_programs)++;
    SL_TRY(sl_cost_flexgen(problem, micro_batch, num, &plan));
    *out = plan.is_feasible;
    return SL_OK;
}

/* By doubling, then bisection: what fits stays so with fewer micro-batches. */
sl_status sl_search_flexgen_largest(const sl_flexgen_problem *problem, int micro_batch, int most,
                                    int *n_programs, int *out) {
    int fitting = 0, failing = 1, is_fit = 1;
    while (failing <= most) {
        SL_TRY(fits(problem, micro_batch, failing, n_programs, &is_fit));
        if (!is_fit) break;
        fitting = failing;
        failing *= 2;
    }
    if (failing > most) failing = most + 1;
    while (fitting + 1 < failing) {
        const int middle = fitting + (failing - fitting) / 2;
        SL_TRY(fits(problem, micro_batch, middle, n_programs, &is_fit));
        if (is_fit) {
            fitting = middle;
        } else {
            failing = middle;
        }
    }
    *out = fitting;
    return SL_OK;
}

/* *fits_out 0: not even the smallest block. */
static sl_status try_micro_batch(search *s, int micro_batch, int num, int *fits_out) {
    sl_flexgen_plan plan;
    int largest = num;
    if (num == 0)
        SL_TRY(sl_search_flexgen_largest(s->problem, micro_batch, SL_SEARCH_FLEXGEN_MAX_NUM,
                                         &s->found.n_programs, &largest));
    *fits_out = largest > 0;
    double before = 0;
    for (int k = num ? num : 1; k <= largest; k++) {
        s->found.n_programs++;
        SL_TRY(sl_cost_flexgen(s->problem, micro_batch, k, &plan));
        if (!plan.is_feasible) {
            *fits_out = k > 1 && num == 0;
            return SL_OK;
        }
        if (plan.tokens_per_s < before * (1 - rounding)) return SL_OK;
        before = plan.tokens_per_s;
        keep_better(s, &plan);
    }
    return SL_OK;
}

sl_status sl_search_flexgen(const sl_flexgen_problem *problem, int micro_batch,
                            int num_micro_batches, sl_flexgen_found *out) {
    search s = {.problem = problem};
    if (micro_batch < 0 || micro_batch > SL_SEARCH_FLEXGEN_MAX_MICRO_BATCH ||
        num_micro_batches < 0 || num_micro_batches > SL_SEARCH_FLEXGEN_MAX_NUM)
        return SL_FAIL(SL_ERR_ARG, "block of %d x %d, expected at most %d x %d", micro_batch,
                       num_micro_batches, SL_SEARCH_FLEXGEN_MAX_MICRO_BATCH,
                       SL_SEARCH_FLEXGEN_MAX_NUM);
    s.found.best.micro_batch = micro_batch ? micro_batch : 1;
    s.found.best.num_micro_batches = num_micro_batches ? num_micro_batches : 1;
    int size = s.found.best.micro_batch, is_fit = 1;
    while (is_fit && size <= SL_SEARCH_FLEXGEN_MAX_MICRO_BATCH) {
        SL_TRY(try_micro_batch(&s, size, num_micro_batches, &is_fit));
        if (micro_batch) break;
        size = size < 4 ? size + 1 : 2 * size;
    }
    *out = s.found;
    return SL_OK;
}
