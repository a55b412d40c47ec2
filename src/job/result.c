#include "job/result.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "job/result_parts.h"

/* ---- ids ---- */

void sl_result_id(const sl_result_job *job, uint64_t line, sl_result_id_kind kind,
                  sl_json_text *out) {
    static const char *const prefixes[] = {"batch_req_", "req_", "cmpl-", "chatcmpl-"};
    const uint64_t seed = job->seed;
    const uint64_t key = sl_rng_at(seed, line);
    char id[64];
    snprintf(id, sizeof id, "\"%s%016" PRIx64 "%08" PRIx32 "\"", prefixes[kind],
             sl_rng_at(key, 2 * (uint64_t)kind),
             (uint32_t)(sl_rng_at(key, 2 * (uint64_t)kind + 1) >> 32));
    sl_json_raw(out, id);
}

uint64_t sl_result_key(uint64_t seed, uint64_t line) {
    /* Counters are hashed one to one, twice over: no two lines have the same. */
    return sl_rng_at(sl_rng_at(seed, line), 2 * (uint64_t)SL_ID_BATCH);
}

static void begin_line(const sl_result_job *job, const sl_request *request, int status_code,
                       sl_json_text *out) {
    sl_json_raw(out, "{\"id\": ");
    sl_result_id(job, request->line, SL_ID_BATCH, out);
    sl_json_raw(out, ", \"custom_id\": ");
    sl_json_string(out, request->custom_id.bytes, request->custom_id.n_bytes);
    sl_json_raw(out, ", \"response\": {\"status_code\": ");
    sl_json_int(out, status_code);
    sl_json_raw(out, ", \"request_id\": ");
    sl_result_id(job, request->line, SL_ID_REQUEST, out);
    sl_json_raw(out, ", \"body\": ");
}

static void end_line(sl_json_text *out) {
    sl_json_raw(out, "}, \"error\": null}\n");
}

/* ---- log-probabilities ---- */

void sl_result_top(const sl_result_job *job, const sl_choice *choice, int most, sl_json_text *out) {
    char names[SL_MAX_LOGPROBS + 1][SL_TOKEN_NAME_BYTES];
    const int n_top = choice->n_top < most ? choice->n_top : most;
    int n = 0;
    sl_json_raw(out, "{");
    for (int i = 0; i <= n_top; i++) {
        const int32_t id = i < n_top ? choice->top[i].id : choice->id;
        const float logprob = id == choice->id ? choice->logprob : choice->top[i].logprob;
        sl_tokenizer_display(job->tokenizer, id, names[n], SL_TOKEN_NAME_BYTES);
        int seen = 0;
        for (int k = 0; k < n && !seen; k++) seen = strcmp(names[k], names[n]) == 0;
        if (seen) continue;
        if (n) sl_json_raw(out, ", ");
        sl_json_cstring(out, names[n]);
        sl_json_raw(out, ": ");
        sl_json_float(out, logprob);
        n++;
    }
    sl_json_raw(out, "}");
}

/* One choice as it will be written. */
typedef struct {
    const sl_result_job *job;
    const sl_params *params;
    const sl_engine_result *result;
    const sl_engine_choice *choice;
    const sl_choice_text *text;    /* NULL: nothing was generated */
    const sl_string *prompt_text;  /* NULL without echo */
    const int64_t *prompt_offsets; /* [n_prompt] with echo and log-probabilities, else NULL */
    int64_t prompt_chars;
} writing;

/* A token in the lists of log-probabilities. */
typedef struct {
    const sl_choice *token;
    int64_t offset; /* of its text, characters */
    int unscored;   /* the first token of an echoed prompt: nothing precedes it, no probability */
} entry;

typedef void (*append_entry)(const writing *w, const entry *e, sl_json_text *out);

static void append_name(const writing *w, const entry *e, sl_json_text *out) {
    char name[SL_TOKEN_NAME_BYTES];
    sl_json_cstring(out, sl_tokenizer_display(w->job->tokenizer, e->token->id, name, sizeof name));
}

static void append_logprob(const writing *w, const entry *e, sl_json_text *out) {
    (void)w;
    if (e->unscored) {
        sl_json_raw(out, "null");
    } else {
        sl_json_float(out, e->token->logprob);
    }
}

