#include "engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/request.h"
#include "store/kv_cache.h"

/* A run of rows that is in flight: where its choices go. */
typedef struct {
    sl_sequence *sequence; /* NULL once dropped */
    int position0, n_rows;
    int score, want_last;
} sent_segment;

typedef struct {
    int in_flight;
    int n_seated;
    int n_sent;
    sent_segment *sent; /* [seats of a block] */
    uint64_t number;    /* of the block in flight */
} block_slot;

/* A sequence of the micro-batch being formed, and how many of its rows are computed. */
typedef struct {
    sl_sequence *sequence;
    int n_rows;
    int order; /* of its rows in the micro-batch */
} candidate;

struct sl_scheduler {
    sl_scheduler_options opt;
    int seats;          /* per block slot */
    sl_sequence **seat; /* [n_block_slots * seats], by slot number; NULL: free */
    block_slot *block;  /* [n_block_slots] */
    int next_block;     /* whose turn it is */
    uint64_t n_blocks, n_absorbed, n_requests, n_admissions;
    sl_request_queue waiting, finished;
    sl_request *admitting; /* its first choice is in, others are still to come */
    candidate *candidate;  /* scratch: [micro_batch] sequences */
    int *released;         /* slots to be released with the next block */
    int n_released;
    int n_running;
    int n_free_pages[SL_TIER_COUNT]; /* not reserved, by home */
    uint64_t prefill_rows, decode_rows;
};

sl_status sl_scheduler_open(const sl_scheduler_options *o, sl_scheduler **out) {
    sl_status st = SL_OK;
    sl_scheduler *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "scheduler: out of host memory");
    s->opt = *o;
    s->seats = o->micro_batch * o->num_micro_batches;
    memcpy(s->n_free_pages, o->n_pages, sizeof s->n_free_pages);
    const size_t n_seats = (size_t)o->n_block_slots * (size_t)s->seats;
    s->seat = calloc(n_seats, sizeof *s->seat);
    s->released = calloc(n_seats, sizeof *s->released);
    s->candidate = calloc((size_t)o->micro_batch, sizeof *s->candidate);
    s->block = calloc((size_t)o->n_block_slots, sizeof *s->block);
    if (!s->seat || !s->released || !s->candidate || !s->block) {
        st = SL_FAIL(SL_ERR_NOMEM, "scheduler: out of host memory for %zu seats", n_seats);
        goto fail;
    }
    for (int b = 0; b < o->n_block_slots; b++) {
        s->block[b].sent = calloc((size_t)s->seats, sizeof *s->block[b].sent);
        if (!s->block[b].sent) {
            st = SL_FAIL(SL_ERR_NOMEM, "scheduler: out of host memory for %d seats", s->seats);
            goto fail;
        }
    }
    *out = s;
    return SL_OK;

fail:
    sl_scheduler_close(s);
    return st;
}

static void close_queue(sl_request_queue *q) {
    for (sl_request *r; (r = sl_request_pop(q));) sl_request_close(r);
}

void sl_scheduler_close(sl_scheduler *s) {
    if (!s) return;
    sl_scheduler_drop_all(s);
    close_queue(&s->finished);
    for (int b = 0; s->block && b < s->opt.n_block_slots; b++) free(s->block[b].sent);
    free(s->block);
    free(s->candidate);
    free(s->released);
    free(s->seat);
    free(s);
}

static int home_of(const sl_scheduler *s, int slot) {
    return s->opt.seats ? s->opt.seats[slot].home : SL_TIER_GPU;
}

/* Pages of the roomiest home. */
static int most_pages(const sl_scheduler *s) {
    int most = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (s->opt.n_pages[t] > most) most = s->opt.n_pages[t];
    return most;
}

