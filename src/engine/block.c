#include "engine/block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "store/kv_format.h"

static const int32_t MAGIC = 0x534c4234; /* "SLB4" */
enum { MAX_BIAS = 1 << 20 };

/* Makes room for `n` elements in a growing array. */
static sl_status reserve(void **array, int *capacity, int n, size_t elem_bytes) {
    if (n <= *capacity) return SL_OK;
    int more = *capacity ? *capacity : 16;
    while (more < n) more = more > (1 << 29) ? n : 2 * more;
    size_t bytes;
    SL_TRY(sl_size_mul((size_t)more, elem_bytes, &bytes));
    void *grown = realloc(*array, bytes);
    if (!grown) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a block of %d parts", n);
    *array = grown;
    *capacity = more;
    return SL_OK;
}

void sl_block_free(sl_block *b) {
    free(b->op);
    free(b->micro_batch);
    free(b->segment);
    free(b->token);
    free(b->bias);
    free(b->op_token);
    memset(b, 0, sizeof *b);
}

void sl_block_reset(sl_block *b, sl_block_kind kind, uint64_t number) {
    b->kind = kind;
    b->number = number;
    b->status = SL_OK;
    b->message[0] = '\0';
    b->n_ops = b->n_micro_batches = b->n_segments = b->n_tokens = 0;
}

sl_status sl_block_add_op(sl_block *b, const sl_block_op *op) {
    SL_TRY(reserve((void **)&b->op, &b->op_capacity, b->n_ops + 1, sizeof *b->op));
    b->op[b->n_ops++] = *op;
    return SL_OK;
}

sl_status sl_block_add_micro_batch(sl_block *b) {
    SL_TRY(reserve((void **)&b->micro_batch, &b->micro_batch_capacity, b->n_micro_batches + 1,
                   sizeof *b->micro_batch));
    b->micro_batch[b->n_micro_batches++] = (sl_block_micro_batch){b->n_segments, 0, 0};
    return SL_OK;
}

sl_status sl_block_add_segment(sl_block *b, const sl_block_segment *segment, int32_t **token_out) {
    if (b->n_micro_batches == 0) return SL_FAIL(SL_ERR_ARG, "a segment without a micro-batch");
    SL_TRY(
        reserve((void **)&b->segment, &b->segment_capacity, b->n_segments + 1, sizeof *b->segment));
    SL_TRY(reserve((void **)&b->token, &b->token_capacity, b->n_tokens + segment->n_rows,
                   sizeof *b->token));
    sl_block_segment *s = &b->segment[b->n_segments++];
    *s = *segment;
    s->token0 = b->n_tokens;
    b->n_tokens += segment->n_rows;
    sl_block_micro_batch *m = &b->micro_batch[b->n_micro_batches - 1];
    m->n_segments++;
    m->n_rows += segment->n_rows;
    *token_out = b->token + s->token0;
    return SL_OK;
}

int sl_block_n_wanted(const sl_block *b) {
    int n = 0;
    for (int i = 0; i < b->n_segments; i++) n += sl_block_segment_wanted(&b->segment[i]);
    return n;
}

static void put_op(sl_buffer *out, const sl_block_op *op) {
    sl_buffer_put_i32(out, (int32_t)op->kind);
    sl_buffer_put_i32(out, op->slot);
    sl_buffer_put_i32(out, op->kept);
    sl_buffer_put_i32(out, op->page);
    sl_buffer_put_i32(out, op->n_tokens);
    sl_buffer_put_i32(out, op->n_prompt);
    if (op->kind == SL_OP_KEEP)
        sl_buffer_put(out, op->token, (size_t)op->n_tokens * sizeof *op->token);
    if (op->kind != SL_OP_ADMIT) return;
    /* The pointer means nothing elsewhere; the biases follow the struct. */
    sl_sampling flat = op->sampling;
    flat.bias = NULL;
    sl_buffer_put(out, &flat, sizeof flat);
    sl_buffer_put(out, op->sampling.bias, (size_t)op->sampling.n_bias * sizeof(sl_logit_bias));
}

