#include "job/chunk.h"

#include "job/result_parts.h"

static int is_chat(const sl_chunk_answer *a) {
    return a->request->form == SL_ANSWER_CHAT;
}

static void begin(const sl_chunk_answer *a, sl_json_text *out) {
    sl_json_raw(out, "data: {\"id\": ");
    sl_result_id(a->job, a->request->line, is_chat(a) ? SL_ID_CHAT : SL_ID_COMPLETION, out);
    sl_json_raw(out, ", \"object\": ");
    sl_json_cstring(out, is_chat(a) ? "chat.completion.chunk" : "text_completion");
    sl_json_raw(out, ", \"created\": ");
    sl_json_int(out, a->created);
    sl_json_raw(out, ", \"model\": ");
    sl_json_cstring(out, a->job->model);
    sl_json_raw(out, ", \"choices\": [");
}

static void begin_choice(const sl_chunk_answer *a, int64_t index, sl_json_text *out) {
    begin(a, out);
    sl_json_raw(out, "{\"index\": ");
    sl_json_int(out, index);
}

static void end_choice(const char *reason, sl_json_text *out) {
    sl_json_raw(out, ", \"finish_reason\": ");
    sl_json_cstring(out, reason);
    sl_json_raw(out, "}]}\n\n");
}

void sl_chunk_role(const sl_chunk_answer *a, int64_t index, sl_json_text *out) {
    begin_choice(a, index, out);
    sl_json_raw(out, ", \"delta\": {\"role\": \"assistant\", \"content\": \"\"}, "
                     "\"logprobs\": null");
    end_choice(NULL, out);
}

static void append_logprobs(const sl_chunk_answer *a, const sl_choice *token, int64_t offset,
                            sl_json_text *out) {
    const int most = a->request->params.logprobs;
    char name[SL_TOKEN_NAME_BYTES];
    if (!token || most < 0) {
        sl_json_raw(out, "null");
        return;
    }
    if (is_chat(a)) {
        sl_json_raw(out, "{\"content\": [");
        sl_result_chat_token(a->job, token, most, out);
        sl_json_raw(out, "]}");
        return;
    }
    sl_json_raw(out, "{\"tokens\": [");
    sl_json_cstring(out, sl_tokenizer_display(a->job->tokenizer, token->id, name, sizeof name));
    sl_json_raw(out, "], \"token_logprobs\": [");
    sl_json_float(out, token->logprob);
    sl_json_raw(out, "], \"top_logprobs\": [");
    sl_result_top(a->job, token, most, out);
    sl_json_raw(out, "], \"text_offset\": [");
    sl_json_int(out, offset);
    sl_json_raw(out, "]}");
}

void sl_chunk_text(const sl_chunk_answer *a, int64_t index, const char *text, size_t n_bytes,
                   const sl_choice *token, int64_t offset, sl_json_text *out) {
    begin_choice(a, index, out);
    sl_json_raw(out, is_chat(a) ? ", \"delta\": {\"content\": " : ", \"text\": ");
    sl_json_string(out, text, n_bytes);
    sl_json_raw(out, is_chat(a) ? "}, \"logprobs\": " : ", \"logprobs\": ");
    append_logprobs(a, token, offset, out);
    if (token && !is_chat(a) && (a->request->params.return_token_ids || !a->job->tokenizer)) {
        sl_json_raw(out, ", \"token_ids\": [");
        sl_json_int(out, token->id);
        sl_json_raw(out, "]");
    }
    end_choice(NULL, out);
}

void sl_chunk_finish(const sl_chunk_answer *a, int64_t index, const char *reason,
                     sl_json_text *out) {
    begin_choice(a, index, out);
    sl_json_raw(out, is_chat(a) ? ", \"delta\": {}" : ", \"text\": \"\"");
    sl_json_raw(out, ", \"logprobs\": null");
    end_choice(reason, out);
}

void sl_chunk_usage(const sl_chunk_answer *a, const sl_result_part *parts, sl_json_text *out) {
    begin(a, out);
    sl_json_raw(out, "], ");
    sl_result_usage(a->request, parts, out);
    sl_json_raw(out, "}\n\n");
}

void sl_chunk_error(int status_code, const char *message, sl_json_text *out) {
    sl_json_raw(out, "data: ");
    sl_result_error(status_code, message, NULL, out);
    sl_json_raw(out, "\n\n");
}

void sl_chunk_done(sl_json_text *out) {
    sl_json_raw(out, "data: [DONE]\n\n");
}