static sl_status check_request(const sl_scheduler *s, const sl_engine_request *r) {
    if (r->n_prompt < 1) return SL_FAIL(SL_ERR_ARG, "the prompt has no tokens");
    if (r->n < 1 || r->max_tokens < 0)
        return SL_FAIL(SL_ERR_ARG, "n is %d (expected at least 1), max_tokens %d (at least 0)",
                       r->n, r->max_tokens);
    if (r->max_tokens > s->opt.max_context || r->n_prompt > s->opt.max_context - r->max_tokens)
        return SL_FAIL(SL_ERR_ARG,
                       "the prompt has %d tokens and %d are to be generated, but the context holds "
                       "%d tokens",
                       r->n_prompt, r->max_tokens, s->opt.max_context);
    if (sl_kv_pages_for(r->n_prompt + r->max_tokens) > most_pages(s))
        return SL_FAIL(SL_ERR_ARG, "%d tokens need %d pages of KV cache, there are %d",
                       r->n_prompt + r->max_tokens, sl_kv_pages_for(r->n_prompt + r->max_tokens),
                       most_pages(s));
    for (int i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= s->opt.vocab)
            return SL_FAIL(SL_ERR_ARG, "prompt token %d has id %d, expected 0 to %d", i,
                           (int)r->prompt[i], s->opt.vocab - 1);
    if (r->n_stop_ids < 0 || r->n_stop_ids > SL_MAX_STOP_IDS)
        return SL_FAIL(SL_ERR_ARG, "%d stop ids, at most %d", r->n_stop_ids, (int)SL_MAX_STOP_IDS);
    return SL_OK;
}

sl_status sl_scheduler_submit(sl_scheduler *s, const sl_engine_request *ask, uint64_t *id_out) {
    SL_TRY(check_request(s, ask));
    sl_request *r = NULL;
    SL_TRY(sl_request_open(ask, s->n_requests, &r));
    s->n_requests++;
    *id_out = r->id;
    if (sl_request_prompt_rows(r) > 0) {
        sl_request_push(&s->waiting, r);
        return SL_OK;
    }
    /* Nothing to compute: an echo without log-probabilities, or of a single token. */
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
    return SL_OK;
}

int sl_scheduler_n_queued(const sl_scheduler *s) {
    return s->waiting.n + (s->admitting != NULL);
}
int sl_scheduler_n_running(const sl_scheduler *s) {
    return s->n_running;
}
int sl_scheduler_n_in_flight(const sl_scheduler *s) {
    return (int)(s->n_blocks - s->n_absorbed);
}
uint64_t sl_scheduler_prefill_rows(const sl_scheduler *s) {
    return s->prefill_rows;
}
uint64_t sl_scheduler_decode_rows(const sl_scheduler *s) {
    return s->decode_rows;
}

/* Gives up a seat; its pages become free with the next block, before any admission. */
static void leave_seat(sl_scheduler *s, sl_sequence *q) {
    s->seat[q->slot] = NULL;
    s->block[q->slot / s->seats].n_seated--;
    s->released[s->n_released++] = q->slot;
    s->n_free_pages[home_of(s, q->slot)] += q->n_reserved;
    q->n_reserved = 0;
    q->slot = -1;
    q->state = SL_SEQ_DONE;
}

/* The same within the block being formed, after the operations that are in it already. */
static sl_status leave_seat_now(sl_scheduler *s, sl_sequence *q, sl_block *block) {
    leave_seat(s, q);
    const sl_block_op op = {.kind = SL_OP_RELEASE, .slot = s->released[--s->n_released]};
    return sl_block_add_op(block, &op);
}

/* Tokens that a fork takes over: all of the prompt but the last token, whose row gives each choice
 * logits of its own. */
static int fork_tokens(const sl_request *r) {
    return r->ask.n_prompt - 1;
}

static int has_waiting_siblings(const sl_request *r) {
    return r->n_admitted < r->n_sequences;
}

static void end_sequence(sl_scheduler *s, sl_sequence *q, sl_finish finish) {
    sl_request *r = q->request;
    q->finish = finish;
    s->n_running--;
    if (q->choice == 0 && has_waiting_siblings(r))
        q->state = SL_SEQ_LINGERING;
    else
        leave_seat(s, q);
    if (++r->n_done < r->n_sequences) return;
    s->n_free_pages[r->shared_home] += r->n_shared;
    r->n_shared = 0;
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
}

/* Whether a sequence may sit there: `need` pages of the seat's home are free. */
static int is_open(const sl_scheduler *s, int slot, int need, int home) {
    const int here = home_of(s, slot);
    return !s->seat[slot] && need <= s->n_free_pages[here] && (home < 0 || here == home);
}

/* A free seat of the block slot whose home (`home`, -1: any) has `need` pages left, in its least
 * filled micro-batch; -1 if there is none. */
