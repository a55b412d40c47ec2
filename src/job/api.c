#include "job/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/api_chat.h"
#include "job/result.h"

enum {
    NO_MAX_TOKENS = 1000000000, /* a chat that does not say: what the context leaves */
    MAX_SEQUENCES = 16384       /* of a request: a small body must not ask for all of the memory */
};

static const char *const completion_fields[] = {"prompt", "model", "stream", "stream_options",
                                                NULL};

/* ---- the tokenizer's part ---- */

static void set_token(const sl_tokenizer *tokenizer, int32_t id, char *out, size_t out_bytes) {
    out[0] = '\0';
    if (id < 0) return;
    sl_tokenizer_display(tokenizer, id, out, out_bytes);
    if (sl_tokenizer_find(tokenizer, out) != id) out[0] = '\0';
}

void sl_api_init(const sl_tokenizer *tokenizer, sl_api *out) {
    *out = (sl_api){.tokenizer = tokenizer};
    sl_params_init(&out->defaults);
    if (!tokenizer) {
        snprintf(out->chat_refusal, sizeof out->chat_refusal, "the model has no tokenizer");
        return;
    }
    set_token(tokenizer, sl_tokenizer_bos_id(tokenizer), out->bos, sizeof out->bos);
    set_token(tokenizer, sl_tokenizer_eos_id(tokenizer), out->eos, sizeof out->eos);
    out->has_chat = sl_chat_recognise(sl_tokenizer_chat_template(tokenizer), &out->chat) == SL_OK;
    if (out->has_chat) return;
    snprintf(out->chat_refusal, sizeof out->chat_refusal, "%s", sl_error_message());
    char *place = strrchr(out->chat_refusal, '('); /* the source file says nothing to clients */
    if (place && place > out->chat_refusal && strstr(place, ".c:")) place[-1] = '\0';
}

/* ---- completions and chats ---- */

static int check_model(const sl_api *api, const json_t *body, sl_request_error *error) {
    const json_t *model = json_object_get(body, "model");
    if (!model || json_is_null(model)) return 1;
    if (!json_is_string(model))
        return sl_request_refuse(error, "model", "model: found %s, expected a string",
                                 sl_json_kind(model));
    const char *name = json_string_value(model);
    if (strcmp(name, api->model_name) == 0 || strcmp(name, api->model_path) == 0) return 1;
    sl_request_refuse(error, "model", "model: found \"%.120s\", expected \"%.120s\"", name,
                      api->model_name);
    error->status_code = 404;
    return 0;
}

static int read_stream(const json_t *body, sl_request *r) {
    const json_t *options = json_object_get(body, "stream_options");
    if (!sl_params_read_flag("stream", json_object_get(body, "stream"), &r->stream, &r->error))
        return 0;
    if (options && !json_is_null(options) && !json_is_object(options))
        return sl_request_refuse(&r->error, "stream_options",
                                 "stream_options: found %s, expected an object",
                                 sl_json_kind(options));
    if (!sl_params_read_flag("include_usage", json_object_get(options, "include_usage"),
                             &r->include_usage, &r->error))
        return 0;
    if (r->stream && r->params.best_of > r->params.n)
        return sl_request_refuse(&r->error, "best_of",
                                 "best_of: the best is known at the end, expected no stream");
    if (r->stream && r->params.echo && r->params.logprobs >= 0)
        return sl_request_refuse(&r->error, "echo",
                                 "echo: with log-probabilities it is served without stream only");
    return 1;
}

static void check_sequences(sl_request *r) {
    const int each = r->params.best_of > r->params.n ? r->params.best_of : r->params.n;
    if (r->error.status_code || (int64_t)r->n_prompts * each <= MAX_SEQUENCES) return;
    sl_request_refuse(&r->error, "prompt",
                      "prompt: found %d with %d choices each, expected at most "
                      "%d in all",
                      r->n_prompts, each, MAX_SEQUENCES);
}

