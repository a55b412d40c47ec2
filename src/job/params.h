/* params.h - the generation parameters of a request: their defaults, and reading them from JSON.
 *
 * The fields are those of the completions API and its widely used extensions (FORMATS section 2).
 * A wrong type or a value out of range is an error that names the field, what was found and what
 * was expected; a null counts as "not given". Layer: job.  May include: base, engine.  Thread
 * safety: plain data, one owner.
 */
#ifndef SL_JOB_PARAMS_H
#define SL_JOB_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/status.h"
#include "engine/sampler.h"

enum {
    SL_MAX_STOPS = 16,     /* stop strings of a request */
    SL_MAX_CHOICES = 1024, /* n and best_of */
    SL_MAX_BIASES = 1024,  /* entries of logit_bias */
};

/* Why a request cannot be answered, in the words of the completions API. */
typedef struct {
    int status_code; /* 400, from a server others too; 0: no error */
    char param[64];  /* field at fault; "": none */
    char message[640];
} sl_request_error;

/* Bytes that may hold zeros. */
typedef struct {
    char *bytes; /* owned, zero-terminated */
    size_t n_bytes;
} sl_string;

typedef struct {
    int max_tokens; /* >= 0 */
    int min_tokens; /* >= 0 */
    int n;          /* >= 1 */
    int best_of;    /* 0: not given; else >= n */
    int logprobs;   /* -1: none; else 0 .. SL_MAX_LOGPROBS */
    int echo;
    double temperature, top_p, min_p;
    int top_k; /* 0 or -1: off */
    double repetition_penalty, frequency_penalty, presence_penalty;
    int has_seed;
    uint64_t seed;
    int ignore_eos;
    int skip_special_tokens;
    int add_special_tokens;
    int return_token_ids;
    int include_stop; /* include_stop_str_in_output */
    int n_stops;
    sl_string stops[SL_MAX_STOPS]; /* none is empty */
    int n_stop_ids;
    int32_t stop_ids[SL_MAX_STOP_IDS];
    int n_bias;
    sl_logit_bias *bias; /* [n_bias], owned */
} sl_params;

/* The API's defaults: 16 tokens, temperature 1, one choice. */
void sl_params_init(sl_params *params);

/* Releases what `params` owns. */
void sl_params_free(sl_params *params);

/* Copies `from`, the owned parts included.  Errors: SL_ERR_NOMEM (then *out owns nothing). */
sl_status sl_params_copy(const sl_params *from, sl_params *out);

/* Called once for each field that is not known.  `field` is valid during the call. */
typedef void (*sl_unknown_field)(void *context, const char *field);

/* Reads the parameters of the object `body` over the values that *params has.  `other_fields` is a
 * NULL-terminated list of fields that the caller reads itself.  `unknown` may be NULL.
 * Returns 1, or 0 with *error filled in; *params is then still to be freed, and of no other use. */
int sl_params_read(const json_t *body, const char *const *other_fields, sl_unknown_field unknown,
                   void *context, sl_params *params, sl_request_error *error);

/* Fills in *error and returns 0, so that a check can end with it.  `param` may be "". */
int sl_request_refuse(sl_request_error *error, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Sets *target if `value` is true or false, and refuses what is neither; null and NULL leave it. */
int sl_params_read_flag(const char *name, const json_t *value, int *target,
                        sl_request_error *error);

/* The same for an integer from `least` to `most`. */
int sl_params_read_int(const char *name, const json_t *value, int least, int most, int *target,
                       sl_request_error *error);

/* "a string", "an integer", "null", ... : what a JSON value is, for messages. */
const char *sl_json_kind(const json_t *value);

#endif
