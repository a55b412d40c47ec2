/* stream.h - writes an item's answer in pieces, as its tokens arrive.
 *
 * The pieces gather in item->line, from which the driver takes them.  A choice's text is held back
 * as long as it may be the beginning of a stop string.
 * Layer: job.  May include: base, model, engine.  Thread safety: one thread.
 */
#ifndef SL_JOB_STREAM_H
#define SL_JOB_STREAM_H

#include "job/item.h"

/* A token of a choice is in its text.  Errors: SL_ERR_NOMEM. */
sl_status sl_stream_token(sl_item_part *part, int choice, const sl_choice *token);

/* All choices are over, their texts finished: the rest, how each ended, what it took.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_stream_end(sl_item *item, const sl_result_part *parts);

#endif
