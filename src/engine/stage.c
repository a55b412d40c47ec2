#include "engine/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/executor.h"
#include "engine/program.h"
#include "engine/slots.h"
#include "engine/sweep.h"
#include "store/kv_cache.h"
#include "store/weights.h"

/* Follows the hidden states of a micro-batch on the wire, so that a failure goes with them. */
typedef struct {
    int32_t status;
    char message[252];
} trailer;

/* Two sets of hidden states: while one block's are still being sent, the next block is computed. */
enum { N_SETS = 2 };

typedef struct {
    sl_rows rows;
    int32_t *token, *position; /* [max_rows] */
    int32_t *wanted;           /* [max_rows] */
    sl_segment *segment;       /* [micro_batch] */
    int choice0;               /* of the micro-batch's first wanted row in the block */
} laid_out;

struct sl_stage {
    sl_stage_options opt;
    sl_model_config config;
    int is_first, is_last;
    sl_tier *tier;
    sl_weights *weights;
    sl_program *program;
    sl_kv_cache *kv;
    sl_slots slots;
    sl_executor *executor;
    sl_sweep sweep;
    laid_out *mb;               /* [num_micro_batches] */
    void **hidden[N_SETS];      /* [num_micro_batches] rows, then a trailer */
    sl_ticket *sending[N_SETS]; /* [num_micro_batches] */
    sl_choice_ask *ask;         /* [max_rows], last rank */
    const sl_block *block;      /* being computed */
    sl_block_result *result;    /* last rank, being filled */
    int set;                    /* of the block being computed */
    sl_status failed;           /* first failure seen here or before; sticks */
    char message[sizeof((trailer *)0)->message];
    double compute_s, wait_s;
    uint64_t sent_bytes, received_bytes;
    size_t taken_at_start; /* calls of sl_tier_take() by the end of open */
};

static size_t row_bytes(const sl_stage *s) {
    return (size_t)s->config.hidden * s->opt.backend->ops->act_bytes;
}

/* Remembers the first failure; those that follow are its echo. */
static void note_failure(sl_stage *s, sl_status status, const char *message, int add_rank) {
    if (s->failed != SL_OK || status == SL_OK) return;
    s->failed = status;
    if (add_rank && s->opt.transport->n_ranks > 1)
        snprintf(s->message, sizeof s->message, "rank %d: %.230s", s->opt.transport->rank, message);
    else
        snprintf(s->message, sizeof s->message, "%.250s", message);
}

static sl_status open_lay_out(const sl_stage *s, laid_out *m) {
    const size_t rows = (size_t)s->opt.max_rows;
    m->token = calloc(rows, sizeof *m->token);
    m->position = calloc(rows, sizeof *m->position);
    m->wanted = calloc(rows, sizeof *m->wanted);
    m->segment = calloc((size_t)s->opt.micro_batch, sizeof *m->segment);
    if (!m->token || !m->position || !m->wanted || !m->segment)
        return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a micro-batch of %zu rows", rows);
    return SL_OK;
}

static sl_status open_hidden(sl_stage *s) {
    const size_t k = (size_t)s->opt.num_micro_batches;
    size_t bytes;
    SL_TRY(sl_size_mul((size_t)s->opt.max_rows, row_bytes(s), &bytes));
    SL_TRY(sl_size_add(bytes, sizeof(trailer), &bytes));
    for (int set = 0; set < N_SETS; set++) {
        s->hidden[set] = calloc(k, sizeof *s->hidden[set]);
        s->sending[set] = calloc(k, sizeof *s->sending[set]);
        if (!s->hidden[set] || !s->sending[set])
            return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu micro-batches", k);
        for (size_t i = 0; i < k; i++)
            SL_TRY(sl_tier_take(s->tier, bytes, "hidden states", &s->hidden[set][i]));
    }
    return SL_OK;
}

/* Pages per layer that the rest of the budget holds. */
static sl_status count_pages(const sl_stage *s, int64_t *out) {
    const sl_kv_format f =
        sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads, s->config.head_dim);
    const int n_layers = s->opt.last_layer - s->opt.first_layer;
    const size_t left = s->opt.cpu_budget_bytes - sl_tier_used_bytes(s->tier);
    const size_t per_page = f.page_bytes * (size_t)n_layers;
    const int64_t most = (int64_t)(left / per_page);
    const int64_t one = sl_kv_pages_for(s->opt.max_context);
    const int64_t all = one * s->opt.n_slots;
    if (most < one) {
        char need[32], have[32], used[32];
        return SL_FAIL(
            SL_ERR_NOMEM,
            "a context of %d tokens needs %s of KV cache, but %s of the cpu budget are left "
            "beside %s of weights and buffers: lower the context or raise the budget",
            s->opt.max_context, sl_bytes_format((size_t)one * per_page, need, sizeof need),
            sl_bytes_format(left, have, sizeof have),
            sl_bytes_format(sl_tier_used_bytes(s->tier), used, sizeof used));
    }
    *out = most < all ? most : all;
    return SL_OK;
}

