/* What the engine promises about requests: choices, scoring, stops, cancels, refusals, scarce seats
 * and pages.  On a tiny model with golden values, one rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "support/golden.h"

static const double F32_TOLERANCE = 5e-4; /* as in test_golden_models.c */

static golden_set set;

static int load_set(void **state) {
    (void)state;
    return golden_load(SL_TESTS_DIR "/golden/models/llama-gqa", &set) == SL_OK ? 0 : -1;
}

static int free_set(void **state) {
    (void)state;
    golden_free(&set);
    return 0;
}

static run_options options_of(int micro_batch, int num_micro_batches, int max_rows) {
    run_options options = {.model = set.model, .n_threads = 1};
    sl_policy_init(&options.policy);
    options.policy.micro_batch = micro_batch;
    options.policy.num_micro_batches = num_micro_batches;
    options.policy.max_rows = max_rows;
    options.policy.blocks_in_flight = 1;
    options.policy.max_context = 128;
    options.policy.cache_dtype = SL_DTYPE_F32;
    return options;
}

/* Runs on loopback; nothing is allocated on the way. */
static void run(const run_options *options, const sl_engine_request *requests, int n,
                run_result *results, sl_engine_stats *stats) {
    sl_transport *loopback = NULL;
    sl_engine_stats mine;
    if (!stats) stats = &mine;
    assert_int_equal(sl_transport_open_loopback(&loopback), SL_OK);
    const sl_status st = run_engine(options, loopback, requests, n, results, stats);
    sl_transport_close(loopback);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    assert_int_equal(stats->n_steady_allocs, 0);
    assert_in_range(stats->pages_peak, 0, stats->pages_total);
}

static uint64_t unmix(uint64_t z) {
    uint64_t inverse[2] = {0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu};
    for (int i = 0; i < 2; i++) { /* Newton: each turn doubles the correct low bits */
        const uint64_t odd = inverse[i];
        for (int turn = 0; turn < 6; turn++) inverse[i] *= 2 - odd * inverse[i];
    }
    z ^= (z >> 31) ^ (z >> 62);
    z *= inverse[1];
    z ^= (z >> 27) ^ (z >> 54);
    z *= inverse[0];
    return z ^ (z >> 30) ^ (z >> 60);
}

/* The key whose choice 0 draws what choice `c` of `key` draws: sl_rng_at() hashes the key to the
 * start of a SplitMix64 stream; moved by c places and unhashed, the start gives that key. */
static uint64_t key_of_choice(uint64_t key, int c) {
    const uint64_t salt = 0x632be59bd9b4e019u, gamma = 0x9e3779b97f4a7c15u;
    const uint64_t found = unmix(sl_rng_mix(key + salt) + (uint64_t)c * gamma) - salt;
    assert_true(sl_rng_at(found, 0) == sl_rng_at(key, (uint64_t)c));
    return found;
}

enum { N_CHOICES = 5 };

static void check_choices(const golden_case *c, const run_options *options, int max_tokens) {
    sl_engine_request many = golden_request(&set, c), single[N_CHOICES];
    run_result together = {0}, alone[N_CHOICES] = {0};
    sl_engine_stats stats;
    many.max_tokens = max_tokens;
    many.n = N_CHOICES;
    many.sampling.temperature = 0.9f;
    many.sampling.key = 77 + (uint64_t)c->n_prompt;
    for (int i = 0; i < N_CHOICES; i++) {
        single[i] = many;
        single[i].n = 1;
        single[i].sampling.key = key_of_choice(many.sampling.key, i);
    }
    run(options, &many, 1, &together, &stats);
    run(options, single, N_CHOICES, alone, NULL);
    assert_int_equal(together.n_choices, N_CHOICES);
    for (int i = 0; i < N_CHOICES; i++) {
        run_result one = together; /* a view: its only choice is the i-th */
        one.n_choices = 1;
        one.choices = &together.choices[i];
        assert_int_equal(run_results_differ(&one, &alone[i], "choice"), 0);
        assert_int_equal(one.choices[0].n_tokens, max_tokens);
    }
    run_results_free(&together, 1);
    run_results_free(alone, N_CHOICES);
}

static void choices_equal_requests_with_their_keys(void **state) {
    (void)state;
    for (int i = 0; i < set.n_cases; i++) {
        const run_options one_seat = options_of(1, 1, 7), some = options_of(2, 2, 16),
                          all = options_of(8, 1, 0);
        check_choices(&set.cases[i], &one_seat, 20); /* no sibling ever meets its first choice */
        check_choices(&set.cases[i], &some, 20);
        check_choices(&set.cases[i], &all, 20);
        check_choices(&set.cases[i], &all, 1);
    }
}

