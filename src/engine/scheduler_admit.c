/* Seats, pages and prefixes: which waiting sequence starts where, and what it takes over. */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/scheduler_impl.h"
#include "store/kv_cache.h"

/* Tokens of a prefix that is being computed for which a sequence waits a block or two. */
enum { WORTH_WAITING = SL_PAGE_TOKENS / 2 };

/* A wait is short, so that few are passed over: more are not looked at. */
enum { MOST_PASSED_OVER = 1024 };

typedef enum { SEATED, LATER, NO_ROOM } outcome;

static int has_waiting_choices(const sl_request *r) {
    return r->n_admitted < r->n_sequences;
}

static int scores_prompt(const sl_sequence *q) {
    return q->request->score != NULL && q->choice == 0;
}

/* ---- seats ---- */

/* The prompt's first page in the tree; NULL if none is there. */
static const sl_prefix_node *top_of(const sl_prefix_node *n) {
    if (!n || n->depth == 0) return NULL;
    while (n->depth > 1) n = n->parent;
    return n;
}

/* A free seat of the block slot in one of `homes` (bits); -1 if there is none.  Where pages come
 * from elsewhere, those that a micro-batch shares come once: it is the micro-batch with most
 * sequences that begin with page `top`, of those the least filled.  None gets more than `share`
 * sequences as long as others have fewer. */
static int find_seat(const sl_scheduler *s, int b, unsigned homes, int share,
                     const sl_prefix_node *top) {
    int best = -1, best_filled = 0, best_same = 0;
    for (int m = 0; m < s->opt.num_micro_batches; m++) {
        int filled = 0, same = 0, open = -1;
        for (int i = 0; i < s->opt.micro_batch; i++) {
            const int slot = b * s->seats + m * s->opt.micro_batch + i;
            const sl_sequence *q = s->seat[slot];
            if (q) {
                filled++;
                same += top && top_of(q->node) == top;
            } else if (open < 0 && (homes >> sl_scheduler_home(s, slot) & 1u)) {
                open = slot;
            }
        }
        if (open < 0) continue;
        if (filled >= share) same = -filled;
        if (best < 0 || same > best_same || (same == best_same && filled < best_filled)) {
            best = open;
            best_filled = filled;
            best_same = same;
        }
    }
    return best;
}

/* Pages that could be had beside those of the match, unused ones of the tree included. */
static int can_have(const sl_scheduler *s, int home, const sl_prefix_match *m) {
    const int idle = s->prefixes ? sl_prefix_n_idle(s->prefixes, home) : 0;
    return s->n_free_pages[home] + idle - m->n_idle;
}

static int shared_pages(const sl_prefix_match *m) {
    return m->node ? m->node->depth : 0;
}

static int has_room(sl_scheduler *s, const sl_sequence *q, int home, const sl_prefix_match *m) {
    const int n_shared = shared_pages(m);
    if (home == s->grows) return sl_scheduler_may_begin(s, q, n_shared, m->n_idle);
    return sl_scheduler_whole_pages(q->request) - n_shared <= can_have(s, home, m);
}

/* What the sequence would take over in that home; 0 when its pages do not fit beside it. */
static int match_home(sl_scheduler *s, const sl_sequence *q, int home, sl_prefix_match *m) {
    const sl_request *r = q->request;
    *m = (sl_prefix_match){0};
    for (int copies = home != SL_TIER_DISK; copies >= 0; copies--) {
        if (s->prefixes)
            *m = sl_prefix_find(s->prefixes, home, r->prompt, r->ask.n_prompt,
                                sl_request_prompt_rows(r) - 1,
                                scores_prompt(q) ? sl_scheduler_logprobs(r) : -1, copies);
        if (has_room(s, q, home, m)) return 1;
    }
    return 0;
}

/* The seat whose home holds most of the prompt. */
static outcome choose_seat(sl_scheduler *s, const sl_sequence *q, int b, int share, int *slot_out,
                           sl_prefix_match *match_out) {
    sl_prefix_match match[SL_TIER_COUNT];
    int most = -1, coming = 0;
    unsigned homes = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (s->opt.n_pages[t] == 0 || find_seat(s, b, 1u << t, share, NULL) < 0) continue;
        if (!match_home(s, q, t, &match[t])) continue;
        if (match[t].n_coming > coming) coming = match[t].n_coming;
        if (match[t].n_tokens < most) continue;
        if (match[t].n_tokens > most) homes = 0;
        most = match[t].n_tokens;
        homes |= 1u << t;
    }
    if (homes == 0) return NO_ROOM;
    const sl_prefix_node *top = NULL;
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (homes >> t & 1u) top = top_of(match[t].node);
    if (coming - most >= WORTH_WAITING && !s->opt.two_phase) return LATER;
    *slot_out = find_seat(s, b, homes, share, top);
    *match_out = match[sl_scheduler_home(s, *slot_out)];
    return SEATED;
}