static int find_seat(const sl_scheduler *s, int b, int need, int home) {
    int best = -1, best_filled = s->opt.micro_batch;
    for (int m = 0; m < s->opt.num_micro_batches; m++) {
        int filled = 0, open = -1;
        for (int i = 0; i < s->opt.micro_batch; i++) {
            const int slot = b * s->seats + m * s->opt.micro_batch + i;
            if (s->seat[slot])
                filled++;
            else if (open < 0 && is_open(s, slot, need, home))
                open = slot;
        }
        if (open >= 0 && filled < best_filled) {
            best_filled = filled;
            best = open;
        }
    }
    return best;
}

static sl_status emit_admission(const sl_sequence *q, int fork_from, sl_block *block) {
    const sl_request *r = q->request;
    sl_block_op op = {.kind = SL_OP_ADMIT,
                      .slot = q->slot,
                      .n_prompt = r->ask.n_prompt,
                      .sampling = r->ask.sampling};
    const int n_reserve = r->ask.n_prompt + r->ask.max_tokens;
    op.sampling.key = sl_rng_at(r->ask.sampling.key, (uint64_t)q->choice);
    if (fork_from < 0) op.n_reserve = n_reserve;
    SL_TRY(sl_block_add_op(block, &op));
    if (fork_from < 0) return SL_OK;
    op = (sl_block_op){.kind = SL_OP_FORK,
                       .slot = q->slot,
                       .from = fork_from,
                       .n_tokens = fork_tokens(r),
                       .n_from = r->sequence[0].n_sent,
                       .n_reserve = n_reserve};
    return sl_block_add_op(block, &op);
}

/* Tries to seat the next choice of a request in block slot b.  *seated_out = 0 when there is no
 * seat, no page, or its first choice is not far enough. */
static sl_status admit_choice(sl_scheduler *s, sl_request *r, int b, sl_block *block,
                              int *seated_out) {
    *seated_out = 0;
    sl_sequence *q = &r->sequence[r->n_admitted];
    sl_sequence *first = &r->sequence[0];
    int fork = q->choice > 0 && first->slot >= 0 && fork_tokens(r) > 0;
    if (fork && first->n_sent < fork_tokens(r)) return SL_OK;
    const int whole = sl_kv_pages_for(r->ask.n_prompt + r->ask.max_tokens);
    /* Whole pages of the prefix are shared; they are charged to the request, once, since the first
     * choice may end before the others.  A fork has to have the first choice's home; where that has
     * no seat, the choice computes the prompt itself. */
    const int shared = r->n_sequences > 1 ? fork_tokens(r) / SL_PAGE_TOKENS : 0;
    int slot = fork ? find_seat(s, b, whole - shared, home_of(s, first->slot)) : -1;
    if (slot < 0) {
        slot = find_seat(s, b, whole, -1);
        if (fork && slot >= 0 && home_of(s, slot) == home_of(s, first->slot)) slot = -1;
        fork = 0;
    }
    if (slot < 0) return SL_OK;
    const int own = q->choice == 0 || fork ? whole - shared : whole;
    const int need = own + (q->choice == 0 ? shared : 0);

    const size_t room = r->ask.max_tokens > 0 ? (size_t)r->ask.max_tokens : 1;
    q->token = calloc(room, sizeof *q->token);
    if (!q->token) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu tokens", room);
    q->slot = slot;
    SL_TRY(emit_admission(q, fork ? first->slot : -1, block));
    s->n_free_pages[home_of(s, slot)] -= need;
    q->n_reserved = own;
    if (q->choice == 0) {
        r->n_shared = shared;
        r->shared_home = home_of(s, slot);
    }
    q->n_sent = fork ? fork_tokens(r) : 0;
    q->state = SL_SEQ_RUNNING;
    q->admission = s->n_admissions++;
    s->seat[slot] = q;
    s->block[b].n_seated++;
    s->n_running++;
    r->n_admitted++;
    *seated_out = 1;
    if (!has_waiting_siblings(r) && first->state == SL_SEQ_LINGERING)
        return leave_seat_now(s, first, block);
    return SL_OK;
}

/* Sequences that block slot b may hold now: an even share, so that every slot has work. */
static int fair_share(const sl_scheduler *s) {
    int waiting = s->waiting.n;
    if (s->admitting) waiting += s->admitting->n_sequences - s->admitting->n_admitted;
    for (const sl_request *r = s->waiting.head; r && waiting < s->seats * s->opt.n_block_slots;
         r = r->next)
        waiting += r->n_sequences - 1;
    int held = 0;
    for (int b = 0; b < s->opt.n_block_slots; b++) held += s->block[b].n_seated;
    const int share = (held + waiting + s->opt.n_block_slots - 1) / s->opt.n_block_slots;
    return share < s->seats ? share : s->seats;
}