static void choices_that_sample_are_not_all_the_same(void **state) {
    (void)state;
    sl_engine_request request = golden_request(&set, &set.cases[4]);
    const run_options options = options_of(8, 1, 0);
    run_result result = {0};
    request.n = 2;
    request.sampling.temperature = 1.0f;
    run(&options, &request, 1, &result, NULL);
    int n_same = 0;
    for (int t = 0; t < set.max_tokens; t++)
        n_same += result.choices[0].tokens[t].id == result.choices[1].tokens[t].id;
    assert_in_range(n_same, 0, set.max_tokens - 1);
    run_results_free(&result, 1);
}

/* A shared prefix is written by nobody: greedy choices of one request stay golden although all of
 * them extend the same pages, and so does a neighbour. */
static void choices_do_not_write_into_each_other(void **state) {
    (void)state;
    for (int shape = 0; shape < 2; shape++) {
        const run_options options = shape ? options_of(1, 5, 9) : options_of(6, 1, 0);
        sl_engine_request requests[16];
        run_result results[16] = {0};
        int n = 0, n_bad = 0;
        for (int i = 0; i < set.n_cases; i++) {
            requests[n] = golden_request(&set, &set.cases[i]);
            requests[n++].n = 3;
        }
        run(&options, requests, n, results, NULL);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < 3; c++) {
                run_result one = results[i];
                one.n_choices = 1;
                one.choices = &results[i].choices[c];
                n_bad += golden_compare(&set.cases[i], &one, F32_TOLERANCE, "shared prefix", NULL);
            }
        run_results_free(results, n);
        assert_int_equal(n_bad, 0);
    }
}

static void echo_without_tokens_scores_the_prompt(void **state) {
    (void)state;
    const run_options options = options_of(2, 2, 11);
    sl_engine_request requests[16];
    run_result results[16] = {0};
    for (int i = 0; i < set.n_cases; i++) {
        requests[i] = golden_request(&set, &set.cases[i]);
        requests[i].max_tokens = 0;
        requests[i].n = 1 + i % 2;
    }
    run(&options, requests, set.n_cases, results, NULL);
    int n_bad = 0;
    for (int i = 0; i < set.n_cases; i++) {
        golden_case only_prompt = set.cases[i];
        only_prompt.n_tokens = 0;
        assert_int_equal(results[i].n_choices, requests[i].n);
        for (int c = 0; c < results[i].n_choices; c++) {
            assert_int_equal(results[i].choices[c].n_tokens, 0);
            assert_int_equal(results[i].choices[c].finish, SL_FINISH_LENGTH);
        }
        run_result one = results[i];
        one.n_choices = 1;
        n_bad += golden_compare(&only_prompt, &one, F32_TOLERANCE, "echo", NULL);
    }
    run_results_free(results, set.n_cases);
    assert_int_equal(n_bad, 0);
}

static void without_echo_there_are_no_scores(void **state) {
    (void)state;
    const run_options options = options_of(2, 1, 0);
    sl_engine_request request = golden_request(&set, &set.cases[3]);
    run_result result = {0};
    request.echo_logprobs = 0;
    request.sampling.n_logprobs = -1;
    run(&options, &request, 1, &result, NULL);
    assert_null(result.prompt_scores);
    for (int i = 0; i < set.max_tokens; i++) {
        assert_int_equal(result.choices[0].tokens[i].id, set.cases[3].tokens[i]);
        assert_int_equal(result.choices[0].tokens[i].n_top, 0);
    }
    run_results_free(&result, 1);
}

static void stop_id_ends_the_choice_and_stays_in_it(void **state) {
    (void)state;
    const run_options options = options_of(2, 2, 0);
    sl_engine_request requests[16];
    run_result results[16] = {0};
    for (int i = 0; i < set.n_cases; i++) {
        requests[i] = golden_request(&set, &set.cases[i]);
        requests[i].n_stop_ids = 2;
        requests[i].stop_ids[0] = -1; /* never chosen */
        requests[i].stop_ids[1] = set.cases[i].tokens[2 + i];
    }
    run(&options, requests, set.n_cases, results, NULL);
    for (int i = 0; i < set.n_cases; i++) {
        int length = 1; /* the id may come earlier than where it was taken from */
        while (set.cases[i].tokens[length - 1] != requests[i].stop_ids[1]) length++;
        assert_int_equal(results[i].choices[0].finish, SL_FINISH_STOP);
        assert_int_equal(results[i].choices[0].n_tokens, length);
        for (int t = 0; t < length; t++)
            assert_int_equal(results[i].choices[0].tokens[t].id, set.cases[i].tokens[t]);
    }
    run_results_free(results, set.n_cases);
}