sl_status sl_stage_open(const sl_stage_options *o, sl_stage **out, int64_t *max_pages_out) {
    sl_status st = SL_OK;
    sl_stage *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    s->opt = *o;
    s->config = *sl_source_config(o->source);
    s->opt.source = NULL;
    s->is_first = sl_transport_is_first(o->transport);
    s->is_last = sl_transport_is_last(o->transport);
    SL_GO(sl_tier_open_cpu(o->cpu_budget_bytes, &s->tier));
    SL_GO(sl_weights_open(o->source, o->first_layer, o->last_layer, s->tier, &s->weights));
    const sl_program_options program = {&s->config, o->backend, s->tier, o->max_rows, s->is_last};
    SL_GO(sl_program_open(&program, &s->program));
    SL_GO(sl_slots_open(o->n_slots, o->max_context, s->is_last, &s->slots));
    SL_GO(sl_executor_open(&s->executor));
    s->mb = calloc((size_t)o->num_micro_batches, sizeof *s->mb);
    s->ask = calloc((size_t)o->max_rows, sizeof *s->ask);
    if (!s->mb || !s->ask) {
        st = SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
        goto fail;
    }
    for (int i = 0; i < o->num_micro_batches; i++) SL_GO(open_lay_out(s, &s->mb[i]));
    SL_GO(open_hidden(s));
    SL_GO(count_pages(s, max_pages_out));
    *out = s;
    return SL_OK;

fail:
    sl_stage_close(s);
    return st;
}

sl_status sl_stage_open_pages(sl_stage *s, int n_pages) {
    const sl_kv_options kv = {
        .format = sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads, s->config.head_dim),
        .n_layers = s->opt.last_layer - s->opt.first_layer,
        .n_pages = n_pages,
        .n_slots = s->opt.n_slots,
        .max_context = s->opt.max_context};
    SL_TRY(sl_kv_open(&kv, s->tier, &s->kv));
    s->taken_at_start = sl_tier_n_taken(s->tier);
    return SL_OK;
}

void sl_stage_close(sl_stage *s) {
    if (!s) return;
    for (int set = 0; set < N_SETS; set++) {
        for (int i = 0; s->hidden[set] && i < s->opt.num_micro_batches; i++)
            sl_tier_put(s->tier, s->hidden[set][i]);
        free(s->hidden[set]);
        free(s->sending[set]);
    }
    for (int i = 0; s->mb && i < s->opt.num_micro_batches; i++) {
        free(s->mb[i].token);
        free(s->mb[i].position);
        free(s->mb[i].wanted);
        free(s->mb[i].segment);
    }
    free(s->mb);
    free(s->ask);
    sl_sweep_free(&s->sweep);
    sl_executor_close(s->executor);
    sl_slots_close(&s->slots);
    sl_kv_close(s->kv);
    sl_program_close(s->program);
    sl_weights_close(s->weights);
    sl_tier_close(s->tier);
    free(s);
}

sl_block_limits sl_stage_limits(const sl_stage *s) {
    return (sl_block_limits){.n_slots = s->opt.n_slots,
                             .max_micro_batches = s->opt.num_micro_batches,
                             .max_rows = s->opt.max_rows,
                             .vocab = s->config.vocab,
                             .max_context = s->opt.max_context};
}

/* The forked sequence's own copy of a partly filled page, in every layer. */
static sl_status copy_page(sl_stage *s, int32_t from, int32_t to) {
    for (int l = 0; from >= 0 && l < s->opt.last_layer - s->opt.first_layer; l++) {
        const sl_kv_view view = sl_kv_layer(s->kv, l);
        SL_TRY(s->opt.backend->ops->page_copy(s->opt.backend, &view, from, to));
    }
    return SL_OK;
}

static sl_status apply_op(sl_stage *s, const sl_block_op *op) {
    SL_TRY(sl_slots_apply(&s->slots, op));
    if (op->kind == SL_OP_RELEASE) sl_kv_release(s->kv, op->slot);
    if (op->kind != SL_OP_FORK) return SL_OK;
    int32_t from, to;
    SL_TRY(sl_kv_fork(s->kv, op->from, op->slot, op->n_tokens, &from, &to));
    return copy_page(s, from, to);
}

