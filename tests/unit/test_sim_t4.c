/* The paper's table on the paper's machine, simulated: generated tokens / s at 512 + 32 tokens,
 * beside FlexGen's and beside what no schedule can exceed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "support/sim_run.h"

typedef struct {
    const char *model;
    int n_ranks;
    int bits;                    /* of weights and cache */
    double weights[3], cache[3]; /* shares of gpu, cpu and disk */
    double host_attends;
    int n_micro_batches, micro_batch, max_rows, n_prompts;
    double flexgen, ceiling; /* paper, tables 2 and 3; 40 TFLOP/s for all products */
} row;

static const row rows[] = {
    {"opt-6.7b", 1, 16, {.9, .1, 0}, {0, 1, 0}, 1, 4, 48, 1024, 192, 25.26, 176},
    {"opt-6.7b", 1, 4, {1, 0, 0}, {.3, .7, 0}, .6, 4, 64, 2048, 512, 29.12, 176},
    {"opt-30b", 1, 16, {.1, .9, 0}, {0, 1, 0}, 1, 4, 48, 2048, 192, 7.32, 39},
    {"opt-30b", 1, 4, {.5, .5, 0}, {0, 1, 0}, .7, 6, 100, 2048, 1200, 8.38, 39},
    {"opt-175b", 1, 16, {0, .3, .7}, {0, .05, .95}, 0, 40, 8, 4096, 320, 0.69, 6.7},
    {"opt-175b", 1, 4, {.02, .98, 0}, {0, 1, 0}, 1, 6, 40, 1024, 240, 1.12, 6.7},
    {"opt-6.7b", 4, 16, {1, 0, 0}, {.3, .7, 0}, 1, 4, 16, 2048, 256, 201.12, 4 * 176},
    {"opt-30b", 4, 16, {.7, .3, 0}, {0, 1, 0}, 1, 4, 32, 1024, 512, 23.61, 4 * 39},
    {"opt-175b", 4, 16, {0, 1, 0}, {0, 1, 0}, 1, 4, 9, 1024, 144, 2.33, 4 * 6.7},
};

static sl_shares shares_of(const double frac[3]) {
    return (sl_shares){{frac[0], frac[1], frac[2]}};
}

static void run_row(const row *r) {
    char model[32];
    snprintf(model, sizeof model, "dummy:%s", r->model);
    sim_job job = {.model = model, .prompt_len = 512, .gen_len = 32, .n_prompts = r->n_prompts};
    sl_policy_init(&job.policy);
    job.policy.micro_batch = r->micro_batch;
    job.policy.num_micro_batches = r->n_micro_batches;
    job.policy.max_rows = r->max_rows;
    job.policy.max_context = job.prompt_len + job.gen_len;
    job.policy.weights_dtype = job.policy.cache_dtype =
        r->bits == 4 ? SL_DTYPE_Q4G64 : SL_DTYPE_F16;
    job.policy.weights = shares_of(r->weights);
    job.policy.cache = shares_of(r->cache);
    job.policy.host_attends = r->host_attends;
    sl_sim_rates rates[4];
    sim_outcome out[4];
    for (int i = 0; i < 4; i++) rates[i] = sim_t4();
    if (sim_run(&job, rates, r->n_ranks, out) != SL_OK) fail_msg("%s", sl_error_message());
    const double tps = sim_tps(&out[0]);
    int binds = 0;
    for (int q = 0; q < SL_QUEUE_COUNT; q++)
        if (out[0].stats.busy_s[q] > out[0].stats.busy_s[binds]) binds = q;
    printf("%-9s %d x T4 %2d bit  %8.2f tok/s  FlexGen %7.2f (x %5.2f)  at most %6.1f  %s busy "
           "%3.0f %%\n",
           r->model, r->n_ranks, r->bits, tps, r->flexgen, tps / r->flexgen, r->ceiling,
           sl_queue_name((sl_queue)binds), 100 * out[0].stats.busy_s[binds] / out[0].stats.sweep_s);
    assert_int_equal(out[0].n_tokens, r->n_prompts * 32);
    assert_true(tps < r->ceiling);
    assert_true(tps > 0.05 * r->ceiling);
}

static void no_schedule_exceeds_the_ceiling(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) run_row(&rows[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_schedule_exceeds_the_ceiling)};
    return cmocka_run_group_tests_name("sim_t4", tests, NULL, NULL);
}