/* Counts tokens in its result's `order`, which the run sets at the end; ends choices after 3. */
static int cancel_after_three(void *user, int choice, const sl_choice *token) {
    run_result *result = user;
    (void)token;
    assert_int_equal(choice, 0);
    return ++result->order == 3;
}

static void callback_cancels_its_choice_alone(void **state) {
    (void)state;
    run_options options = options_of(3, 1, 0);
    sl_engine_request requests[4];
    run_result results[4] = {0};
    for (int i = 0; i < 4; i++) {
        requests[i] = golden_request(&set, &set.cases[i]);
        results[i].order = i % 2 ? 0 : 100; /* the even ones are past the third already */
    }
    options.on_token = cancel_after_three;
    run(&options, requests, 4, results, NULL);
    for (int i = 0; i < 4; i++) {
        const run_choice *choice = &results[i].choices[0];
        assert_int_equal(choice->n_tokens, i % 2 ? 3 : set.max_tokens);
        assert_int_equal(choice->finish, i % 2 ? SL_FINISH_STOP : SL_FINISH_LENGTH);
        for (int t = 0; t < choice->n_tokens; t++)
            assert_int_equal(choice->tokens[t].id, set.cases[i].tokens[t]);
    }
    run_results_free(results, 4);
}

/* Requests that cannot run are refused with a reason; those around them do not notice. */
static void bad_requests_are_refused_alone(void **state) {
    (void)state;
    static int32_t long_prompt[200];
    const int32_t wrong_id[2] = {5, 304};
    const int32_t negative_id[1] = {-1};
    const run_options options = options_of(2, 2, 16);
    const struct {
        const int32_t *prompt;
        int n_prompt, max_tokens, n;
        const char *says;
    } bad[] = {
        {long_prompt, 120, 9, 1, "128"}, {long_prompt, 129, 0, 1, "128"},
        {long_prompt, 1, 128, 1, "128"}, {long_prompt, 1, INT32_MAX, 1, "128"},
        {wrong_id, 2, 4, 1, "304"},      {negative_id, 1, 4, 1, "-1"},
        {long_prompt, 0, 4, 1, "token"}, {long_prompt, 4, -1, 1, "-1"},
        {long_prompt, 4, 4, 0, "0"},
    };
    enum { N_BAD = sizeof bad / sizeof bad[0] };
    sl_engine_request requests[2 * N_BAD];
    run_result results[2 * N_BAD] = {0};
    for (int i = 0; i < N_BAD; i++) {
        requests[2 * i] = golden_request(&set, &set.cases[i % set.n_cases]);
        requests[2 * i + 1] = run_greedy_request(bad[i].prompt, bad[i].n_prompt, bad[i].max_tokens);
        requests[2 * i + 1].n = bad[i].n;
    }
    run(&options, requests, 2 * N_BAD, results, NULL);
    int n_bad = 0;
    for (int i = 0; i < N_BAD; i++) {
        n_bad += golden_compare(&set.cases[i % set.n_cases], &results[2 * i], F32_TOLERANCE,
                                "beside a refused request", NULL);
        assert_int_equal(results[2 * i + 1].status, SL_ERR_ARG);
        assert_non_null(strstr(results[2 * i + 1].message, bad[i].says));
        assert_int_equal(results[2 * i + 1].n_answers, 0);
    }
    run_results_free(results, 2 * N_BAD);
    assert_int_equal(n_bad, 0);
}

/* The longest context is whole: 128 tokens of 128. */
static void longest_context_fits(void **state) {
    (void)state;
    const run_options options = options_of(1, 1, 0);
    sl_engine_request request = golden_request(&set, &set.cases[6]);
    run_result result = {0};
    request.max_tokens = 128 - request.n_prompt;
    run(&options, &request, 1, &result, NULL);
    assert_int_equal(result.status, SL_OK);
    assert_int_equal(result.choices[0].n_tokens, request.max_tokens);
    for (int t = 0; t < set.cases[6].n_tokens; t++)
        assert_int_equal(result.choices[0].tokens[t].id, set.cases[6].tokens[t]);
    run_results_free(&result, 1);
}

enum { N_MANY = 400 };

/* Hundreds of requests through few seats, then with hardly more pages than one of them needs: a
 * page or seat that leaks stops the second run, whose steps would never end. */
