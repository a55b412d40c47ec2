/* Tiny models of every architecture and file form against HF transformers: greedy tokens equal,
 * every log-probability of prompt and continuation within tolerance, whatever the block shape, the
 * page type and the company.  One rank, loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/source.h"
#include "support/golden_mix.h"

/* The oracle's own float32 rounding is below 3e-5 (its float64 run); summation order adds about as
 * much again.  GELU's two forms differ by 1e-3 and more here, a window that is off by one by 0.05.
 */
static const double F32_TOLERANCE = 5e-4;
/* Keys and values rounded to 11 bits, on log-probabilities of size 10. */
static const double F16_TOLERANCE = 2e-2;

typedef struct {
    int micro_batch, num_micro_batches, max_rows, blocks_in_flight;
    run_arrival arrival;
    int with_strangers;
} shape;

static const shape shapes[] = {
    {1, 1, 0, 0, RUN_ALONE, 0},       {3, 1, 8, 0, RUN_ALL_AT_ONCE, 1}, /* chunks of at most 8 */
    {2, 2, 5, 2, RUN_TRICKLE, 1},     {1, 5, 4, 0, RUN_ALL_AT_ONCE, 1},
    {3, 5, 0, 1, RUN_TRICKLE, 1},     {3, 2, 33, 3, RUN_ALL_AT_ONCE, 0},
    {0, 0, 0, 0, RUN_ALL_AT_ONCE, 1}, /* as the engine chooses */
};
static const shape reference_shape = {2, 2, 16, 1, RUN_ALL_AT_ONCE, 0};

static int vocab_of(const char *model) {
    sl_source *source = NULL;
    if (sl_source_open(model, 1, &source) != SL_OK) fail_msg("%s", sl_error_message());
    const int vocab = sl_source_config(source)->vocab;
    sl_source_close(source);
    return vocab;
}

static void load(const char *name, golden_set *set) {
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/golden/models/%s", SL_TESTS_DIR, name);
    if (golden_load(folder, set) != SL_OK) fail_msg("%s", sl_error_message());
}

/* One run of one shape; returns the differences. */
static int run_shape(const char *name, const golden_set *set, const shape *s, sl_dtype cache,
                     int reference) {
    char label[256];
    golden_mix mix;
    run_result results[GOLDEN_MIX_MAX] = {0};
    run_options options = {
        .model = set->model, .reference = reference, .n_threads = 1, .arrival = s->arrival};
    sl_engine_stats stats = {0};
    sl_transport *loopback = NULL;
    snprintf(label, sizeof label, "%s, %s pages%s, %d x %d sequences, %d rows", name,
             cache == SL_DTYPE_F16 ? "f16" : "f32", reference ? ", reference" : "",
             s->num_micro_batches, s->micro_batch, s->max_rows);
    sl_policy_init(&options.policy);
    options.policy.micro_batch = s->micro_batch;
    options.policy.num_micro_batches = s->num_micro_batches;
    options.policy.max_rows = s->max_rows;
    options.policy.blocks_in_flight = s->blocks_in_flight;
    options.policy.max_context = 128;
    options.policy.cache_dtype = cache;
    golden_mix_make(set, s->with_strangers, vocab_of(set->model), &mix);

    int n_bad = 1;
    if (sl_transport_open_loopback(&loopback) != SL_OK ||
        run_engine(&options, loopback, mix.requests, mix.n, results, &stats) != SL_OK) {
        fprintf(stderr, "%s: %s\n", label, sl_error_message());
    } else {
        const double tolerance = cache == SL_DTYPE_F16 ? F16_TOLERANCE : F32_TOLERANCE;
        n_bad = golden_mix_compare(&mix, results, tolerance, label);
        if (stats.n_steady_allocs != 0) {
            fprintf(stderr, "%s: %llu allocations after warm-up\n", label,
                    (unsigned long long)stats.n_steady_allocs);
            n_bad++;
        }
    }
    run_results_free(results, mix.n);
    sl_transport_close(loopback);
    return n_bad;
}