sl_status sl_block_write(const sl_block *b, sl_buffer *out) {
    sl_buffer_reset(out);
    sl_buffer_put_i32(out, MAGIC);
    sl_buffer_put_i32(out, (int32_t)b->kind);
    sl_buffer_put_u64(out, b->number);
    sl_buffer_put_i32(out, (int32_t)b->status);
    const size_t text = strnlen(b->message, sizeof b->message - 1);
    sl_buffer_put_i32(out, (int32_t)text);
    sl_buffer_put(out, b->message, text);
    sl_buffer_put_i32(out, b->n_ops);
    for (int i = 0; i < b->n_ops; i++) put_op(out, &b->op[i]);
    sl_buffer_put_i32(out, b->n_micro_batches);
    for (int m = 0; m < b->n_micro_batches; m++) {
        const sl_block_micro_batch *mb = &b->micro_batch[m];
        sl_buffer_put_i32(out, mb->n_segments);
        for (int i = 0; i < mb->n_segments; i++) {
            const sl_block_segment *s = &b->segment[mb->segment0 + i];
            sl_buffer_put_i32(out, s->slot);
            sl_buffer_put_i32(out, s->position0);
            sl_buffer_put_i32(out, s->n_rows);
            sl_buffer_put_i32(out, (s->score ? 1 : 0) | (s->want_last ? 2 : 0));
            sl_buffer_put_i32(out, s->next);
            sl_buffer_put(out, b->token + s->token0, (size_t)s->n_rows * sizeof *b->token);
        }
    }
    return sl_buffer_status(out);
}

/* Reads an int and refuses it outside [low, high]. */
static sl_status get_int(sl_reader *r, const char *field, int low, int high, int *out) {
    const int32_t v = sl_reader_i32(r);
    if (r->failed)
        return SL_FAIL(SL_ERR_COMM, "block message ends at byte %zu, within %s", r->n, field);
    if (v < low || v > high)
        return SL_FAIL(SL_ERR_COMM, "block message: %s is %d, expected %d to %d", field, (int)v,
                       low, high);
    *out = v;
    return SL_OK;
}

static sl_status get_text(sl_reader *r, char *text, size_t text_bytes) {
    int n;
    SL_TRY(get_int(r, "message length", 0, (int)text_bytes - 1, &n));
    sl_reader_get(r, text, (size_t)n);
    text[n] = '\0';
    return SL_OK;
}

static sl_status check_ids(const int32_t *token, int n, int vocab) {
    for (int i = 0; i < n; i++)
        if (token[i] < 0 || token[i] >= vocab)
            return SL_FAIL(SL_ERR_COMM, "block message: token id %d, expected 0 to %d",
                           (int)token[i], vocab - 1);
    return SL_OK;
}

/* Biases and tokens read so far, and where those of an operation begin. */
typedef struct {
    int n_bias, n_token;
} op_parts;

static sl_status read_bias(sl_reader *r, sl_block *b, int n, op_parts *parts) {
    if (n < 0 || n > MAX_BIAS)
        return SL_FAIL(SL_ERR_COMM, "block message: %d logit biases, expected 0 to %d", n,
                       (int)MAX_BIAS);
    const void *bias = sl_reader_view(r, (size_t)n * sizeof(sl_logit_bias));
    if (!bias) return SL_FAIL(SL_ERR_COMM, "block message ends within %d logit biases", n);
    SL_TRY(reserve((void **)&b->bias, &b->bias_capacity, parts->n_bias + n, sizeof *b->bias));
    if (n) memcpy(b->bias + parts->n_bias, bias, (size_t)n * sizeof *b->bias);
    parts->n_bias += n;
    return SL_OK;
}

static sl_status read_kept(sl_reader *r, const sl_block_limits *l, sl_block *b, int n,
                           op_parts *parts) {
    if (n < 1 || n > SL_PAGE_TOKENS)
        return SL_FAIL(SL_ERR_COMM, "block message: a kept page of %d tokens, expected 1 to %d", n,
                       (int)SL_PAGE_TOKENS);
    SL_TRY(reserve((void **)&b->op_token, &b->op_token_capacity, parts->n_token + n,
                   sizeof *b->op_token));
    int32_t *token = b->op_token + parts->n_token;
    sl_reader_get(r, token, (size_t)n * sizeof *token);
    if (r->failed) return SL_FAIL(SL_ERR_COMM, "block message ends within a kept page's tokens");
    SL_TRY(check_ids(token, n, l->vocab));
    parts->n_token += n;
    return SL_OK;
}

