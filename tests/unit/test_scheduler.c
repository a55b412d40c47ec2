/* Unit tests of src/engine/scheduler.c, block.c and slots.c: the first rank's decisions, checked by
 * a made-up last rank that keeps its pages and slots from the messages alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/block.h"
#include "engine/scheduler.h"
#include "engine/slots.h"
#include "store/kv_cache.h"

enum { VOCAB = 1000, MAX_CONTEXT = 256 };

/* What token follows a sequence: a function of its tokens and key, so that any mistake in what is
 * sent (order, position, fork) changes it. */
static int32_t next_token(uint64_t key, const int32_t *token, int n) {
    uint64_t h = key;
    for (int i = 0; i < n; i++) h = sl_rng_at(h, (uint64_t)token[i]);
    return (int32_t)(h % VOCAB);
}

/* A rank that computes next_token() instead of a model. */
typedef struct {
    sl_block_limits limits;
    sl_slots slots;
    sl_kv_cache *kv;
    sl_tier *tier;
    unsigned char *home;
    int32_t (*seen)[MAX_CONTEXT]; /* [n_slots] tokens by position, as appended */
    int *n_seen;
    int32_t (*kept)[SL_PAGE_TOKENS]; /* [n_kept] tokens that a kept page holds */
    int *writer, *writer_page;       /* [n_kept] who computes it; -1: nobody any more */
    int *n_computed, *n_kept_tokens; /* [n_kept] */
    int n_shared;
} fake_rank;

static void open_rank(fake_rank *r, const sl_scheduler_options *o) {
    const int n_slots = o->micro_batch * o->num_micro_batches * o->n_block_slots;
    int n_kept = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) n_kept += o->n_pages[t];
    r->limits =
        (sl_block_limits){n_slots, o->num_micro_batches, o->max_rows, VOCAB, MAX_CONTEXT, n_kept};
    r->n_shared = 0;
    r->kept = calloc((size_t)n_kept, sizeof *r->kept);
    r->writer = calloc((size_t)n_kept, sizeof *r->writer);
    r->writer_page = calloc((size_t)n_kept, sizeof *r->writer_page);
    r->n_computed = calloc((size_t)n_kept, sizeof *r->n_computed);
    r->n_kept_tokens = calloc((size_t)n_kept, sizeof *r->n_kept_tokens);
    for (int k = 0; k < n_kept; k++) r->writer[k] = -1;
    assert_int_equal(sl_tier_open_cpu(64 << 20, &r->tier), SL_OK);
    r->home = calloc((size_t)n_slots, 1);
    for (int i = 0; i < n_slots; i++) r->home[i] = o->seats ? o->seats[i].home : SL_TIER_GPU;
    /* The gpu's pool stands in host memory: what is tested is who takes which page. */
    sl_kv_options kv = {.format = sl_kv_format_make(SL_DTYPE_F16, 1, 2),
                        .n_layers = 1,
                        .n_slots = n_slots,
                        .max_context = MAX_CONTEXT,
                        .home = r->home,
                        .gpu = r->tier,
                        .host = {.cpu = r->tier},
                        .disk_dir = "/tmp"};
    kv.format.page_bytes = SL_DISK_ALIGN;
    memcpy(kv.n_pages, o->n_pages, sizeof kv.n_pages);
    assert_int_equal(sl_kv_open(&kv, &r->kv), SL_OK);
    assert_int_equal(sl_slots_open(n_slots, MAX_CONTEXT, 1, &r->slots), SL_OK);
    assert_int_equal(sl_slots_open_kept(&r->slots, n_kept), SL_OK);
    assert_int_equal(sl_kv_n_kept_max(r->kv), n_kept);
    r->seen = calloc((size_t)n_slots, sizeof *r->seen);
    r->n_seen = calloc((size_t)n_slots, sizeof *r->n_seen);
}

static void close_rank(fake_rank *r) {
    sl_slots_close(&r->slots);
    sl_kv_close(r->kv);
    sl_tier_close(r->tier);
    free(r->home);
    free(r->seen);
    free(r->n_seen);
    free(r->kept);
    free(r->writer);
    free(r->writer_page);
    free(r->n_computed);
    free(r->n_kept_tokens);
}

