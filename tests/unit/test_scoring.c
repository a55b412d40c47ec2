/* Scores of prompts: [rows, vocabulary] never has to fit, and a beginning in common is scored once.
 * On a small model with random weights and a large vocabulary, one rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "support/engine_run.h"
#include "support/files.h"

enum { VOCAB = 60000, LONGEST = 1024 };

static char model[600];

static int make_model(void **state) {
    char path[512];
    if (make_dir(state) != 0) return -1;
    path_in(*state, "config.json", path);
    FILE *f = fopen(path, "w");
    if (!f) return -1;
    fprintf(f,
            "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], "
            "\"hidden_size\": 64, \"intermediate_size\": 128, \"num_hidden_layers\": 2, "
            "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"hidden_act\": \"silu\", "
            "\"max_position_embeddings\": %d, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
            "\"vocab_size\": %d, \"bos_token_id\": 1, \"eos_token_id\": 2, "
            "\"tie_word_embeddings\": true}\n",
            LONGEST, VOCAB);
    snprintf(model, sizeof model, "dummy:%s", path);
    return fclose(f);
}

static run_options options_of(int max_rows, size_t budget_bytes) {
    run_options options = {.model = model, .n_threads = 2};
    sl_policy_init(&options.policy);
    options.policy.micro_batch = 4;
    options.policy.num_micro_batches = 1;
    options.policy.max_rows = max_rows;
    options.policy.blocks_in_flight = 1;
    options.policy.max_context = LONGEST;
    options.policy.cpu_budget_bytes = budget_bytes;
    return options;
}

static void run(const run_options *options, const sl_engine_request *requests, int n,
                run_result *results, sl_engine_stats *stats) {
    sl_transport *loopback = NULL;
    assert_int_equal(sl_transport_open_loopback(&loopback), SL_OK);
    const sl_status st = run_engine(options, loopback, requests, n, results, stats);
    sl_transport_close(loopback);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    assert_int_equal(stats->n_steady_allocs, 0);
}

static void write_prompt(int32_t *prompt, int common, int number, int n) {
    for (int i = 0; i < n; i++)
        prompt[i] =
            (int32_t)(sl_rng_at(i < common ? 7 : 100 + (uint64_t)number, (uint64_t)i) % VOCAB);
}

/* A thousand rows at once, in a budget that a quarter of their logits would burst. */
static void a_thousand_rows_are_scored_in_little_memory(void **state) {
    (void)state;
    static int32_t prompt[2][LONGEST];
    const size_t logits = (size_t)(LONGEST - 1) * VOCAB * sizeof(float), budget = 80 << 20;
    assert_true(budget < logits / 2);
    sl_engine_request requests[2];
    for (int i = 0; i < 2; i++) {
        write_prompt(prompt[i], 0, i, LONGEST - 1);
        requests[i] = run_greedy_request(prompt[i], LONGEST - 1, i); /* 0 and 1 new tokens */
        requests[i].sampling.n_logprobs = 3;
    }
    run_result at_once[2] = {0}, in_chunks[2] = {0};
    sl_engine_stats stats;
    const run_options large = options_of(LONGEST, budget), small = options_of(24, budget);
    run(&large, requests, 2, at_once, &stats);
    assert_true(stats.cpu_peak_bytes <= budget);
    assert_int_equal(stats.n_prefill_rows, 2 * (LONGEST - 1) - 1);
    assert_true(stats.n_blocks <= 3);
    run(&small, requests, 2, in_chunks, &stats);
    assert_true(stats.n_blocks > 80);
    for (int i = 0; i < 2; i++) {
        assert_non_null(at_once[i].prompt_scores);
        assert_int_equal(at_once[i].prompt_scores[LONGEST - 2].n_top, 3);
        assert_int_equal(run_results_differ(&at_once[i], &in_chunks[i], "chunks"), 0);
    }
    run_results_free(at_once, 2);
    run_results_free(in_chunks, 2);
}

/* Four continuations of each of two contexts, as harnesses ask for: the context is computed and
 * scored once, with as many alternatives as somebody wanted first. */
static void contexts_in_common_are_scored_once(void **state) {
    (void)state;
    enum { N = 14, COMMON = 150 };
    static int32_t prompt[N][LONGEST];
    sl_engine_request requests[N];
    for (int i = 0; i < N; i++) {
        const int n = COMMON + 5 + 9 * (i / 2);
        write_prompt(prompt[i], COMMON, i, n);
        if (i % 2)
            for (int k = 0; k < COMMON; k++) prompt[i][k] = (prompt[i][k] + 1) % VOCAB;
        requests[i] = run_greedy_request(prompt[i], n, i % 3 == 0);
        requests[i].sampling.n_logprobs = i < 4 ? 2 : i % 3;
        if (i >= 12) { /* the very same again */
            memcpy(prompt[i], prompt[i - 12], sizeof prompt[i]);
            requests[i].n_prompt = requests[i - 12].n_prompt;
        }
        if (i == 9) requests[i].echo_logprobs = 0; /* generates beside those that score */
        if (i == 9) requests[i].max_tokens = 4;
    }
    run_result shared[N] = {0}, alone[N] = {0};
    sl_engine_stats with, without;
    run_options options = options_of(64, 128 << 20);
    for (int arrival = RUN_ALL_AT_ONCE; arrival <= RUN_TRICKLE; arrival++) {
        options.arrival = (run_arrival)arrival;
        options.policy.no_sharing = 0;
        run(&options, requests, N, shared, &with);
        options.policy.no_sharing = 1;
        run(&options, requests, N, alone, &without);
        assert_int_equal(without.n_shared_tokens, 0);
        assert_int_equal(with.n_shared_tokens + with.n_prefill_rows, without.n_prefill_rows);
        assert_true(with.n_shared_tokens > 8 * COMMON);
        for (int i = 0; i < N; i++)
            assert_int_equal(run_results_differ(&shared[i], &alone[i], "shared"), 0);
        run_results_free(shared, N);
        run_results_free(alone, N);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_rows_are_scored_in_little_memory),
        cmocka_unit_test(contexts_in_common_are_scored_once),
    };
    return cmocka_run_group_tests_name("scoring", tests, make_model, remove_dir);
}