/* Lays out the rows of one micro-batch from its header. */
static sl_status lay_out(sl_stage *s, const sl_block *b, const sl_block_micro_batch *header,
                         laid_out *m) {
    int row = 0, n_wanted = 0;
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &b->segment[header->segment0 + i];
        const int32_t *token = b->token + seg->token0;
        SL_TRY(sl_slots_note(&s->slots, seg, token));
        SL_TRY(sl_kv_extend(s->kv, seg->slot, seg->position0 + seg->n_rows));
        sl_segment *out = &m->segment[i];
        *out = (sl_segment){.row0 = row, .n_rows = seg->n_rows, .position0 = seg->position0};
        out->pages = sl_kv_pages(s->kv, seg->slot, &out->n_pages);
        for (int r = 0; r < seg->n_rows; r++, row++) {
            m->token[row] = token[r];
            m->position[row] = seg->position0 + r;
            const int is_last = r == seg->n_rows - 1;
            if (is_last ? seg->want_last : seg->score) m->wanted[n_wanted++] = row;
        }
    }
    m->rows = (sl_rows){.n_rows = row,
                        .token = m->token,
                        .position = m->position,
                        .n_segments = header->n_segments,
                        .segment = m->segment,
                        .n_wanted = n_wanted,
                        .wanted = m->wanted};
    return SL_OK;
}

/* Applies the header to this rank's state. */
static sl_status take_in(sl_stage *s, const sl_block *b) {
    for (int i = 0; i < b->n_ops; i++) SL_TRY(apply_op(s, &b->op[i]));
    int choice0 = 0;
    for (int m = 0; m < b->n_micro_batches; m++) {
        if (b->micro_batch[m].n_segments > s->opt.micro_batch)
            return SL_FAIL(SL_ERR_COMM, "a micro-batch of %d sequences, at most %d",
                           b->micro_batch[m].n_segments, s->opt.micro_batch);
        SL_TRY(lay_out(s, b, &b->micro_batch[m], &s->mb[m]));
        s->mb[m].choice0 = choice0;
        choice0 += s->mb[m].rows.n_wanted;
    }
    return SL_OK;
}

static sl_status choose(sl_stage *s, int mb) {
    laid_out *m = &s->mb[mb];
    const sl_block_micro_batch *header = &s->block->micro_batch[mb];
    int n = 0;
    for (int i = 0; i < header->n_segments; i++) {
        const sl_block_segment *seg = &s->block->segment[header->segment0 + i];
        for (int r = 0; r < seg->n_rows; r++)
            if (r == seg->n_rows - 1 ? seg->want_last : seg->score)
                s->ask[n++] = sl_slots_ask(&s->slots, seg, r, s->block->token + seg->token0);
    }
    return sl_program_head(s->program, sl_weights_layer(s->weights, s->config.n_layers), &m->rows,
                           s->hidden[s->set][mb], s->ask, s->result->choice + m->choice0);
}

static sl_status compute(sl_stage *s, const sl_task *task) {
    const int mb = task->micro_batch;
    void *hidden = s->hidden[s->set][mb];
    const sl_rows *rows = &s->mb[mb].rows;
    switch (task->kind) {
    case SL_TASK_EMBED:
        return sl_program_embed(s->program, sl_weights_layer(s->weights, SL_LAYER_EMBED), rows,
                                hidden);
    case SL_TASK_LAYER: {
        const sl_kv_view cache = sl_kv_layer(s->kv, task->layer - s->opt.first_layer);
        return sl_program_layer(s->program, sl_weights_layer(s->weights, task->layer), &cache, rows,
                                hidden);
    }
    case SL_TASK_HEAD:
        return choose(s, mb);
    case SL_TASK_RECEIVE:
    case SL_TASK_SEND:
        break;
    }
    return SL_FAIL(SL_ERR_ARG, "task %d is no computation", (int)task->kind);
}

static size_t hidden_bytes(const sl_stage *s, int mb) {
    return (size_t)s->block->micro_batch[mb].n_rows * row_bytes(s);
}

static sl_status start_task(void *context, const sl_task *task, sl_ticket *ticket_out) {
    sl_stage *s = context;
    sl_transport *t = s->opt.transport;
    const int mb = task->micro_batch;
    unsigned char *hidden = s->hidden[s->set][mb];
    const size_t bytes = hidden_bytes(s, mb);
    if (task->kind == SL_TASK_RECEIVE) {
        s->received_bytes += bytes + sizeof(trailer);
        return t->ops->recv(t, t->rank - 1, SL_CHANNEL_HIDDEN, hidden, bytes + sizeof(trailer),
                            ticket_out);
    }
    if (task->kind == SL_TASK_SEND) {
        trailer end = {.status = (int32_t)s->failed};
        memcpy(end.message, s->message, sizeof end.message);
        memcpy(hidden + bytes, &end, sizeof end);
        s->sent_bytes += bytes + sizeof end;
        return t->ops->send(t, t->rank + 1, SL_CHANNEL_HIDDEN, hidden, bytes + sizeof end,
                            &s->sending[s->set][mb]);
    }
    if (s->failed != SL_OK) return SL_OK; /* nothing worth computing any more */
    const double t0 = sl_clock_s();
    sl_status st = compute(s, task);
    if (st == SL_OK) st = s->opt.backend->ops->sync(s->opt.backend);
    s->compute_s += sl_clock_s() - t0;
    note_failure(s, st, sl_error_message(), 1);
    return SL_OK;
}

