/* Unit tests of src/engine/sampler.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/sampler.h"

enum { MAX_VOCAB = 5000 };

static float logits_of_test[MAX_VOCAB];
static float scratch_of_test[2 * MAX_VOCAB];

static sl_sampling plain_sampling(float temperature) {
    return (sl_sampling){
        .temperature = temperature, .top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = 0};
}

static sl_status choose(const float *logits, int vocab, const sl_choice_ask *ask, sl_choice *out) {
    assert_true(vocab <= MAX_VOCAB);
    assert_true(sl_sampler_scratch_bytes(vocab) <= sizeof scratch_of_test);
    memcpy(logits_of_test, logits, (size_t)vocab * sizeof *logits);
    memset(scratch_of_test, 0xa5, sizeof scratch_of_test); /* any content will do */
    return sl_sampler_choose(logits_of_test, vocab, ask, scratch_of_test, out);
}

static int32_t chosen(const float *logits, int vocab, const sl_sampling *s, int step) {
    const sl_choice_ask ask = {.sampling = s, .target = -1, .step = step};
    sl_choice c;
    assert_int_equal(choose(logits, vocab, &ask, &c), SL_OK);
    assert_in_range(c.id, 0, vocab - 1);
    return c.id;
}

static void random_logits(float *logits, int vocab, uint64_t key, double scale) {
    sl_rng rng = {.key = key};
    for (int i = 0; i < vocab; i++)
        logits[i] = (float)(scale * (sl_rng_unit(sl_rng_next(&rng)) - 0.5));
}

/* ---- greedy and log-probabilities ---- */

static void greedy_takes_the_lowest_id_among_equals(void **state) {
    (void)state;
    const float logits[] = {1.0f, 3.0f, -2.0f, 3.0f, 3.0f};
    const sl_sampling s = plain_sampling(0.0f);
    assert_int_equal(chosen(logits, 5, &s, 0), 1);
    assert_int_equal(chosen(logits + 2, 3, &s, 7), 1);
}

static void logprobs_are_those_of_a_softmax_in_double(void **state) {
    (void)state;
    enum { VOCAB = 1000 };
    float logits[VOCAB];
    random_logits(logits, VOCAB, 11, 30.0);
    long double sum = 0.0L;
    for (int i = 0; i < VOCAB; i++) sum += expl(logits[i]);
    sl_sampling s = plain_sampling(0.0f);
    for (int i = 0; i < VOCAB; i++) {
        const sl_choice_ask ask = {.sampling = &s, .target = i};
        sl_choice c;
        assert_int_equal(choose(logits, VOCAB, &ask, &c), SL_OK);
        assert_int_equal(c.id, i);
        assert_int_equal(c.n_top, 0);
        /* Half a unit in the last place of a float near -35 is 1.9e-6. */
        assert_true(fabsl(c.logprob - (logits[i] - logl(sum))) < 2e-6L);
    }
}

static void top_is_sorted_and_ties_go_to_the_lower_id(void **state) {
    (void)state;
    const float logits[] = {0.5f, 2.0f, 2.0f, -1.0f, 2.0f, 7.0f, 0.5f};
    const int32_t order[] = {5, 1, 2, 4, 0, 6, 3};
    for (int n = 0; n <= 9; n++) {
        sl_sampling s = plain_sampling(0.0f);
        s.n_logprobs = n;
        const sl_choice_ask ask = {.sampling = &s, .target = -1};
        sl_choice c;
        assert_int_equal(choose(logits, 7, &ask, &c), SL_OK);
        assert_int_equal(c.n_top, n < 7 ? n : 7);
        for (int i = 0; i < c.n_top; i++) assert_int_equal(c.top[i].id, order[i]);
    }
}

static void chosen_logprob_equals_its_entry_in_top(void **state) {
    (void)state;
    enum { VOCAB = 3000 };
    static float logits[VOCAB];
    for (int round = 0; round < 20; round++) {
        random_logits(logits, VOCAB, 100 + (uint64_t)round, 12.0);
        sl_sampling s = plain_sampling(0.0f);
        s.n_logprobs = SL_MAX_LOGPROBS;
        sl_choice_ask ask = {.sampling = &s, .target = -1};
        sl_choice c;
        assert_int_equal(choose(logits, VOCAB, &ask, &c), SL_OK);
        assert_int_equal(c.n_top, SL_MAX_LOGPROBS);
        assert_int_equal(c.top[0].id, c.id);
        assert_memory_equal(&c.top[0].logprob, &c.logprob, sizeof c.logprob);
        for (int i = 0; i < c.n_top; i++) {
            sl_choice scored;
            ask.target = c.top[i].id;
            assert_int_equal(choose(logits, VOCAB, &ask, &scored), SL_OK);
            assert_memory_equal(&scored.logprob, &c.top[i].logprob, sizeof c.logprob);
            if (i > 0) assert_true(c.top[i].logprob <= c.top[i - 1].logprob);
        }
    }
}

