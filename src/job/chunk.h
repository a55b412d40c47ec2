/* chunk.h - the pieces of a streamed answer, as server-sent events.
 *
 * Each is "data: " with a JSON object, and an empty line; the last says [DONE].  The objects are
 * those of the completions and chat APIs with only what is new in them.
 * Layer: job.  May include: base, model, engine.  Thread safety: pure functions.
 */
#ifndef SL_JOB_CHUNK_H
#define SL_JOB_CHUNK_H

#include <stddef.h>
#include <stdint.h>

#include "job/result.h"

/* What all pieces of an answer share. */
typedef struct {
    const sl_result_job *job;
    const sl_request *request;
    int64_t created; /* seconds since 1970 */
} sl_chunk_answer;

/* Says who speaks: the first piece of a choice of a chat. */
void sl_chunk_role(const sl_chunk_answer *a, int64_t index, sl_json_text *out);

/* Text of choice `index`, and the log-probabilities of `token` if there is one.
 *   offset  where the token's text begins in the choice's, characters */
void sl_chunk_text(const sl_chunk_answer *a, int64_t index, const char *text, size_t n_bytes,
                   const sl_choice *token, int64_t offset, sl_json_text *out);

/* The choice is over: "stop" or "length". */
void sl_chunk_finish(const sl_chunk_answer *a, int64_t index, const char *reason,
                     sl_json_text *out);

/* Counts the tokens; no choices.  parts: [request->n_prompts]. */
void sl_chunk_usage(const sl_chunk_answer *a, const sl_result_part *parts, sl_json_text *out);

/* The stream ends here for a reason of the server's. */
void sl_chunk_error(int status_code, const char *message, sl_json_text *out);

/* data: [DONE] */
void sl_chunk_done(sl_json_text *out);

#endif
