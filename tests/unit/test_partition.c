/* Layers for unequal ranks: the partition beside the equal split, as predicted and as simulated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/partition.h"
#include "partition_measured.h"
#include "simulate.c"
#include "support/sim_run.h"

const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};

enum { MOST = 8 };

typedef struct {
    int n;
    sl_profile profile[MOST];
    double budget_bytes[MOST][SL_TIER_COUNT];
    sl_workload workload;
    sl_source *source;
    sl_plan_problem problem;
    sl_partition_ask ask;
} setting;

static size_t no_bytes(const sl_policy *policy) {
    (void)policy;
    return 0;
}

static void open_setting(const char *model, const char *const *machines, int n, int n_prompts,
                         setting *s) {
    memset(s, 0, sizeof *s);
    s->n = n;
    for (int r = 0; r < n; r++) {
        char path[1024];
        snprintf(path, sizeof path, SL_TESTS_DIR "/../cluster/%s.json", machines[r]);
        assert_int_equal(sl_profile_read(path, &s->profile[r]), SL_OK);
        s->budget_bytes[r][SL_TIER_GPU] = s->profile[r].gpu_bytes;
        s->budget_bytes[r][SL_TIER_CPU] = s->profile[r].cpu_bytes;
    }
    s->workload = sl_workload_uniform(256, 32, n_prompts);
    if (sl_source_open(model, 0, &s->source) != SL_OK) fail_msg("%s", sl_error_message());
    s->problem = (sl_plan_problem){.source = s->source,
                                   .profile = &s->profile[0],
                                   .workload = &s->workload,
                                   .has_device = 1,
                                   .n_ranks = n,
                                   .can_attend_on_host = 1,
                                   .backend_bytes = no_bytes,
                                   .n_weights = 1,
                                   .n_caches = 1,
                                   .weights = {SL_DTYPE_Q4G64},
                                   .caches = {SL_DTYPE_Q4G64}};
    s->ask = (sl_partition_ask){.problem = &s->problem,
                                .profile = s->profile,
                                .budget_bytes = (const double(*)[SL_TIER_COUNT])s->budget_bytes};
}

static double simulated_s(const setting *s, const char *model, const sl_partition_found *f) {
    sl_sim_rates rates[MOST];
    sim_outcome out[MOST];
    for (int r = 0; r < s->n; r++) rates[r] = sl_simulated_rates(&s->profile[r]);
    sim_job job = {.model = model,
                   .policy = f->policy,
                   .n_prompts = s->workload.n_prompts,
                   .prompt_len = 256,
                   .gen_len = 32,
                   .weights = f->weights};
    job.policy.layers_per_rank = f->layers;
    job.policy.cpu_budget_bytes = 0;
    job.policy.disk_budget_bytes = 0;
    if (sim_run(&job, rates, s->n, out) != SL_OK) fail_msg("%s", sl_error_message());
    return out[0].stats.prefill_s + out[0].stats.decode_s;
}

static void print_found(const char *what, const sl_partition_found *f, int n, double took_s) {
    printf("%-10s layers", what);
    for (int r = 0; r < n; r++)
        printf(" %d (%.0f %% on gpu)", f->layers[r], 100 * f->weights[r].frac[0]);
    printf(", %d x %d: predicted %.2f s, simulated %.2f s\n", f->shape.micro_batch,
           f->shape.num_micro_batches, f->cost.total_s, took_s);
}

static int sum_of(const int *layers, int n) {
    int sum = 0;
    for (int r = 0; r < n; r++) sum += layers[r];
    return sum;
}

static void unequal_ranks_gain_what_is_predicted(void **state) {
    (void)state;
    static const char *const machines[] = {"h100", "t4", "t4"};
    static const int equal_layers[] = {16, 16, 16};
    static const char model[] = "dummy:opt-30b";
    setting s;
    sl_partition_found best, equal;
    open_setting(model, machines, 3, 384, &s);
    assert_false(sl_partition_is_even(&s.ask));
    const double start_s = sl_clock_s();
    if (sl_partition_search(&s.ask, &best) != SL_OK) fail_msg("%s", sl_error_message());
    printf("%.1f s for the search, %d programs\n", sl_clock_s() - start_s, best.n_programs);
    assert_true(best.is_feasible);
    assert_int_equal(sum_of(best.layers, 3), 48);
    s.ask.layers = equal_layers;
    assert_int_equal(sl_partition_search(&s.ask, &equal), SL_OK);
    assert_true(equal.is_feasible);
    const double best_s = simulated_s(&s, model, &best), equal_s = simulated_s(&s, model, &equal);
    print_found("partition", &best, 3, best_s);
    print_found("equal", &equal, 3, equal_s);
    const double predicted = equal.cost.total_s / best.cost.total_s, found = equal_s / best_s;
    printf("gain: predicted %.3f, simulated %.3f\n", predicted, found);
    assert_true(found > 1.2);
    assert_true(fabs(predicted / found - 1) < 0.05);
    for (int r = 0; r < 3; r++)
        for (int t = 0; t < SL_TIER_COUNT; t++)
            assert_true((double)best.memory[r].need_bytes[t] <= s.budget_bytes[r][t]);
    sl_source_close(s.source);
}

/* A machine that is as slow as it is far away is worth nothing. */
static void a_harmful_rank_may_be_left_out(void **state) {
    (void)state;
    static const char *const machines[] = {"h100", "h100", "t4"};
    setting s;
    sl_partition_found all, some;
    open_setting("dummy:opt-6.7b", machines, 3, 96, &s);
    sl_profile *slow = &s.profile[2];
    for (int f = 0; f < SL_PROFILE_FORMATS; f++)
        for (int i = 0; i < slow->gemm_flops[f].n; i++) slow->gemm_flops[f].y[i] /= 1000;
    if (sl_partition_search(&s.ask, &all) != SL_OK) fail_msg("%s", sl_error_message());
    assert_true(all.is_feasible && all.layers[2] >= 1);
    s.ask.may_idle = 1;
    assert_int_equal(sl_partition_search(&s.ask, &some), SL_OK);
    assert_true(some.is_feasible);
    print_found("all", &all, 3, 0);
    print_found("some", &some, 3, 0);
    assert_int_equal(some.layers[2], 0);
    assert_int_equal(sum_of(some.layers, 3), 32);
    assert_true(some.cost.total_s < all.cost.total_s);
    sl_source_close(s.source);
}

