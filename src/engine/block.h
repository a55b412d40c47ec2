/* block.h - what travels with a block: the header down the pipeline, the results back.
 *
 * The first rank writes a header for every block; each rank reads it, applies the operations on
 * sequences in order, builds its rows from it, and passes the same bytes on.  The last rank answers
 * with one result message per block.  A failure travels in the status of either.
 * Layer: engine.  May include: base, model, store.  Thread safety: one owner.
 */
#ifndef SL_ENGINE_BLOCK_H
#define SL_ENGINE_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"
#include "engine/sampler.h"

enum { SL_BLOCK_MESSAGE_BYTES = 1024 };

typedef enum { SL_BLOCK_WORK, SL_BLOCK_STOP } sl_block_kind;

typedef enum {
    SL_OP_ADMIT,   /* slot: an empty sequence with these sampling parameters */
    SL_OP_SHARE,   /* slot: its next page is kept page `kept` */
    SL_OP_COPY,    /* slot: its next page begins with the first n_tokens of kept page `kept` */
    SL_OP_RESERVE, /* slot: takes pages for n_tokens tokens at once */
    SL_OP_KEEP,    /* slot: its page `page` is kept as number `kept`; it will hold `token` */
    SL_OP_DROP,    /* kept page `kept` is given up */
    SL_OP_RELEASE, /* slot: the sequence is over, its pages are free but for kept and shared ones */
} sl_op_kind;

/* An operation on a sequence slot, applied before the block's rows. */
typedef struct {
    sl_op_kind kind;
    int slot; /* all but DROP */
    int kept, page;
    int n_tokens;
    const int32_t *token; /* KEEP: [n_tokens] the prompt's; borrowed */
    int n_prompt;         /* ADMIT: prompt length; generated tokens follow it */
    sl_sampling sampling; /* ADMIT */
} sl_block_op;

/* A run of consecutive tokens of one sequence in a micro-batch. */
typedef struct {
    int slot;
    int position0;
    int n_rows;
    int score;     /* 1: every row is wanted; row i is scored against the token after it */
    int want_last; /* 1: the last row is wanted: scored against `next` if >= 0, else sampled */
    int32_t next;  /* token after the last row, -1 when it is to be chosen */
    int token0;    /* index of its first token in block.token */
} sl_block_segment;

typedef struct {
    int segment0, n_segments; /* in block.segment */
    int n_rows;
} sl_block_micro_batch;

typedef struct {
    sl_block_kind kind;
    uint64_t number;
    sl_status status; /* of the ranks before; SL_OK unless one failed */
    char message[SL_BLOCK_MESSAGE_BYTES];
    int n_ops, n_micro_batches, n_segments, n_tokens;
    sl_block_op *op;
    sl_block_micro_batch *micro_batch;
    sl_block_segment *segment;
    int32_t *token; /* [n_tokens] */
    int op_capacity, micro_batch_capacity, segment_capacity, token_capacity;
    /* Storage of the ops' biases and tokens after reading. */
    sl_logit_bias *bias;
    int32_t *op_token;
    int bias_capacity, op_token_capacity;
} sl_block;

/* A zeroed sl_block is empty and valid.  Arrays grow and are kept between blocks. */
void sl_block_free(sl_block *block);
void sl_block_reset(sl_block *block, sl_block_kind kind, uint64_t number);

/* Append; SL_ERR_NOMEM.  The segment goes to the last micro-batch; *token_out gives room for its
 * n_rows tokens. */
sl_status sl_block_add_op(sl_block *block, const sl_block_op *op);
sl_status sl_block_add_micro_batch(sl_block *block);
sl_status sl_block_add_segment(sl_block *block, const sl_block_segment *segment,
                               int32_t **token_out);

/* Rows that are wanted in a segment, and in the whole block. */
static inline int sl_block_segment_wanted(const sl_block_segment *s) {
    return s->score ? s->n_rows - (s->want_last ? 0 : 1) : (s->want_last ? 1 : 0);
}
int sl_block_n_wanted(const sl_block *block);

sl_status sl_block_write(const sl_block *block, sl_buffer *out);
/* Bounds of a header that a rank accepts. */
typedef struct {
    int n_slots, max_micro_batches, max_rows, vocab, max_context, n_kept;
} sl_block_limits;
/* Errors: SL_ERR_COMM naming the field, its value and its bounds. */
sl_status sl_block_read(const void *data, size_t bytes, const sl_block_limits *limits,
                        sl_block *block);

/* The last rank's answer: choices of all wanted rows in block order. */
typedef struct {
    uint64_t number;
    sl_status status;
    char message[SL_BLOCK_MESSAGE_BYTES];
    int n_choices, capacity;
    sl_choice *choice;
} sl_block_result;

void sl_block_result_free(sl_block_result *result);
sl_status sl_block_result_reserve(sl_block_result *result, int n_choices);
sl_status sl_block_result_write(const sl_block_result *result, sl_buffer *out);
sl_status sl_block_result_read(const void *data, size_t bytes, sl_block_result *result);

#endif
