/* The search finds policies that fit, are no slower than those set by hand, and says what is
 * missing where there are none, whatever the machine. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/rng.h"
#include "policy_fixture.h"
#include "search_measured.h"

enum { N_RANDOM = 10000 / SL_TEST_STEP, N_RANDOM_WHOLE = 16 };
static const double longest_s = 5;

static size_t backend_bytes(const sl_policy *p) {
    return ((size_t)131 << 20) +
           (size_t)(10 * p->num_micro_batches + 1) * (28 * (size_t)p->max_rows + 262144);
}

static sl_source *open_model(const sl_model_config *c) {
    sl_source *source = NULL;
    assert_int_equal(sl_source_open_dummy(c, "model", 0, &source), SL_OK);
    return source;
}

static sl_plan_problem problem_of(const measured_job *j, const sl_source *source,
                                  const sl_profile *m, const sl_workload *w) {
    return (sl_plan_problem){.source = source,
                             .profile = m,
                             .workload = w,
                             .has_device = 1,
                             .n_ranks = 1,
                             .budget_bytes = {m->gpu_bytes, m->cpu_bytes, 0},
                             .can_attend_on_host = 1,
                             .backend_bytes = backend_bytes,
                             .n_weights = 1,
                             .n_caches = 1,
                             .weights = {j->weights},
                             .caches = {j->cache}};
}

static void check_ok(sl_status st) {
    if (st != SL_OK) fail_msg("%s", sl_error_message());
}

/* An answer keeps the budgets, as measured anew. */
static void check_plan(const sl_plan_problem *problem, const sl_measured_plan *plan) {
    sl_footprint m;
    sl_plan_problem pages = *problem, *q = &pages;
    pages.pages_frac = plan->pages_frac;
    check_ok(sl_plan_measure(q, &plan->policy, 0, &m));
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (t == SL_TIER_GPU && !q->has_device) continue;
        if ((double)m.need_bytes[t] > q->budget_bytes[t])
            fail_msg("%s: needs %zu of %.0f bytes", sl_tier_name((sl_tier_kind)t), m.need_bytes[t],
                     q->budget_bytes[t]);
    }
    assert_true(plan->cost.total_s > 0 && isfinite(plan->cost.total_s));
    assert_true(plan->cost.tokens_per_s > 0);
    check_ok(sl_shares_check(&plan->policy.weights, "weights"));
    check_ok(sl_shares_check(&plan->policy.cache, "cache"));
}

static void plans_are_no_slower_than_policies_set_by_hand(void **state) {
    (void)state;
    for (int i = 0; i < N_MEASURED_JOBS; i++) {
        const measured_job *j = &measured_jobs[i];
        const sl_profile m = g16_profile();
        const sl_workload w = sl_workload_uniform(512, 32, j->n_prompts);
        sl_model_config c;
        sl_measured_found found;
        sl_cost by_hand;
        check_ok(measured_config(j, &c));
        sl_source *source = open_model(&c);
        const sl_plan_problem q = problem_of(j, source, &m, &w);
        const sl_cost_problem cost = sl_plan_cost_problem(&q);
        const sl_policy p = measured_policy(j);
        check_ok(sl_cost_measured(&cost, &p, &by_hand));
        check_ok(sl_search_measured(&q, &found));
        assert_true(found.is_feasible);
        check_plan(&q, &found.best);
        print_message("%s: %.1f tokens/s, by hand %.1f\n", j->name, found.best.cost.tokens_per_s,
                      by_hand.tokens_per_s);
        assert_true(found.best.cost.tokens_per_s >= by_hand.tokens_per_s);
        if (found.has_second) check_plan(&q, &found.second);
        if (found.has_second) assert_true(found.second.cost.total_s >= found.best.cost.total_s);
        sl_source_close(source);
    }
}

static void given_numbers_are_kept(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[3];
    const sl_profile m = g16_profile();
    const sl_workload w = sl_workload_uniform(512, 32, j->n_prompts);
    sl_model_config c;
    sl_measured_found found;
    check_ok(measured_config(j, &c));
    sl_source *source = open_model(&c);
    sl_plan_problem q = problem_of(j, source, &m, &w);
    q.micro_batch = 30;
    q.num_micro_batches = 5;
    q.max_rows = 900;
    check_ok(sl_search_measured(&q, &found));
    assert_true(found.is_feasible);
    assert_int_equal(found.best.policy.micro_batch, 30);
    assert_int_equal(found.best.policy.num_micro_batches, 5);
    assert_int_equal(found.best.policy.max_rows, 900);
    q.micro_batch = q.num_micro_batches = q.max_rows = 0;
    check_ok(sl_search_measured(&q, &found));
    const double free_s = found.best.cost.total_s, free_request_s = found.best.cost.request_s;
    q.max_request_s = free_request_s / 3;
    check_ok(sl_search_measured(&q, &found));
    assert_true(found.is_feasible);
    assert_true(found.best.cost.request_s <= q.max_request_s);
    assert_true(found.best.cost.total_s >= free_s);
    q.max_request_s = 1e-6;
    check_ok(sl_search_measured(&q, &found));
    assert_false(found.is_feasible);
    assert_true(found.least_request_s > 1e-6);
    sl_source_close(source);
}