/* The finished first choice may hold the seat or the pages that its sibling needs.  When nothing
 * else will free any, it leaves, and the sibling computes the prompt itself. */
static sl_status make_way(sl_scheduler *s, sl_request *r, sl_block *block, int *freed_out) {
    sl_sequence *first = &r->sequence[0];
    *freed_out = first->state == SL_SEQ_LINGERING && s->n_running == 0;
    if (!*freed_out) return SL_OK;
    SL_TRY(leave_seat_now(s, first, block));
    s->n_free_pages[r->shared_home] += r->n_shared;
    r->n_shared = 0;
    return SL_OK;
}

static sl_status admit(sl_scheduler *s, int b, sl_block *block) {
    for (;;) {
        const int has_room = s->block[b].n_seated < fair_share(s);
        if (!s->admitting && has_room) s->admitting = sl_request_pop(&s->waiting);
        sl_request *r = s->admitting;
        if (!r) return SL_OK;
        int seated = 0, freed = 0;
        if (has_room) SL_TRY(admit_choice(s, r, b, block, &seated));
        if (!seated) SL_TRY(make_way(s, r, block, &freed));
        if (!seated && !freed) return SL_OK;
        if (!has_waiting_siblings(r)) s->admitting = NULL;
    }
}

/* Rows of a sequence that could be sent now: the rest of its prompt, or the token just chosen. */
static int rows_ready(const sl_sequence *q) {
    if (q->state != SL_SEQ_RUNNING) return 0;
    const int prompt = sl_request_prompt_rows(q->request);
    return q->n_sent < prompt ? prompt - q->n_sent : 1;
}

static sl_status emit_segment(sl_scheduler *s, block_slot *slot, sl_sequence *q, int n_rows,
                              sl_block *block, int *has_prefill) {
    const sl_request *r = q->request;
    const int n_prompt = r->ask.n_prompt, end = q->n_sent + n_rows;
    const int in_prompt = q->n_sent < n_prompt;
    const int chooses = end >= n_prompt;
    const int score = in_prompt && r->score != NULL && q->choice == 0;
    const sl_block_segment seg = {.slot = q->slot,
                                  .position0 = q->n_sent,
                                  .n_rows = n_rows,
                                  .score = score,
                                  .want_last = chooses || score,
                                  .next = chooses ? -1 : r->prompt[end]};
    int32_t *token;
    SL_TRY(sl_block_add_segment(block, &seg, &token));
    for (int i = 0; i < n_rows; i++) {
        const int p = q->n_sent + i;
        token[i] = p < n_prompt ? r->prompt[p] : q->token[p - n_prompt].id;
    }
    slot->sent[slot->n_sent++] = (sent_segment){q, q->n_sent, n_rows, score, seg.want_last};
    q->n_sent = end;
    if (in_prompt) {
        s->prefill_rows += (uint64_t)n_rows;
        *has_prefill = 1;
    } else {
        s->decode_rows += (uint64_t)n_rows;
    }
    return SL_OK;
}

static int by_admission(const void *a, const void *b) {
    const uint64_t x = ((const candidate *)a)->sequence->admission,
                   y = ((const candidate *)b)->sequence->admission;
    return x < y ? -1 : x > y;
}

static int by_order(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->order != y->order ? x->order - y->order : by_admission(a, b);
}

/* One micro-batch: every decoding sequence has its row; prompts share the rest, oldest first, so
 * that a stream of long prompts starves nobody.  Rows that attend in the same way lie together. */
static sl_status emit_micro_batch(sl_scheduler *s, int b, int m, sl_block *block,
                                  int *has_prefill) {
    int n = 0, n_single = 0;
    candidate *all = s->candidate;
    for (int i = 0; i < s->opt.micro_batch; i++) {
        sl_sequence *q = s->seat[b * s->seats + m * s->opt.micro_batch + i];
        if (!q || rows_ready(q) == 0) continue;
        all[n++] = (candidate){.sequence = q};
        n_single += rows_ready(q) == 1;
    }
    if (n == 0) return SL_OK;
    qsort(all, (size_t)n, sizeof all[0], by_admission);
    SL_TRY(sl_block_add_micro_batch(block));
    int room = s->opt.max_rows - n_single;
    for (int i = 0; i < n; i++) {
        const int ready = rows_ready(all[i].sequence);
        all[i].n_rows = ready == 1 ? 1 : ready < room ? ready : room;
        if (ready > 1) room -= all[i].n_rows;
        if (s->opt.seats)
            all[i].order = sl_seats_row_order(&s->opt.seats[all[i].sequence->slot], all[i].n_rows);
    }
    if (s->opt.seats) qsort(all, (size_t)n, sizeof all[0], by_order);
    for (int i = 0; i < n; i++)
        if (all[i].n_rows > 0)
            SL_TRY(
                emit_segment(s, &s->block[b], all[i].sequence, all[i].n_rows, block, has_prefill));
    return SL_OK;
}

