#include "job/api_chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *const sl_api_chat_fields[] = {"messages",
                                          "logprobs",
                                          "top_logprobs",
                                          "max_completion_tokens",
                                          "chat_template_kwargs",
                                          "chat_template",
                                          "add_generation_prompt",
                                          "continue_final_message",
                                          "tools",
                                          "tool_choice",
                                          "functions",
                                          "parallel_tool_calls",
                                          "response_format",
                                          "model",
                                          "stream",
                                          "stream_options",
                                          NULL};

/* ---- messages ---- */

/* A message's content: a string, or a list of {"type": "text", "text": ...}, which are joined. */
static int read_content(const json_t *value, size_t place, sl_json_text *out,
                        sl_request_error *error) {
    if (json_is_string(value)) {
        sl_json_bytes(out, json_string_value(value), json_string_length(value));
        return 1;
    }
    if (!json_is_array(value))
        return sl_request_refuse(error, "messages",
                                 "messages: found %s as content at place %zu, expected a string",
                                 value ? sl_json_kind(value) : "nothing", place);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *part = json_array_get(value, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            return sl_request_refuse(error, "messages",
                                     "messages: found content of type \"%.40s\" at place %zu, "
                                     "expected \"text\"",
                                     type ? type : "", place);
        sl_json_bytes(out, json_string_value(text), json_string_length(text));
    }
    return 1;
}

/* Where a message lies in the text of all contents. */
typedef struct {
    size_t from, n_bytes;
} span;

/* Reads all messages; their contents lie one after the other in *contents. */
static int read_messages(const json_t *list, sl_chat_message *messages, span *spans,
                         sl_json_text *contents, sl_request_error *error) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i), *role = json_object_get(m, "role");
        const json_t *calls = json_object_get(m, "tool_calls");
        if (!json_is_string(role))
            return sl_request_refuse(error, "messages",
                                     "messages: found %s at place %zu, expected an object with a "
                                     "role",
                                     sl_json_kind(m), i);
        if (calls && !json_is_null(calls))
            return sl_request_refuse(error, "messages", "messages: tool calls are not served");
        messages[i].role = json_string_value(role);
        spans[i].from = contents->n_bytes;
        if (!read_content(json_object_get(m, "content"), i, contents, error)) return 0;
        spans[i].n_bytes = contents->n_bytes - spans[i].from;
    }
    sl_json_bytes(contents, "", 0);
    for (size_t i = 0; contents->data && i < json_array_size(list); i++) {
        messages[i].content = contents->data + spans[i].from;
        messages[i].content_bytes = spans[i].n_bytes;
    }
    return 1;
}

static void make_setting(const sl_api *api, const json_t *body, char date[32],
                         sl_chat_setting *out) {
    const json_t *kwargs = json_object_get(body, "chat_template_kwargs");
    const time_t now = time(NULL);
    struct tm tm = {0};
    localtime_r(&now, &tm);
    strftime(date, 32, "%d %b %Y", &tm);
    *out =
        (sl_chat_setting){.bos = api->bos,
                          .eos = api->eos,
                          .date = date,
                          .no_thinking = json_is_false(json_object_get(kwargs, "enable_thinking"))};
}

static int render(const sl_api *api, const json_t *body, sl_json_text *out,
                  sl_request_error *error) {
    enum { MAX_MESSAGES = 65536 };
    const json_t *list = json_object_get(body, "messages");
    const size_t n = json_array_size(list);
    char date[32];
    sl_chat_setting setting;
    sl_json_text contents = {0};
    if (n == 0 || n > MAX_MESSAGES)
        return sl_request_refuse(error, "messages",
                                 "messages: found %s, expected a list of 1 to %d messages",
                                 list ? sl_json_kind(list) : "nothing", MAX_MESSAGES);
    sl_chat_message *messages = calloc(n, sizeof *messages);
    span *spans = calloc(n, sizeof *spans);
    make_setting(api, body, date, &setting);
    int ok = 0;
    if (!messages || !spans) {
        out->failed = 1;
    } else if (read_messages(list, messages, spans, &contents, error)) {
        if (contents.failed)
            out->failed = 1;
        else
            ok = sl_chat_render(&api->chat, messages, (int)n, &setting, out, error);
    }
    sl_json_free(&contents);
    free(spans);
    free(messages);
    return ok;
}

sl_status sl_api_chat_ids(const sl_api *api, const json_t *body, int32_t **ids_out, size_t *n_out,
                          sl_request_error *error) {
    sl_json_text text = {0};
    sl_status st = SL_OK;
    if (!api->has_chat || !api->tokenizer) {
        sl_request_refuse(error, "messages", "no chats: %s", api->chat_refusal);
        return SL_OK;
    }
    /* The template writes the special tokens itself. */
    const int ok = render(api, body, &text, error);
    st = sl_json_status(&text);
    if (ok && st == SL_OK)
        st = sl_tokenizer_encode(api->tokenizer, text.data, text.n_bytes, 0, ids_out, n_out);
    sl_json_free(&text);
    return st;
}

/* ---- parameters ---- */

/* Fields that change what an answer means, and that this program does not do. */
static int refuse_unserved(const json_t *body, sl_request_error *error) {
    static const char *const names[] = {"tools", "functions", NULL};
    for (int i = 0; names[i]; i++) {
        const json_t *value = json_object_get(body, names[i]);
        if (value && !json_is_null(value) && json_array_size(value) > 0)
            return sl_request_refuse(error, names[i], "%s: tools are not served", names[i]);
    }
    const json_t *choice = json_object_get(body, "chat_template");
    if (choice && !json_is_null(choice))
        return sl_request_refuse(error, "chat_template",
                                 "chat_template: only the model's own is served");
    const json_t *format = json_object_get(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && !json_is_null(format) && (!type || strcmp(type, "text") != 0))
        return sl_request_refuse(error, "response_format",
                                 "response_format: found \"%.40s\", expected \"text\"",
                                 type ? type : sl_json_kind(format));
    int adds = 1, continues = 0;
    if (!sl_params_read_flag("add_generation_prompt",
                             json_object_get(body, "add_generation_prompt"), &adds, error) ||
        !sl_params_read_flag("continue_final_message",
                             json_object_get(body, "continue_final_message"), &continues, error))
        return 0;
    if (!adds || continues)
        return sl_request_refuse(error, adds ? "continue_final_message" : "add_generation_prompt",
                                 "answers to a conversation are served, not the rest of a message");
    return 1;
}

int sl_api_chat_params(const json_t *body, sl_params *params, sl_request_error *error) {
    int wanted = 0, most = 0;
    if (!refuse_unserved(body, error)) return 0;
    if (!sl_params_read_flag("logprobs", json_object_get(body, "logprobs"), &wanted, error) ||
        !sl_params_read_int("top_logprobs", json_object_get(body, "top_logprobs"), 0,
                            SL_MAX_LOGPROBS, &most, error) ||
        !sl_params_read_int("max_completion_tokens", json_object_get(body, "max_completion_tokens"),
                            0, 1000000000, &params->max_tokens, error))
        return 0;
    params->logprobs = wanted ? most : -1;
    params->echo = 0;
    params->best_of = 0;
    return 1;
}
