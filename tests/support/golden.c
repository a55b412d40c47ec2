/* Golden continuations: JSON in, differences out. */
#include "support/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { MAX_PRINTED = 5 };

static sl_status read_ids(const json_t *array, const char *what, int *n_out, int32_t **out) {
    const size_t n = json_array_size(array);
    if (!json_is_array(array)) return SL_FAIL(SL_ERR_FORMAT, "golden: %s is no array", what);
    int32_t *ids = calloc(n > 0 ? n : 1, sizeof *ids);
    if (!ids) return SL_FAIL(SL_ERR_NOMEM, "golden: %zu ids", n);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    *n_out = (int)n;
    *out = ids;
    return SL_OK;
}

static sl_status read_numbers(const json_t *array, const char *what, int n_expected, double **out) {
    const size_t n = json_array_size(array);
    if (!json_is_array(array) || n != (size_t)n_expected)
        return SL_FAIL(SL_ERR_FORMAT, "golden: %s has %zu entries, expected %d", what, n,
                       n_expected);
    double *values = calloc(n > 0 ? n : 1, sizeof *values);
    if (!values) return SL_FAIL(SL_ERR_NOMEM, "golden: %zu numbers", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i); /* null: nothing precedes the first token */
        values[i] = json_is_number(v) ? json_number_value(v) : (double)NAN;
    }
    *out = values;
    return SL_OK;
}

/* Field names differ: the models' file says prompt and tokens, the demo model's has the texts there
 * and says prompt_ids and ids. */
static sl_status read_case(const json_t *item, golden_case *out) {
    const json_t *prompt = json_object_get(item, "prompt_ids");
    const json_t *tokens = json_object_get(item, "ids");
    if (!prompt) prompt = json_object_get(item, "prompt");
    if (!tokens) tokens = json_object_get(item, "tokens");
    SL_TRY(read_ids(prompt, "prompt", &out->n_prompt, &out->prompt));
    SL_TRY(read_ids(tokens, "tokens", &out->n_tokens, &out->tokens));
    SL_TRY(read_numbers(json_object_get(item, "prompt_logprobs"), "prompt_logprobs", out->n_prompt,
                        &out->prompt_logprobs));
    SL_TRY(
        read_numbers(json_object_get(item, "logprobs"), "logprobs", out->n_tokens, &out->logprobs));
    SL_TRY(read_numbers(json_object_get(item, "margins"), "margins", out->n_tokens, &out->margins));
    const char *finish = json_string_value(json_object_get(item, "finish"));
    out->stopped = finish && strcmp(finish, "stop") == 0;
    return SL_OK;
}

sl_status golden_load(const char *folder, golden_set *out) {
    char path[4096];
    golden_set set = {0};
    sl_status st = SL_OK;
    json_error_t error;
    if ((size_t)snprintf(path, sizeof path, "%s/golden.json", folder) >= sizeof path)
        return SL_FAIL(SL_ERR_ARG, "golden: path of %zu characters", strlen(folder));
    json_t *root = json_load_file(path, 0, &error);
    if (!root) return SL_FAIL(SL_ERR_IO, "%s, line %d: %s", path, error.line, error.text);

    const json_t *cases = json_object_get(root, "cases");
    const char *model = json_string_value(json_object_get(root, "model"));
    const json_t *stop = json_object_get(root, "stop_ids");
    set.n_stop_ids = (int)json_array_size(stop);
    if (json_array_size(cases) == 0 || set.n_stop_ids > SL_MAX_STOP_IDS) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: no cases, or too many stop ids", path);
        goto fail;
    }
    for (int i = 0; i < set.n_stop_ids; i++)
        set.stop_ids[i] = (int32_t)json_integer_value(json_array_get(stop, (size_t)i));
    if (model) {
        const int is_folder = strcmp(model, ".") == 0;
        const int n = snprintf(set.model, sizeof set.model, "%s%s%s", folder, is_folder ? "" : "/",
                               is_folder ? "" : model);
        if (n < 0 || (size_t)n >= sizeof set.model) {
            st = SL_FAIL(SL_ERR_FORMAT, "%s: model path is too long", path);
            goto fail;
        }
    }
    set.cases = calloc(json_array_size(cases), sizeof *set.cases);
    if (!set.cases) {
        st = SL_FAIL(SL_ERR_NOMEM, "%s: no memory for its cases", path);
        goto fail;
    }
    for (; set.n_cases < (int)json_array_size(cases);) {
        golden_case *c = &set.cases[set.n_cases++];
        SL_GO(read_case(json_array_get(cases, (size_t)set.n_cases - 1), c));
        if (c->n_tokens > set.max_tokens) set.max_tokens = c->n_tokens;
    }
    json_decref(root);
    *out = set;
    return SL_OK;

