/* scheduler_fixture.h - a made-up last rank that keeps its pages and slots from the messages alone,
 * and requests whose tokens it makes: for tests of src/engine/scheduler*.c.
 */
#ifndef SL_TESTS_SCHEDULER_FIXTURE_H
#define SL_TESTS_SCHEDULER_FIXTURE_H

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

#endif