/* ---- pages ---- */

static sl_status add_op(sl_block *block, sl_op_kind kind, int slot, int kept, int n_tokens) {
    const sl_block_op op = {.kind = kind, .slot = slot, .kept = kept, .n_tokens = n_tokens};
    return sl_block_add_op(block, &op);
}

sl_status sl_scheduler_make_room(sl_scheduler *s, int home, int need, sl_block *block) {
    while (s->n_free_pages[home] < need) {
        sl_prefix_node *n = sl_prefix_oldest(s->prefixes, home);
        if (!n)
            return SL_FAIL(SL_ERR_NOMEM, "scheduler: %d pages are needed, %d are free", need,
                           s->n_free_pages[home]);
        SL_TRY(add_op(block, SL_OP_DROP, 0, n->id, 0));
        sl_prefix_remove(s->prefixes, n);
        s->n_free_pages[home]++;
    }
    return SL_OK;
}

static sl_status emit_admission(sl_scheduler *s, const sl_sequence *q, const sl_prefix_match *m,
                                sl_block *block) {
    const sl_request *r = q->request;
    sl_block_op op = {.kind = SL_OP_ADMIT,
                      .slot = q->slot,
                      .n_prompt = r->ask.n_prompt,
                      .sampling = r->ask.sampling};
    op.sampling.key = sl_rng_at(r->ask.sampling.key, (uint64_t)q->choice);
    SL_TRY(sl_block_add_op(block, &op));
    const int n = shared_pages(m);
    sl_prefix_node *node = m->node;
    for (int p = n - 1; p >= 0; p--, node = node->parent) s->path[p] = node;
    for (int p = 0; p < n; p++) SL_TRY(add_op(block, SL_OP_SHARE, q->slot, s->path[p]->id, 0));
    if (m->n_partial) SL_TRY(add_op(block, SL_OP_COPY, q->slot, m->partial->id, m->n_partial));
    const int grows = sl_scheduler_home(s, q->slot) == s->grows;
    return add_op(block, SL_OP_RESERVE, q->slot, 0,
                  r->ask.n_prompt + (grows ? 0 : r->ask.max_tokens));
}

/* The pages that the sequence will compute itself become nodes below those that it shares, as far
 * as nobody else computes the same. */
static sl_status add_nodes(sl_scheduler *s, sl_sequence *q, sl_block *block) {
    const sl_request *r = q->request;
    const int n_tokens = sl_request_prompt_rows(r);
    for (int p = q->node->depth; p * SL_PAGE_TOKENS < n_tokens; p++) {
        const int32_t *token = r->prompt + p * SL_PAGE_TOKENS;
        const int rest = n_tokens - p * SL_PAGE_TOKENS;
        const int n = rest < SL_PAGE_TOKENS ? rest : SL_PAGE_TOKENS;
        /* On disk the last page is none before it is full. */
        if (n < SL_PAGE_TOKENS && q->node->home == SL_TIER_DISK) return SL_OK;
        if (sl_prefix_child(s->prefixes, q->node, token, n)) return SL_OK;
        sl_prefix_node *node = NULL;
        SL_TRY(sl_prefix_add(s->prefixes, q->node, token, n, &node));
        node->is_scoring = scores_prompt(q);
        node->n_logprobs = node->is_scoring ? sl_scheduler_logprobs(r) : 0;
        q->node = node;
        q->n_own_nodes++;
        q->n_reserved--;
        const sl_block_op op = {.kind = SL_OP_KEEP,
                                .slot = q->slot,
                                .kept = node->id,
                                .page = p,
                                .n_tokens = n,
                                .token = token};
        SL_TRY(sl_block_add_op(block, &op));
    }
    return SL_OK;
}

/* Scores of the tokens that are taken over, and of the one after them. */
static void take_scores(const sl_sequence *q, const sl_prefix_match *m) {
    sl_request *r = q->request;
    for (const sl_prefix_node *n = m->below; n && n->depth > 0; n = n->parent) {
        const int from = (n->depth - 1) * SL_PAGE_TOKENS;
        for (int i = 0; i < n->n_tokens && from + i <= m->n_tokens; i++) {
            sl_choice *to = &r->score[from + i];
            *to = n->score[i];
            if (to->n_top > sl_scheduler_logprobs(r)) to->n_top = sl_scheduler_logprobs(r);
        }
    }
}

/* ---- admission ---- */

