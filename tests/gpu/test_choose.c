/* Tokens chosen on the GPU against the host's sampler, on the same logits and random numbers. */
#include "gpu_fixture.h"

enum { ROWS = 300, MAX_VOCAB = 50272 }; /* more rows than one launch takes */

typedef struct {
    int n_rows, vocab;
    float *logits;
    sl_sampling *sampling;
    sl_choice_ask *ask;
    int32_t *output;
} job;

static void job_make(sl_rng *rng, int n_rows, int vocab, job *j) {
    *j = (job){.n_rows = n_rows, .vocab = vocab};
    const size_t n = (size_t)n_rows * (size_t)vocab;
    j->logits = fixture_alloc(n * sizeof *j->logits);
    /* Quarter steps: many equal logits, so that ties are met all the time. */
    for (size_t i = 0; i < n; i++)
        j->logits[i] =
            i % 3 ? 4.0f * fixture_uniform(rng) : 0.25f * (float)sl_rng_below(rng, 24) - 1.0f;
    j->sampling = fixture_alloc((size_t)n_rows * sizeof *j->sampling);
    j->ask = fixture_alloc((size_t)n_rows * sizeof *j->ask);
    j->output = fixture_alloc(8 * sizeof *j->output);
    for (int i = 0; i < 8; i++) j->output[i] = (int32_t)sl_rng_below(rng, (uint64_t)vocab);
    static const float temperatures[] = {0.0f, 0.7f, 1.0f, 2.5f, 0.01f};
    static const int top_k[] = {0, 1, 5, 40, 1000000, -1};
    static const float top_p[] = {1.0f, 0.9f, 0.5f, 0.01f}, min_p[] = {0.0f, 0.05f, 0.9f};
    static const sl_logit_bias bias[] = {{3, 2.5f}, {0, -100.0f}};
    for (int r = 0; r < n_rows; r++) {
        sl_sampling s = {.temperature = temperatures[sl_rng_below(rng, 5)],
                         .top_k = top_k[sl_rng_below(rng, 6)],
                         .top_p = top_p[sl_rng_below(rng, 4)],
                         .min_p = min_p[sl_rng_below(rng, 3)],
                         .repetition_penalty = r % 17 == 0 ? 1.3f : 1.0f,
                         .frequency_penalty = r % 19 == 0 ? 0.5f : 0.0f,
                         .key = sl_rng_next(rng),
                         .min_tokens = r % 5 == 0 ? 10 : 0,
                         .n_ban = vocab > 2 ? 2 : vocab - 1,
                         .n_logprobs = (int)sl_rng_below(rng, SL_MAX_LOGPROBS + 2) - 1};
        if (r % 23 == 0 && vocab > 3) s.n_bias = 2, s.bias = bias;
        /* Ban the very best, so that bans matter. */
        int best = 0;
        for (int i = 0; i < vocab; i++)
            if (j->logits[r * vocab + i] > j->logits[r * vocab + best]) best = i;
        s.ban[0] = best;
        s.ban[1] = (int32_t)sl_rng_below(rng, (uint64_t)vocab);
        j->sampling[r] = s;
        j->ask[r] = (sl_choice_ask){.sampling = &j->sampling[r],
                                    .target = r % 7 == 0 ? best : -1,
                                    .step = 6,
                                    .output = j->output};
    }
}

static void job_free(job *j) {
    free(j->output), free(j->ask), free(j->sampling), free(j->logits);
}

static void choices_are_those_of_the_host(void **state) {
    (void)state;
    static const int vocabs[] = {1, 2, 31, 1000, MAX_VOCAB};
    sl_backend *gpu = gpu_open();
    sl_rng rng = {.key = 51};
    sl_choice *got = fixture_alloc(ROWS * sizeof *got);
    void *scratch = fixture_alloc(sl_sampler_scratch_bytes(MAX_VOCAB));
    for (int v = 0; v < 5; v++) {
        const int n_rows = vocabs[v] == MAX_VOCAB ? 80 : ROWS;
        job j;
        job_make(&rng, n_rows, vocabs[v], &j);
        float *dl = gpu_put(gpu, j.logits, (size_t)n_rows * (size_t)vocabs[v] * 4);
        memset(got, 0xee, ROWS * sizeof *got);
        check_ok(gpu->ops->choose(gpu, dl, n_rows, vocabs[v], j.ask, got));
        for (int r = 0; r < n_rows; r++) {
            sl_choice want;
            check_ok(
                sl_sampler_choose(j.logits + r * vocabs[v], vocabs[v], &j.ask[r], scratch, &want));
            if (got[r].id != want.id || got[r].n_top != want.n_top)
                fail_msg("row %d of vocabulary %d: token %d with %d, expected %d with %d", r,
                         vocabs[v], got[r].id, got[r].n_top, want.id, want.n_top);
            /* One rounding of a double that agrees to 1e-13. */
            assert_true(fabs((double)got[r].logprob - want.logprob) <= 1e-6);
            for (int i = 0; i < want.n_top; i++) {
                assert_int_equal(got[r].top[i].id, want.top[i].id);
                assert_true(fabs((double)got[r].top[i].logprob - want.top[i].logprob) <= 1e-6);
                if (got[r].top[i].id == got[r].id) /* the same number in both places */
                    assert_true(got[r].top[i].logprob == got[r].logprob);
            }
        }
        gpu_free(gpu, dl);
        job_free(&j);
    }
    free(scratch), free(got);
    sl_backend_close(gpu);
}

