/* Unit tests of policy/cost_flexgen.c, search_flexgen.c and shortage_flexgen.c, beside the golden
 * values in tests/golden/test_cost_model.c: properties that hold for any machine and model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "search_flexgen.h"
#include "shortage_flexgen.h"

#define GIB 1073741824.0

enum { N_PROBLEMS = 10000 / SL_TEST_STEP, N_SEARCHES = 20 };

static sl_flexgen_problem opt_30b(void) {
    return (sl_flexgen_problem){
        .machine = &sl_flexgen_t4,
        .n_layers = 48,
        .hidden = 7168,
        .ffn = 28672,
        .n_heads = 56,
        .prompt_len = 512,
        .gen_len = 32,
        .budget_bytes = {12.8 * GIB, 160 * GIB, 1200 * GIB},
    };
}

/* ---- random problems ---- */

/* e^(uniform in [log least, log most]) */
static double spread(sl_rng *rng, double least, double most) {
    return exp(log(least) + sl_rng_unit(sl_rng_next(rng)) * log(most / least));
}

static int chance(sl_rng *rng, int one_in) {
    return sl_rng_below(rng, (uint64_t)one_in) == 0;
}

static void make_machine(sl_rng *rng, sl_flexgen_machine *m) {
    double *const rates[] = {
        &m->cpu_to_gpu_bps,         &m->gpu_to_cpu_cache_bps,  &m->gpu_to_cpu_hidden_bps,
        &m->disk_to_cpu_bps,        &m->cpu_to_disk_cache_bps, &m->cpu_to_disk_hidden_bps,
        &m->cpu_to_disk_decode_bps, &m->matmul_prefill_flops,  &m->matmul_decode_flops,
        &m->bmm_prefill_flops,      &m->bmm_decode_flops,      &m->cpu_flops,
    };
    *m = sl_flexgen_t4;
    m->name = "random";
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) *rates[i] *= spread(rng, 1e-3, 1e3);
    m->c1 = sl_rng_unit(sl_rng_next(rng)) - 0.5;
    m->c2 = sl_rng_unit(sl_rng_next(rng)) - 0.5;
    m->c3 = sl_rng_unit(sl_rng_next(rng)) - 0.5;
}

static void make_problem(sl_rng *rng, const sl_flexgen_machine *machine, sl_flexgen_problem *q) {
    *q = (sl_flexgen_problem){
        .machine = machine,
        .n_layers = (int)spread(rng, 1, 200),
        .hidden = (int)spread(rng, 16, 30000),
        .ffn = (int)spread(rng, 16, 120000),
        .n_heads = (int)spread(rng, 1, 200),
        .prompt_len = (int)spread(rng, 1, 1e5),
        .gen_len = (int)spread(rng, 1, 1e4),
        .compress_weights = chance(rng, 4),
        .is_fixed = chance(rng, 4),
    };
    for (int t = 0; t < SL_TIER_COUNT; t++)
        q->budget_bytes[t] = chance(rng, 30) ? 0 : spread(rng, 1 << 20, 1e15);
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        const int gpu = (int)sl_rng_below(rng, 101);
        const int rest = k == SL_FLEXGEN_HIDDEN ? 100 - gpu : (int)sl_rng_below(rng, 101u - gpu);
        q->fixed[k][SL_TIER_GPU] = gpu / 100.0;
        q->fixed[k][SL_TIER_CPU] = rest / 100.0;
    }
}

/* Hidden states are nowhere on disk; the rest anywhere, corners included. */
static void make_shares(sl_rng *rng, double *share) {
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        double a = sl_rng_unit(sl_rng_next(rng)), b = sl_rng_unit(sl_rng_next(rng));
        if (chance(rng, 2)) a = a < 0.5 ? 0 : 1;
        if (chance(rng, 2)) b = b < 0.5 ? 0 : 1;
        if (k == SL_FLEXGEN_HIDDEN) b = 1;
        share[SL_TIER_COUNT * k + SL_TIER_GPU] = a;
        share[SL_TIER_COUNT * k + SL_TIER_CPU] = (1 - a) * b;
        share[SL_TIER_COUNT * k + SL_TIER_DISK] = (1 - a) * (1 - b);
    }
}

/* ---- what holds for each answer ---- */

