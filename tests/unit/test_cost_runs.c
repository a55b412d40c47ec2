/* The cost model beside runs of a real machine, tests/golden/runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cost_measured.h"
#include "model/config.h"
#include "profile.h"

static const char folder[] = SL_TESTS_DIR "/golden/runs/";

static double number(const json_t *run, const char *key) {
    const json_t *value = json_object_get(run, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static const char *text(const json_t *run, const char *key) {
    const char *value = json_string_value(json_object_get(run, key));
    assert_non_null(value);
    return value;
}

static sl_dtype dtype_of(const json_t *run, const char *key) {
    const char *name = text(run, key);
    if (strcmp(name, "q4") == 0) return SL_DTYPE_Q4G64;
    return strcmp(name, "q8") == 0 ? SL_DTYPE_Q8G64 : SL_DTYPE_F16;
}

static sl_shares shares_of(const json_t *run, const char *key) {
    const json_t *value = json_object_get(run, key);
    return (sl_shares){{number(value, "gpu"), number(value, "cpu"), number(value, "disk")}};
}

static sl_policy policy_of(const json_t *run) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = (int)number(run, "micro_batch");
    p.num_micro_batches = (int)number(run, "num_micro_batches");
    p.max_rows = (int)number(run, "max_rows");
    p.max_context = (int)(number(run, "prompt_len") + number(run, "gen_len"));
    p.weights_dtype = dtype_of(run, "weights");
    p.cache_dtype = dtype_of(run, "cache");
    p.weights = shares_of(run, "weights_at");
    p.cache = shares_of(run, "cache_at");
    p.host_attends = number(run, "cpu_attention");
    p.blocks_in_flight = 1;
    return p;
}

static sl_cost cost_of(const sl_profile *machine, const json_t *run) {
    sl_model_config config;
    sl_cost cost;
    const sl_policy policy = policy_of(run);
    const sl_workload workload = sl_workload_uniform(
        (int)number(run, "prompt_len"), (int)number(run, "gen_len"), (int)number(run, "n_prompts"));
    assert_int_equal(sl_config_named(text(run, "model"), &config), SL_OK);
    config.n_layers = (int)number(run, "n_layers");
    const sl_cost_problem problem = {.config = &config,
                                     .profile = machine,
                                     .workload = &workload,
                                     .has_device = 1,
                                     .n_layers = config.n_layers,
                                     .n_ranks = 1};
    if (sl_cost_measured(&problem, &policy, &cost) != SL_OK) fail_msg("%s", sl_error_message());
    return cost;
}

static double busy_s(const sl_cost *cost, sl_cost_queue queue) {
    double s = 0;
    for (int p = 0; p < SL_N_PHASES; p++)
        s += cost->phase[p].n_sweeps * cost->phase[p].queue_s[queue];
    return s;
}

/* How far a prediction of a run's rate may be off.  Of a micro-batch of few rows a profile without
 * small products knows too little: more is allowed there. */
static void check_runs(const char *name, double allowed, double allowed_unknown) {
    char path[1024];
    sl_profile machine;
    json_error_t error;
    double sum = 0;
    snprintf(path, sizeof path, "%s%s.profile.json", folder, name);
    if (sl_profile_read(path, &machine) != SL_OK) fail_msg("%s", sl_error_message());
    snprintf(path, sizeof path, "%s%s.runs.json", folder, name);
    json_t *runs = json_load_file(path, 0, &error);
    if (!runs) fail_msg("%s: %s", path, error.text);
    int n_off = 0;
    size_t i;
    const json_t *run;
    json_array_foreach(runs, i, run) {
        const sl_cost cost = cost_of(&machine, run);
        const double off = cost.tokens_per_s / number(run, "tokens_per_s") - 1;
        printf(
            "%-8s %3.0f x %-2.0f %5.0f rows: %7.1f tokens/s, predicted %7.1f, %+5.1f %%; gpu busy "
            "%6.2f s, predicted %6.2f; h2d %6.2f, %6.2f\n",
            text(run, "name"), number(run, "micro_batch"), number(run, "num_micro_batches"),
            number(run, "max_rows"), number(run, "tokens_per_s"), cost.tokens_per_s, 100 * off,
            number(run, "gpu_busy_s"), busy_s(&cost, SL_COST_COMPUTE), number(run, "h2d_busy_s"),
            busy_s(&cost, SL_COST_H2D));
        sum += fabs(off);
        const int is_known = machine.gemm_small_flops[0].n > 0 || number(run, "max_rows") > 512;
        n_off += fabs(off) > (is_known ? allowed : allowed_unknown);
    }
    const size_t n = json_array_size(runs);
    printf("%s: %.1f %% off in the mean\n", name, 100 * sum / (double)n);
    assert_true(n > 0);
    assert_int_equal(n_off, 0);
    json_decref(runs);
}

static void runs_are_predicted(void **state) {
    (void)state;
    check_runs("h200-16gib", 0.15, 0.35);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_predicted),
    };
    return cmocka_run_group_tests_name("cost_runs", tests, NULL, NULL);
}