static sl_status poll_task(void *context, const sl_task *task, sl_ticket ticket, int *done_out) {
    sl_stage *s = context;
    SL_TRY(s->opt.transport->ops->test(s->opt.transport, ticket, done_out));
    if (!*done_out) return SL_OK;
    trailer end;
    const unsigned char *hidden = s->hidden[s->set][task->micro_batch];
    memcpy(&end, hidden + hidden_bytes(s, task->micro_batch), sizeof end);
    end.message[sizeof end.message - 1] = '\0';
    note_failure(s, (sl_status)end.status, end.message, 0);
    return SL_OK;
}

/* Moves sends along and notes which are done. */
static sl_status progress(void *context) {
    sl_stage *s = context;
    sl_transport *t = s->opt.transport;
    for (int set = 0; set < N_SETS; set++) {
        for (int i = 0; i < s->opt.num_micro_batches; i++) {
            int done = 0;
            if (s->sending[set][i] == 0) continue;
            SL_TRY(t->ops->test(t, s->sending[set][i], &done));
            if (done) s->sending[set][i] = 0;
        }
    }
    return SL_OK;
}

static sl_status wait_sent(sl_stage *s, int set) {
    sl_transport *t = s->opt.transport;
    for (int i = 0; i < s->opt.num_micro_batches; i++) {
        if (s->sending[set][i] == 0) continue;
        SL_TRY(t->ops->wait(t, s->sending[set][i]));
        s->sending[set][i] = 0;
    }
    return SL_OK;
}

sl_status sl_stage_drain(sl_stage *s) {
    for (int set = 0; set < N_SETS; set++) SL_TRY(wait_sent(s, set));
    return SL_OK;
}

sl_status sl_stage_run(sl_stage *s, const sl_block *block, sl_block_result *result) {
    s->block = block;
    s->result = result;
    s->set = (s->set + 1) % N_SETS;
    const double t0 = sl_clock_s();
    SL_TRY(wait_sent(s, s->set));
    s->wait_s += sl_clock_s() - t0;

    sl_status st = s->failed == SL_OK ? take_in(s, block) : s->failed;
    if (st == SL_OK && s->is_last) st = sl_block_result_reserve(result, sl_block_n_wanted(block));
    note_failure(s, st, sl_error_message(), 1);

    const sl_sweep_shape shape = {.first_layer = s->opt.first_layer,
                                  .last_layer = s->opt.last_layer,
                                  .is_first_rank = s->is_first,
                                  .is_last_rank = s->is_last,
                                  .n_micro_batches = block->n_micro_batches};
    SL_TRY(sl_sweep_make(&shape, &s->sweep));
    const sl_task_runner runner = {s, start_task, poll_task, progress};
    double wait_s = 0.0;
    SL_TRY(sl_executor_run(s->executor, &s->sweep, &runner, &wait_s));
    s->wait_s += wait_s;

    if (s->is_last) {
        result->number = block->number;
        result->status = s->failed;
        result->n_choices = s->failed == SL_OK ? sl_block_n_wanted(block) : 0;
        snprintf(result->message, sizeof result->message, "%s", s->message);
    }
    return SL_OK;
}

void sl_stage_get_stats(const sl_stage *s, sl_stage_stats *out) {
    *out =
        (sl_stage_stats){.weight_bytes = sl_weights_bytes(s->weights),
                         .cpu_peak_bytes = sl_tier_peak_bytes(s->tier),
                         .page_bytes = sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads,
                                                         s->config.head_dim)
                                           .page_bytes,
                         .pages_total = s->kv ? sl_kv_n_pages(s->kv) : 0,
                         .pages_peak = s->kv ? sl_kv_peak(s->kv) : 0,
                         .pages_free = s->kv ? sl_kv_n_free(s->kv) : 0,
                         .compute_s = s->compute_s,
                         .wait_s = s->wait_s,
                         .sent_bytes = s->sent_bytes,
                         .received_bytes = s->received_bytes,
                         .n_steady_takes = sl_tier_n_taken(s->tier) - s->taken_at_start};
}
