#include "engine/slots.h"

#include <stdlib.h>
#include <string.h>

#include "store/kv_format.h"

sl_status sl_slots_open(int n, int max_context, int keep_tokens, sl_slots *out) {
    sl_slot *slot = calloc((size_t)n, sizeof *slot);
    if (!slot) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d sequence slots", n);
    *out = (sl_slots){.n = n, .max_context = max_context, .keep_tokens = keep_tokens, .slot = slot};
    return SL_OK;
}

sl_status sl_slots_open_kept(sl_slots *slots, int n_kept) {
    slots->n_kept = n_kept;
    if (!slots->keep_tokens || n_kept == 0) return SL_OK;
    slots->kept = calloc((size_t)n_kept * SL_PAGE_TOKENS, sizeof *slots->kept);
    return slots->kept
               ? SL_OK
               : SL_FAIL(SL_ERR_NOMEM, "out of host memory for the tokens of %d pages", n_kept);
}

void sl_slots_close(sl_slots *slots) {
    for (int i = 0; slots->slot && i < slots->n; i++) {
        free(slots->slot[i].bias);
        free(slots->slot[i].token);
    }
    free(slots->slot);
    free(slots->kept);
    *slots = (sl_slots){0};
}

static sl_status admit(sl_slots *slots, sl_slot *s, const sl_block_op *op) {
    const int n = op->sampling.n_bias;
    if (n > s->bias_capacity) {
        sl_logit_bias *bias = realloc(s->bias, (size_t)n * sizeof *bias);
        if (!bias) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d logit biases", n);
        s->bias = bias;
        s->bias_capacity = n;
    }
    if (slots->keep_tokens && !s->token) {
        s->token = malloc((size_t)slots->max_context * sizeof *s->token);
        if (!s->token)
            return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d tokens", slots->max_context);
    }
    if (n) memcpy(s->bias, op->sampling.bias, (size_t)n * sizeof *s->bias);
    s->sampling = op->sampling;
    s->sampling.bias = s->bias;
    s->n_prompt = op->n_prompt;
    s->in_use = 1;
    return SL_OK;
}

static sl_status take_kept(const sl_slots *slots, sl_slot *s, const sl_block_op *op, int token0) {
    const int n = op->kind == SL_OP_SHARE ? SL_PAGE_TOKENS : op->n_tokens;
    if (!slots->keep_tokens) return SL_OK;
    if (op->kept >= slots->n_kept || token0 < 0 || token0 + n > slots->max_context)
        return SL_FAIL(SL_ERR_COMM, "kept page %d of %d for tokens %d to %d of slot %d, of %d",
                       op->kept, slots->n_kept, token0, token0 + n - 1, op->slot,
                       slots->max_context);
    memcpy(s->token + token0, slots->kept + (size_t)op->kept * SL_PAGE_TOKENS,
           (size_t)n * sizeof *s->token);
    return SL_OK;
}

sl_status sl_slots_apply(sl_slots *slots, const sl_block_op *op, int token0) {
    sl_slot *s = &slots->slot[op->slot];
    if (op->kind == SL_OP_DROP) return SL_OK;
    if (s->in_use == (op->kind == SL_OP_ADMIT))
        return SL_FAIL(SL_ERR_COMM, "operation %d on slot %d, which is %s", (int)op->kind, op->slot,
                       s->in_use ? "in use" : "empty");
    switch (op->kind) {
    case SL_OP_ADMIT:
        return admit(slots, s, op);
    case SL_OP_SHARE:
    case SL_OP_COPY:
        return take_kept(slots, s, op, token0);
    case SL_OP_KEEP:
        if (slots->keep_tokens && op->kept < slots->n_kept)
            memcpy(slots->kept + (size_t)op->kept * SL_PAGE_TOKENS, op->token,
                   (size_t)op->n_tokens * sizeof *op->token);
        return SL_OK;
    case SL_OP_RELEASE:
        s->in_use = 0;
        return SL_OK;
    case SL_OP_RESERVE:
    case SL_OP_DROP:
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_COMM, "unknown operation %d on slot %d", (int)op->kind, op->slot);
}

sl_status sl_slots_note(sl_slots *slots, const sl_block_segment *segment, const int32_t *token) {
    sl_slot *s = &slots->slot[segment->slot];
    if (!s->in_use) return SL_FAIL(SL_ERR_COMM, "rows for slot %d, which is empty", segment->slot);
    if (slots->keep_tokens)
        memcpy(s->token + segment->position0, token, (size_t)segment->n_rows * sizeof *token);
    return SL_OK;
}

sl_choice_ask sl_slots_ask(const sl_slots *slots, const sl_block_segment *segment, int row,
                           const int32_t *token) {
    const sl_slot *s = &slots->slot[segment->slot];
    const int is_last = row == segment->n_rows - 1;
    const int step = segment->position0 + row + 1 - s->n_prompt;
    sl_choice_ask ask = {.sampling = &s->sampling,
                         .target = is_last ? segment->next : token[row + 1],
                         .step = step > 0 ? step : 0,
                         .prompt = s->token,
                         .n_prompt = s->n_prompt,
                         .output = s->token + s->n_prompt};
    return ask;
}