static void run_threads(const golden_set *set, const golden_mix *mix, int n_threads,
                        run_result *results) {
    run_options options = {.model = set->model, .n_threads = n_threads};
    sl_transport *loopback = NULL;
    sl_policy_init(&options.policy);
    options.policy.max_context = 128;
    assert_int_equal(sl_transport_open_loopback(&loopback), SL_OK);
    if (run_engine(&options, loopback, mix->requests, mix->n, results, NULL) != SL_OK)
        fail_msg("%d threads: %s", n_threads, sl_error_message());
    sl_transport_close(loopback);
}

static void number_of_threads_changes_no_bit(void **state) {
    (void)state;
    golden_set set;
    golden_mix mix;
    run_result one[GOLDEN_MIX_MAX] = {0}, more[GOLDEN_MIX_MAX] = {0};
    int n_bad = 0;
    load("llama-gqa", &set);
    golden_mix_make(&set, 1, vocab_of(set.model), &mix);
    run_threads(&set, &mix, 1, one);
    for (int n_threads = 2; n_threads <= 3; n_threads++) {
        run_threads(&set, &mix, n_threads, more);
        for (int i = 0; i < mix.n; i++) n_bad += run_results_differ(&one[i], &more[i], "threads");
        run_results_free(more, mix.n);
    }
    run_results_free(one, mix.n);
    golden_free(&set);
    assert_int_equal(n_bad, 0);
}

static void golden_model_matches_oracle(void **state) {
    golden_set set;
    int n_bad = 0;
    load(*state, &set);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        n_bad += run_shape(*state, &set, &shapes[i], SL_DTYPE_F32, 0);
        n_bad += run_shape(*state, &set, &shapes[i], SL_DTYPE_F16, 0);
    }
    n_bad += run_shape(*state, &set, &reference_shape, SL_DTYPE_F32, 1);
    n_bad += run_shape(*state, &set, &reference_shape, SL_DTYPE_F16, 1);
    golden_free(&set);
    assert_int_equal(n_bad, 0);
}

#define MODEL(name)                                                                                \
    { name, golden_model_matches_oracle, NULL, NULL, name }

static void every_golden_model_is_tested(void **state);

/* clang-format off */
static const struct CMUnitTest tests[] = {
    MODEL("opt"),
    MODEL("opt-350m"),
    MODEL("galactica"),
    MODEL("opt-flat-norms"),
    MODEL("llama1"),
    MODEL("llama-gqa"),
    MODEL("llama-biases"),
    MODEL("llama3"),
    MODEL("mistral"),
    MODEL("qwen2"),
    MODEL("qwen3"),
    MODEL("gguf-llama"),
    MODEL("gguf-qwen2"),
    MODEL("gguf-qwen3"),
    MODEL("gguf-llama3-k"),
    cmocka_unit_test(number_of_threads_changes_no_bit),
    cmocka_unit_test(every_golden_model_is_tested),
};
/* clang-format on */

/* A model that somebody adds to the folder is in the list above. */
static void every_golden_model_is_tested(void **state) {
    (void)state;
    char path[4096];
    DIR *folder = opendir(SL_TESTS_DIR "/golden/models");
    assert_non_null(folder);
    int n_found = 0, n_listed = 0;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        n_listed += tests[i].test_func == golden_model_matches_oracle;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const int n = snprintf(path, sizeof path, "%s/golden/models/%s/golden.json", SL_TESTS_DIR,
                               entry->d_name);
        if (n < 0 || (size_t)n >= sizeof path || access(path, R_OK) != 0) continue;
        int listed = 0;
        for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
            listed |= strcmp(tests[i].name, entry->d_name) == 0;
        if (!listed) print_error("%s is not tested\n", entry->d_name);
        assert_true(listed);
        n_found++;
    }
    closedir(folder);
    assert_int_equal(n_found, n_listed);
}

int main(void) {
    return cmocka_run_group_tests_name("golden_models", tests, NULL, NULL);
}