static void logprobs_ignore_temperature_penalties_and_bias(void **state) {
    (void)state;
    const float logits[] = {1.0f, 2.0f, 3.0f, 0.0f};
    const int32_t output[] = {2, 2};
    const sl_logit_bias bias = {.id = 0, .bias = 100.0f};
    sl_sampling plain = plain_sampling(0.0f), s = plain_sampling(0.0f);
    plain.n_logprobs = s.n_logprobs = 4;
    s.frequency_penalty = 1.5f;
    s.bias = &bias;
    s.n_bias = 1;
    const sl_choice_ask score = {.sampling = &plain, .target = 0};
    const sl_choice_ask ask = {.sampling = &s, .target = -1, .step = 2, .output = output};
    sl_choice expected, c;
    assert_int_equal(choose(logits, 4, &score, &expected), SL_OK);
    assert_int_equal(choose(logits, 4, &ask, &c), SL_OK);
    assert_int_equal(c.id, 0); /* by its bias */
    assert_memory_equal(&c.logprob, &expected.logprob, sizeof c.logprob);
    assert_int_equal(c.n_top, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c.top[i].id, expected.top[i].id);
        assert_true(c.top[i].logprob == expected.top[i].logprob);
    }
}

static void no_logprobs_are_given_when_none_are_asked_for(void **state) {
    (void)state;
    const float logits[] = {1.0f, 2.0f};
    sl_sampling s = plain_sampling(0.0f);
    s.n_logprobs = -1;
    const sl_choice_ask ask = {.sampling = &s, .target = -1};
    sl_choice c;
    assert_int_equal(choose(logits, 2, &ask, &c), SL_OK);
    assert_int_equal(c.id, 1);
    assert_int_equal(c.n_top, 0);
    assert_true(c.logprob == 0.0f);
}

/* ---- distributions ---- */

enum { N_DRAWS = 20000 };

/* Draws with many keys and steps and compares the counts with p[] (vocab <= 64, zero entries must
 * not occur).  The seed is fixed, so the test is deterministic; the limit is the chi-square
 * quantile at about 1e-4 by Wilson and Hilferty's approximation. */
