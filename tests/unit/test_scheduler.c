/* Unit tests of src/engine/scheduler.c, scheduler_admit.c, scheduler_form.c and slots.c: the first
 * rank's decisions, checked by a made-up last rank. */
#include "scheduler_fixture.h"

/* Prompts that begin in the same way: a random part of one of a few texts, and more or nothing. */
static int common_beginning(sl_rng *rng, int32_t *prompt) {
    const uint64_t text = sl_rng_below(rng, 3);
    const int n = (int)sl_rng_below(rng, 130);
    for (int i = 0; i < n; i++) prompt[i] = (int32_t)(sl_rng_at(900 + text, (uint64_t)i) % VOCAB);
    return n;
}

static void make_request(test_request *t, sl_rng *rng, int number) {
    memset(t, 0, sizeof *t);
    if (sl_rng_below(rng, 3) > 0) t->ask.n_prompt = common_beginning(rng, t->prompt);
    const int more =
        t->ask.n_prompt > 0 && sl_rng_below(rng, 3) == 0 ? 0 : 1 + (int)sl_rng_below(rng, 70);
    for (int i = 0; i < more; i++) t->prompt[t->ask.n_prompt++] = (int32_t)sl_rng_below(rng, VOCAB);
    t->ask.prompt = t->prompt;
    t->ask.max_tokens = (int)sl_rng_below(rng, 40);
    t->ask.n = sl_rng_below(rng, 4) == 0 ? 1 + (int)sl_rng_below(rng, 6) : 1;
    t->ask.echo_logprobs = sl_rng_below(rng, 3) == 0;
    t->ask.sampling.n_logprobs = (int)sl_rng_below(rng, 3) - 1;
    t->ask.sampling.key = (uint64_t)number;
    t->ask.user = t;
    if (sl_rng_below(rng, 2)) {
        t->ask.n_stop_ids = SL_MAX_STOP_IDS;
        for (int i = 0; i < SL_MAX_STOP_IDS; i++)
            t->ask.stop_ids[i] = (int32_t)sl_rng_below(rng, VOCAB);
    }
}

/* Cancels a request now and then, whether it waits, runs, or is over. */
static void cancel_some(sl_scheduler *sched, test_request *request, int n_submitted, sl_rng *rng) {
    if (sl_rng_below(rng, 4) > 0) return;
    const int back = (int)sl_rng_below(rng, 12);
    test_request *t = &request[n_submitted > back ? n_submitted - 1 - back : 0];
    t->cancelled = 1;
    sl_scheduler_cancel(sched, t->id);
}

/* Runs `n` random requests through a pipeline in which results come back `lag` blocks late.
 * Returns the prompt tokens that were shared. */
