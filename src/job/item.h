/* item.h - one request under way: its prompts in the engine, its texts as they grow, its result.
 *
 * Internal to the drivers: of a job (job.c), which keeps the items in the order of the lines, and
 * of a service (service.c).
 * Layer: job.  May include: base, model, engine.  Thread safety: one thread.
 */
#ifndef SL_JOB_ITEM_H
#define SL_JOB_ITEM_H

#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/choice_text.h"
#include "job/json_text.h"
#include "job/request.h"
#include "job/result.h"
#include "model/config.h"

enum { SL_ITEM_CONTEXT_TOKENS = 16 }; /* of a prompt's end, kept for the decoder of its choices */

/* What all items of a job share; pointers are borrowed. */
typedef struct {
    sl_engine *engine;
    const sl_model_config *config;
    sl_result_job result; /* tokenizer and seed are used for the prompts too */
    uint64_t n_prompt_tokens, n_generated_tokens;
    sl_status token_st; /* first failure inside the token callback, and its message */
    char token_message[1024];
} sl_item_shared;

typedef struct sl_item sl_item;

/* One prompt of a line: the `user` of an engine request. */
typedef struct {
    sl_item *item;
    uint64_t id;                    /* in the engine */
    int is_open;                    /* the engine has it */
    const sl_engine_result *result; /* NULL until the engine gave it; released with the item */
    int n_texts;
    sl_choice_text **texts; /* [n_texts], opened with the first token */
    size_t *sent_bytes;     /* [n_texts] of the texts that are in the stream, plus 1 once begun */
    int n_context;
    int32_t context[SL_ITEM_CONTEXT_TOKENS];
} sl_item_part;

struct sl_item {
    sl_item_shared *shared;
    sl_item *before, *after; /* the driver's list */
    sl_request request;
    sl_item_part *parts; /* [request.n_prompts], NULL before submit */
    int n_open;          /* parts that the engine has */
    int n_end_ids;
    int32_t end_ids[SL_MAX_STOP_IDS];
    int64_t created;   /* seconds since 1970 */
    sl_json_text line; /* the result, when ready; of a stream the pieces that are not taken yet */
    int ready;
    int dropped; /* the engine was stopped before it was done: no result */
    void *owner; /* the driver's own */
};

/* Takes over `request`.  Errors: SL_ERR_NOMEM (the request is then still the caller's). */
sl_status sl_item_open(sl_item_shared *shared, sl_request *request, sl_item **out);

/* Releases the item, and in the engine the results it has taken. */
void sl_item_close(sl_item *item);

/* Hands all prompts to the engine; a prompt that can never run makes the line an error.  Prompts
 * submitted before that one still come back.  Errors: SL_ERR_NOMEM, what the engine reports. */
sl_status sl_item_submit(sl_item *item);

/* Takes in the next token of a choice: the engine's callback, 1 to end the choice.  A failure is
 * kept in the shared part. */
int sl_item_on_token(sl_item_part *part, int choice, const sl_choice *token);

/* Takes in a finished prompt; the last of an item makes n_open 0. */
void sl_item_take(sl_item_part *part, const sl_engine_result *result);

/* Ends what the engine still has of the item; its prompts come back soon.  Not from the engine's
 * callback. */
void sl_item_cancel(sl_item *item);

/* Builds the result, or the rest of the stream, of an item of which nothing is open: ready becomes
 * 1.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_item_finish(sl_item *item);

#endif
