/* result_parts.h - pieces that whole answers and streamed ones have in common.
 *
 * Private to result.c, result_chat.c and chunk.c.
 * Layer: job.  May include: base, model, engine.  Thread safety: pure functions.
 */
#ifndef SL_JOB_RESULT_PARTS_H
#define SL_JOB_RESULT_PARTS_H

#include <stdint.h>

#include "job/result.h"

enum { SL_TOKEN_NAME_BYTES = 320 }; /* of a token's name in log-probabilities */

typedef enum { SL_ID_BATCH, SL_ID_REQUEST, SL_ID_COMPLETION, SL_ID_CHAT } sl_result_id_kind;

/* "cmpl-" (or what goes with the kind) and 24 hexadecimal digits that hang on seed, line and kind
 * alone, in quotes. */
void sl_result_id(const sl_result_job *job, uint64_t line, sl_result_id_kind kind,
                  sl_json_text *out);

/* {"token": log-probability, ...}: at most `most` alternatives, highest first, and always the token
 * itself.  Two ids may have the same name; the higher one keeps it. */
void sl_result_top(const sl_result_job *job, const sl_choice *choice, int most, sl_json_text *out);

/* {"token": name, "logprob": number, "bytes": [...], "top_logprobs": [...]}: an entry of a chat
 * answer's log-probabilities. */
void sl_result_chat_token(const sl_result_job *job, const sl_choice *choice, int most,
                          sl_json_text *out);

/* "stop" or "length"; `text` may be NULL. */
const char *sl_result_finish(const sl_engine_choice *choice, const sl_choice_text *text);

/* "usage": {...} */
void sl_result_usage(const sl_request *request, const sl_result_part *parts, sl_json_text *out);

/* A chat completion object for the only prompt of `request`. */
void sl_result_chat(const sl_result_job *job, const sl_request *request, const sl_result_part *part,
                    int64_t created, sl_json_text *out);

#endif