static sl_status take_seat(sl_scheduler *s, sl_sequence *q, int slot, const sl_prefix_match *m,
                           sl_block *block) {
    const sl_request *r = q->request;
    const int home = sl_scheduler_home(s, slot);
    const int n_first = sl_scheduler_first_pages(s, r, home), need = n_first - shared_pages(m);
    const size_t room = r->ask.max_tokens > 0 ? (size_t)r->ask.max_tokens : 1;
    q->token = calloc(room, sizeof *q->token);
    if (!q->token) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu tokens", room);
    q->slot = slot;
    q->node = m->node;
    if (m->node) sl_prefix_hold(s->prefixes, m->node);
    if (m->partial) sl_prefix_hold(s->prefixes, m->partial); /* until it is copied */
    if (scores_prompt(q) && m->n_tokens > 0) take_scores(q, m);
    SL_TRY(sl_scheduler_make_room(s, home, need, block));
    SL_TRY(emit_admission(s, q, m, block));
    s->n_free_pages[home] -= need;
    q->n_reserved = need;
    q->n_held = n_first;
    sl_scheduler_note_begun(s, home);
    q->sits_out = 0;
    if (s->prefixes) SL_TRY(add_nodes(s, q, block));
    if (m->partial) sl_prefix_leave(s->prefixes, m->partial);
    q->n_sent = m->n_tokens;
    s->shared_tokens += (uint64_t)m->n_tokens;
    s->admitted_tokens += (uint64_t)sl_request_prompt_rows(r);
    s->mix.begun_rows += sl_request_prompt_rows(r) - m->n_tokens;
    s->mix.begun_most += r->ask.max_tokens;
    return SL_OK;
}

/* Tries to seat the next choice of a request in block slot b. */
static sl_status admit_choice(sl_scheduler *s, sl_request *r, int b, int share, sl_block *block,
                              outcome *outcome_out) {
    sl_sequence *q = &r->sequence[r->n_admitted];
    sl_prefix_match match;
    int slot;
    *outcome_out = choose_seat(s, q, b, share, &slot, &match);
    if (*outcome_out != SEATED) return SL_OK;
    SL_TRY(take_seat(s, q, slot, &match, block));
    q->state = SL_SEQ_RUNNING;
    q->admission = s->n_admissions++;
    s->seat[slot] = q;
    s->block[b].n_seated++;
    s->n_running++;
    r->n_admitted++;
    return SL_OK;
}

int sl_scheduler_n_waiting(const sl_scheduler *s, int most) {
    int waiting = s->waiting.n + s->arrived.n;
    for (const sl_request *r = s->waiting.head; r && waiting < most; r = r->next)
        waiting += r->n_sequences - r->n_admitted - 1;
    for (const sl_request *r = s->arrived.head; r && waiting < most; r = r->next)
        waiting += r->n_sequences - 1;
    return waiting;
}

/* Sequences that block slot b may hold now: an even share, so that every slot has work. */
static int fair_share(const sl_scheduler *s) {
    const int waiting = sl_scheduler_n_waiting(s, s->seats * s->opt.n_block_slots);
    int held = 0;
    for (int b = 0; b < s->opt.n_block_slots; b++) held += s->block[b].n_seated;
    const int share = (held + waiting + s->opt.n_block_slots - 1) / s->opt.n_block_slots;
    return share < s->seats ? share : s->seats;
}

/* Sequences of each micro-batch when the block has n: an even share.  A few are not spread thin,
 * for a layer of a micro-batch has its price however small it is; two micro-batches overlap. */
static int micro_batch_share(const sl_scheduler *s, int n) {
    const int half = (s->opt.micro_batch + 1) / 2;
    int used = (n + half - 1) / half;
    if (used < 2) used = 2;
    if (used > s->opt.num_micro_batches) used = s->opt.num_micro_batches;
    return (n + used - 1) / used;
}

/* What has arrived is the next batch: none of a later one is seated before all of it, so that
 * nobody waits forever while others with a better prefix come. */
static void next_batch(sl_scheduler *s) {
    if (s->prefixes) {
        sl_request_append_grouped(&s->waiting, &s->arrived);
        return;
    }
    for (sl_request *r; (r = sl_request_pop(&s->arrived));) sl_request_push(&s->waiting, r);
}

/* In order; only those whose prefix is being computed just now are passed over.  The first that
 * finds no seat or no pages ends it, or a long prompt would never find enough. */
sl_status sl_scheduler_admit(sl_scheduler *s, int b, sl_block *block) {
    sl_request *before = NULL;
    int n_passed_over = 0;
    if (s->opt.two_phase && s->block[b].n_seated > 0) return SL_OK;
    while (n_passed_over < MOST_PASSED_OVER) {
        if (!(before ? before->next : s->waiting.head)) {
            if (s->arrived.n == 0) return SL_OK;
            next_batch(s);
        }
        sl_request *r = before ? before->next : s->waiting.head;
        outcome how = SEATED;
        while (has_waiting_choices(r) && how == SEATED) {
            const int most = fair_share(s);
            if (s->block[b].n_seated >= most) return SL_OK;
            SL_TRY(admit_choice(s, r, b, micro_batch_share(s, most), block, &how));
        }
        if (how == NO_ROOM) return SL_OK;
        if (how == LATER) {
            n_passed_over++;
            before = r;
        } else {
            (void)sl_request_unlink(&s->waiting, before);
        }
    }
    return SL_OK;
}