static void append_alternatives(const writing *w, const entry *e, sl_json_text *out) {
    if (e->unscored) {
        sl_json_raw(out, "null");
    } else {
        sl_result_top(w->job, e->token, w->params->logprobs, out);
    }
}

static void append_offset(const writing *w, const entry *e, sl_json_text *out) {
    (void)w;
    sl_json_int(out, e->offset);
}

/* A list with one entry for each echoed and each generated token. */
static void append_list(const writing *w, const char *name, append_entry append,
                        sl_json_text *out) {
    int n = 0;
    sl_json_raw(out, "\"");
    sl_json_raw(out, name);
    sl_json_raw(out, "\": [");
    for (int i = 0; w->prompt_text && i < w->result->n_prompt; i++, n++) {
        const sl_choice first = {.id = w->result->prompt[0]};
        const entry e = {.token = i ? &w->result->prompt_scores[i] : &first,
                         .offset = w->prompt_offsets[i],
                         .unscored = i == 0};
        if (n) sl_json_raw(out, ", ");
        append(w, &e, out);
    }
    for (int i = 0; i < w->choice->n_tokens; i++, n++) {
        const entry e = {.token = &w->choice->tokens[i],
                         .offset =
                             w->prompt_chars + (w->text ? sl_choice_text_offset(w->text, i) : 0)};
        if (n) sl_json_raw(out, ", ");
        append(w, &e, out);
    }
    sl_json_raw(out, "]");
}

static void append_logprobs(const writing *w, sl_json_text *out) {
    if (w->params->logprobs < 0) {
        sl_json_raw(out, "null");
        return;
    }
    sl_json_raw(out, "{");
    append_list(w, "tokens", append_name, out);
    sl_json_raw(out, ", ");
    append_list(w, "token_logprobs", append_logprob, out);
    sl_json_raw(out, ", ");
    append_list(w, "top_logprobs", append_alternatives, out);
    sl_json_raw(out, ", ");
    append_list(w, "text_offset", append_offset, out);
    sl_json_raw(out, "}");
}

/* ---- choices ---- */

const char *sl_result_finish(const sl_engine_choice *choice, const sl_choice_text *text) {
    const int stopped = text && sl_choice_text_is_stopped(text);
    return stopped || choice->finish == SL_FINISH_STOP ? "stop" : "length";
}

static void append_text(const writing *w, sl_json_text *out) {
    size_t n_bytes = 0;
    const char *text = w->text ? sl_choice_text_get(w->text, &n_bytes) : "";
    sl_json_raw(out, "\"");
    if (w->prompt_text) sl_json_escaped(out, w->prompt_text->bytes, w->prompt_text->n_bytes);
    sl_json_escaped(out, text, n_bytes);
    sl_json_raw(out, "\"");
}

static void append_ids(const writing *w, sl_json_text *out) {
    sl_json_raw(out, ", \"prompt_token_ids\": [");
    for (int i = 0; i < w->result->n_prompt; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_json_int(out, w->result->prompt[i]);
    }
    sl_json_raw(out, "], \"token_ids\": [");
    for (int i = 0; i < w->choice->n_tokens; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_json_int(out, w->choice->tokens[i].id);
    }
    sl_json_raw(out, "]");
}

static void append_choice(const writing *w, int64_t index, sl_json_text *out) {
    if (index) sl_json_raw(out, ", ");
    sl_json_raw(out, "{\"index\": ");
    sl_json_int(out, index);
    sl_json_raw(out, ", \"text\": ");
    append_text(w, out);
    sl_json_raw(out, ", \"logprobs\": ");
    append_logprobs(w, out);
    sl_json_raw(out, ", \"finish_reason\": ");
    sl_json_cstring(out, sl_result_finish(w->choice, w->text));
    /* Without a tokenizer the ids are all there is to know. */
    if (w->params->return_token_ids || !w->job->tokenizer) append_ids(w, out);
    sl_json_raw(out, "}");
}

typedef struct {
    int choice;
    double score; /* mean log-probability of its tokens */
} ranked;

/* Best first; the earlier one among equals, so that the order is always the same. */
static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->choice > y->choice) - (x->choice < y->choice);
}

/* The choices of a prompt in the order in which they are written: by number, or for best_of the
 * best first.  The caller frees *out ([result->n_choices]). */