/* Choices that are begun, with others begun and one made in one call before they end, are those of
 * one call each. */
static void choices_in_two_parts_are_those_of_one_call(void **state) {
    (void)state;
    enum { PARTS = 3, N = ROWS / 2, VOCAB = 1000 };
    sl_backend *gpu = gpu_open();
    sl_rng rng = {.key = 52};
    job jobs[PARTS];
    float *logits[PARTS], *again[PARTS];
    sl_choice *want = fixture_alloc(N * sizeof *want), *got = fixture_alloc(N * sizeof *got);
    for (int p = 0; p < PARTS; p++) {
        job_make(&rng, N, VOCAB, &jobs[p]);
        for (int r = 0; r < N; r++) {
            sl_sampling *s = &jobs[p].sampling[r];
            s->n_bias = 0, s->repetition_penalty = 1.0f, s->frequency_penalty = 0.0f;
        }
        logits[p] = gpu_put(gpu, jobs[p].logits, (size_t)N * VOCAB * 4);
        again[p] = gpu_put(gpu, jobs[p].logits, (size_t)N * VOCAB * 4);
    }
    for (int round = 0; round < 3; round++) {
        check_ok(gpu->ops->choose_begin(gpu, logits[0], N, VOCAB, jobs[0].ask));
        check_ok(gpu->ops->choose_begin(gpu, logits[1], N - 1, VOCAB, jobs[1].ask));
        check_ok(gpu->ops->choose(gpu, logits[2], N, VOCAB, jobs[2].ask, got));
        for (int p = PARTS - 1; p >= 0; p--) {
            const int part = p == PARTS - 1 ? p : PARTS - 2 - p; /* 2, then 0 and 1 */
            const int n_part = N - (part == 1);
            if (p < PARTS - 1)
                check_ok(gpu->ops->choose_end(gpu, n_part, VOCAB, jobs[part].ask, got));
            check_ok(gpu->ops->choose(gpu, again[part], n_part, VOCAB, jobs[part].ask, want));
            for (int r = 0; r < n_part; r++) {
                assert_int_equal(got[r].id, want[r].id);
                assert_true(got[r].logprob == want[r].logprob);
                assert_int_equal(got[r].n_top, want[r].n_top);
            }
        }
    }
    assert_int_equal(gpu->ops->choose_end(gpu, 1, VOCAB, jobs[0].ask, got), SL_ERR_ARG);
    for (int p = 0; p < PARTS; p++) {
        gpu_free(gpu, logits[p]), gpu_free(gpu, again[p]);
        job_free(&jobs[p]);
    }
    free(want), free(got);
    sl_backend_close(gpu);
}

static void broken_logits_are_reported(void **state) {
    (void)state;
    enum { VOCAB = 700 };
    sl_backend *gpu = gpu_open();
    const sl_sampling s = {.top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = 1};
    const sl_choice_ask ask = {.sampling = &s, .target = -1};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float logits[VOCAB];
    for (int b = 0; b < 3; b++) {
        for (int i = 0; i < VOCAB; i++) logits[i] = b == 2 ? -INFINITY : 0.001f * (float)i;
        if (b < 2) logits[650] = logits[333] = bad[b];
        void *dl = gpu_put(gpu, logits, sizeof logits);
        sl_choice out;
        assert_int_equal(gpu->ops->choose(gpu, dl, 1, VOCAB, &ask, &out), SL_ERR_DEVICE);
        assert_non_null(strstr(sl_error_message(), b < 2 ? "token 333" : "all 700"));
        gpu_free(gpu, dl);
    }
    sl_backend_close(gpu);
}

int main(void) {
    SKIP_WITHOUT_GPU();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_are_those_of_the_host),
        cmocka_unit_test(choices_in_two_parts_are_those_of_one_call),
        cmocka_unit_test(broken_logits_are_reported),
    };
    return cmocka_run_group_tests_name("gpu choose", tests, NULL, NULL);
}