static void assert_obeys(const sl_flexgen_problem *q, const sl_flexgen_plan *plan) {
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        double sum = 0;
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            const double share = plan->share[k][t];
            assert_true(share >= 0 && share <= 1 + 1e-12);
            sum += share;
            if (q->is_fixed && t != SL_TIER_DISK) assert_true(fabs(share - q->fixed[k][t]) < 1e-7);
        }
        assert_true(fabs(sum - 1) < 1e-12);
    }
    assert_true(plan->share[SL_FLEXGEN_HIDDEN][SL_TIER_DISK] < 1e-7);
    for (int p = 0; p < SL_FLEXGEN_N_PEAKS; p++) {
        const double budget = q->budget_bytes[sl_cost_flexgen_tier((sl_flexgen_peak)p)];
        assert_true(plan->peak_bytes[p] <= budget * (1 + 1e-6) + 1);
    }
    assert_true(plan->total_s > 0 && isfinite(plan->total_s) && plan->tokens_per_s > 0);
}

/* No other shares that keep the budgets are faster, and none keep them if the answer says so. */
static void assert_best(const sl_flexgen_problem *q, const sl_flexgen_plan *plan, sl_rng *rng) {
    for (int i = 0; i < 8; i++) {
        double share[SL_FLEXGEN_N_SHARES];
        sl_flexgen_plan other;
        make_shares(rng, share);
        assert_int_equal(
            sl_cost_flexgen_evaluate(q, plan->micro_batch, plan->num_micro_batches, share, &other),
            SL_OK);
        int is_inside = 1; /* by more than any tolerance */
        for (int p = 0; p < SL_FLEXGEN_N_PEAKS; p++) {
            const double budget = q->budget_bytes[sl_cost_flexgen_tier((sl_flexgen_peak)p)];
            is_inside &= other.peak_bytes[p] < budget * (1 - 1e-6) - 1;
        }
        if (!is_inside) continue;
        assert_true(plan->is_feasible);
        assert_true(plan->objective_s <= other.objective_s * (1 + 1e-6));
    }
}

/* With the tier's shortage added the block fits, with a little less it does not. */
static void assert_enough(const sl_flexgen_problem *q, const sl_flexgen_plan *refused, int tier,
                          double lacking_bytes) {
    sl_flexgen_problem more = *q;
    sl_flexgen_plan plan;
    const double enough = q->budget_bytes[tier] + lacking_bytes;
    more.budget_bytes[tier] = enough * (1 + 1e-6) + 16;
    assert_int_equal(
        sl_cost_flexgen(&more, refused->micro_batch, refused->num_micro_batches, &plan), SL_OK);
    assert_true(plan.is_feasible);
    more.budget_bytes[tier] = fmax(q->budget_bytes[tier], enough * (1 - 1e-5) - 16);
    assert_int_equal(
        sl_cost_flexgen(&more, refused->micro_batch, refused->num_micro_batches, &plan), SL_OK);
    assert_false(plan.is_feasible);
}

static void assert_explained(const sl_flexgen_problem *q, const sl_flexgen_plan *refused) {
    sl_flexgen_shortage s;
    sl_flexgen_plan plan;
    sl_flexgen_problem more = *q;
    assert_int_equal(sl_shortage_flexgen(q, refused->micro_batch, refused->num_micro_batches, &s),
                     SL_OK);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        assert_true(s.alone_bytes[t] >= 0 && s.together_bytes[t] >= 0);
        if (isfinite(s.alone_bytes[t])) assert_enough(q, refused, t, s.alone_bytes[t]);
        more.budget_bytes[t] = (q->budget_bytes[t] + s.together_bytes[t]) * (1 + 1e-6) + 16;
    }
    assert_int_equal(
        sl_cost_flexgen(&more, refused->micro_batch, refused->num_micro_batches, &plan), SL_OK);
    assert_true(plan.is_feasible);
    if (s.micro_batch) {
        assert_true(s.micro_batch <= refused->micro_batch);
        assert_true(s.num_micro_batches <= refused->num_micro_batches);
        assert_int_equal(sl_cost_flexgen(q, s.micro_batch, s.num_micro_batches, &plan), SL_OK);
        assert_true(plan.is_feasible);
    }
}

