/* More blocks are kept in flight where wires are slow, as few as ranks where they are not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blocks.h"
#include "policy_fixture.h"

enum { N_RANKS = 3 };

typedef struct {
    sl_profile machine;
    sl_workload workload;
    sl_source *source;
    sl_plan_problem problem;
} task;

/* A small model on processors; wires of so many bytes a second and that latency. */
static void begin(task *t, double wire_bps, double wire_latency_s, double cpu_bytes) {
    sl_model_config c;
    t->machine = (sl_profile){
        .name = "three hosts",
        .source = "made up",
        .n_threads = 2,
        .cpu_bytes = cpu_bytes,
        .dram_bps = 13e9,
        .host_attend_bps = {{1, {512}, {7e9}}, {1, {512}, {3e9}}, {1, {512}, {2e9}}},
        .gemm_flops = {{3, {1, 16, 128}, {4e9, 30e9, 32e9}},
                       {2, {1, 16}, {4e9, 28e9}},
                       {2, {1, 16}, {4e9, 30e9}}},
        .attend_bps = {{1, {1}, {5e9}}, {1, {1}, {4e9}}, {1, {1}, {2e9}}},
        .prefill_attend_flops = {{1, {128}, {28e9}}, {1, {128}, {28e9}}, {1, {128}, {28e9}}},
        .memory_bps = 22e9,
        .layer_s = 20e-6,
        .sweep_s = 70e-6,
        .host_job_s = 200e-6,
        .wire_bps = wire_bps,
        .wire_latency_s = wire_latency_s};
    t->workload = sl_workload_uniform(16, 64, 1000);
    assert_int_equal(sl_config_named("opt-125m", &c), SL_OK);
    assert_int_equal(sl_source_open_dummy(&c, "opt-125m", 0, &t->source), SL_OK);
    t->problem = (sl_plan_problem){.source = t->source,
                                   .profile = &t->machine,
                                   .workload = &t->workload,
                                   .n_ranks = N_RANKS,
                                   .budget_bytes = {0, cpu_bytes, 0},
                                   .n_weights = 1,
                                   .n_caches = 1,
                                   .weights = {SL_DTYPE_F16},
                                   .caches = {SL_DTYPE_F16}};
}

static sl_measured_plan plan(task *t) {
    sl_measured_found found;
    const sl_status st = sl_search_measured(&t->problem, &found);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    assert_true(found.is_feasible);
    assert_true((double)found.best.memory.need_bytes[SL_TIER_CPU] <=
                t->problem.budget_bytes[SL_TIER_CPU]);
    assert_int_equal(found.best.shape.micro_batch, found.best.policy.micro_batch);
    assert_int_equal(found.best.shape.num_micro_batches, found.best.policy.num_micro_batches);
    return found.best;
}

static void slow_wires_keep_more_blocks_in_flight(void **state) {
    (void)state;
    task fast, slow;
    begin(&fast, 3e9, 20e-6, 4 * GIB);
    begin(&slow, 12.5e6, 10e-3, 4 * GIB);
    fast.problem.micro_batch = slow.problem.micro_batch = 8;
    fast.problem.num_micro_batches = slow.problem.num_micro_batches = 1;
    const sl_measured_plan a = plan(&fast), b = plan(&slow);
    assert_int_equal(a.policy.blocks_in_flight, N_RANKS);
    assert_in_range(b.policy.blocks_in_flight, N_RANKS + 1, 2 * N_RANKS);
    assert_int_equal(b.policy.micro_batch, 8);
    /* And so they are nearly as fast. */
    assert_true(b.cost.tokens_per_s > 0.95 * a.cost.tokens_per_s);
    assert_true(b.cost.tokens_per_s <= 1.05 * a.cost.tokens_per_s);
    sl_source_close(fast.source);
    sl_source_close(slow.source);
}

static void blocks_whose_cache_does_not_fit_are_not_planned(void **state) {
    (void)state;
    task slow;
    begin(&slow, 12.5e6, 10e-3, 4 * GIB);
    slow.problem.micro_batch = 8;
    slow.problem.num_micro_batches = 1;
    slow.problem.max_context = 2048;
    const sl_measured_plan roomy = plan(&slow);
    assert_true(roomy.policy.blocks_in_flight > N_RANKS);
    sl_source_close(slow.source);
    /* One block less than what it takes. */
    const double bytes = (double)roomy.memory.need_bytes[SL_TIER_CPU] - 4096;
    begin(&slow, 12.5e6, 10e-3, bytes);
    slow.problem.micro_batch = 8;
    slow.problem.num_micro_batches = 1;
    slow.problem.max_context = 2048;
    const sl_measured_plan tight = plan(&slow);
    assert_true(tight.policy.blocks_in_flight < roomy.policy.blocks_in_flight);
    assert_true(tight.cost.tokens_per_s < roomy.cost.tokens_per_s);
    sl_source_close(slow.source);
}

static void one_rank_has_one_block(void **state) {
    (void)state;
    task t;
    begin(&t, 12.5e6, 10e-3, 4 * GIB);
    t.problem.n_ranks = 1;
    assert_int_equal(plan(&t).policy.blocks_in_flight, 1);
    sl_source_close(t.source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_wires_keep_more_blocks_in_flight),
        cmocka_unit_test(blocks_whose_cache_does_not_fit_are_not_planned),
        cmocka_unit_test(one_rank_has_one_block),
    };
    return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
