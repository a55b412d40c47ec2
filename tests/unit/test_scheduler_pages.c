/* Unit tests of src/engine/scheduler_pages.c: sequences that take pages as they grow. */
#include "scheduler_fixture.h"

enum { PROMPT = 40, SEATS = 32, N = 400 };

/* What came of a job. */
typedef struct {
    int n_blocks, most_running;
    double running; /* mean */
} outcome;

/* max_tokens each, of which they generate length_of(i): a stop id ends them, or an earlier one. */
static outcome run_job(int n_pages, int two_phase, int max_tokens, int (*length_of)(int i),
                       int no_sharing) {
    const sl_scheduler_options o = {.micro_batch = SEATS,
                                    .num_micro_batches = 1,
                                    .max_rows = 256,
                                    .n_block_slots = 1,
                                    .n_pages = {n_pages},
                                    .max_context = MAX_CONTEXT,
                                    .vocab = VOCAB,
                                    .two_phase = two_phase,
                                    .no_sharing = no_sharing};
    sl_rng rng = {5, 0};
    sl_scheduler *sched = NULL;
    fake_rank rank; /* gives no page that is not there */
    open_rank(&rank, &o);
    assert_int_equal(sl_scheduler_open(&o, &sched), SL_OK);
    test_request *request = calloc(N, sizeof *request);
    for (int i = 0; i < N; i++) {
        test_request *t = &request[i];
        for (int k = 0; k < PROMPT; k++) t->prompt[k] = (int32_t)sl_rng_below(&rng, VOCAB);
        t->ask = (sl_engine_request){.prompt = t->prompt,
                                     .n_prompt = PROMPT,
                                     .max_tokens = max_tokens,
                                     .n = 1,
                                     .user = t,
                                     .sampling = {.key = (uint64_t)i}};
        int32_t token[MAX_CONTEXT];
        memcpy(token, t->prompt, sizeof t->prompt);
        const uint64_t key = sl_rng_at((uint64_t)i, 0);
        for (int k = 0; k < length_of(i); k++)
            token[PROMPT + k] = next_token(key, token, PROMPT + k);
        if (length_of(i) < max_tokens) {
            t->ask.n_stop_ids = 1;
            t->ask.stop_ids[0] = token[PROMPT + length_of(i) - 1];
        }
        assert_int_equal(sl_scheduler_submit(sched, &t->ask, &t->id), SL_OK);
    }
    outcome out = {0};
    sl_block block = {0};
    sl_buffer message = {0};
    sl_block_result result = {0};
    for (int n_done = 0; n_done < N;) {
        int formed, has_prefill;
        assert_int_equal(sl_scheduler_form(sched, &block, &formed, &has_prefill), SL_OK);
        assert_true(formed); /* never a dead end */
        assert_int_equal(sl_block_write(&block, &message), SL_OK);
        compute(&rank, &message, &result);
        assert_int_equal(sl_scheduler_absorb(sched, &result), SL_OK);
        const int n = sl_scheduler_n_running(sched);
        out.n_blocks++;
        out.running += n;
        if (n > out.most_running) out.most_running = n;
        for (const sl_engine_result *res; (res = sl_scheduler_take(sched)); n_done++) {
            check_result(res);
            sl_scheduler_release(sched, res);
        }
    }
    out.running /= out.n_blocks;
    sl_block_result_free(&result);
    sl_block_free(&block);
    sl_buffer_free(&message);
    free(request);
    sl_scheduler_close(sched);
    close_rank(&rank);
    return out;
}

static int all_of_it(int i) {
    (void)i;
    return MAX_CONTEXT - PROMPT;
}

static int a_third(int i) {
    return 1 + (int)(sl_rng_at(3, (uint64_t)i) % (2 * (MAX_CONTEXT - PROMPT) / 3));
}

/* Prompt 40, 216 generated: 2 to 8 pages, 5.4 in the mean. */
static void sequences_of_all_ages_need_less_together(void **state) {
    (void)state;
    enum { WHOLE = 10, PAGES = WHOLE * MAX_CONTEXT / SL_PAGE_TOKENS };
    const int gen = MAX_CONTEXT - PROMPT;
    for (int no_sharing = 0; no_sharing < 2; no_sharing++) {
        const outcome two = run_job(PAGES, 1, gen, all_of_it, no_sharing);
        const outcome mixed = run_job(PAGES, 0, gen, all_of_it, no_sharing);
        const outcome ample = run_job(SEATS * MAX_CONTEXT / SL_PAGE_TOKENS, 0, gen, all_of_it, 1);
        printf("two phases %d blocks, %d at once; mixed %d blocks, %.1f at once, at most %d; with "
               "room for all %d\n",
               two.n_blocks, two.most_running, mixed.n_blocks, mixed.running, mixed.most_running,
               ample.n_blocks);
        assert_int_equal(two.most_running, WHOLE);
        assert_true(mixed.most_running >= 1.4 * WHOLE);
        assert_true(mixed.n_blocks < two.n_blocks / 1.3);
        assert_true(ample.n_blocks <= mixed.n_blocks);
    }
}

/* Where sequences end earlier than they might, more are seated than could all go on. */
static void shorter_answers_let_more_in(void **state) {
    (void)state;
    enum { WHOLE = 10, PAGES = WHOLE * MAX_CONTEXT / SL_PAGE_TOKENS };
    const outcome mixed = run_job(PAGES, 0, MAX_CONTEXT - PROMPT, a_third, 1);
    printf("%.1f at once, at most %d\n", mixed.running, mixed.most_running);
    assert_true(mixed.most_running >= 1.8 * WHOLE);
}

/* Pages for one sequence and a few more. */
static void a_few_pages_are_enough(void **state) {
    (void)state;
    for (int more = 0; more < 24; more += 3)
        for (int no_sharing = 0; no_sharing < 2; no_sharing++)
            (void)run_job(MAX_CONTEXT / SL_PAGE_TOKENS + more, 0, MAX_CONTEXT - PROMPT, a_third,
                          no_sharing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_of_all_ages_need_less_together),
        cmocka_unit_test(shorter_answers_let_more_in),
        cmocka_unit_test(a_few_pages_are_enough),
    };
    return cmocka_run_group_tests_name("scheduler_pages", tests, NULL, NULL);
}
