#include "job/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sl_request_refuse(sl_request_error *error, const char *param, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(error->message, sizeof error->message, fmt, args);
    va_end(args);
    snprintf(error->param, sizeof error->param, "%s", param);
    error->status_code = 400;
    return 0;
}

const char *sl_json_kind(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

/* ---- defaults and ownership ---- */

void sl_params_init(sl_params *params) {
    *params = (sl_params){.max_tokens = 16,
                          .n = 1,
                          .logprobs = -1,
                          .temperature = 1.0,
                          .top_p = 1.0,
                          .repetition_penalty = 1.0,
                          .skip_special_tokens = 1,
                          .add_special_tokens = 1};
}

static void free_stops(sl_params *params) {
    for (int i = 0; i < params->n_stops; i++) free(params->stops[i].bytes);
    params->n_stops = 0;
}

void sl_params_free(sl_params *params) {
    free_stops(params);
    free(params->bias);
    params->bias = NULL;
    params->n_bias = 0;
}

static sl_status copy_bytes(const char *bytes, size_t n_bytes, sl_string *out) {
    char *copy = malloc(n_bytes + 1);
    if (!copy) return SL_FAIL(SL_ERR_NOMEM, "text of %zu bytes: out of host memory", n_bytes);
    if (n_bytes) memcpy(copy, bytes, n_bytes);
    copy[n_bytes] = '\0';
    *out = (sl_string){copy, n_bytes};
    return SL_OK;
}

sl_status sl_params_copy(const sl_params *from, sl_params *out) {
    sl_status st = SL_OK;
    sl_params copy = *from;
    copy.n_stops = 0;
    copy.bias = NULL;
    for (int i = 0; i < from->n_stops; i++) {
        SL_GO(copy_bytes(from->stops[i].bytes, from->stops[i].n_bytes, &copy.stops[i]));
        copy.n_stops++;
    }
    if (from->n_bias > 0) {
        const size_t bytes = (size_t)from->n_bias * sizeof *copy.bias;
        copy.bias = malloc(bytes);
        if (!copy.bias) {
            st = SL_FAIL(SL_ERR_NOMEM, "logit_bias: out of host memory for %zu bytes", bytes);
            goto fail;
        }
        memcpy(copy.bias, from->bias, bytes);
    }
    *out = copy;
    return SL_OK;

fail:
    sl_params_free(&copy);
    return st;
}

/* ---- scalar fields: one table ---- */

typedef enum { FIELD_INT, FIELD_REAL, FIELD_BOOL } field_kind;

typedef struct {
    const char *name;
    field_kind kind;
    size_t offset;        /* in sl_params: int for INT and BOOL, double for REAL */
    double least, most;   /* inclusive */
    const char *expected; /* for messages */
} field;

#define AT(member) offsetof(sl_params, member)
static const field fields[] = {
    {"max_tokens", FIELD_INT, AT(max_tokens), 0, 1e9, "an integer of at least 0"},
    {"min_tokens", FIELD_INT, AT(min_tokens), 0, 1e9, "an integer of at least 0"},
    {"n", FIELD_INT, AT(n), 1, SL_MAX_CHOICES, "an integer from 1 to 1024"},
    {"best_of", FIELD_INT, AT(best_of), 1, SL_MAX_CHOICES, "an integer from 1 to 1024"},
    {"logprobs", FIELD_INT, AT(logprobs), 0, SL_MAX_LOGPROBS, "an integer from 0 to 20"},
    {"top_k", FIELD_INT, AT(top_k), -1, 1e9, "an integer of at least -1"},
    {"temperature", FIELD_REAL, AT(temperature), 0, 100, "a number from 0 to 100"},
    {"top_p", FIELD_REAL, AT(top_p), 1e-9, 1, "a number above 0, at most 1"},
    {"min_p", FIELD_REAL, AT(min_p), 0, 1, "a number from 0 to 1"},
    {"repetition_penalty", FIELD_REAL, AT(repetition_penalty), 1e-6, 1e6, "a number above 0"},
    {"frequency_penalty", FIELD_REAL, AT(frequency_penalty), -2, 2, "a number from -2 to 2"},
    {"presence_penalty", FIELD_REAL, AT(presence_penalty), -2, 2, "a number from -2 to 2"},
    {"echo", FIELD_BOOL, AT(echo), 0, 1, "true or false"},
    {"ignore_eos", FIELD_BOOL, AT(ignore_eos), 0, 1, "true or false"},
    {"skip_special_tokens", FIELD_BOOL, AT(skip_special_tokens), 0, 1, "true or false"},
    {"add_special_tokens", FIELD_BOOL, AT(add_special_tokens), 0, 1, "true or false"},
    {"return_token_ids", FIELD_BOOL, AT(return_token_ids), 0, 1, "true or false"},
    {"include_stop_str_in_output", FIELD_BOOL, AT(include_stop), 0, 1, "true or false"},
};
#undef AT
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static const field *find_field(const char *name) {
    for (int i = 0; i < N_FIELDS; i++) {
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    }
    return NULL;
}

/* Numbers out of range are shown as they are; other values by their kind. */
static int refuse_value(sl_request_error *error, const char *name, const json_t *value,
                        const char *expected) {
    if (json_is_integer(value))
        return sl_request_refuse(error, name, "%s: found %" JSON_INTEGER_FORMAT ", expected %s",
                                 name, json_integer_value(value), expected);
    if (json_is_real(value))
        return sl_request_refuse(error, name, "%s: found %.9g, expected %s", name,
                                 json_real_value(value), expected);
    return sl_request_refuse(error, name, "%s: found %s, expected %s", name, sl_json_kind(value),
                             expected);
}

static int read_scalar(const field *f, const json_t *value, sl_params *params,
                       sl_request_error *error) {
    char *const at = (char *)params + f->offset;
    if (f->kind == FIELD_BOOL) {
        if (!json_is_boolean(value)) return refuse_value(error, f->name, value, f->expected);
        *(int *)at = json_is_true(value);
        return 1;
    }
    if (!json_is_number(value)) return refuse_value(error, f->name, value, f->expected);
    const double number = json_number_value(value);
    const int whole = f->kind == FIELD_REAL || number == floor(number); /* 16.0 counts as 16 */
    if (!whole || number < f->least || number > f->most)
        return refuse_value(error, f->name, value, f->expected);
    if (f->kind == FIELD_INT) {
        *(int *)at = (int)number;
    } else {
        *(double *)at = number;
    }
    return 1;
}

int sl_params_read_flag(const char *name, const json_t *value, int *target,
                        sl_request_error *error) {
    if (!value || json_is_null(value)) return 1;
    if (!json_is_boolean(value)) return refuse_value(error, name, value, "true or false");
    *target = json_is_true(value);
    return 1;
}

int sl_params_read_int(const char *name, const json_t *value, int least, int most, int *target,
                       sl_request_error *error) {
    if (!value || json_is_null(value)) return 1;
    char expected[64];
    snprintf(expected, sizeof expected, "an integer from %d to %d", least, most);
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most)
        return refuse_value(error, name, value, expected);
    *target = (int)json_integer_value(value);
    return 1;
}