static int run_all(const sl_scheduler_options *o, int n, int lag, uint64_t seed, int cancels) {
    sl_rng rng = {seed, 0};
    sl_scheduler *sched = NULL;
    fake_rank rank;
    open_rank(&rank, o);
    assert_int_equal(sl_scheduler_open(o, &sched), SL_OK);
    test_request *request = calloc((size_t)n, sizeof *request);
    sl_block_result waiting[16] = {0};
    int n_waiting = 0, n_submitted = 0, n_done = 0, idle = 0;
    sl_block block = {0};
    sl_buffer message = {0};
    while (n_done < n) {
        while (n_submitted < n && sl_scheduler_n_queued(sched) < 3) {
            test_request *t = &request[n_submitted];
            make_request(t, &rng, n_submitted);
            assert_int_equal(sl_scheduler_submit(sched, &t->ask, &t->id), SL_OK);
            n_submitted++;
        }
        if (cancels) cancel_some(sched, request, n_submitted, &rng);
        int formed, has_prefill;
        const uint64_t n_decoded = sl_scheduler_decode_rows(sched);
        assert_int_equal(sl_scheduler_form(sched, &block, &formed, &has_prefill), SL_OK);
        if (o->two_phase) assert_false(has_prefill && sl_scheduler_decode_rows(sched) > n_decoded);
        if (formed) {
            assert_int_equal(sl_block_write(&block, &message), SL_OK);
            compute(&rank, &message, &waiting[n_waiting++]);
        }
        if (n_waiting > 0 && (!formed || n_waiting > lag)) {
            assert_int_equal(sl_scheduler_absorb(sched, &waiting[0]), SL_OK);
            const sl_block_result first = waiting[0];
            memmove(waiting, waiting + 1, (size_t)--n_waiting * sizeof waiting[0]);
            waiting[n_waiting] = first; /* its array is used again */
            idle = 0;
        }
        idle = formed ? 0 : idle + 1;
        assert_true(idle < 4); /* never a dead end */
        for (const sl_engine_result *res; (res = sl_scheduler_take(sched));) {
            check_result(res);
            assert_int_equal(((test_request *)res->user)->n_done++, 0);
            sl_scheduler_release(sched, res);
            n_done++;
        }
    }
    assert_int_equal(sl_scheduler_n_running(sched), 0);
    assert_int_equal(sl_scheduler_n_queued(sched), 0);
    assert_int_equal(sl_scheduler_shared_tokens(sched), rank.n_shared);
    if (o->no_sharing) assert_int_equal(rank.n_shared, 0);
    const int n_shared = rank.n_shared;
    for (size_t i = 0; i < 16; i++) sl_block_result_free(&waiting[i]);
    sl_block_free(&block);
    sl_buffer_free(&message);
    free(request);
    sl_scheduler_close(sched);
    close_rank(&rank);
    return n_shared;
}

static void random_requests_get_what_they_would_get_alone(void **state) {
    (void)state;
    static const sl_scheduler_options shapes[] = {
        {.micro_batch = 4, .num_micro_batches = 2, .max_rows = 16, .n_block_slots = 3},
        {.micro_batch = 1, .num_micro_batches = 1, .max_rows = 1, .n_block_slots = 1},
        {.micro_batch = 1, .num_micro_batches = 1, .max_rows = 7, .n_block_slots = 2},
        {.micro_batch = 8, .num_micro_batches = 1, .max_rows = 64, .n_block_slots = 1},
        {.micro_batch = 3, .num_micro_batches = 5, .max_rows = 33, .n_block_slots = 8},
    };
    int n_shared = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int tight = 0; tight < 3; tight++) {
            sl_scheduler_options o = shapes[i];
            const int seats = o.micro_batch * o.num_micro_batches * o.n_block_slots;
            o.max_context = MAX_CONTEXT;
            o.vocab = VOCAB;
            /* tight: pages for hardly more than one sequence, admission has to wait for them; then
             * for a part of the seats */
            const int one = MAX_CONTEXT / SL_PAGE_TOKENS;
            const int n_pages = tight == 1   ? one + 1
                                : tight == 2 ? one + one * seats / 4
                                             : one * seats;
            o.n_pages[SL_TIER_GPU] = n_pages;
            /* With homes mixed in every micro-batch, and without. */
            const sl_shares shares = {{.3, .4, .3}};
            sl_seat *home = calloc((size_t)seats, sizeof *home);
            sl_seats_assign(&shares, .5, o.micro_batch, o.num_micro_batches * o.n_block_slots,
                            home);
            for (int mixed = 0; mixed < 2; mixed++) {
                o.seats = mixed ? home : NULL;
                for (int t = 0; mixed && t < SL_TIER_COUNT; t++) o.n_pages[t] = n_pages;
                for (int mode = 0; mode < 4; mode++) {
                    o.no_sharing = mode & 1;
                    o.two_phase = mode >> 1;
                    const int n = run_all(&o, 150, o.n_block_slots - 1, 100 + i, 0);
                    if (!o.no_sharing && !tight) n_shared += n;
                    run_all(&o, 150, o.n_block_slots - 1, 200 + i, 1);
                }
            }
            free(home);
        }
    }
    assert_true(n_shared > 50000); /* of about 200,000 */
}