static void apply_ops(fake_rank *r, const sl_block *b) {
    for (int i = 0; i < b->n_ops; i++) {
        const sl_block_op *op = &b->op[i];
        int32_t from, to;
        int n_held;
        int32_t *seen = r->seen[op->slot];
        (void)sl_kv_pages(r->kv, op->slot, &n_held);
        assert_int_equal(sl_slots_apply(&r->slots, op, n_held * SL_PAGE_TOKENS), SL_OK);
        switch (op->kind) {
        case SL_OP_ADMIT:
            assert_int_equal(n_held, 0);
            r->n_seen[op->slot] = 0;
            break;
        case SL_OP_SHARE:
            assert_int_equal(sl_kv_share(r->kv, op->slot, op->kept), SL_OK);
            assert_int_equal(r->n_computed[op->kept], SL_PAGE_TOKENS);
            memcpy(seen + r->n_seen[op->slot], r->kept[op->kept], sizeof r->kept[0]);
            r->n_seen[op->slot] += SL_PAGE_TOKENS;
            r->n_shared += SL_PAGE_TOKENS;
            break;
        case SL_OP_COPY:
            assert_int_equal(sl_kv_copy(r->kv, op->slot, op->kept, &from, &to), SL_OK);
            assert_true(r->n_computed[op->kept] >= op->n_tokens);
            memcpy(seen + r->n_seen[op->slot], r->kept[op->kept],
                   (size_t)op->n_tokens * sizeof seen[0]);
            r->n_seen[op->slot] += op->n_tokens;
            r->n_shared += op->n_tokens;
            break;
        case SL_OP_RESERVE:
            assert_int_equal(sl_kv_extend(r->kv, op->slot, op->n_tokens), SL_OK);
            break;
        case SL_OP_KEEP:
            assert_int_equal(sl_kv_keep(r->kv, op->slot, op->page, op->kept), SL_OK);
            assert_true(op->page * SL_PAGE_TOKENS + op->n_tokens <= MAX_CONTEXT);
            r->writer[op->kept] = op->slot;
            r->writer_page[op->kept] = op->page;
            /* It may begin with what was copied. */
            r->n_computed[op->kept] = r->n_seen[op->slot] - op->page * SL_PAGE_TOKENS;
            if (r->n_computed[op->kept] < 0) r->n_computed[op->kept] = 0;
            memcpy(r->kept[op->kept], seen + op->page * SL_PAGE_TOKENS, sizeof r->kept[0]);
            r->n_kept_tokens[op->kept] = op->n_tokens;
            break;
        case SL_OP_DROP:
            assert_int_equal(sl_kv_drop(r->kv, op->kept), SL_OK);
            r->writer[op->kept] = -1;
            break;
        case SL_OP_RELEASE:
            sl_kv_release(r->kv, op->slot);
            for (int k = 0; k < r->limits.n_kept; k++)
                if (r->writer[k] == op->slot) r->writer[k] = -1;
            break;
        }
    }
}

/* A kept page holds what its writer has computed, and no more than was said. */
static void note_row(fake_rank *r, int slot, int position, int32_t token) {
    for (int k = 0; k < r->limits.n_kept; k++) {
        if (r->writer[k] != slot || r->writer_page[k] != position / SL_PAGE_TOKENS) continue;
        const int at = position % SL_PAGE_TOKENS;
        if (at >= r->n_kept_tokens[k]) continue;
        assert_int_equal(r->n_computed[k], at);
        r->kept[k][at] = token;
        r->n_computed[k] = at + 1;
    }
}

/* Computes a block from its bytes; checks that rows continue each sequence without a gap. */
static void compute(fake_rank *r, const sl_buffer *message, sl_block_result *result) {
    sl_block b = {0};
    assert_int_equal(sl_block_read(message->data, message->n, &r->limits, &b), SL_OK);
    assert_int_equal(b.status, SL_OK);
    apply_ops(r, &b);
    assert_int_equal(sl_block_result_reserve(result, sl_block_n_wanted(&b)), SL_OK);
    result->number = b.number;
    result->status = SL_OK;
    result->n_choices = 0;
    for (int m = 0; m < b.n_micro_batches; m++) assert_true(b.micro_batch[m].n_rows > 0);
    for (int i = 0; i < b.n_segments; i++) {
        const sl_block_segment *s = &b.segment[i];
        const int32_t *token = b.token + s->token0;
        assert_int_equal(s->position0, r->n_seen[s->slot]);
        assert_int_equal(sl_slots_note(&r->slots, s, token), SL_OK);
        assert_int_equal(sl_kv_extend(r->kv, s->slot, s->position0 + s->n_rows), SL_OK);
        for (int row = 0; row < s->n_rows; row++) {
            note_row(r, s->slot, s->position0 + row, token[row]);
            r->seen[s->slot][r->n_seen[s->slot]++] = token[row];
            if (row == s->n_rows - 1 ? !s->want_last : !s->score) continue;
            const sl_choice_ask ask = sl_slots_ask(&r->slots, s, row, token);
            assert_memory_equal(ask.prompt, r->seen[s->slot],
                                (size_t)r->n_seen[s->slot] * sizeof(int32_t));
            sl_choice *c = &result->choice[result->n_choices++];
            memset(c, 0, sizeof *c);
            c->id = ask.target >= 0
                        ? ask.target
                        : next_token(ask.sampling->key, r->seen[s->slot], r->n_seen[s->slot]);
            c->logprob = -(float)r->n_seen[s->slot];
            if (ask.sampling->n_logprobs > 0) c->n_top = ask.sampling->n_logprobs;
        }
    }
    sl_block_free(&b);
}

typedef struct {
    int32_t prompt[MAX_CONTEXT];
    sl_engine_request ask;
    uint64_t id;
    int n_done, cancelled;
} test_request;

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