static sl_status rank_choices(const sl_params *params, const sl_engine_result *result,
                              ranked **out) {
    const size_t n = (size_t)result->n_choices;
    ranked *order = calloc(n ? n : 1, sizeof *order);
    if (!order) return SL_FAIL(SL_ERR_NOMEM, "%zu choices: out of host memory", n);
    for (int c = 0; c < result->n_choices; c++) {
        const sl_engine_choice *choice = &result->choices[c];
        double sum = 0;
        for (int i = 0; i < choice->n_tokens; i++) sum += (double)choice->tokens[i].logprob;
        order[c] = (ranked){c, choice->n_tokens ? sum / choice->n_tokens : 0};
    }
    if (params->best_of > params->n) qsort(order, n, sizeof *order, compare_ranked);
    *out = order;
    return SL_OK;
}

/* Offsets of an echoed text prompt come from its tokens, whose text may differ from what was given
 * (a normaliser at work): they must at least lie in it. */
static void clamp_offsets(int64_t *offsets, int n, int64_t most) {
    for (int i = 0; i < n; i++) {
        if (offsets[i] > most) offsets[i] = most;
    }
}

/* The text that `echo` puts before the choices of a prompt. *text_out is the caller's to free. */
static sl_status echo_prompt(const sl_result_job *job, const sl_request *request,
                             const sl_prompt *prompt, const sl_engine_result *result,
                             int64_t **offsets_out, sl_string *text_out) {
    const size_t n = (size_t)result->n_prompt;
    int64_t *offsets = calloc(n ? n : 1, sizeof *offsets);
    if (!offsets) return SL_FAIL(SL_ERR_NOMEM, "echo of %zu tokens: out of host memory", n);
    sl_string text = {0};
    sl_status st = SL_OK;
    if (job->tokenizer) {
        /* An unfinished character is finished by the first choice's text, if there is any. */
        SL_GO(sl_prompt_decode(job->tokenizer, result->prompt, result->n_prompt,
                               request->params.skip_special_tokens, request->params.max_tokens == 0,
                               offsets, &text));
    }
    if (prompt->text.bytes || !text.bytes) { /* text is echoed as it was given */
        char *copy = malloc(prompt->text.n_bytes + 1);
        if (!copy) {
            st = SL_FAIL(SL_ERR_NOMEM, "echo: out of host memory");
            goto fail;
        }
        if (prompt->text.n_bytes) memcpy(copy, prompt->text.bytes, prompt->text.n_bytes);
        copy[prompt->text.n_bytes] = '\0';
        free(text.bytes);
        text = (sl_string){copy, prompt->text.n_bytes};
    }
    clamp_offsets(offsets, result->n_prompt, (int64_t)sl_utf8_count(text.bytes, text.n_bytes));
    *offsets_out = offsets;
    *text_out = text;
    return SL_OK;

fail:
    free(text.bytes);
    free(offsets);
    return st;
}

/* Appends all choices of prompt `p`. */
static sl_status append_prompt(const sl_result_job *job, const sl_request *request, int p,
                               const sl_result_part *part, sl_json_text *out) {
    sl_status st = SL_OK;
    sl_string prompt_text = {0};
    int64_t *offsets = NULL;
    ranked *order = NULL;
    writing w = {.job = job, .params = &request->params, .result = part->result};
    if (request->params.echo) {
        SL_GO(
            echo_prompt(job, request, &request->prompts[p], part->result, &offsets, &prompt_text));
        w.prompt_text = &prompt_text;
        w.prompt_offsets = offsets;
        w.prompt_chars = (int64_t)sl_utf8_count(prompt_text.bytes, prompt_text.n_bytes);
    }
    const int n =
        request->params.n < part->result->n_choices ? request->params.n : part->result->n_choices;
    SL_GO(rank_choices(&request->params, part->result, &order));
    for (int rank = 0; rank < n; rank++) {
        w.choice = &part->result->choices[order[rank].choice];
        w.text = part->texts[order[rank].choice];
        append_choice(&w, (int64_t)p * request->params.n + rank, out);
    }

fail:
    free(order);
    free(prompt_text.bytes);
    free(offsets);
    return st;
}