static void assert_distribution(const float *logits, int vocab, sl_sampling s, const double *p) {
    int count[64] = {0};
    for (int i = 0; i < N_DRAWS; i++) {
        s.key = (uint64_t)(i / 50);
        count[chosen(logits, vocab, &s, i % 50)]++;
    }
    double chi2 = 0.0;
    int freedom = -1;
    for (int i = 0; i < vocab; i++) {
        if (p[i] == 0.0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        const double expected = p[i] * N_DRAWS;
        assert_true(expected > 5.0); /* or the approximation does not hold */
        chi2 += (count[i] - expected) * (count[i] - expected) / expected;
        freedom++;
    }
    if (freedom == 0) return;
    const double v = 2.0 / (9.0 * freedom);
    assert_true(chi2 < freedom * pow(1.0 - v + 3.72 * sqrt(v), 3.0));
}

/* p = softmax(logits / temperature) over the ids with keep[i], zero elsewhere. */
static void softmax_over(const float *logits, int vocab, double temperature, const int *keep,
                         double *p) {
    double sum = 0.0;
    for (int i = 0; i < vocab; i++) {
        p[i] = !keep || keep[i] ? exp(logits[i] / temperature) : 0.0;
        sum += p[i];
    }
    for (int i = 0; i < vocab; i++) p[i] /= sum;
}

static void temperature_gives_the_softmax_distribution(void **state) {
    (void)state;
    const float temperatures[] = {0.5f, 1.0f, 2.5f};
    float logits[20];
    random_logits(logits, 20, 5, 2.5);
    for (int t = 0; t < 3; t++) {
        double p[20];
        softmax_over(logits, 20, temperatures[t], NULL, p);
        assert_distribution(logits, 20, plain_sampling(temperatures[t]), p);
    }
}

static void top_k_keeps_the_k_highest(void **state) {
    (void)state;
    const float logits[] = {0.0f, 1.0f, 0.5f, 1.0f, 1.0f, -1.0f};
    const int keep[] = {0, 1, 0, 1, 0, 0}; /* of the equals, the lower ids */
    double p[6];
    sl_sampling s = plain_sampling(0.7f);
    s.top_k = 2;
    softmax_over(logits, 6, 0.7, keep, p);
    assert_distribution(logits, 6, s, p);
}

static void top_p_keeps_the_smallest_set_that_reaches_it(void **state) {
    (void)state;
    /* Probabilities 0.4, 0.3, 0.2, 0.1, out of order. */
    const float logits[] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const struct {
        float top_p;
        int keep[4];
    } cases[] = {
        {0.39f, {0, 1, 0, 0}}, {0.41f, {0, 1, 0, 1}}, {0.69f, {0, 1, 0, 1}},
        {0.71f, {1, 1, 0, 1}}, {0.91f, {1, 1, 1, 1}}, {1.0f, {1, 1, 1, 1}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        double p[4];
        sl_sampling s = plain_sampling(1.0f);
        s.top_p = cases[c].top_p;
        softmax_over(logits, 4, 1.0, cases[c].keep, p);
        assert_distribution(logits, 4, s, p);
    }
}

static void top_p_is_a_share_of_what_top_k_left(void **state) {
    (void)state;
    /* After top_k 3 the shares are 4/9, 3/9, 2/9: 0.5 needs two tokens, 0.42 one.  Of the whole
     * distribution 0.42 would need two. */
    const float logits[] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const int one[] = {0, 1, 0, 0}, two[] = {0, 1, 0, 1};
    double p[4];
    sl_sampling s = plain_sampling(1.0f);
    s.top_k = 3;
    s.top_p = 0.42f;
    softmax_over(logits, 4, 1.0, one, p);
    assert_distribution(logits, 4, s, p);
    s.top_p = 0.5f;
    softmax_over(logits, 4, 1.0, two, p);
    assert_distribution(logits, 4, s, p);
}

static void min_p_is_relative_to_the_most_likely(void **state) {
    (void)state;
    const float logits[] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const int keep[] = {0, 1, 0, 1};
    double p[4];
    sl_sampling s = plain_sampling(1.0f);
    s.min_p = 0.51f; /* 0.3 / 0.4 passes, 0.2 / 0.4 does not */
    softmax_over(logits, 4, 1.0, keep, p);
    assert_distribution(logits, 4, s, p);
}

static void min_p_comes_after_temperature(void **state) {
    (void)state;
    const float logits[] = {logf(0.2f), logf(0.4f), logf(0.1f), logf(0.3f)};
    const int keep[] = {1, 1, 0, 1};
    double p[4];
    sl_sampling s = plain_sampling(2.0f);
    s.min_p = 0.6f; /* square roots: 0.71, 1, 0.5, 0.87 */
    softmax_over(logits, 4, 2.0, keep, p);
    assert_distribution(logits, 4, s, p);
}

/* ---- edges of the filters ---- */

static void a_tiny_top_p_or_top_k_1_or_min_p_1_is_greedy(void **state) {
    (void)state;
    enum { VOCAB = 500 };
    float logits[VOCAB];
    random_logits(logits, VOCAB, 77, 6.0);
    logits[400] = logits[123] = 9.0f;
    sl_sampling p = plain_sampling(1.0f), k = p, m = p;
    p.top_p = 1e-30f;
    k.top_k = 1;
    for (int step = 0; step < 200; step++) {
        assert_int_equal(chosen(logits, VOCAB, &p, step), 123);
        assert_int_equal(chosen(logits, VOCAB, &k, step), 123);
    }
    logits[400] = 8.0f; /* min_p keeps equals, so there must be none */
    m.min_p = 1.0f;
    for (int step = 0; step < 200; step++) assert_int_equal(chosen(logits, VOCAB, &m, step), 123);
}

static void a_tiny_temperature_is_greedy(void **state) {
    (void)state;
    const float logits[] = {5.0f, -3e38f, 5.001f, 3e38f, -INFINITY};
    const sl_sampling s = plain_sampling(1e-30f);
    for (int step = 0; step < 100; step++) assert_int_equal(chosen(logits, 5, &s, step), 3);
}

static void filters_that_let_all_pass_change_nothing(void **state) {
    (void)state;
    enum { VOCAB = 700 };
    float logits[VOCAB];
    random_logits(logits, VOCAB, 8, 5.0);
    sl_sampling s = plain_sampling(0.9f), f = s;
    f.top_k = VOCAB + 5;
    f.top_p = 1.0f;
    f.min_p = 1e-30f;
    for (int step = 0; step < 300; step++)
        assert_int_equal(chosen(logits, VOCAB, &s, step), chosen(logits, VOCAB, &f, step));
}

static void minus_infinity_is_never_chosen(void **state) {
    (void)state;
    const float logits[] = {-INFINITY, 0.0f, -INFINITY, 1.0f, -INFINITY};
    const int keep[] = {0, 1, 0, 1, 0};
    double p[5];
    softmax_over(logits, 5, 1.0, keep, p);
    assert_distribution(logits, 5, plain_sampling(1.0f), p);
    sl_sampling s = plain_sampling(1.0f);
    s.top_k = 4;
    s.top_p = 0.99999f;
    assert_distribution(logits, 5, s, p);

    const sl_choice_ask ask = {.sampling = &s, .target = 0};
    sl_choice c;
    assert_int_equal(choose(logits, 5, &ask, &c), SL_OK);
    assert_true(c.logprob == -INFINITY);
}

static void a_vocabulary_of_one_gives_it_with_certainty(void **state) {
    (void)state;
    const float logits[] = {-4.0f};
    sl_sampling s = plain_sampling(1.0f);
    s.top_k = 5;
    s.top_p = 0.5f;
    s.min_p = 0.5f;
    s.n_logprobs = 5;
    const sl_choice_ask ask = {.sampling = &s, .target = -1};
    sl_choice c;
    assert_int_equal(choose(logits, 1, &ask, &c), SL_OK);
    assert_int_equal(c.id, 0);
    assert_int_equal(c.n_top, 1);
    assert_true(c.logprob == 0.0f);
}

/* ---- penalties, bias, bans ---- */

static void repetition_penalty_counts_each_token_once(void **state) {
    (void)state;
    /* 8 / 2 = 4 is highest; applied twice it would be 2. */
    const float logits[] = {8.0f, 3.9f, -1.0f, -1.5f};
    const int32_t prompt[] = {0, 2, 0}, output[] = {0, 0};
    sl_sampling s = plain_sampling(0.0f);
    s.repetition_penalty = 2.0f;
    sl_choice_ask ask = {
        .sampling = &s, .target = -1, .step = 2, .prompt = prompt, .n_prompt = 3, .output = output};
    sl_choice c;
    assert_int_equal(choose(logits, 4, &ask, &c), SL_OK);
    assert_int_equal(c.id, 0);
    s.repetition_penalty = 2.1f; /* 8 / 2.1 = 3.81 */
    assert_int_equal(choose(logits, 4, &ask, &c), SL_OK);
    assert_int_equal(c.id, 1);
}

static void repetition_penalty_lowers_negative_logits(void **state) {
    (void)state;
    const float logits[] = {-1.0f, -1.5f}; /* -1 * 2 < -1.5 */
    const int32_t prompt[] = {0};
    sl_sampling s = plain_sampling(0.0f);
    s.repetition_penalty = 2.0f;
    const sl_choice_ask ask = {.sampling = &s, .target = -1, .prompt = prompt, .n_prompt = 1};
    sl_choice c;
    assert_int_equal(choose(logits, 2, &ask, &c), SL_OK);
    assert_int_equal(c.id, 1);
}

static void frequency_counts_and_presence_does_not(void **state) {
    (void)state;
    const float logits[] = {5.0f, 4.0f, 3.5f};
    const int32_t prompt[] = {1, 1, 1, 1}, output[] = {0, 0, 0};
    sl_sampling s = plain_sampling(0.0f);
    sl_choice_ask ask = {
        .sampling = &s, .target = -1, .step = 3, .prompt = prompt, .n_prompt = 4, .output = output};
    sl_choice c;
    s.frequency_penalty = 0.3f; /* 5 - 0.9 */
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 0);
    s.frequency_penalty = 0.4f; /* 5 - 1.2; the prompt is not counted */
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 1);
    s.frequency_penalty = 0.0f;
    s.presence_penalty = 0.9f;
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 0);
    s.presence_penalty = 1.1f;
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 1);
    s.presence_penalty = -2.0f; /* a negative one draws */
    ask.output = (const int32_t[]){2, 2, 2};
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 2);
}

