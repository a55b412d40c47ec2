#include "engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "engine/scheduler_impl.h"
#include "store/kv_cache.h"

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
    size_t n_all_pages = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) n_all_pages += (size_t)o->n_pages[t];
    s->dropped = calloc(n_all_pages + 1, sizeof *s->dropped);
    s->path = calloc((size_t)sl_kv_pages_for(o->max_context) + 1, sizeof *s->path);
    s->candidate = calloc((size_t)o->micro_batch, sizeof *s->candidate);
    s->block = calloc((size_t)o->n_block_slots, sizeof *s->block);
    if (!s->seat || !s->released || !s->dropped || !s->path || !s->candidate || !s->block) {
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
    SL_GO(sl_scheduler_open_pages(s));
    if (!o->no_sharing) SL_GO(sl_prefix_open(o->n_pages, &s->prefixes));
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
    sl_scheduler_close_pages(s);
    sl_prefix_close(s->prefixes);
    free(s->path);
    free(s->dropped);
    free(s->released);
    free(s->seat);
    free(s);
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
        sl_request_push(&s->arrived, r);
        return SL_OK;
    }
    /* Nothing to compute: an echo without log-probabilities, or of a single token. */
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
    return SL_OK;
}

int sl_scheduler_n_queued(const sl_scheduler *s) {
    return s->waiting.n + s->arrived.n;
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
uint64_t sl_scheduler_admitted_tokens(const sl_scheduler *s) {
    return s->admitted_tokens;
}
uint64_t sl_scheduler_shared_tokens(const sl_scheduler *s) {
    return s->shared_tokens;
}
int sl_scheduler_n_idle_pages(const sl_scheduler *s) {
    int n = 0;
    for (int t = 0; s->prefixes && t < SL_TIER_COUNT; t++) n += sl_prefix_n_idle(s->prefixes, t);
    return n;
}

static void end_sequence(sl_scheduler *s, sl_sequence *q, sl_finish finish) {
    sl_request *r = q->request;
    q->finish = finish;
    s->n_running--;
    sl_scheduler_leave_seat(s, q);
    if (++r->n_done < r->n_sequences) return;
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
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

static void absorb_segment(sl_scheduler *s, const sl_sent_segment *sent, const sl_choice *choice) {
    sl_sequence *q = sent->sequence;
    if (!q) return;
    sl_request *r = q->request;
    const int n_prompt = r->ask.n_prompt;
    for (int i = 0; i < sent->n_rows; i++) {
        const int is_last = i == sent->n_rows - 1;
        if (is_last ? !sent->want_last : !sent->score) continue;
        const int position = sent->position0 + i + 1; /* of the token that the choice is about */
        const sl_choice *c = choice++;
        if (position < n_prompt) {
            r->score[position] = *c;
            if (position == n_prompt - 1) sl_scheduler_note_scores(s, q);
        } else if (add_token(s, q, c)) {
            return;
        }
    }
    if (r->ask.max_tokens == 0 && sent->position0 + sent->n_rows >= sl_request_prompt_rows(r))
        end_sequence(s, q, SL_FINISH_LENGTH);
}

sl_status sl_scheduler_absorb(sl_scheduler *s, const sl_block_result *result) {
    if (result->status != SL_OK) {
        sl_scheduler_skip(s);
        return sl_fail_text(result->status, result->message);
    }
    sl_block_slot *slot = NULL;
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
        const sl_sent_segment *sent = &slot->sent[i];
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

/* The request of a sequence that has a seat, or NULL. */
static sl_request *find_begun(const sl_scheduler *s, uint64_t id) {
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
    sl_request *r = sl_request_remove(&s->arrived, id);
    if (!r) r = sl_request_remove(&s->waiting, id); /* perhaps with some choices seated */
    if (!r) r = find_begun(s, id);
    if (!r) return;
    forget_sent(s, r);
    for (int c = 0; c < r->ask.n; c++) {
        sl_sequence *q = &r->sequence[c];
        if (q->state == SL_SEQ_RUNNING) s->n_running--;
        if (q->state == SL_SEQ_RUNNING || q->state == SL_SEQ_WAITING)
            q->finish = SL_FINISH_CANCELLED;
        if (q->slot >= 0) sl_scheduler_leave_seat(s, q);
        q->state = SL_SEQ_DONE;
    }
    sl_request_finish(r);
    sl_request_push(&s->finished, r);
}

static int is_seated(const sl_request *r) {
    for (int c = 0; c < r->ask.n; c++)
        if (r->sequence[c].slot >= 0) return 1;
    return 0;
}

void sl_scheduler_drop_all(sl_scheduler *s) {
    close_queue(&s->arrived);
    /* A request's sequences sit in several seats: it is closed with its last one. */
    for (sl_request *r; (r = sl_request_pop(&s->waiting));)
        if (!is_seated(r)) sl_request_close(r);
    for (int i = 0; s->seat && i < s->opt.n_block_slots * s->seats; i++) {
        sl_sequence *q = s->seat[i];
        if (!q) continue;
        s->n_running--;
        sl_scheduler_leave_seat(s, q);
        if (!is_seated(q->request)) sl_request_close(q->request);
    }
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