void sl_result_usage(const sl_request *request, const sl_result_part *parts, sl_json_text *out) {
    int64_t n_prompt = 0, n_generated = 0;
    for (int p = 0; p < request->n_prompts; p++) {
        n_prompt += parts[p].result->n_prompt;
        for (int c = 0; c < parts[p].result->n_choices; c++)
            n_generated += parts[p].result->choices[c].n_tokens;
    }
    sl_json_raw(out, "\"usage\": {\"prompt_tokens\": ");
    sl_json_int(out, n_prompt);
    sl_json_raw(out, ", \"completion_tokens\": ");
    sl_json_int(out, n_generated);
    sl_json_raw(out, ", \"total_tokens\": ");
    sl_json_int(out, n_prompt + n_generated);
    sl_json_raw(out, "}");
}

static sl_status append_completion(const sl_result_job *job, const sl_request *request,
                                   const sl_result_part *parts, int64_t created,
                                   sl_json_text *out) {
    sl_json_raw(out, "{\"id\": ");
    sl_result_id(job, request->line, SL_ID_COMPLETION, out);
    sl_json_raw(out, ", \"object\": \"text_completion\", \"created\": ");
    sl_json_int(out, created);
    sl_json_raw(out, ", \"model\": ");
    sl_json_cstring(out, job->model);
    sl_json_raw(out, ", \"choices\": [");
    for (int p = 0; p < request->n_prompts; p++)
        SL_TRY(append_prompt(job, request, p, &parts[p], out));
    sl_json_raw(out, "], ");
    sl_result_usage(request, parts, out);
    sl_json_raw(out, "}");
    return SL_OK;
}

sl_status sl_result_answer(const sl_result_job *job, const sl_request *request,
                           const sl_result_part *parts, int64_t created, sl_json_text *out) {
    if (request->form == SL_ANSWER_LINE) begin_line(job, request, 200, out);
    if (request->form == SL_ANSWER_CHAT) {
        sl_result_chat(job, request, parts, created, out);
    } else {
        SL_TRY(append_completion(job, request, parts, created, out));
    }
    if (request->form == SL_ANSWER_LINE) end_line(out);
    return sl_json_status(out);
}

/* ---- errors ---- */

/* The words that clients of the API know, by HTTP status. */
static const struct {
    int status;
    const char *type, *code;
} error_kinds[] = {
    {400, "invalid_request_error", NULL},
    {401, "authentication_error", "invalid_api_key"},
    {404, "invalid_request_error", "not_found"},
    {405, "invalid_request_error", "method_not_allowed"},
    {413, "invalid_request_error", "body_too_large"},
    {429, "rate_limit_error", "queue_full"},
    {500, "server_error", "internal_error"},
    {503, "server_error", "unavailable"},
};

void sl_result_error(int status_code, const char *message, const char *param, sl_json_text *out) {
    size_t k = sizeof error_kinds / sizeof error_kinds[0] - 1;
    while (k > 0 && error_kinds[k].status != status_code) k--;
    sl_json_raw(out, "{\"error\": {\"message\": ");
    sl_json_cstring(out, message);
    sl_json_raw(out, ", \"type\": ");
    sl_json_cstring(out, error_kinds[k].type);
    sl_json_raw(out, ", \"param\": ");
    sl_json_cstring(out, param && param[0] ? param : NULL);
    sl_json_raw(out, ", \"code\": ");
    sl_json_cstring(out, error_kinds[k].code);
    sl_json_raw(out, "}}");
}

/* Whoever sent a single request knows no line numbers. */
static const char *message_without_line(const sl_request *request) {
    char lead[40];
    const int n = snprintf(lead, sizeof lead, "line %" PRIu64 ": ", request->line);
    const char *message = request->error.message;
    return strncmp(message, lead, (size_t)n) == 0 ? message + n : message;
}

sl_status sl_result_refusal(const sl_result_job *job, const sl_request *request,
                            sl_json_text *out) {
    const sl_request_error *error = &request->error;
    const int is_line = request->form == SL_ANSWER_LINE;
    if (is_line) begin_line(job, request, error->status_code, out);
    sl_result_error(error->status_code, is_line ? error->message : message_without_line(request),
                    error->param, out);
    if (is_line) end_line(out);
    return sl_json_status(out);
}