static void bias_is_added_after_penalties(void **state) {
    (void)state;
    const float logits[] = {10.0f, 0.0f, 4.5f};
    const int32_t prompt[] = {0};
    const sl_logit_bias bias[] = {{0, -1.0f}, {1, 3.0f}};
    sl_sampling s = plain_sampling(0.0f);
    s.repetition_penalty = 2.0f;
    s.bias = bias;
    s.n_bias = 2;
    /* 10 / 2 - 1 = 4 < 4.5; (10 - 1) / 2 = 4.5 would win the tie. */
    const sl_choice_ask ask = {.sampling = &s, .target = -1, .prompt = prompt, .n_prompt = 1};
    sl_choice c;
    assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
    assert_int_equal(c.id, 2);
}

static void banned_tokens_come_back_at_min_tokens(void **state) {
    (void)state;
    const float logits[] = {5.0f, 4.0f, 3.0f, 2.0f};
    sl_sampling s = plain_sampling(0.0f), hot = plain_sampling(5.0f);
    s.min_tokens = 3;
    s.n_ban = 2;
    s.ban[0] = 0;
    s.ban[1] = 1;
    assert_int_equal(chosen(logits, 4, &s, 0), 2);
    assert_int_equal(chosen(logits, 4, &s, 2), 2);
    assert_int_equal(chosen(logits, 4, &s, 3), 0);

    /* All banned but one: it is chosen at any temperature. */
    hot.min_tokens = 1000;
    hot.n_ban = 3;
    memcpy(hot.ban, (const int32_t[]){0, 1, 3}, 3 * sizeof(int32_t));
    for (int step = 0; step < 100; step++) assert_int_equal(chosen(logits, 4, &hot, step), 2);
}