static void many_requests_pass_through_few_seats_and_pages(void **state) {
    (void)state;
    static sl_engine_request requests[N_MANY];
    static run_result results[N_MANY];
    sl_rng rng = {.key = 5};
    sl_engine_stats stats;
    run_options options = options_of(2, 3, 24);
    for (int i = 0; i < N_MANY; i++) {
        const golden_case *c = &set.cases[sl_rng_below(&rng, (uint64_t)set.n_cases)];
        requests[i] = golden_request(&set, c);
        requests[i].max_tokens = (int)sl_rng_below(&rng, (uint64_t)set.max_tokens + 1);
        requests[i].n = 1 + (int)(sl_rng_below(&rng, 8) == 0);
    }
    for (int scarce = 0; scarce < 2; scarce++) {
        options.arrival = scarce ? RUN_ALL_AT_ONCE : RUN_TRICKLE;
        memset(results, 0, sizeof results);
        run(&options, requests, N_MANY, results, &stats);
        for (int i = 0; i < N_MANY; i++) {
            assert_int_equal(results[i].n_choices, requests[i].n);
            for (int c = 0; c < results[i].n_choices; c++) {
                const run_choice *choice = &results[i].choices[c];
                assert_int_equal(choice->n_tokens, requests[i].max_tokens);
                for (int t = 0; t < choice->n_tokens; t++) {
                    const golden_case *g = set.cases;
                    while (g->prompt != requests[i].prompt) g++;
                    assert_int_equal(choice->tokens[t].id, g->tokens[t]);
                }
            }
        }
        run_results_free(results, N_MANY);
        if (!scarce) {
            const size_t n_layers = (size_t)(stats.last_layer - stats.first_layer);
            const size_t beyond = (size_t)(stats.pages_peak - 5) * stats.page_bytes * n_layers;
            assert_int_equal(stats.pages_total, 6 * 4);
            options.policy.cpu_budget_bytes = stats.cpu_peak_bytes - beyond;
        } else {
            assert_int_equal(stats.pages_total, 5);
        }
    }
}

static void short_request_overtakes_a_long_one(void **state) {
    (void)state;
    const run_options options = options_of(2, 1, 0);
    sl_engine_request requests[2] = {golden_request(&set, &set.cases[6]),
                                     golden_request(&set, &set.cases[1])};
    run_result results[2] = {0};
    requests[1].max_tokens = 3;
    run(&options, requests, 2, results, NULL);
    assert_int_equal(results[0].order, 1);
    assert_int_equal(results[1].order, 0);
    run_results_free(results, 2);
}

static void stop_drops_what_is_queued_and_running(void **state) {
    (void)state;
    for (int after = 1; after < 6; after++) {
        run_options options = options_of(1, 2, 8);
        sl_engine_request requests[16];
        run_result results[16] = {0};
        int n_answered = 0;
        for (int i = 0; i < set.n_cases; i++) {
            requests[i] = golden_request(&set, &set.cases[i]);
            requests[i].n = 1 + i % 3;
        }
        options.stop_after = after;
        run(&options, requests, set.n_cases, results, NULL);
        for (int i = 0; i < set.n_cases; i++) n_answered += results[i].n_answers;
        assert_in_range(n_answered, 0, set.n_cases - 1); /* 20 tokens take more than 5 steps */
        run_results_free(results, set.n_cases);
    }
}

static void budget_that_is_too_small_says_what_is_missing(void **state) {
    (void)state;
    run_options options = options_of(4, 1, 0);
    sl_transport *loopback = NULL;
    options.policy.cpu_budget_bytes = 300 << 10; /* the weights alone are larger */
    assert_int_equal(sl_transport_open_loopback(&loopback), SL_OK);
    assert_int_equal(run_engine(&options, loopback, NULL, 0, NULL, NULL), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "KiB"));
    sl_transport_close(loopback);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_equal_requests_with_their_keys),
        cmocka_unit_test(choices_that_sample_are_not_all_the_same),
        cmocka_unit_test(choices_do_not_write_into_each_other),
        cmocka_unit_test(echo_without_tokens_scores_the_prompt),
        cmocka_unit_test(without_echo_there_are_no_scores),
        cmocka_unit_test(stop_id_ends_the_choice_and_stays_in_it),
        cmocka_unit_test(callback_cancels_its_choice_alone),
        cmocka_unit_test(bad_requests_are_refused_alone),
        cmocka_unit_test(longest_context_fits),
        cmocka_unit_test(many_requests_pass_through_few_seats_and_pages),
        cmocka_unit_test(short_request_overtakes_a_long_one),
        cmocka_unit_test(stop_drops_what_is_queued_and_running),
        cmocka_unit_test(budget_that_is_too_small_says_what_is_missing),
    };
    return cmocka_run_group_tests_name("engine_requests", tests, load_set, free_set);
}