static sl_status read_completion(const sl_api *api, const json_t *body, sl_request *r) {
    if (!check_model(api, body, &r->error) ||
        !sl_params_read(body, completion_fields, NULL, NULL, &r->params, &r->error) ||
        !read_stream(body, r))
        return SL_OK;
    SL_TRY(sl_request_read_prompt(json_object_get(body, "prompt"), r));
    check_sequences(r);
    return SL_OK;
}

/* The longest answer that a chat may get when it does not say how long. */
static void fit_max_tokens(const sl_api *api, size_t n_ids, sl_params *params) {
    const size_t room = (size_t)api->max_context;
    if (params->max_tokens == NO_MAX_TOKENS)
        params->max_tokens = n_ids < room ? (int)(room - n_ids) : 1;
}

static sl_status read_chat(const sl_api *api, const json_t *body, sl_request *r) {
    int32_t *ids = NULL;
    size_t n = 0;
    r->params.max_tokens = NO_MAX_TOKENS;
    if (!check_model(api, body, &r->error) ||
        !sl_params_read(body, sl_api_chat_fields, NULL, NULL, &r->params, &r->error) ||
        !sl_api_chat_params(body, &r->params, &r->error) || !read_stream(body, r))
        return SL_OK;
    SL_TRY(sl_api_chat_ids(api, body, &ids, &n, &r->error));
    if (r->error.status_code) return SL_OK;
    if (n == 0 || n > INT32_MAX) {
        sl_request_refuse(&r->error, "messages", "messages: found %zu tokens", n);
        free(ids);
        return SL_OK;
    }
    fit_max_tokens(api, n, &r->params);
    const sl_status st = sl_request_take_ids(ids, (int)n, r);
    if (st != SL_OK) free(ids);
    return st;
}

/* The body as an object, or NULL with *error filled in. */
static json_t *load(const char *body, size_t n_bytes, sl_request_error *error) {
    json_error_t fault;
    json_t *root = json_loadb(body, n_bytes,
                              JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &fault);
    if (!root) {
        sl_request_refuse(error, "", "the body is no valid JSON: %s (byte %d)", fault.text,
                          fault.position);
    } else if (!json_is_object(root)) {
        sl_request_refuse(error, "", "the body: found %s, expected an object", sl_json_kind(root));
        json_decref(root);
        root = NULL;
    }
    return root;
}

sl_status sl_api_read(const sl_api *api, sl_answer_form form, const char *body, size_t n_bytes,
                      uint64_t number, sl_request *out) {
    sl_request request;
    SL_TRY(sl_request_init(number, &api->defaults, &request));
    request.form = form;
    sl_status st = SL_OK;
    json_t *root = load(body, n_bytes, &request.error);
    if (root) {
        st = form == SL_ANSWER_CHAT ? read_chat(api, root, &request)
                                    : read_completion(api, root, &request);
        json_decref(root);
    }
    if (st != SL_OK) {
        sl_request_free(&request);
        return st;
    }
    *out = request;
    return SL_OK;
}

/* ---- tokens ---- */

static int require_tokenizer(const sl_api *api, sl_request_error *error) {
    return api->tokenizer || sl_request_refuse(error, "", "the model has no tokenizer");
}

static sl_status find_ids(const sl_api *api, const json_t *body, int32_t **ids_out, size_t *n_out,
                          sl_request_error *error) {
    const json_t *prompt = json_object_get(body, "prompt");
    int add_special = 1;
    if (!require_tokenizer(api, error)) return SL_OK;
    if (!prompt && json_object_get(body, "messages"))
        return sl_api_chat_ids(api, body, ids_out, n_out, error);
    if (!json_is_string(prompt)) {
        sl_request_refuse(error, "prompt", "prompt: found %s, expected a string",
                          prompt ? sl_json_kind(prompt) : "nothing");
        return SL_OK;
    }
    if (!sl_params_read_flag("add_special_tokens", json_object_get(body, "add_special_tokens"),
                             &add_special, error))
        return SL_OK;
    return sl_tokenizer_encode(api->tokenizer, json_string_value(prompt),
                               json_string_length(prompt), add_special, ids_out, n_out);
}

