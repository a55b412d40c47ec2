/* The rows of a block: which sequences compute what. */
#include <stdlib.h>

#include "engine/scheduler_impl.h"

/* Rows of a sequence that could be sent now: the rest of its prompt, or the token just chosen. */
static int rows_ready(const sl_sequence *q) {
    if (q->state != SL_SEQ_RUNNING || q->sits_out) return 0;
    const int prompt = sl_request_prompt_rows(q->request);
    return q->n_sent < prompt ? prompt - q->n_sent : 1;
}

static int in_prompt(const sl_sequence *q) {
    return q->state == SL_SEQ_RUNNING && q->n_sent < sl_request_prompt_rows(q->request);
}

/* Two phases: whether prompts of the block slot are still to be computed, which all wait for. */
static int waits_for_prompts(const sl_scheduler *s, int b) {
    if (!s->opt.two_phase) return 0;
    for (int i = 0; i < s->seats; i++) {
        const sl_sequence *q = s->seat[b * s->seats + i];
        if (q && in_prompt(q)) return 1;
    }
    return 0;
}

static sl_status emit_segment(sl_scheduler *s, sl_block_slot *slot, sl_sequence *q, int n_rows,
                              sl_block *block, int *has_prefill) {
    const sl_request *r = q->request;
    const int n_prompt = r->ask.n_prompt, end = q->n_sent + n_rows;
    const int is_prompt = q->n_sent < n_prompt;
    const int chooses = end >= n_prompt;
    const int score = is_prompt && r->score != NULL && q->choice == 0;
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
    slot->sent[slot->n_sent++] = (sl_sent_segment){q, q->n_sent, n_rows, score, seg.want_last};
    q->n_sent = end;
    if (is_prompt) {
        sl_scheduler_note_sent(s, q);
        s->prefill_rows += (uint64_t)n_rows;
        *has_prefill = 1;
    } else {
        s->decode_rows += (uint64_t)n_rows;
    }
    return SL_OK;
}

static int by_admission(const void *a, const void *b) {
    const uint64_t x = ((const sl_row_candidate *)a)->sequence->admission,
                   y = ((const sl_row_candidate *)b)->sequence->admission;
    return x < y ? -1 : x > y;
}

static int by_order(const void *a, const void *b) {
    const sl_row_candidate *x = a, *y = b;
    return x->order != y->order ? x->order - y->order : by_admission(a, b);
}

/* Rows that a micro-batch takes at most.  Where more sequences wait, prompts come in as fast as
 * sequences end in the long run, and no faster: else the seats would all be filled at once, their
 * sequences end at about the same time, and sweeps full of prompts, bound by computing, would take
 * turns with sweeps of decode alone, bound by what is moved.  Below a quarter of the most, small
 * matrices cost more than that gains.  A function of the requests alone, so that runs can be
 * repeated. */
static int rows_at_most(const sl_scheduler *s, int b) {
    const int most = s->opt.max_rows, seats = s->seats * s->opt.n_block_slots;
    const sl_job_mix *m = &s->mix;
    if (s->opt.two_phase || sl_scheduler_n_waiting(s, seats) < seats / 2) return most;
    const double length = (m->ended_tokens + 1.0) / (m->ended_most + 1.0); /* of the most allowed */
    const double tokens = m->ended_tokens + m->begun_most * length;
    if (tokens < 1.0) return most;
    const double rows = m->begun_rows / tokens * s->block[b].n_seated / s->opt.num_micro_batches;
    const double with_decode = rows + (double)s->block[b].n_seated / s->opt.num_micro_batches;
    return with_decode > most ? most : with_decode < most / 4 ? most / 4 : (int)with_decode;
}

/* One micro-batch: every decoding sequence has its row; prompts share the rest, oldest first, so
 * that a stream of long prompts starves nobody.  Rows that attend in the same way lie together. */
static sl_status emit_micro_batch(sl_scheduler *s, int b, int m, int only_prompts, int most,
                                  sl_block *block, int *has_prefill) {
    int n = 0, n_single = 0;
    sl_row_candidate *all = s->candidate;
    for (int i = 0; i < s->opt.micro_batch; i++) {
        sl_sequence *q = s->seat[b * s->seats + m * s->opt.micro_batch + i];
        if (!q || rows_ready(q) == 0 || (only_prompts && !in_prompt(q))) continue;
        all[n++] = (sl_row_candidate){.sequence = q};
        n_single += rows_ready(q) == 1;
    }
    if (n == 0) return SL_OK;
    qsort(all, (size_t)n, sizeof all[0], by_admission);
    SL_TRY(sl_block_add_micro_batch(block));
    int room = most > n_single ? most - n_single : s->opt.max_rows > n_single;
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
    for (int i = 0; i < s->n_dropped; i++) {
        const sl_block_op op = {.kind = SL_OP_DROP, .kept = s->dropped[i]};
        SL_TRY(sl_block_add_op(block, &op));
    }
    s->n_released = s->n_dropped = 0;
    for (int turn = 0; turn < s->opt.n_block_slots; turn++) {
        const int b = (s->next_block + turn) % s->opt.n_block_slots;
        if (s->block[b].in_flight) continue;
        s->block[b].n_sent = 0;
        SL_TRY(sl_scheduler_grow(s, b, block));
        SL_TRY(sl_scheduler_admit(s, b, block));
        const int only_prompts = waits_for_prompts(s, b), most = rows_at_most(s, b);
        for (int m = 0; m < s->opt.num_micro_batches; m++)
            SL_TRY(emit_micro_batch(s, b, m, only_prompts, most, block, has_prefill_out));
        if (block->n_segments == 0) continue;
        s->block[b].in_flight = 1;
        s->block[b].number = s->n_blocks++;
        s->next_block = (b + 1) % s->opt.n_block_slots;
        *formed_out = 1;
        return SL_OK;
    }
    /* No block leaves: what is given up waits for the next one. */
    for (int i = 0; i < block->n_ops; i++) {
        const sl_block_op *op = &block->op[i];
        if (op->kind == SL_OP_RELEASE)
            s->released[s->n_released++] = op->slot;
        else
            s->dropped[s->n_dropped++] = op->kept;
    }
    return SL_OK;
}
