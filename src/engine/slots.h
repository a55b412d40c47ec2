/* slots.h - what a rank knows of each sequence: its sampling parameters and its tokens.
 *
 * Kept from block headers alone.  Tokens are remembered on the last rank only, which chooses.
 * Layer: engine.  May include: base.  Thread safety: one owner.
 */
#ifndef SL_ENGINE_SLOTS_H
#define SL_ENGINE_SLOTS_H

#include <stdint.h>

#include "base/status.h"
#include "engine/block.h"
#include "engine/sampler.h"

typedef struct {
    int in_use;
    int n_prompt;
    sl_sampling sampling; /* bias points to `bias` */
    sl_logit_bias *bias;
    int bias_capacity;
    int32_t *token; /* [max_context] by position; NULL where not kept */
} sl_slot;

typedef struct {
    int n, max_context, keep_tokens;
    sl_slot *slot;
    int n_kept;
    int32_t *kept; /* [n_kept, SL_PAGE_TOKENS] tokens of kept pages; NULL where not kept */
} sl_slots;

sl_status sl_slots_open(int n, int max_context, int keep_tokens, sl_slots *out);
/* Room for the tokens of kept pages, once their number is known.  Errors: SL_ERR_NOMEM. */
sl_status sl_slots_open_kept(sl_slots *slots, int n_kept);
void sl_slots_close(sl_slots *slots);

/* All operations; those that take kept pages over copy their tokens to `token0` and on, the number
 * of tokens in the slot's pages so far.  Errors: SL_ERR_COMM when the slot's state does not
 * allow it, SL_ERR_NOMEM. */
sl_status sl_slots_apply(sl_slots *slots, const sl_block_op *op, int token0);

/* Remembers a segment's tokens.  Errors: SL_ERR_COMM for a slot not in use. */
sl_status sl_slots_note(sl_slots *slots, const sl_block_segment *segment, const int32_t *token);

/* What is asked of wanted row `row` (0-based in the segment) of a segment. */
sl_choice_ask sl_slots_ask(const sl_slots *slots, const sl_block_segment *segment, int row,
                           const int32_t *token);

#endif