/* ---- fields with a shape of their own ---- */

static int read_seed(const json_t *value, sl_params *params, sl_request_error *error) {
    if (!json_is_integer(value)) return refuse_value(error, "seed", value, "an integer");
    params->has_seed = 1;
    params->seed = (uint64_t)json_integer_value(value);
    return 1;
}

static int add_stop(const json_t *value, sl_params *params, sl_request_error *error) {
    if (!json_is_string(value))
        return sl_request_refuse(error, "stop", "stop: found %s, expected a string or strings",
                                 sl_json_kind(value));
    const size_t n_bytes = json_string_length(value);
    if (n_bytes == 0)
        return sl_request_refuse(error, "stop", "stop: found an empty string, expected text");
    if (params->n_stops == SL_MAX_STOPS)
        return sl_request_refuse(error, "stop", "stop: found more than %d strings, expected fewer",
                                 SL_MAX_STOPS);
    if (copy_bytes(json_string_value(value), n_bytes, &params->stops[params->n_stops]) != SL_OK)
        return sl_request_refuse(error, "stop", "stop: out of host memory");
    params->n_stops++;
    return 1;
}

static int read_stop(const json_t *value, sl_params *params, sl_request_error *error) {
    free_stops(params);
    if (!json_is_array(value)) return add_stop(value, params, error);
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!add_stop(json_array_get(value, i), params, error)) return 0;
    }
    return 1;
}

/* A token id: whether it is in the vocabulary is checked when the model is known. */
static int read_id(const char *name, const json_t *value, int32_t *out, sl_request_error *error) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX)
        return refuse_value(error, name, value, "token ids (integers of at least 0)");
    *out = (int32_t)json_integer_value(value);
    return 1;
}

static int read_stop_ids(const json_t *value, sl_params *params, sl_request_error *error) {
    static const char name[] = "stop_token_ids";
    if (!json_is_array(value)) return refuse_value(error, name, value, "a list of token ids");
    if (json_array_size(value) > SL_MAX_STOP_IDS)
        return sl_request_refuse(error, name, "%s: found %zu ids, expected at most %d", name,
                                 json_array_size(value), SL_MAX_STOP_IDS);
    params->n_stop_ids = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!read_id(name, json_array_get(value, i), &params->stop_ids[i], error)) return 0;
        params->n_stop_ids++;
    }
    return 1;
}