static void only_allowed_precisions_are_chosen(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[2];
    const sl_profile m = g16_profile();
    const sl_workload w = sl_workload_uniform(512, 32, 80);
    sl_model_config c;
    sl_measured_found f16, q8, q4;
    check_ok(measured_config(j, &c));
    sl_source *source = open_model(&c);
    sl_plan_problem q = problem_of(j, source, &m, &w);
    check_ok(sl_search_measured(&q, &f16));
    assert_int_equal(f16.best.policy.weights_dtype, SL_DTYPE_F16);
    q.n_weights = q.n_caches = 2;
    q.weights[1] = q.caches[1] = SL_DTYPE_Q8G64;
    check_ok(sl_search_measured(&q, &q8));
    q.n_weights = q.n_caches = 3;
    q.weights[2] = q.caches[2] = SL_DTYPE_Q4G64;
    check_ok(sl_search_measured(&q, &q4));
    assert_true(q8.best.cost.total_s <= f16.best.cost.total_s);
    assert_true(q4.best.cost.total_s <= q8.best.cost.total_s);
    assert_int_not_equal(q8.best.policy.weights_dtype, SL_DTYPE_Q4G64);
    sl_source_close(source);
}

/* ---- what is missing ---- */

static void what_is_missing_helps(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[2];
    const sl_profile m = g16_profile();
    const sl_workload w = sl_workload_uniform(512, 32, 80);
    sl_model_config c;
    sl_measured_found found;
    check_ok(measured_config(j, &c));
    sl_source *source = open_model(&c);
    for (int i = 0; i < 3; i++) {
        sl_plan_problem q = problem_of(j, source, &m, &w);
        q.budget_bytes[SL_TIER_GPU] = (i == 1 ? 2 : 12) * GIB;
        q.budget_bytes[SL_TIER_CPU] = (i == 1 ? 100 : 20) * GIB;
        q.budget_bytes[SL_TIER_DISK] = i == 2 ? 10 * GIB : 0;
        check_ok(sl_search_measured(&q, &found));
        assert_false(found.is_feasible);
        const sl_measured_shortage s = found.shortage;
        int n = 0;
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            if (isinf(s.alone_bytes[t])) continue;
            sl_plan_problem more = q;
            n++;
            more.budget_bytes[t] += s.alone_bytes[t];
            check_ok(sl_search_measured(&more, &found));
            if (!found.is_feasible)
                fail_msg("%d: %.2f GiB more of %s do not help", i, s.alone_bytes[t] / GIB,
                         sl_tier_name((sl_tier_kind)t));
            more = q; /* and much less does not */
            more.budget_bytes[t] += 0.9 * s.alone_bytes[t];
            check_ok(sl_search_measured(&more, &found));
            assert_false(found.is_feasible);
        }
        assert_true(n > 0);
        assert_true(s.fits_in_4_bits);
    }
    sl_source_close(source);
}

/* ---- ages ---- */

/* 128 tokens in, 512 out, all on the device: sequences of all ages take 0.62 of what as many take
 * at their end.  Few of them end together, and so do those of short outputs nearly. */
static void long_outputs_let_more_sequences_in(void **state) {
    (void)state;
    static const struct {
        int prompt_len, gen_len, n_prompts, is_spread;
    } jobs[] = {{128, 512, 2048, 1}, {128, 512, 200, 0}, {512, 32, 2048, 0}};
    const sl_profile m = g16_profile();
    sl_model_config c;
    check_ok(sl_config_named("opt-6.7b", &c));
    sl_source *source = open_model(&c);
    for (int i = 0; i < 3; i++) {
        const sl_workload w =
            sl_workload_uniform(jobs[i].prompt_len, jobs[i].gen_len, jobs[i].n_prompts);
        const sl_plan_problem q = {.source = source,
                                   .profile = &m,
                                   .workload = &w,
                                   .has_device = 1,
                                   .n_ranks = 1,
                                   .budget_bytes = {m.gpu_bytes, 64e9, 0},
                                   .can_attend_on_host = 1,
                                   .backend_bytes = backend_bytes,
                                   .n_weights = 1,
                                   .n_caches = 1,
                                   .weights = {SL_DTYPE_Q4G64},
                                   .caches = {SL_DTYPE_Q4G64}};
        sl_measured_found found;
        check_ok(sl_search_measured(&q, &found));
        assert_true(found.is_feasible);
        check_plan(&q, &found.best);
        assert_int_equal(found.best.pages_frac > 0, jobs[i].is_spread);
        if (!jobs[i].is_spread) continue;
        const sl_policy *p = &found.best.policy;
        sl_footprint whole;
        check_ok(sl_plan_measure(&q, p, 0, &whole));
        printf("%d x %d sequences, %.2f of their pages, %.0f tokens/s; all would take %.1f GiB\n",
               p->micro_batch, p->num_micro_batches, found.best.pages_frac,
               found.best.cost.tokens_per_s, (double)whole.need_bytes[SL_TIER_GPU] / 1073741824);
        assert_true((double)whole.need_bytes[SL_TIER_GPU] > 1.1 * m.gpu_bytes);
    }
    sl_source_close(source);
}