static void any_problem_is_solved_or_refused_with_a_reason(void **state) {
    (void)state;
    sl_rng rng = {.key = 2023};
    int n_feasible = 0, n_refused = 0;
    for (int i = 0; i < N_PROBLEMS; i++) {
        sl_flexgen_machine machine;
        sl_flexgen_problem q;
        sl_flexgen_plan plan;
        make_machine(&rng, &machine);
        make_problem(&rng, chance(&rng, 3) ? &sl_flexgen_t4 : &machine, &q);
        const int micro_batch = (int)spread(&rng, 1, 2048), num = (int)spread(&rng, 1, 512);
        assert_int_equal(sl_cost_flexgen(&q, micro_batch, num, &plan), SL_OK);
        if (plan.is_feasible) {
            assert_obeys(&q, &plan);
            n_feasible++;
        } else if (n_refused++ % 10 == 0) {
            assert_explained(&q, &plan);
        }
        if (!q.is_fixed) assert_best(&q, &plan, &rng);
    }
    assert_true(n_feasible > N_PROBLEMS / 5 && n_refused > N_PROBLEMS / 5);
}

/* GLPK reports infeasibility by a status without presolver, by a code with it. */
static void presolver_comes_to_the_same_answers(void **state) {
    (void)state;
    int n_feasible = 0, n_refused = 0;
    for (int i = 0; i < 96; i++) {
        sl_flexgen_problem q = opt_30b();
        sl_lp *lp = NULL;
        double x[SL_FLEXGEN_N_COLS], y[SL_FLEXGEN_N_COLS];
        sl_lp_outcome plain, presolved;
        sl_flexgen_plan plan, same;
        const int micro_batch = 1 << 2 * (i % 4);
        q.budget_bytes[SL_TIER_GPU] = (1 + i / 4) * GIB;
        assert_int_equal(sl_cost_flexgen_program(&q, micro_batch, 4, &lp), SL_OK);
        assert_int_equal(sl_lp_solve(lp, SL_LP_PLAIN, x, &plain), SL_OK);
        assert_int_equal(sl_lp_solve(lp, SL_LP_PRESOLVE, y, &presolved), SL_OK);
        sl_lp_close(lp);
        assert_int_equal(plain, presolved);
        n_feasible += plain == SL_LP_OPTIMAL;
        n_refused += plain == SL_LP_INFEASIBLE;
        if (plain == SL_LP_INFEASIBLE) continue;
        assert_int_equal(sl_cost_flexgen_evaluate(&q, micro_batch, 4, x, &plan), SL_OK);
        assert_int_equal(sl_cost_flexgen_evaluate(&q, micro_batch, 4, y, &same), SL_OK);
        assert_true(fabs(plan.objective_s - same.objective_s) <= 1e-6 * plan.objective_s);
    }
    assert_true(n_feasible > 20 && n_refused > 10);
}

/* ---- the search ---- */

static void search_beats_every_block_that_it_could_have_chosen(void **state) {
    (void)state;
    const sl_flexgen_problem q = opt_30b();
    sl_flexgen_found found;
    assert_int_equal(sl_search_flexgen(&q, 0, 0, &found), SL_OK);
    for (int size = 1; size <= 64; size = size < 4 ? size + 1 : 2 * size) {
        for (int num = 1; num <= 12; num++) {
            sl_flexgen_plan plan;
            assert_int_equal(sl_cost_flexgen(&q, size, num, &plan), SL_OK);
            assert_true(!plan.is_feasible ||
                        plan.tokens_per_s <= found.best.tokens_per_s * (1 + 1e-9));
        }
    }
}

static void search_keeps_to_the_numbers_that_are_given(void **state) {
    (void)state;
    const sl_flexgen_problem q = opt_30b();
    sl_flexgen_found found;
    assert_int_equal(sl_search_flexgen(&q, 24, 0, &found), SL_OK);
    assert_int_equal(found.best.micro_batch, 24);
    assert_int_equal(sl_search_flexgen(&q, 0, 3, &found), SL_OK);
    assert_int_equal(found.best.num_micro_batches, 3);
    assert_true(found.best.is_feasible);
    assert_int_equal(sl_search_flexgen(&q, 48, 3, &found), SL_OK);
    assert_int_equal(found.n_programs, 1);
    assert_int_equal(sl_search_flexgen(&q, 48, 4097, &found), SL_ERR_ARG);
}

static void search_ends_where_memory_does_not(void **state) {
    (void)state;
    sl_flexgen_problem q = opt_30b();
    sl_flexgen_found found;
    q.n_layers = 1, q.hidden = 16, q.ffn = 16, q.n_heads = 1, q.prompt_len = 1, q.gen_len = 1;
    for (int t = 0; t < SL_TIER_COUNT; t++) q.budget_bytes[t] = 1e18;
    assert_int_equal(sl_search_flexgen(&q, 1 << 14, 0, &found), SL_OK);
    assert_true(found.best.is_feasible && found.n_programs < 4200);
    for (int t = 0; t < SL_TIER_COUNT; t++) q.budget_bytes[t] = 0;
    assert_int_equal(sl_search_flexgen(&q, 0, 0, &found), SL_OK);
    assert_false(found.best.is_feasible);
    assert_int_equal(found.n_programs, 1);
}

