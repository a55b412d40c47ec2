/* Unit tests of what the scheduler keeps of prompts: common beginnings that stay and go, and who
 * waits for whom because of them. */
#include "scheduler_fixture.h"

/* A first rank and a last one, one block at a time. */
typedef struct {
    sl_scheduler *sched;
    fake_rank rank;
    sl_block block;
    sl_block_result result;
    sl_buffer message;
} pair;

static void open_pair(pair *p, const sl_scheduler_options *o) {
    memset(p, 0, sizeof *p);
    open_rank(&p->rank, o);
    assert_int_equal(sl_scheduler_open(o, &p->sched), SL_OK);
}

static void close_pair(pair *p) {
    sl_scheduler_close(p->sched);
    close_rank(&p->rank);
    sl_block_free(&p->block);
    sl_block_result_free(&p->result);
    sl_buffer_free(&p->message);
}

/* One turn; returns the number of requests that ended. */
static int turn(pair *p) {
    int formed, has_prefill, n = 0;
    assert_int_equal(sl_scheduler_form(p->sched, &p->block, &formed, &has_prefill), SL_OK);
    assert_true(formed);
    assert_int_equal(sl_block_write(&p->block, &p->message), SL_OK);
    compute(&p->rank, &p->message, &p->result);
    assert_int_equal(sl_scheduler_absorb(p->sched, &p->result), SL_OK);
    for (const sl_engine_result *res; (res = sl_scheduler_take(p->sched)); n++) {
        check_result(res);
        ((test_request *)res->user)->n_done++;
        sl_scheduler_release(p->sched, res);
    }
    return n;
}

static void submit_text(pair *p, test_request *t, uint64_t text, int n_prompt, int max_tokens) {
    memset(t, 0, sizeof *t);
    for (int i = 0; i < n_prompt; i++)
        t->prompt[i] = (int32_t)(sl_rng_at(text, (uint64_t)i) % VOCAB);
    t->ask = (sl_engine_request){
        .prompt = t->prompt, .n_prompt = n_prompt, .max_tokens = max_tokens, .n = 1, .user = t};
    t->ask.sampling.n_logprobs = -1;
    assert_int_equal(sl_scheduler_submit(p->sched, &t->ask, &t->id), SL_OK);
}

static int shared_by(pair *p, uint64_t text, int n_prompt) {
    test_request t;
    const uint64_t before = sl_scheduler_shared_tokens(p->sched);
    submit_text(p, &t, text, n_prompt, 2);
    while (!t.n_done) (void)turn(p);
    return (int)(sl_scheduler_shared_tokens(p->sched) - before);
}

static void beginnings_stay_until_their_room_is_needed(void **state) {
    (void)state;
    const sl_scheduler_options o = {.micro_batch = 2,
                                    .num_micro_batches = 1,
                                    .max_rows = 64,
                                    .n_block_slots = 1,
                                    .n_pages = {32},
                                    .max_context = MAX_CONTEXT,
                                    .vocab = VOCAB};
    sl_scheduler_options small = o;
    small.n_pages[SL_TIER_GPU] = 12;
    pair p;
    open_pair(&p, &o);
    assert_int_equal(shared_by(&p, 1, 110), 0);
    assert_int_equal(shared_by(&p, 1, 110), 109);
    assert_int_equal(shared_by(&p, 1, 64), 63);
    assert_int_equal(shared_by(&p, 1, 100), 96); /* 3 tokens are not worth a copy */
    assert_int_equal(shared_by(&p, 1, 150), 110);
    close_pair(&p);
    open_pair(&p, &small);
    assert_int_equal(shared_by(&p, 1, 110), 0);
    assert_int_equal(shared_by(&p, 2, 110), 0); /* 4 pages each of 12 are kept */
    assert_int_equal(shared_by(&p, 1, 110), 109);
    assert_int_equal(shared_by(&p, 3, 240), 0); /* takes 8: the one unused for longest goes */
    assert_int_equal(shared_by(&p, 1, 110), 109);
    assert_int_equal(shared_by(&p, 2, 110), 0);
    close_pair(&p);
}

static void a_long_prompt_gets_its_turn_among_many_that_share(void **state) {
    (void)state;
    enum { MANY = 400 };
    const sl_scheduler_options o = {.micro_batch = 4,
                                    .num_micro_batches = 1,
                                    .max_rows = 32,
                                    .n_block_slots = 1,
                                    .n_pages = {9},
                                    .max_context = MAX_CONTEXT,
                                    .vocab = VOCAB};
    static test_request small[MANY], large;
    pair p;
    int n = 0, n_turns = 0;
    open_pair(&p, &o);
    while (n < 6) submit_text(&p, &small[n++], 1, 50, 3);
    submit_text(&p, &large, 2, 240, 10); /* 8 of 9 pages */
    while (!large.n_done) {
        while (n < MANY && sl_scheduler_n_queued(p.sched) < 6)
            submit_text(&p, &small[n++], 1, 50, 3);
        assert_true(n < MANY);
        (void)turn(&p);
        n_turns++;
    }
    assert_true(n_turns < 60);
    close_pair(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beginnings_stay_until_their_room_is_needed),
        cmocka_unit_test(a_long_prompt_gets_its_turn_among_many_that_share),
    };
    return cmocka_run_group_tests_name("scheduler prefix", tests, NULL, NULL);
}