static sl_status read_op(sl_reader *r, const sl_block_limits *l, sl_block *b, op_parts *parts) {
    int kind;
    sl_block_op op = {0};
    SL_TRY(get_int(r, "operation", 0, SL_OP_RELEASE, &kind));
    op.kind = (sl_op_kind)kind;
    const int is_kept = op.kind == SL_OP_SHARE || op.kind == SL_OP_COPY || op.kind == SL_OP_KEEP ||
                        op.kind == SL_OP_DROP;
    SL_TRY(get_int(r, "slot", 0, l->n_slots - 1, &op.slot));
    SL_TRY(get_int(r, "kept page", 0, is_kept ? l->n_kept - 1 : 0, &op.kept));
    SL_TRY(get_int(r, "page", 0, l->max_context, &op.page));
    SL_TRY(get_int(r, "tokens of an operation", 0, l->max_context, &op.n_tokens));
    SL_TRY(get_int(r, "prompt length", 0, l->max_context, &op.n_prompt));
    if (op.kind == SL_OP_COPY && (op.n_tokens < 1 || op.n_tokens > SL_PAGE_TOKENS))
        return SL_FAIL(SL_ERR_COMM, "block message: a copy of %d tokens, expected 1 to %d",
                       op.n_tokens, (int)SL_PAGE_TOKENS);
    if (op.kind == SL_OP_KEEP) SL_TRY(read_kept(r, l, b, op.n_tokens, parts));
    if (op.kind == SL_OP_ADMIT) {
        sl_reader_get(r, &op.sampling, sizeof op.sampling);
        if (r->failed) return SL_FAIL(SL_ERR_COMM, "block message ends within an admission");
        SL_TRY(read_bias(r, b, op.sampling.n_bias, parts));
    }
    return sl_block_add_op(b, &op);
}

static sl_status read_segment(sl_reader *r, const sl_block_limits *l, sl_block *b) {
    sl_block_segment s = {0};
    int flags;
    SL_TRY(get_int(r, "segment slot", 0, l->n_slots - 1, &s.slot));
    SL_TRY(get_int(r, "segment position", 0, l->max_context - 1, &s.position0));
    SL_TRY(get_int(r, "segment rows", 1, l->max_context - s.position0, &s.n_rows));
    SL_TRY(get_int(r, "segment flags", 0, 3, &flags));
    SL_TRY(get_int(r, "next token", -1, l->vocab - 1, &s.next));
    s.score = flags & 1;
    s.want_last = (flags >> 1) & 1;
    int32_t *token;
    SL_TRY(sl_block_add_segment(b, &s, &token));
    sl_reader_get(r, token, (size_t)s.n_rows * sizeof *token);
    if (r->failed) return SL_FAIL(SL_ERR_COMM, "block message ends within a segment's tokens");
    SL_TRY(check_ids(token, s.n_rows, l->vocab));
    if (b->micro_batch[b->n_micro_batches - 1].n_rows > l->max_rows)
        return SL_FAIL(SL_ERR_COMM, "block message: a micro-batch of %d rows, at most %d",
                       b->micro_batch[b->n_micro_batches - 1].n_rows, l->max_rows);
    return SL_OK;
}

