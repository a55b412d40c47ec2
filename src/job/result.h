/* result.h - answers: lines of OpenAI's batch output, or the objects in them alone.
 *
 * An answered request is a completion object in a 200 response; a refused one is an error object in
 * a 400 response (FORMATS sections 1 and 2).  The same results give the same bytes, `created`
 * apart: ids come from the job's seed and the line number.
 * Layer: job.  May include: base, model, engine.  Thread safety: pure functions.
 */
#ifndef SL_JOB_RESULT_H
#define SL_JOB_RESULT_H

#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/choice_text.h"
#include "job/json_text.h"
#include "job/request.h"
#include "model/tokenizer.h"

/* What all results of a job share. */
typedef struct {
    const char *model;             /* name in the `model` field */
    const sl_tokenizer *tokenizer; /* NULL: texts are empty, tokens are named token_id:N */
    uint64_t seed;                 /* of the job */
} sl_result_job;

/* The outcome of one prompt of a request. */
typedef struct {
    const sl_engine_result *result;
    sl_choice_text *const *texts; /* [result->n_choices], finished; an entry is NULL where no token
                                   * was generated */
} sl_result_part;

/* The first 64 bits of the id of the result of line `line`: different for every line of a job. */
uint64_t sl_result_key(uint64_t seed, uint64_t line);

/* Appends what answers `request` to *out, in the request's form; a line includes its '\n'.
 *   parts    [request->n_prompts], in prompt order
 *   created  seconds since 1970
 * Choices are numbered prompt * n + choice.  With best_of, the n choices of each prompt with the
 * highest mean log-probability are kept, best first; usage counts all that were generated.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_result_answer(const sl_result_job *job, const sl_request *request,
                           const sl_result_part *parts, int64_t created, sl_json_text *out);

/* Appends what refuses `request` for request->error, in the request's form.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_result_refusal(const sl_result_job *job, const sl_request *request, sl_json_text *out);

/* Appends the API's error object; type and code follow from the HTTP status.  `param`, the field at
 * fault, may be NULL or "". */
void sl_result_error(int status_code, const char *message, const char *param, sl_json_text *out);

#endif
