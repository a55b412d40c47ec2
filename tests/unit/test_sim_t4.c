/* The paper's table on the paper's machine (cluster/t4.json), planned and simulated: generated
 * tokens / s at 512 + 32 tokens, beside FlexGen's and beside what no schedule can exceed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "search_measured.h"
#include "simulate.c"
#include "support/sim_run.h"

const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};

typedef struct {
    const char *model;
    int n_ranks;
    int bits; /* of weights and cache */
    int n_prompts;
    double flexgen, ceiling; /* paper, tables 2 and 3; 40 TFLOP/s for all products */
} row;

static const row rows[] = {
    {"dummy:opt-6.7b", 1, 16, 192, 25.26, 176},      {"dummy:opt-6.7b", 1, 4, 512, 29.12, 176},
    {"dummy:opt-30b", 1, 16, 192, 7.32, 39},         {"dummy:opt-30b", 1, 4, 600, 8.38, 39},
    {"dummy:opt-175b", 1, 16, 320, 0.69, 6.7},       {"dummy:opt-175b", 1, 4, 240, 1.12, 6.7},
    {"dummy:opt-6.7b", 4, 16, 512, 201.12, 4 * 176}, {"dummy:opt-30b", 4, 16, 512, 23.61, 4 * 39},
    {"dummy:opt-175b", 4, 16, 256, 2.33, 4 * 6.7},
};

static size_t no_bytes(const sl_policy *policy) {
    (void)policy;
    return 0;
}

static void run_row(const row *r) {
    const sl_dtype dtype = r->bits == 4 ? SL_DTYPE_Q4G64 : SL_DTYPE_F16;
    const sl_workload workload = sl_workload_uniform(512, 32, r->n_prompts);
    sl_profile t4;
    sl_source *source = NULL;
    sl_measured_found found;
    assert_int_equal(sl_profile_read(SL_TESTS_DIR "/../cluster/t4.json", &t4), SL_OK);
    if (sl_source_open(r->model, 0, &source) != SL_OK) fail_msg("%s", sl_error_message());
    const sl_plan_problem q = {.source = source,
                               .profile = &t4,
                               .workload = &workload,
                               .has_device = 1,
                               .n_ranks = r->n_ranks,
                               .budget_bytes = {t4.gpu_bytes, t4.cpu_bytes, t4.disk_bytes},
                               .can_attend_on_host = 1,
                               .backend_bytes = no_bytes,
                               .n_weights = 1,
                               .n_caches = 1,
                               .weights = {dtype},
                               .caches = {dtype}};
    if (sl_search_measured(&q, &found) != SL_OK) fail_msg("%s", sl_error_message());
    assert_true(found.is_feasible);
    sl_source_close(source);
    const sim_job job = {.model = r->model,
                         .policy = found.best.policy,
                         .n_prompts = r->n_prompts,
                         .prompt_len = 512,
                         .gen_len = 32};
    sl_sim_rates rates[4];
    sim_outcome out[4];
    for (int i = 0; i < 4; i++) rates[i] = sl_simulated_rates(&t4);
    if (sim_run(&job, rates, r->n_ranks, out) != SL_OK) fail_msg("%s", sl_error_message());
    const double tps = sim_tps(&out[0]);
    const sl_policy *p = &found.best.policy;
    int binds = 0;
    for (int i = 0; i < SL_QUEUE_COUNT; i++)
        if (out[0].stats.busy_s[i] > out[0].stats.busy_s[binds]) binds = i;
    printf(
        "%-14s %d x T4 %2d bit  %3d x %-2d  %8.2f tok/s (planned %8.2f)  FlexGen %7.2f (x %5.2f)  "
        "at most %6.1f  %s busy %3.0f %%\n",
        r->model, r->n_ranks, r->bits, p->micro_batch, p->num_micro_batches, tps,
        found.best.cost.tokens_per_s, r->flexgen, tps / r->flexgen, r->ceiling,
        sl_queue_name((sl_queue)binds), 100 * out[0].stats.busy_s[binds] / out[0].stats.sweep_s);
    assert_int_equal(out[0].n_tokens, r->n_prompts * 32);
    assert_true(tps < r->ceiling);
    assert_true(tps > 0.05 * r->ceiling);
    /* Transfers of a cache on disk wait for each other more than is foreseen. */
    const double off = fabs(found.best.cost.tokens_per_s / tps - 1);
    if (r->n_ranks == 1) assert_true(off < (p->cache.frac[SL_TIER_DISK] > 0 ? 0.1 : 0.05));
}

static void no_schedule_exceeds_the_ceiling(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) run_row(&rows[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_schedule_exceeds_the_ceiling)};
    return cmocka_run_group_tests_name("sim_t4", tests, NULL, NULL);
}