static void overflowing_adjustments_stay_comparable(void **state) {
    (void)state;
    const float logits[] = {3e38f, 2e38f, 1.0f};
    const int32_t prompt[] = {0, 1};
    sl_sampling s = plain_sampling(0.8f);
    s.repetition_penalty = 1e-3f; /* both become "highest": the draw is between them */
    for (int step = 0; step < 50; step++) {
        const sl_choice_ask ask = {
            .sampling = &s, .target = -1, .step = 0, .prompt = prompt, .n_prompt = 2};
        sl_choice c;
        s.key = (uint64_t)step;
        assert_int_equal(choose(logits, 3, &ask, &c), SL_OK);
        assert_in_range(c.id, 0, 1);
    }
}

/* ---- what must not matter, and errors ---- */

static void a_choice_depends_on_key_and_step_alone(void **state) {
    (void)state;
    enum { VOCAB = 300, N = 200 };
    float logits[VOCAB];
    random_logits(logits, VOCAB, 3, 2.0);
    sl_sampling s = plain_sampling(1.0f);
    s.top_p = 0.95f;
    int32_t first[N];
    int n_other_key = 0, n_other_step = 0;
    for (int i = 0; i < N; i++) {
        s.key = 42;
        first[i] = chosen(logits, VOCAB, &s, i);
    }
    for (int i = N - 1; i >= 0; i--) { /* another order, other calls between */
        s.key = 43;
        n_other_key += chosen(logits, VOCAB, &s, i) != first[i];
        s.key = 42;
        n_other_step += chosen(logits, VOCAB, &s, i + 1) != first[i];
        assert_int_equal(chosen(logits, VOCAB, &s, i), first[i]);
    }
    assert_true(n_other_key > N / 2);
    assert_true(n_other_step > N / 2);
}

static void a_constant_added_to_all_logits_changes_no_choice(void **state) {
    (void)state;
    enum { VOCAB = 64 };
    float logits[VOCAB], moved[VOCAB];
    for (int i = 0; i < VOCAB; i++) { /* eighths: the sum below is exact */
        logits[i] = (float)(int)(sl_rng_at(9, (uint64_t)i) % 40) / 8.0f;
        moved[i] = logits[i] + 64.0f;
    }
    sl_sampling s = plain_sampling(0.8f);
    s.top_k = 20;
    s.top_p = 0.9f;
    for (int step = 0; step < 500; step++)
        assert_int_equal(chosen(logits, VOCAB, &s, step), chosen(moved, VOCAB, &s, step));
}