sl_status sl_scheduler_form(sl_scheduler *s, sl_block *block, int *formed_out,
                            int *has_prefill_out) {
    *formed_out = 0;
    *has_prefill_out = 0;
    sl_block_reset(block, SL_BLOCK_WORK, s->n_blocks);
    for (int i = 0; i < s->n_released; i++) {
        const sl_block_op op = {.kind = SL_OP_RELEASE, .slot = s->released[i]};
        SL_TRY(sl_block_add_op(block, &op));
    }
    s->n_released = 0;
    for (int turn = 0; turn < s->opt.n_block_slots; turn++) {
        const int b = (s->next_block + turn) % s->opt.n_block_slots;
        if (s->block[b].in_flight) continue;
        s->block[b].n_sent = 0;
        SL_TRY(admit(s, b, block));
        for (int m = 0; m < s->opt.num_micro_batches; m++)
            SL_TRY(emit_micro_batch(s, b, m, block, has_prefill_out));
        if (block->n_segments == 0) continue;
        s->block[b].in_flight = 1;
        s->block[b].number = s->n_blocks++;
        s->next_block = (b + 1) % s->opt.n_block_slots;
        *formed_out = 1;
        return SL_OK;
    }
    /* No block leaves: the releases wait for the next one. */
    for (int i = 0; i < block->n_ops; i++)
        if (block->op[i].kind == SL_OP_RELEASE) s->released[s->n_released++] = block->op[i].slot;
    return SL_OK;
}

/* One generated token.  Returns 1 when the sequence is over. */
static int add_token(sl_scheduler *s, sl_sequence *q, const sl_choice *c) {
    const sl_request *r = q->request;
    q->token[q->n_tokens++] = *c;
    int stop = 0;
    for (int i = 0; i < r->ask.n_stop_ids; i++) stop |= c->id == r->ask.stop_ids[i];
    if (s->opt.on_token && s->opt.on_token(r->ask.user, q->choice, c)) stop = 1;
    if (stop) {
        end_sequence(s, q, SL_FINISH_STOP);
        return 1;
    }
    if (q->n_tokens < r->ask.max_tokens) return 0;
    end_sequence(s, q, SL_FINISH_LENGTH);
    return 1;
}

static void absorb_segment(sl_scheduler *s, const sent_segment *sent, const sl_choice *choice) {
    sl_sequence *q = sent->sequence;
    if (!q) return;
    sl_request *r = q->request;
    const int n_prompt = r->ask.n_prompt;
    for (int i = 0; i < sent->n_rows; i++) {
        const int is_last = i == sent->n_rows - 1;
        if (is_last ? !sent->want_last : !sent->score) continue;
        const int position = sent->position0 + i + 1; /* of the token that the choice is about */
        const sl_choice *c = choice++;
        if (position < n_prompt)
            r->score[position] = *c;
        else if (add_token(s, q, c))
            return;
    }
    if (r->ask.max_tokens == 0 && sent->position0 + sent->n_rows >= sl_request_prompt_rows(r))
        end_sequence(s, q, SL_FINISH_LENGTH);
}

