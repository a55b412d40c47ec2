#include "job/request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const prompt_fields[] = {"prompt", "id", "custom_id", NULL};
static const char *const body_fields[] = {"prompt", NULL};

const char *sl_format_name(sl_job_format format) {
    static const char *const names[] = {"auto", "openai", "jsonl", "text"};
    return (unsigned)format < sizeof names / sizeof names[0] ? names[format] : "?";
}

/* ---- the line ---- */

/* Drops a byte order mark and the '\r' of a DOS line end. */
static void trim_line(const char **line, size_t *n_bytes) {
    if (*n_bytes >= 3 && memcmp(*line, "\xef\xbb\xbf", 3) == 0) {
        *line += 3;
        *n_bytes -= 3;
    }
    if (*n_bytes && (*line)[*n_bytes - 1] == '\r') (*n_bytes)--;
}

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f' || c == '\v';
}

int sl_request_is_blank(const char *line, size_t n_bytes) {
    trim_line(&line, &n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        if (!is_space(line[i])) return 0;
    }
    return 1;
}

sl_job_format sl_request_detect(const char *line, size_t n_bytes) {
    trim_line(&line, &n_bytes);
    while (n_bytes && is_space(*line)) line++, n_bytes--;
    if (n_bytes == 0 || *line != '{') return SL_FORMAT_TEXT;

    json_t *root = json_loadb(line, n_bytes, JSON_ALLOW_NUL, NULL);
    if (!root) /* A malformed first line must not turn a batch file into plain text. */
        return memmem(line, n_bytes, "\"body\"", 6) ? SL_FORMAT_OPENAI : SL_FORMAT_JSONL;
    const int is_batch = json_object_get(root, "body") || json_object_get(root, "url") ||
                         json_object_get(root, "method");
    json_decref(root);
    return is_batch ? SL_FORMAT_OPENAI : SL_FORMAT_JSONL;
}

/* ---- ownership ---- */

static sl_status set_string(const char *bytes, size_t n_bytes, sl_string *out) {
    char *copy = malloc(n_bytes + 1);
    if (!copy) return SL_FAIL(SL_ERR_NOMEM, "text of %zu bytes: out of host memory", n_bytes);
    if (n_bytes) memcpy(copy, bytes, n_bytes);
    copy[n_bytes] = '\0';
    free(out->bytes);
    *out = (sl_string){copy, n_bytes};
    return SL_OK;
}

static void free_prompts(sl_request *request) {
    for (int i = 0; i < request->n_prompts; i++) {
        free(request->prompts[i].text.bytes);
        free(request->prompts[i].ids);
    }
    free(request->prompts);
    request->prompts = NULL;
    request->n_prompts = 0;
}

void sl_request_free(sl_request *request) {
    free_prompts(request);
    sl_params_free(&request->params);
    free(request->custom_id.bytes);
    request->custom_id = (sl_string){0};
}

sl_status sl_request_init(uint64_t line_number, const sl_params *defaults, sl_request *out) {
    sl_status st = SL_OK;
    sl_request request = {.line = line_number};
    char name[32];
    const int length = snprintf(name, sizeof name, "line-%" PRIu64, line_number);
    sl_params_init(&request.params);
    SL_GO(set_string(name, (size_t)length, &request.custom_id));
    if (defaults) SL_GO(sl_params_copy(defaults, &request.params));
    *out = request;
    return SL_OK;

fail:
    sl_request_free(&request);
    return st;
}

sl_status sl_request_refused_line(uint64_t line_number, const char *message, sl_request *out) {
    SL_TRY(sl_request_init(line_number, NULL, out));
    sl_request_refuse(&out->error, "", "line %" PRIu64 ": %s", line_number, message);
    return SL_OK;
}

/* ---- prompts ---- */

/* Where prompts are read into; `st` is set where the fault is ours and not the line's. */
typedef struct {
    sl_request *request;
    sl_status st;
} reading;

static int out_of_memory(reading *r, size_t n_bytes) {
    r->st = SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of host memory for %zu bytes",
                    r->request->line, n_bytes);
    return 0;
}

static int refuse_prompt(reading *r, const char *found) {
    return sl_request_refuse(&r->request->error, "prompt",
                             "prompt: found %s, expected a string, a list of strings, "
                             "a list of token ids, or a list of such lists",
                             found);
}