sl_status sl_block_read(const void *data, size_t bytes, const sl_block_limits *l, sl_block *b) {
    sl_reader r = sl_reader_of(data, bytes);
    if (sl_reader_i32(&r) != MAGIC)
        return SL_FAIL(SL_ERR_COMM, "a message of %zu bytes is no block header", bytes);
    int kind, status, n_ops, n_micro_batches;
    op_parts parts = {0};
    SL_TRY(get_int(&r, "kind", SL_BLOCK_WORK, SL_BLOCK_STOP, &kind));
    sl_block_reset(b, (sl_block_kind)kind, sl_reader_u64(&r));
    SL_TRY(get_int(&r, "status", SL_OK, SL_ERR_STOPPED, &status));
    SL_TRY(get_text(&r, b->message, sizeof b->message));
    b->status = (sl_status)status;
    /* At most: all seats given up, taken, and reserved for; every page kept, dropped and shared. */
    const int64_t most = 3 * (int64_t)l->n_slots + 2 * (int64_t)l->n_kept +
                         (int64_t)l->n_slots * (l->max_context / SL_PAGE_TOKENS + 1);
    SL_TRY(get_int(&r, "operations", 0, most < INT32_MAX ? (int)most : INT32_MAX, &n_ops));
    for (int i = 0; i < n_ops; i++) SL_TRY(read_op(&r, l, b, &parts));
    /* Only now: the arrays have stopped moving. */
    const sl_logit_bias *bias = b->bias;
    const int32_t *op_token = b->op_token;
    for (int i = 0; i < n_ops; i++) {
        b->op[i].sampling.bias = bias;
        bias += b->op[i].kind == SL_OP_ADMIT ? b->op[i].sampling.n_bias : 0;
        b->op[i].token = op_token;
        op_token += b->op[i].kind == SL_OP_KEEP ? b->op[i].n_tokens : 0;
    }
    SL_TRY(get_int(&r, "micro-batches", 0, l->max_micro_batches, &n_micro_batches));
    for (int m = 0; m < n_micro_batches; m++) {
        int n_segments;
        SL_TRY(sl_block_add_micro_batch(b));
        SL_TRY(get_int(&r, "segments", 0, l->n_slots, &n_segments));
        for (int i = 0; i < n_segments; i++) SL_TRY(read_segment(&r, l, b));
    }
    return SL_OK;
}

void sl_block_result_free(sl_block_result *result) {
    free(result->choice);
    memset(result, 0, sizeof *result);
}

sl_status sl_block_result_reserve(sl_block_result *result, int n_choices) {
    return reserve((void **)&result->choice, &result->capacity, n_choices, sizeof *result->choice);
}

sl_status sl_block_result_write(const sl_block_result *res, sl_buffer *out) {
    sl_buffer_reset(out);
    sl_buffer_put_i32(out, MAGIC);
    sl_buffer_put_u64(out, res->number);
    sl_buffer_put_i32(out, (int32_t)res->status);
    const size_t text = strnlen(res->message, sizeof res->message - 1);
    sl_buffer_put_i32(out, (int32_t)text);
    sl_buffer_put(out, res->message, text);
    sl_buffer_put_i32(out, res->n_choices);
    for (int i = 0; i < res->n_choices; i++) {
        const sl_choice *c = &res->choice[i];
        sl_buffer_put_i32(out, c->id);
        sl_buffer_put_f32(out, c->logprob);
        sl_buffer_put_i32(out, c->n_top);
        sl_buffer_put(out, c->top, (size_t)c->n_top * sizeof c->top[0]);
    }
    return sl_buffer_status(out);
}

sl_status sl_block_result_read(const void *data, size_t bytes, sl_block_result *res) {
    sl_reader r = sl_reader_of(data, bytes);
    if (sl_reader_i32(&r) != MAGIC)
        return SL_FAIL(SL_ERR_COMM, "a message of %zu bytes is no block result", bytes);
    int status, n;
    res->number = sl_reader_u64(&r);
    SL_TRY(get_int(&r, "status", SL_OK, SL_ERR_STOPPED, &status));
    SL_TRY(get_text(&r, res->message, sizeof res->message));
    res->status = (sl_status)status;
    SL_TRY(get_int(&r, "choices", 0, (int)(bytes / 12), &n));
    SL_TRY(sl_block_result_reserve(res, n));
    res->n_choices = n;
    for (int i = 0; i < n; i++) {
        sl_choice *c = &res->choice[i];
        c->id = sl_reader_i32(&r);
        c->logprob = sl_reader_f32(&r);
        SL_TRY(get_int(&r, "alternatives", 0, SL_MAX_LOGPROBS, &c->n_top));
        sl_reader_get(&r, c->top, (size_t)c->n_top * sizeof c->top[0]);
    }
    if (r.failed) return SL_FAIL(SL_ERR_COMM, "block result ends at byte %zu", bytes);
    return SL_OK;
}
