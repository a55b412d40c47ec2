/* request.h - one line of a job as a request.
 *
 * Three forms (FORMATS section 1): OpenAI batch lines, JSONL of {"prompt": ...}, and plain text
 * with one prompt a line.  A line that is no valid request still gives an sl_request, with `error`
 * filled in, so that every line is answered exactly once.
 * Layer: job.  May include: base, engine.  Thread safety: pure functions; one owner per request.
 */
#ifndef SL_JOB_REQUEST_H
#define SL_JOB_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "job/params.h"

typedef enum { SL_FORMAT_AUTO, SL_FORMAT_OPENAI, SL_FORMAT_JSONL, SL_FORMAT_TEXT } sl_job_format;

const char *sl_format_name(sl_job_format format); /* "auto", "openai", "jsonl", "text" */

enum { SL_MAX_PROMPTS = 1 << 20 }; /* prompts of one line */

/* What answers a request. */
typedef enum {
    SL_ANSWER_LINE,       /* a line of OpenAI's batch output around a completion */
    SL_ANSWER_COMPLETION, /* the completion object alone */
    SL_ANSWER_CHAT        /* a chat completion object alone */
} sl_answer_form;

/* Text or token ids, as it came. */
typedef struct {
    sl_string text; /* text.bytes NULL: the prompt is ids */
    int n_ids;
    int32_t *ids; /* [n_ids], owned; NULL when the prompt is text */
} sl_prompt;

typedef struct {
    uint64_t line;       /* of the input, from 1; elsewhere a number that no other request has */
    sl_string custom_id; /* the line's own, or "line-N" */
    int n_prompts;       /* >= 1 unless error */
    sl_prompt *prompts;  /* [n_prompts], owned */
    sl_params params;
    sl_answer_form form;
    int stream;             /* 1: the answer is sent in pieces; never a line's */
    int include_usage;      /* 1: the last piece counts the tokens */
    sl_request_error error; /* status_code 0: a valid request */
} sl_request;

/* Recognises the form from the job's first line that is not blank.  Never AUTO. */
sl_job_format sl_request_detect(const char *line, size_t n_bytes);

/* Whether a line has nothing but white space (and, on the first line, a byte order mark). */
int sl_request_is_blank(const char *line, size_t n_bytes);

/* Parses a line (without its end; a trailing '\r' is dropped, a byte order mark too).
 *   format    not AUTO
 *   defaults  values of fields that the line does not give
 *   unknown   called for each unknown field; may be NULL
 * A malformed line is SL_OK with out->error set.  The caller owns *out: sl_request_free().
 * Errors: SL_ERR_NOMEM. */
sl_status sl_request_parse(const char *line, size_t n_bytes, uint64_t line_number,
                           sl_job_format format, const sl_params *defaults,
                           sl_unknown_field unknown, void *context, sl_request *out);

/* A request that only says what is wrong with line `line_number`.  Errors: SL_ERR_NOMEM. */
sl_status sl_request_refused_line(uint64_t line_number, const char *message, sl_request *out);

/* A request without prompts and without an error, to be filled in from elsewhere.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_request_init(uint64_t number, const sl_params *defaults, sl_request *out);

/* Reads `prompt`, as in a body, into a request that has none.  A value that is no prompt is SL_OK
 * with request->error set.  Errors: SL_ERR_NOMEM. */
sl_status sl_request_read_prompt(const json_t *prompt, sl_request *request);

/* Makes `ids` ([n], n >= 1, malloc'ed) the only prompt of a request that has none; they are taken
 * over on success.  Errors: SL_ERR_NOMEM. */
sl_status sl_request_take_ids(int32_t *ids, int n, sl_request *request);

void sl_request_free(sl_request *request);

#endif
