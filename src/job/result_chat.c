#include "job/result_parts.h"

#include <string.h>

/* The token's own bytes where its name is not the text itself. */
static void append_bytes(const char *name, sl_json_text *out) {
    const int is_escaped = strncmp(name, "bytes:", 6) == 0 || strncmp(name, "token_id:", 9) == 0;
    if (is_escaped) {
        sl_json_raw(out, "null");
        return;
    }
    sl_json_raw(out, "[");
    for (size_t i = 0; name[i]; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_json_int(out, (unsigned char)name[i]);
    }
    sl_json_raw(out, "]");
}

static void append_named(const sl_result_job *job, int32_t id, float logprob, sl_json_text *out) {
    char name[SL_TOKEN_NAME_BYTES];
    sl_tokenizer_display(job->tokenizer, id, name, sizeof name);
    sl_json_raw(out, "{\"token\": ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ", \"logprob\": ");
    sl_json_float(out, logprob);
    sl_json_raw(out, ", \"bytes\": ");
    append_bytes(name, out);
}

void sl_result_chat_token(const sl_result_job *job, const sl_choice *choice, int most,
                          sl_json_text *out) {
    append_named(job, choice->id, choice->logprob, out);
    sl_json_raw(out, ", \"top_logprobs\": [");
    for (int i = 0; i < choice->n_top && i < most; i++) {
        if (i) sl_json_raw(out, ", ");
        append_named(job, choice->top[i].id, choice->top[i].logprob, out);
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "]}");
}

static void append_logprobs(const sl_result_job *job, const sl_params *params,
                            const sl_engine_choice *choice, sl_json_text *out) {
    if (params->logprobs < 0) {
        sl_json_raw(out, "null");
        return;
    }
    sl_json_raw(out, "{\"content\": [");
    for (int i = 0; i < choice->n_tokens; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_result_chat_token(job, &choice->tokens[i], params->logprobs, out);
    }
    sl_json_raw(out, "]}");
}

void sl_result_chat(const sl_result_job *job, const sl_request *request, const sl_result_part *part,
                    int64_t created, sl_json_text *out) {
    sl_json_raw(out, "{\"id\": ");
    sl_result_id(job, request->line, SL_ID_CHAT, out);
    sl_json_raw(out, ", \"object\": \"chat.completion\", \"created\": ");
    sl_json_int(out, created);
    sl_json_raw(out, ", \"model\": ");
    sl_json_cstring(out, job->model);
    sl_json_raw(out, ", \"choices\": [");
    for (int c = 0; c < part->result->n_choices; c++) {
        const sl_engine_choice *choice = &part->result->choices[c];
        size_t n_bytes = 0;
        const char *text = part->texts[c] ? sl_choice_text_get(part->texts[c], &n_bytes) : "";
        sl_json_raw(out, c ? ", {\"index\": " : "{\"index\": ");
        sl_json_int(out, c);
        sl_json_raw(out, ", \"message\": {\"role\": \"assistant\", \"content\": ");
        sl_json_string(out, text, n_bytes);
        sl_json_raw(out, "}, \"logprobs\": ");
        append_logprobs(job, &request->params, choice, out);
        sl_json_raw(out, ", \"finish_reason\": ");
        sl_json_cstring(out, sl_result_finish(choice, part->texts[c]));
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "], ");
    sl_result_usage(request, part, out);
    sl_json_raw(out, "}");
}
