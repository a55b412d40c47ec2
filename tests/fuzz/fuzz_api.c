/* Fuzz entry: the body of an HTTP request, as a completion, a chat, or for the tokenizer; what
 * parses is answered in pieces, which must be whole events of valid JSON.
 *
 * The first byte picks the route, the second the chat template of those that are known. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "job/api.h"
#include "job/chunk.h"
#include "tiny_tokenizer.h"

static void require(int condition, const char *what, const char *text) {
    if (condition) return;
    fprintf(stderr, "%s: %.2000s\n", what, text ? text : "(none)");
    abort();
}

static void check_json(const char *text, size_t n_bytes) {
    json_t *root = json_loadb(text, n_bytes, JSON_ALLOW_NUL, NULL);
    require(root != NULL, "no valid JSON", text);
    json_decref(root);
}

/* Each event is "data: ", JSON or [DONE], and an empty line. */
static void check_events(const sl_json_text *out) {
    const char *at = out->data, *end = at + out->n_bytes;
    while (at < end) {
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        require(stop && strncmp(at, "data: ", 6) == 0, "no event", at);
        require(!memchr(at, '\n', (size_t)(stop - at)), "a line inside an event", at);
        at += 6;
        if (strncmp(at, "[DONE]", 6) != 0) check_json(at, (size_t)(stop - at));
        at = stop + 2;
    }
}

static void answer(const sl_request *request, const sl_result_job *job, sl_json_text *out) {
    const sl_chunk_answer a = {job, request, 1};
    const sl_choice token = {
        .id = 1, .logprob = -0.5f, .n_top = 2, .top = {{0, -0.1f}, {1, -0.5f}}};
    require(request->n_prompts > 0, "valid without a prompt", NULL);
    if (request->form == SL_ANSWER_CHAT) sl_chunk_role(&a, 0, out);
    sl_chunk_text(&a, 0, "a\n\xff\"", 4, &token, 0, out);
    sl_chunk_finish(&a, 0, "stop", out);
    sl_chunk_error(503, "no \"more\"\n", out);
    sl_chunk_done(out);
}

static void read_body(const sl_api *api, sl_answer_form form, const char *body, size_t n_bytes) {
    sl_request request;
    sl_json_text out = {0};
    const sl_result_job job = {.model = "m", .tokenizer = api->tokenizer, .seed = 1};
    if (sl_api_read(api, form, body, n_bytes, 42, &request) != SL_OK) return;
    if (request.error.status_code) {
        require(sl_result_refusal(&job, &request, &out) == SL_OK, "refusal", sl_error_message());
        check_json(out.data, out.n_bytes);
    } else {
        answer(&request, &job, &out);
        check_events(&out);
    }
    sl_json_free(&out);
    sl_request_free(&request);
}

static void read_tokens(const sl_api *api, int back, const char *body, size_t n_bytes) {
    sl_json_text out = {0};
    int status = 0;
    const sl_status st =
        (back ? sl_api_detokenize : sl_api_tokenize)(api, body, n_bytes, &status, &out);
    if (st == SL_OK) {
        require(status == 200 || status == 400, "status", out.data);
        check_json(out.data, out.n_bytes);
    }
    sl_json_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sl_tokenizer *tokenizer;
    if (size < 2) return 0;
    if (!tokenizer)
        require(tiny_tokenizer_open(&tokenizer) == SL_OK, "tokenizer", sl_error_message());
    sl_api api;
    sl_api_init(tokenizer, &api);
    api.model_name = api.model_path = "m";
    api.max_context = 64;
    api.has_chat = 1;
    api.chat = (sl_chat_template){.family = (sl_chat_family)(data[1] % 7),
                                  .system = "a\\nb",
                                  .system_bytes = 4,
                                  .with_bos = data[1] & 8,
                                  .opens_thought = data[1] & 16};
    const char *body = (const char *)data + 2;
    switch (data[0] % 4) {
    case 0:
        read_body(&api, SL_ANSWER_COMPLETION, body, size - 2);
        break;
    case 1:
        read_body(&api, SL_ANSWER_CHAT, body, size - 2);
        break;
    default:
        read_tokens(&api, data[0] % 4 == 3, body, size - 2);
    }
    /* The body as a template of its own. */
    char *text = strndup(body, size - 2);
    sl_chat_template tmpl;
    (void)sl_chat_recognise(text, &tmpl);
    free(text);
    sl_params_free(&api.defaults);
    return 0;
}