sl_status sl_scheduler_absorb(sl_scheduler *s, const sl_block_result *result) {
    if (result->status != SL_OK) {
        sl_scheduler_skip(s);
        return sl_fail_text(result->status, result->message);
    }
    block_slot *slot = NULL;
    for (int b = 0; b < s->opt.n_block_slots; b++)
        if (s->block[b].in_flight && s->block[b].number == s->n_absorbed) slot = &s->block[b];
    if (!slot || result->number != s->n_absorbed)
        return SL_FAIL(SL_ERR_COMM, "result of block %llu, expected block %llu",
                       (unsigned long long)result->number, (unsigned long long)s->n_absorbed);
    int n_wanted = 0;
    for (int i = 0; i < slot->n_sent; i++)
        n_wanted += (slot->sent[i].score ? slot->sent[i].n_rows - 1 : 0) + slot->sent[i].want_last;
    if (result->n_choices != n_wanted)
        return SL_FAIL(SL_ERR_COMM, "block %llu has %d choices, expected %d",
                       (unsigned long long)result->number, result->n_choices, n_wanted);
    s->n_absorbed++;
    slot->in_flight = 0;
    const sl_choice *choice = result->choice;
    for (int i = 0; i < slot->n_sent; i++) {
        const sent_segment *sent = &slot->sent[i];
        absorb_segment(s, sent, choice);
        choice += (sent->score ? sent->n_rows - 1 : 0) + sent->want_last;
    }
    return SL_OK;
}

void sl_scheduler_skip(sl_scheduler *s) {
    for (int b = 0; b < s->opt.n_block_slots; b++)
        if (s->block[b].in_flight && s->block[b].number == s->n_absorbed) s->block[b].in_flight = 0;
    s->n_absorbed++;
}

/* The request that has begun and is not finished, or NULL. */
static sl_request *find_begun(const sl_scheduler *s, uint64_t id) {
    if (s->admitting && s->admitting->id == id) return s->admitting;
    for (int i = 0; i < s->opt.n_block_slots * s->seats; i++)
        if (s->seat[i] && s->seat[i]->request->id == id) return s->seat[i]->request;
    return NULL;
}

/* Rows that are in flight for a request come back and go nowhere.  The seat is released by a later
 * block than those, so every rank has computed them by then. */
static void forget_sent(sl_scheduler *s, const sl_request *r) {
    for (int b = 0; b < s->opt.n_block_slots; b++) {
        const int n = s->block[b].in_flight ? s->block[b].n_sent : 0; /* else long gone */
        for (int i = 0; i < n; i++) {
            sl_sequence *q = s->block[b].sent[i].sequence;
            if (q && q->request == r) s->block[b].sent[i].sequence = NULL;
        }
    }
}

void sl_scheduler_cancel(sl_scheduler *s, uint64_t id) {
    sl_request *r = sl_request_remove(&s->waiting, id);
    if (!r) {
        r = find_begun(s, id);
        if (!r) return;
        forget_sent(s, r);
        if (s->admitting == r) s->admitting = NULL;
    }
    for (int c = 0; c < r->ask.n; c++) {
        sl_sequence *q = &r->sequence[c];
        if (q->state == SL_SEQ_RUNNING) s->n_running--;
        if (q->state == SL_SEQ_RUNNING || q->state == SL_SEQ_WAITING)
            q->finish = SL_FINISH_CANCELLED;
        if (q->slot >= 0) leave_seat(s, q);
        q->state = SL_SEQ_DONE;
    }
    s->n_free_pages[r->shared_home] += r->n_shared;
    r->n_shared = 0;
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
}

void sl_scheduler_drop_all(sl_scheduler *s) {
    close_queue(&s->waiting);
    /* A request's sequences sit in several seats: close it with its last one. */
    for (int i = 0; s->seat && i < s->opt.n_block_slots * s->seats; i++) {
        sl_sequence *q = s->seat[i];
        if (!q) continue;
        s->n_running -= q->state == SL_SEQ_RUNNING;
        leave_seat(s, q);
        sl_request *r = q->request;
        int seated = 0;
        for (int c = 0; c < r->ask.n; c++) seated |= r->sequence[c].slot >= 0;
        if (seated) continue;
        s->n_free_pages[r->shared_home] += r->n_shared;
        if (s->admitting == r) s->admitting = NULL;
        sl_request_close(r);
    }
    if (s->admitting) sl_request_close(s->admitting);
    s->admitting = NULL;
    for (int b = 0; s->block && b < s->opt.n_block_slots; b++)
        for (int i = 0; i < s->block[b].n_sent; i++) s->block[b].sent[i].sequence = NULL;
}

const sl_engine_result *sl_scheduler_take(sl_scheduler *s) {
    sl_request *r = sl_request_pop(&s->finished);
    return r ? &r->result : NULL;
}

void sl_scheduler_release(sl_scheduler *s, const sl_engine_result *result) {
    (void)s;
    if (!result) return;
    sl_request_close((sl_request *)((char *)result - offsetof(sl_request, result)));
}
