/* Fuzz entry: a job's lines in each form, and the result lines of what parses.
 *
 * The first byte picks the form (auto-detected, openai, jsonl, text), the rest is one line.  What
 * is valid is answered with made-up tokens, and the result must be one line of valid JSON. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "job/request.h"
#include "job/result.h"

enum { N_TOKENS = 3 };

static void require(int condition, const char *what, const char *line) {
    if (condition) return;
    fprintf(stderr, "%s: %.2000s\n", what, line ? line : "(none)");
    abort();
}

static void count(void *context, const char *field) {
    *(size_t *)context += strlen(field);
}

static void check_line(const sl_json_text *out) {
    require(out->n_bytes > 1 && out->data[out->n_bytes - 1] == '\n', "no whole line", out->data);
    require(memchr(out->data, '\n', out->n_bytes - 1) == NULL, "more than one line", out->data);
    json_t *root = json_loadb(out->data, out->n_bytes, JSON_ALLOW_NUL, NULL);
    require(root != NULL, "no valid JSON", out->data);
    require(json_is_object(json_object_get(root, "response")), "no response", out->data);
    json_decref(root);
}

/* Answers one prompt of ids; a text prompt counts as its bytes. */
static void make_part(const sl_request *request, int p, sl_engine_result *result,
                      sl_engine_choice *choice, sl_choice *tokens, sl_choice_text **texts,
                      sl_result_part *part) {
    static const int32_t bytes[2] = {104, 105};
    const sl_prompt *prompt = &request->prompts[p];
    const int n = prompt->ids ? prompt->n_ids : 2;
    sl_choice *scores = calloc((size_t)n, sizeof *scores);
    require(scores != NULL, "out of memory", NULL);
    for (int i = 0; i < n; i++) scores[i].id = prompt->ids ? prompt->ids[i] : bytes[i];
    *result = (sl_engine_result){.n_prompt = n,
                                 .prompt = prompt->ids ? prompt->ids : bytes,
                                 .prompt_scores = scores,
                                 .n_choices = 1,
                                 .choices = choice};
    *choice = (sl_engine_choice){SL_FINISH_LENGTH, N_TOKENS, tokens};
    *part = (sl_result_part){result, texts};
}

static void answer(const sl_request *request, const sl_result_job *job, sl_json_text *out) {
    sl_choice tokens[N_TOKENS] = {
        {.id = 1, .logprob = -0.1f, .n_top = 1, .top = {{1, -0.1f}}},
        {.id = 2, .logprob = -1e30f, .n_top = 1, .top = {{7, -1e-30f}}},
        {.id = 3, .logprob = -3.25f},
    };
    sl_choice_text *text = NULL;
    const sl_choice_text_options options = {.params = &request->params};
    int ended = 0;
    if (request->n_prompts > 64) return; /* more of the same */
    require(sl_choice_text_open(&options, &text) == SL_OK, "choice", NULL);
    for (int i = 0; i < N_TOKENS; i++)
        require(sl_choice_text_push(text, tokens[i].id, &ended) == SL_OK, "push", NULL);
    require(sl_choice_text_finish(text) == SL_OK, "finish", NULL);

    sl_engine_result results[64];
    sl_engine_choice choices[64];
    sl_result_part parts[64];
    for (int p = 0; p < request->n_prompts; p++)
        make_part(request, p, &results[p], &choices[p], tokens, &text, &parts[p]);
    require(sl_result_answer(job, request, parts, 1, out) == SL_OK, "answer", NULL);
    for (int p = 0; p < request->n_prompts; p++)
        free((sl_choice *)(uintptr_t)results[p].prompt_scores);
    sl_choice_text_close(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const char *line = (const char *)data + 1;
    const size_t n_bytes = size - 1;
    sl_job_format format = (sl_job_format)(data[0] % 4);
    if (format == SL_FORMAT_AUTO) format = sl_request_detect(line, n_bytes);
    (void)sl_request_is_blank(line, n_bytes);

    sl_request request;
    size_t n_unknown = 0;
    require(sl_request_parse(line, n_bytes, 42, format, NULL, count, &n_unknown, &request) == SL_OK,
            "parse", sl_error_message());
    const sl_result_job job = {.model = "m", .tokenizer = NULL, .seed = data[0]};
    sl_json_text out = {0};
    if (request.error.status_code) {
        require(sl_result_refusal(&job, &request, &out) == SL_OK, "refusal", sl_error_message());
        check_line(&out);
    } else {
        require(request.n_prompts > 0, "valid without a prompt", NULL);
        answer(&request, &job, &out);
        if (out.n_bytes) check_line(&out);
    }
    sl_json_free(&out);
    sl_request_free(&request);
    return 0;
}