/* Ends an answer that may have become an error. */
static sl_status finish(const sl_request_error *error, sl_status st, int *status_out,
                        sl_json_text *out) {
    if (st != SL_OK) return st;
    *status_out = error->status_code ? error->status_code : 200;
    if (error->status_code) sl_result_error(error->status_code, error->message, error->param, out);
    return sl_json_status(out);
}

sl_status sl_api_tokenize(const sl_api *api, const char *body, size_t n_bytes, int *status_out,
                          sl_json_text *out) {
    sl_request_error error = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    sl_status st = SL_OK;
    json_t *root = load(body, n_bytes, &error);
    if (root) st = find_ids(api, root, &ids, &n, &error);
    if (st == SL_OK && !error.status_code) {
        sl_json_raw(out, "{\"count\": ");
        sl_json_int(out, (int64_t)n);
        sl_json_raw(out, ", \"max_model_len\": ");
        sl_json_int(out, api->max_context);
        sl_json_raw(out, ", \"tokens\": [");
        for (size_t i = 0; i < n; i++) {
            if (i) sl_json_raw(out, ", ");
            sl_json_int(out, ids[i]);
        }
        sl_json_raw(out, "]}");
    }
    json_decref(root);
    free(ids);
    return finish(&error, st, status_out, out);
}

static int read_tokens(const json_t *list, int32_t *ids, sl_request_error *error) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > INT32_MAX)
            return sl_request_refuse(error, "tokens",
                                     "tokens: found %s at place %zu, expected token ids",
                                     sl_json_kind(value), i);
        ids[i] = (int32_t)id;
    }
    return 1;
}

static sl_status decode(const sl_api *api, const json_t *body, sl_json_text *out,
                        sl_request_error *error) {
    const json_t *list = json_object_get(body, "tokens");
    const size_t n = json_array_size(list);
    char *text = NULL;
    size_t n_bytes = 0;
    if (!require_tokenizer(api, error)) return SL_OK;
    if (!json_is_array(list)) {
        sl_request_refuse(error, "tokens", "tokens: found %s, expected a list of token ids",
                          list ? sl_json_kind(list) : "nothing");
        return SL_OK;
    }
    int32_t *ids = calloc(n ? n : 1, sizeof *ids);
    if (!ids) return SL_FAIL(SL_ERR_NOMEM, "%zu tokens: out of host memory", n);
    sl_status st = SL_OK;
    if (read_tokens(list, ids, error)) {
        st = sl_tokenizer_decode(api->tokenizer, ids, n, 0, &text, &n_bytes);
        if (st == SL_OK) {
            sl_json_raw(out, "{\"prompt\": ");
            sl_json_string(out, text, n_bytes);
            sl_json_raw(out, "}");
        }
    }
    free(text);
    free(ids);
    return st;
}

sl_status sl_api_detokenize(const sl_api *api, const char *body, size_t n_bytes, int *status_out,
                            sl_json_text *out) {
    sl_request_error error = {0};
    json_t *root = load(body, n_bytes, &error);
    const sl_status st = root ? decode(api, root, out, &error) : SL_OK;
    json_decref(root);
    return finish(&error, st, status_out, out);
}

void sl_api_models(const sl_api *api, sl_json_text *out) {
    sl_json_raw(out, "{\"object\": \"list\", \"data\": [{\"id\": ");
    sl_json_cstring(out, api->model_name);
    sl_json_raw(out, ", \"object\": \"model\", \"created\": ");
    sl_json_int(out, api->created);
    sl_json_raw(out, ", \"owned_by\": \"sluice\", \"max_model_len\": ");
    sl_json_int(out, api->max_context);
    sl_json_raw(out, "}]}");
}