static void searches_of_any_problem_end_in_a_plan_that_fits(void **state) {
    (void)state;
    sl_rng rng = {.key = 66};
    for (int i = 0; i < N_SEARCHES; i++) {
        sl_flexgen_machine machine;
        sl_flexgen_problem q;
        sl_flexgen_found found;
        make_machine(&rng, &machine);
        make_problem(&rng, &machine, &q);
        assert_int_equal(sl_search_flexgen(&q, (int)spread(&rng, 8, 64), 0, &found), SL_OK);
        if (found.best.is_feasible) assert_obeys(&q, &found.best);
        assert_true(found.n_programs <= SL_SEARCH_FLEXGEN_MAX_NUM + 32);
    }
}

/* ---- wrong arguments ---- */

static void nonsense_is_an_argument_error(void **state) {
    (void)state;
    sl_flexgen_plan plan;
    sl_flexgen_machine machine = sl_flexgen_t4;
    sl_flexgen_problem q = opt_30b();
    assert_int_equal(sl_cost_flexgen(&q, 0, 1, &plan), SL_ERR_ARG);
    assert_int_equal(sl_cost_flexgen(&q, 1, -1, &plan), SL_ERR_ARG);
    q.n_layers = 0;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    q = opt_30b();
    q.gen_len = 0;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    q = opt_30b();
    q.budget_bytes[SL_TIER_CPU] = NAN;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "cpu budget"));
    q = opt_30b();
    q.machine = &machine;
    machine.cpu_flops = 0;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    q = opt_30b();
    q.is_fixed = 1;
    q.fixed[SL_FLEXGEN_WEIGHTS][SL_TIER_GPU] = 0.7;
    q.fixed[SL_FLEXGEN_WEIGHTS][SL_TIER_CPU] = 0.7;
    q.fixed[SL_FLEXGEN_HIDDEN][SL_TIER_CPU] = 1;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    q.fixed[SL_FLEXGEN_WEIGHTS][SL_TIER_CPU] = 0.3;
    q.fixed[SL_FLEXGEN_HIDDEN][SL_TIER_CPU] = 0.5;
    assert_int_equal(sl_cost_flexgen(&q, 1, 1, &plan), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "hidden states"));
}

static void compressed_weights_take_a_quarter(void **state) {
    (void)state;
    sl_flexgen_problem q = opt_30b();
    sl_flexgen_plan whole, quarter;
    static const double share[SL_FLEXGEN_N_SHARES] = {0, 0, 1, 0, 1, 0, 0, 1, 0};
    assert_int_equal(sl_cost_flexgen_evaluate(&q, 8, 2, share, &whole), SL_OK);
    q.compress_weights = 1;
    assert_int_equal(sl_cost_flexgen_evaluate(&q, 8, 2, share, &quarter), SL_OK);
    assert_true(fabs(whole.peak_bytes[SL_FLEXGEN_DISK] / quarter.peak_bytes[SL_FLEXGEN_DISK] - 4) <
                1e-12);
    assert_true(fabs(whole.time_s[SL_FLEXGEN_DTOC_G] / quarter.time_s[SL_FLEXGEN_DTOC_G] - 4) <
                1e-12);
    assert_true(whole.time_s[SL_FLEXGEN_COMP_G] == quarter.time_s[SL_FLEXGEN_COMP_G]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_problem_is_solved_or_refused_with_a_reason),
        cmocka_unit_test(presolver_comes_to_the_same_answers),
        cmocka_unit_test(search_beats_every_block_that_it_could_have_chosen),
        cmocka_unit_test(search_keeps_to_the_numbers_that_are_given),
        cmocka_unit_test(search_ends_where_memory_does_not),
        cmocka_unit_test(searches_of_any_problem_end_in_a_plan_that_fits),
        cmocka_unit_test(nonsense_is_an_argument_error),
        cmocka_unit_test(compressed_weights_take_a_quarter),
    };
    return cmocka_run_group_tests_name("policy_flexgen", tests, NULL, NULL);
}