static void broken_rows_are_device_errors(void **state) {
    (void)state;
    const sl_sampling s = plain_sampling(1.0f);
    const sl_choice_ask ask = {.sampling = &s, .target = -1}, score = {.sampling = &s, .target = 0};
    const float nan_row[] = {1.0f, 2.0f, NAN, 0.0f}, inf_row[] = {1.0f, INFINITY, 0.0f},
                empty_row[] = {-INFINITY, -INFINITY};
    sl_choice c = {.id = -7};
    assert_int_equal(choose(nan_row, 4, &ask, &c), SL_ERR_DEVICE);
    assert_non_null(strstr(sl_error_message(), "token 2"));
    assert_int_equal(choose(nan_row, 4, &score, &c), SL_ERR_DEVICE);
    assert_int_equal(choose(inf_row, 3, &ask, &c), SL_ERR_DEVICE);
    assert_non_null(strstr(sl_error_message(), "token 1"));
    assert_int_equal(choose(empty_row, 2, &ask, &c), SL_ERR_DEVICE);
    assert_int_equal(c.id, -7); /* outputs are written on success only */
}

static void wrong_arguments_are_named(void **state) {
    (void)state;
    const float logits[] = {1.0f, 2.0f};
    const sl_logit_bias bias = {.id = 2, .bias = 1.0f}, inf_bias = {.id = 0, .bias = INFINITY};
    const sl_sampling good = plain_sampling(1.0f);
    sl_sampling s[11];
    const char *word[11] = {"temperature", "temperature", "top_k",           "top_p",
                            "top_p",       "min_p",       "repetition",      "banned",
                            "bias",        "bias",        "banned ids leave"};
    for (int i = 0; i < 11; i++) s[i] = good;
    s[0].temperature = -1.0f;
    s[1].temperature = NAN;
    s[2].top_k = -2;
    s[3].top_p = 0.0f;
    s[4].top_p = 1.01f;
    s[5].min_p = -0.1f;
    s[6].repetition_penalty = 0.0f;
    s[7].n_ban = 1;
    s[7].ban[0] = 2;
    s[8].n_bias = s[9].n_bias = 1;
    s[8].bias = &bias;
    s[9].bias = &inf_bias;
    s[10].n_ban = 2;
    s[10].ban[1] = 1;
    s[10].min_tokens = 1;
    sl_choice c;
    for (int i = 0; i < 11; i++) {
        const sl_choice_ask ask = {.sampling = &s[i], .target = -1};
        assert_int_equal(choose(logits, 2, &ask, &c), SL_ERR_ARG);
        assert_non_null(strstr(sl_error_message(), word[i]));
    }
    const sl_choice_ask beyond = {.sampling = &good, .target = 2};
    assert_int_equal(choose(logits, 2, &beyond, &c), SL_ERR_ARG);
    sl_sampling penalised = good;
    penalised.presence_penalty = 1.0f;
    const sl_choice_ask no_output = {.sampling = &penalised, .target = -1, .step = 1};
    assert_int_equal(choose(logits, 2, &no_output, &c), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "output"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_among_equals),
        cmocka_unit_test(logprobs_are_those_of_a_softmax_in_double),
        cmocka_unit_test(top_is_sorted_and_ties_go_to_the_lower_id),
        cmocka_unit_test(chosen_logprob_equals_its_entry_in_top),
        cmocka_unit_test(logprobs_ignore_temperature_penalties_and_bias),
        cmocka_unit_test(no_logprobs_are_given_when_none_are_asked_for),
        cmocka_unit_test(temperature_gives_the_softmax_distribution),
        cmocka_unit_test(top_k_keeps_the_k_highest),
        cmocka_unit_test(top_p_keeps_the_smallest_set_that_reaches_it),
        cmocka_unit_test(top_p_is_a_share_of_what_top_k_left),
        cmocka_unit_test(min_p_is_relative_to_the_most_likely),
        cmocka_unit_test(min_p_comes_after_temperature),
        cmocka_unit_test(a_tiny_top_p_or_top_k_1_or_min_p_1_is_greedy),
        cmocka_unit_test(a_tiny_temperature_is_greedy),
        cmocka_unit_test(filters_that_let_all_pass_change_nothing),
        cmocka_unit_test(minus_infinity_is_never_chosen),
        cmocka_unit_test(a_vocabulary_of_one_gives_it_with_certainty),
        cmocka_unit_test(repetition_penalty_counts_each_token_once),
        cmocka_unit_test(repetition_penalty_lowers_negative_logits),
        cmocka_unit_test(frequency_counts_and_presence_does_not),
        cmocka_unit_test(bias_is_added_after_penalties),
        cmocka_unit_test(banned_tokens_come_back_at_min_tokens),
        cmocka_unit_test(overflowing_adjustments_stay_comparable),
        cmocka_unit_test(a_choice_depends_on_key_and_step_alone),
        cmocka_unit_test(a_constant_added_to_all_logits_changes_no_choice),
        cmocka_unit_test(broken_rows_are_device_errors),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