static int make_prompts(reading *r, size_t n) {
    if (n > SL_MAX_PROMPTS)
        return sl_request_refuse(&r->request->error, "prompt",
                                 "prompt: found %zu prompts, expected at most %d", n,
                                 SL_MAX_PROMPTS);
    r->request->prompts = calloc(n, sizeof *r->request->prompts);
    if (!r->request->prompts) return out_of_memory(r, n * sizeof *r->request->prompts);
    r->request->n_prompts = (int)n;
    return 1;
}

static int read_text(reading *r, const json_t *value, sl_prompt *out) {
    r->st = set_string(json_string_value(value), json_string_length(value), &out->text);
    return r->st == SL_OK;
}

static int read_ids(reading *r, const json_t *list, sl_prompt *out) {
    const size_t n = json_array_size(list);
    if (n == 0) return refuse_prompt(r, "an empty list");
    if (n > INT32_MAX) return refuse_prompt(r, "a list too long");
    int32_t *ids = malloc(n * sizeof *ids);
    if (!ids) return out_of_memory(r, n * sizeof *ids);
    out->ids = ids;
    out->n_ids = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_integer(value)) {
            return sl_request_refuse(&r->request->error, "prompt",
                                     "prompt: found %s at place %zu of a list of token ids",
                                     sl_json_kind(value), i);
        }
        const json_int_t id = json_integer_value(value);
        if (id < 0 || id > INT32_MAX) {
            return sl_request_refuse(&r->request->error, "prompt",
                                     "prompt: found token id %" JSON_INTEGER_FORMAT
                                     " at place %zu, expected at least 0",
                                     id, i);
        }
        ids[i] = (int32_t)id;
    }
    return 1;
}

static int read_prompt(reading *r, const json_t *value) {
    if (!value) {
        return sl_request_refuse(&r->request->error, "prompt",
                                 "prompt: not given, expected a string or token ids");
    }
    if (json_is_string(value)) {
        return make_prompts(r, 1) && read_text(r, value, &r->request->prompts[0]);
    }
    if (!json_is_array(value)) return refuse_prompt(r, sl_json_kind(value));
    const json_t *first = json_array_get(value, 0);
    if (!first) return refuse_prompt(r, "an empty list");
    if (json_is_integer(first)) {
        return make_prompts(r, 1) && read_ids(r, value, &r->request->prompts[0]);
    }

    const size_t n = json_array_size(value);
    if (!make_prompts(r, n)) return 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(value, i);
        sl_prompt *prompt = &r->request->prompts[i];
        if (json_is_string(first) && json_is_string(entry)) {
            if (!read_text(r, entry, prompt)) return 0;
        } else if (json_is_array(first) && json_is_array(entry)) {
            if (!read_ids(r, entry, prompt)) return 0;
        } else {
            return sl_request_refuse(&r->request->error, "prompt",
                                     "prompt: found %s at place %zu of a list that begins with %s",
                                     sl_json_kind(entry), i, sl_json_kind(first));
        }
    }
    return 1;
}

sl_status sl_request_read_prompt(const json_t *prompt, sl_request *request) {
    reading r = {.request = request, .st = SL_OK};
    if (!read_prompt(&r, prompt)) free_prompts(request);
    return r.st;
}

sl_status sl_request_take_ids(int32_t *ids, int n, sl_request *request) {
    reading r = {.request = request, .st = SL_OK};
    if (!make_prompts(&r, 1)) return r.st;
    request->prompts[0].ids = ids;
    request->prompts[0].n_ids = n;
    return SL_OK;
}

/* ---- the three forms ---- */

static int read_body(reading *r, const json_t *body, const char *const *fields,
                     sl_unknown_field unknown, void *context) {
    sl_request *request = r->request;
    return sl_params_read(body, fields, unknown, context, &request->params, &request->error) &&
           read_prompt(r, json_object_get(body, "prompt"));
}