/* ---- any machine ---- */

static double uniform(sl_rng *rng, double least, double most) {
    return least + (most - least) * (double)sl_rng_below(rng, 1 << 20) / (1 << 20);
}

/* Log-uniform. */
static double rate(sl_rng *rng, double least, double most) {
    return exp(uniform(rng, log(least), log(most)));
}

static void random_curve(sl_rng *rng, double least, double most, sl_curve *out) {
    *out = (sl_curve){0};
    const int n = 1 + (int)sl_rng_below(rng, 5);
    double x = rate(rng, 1, 1e5);
    for (int i = 0; i < n; i++, x *= rate(rng, 1.5, 50))
        check_ok(sl_curve_add(out, x, rate(rng, least, most)));
}

static sl_profile random_profile(sl_rng *rng) {
    sl_profile p = {.name = "random", .source = "a test", .n_threads = 4};
    random_curve(rng, 1e8, 1e11, &p.h2d_bps);
    random_curve(rng, 1e8, 1e11, &p.d2h_bps);
    p.duplex_bps = rate(rng, 1e8, 1e11);
    p.dram_bps = rate(rng, 1e9, 1e12);
    p.dram_beside_h2d_bps = rate(rng, 1e9, 1e12);
    if (sl_rng_below(rng, 4)) random_curve(rng, 1e6, 1e10, &p.disk_read_bps);
    if (p.disk_read_bps.n) random_curve(rng, 1e6, 1e10, &p.disk_write_bps);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        if (sl_rng_below(rng, 4)) random_curve(rng, 1e8, 1e11, &p.host_attend_bps[f]);
        random_curve(rng, 1e9, 1e15, &p.gemm_flops[f]);
        if (sl_rng_below(rng, 2)) random_curve(rng, 1e9, 1e15, &p.gemm_small_flops[f]);
        if (sl_rng_below(rng, 2)) random_curve(rng, 1e9, 1e15, &p.gemm_large_flops[f]);
        random_curve(rng, 1e9, 1e13, &p.attend_bps[f]);
        random_curve(rng, 1e9, 1e15, &p.prefill_attend_flops[f]);
    }
    p.memory_bps = rate(rng, 1e9, 1e13);
    /* Half of them, by what is drawn already. */
    const uint64_t drawn = (uint64_t)p.memory_bps;
    if (drawn % 2) p.compute_beside_h2d_frac = 1e-3 + 0.999 * sl_rng_unit(sl_rng_at(31, drawn));
    p.layer_s = rate(rng, 1e-7, 1e-2);
    p.sweep_s = rate(rng, 1e-7, 1e-1);
    p.host_job_s = rate(rng, 1e-7, 1e-2);
    return p;
}

static size_t few_bytes(const sl_policy *policy) {
    return 256 * (size_t)policy->max_rows;
}

static void fill_random(sl_rng *rng, double least_bytes, double most_bytes, sl_plan_problem *q) {
    static const sl_dtype all[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    q->n_ranks = 1;
    q->has_device = sl_rng_below(rng, 4) > 0;
    q->can_attend_on_host = sl_rng_below(rng, 4) > 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) q->budget_bytes[t] = rate(rng, least_bytes, most_bytes);
    if (sl_rng_below(rng, 2)) q->budget_bytes[SL_TIER_DISK] = 0;
    q->n_weights = q->n_caches = 1;
    q->weights[0] = all[sl_rng_below(rng, 3)];
    q->caches[0] = all[sl_rng_below(rng, 3)];
    q->backend_bytes = few_bytes;
}

/* Either a plan that fits or a refusal with numbers. */
static int check_answer(const sl_plan_problem *q, const sl_measured_found *f) {
    if (f->is_feasible) {
        check_plan(q, &f->best);
        return 1;
    }
    int n_missing = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) n_missing += f->shortage.together_bytes[t] > 0;
    assert_true(n_missing > 0 || f->least_request_s > 0);
    return 0;
}