static int is_stop(const sl_engine_request *r, int32_t id) {
    for (int i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id) return 1;
    return 0;
}

/* The result must be what the sequence alone would give, or the beginning of it. */
static void check_result(const sl_engine_result *res) {
    const test_request *t = res->user;
    int32_t token[2 * MAX_CONTEXT];
    assert_int_equal(res->n_choices, t->ask.n);
    assert_int_equal(res->prompt_scores != NULL, t->ask.echo_logprobs);
    for (int i = 1; t->ask.echo_logprobs && i < t->ask.n_prompt && !t->cancelled; i++) {
        assert_int_equal(res->prompt_scores[i].id, t->prompt[i]);
        assert_true(res->prompt_scores[i].logprob == -(float)i);
        assert_int_equal(res->prompt_scores[i].n_top,
                         t->ask.sampling.n_logprobs > 0 ? t->ask.sampling.n_logprobs : 0);
    }
    for (int c = 0; c < res->n_choices; c++) {
        memcpy(token, t->prompt, sizeof t->prompt);
        const uint64_t key = sl_rng_at(t->ask.sampling.key, (uint64_t)c);
        int n = 0, stopped = 0;
        const int cut = res->choices[c].finish == SL_FINISH_CANCELLED;
        const int most = cut ? res->choices[c].n_tokens : t->ask.max_tokens;
        assert_true(t->cancelled || !cut);
        while (n < most && !stopped) {
            const int at = t->ask.n_prompt + n;
            token[at] = next_token(key, token, at);
            assert_true(n < res->choices[c].n_tokens);
            assert_int_equal(res->choices[c].tokens[n].id, token[at]);
            stopped = is_stop(&t->ask, token[at]);
            n++;
        }
        assert_int_equal(res->choices[c].n_tokens, n);
        if (!cut)
            assert_int_equal(res->choices[c].finish, stopped ? SL_FINISH_STOP : SL_FINISH_LENGTH);
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
        for (int tight = 0; tight < 2; tight++) {
            sl_scheduler_options o = shapes[i];
            const int seats = o.micro_batch * o.num_micro_batches * o.n_block_slots;
            o.max_context = MAX_CONTEXT;
            o.vocab = VOCAB;
            /* tight: pages for hardly more than one sequence; admission has to wait for them */
            const int n_pages =
                tight ? MAX_CONTEXT / SL_PAGE_TOKENS + 1 : seats * MAX_CONTEXT / SL_PAGE_TOKENS;
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

static void block_messages_cut_short_or_changed_are_refused_or_harmless(void **state) {
    (void)state;
    const sl_block_limits limits = {8, 4, 16, VOCAB, MAX_CONTEXT, 4};
    const sl_logit_bias bias[3] = {{1, 2.f}, {3, 4.f}, {5, 6.f}};
    sl_block b = {0}, copy = {0};
    sl_buffer message = {0};
    int32_t *token;
    sl_block_reset(&b, SL_BLOCK_WORK, 5);
    const sl_block_op op = {
        .kind = SL_OP_ADMIT, .slot = 3, .sampling = {.n_bias = 3, .bias = bias}};
    assert_int_equal(sl_block_add_op(&b, &op), SL_OK);
    assert_int_equal(sl_block_add_micro_batch(&b), SL_OK);
    const sl_block_segment seg = {.slot = 3, .n_rows = 4, .next = -1, .want_last = 1};
    assert_int_equal(sl_block_add_segment(&b, &seg, &token), SL_OK);
    for (int i = 0; i < 4; i++) token[i] = i;
    assert_int_equal(sl_block_write(&b, &message), SL_OK);
    assert_int_equal(sl_block_read(message.data, message.n, &limits, &copy), SL_OK);
    assert_int_equal(copy.op[0].sampling.n_bias, 3);
    assert_true(copy.op[0].sampling.bias[2].bias == 6.f);
    for (size_t n = 0; n < message.n; n++) {
        unsigned char *part = malloc(n ? n : 1); /* exact size, so that ASan sees any overrun */
        memcpy(part, message.data, n);
        assert_int_equal(sl_block_read(part, n, &limits, &copy), SL_ERR_COMM);
        free(part);
    }
    sl_rng rng = {3, 0};
    for (int i = 0; i < 20000; i++) {
        unsigned char *part = malloc(message.n);
        memcpy(part, message.data, message.n);
        part[sl_rng_below(&rng, message.n)] = (unsigned char)sl_rng_next(&rng);
        (void)sl_block_read(part, message.n, &limits, &copy);
        free(part);
    }
    sl_block_free(&b);
    sl_block_free(&copy);
    sl_buffer_free(&message);
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
        cmocka_unit_test(beginnings_stay_until_their_room_is_needed),
        cmocka_unit_test(a_long_prompt_gets_its_turn_among_many_that_share),
        cmocka_unit_test(impossible_requests_are_refused_by_themselves),
        cmocka_unit_test(block_messages_cut_short_or_changed_are_refused_or_harmless),
        cmocka_unit_test(dropping_everything_leaves_nothing_behind),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