static void impossible_requests_are_refused_by_themselves(void **state) {
    (void)state;
    const sl_scheduler_options o = {.micro_batch = 2,
                                    .num_micro_batches = 1,
                                    .max_rows = 8,
                                    .n_block_slots = 1,
                                    .n_pages = {3},
                                    .max_context = MAX_CONTEXT,
                                    .vocab = VOCAB};
    sl_scheduler *sched = NULL;
    assert_int_equal(sl_scheduler_open(&o, &sched), SL_OK);
    int32_t prompt[MAX_CONTEXT] = {1, 2, 3};
    sl_engine_request r = {.prompt = prompt, .n_prompt = 3, .max_tokens = 1, .n = 1};
    uint64_t id = 77;
    r.n_prompt = 0;
    assert_int_equal(sl_scheduler_submit(sched, &r, &id), SL_ERR_ARG);
    r.n_prompt = MAX_CONTEXT;
    assert_int_equal(sl_scheduler_submit(sched, &r, &id), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "256 tokens"));
    r.n_prompt = 3 * SL_PAGE_TOKENS;
    assert_int_equal(sl_scheduler_submit(sched, &r, &id), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "4 pages"));
    r.n_prompt = 3;
    prompt[1] = VOCAB;
    assert_int_equal(sl_scheduler_submit(sched, &r, &id), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "token 1 has id 1000"));
    assert_int_equal(id, 77);
    assert_int_equal(sl_scheduler_n_queued(sched), 0);
    sl_scheduler_close(sched);
}

static void dropping_everything_leaves_nothing_behind(void **state) {
    (void)state;
    const sl_scheduler_options o = {.micro_batch = 2,
                                    .num_micro_batches = 2,
                                    .max_rows = 8,
                                    .n_block_slots = 2,
                                    .n_pages = {64},
                                    .max_context = MAX_CONTEXT,
                                    .vocab = VOCAB};
    sl_scheduler *sched = NULL;
    fake_rank rank;
    open_rank(&rank, &o);
    assert_int_equal(sl_scheduler_open(&o, &sched), SL_OK);
    sl_rng rng = {11, 0};
    test_request request[12];
    for (int i = 0; i < 12; i++) {
        uint64_t id;
        make_request(&request[i], &rng, i);
        request[i].ask.max_tokens = 30;
        assert_int_equal(sl_scheduler_submit(sched, &request[i].ask, &id), SL_OK);
    }
    sl_block block = {0};
    sl_block_result result = {0};
    sl_buffer message = {0};
    int formed, has_prefill;
    assert_int_equal(sl_scheduler_form(sched, &block, &formed, &has_prefill), SL_OK);
    assert_true(formed && has_prefill);
    assert_int_equal(sl_block_write(&block, &message), SL_OK);
    compute(&rank, &message, &result);
    sl_scheduler_drop_all(sched);
    assert_int_equal(sl_scheduler_n_in_flight(sched), 1);
    assert_int_equal(sl_scheduler_absorb(sched, &result), SL_OK);
    assert_int_equal(sl_scheduler_n_running(sched) + sl_scheduler_n_queued(sched), 0);
    assert_int_equal(sl_scheduler_form(sched, &block, &formed, &has_prefill), SL_OK);
    assert_false(formed);
    assert_null(sl_scheduler_take(sched));
    sl_block_free(&block);
    sl_block_result_free(&result);
    sl_buffer_free(&message);
    sl_scheduler_close(sched);
    close_rank(&rank);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests_get_what_they_would_get_alone),
        cmocka_unit_test(impossible_requests_are_refused_by_themselves),
        cmocka_unit_test(dropping_everything_leaves_nothing_behind),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