/* The line's own name; numbers are common in simple JSONL and are taken as their digits. */
static int read_name(reading *r, const char *field, const json_t *value) {
    if (!value || json_is_null(value)) return 1;
    if (json_is_string(value)) {
        r->st =
            set_string(json_string_value(value), json_string_length(value), &r->request->custom_id);
        return r->st == SL_OK;
    }
    if (json_is_integer(value)) {
        char digits[32];
        const int length =
            snprintf(digits, sizeof digits, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        r->st = set_string(digits, (size_t)length, &r->request->custom_id);
        return r->st == SL_OK;
    }
    return sl_request_refuse(&r->request->error, field, "%s: found %s, expected a string", field,
                             sl_json_kind(value));
}

static int read_url(reading *r, const json_t *root, const json_t *body) {
    const json_t *url = json_object_get(root, "url"), *method = json_object_get(root, "method");
    sl_request_error *error = &r->request->error;
    if (method && !json_is_string(method))
        return sl_request_refuse(error, "method", "method: found %s, expected \"POST\"",
                                 sl_json_kind(method));
    if (method && strcmp(json_string_value(method), "POST") != 0)
        return sl_request_refuse(error, "method", "method: found \"%.40s\", expected \"POST\"",
                                 json_string_value(method));
    if (url && !json_is_string(url))
        return sl_request_refuse(error, "url", "url: found %s, expected \"/v1/completions\"",
                                 sl_json_kind(url));
    const char *path = url ? json_string_value(url) : "/v1/completions";
    if (strcmp(path, "/v1/chat/completions") == 0 || (!url && json_object_get(body, "messages")))
        return sl_request_refuse(error, "url",
                                 "url: /v1/chat/completions is not served by this version, "
                                 "expected \"/v1/completions\"");
    if (strcmp(path, "/v1/completions") != 0)
        return sl_request_refuse(error, "url", "url: found \"%.80s\", expected \"/v1/completions\"",
                                 path);
    return 1;
}

static int read_batch_line(reading *r, const json_t *root, sl_unknown_field unknown,
                           void *context) {
    const json_t *body = json_object_get(root, "body");
    if (!read_name(r, "custom_id", json_object_get(root, "custom_id"))) return 0;
    if (!body) {
        return sl_request_refuse(&r->request->error, "body",
                                 "body: not given, expected an object with a prompt");
    }
    if (!json_is_object(body)) {
        return sl_request_refuse(&r->request->error, "body", "body: found %s, expected an object",
                                 sl_json_kind(body));
    }
    return read_url(r, root, body) && read_body(r, body, body_fields, unknown, context);
}

static int read_json_line(reading *r, const char *line, size_t n_bytes, sl_job_format format,
                          sl_unknown_field unknown, void *context) {
    json_error_t fault;
    json_t *root = json_loadb(line, n_bytes,
                              JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &fault);
    if (!root) {
        return sl_request_refuse(&r->request->error, "", "no valid JSON: %s (byte %d)", fault.text,
                                 fault.position);
    }
    int ok;
    if (!json_is_object(root)) {
        ok = sl_request_refuse(&r->request->error, "", "found %s, expected an object",
                               sl_json_kind(root));
    } else if (format == SL_FORMAT_OPENAI) {
        ok = read_batch_line(r, root, unknown, context);
    } else {
        const json_t *id = json_object_get(root, "custom_id");
        ok = read_name(r, id ? "custom_id" : "id", id ? id : json_object_get(root, "id")) &&
             read_body(r, root, prompt_fields, unknown, context);
    }
    json_decref(root);
    return ok;
}

/* Every refusal says which line it is about, whatever the line calls itself. */
static void name_line(sl_request *request) {
    char message[sizeof request->error.message];
    memcpy(message, request->error.message, sizeof message);
    snprintf(request->error.message, sizeof request->error.message, "line %" PRIu64 ": %.600s",
             request->line, message);
}

sl_status sl_request_parse(const char *line, size_t n_bytes, uint64_t line_number,
                           sl_job_format format, const sl_params *defaults,
                           sl_unknown_field unknown, void *context, sl_request *out) {
    if (format == SL_FORMAT_AUTO)
        return SL_FAIL(SL_ERR_ARG, "line %" PRIu64 ": the format must be known", line_number);
    sl_request request;
    SL_TRY(sl_request_init(line_number, defaults, &request));
    trim_line(&line, &n_bytes);

    reading r = {.request = &request, .st = SL_OK};
    if (format == SL_FORMAT_TEXT) {
        if (make_prompts(&r, 1)) r.st = set_string(line, n_bytes, &request.prompts[0].text);
    } else if (!read_json_line(&r, line, n_bytes, format, unknown, context) && r.st == SL_OK) {
        name_line(&request);
        free_prompts(&request);
    }
    if (r.st != SL_OK) {
        sl_request_free(&request);
        return r.st;
    }
    *out = request;
    return SL_OK;
}