static void eight_unequal_ranks_are_planned_in_time(void **state) {
    (void)state;
    static const char *const machines[] = {"t4",   "rtx3090", "h100", "g16",
                                           "h100", "t4",      "g16",  "rtx3090"};
    setting s;
    sl_partition_found f;
    open_setting("dummy:opt-175b", machines, 8, 2000, &s);
    for (int r = 0; r < 8; r++) /* no two alike */
        s.budget_bytes[r][SL_TIER_CPU] *= 0.6 + 0.05 * r;
    const double start_s = sl_clock_s();
    if (sl_partition_search(&s.ask, &f) != SL_OK) fail_msg("%s", sl_error_message());
    const double took_s = sl_clock_s() - start_s;
    printf("%.1f s for eight ranks, %d programs\n", took_s, f.n_programs);
    assert_true(f.is_feasible);
    assert_int_equal(sum_of(f.layers, 8), 96);
    print_found("eight", &f, 8, 0);
    assert_true(took_s < 30 * SL_TEST_STEP);
    sl_source_close(s.source);
}

/* Without a plan: as even as it gets, the head a little, embedding and ranks in excess nothing. */
static void equal_ranks_get_layers_of_like_cost(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int n_ranks, layers[4];
    } cases[] = {
        {"dummy:opt-6.7b", 1, {32}},
        {"dummy:opt-6.7b", 2, {16, 16}},
        {"dummy:opt-6.7b", 3, {11, 11, 10}},
        {"dummy:opt-6.7b", 4, {8, 8, 8, 8}},
        {"dummy:opt-30b", 4, {12, 12, 12, 12}},
        {"dummy:opt-175b", 4, {24, 24, 24, 24}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        sl_source *source;
        int first[5];
        if (sl_source_open(cases[c].model, 0, &source) != SL_OK) fail_msg("%s", sl_error_message());
        assert_int_equal(sl_partition_by_cost(source, cases[c].n_ranks, first), SL_OK);
        for (int r = 0; r < cases[c].n_ranks; r++)
            assert_int_equal(first[r + 1] - first[r], cases[c].layers[r]);
        const int n = sl_source_config(source)->n_layers;
        int every[129];
        assert_int_equal(sl_partition_by_cost(source, n, every), SL_OK);
        for (int r = 0; r <= n; r++) assert_int_equal(every[r], r);
        assert_int_equal(sl_partition_by_cost(source, n + 1, every), SL_ERR_ARG);
        sl_source_close(source);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_ranks_get_layers_of_like_cost),
        cmocka_unit_test(unequal_ranks_gain_what_is_predicted),
        cmocka_unit_test(a_harmful_rank_may_be_left_out),
        cmocka_unit_test(eight_unequal_ranks_are_planned_in_time),
    };
    return cmocka_run_group_tests_name("partition", tests, NULL, NULL);
}