fail:
    json_decref(root);
    golden_free(&set);
    return st;
}

void golden_free(golden_set *set) {
    for (int i = 0; i < set->n_cases; i++) {
        free(set->cases[i].prompt);
        free(set->cases[i].prompt_logprobs);
        free(set->cases[i].tokens);
        free(set->cases[i].logprobs);
        free(set->cases[i].margins);
    }
    free(set->cases);
    memset(set, 0, sizeof *set);
}

sl_engine_request golden_request(const golden_set *set, const golden_case *c) {
    sl_engine_request request = run_greedy_request(c->prompt, c->n_prompt, set->max_tokens);
    request.n_stop_ids = set->n_stop_ids;
    memcpy(request.stop_ids, set->stop_ids, sizeof request.stop_ids);
    return request;
}

typedef struct {
    const char *label;
    int n_prompt;
    int n_bad;
} report;

static void check_number(report *r, const char *what, int index, double got, double want,
                         double tolerance) {
    if (fabs(got - want) <= tolerance) return; /* NaN fails */
    if (r->n_bad++ < MAX_PRINTED)
        fprintf(stderr, "%s, prompt of %d: %s %d is %.9g, golden %.9g, allowed %.1g\n", r->label,
                r->n_prompt, what, index, got, want, tolerance);
}

static void check_id(report *r, const char *what, int index, int got, int want) {
    if (got == want) return;
    if (r->n_bad++ < MAX_PRINTED)
        fprintf(stderr, "%s, prompt of %d: %s %d is %d, golden %d\n", r->label, r->n_prompt, what,
                index, got, want);
}

int golden_compare(const golden_case *c, const run_result *result, double tolerance,
                   const char *label, int *n_forks_out) {
    report r = {.label = label, .n_prompt = c->n_prompt};
    if (result->status != SL_OK || result->n_choices != 1 || !result->prompt_scores) {
        fprintf(stderr, "%s, prompt of %d: %d choices, %s scores, %s\n", label, c->n_prompt,
                result->n_choices, result->prompt_scores ? "with" : "without", result->message);
        return 1;
    }
    for (int i = 1; i < c->n_prompt; i++) {
        check_id(&r, "prompt token", i, result->prompt_scores[i].id, c->prompt[i]);
        check_number(&r, "log-probability of prompt token", i, result->prompt_scores[i].logprob,
                     c->prompt_logprobs[i], tolerance);
    }

    const run_choice *choice = &result->choices[0];
    int i = 0;
    for (; i < c->n_tokens && i < choice->n_tokens; i++) {
        const sl_choice *token = &choice->tokens[i];
        if (token->id != c->tokens[i] && c->margins[i] <= 2.0 * tolerance) {
            if (n_forks_out) (*n_forks_out)++;
            return r.n_bad;
        }
        check_id(&r, "token", i, token->id, c->tokens[i]);
        if (token->id != c->tokens[i]) return r.n_bad; /* the rest follows another text */
        check_number(&r, "log-probability of token", i, token->logprob, c->logprobs[i], tolerance);
        if (token->n_top < 2) {
            check_id(&r, "number of alternatives of token", i, token->n_top, 2);
            continue;
        }
        /* Greedy: the chosen token leads, with the very same number. */
        check_id(&r, "first alternative of token", i, token->top[0].id, token->id);
        check_number(&r, "first alternative's log-probability", i, token->top[0].logprob,
                     token->logprob, 0.0);
        check_number(&r, "log-probability of the runner-up of token", i, token->top[1].logprob,
                     c->logprobs[i] - c->margins[i], tolerance);
    }
    check_id(&r, "length of choice", 0, choice->n_tokens, c->n_tokens);
    check_id(&r, "finish of choice", 0, (int)choice->finish,
             c->stopped ? (int)SL_FINISH_STOP : (int)SL_FINISH_LENGTH);
    return r.n_bad;
}