static void any_machine_gets_a_plan_that_fits_or_a_refusal(void **state) {
    (void)state;
    sl_rng rng = {.key = 21};
    sl_model_config c;
    check_ok(sl_config_named("opt-125m", &c));
    c.n_layers = 4;
    c.vocab = 4000;
    sl_source *source = open_model(&c);
    int n_fitting = 0;
    for (int i = 0; i < N_RANDOM; i++) {
        const sl_profile m = random_profile(&rng);
        const sl_workload w =
            sl_workload_uniform(1 + (int)sl_rng_below(&rng, 600), 1 + (int)sl_rng_below(&rng, 60),
                                1 + (int)sl_rng_below(&rng, 300));
        sl_plan_problem q = {.source = source, .profile = &m, .workload = &w};
        sl_measured_found found;
        fill_random(&rng, 1e6, 1e9, &q);
        q.micro_batch = 1 + (int)sl_rng_below(&rng, 24);
        q.num_micro_batches = 1 + (int)sl_rng_below(&rng, 5);
        q.max_rows = 32 << sl_rng_below(&rng, 5);
        if (sl_search_measured(&q, &found) != SL_OK) fail_msg("%d: %s", i, sl_error_message());
        n_fitting += check_answer(&q, &found);
    }
    print_message("%d of %d fit\n", n_fitting, (int)N_RANDOM);
    assert_in_range(n_fitting, N_RANDOM / 5, N_RANDOM * 4 / 5); /* both kinds are met */
    sl_source_close(source);
}

static void whole_searches_end_in_time(void **state) {
    (void)state;
    static const char *const models[] = {"opt-125m", "opt-1.3b", "opt-30b", "opt-175b"};
    sl_rng rng = {.key = 22};
    double worst_s = 0;
    for (int i = 0; i < N_RANDOM_WHOLE; i++) {
        const sl_profile m = random_profile(&rng);
        const sl_workload w =
            sl_workload_uniform(1 + (int)sl_rng_below(&rng, 1500), 1 + (int)sl_rng_below(&rng, 500),
                                1 + (int)sl_rng_below(&rng, 5000));
        sl_model_config c;
        sl_measured_found found;
        check_ok(sl_config_named(models[i % 4], &c));
        sl_source *source = open_model(&c);
        sl_plan_problem q = {.source = source, .profile = &m, .workload = &w};
        fill_random(&rng, 1e9, 1e12, &q);
        if (i % 8 == 0) {
            q.n_weights = q.n_caches = 3;
            q.weights[0] = q.caches[0] = SL_DTYPE_F16;
            q.weights[1] = q.caches[1] = SL_DTYPE_Q8G64;
            q.weights[2] = q.caches[2] = SL_DTYPE_Q4G64;
        }
        /* The processor's time: the test's machine may be busy. */
        const clock_t start = clock();
        if (sl_search_measured(&q, &found) != SL_OK) fail_msg("%d: %s", i, sl_error_message());
        const double spent_s = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (spent_s > worst_s) worst_s = spent_s;
        check_answer(&q, &found);
        sl_source_close(source);
    }
    print_message("the longest search took %.2f s\n", worst_s);
    assert_true(worst_s < 3 * longest_s); /* the test's machine may be slow */
}

static void numbers_out_of_range_are_refused(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[1];
    const sl_profile m = g16_profile();
    sl_workload w = sl_workload_uniform(512, 32, 10);
    sl_model_config c;
    sl_measured_found found;
    check_ok(measured_config(j, &c));
    sl_source *source = open_model(&c);
    sl_plan_problem q = problem_of(j, source, &m, &w);
    q.micro_batch = SL_PLAN_MAX_MICRO_BATCH + 1;
    assert_int_equal(sl_search_measured(&q, &found), SL_ERR_ARG);
    q = problem_of(j, source, &m, &w);
    q.n_weights = 0;
    assert_int_equal(sl_search_measured(&q, &found), SL_ERR_ARG);
    q = problem_of(j, source, &m, &w);
    q.budget_bytes[SL_TIER_CPU] = NAN;
    assert_int_equal(sl_search_measured(&q, &found), SL_ERR_ARG);
    q = problem_of(j, source, &m, &w);
    w = sl_workload_uniform(2040, 32, 10);
    assert_int_equal(sl_search_measured(&q, &found), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "2048"));
    sl_source_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_no_slower_than_policies_set_by_hand),
        cmocka_unit_test(given_numbers_are_kept),
        cmocka_unit_test(only_allowed_precisions_are_chosen),
        cmocka_unit_test(what_is_missing_helps),
        cmocka_unit_test(long_outputs_let_more_sequences_in),
        cmocka_unit_test(any_machine_gets_a_plan_that_fits_or_a_refusal),
        cmocka_unit_test(whole_searches_end_in_time),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };
    return cmocka_run_group_tests_name("search_measured", tests, NULL, NULL);
}