static int compare_bias(const void *a, const void *b) {
    const int32_t x = ((const sl_logit_bias *)a)->id, y = ((const sl_logit_bias *)b)->id;
    return (x > y) - (x < y);
}

/* {"50256": -100, ...}: the keys are token ids as text. */
static int read_bias(const json_t *value, sl_params *params, sl_request_error *error) {
    static const char name[] = "logit_bias";
    if (!json_is_object(value))
        return refuse_value(error, name, value, "an object of token id: bias");
    const size_t n = json_object_size(value);
    if (n > SL_MAX_BIASES)
        return sl_request_refuse(error, name, "%s: found %zu entries, expected at most %d", name, n,
                                 SL_MAX_BIASES);
    free(params->bias);
    params->n_bias = 0;
    params->bias = malloc((n ? n : 1) * sizeof *params->bias);
    if (!params->bias) return sl_request_refuse(error, name, "%s: out of host memory", name);

    const char *key;
    json_t *entry;
    json_object_foreach((json_t *)(uintptr_t)value, key, entry) {
        char *end = NULL;
        const long id = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || id > INT32_MAX)
            return sl_request_refuse(error, name, "%s: found key \"%.40s\", expected a token id",
                                     name, key);
        const double bias = json_number_value(entry);
        if (!json_is_number(entry) || bias < -100 || bias > 100)
            return refuse_value(error, name, entry, "biases from -100 to 100");
        params->bias[params->n_bias++] = (sl_logit_bias){(int32_t)id, (float)bias};
    }
    /* jansson's order is that of insertion, but the result must not hang on the writer's. */
    qsort(params->bias, (size_t)params->n_bias, sizeof *params->bias, compare_bias);
    return 1;
}

/* Fields that mean nothing in a batch job, or that this program does not do. */
static int read_other(const char *name, const json_t *value, sl_request_error *error) {
    if (strcmp(name, "stream") == 0) {
        if (!json_is_boolean(value)) return refuse_value(error, name, value, "false");
        if (json_is_true(value))
            return sl_request_refuse(error, name,
                                     "stream: found true, expected false: a job "
                                     "writes whole results");
        return 1;
    }
    if (strcmp(name, "suffix") == 0) {
        if (!json_is_string(value)) return refuse_value(error, name, value, "a string");
        if (json_string_length(value) > 0)
            return sl_request_refuse(error, name, "suffix: filling in is not served");
        return 1;
    }
    if (strcmp(name, "user") == 0 || strcmp(name, "model") == 0) {
        if (!json_is_string(value)) return refuse_value(error, name, value, "a string");
        return 1;
    }
    return -1; /* not one of these */
}

static int is_listed(const char *const *list, const char *name) {
    for (; list && *list; list++) {
        if (strcmp(*list, name) == 0) return 1;
    }
    return 0;
}

/* Fields for a service's own bookkeeping: they ask for nothing, so there is nothing to warn of. */
static int is_harmless(const char *name) {
    static const char *const harmless[] = {"stream_options", "metadata", "service_tier", "store",
                                           NULL};
    return is_listed(harmless, name);
}

static int read_field(const char *name, const json_t *value, sl_unknown_field unknown,
                      void *context, sl_params *params, sl_request_error *error) {
    if (json_is_null(value)) return 1;
    const field *f = find_field(name);
    if (f) return read_scalar(f, value, params, error);
    if (strcmp(name, "seed") == 0) return read_seed(value, params, error);
    if (strcmp(name, "stop") == 0) return read_stop(value, params, error);
    if (strcmp(name, "stop_token_ids") == 0) return read_stop_ids(value, params, error);
    if (strcmp(name, "logit_bias") == 0) return read_bias(value, params, error);
    const int read = read_other(name, value, error);
    if (read >= 0) return read;
    if (unknown && !is_harmless(name)) unknown(context, name);
    return 1;
}

int sl_params_read(const json_t *body, const char *const *other_fields, sl_unknown_field unknown,
                   void *context, sl_params *params, sl_request_error *error) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)body, name, value) {
        if (is_listed(other_fields, name)) continue;
        if (!read_field(name, value, unknown, context, params, error)) return 0;
    }
    /* Some clients send best_of 1, the API's default, whatever n is. */
    if (params->best_of == 1) params->best_of = 0;
    if (params->best_of && params->best_of < params->n)
        return sl_request_refuse(error, "best_of", "best_of: found %d, expected at least n, %d",
                                 params->best_of, params->n);
    /* max_tokens 0 scores the prompt; nothing is generated that could be too short. */
    if (params->min_tokens > params->max_tokens)
        return sl_request_refuse(error, "min_tokens",
                                 "min_tokens: found %d, expected at most max_tokens, %d",
                                 params->min_tokens, params->max_tokens);
    return 1;
}
