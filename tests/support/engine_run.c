/* Runs requests through an engine and copies what comes out. */
#include "support/engine_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_backend.h"

sl_engine_request run_greedy_request(const int32_t *prompt, int n_prompt, int max_tokens) {
    return (sl_engine_request){
        .prompt = prompt,
        .n_prompt = n_prompt,
        .max_tokens = max_tokens,
        .n = 1,
        .echo_logprobs = 1,
        .sampling = {.top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = 2},
    };
}

static sl_choice *copy_choices(const sl_choice *from, int n) {
    sl_choice *copy = calloc(n > 0 ? (size_t)n : 1, sizeof *copy);
    if (copy && n > 0) memcpy(copy, from, (size_t)n * sizeof *copy);
    return copy;
}

static sl_status copy_result(const sl_engine_result *from, run_result *to) {
    to->n_prompt = from->n_prompt;
    if (from->prompt_scores) {
        to->prompt_scores = copy_choices(from->prompt_scores, from->n_prompt);
        if (!to->prompt_scores) return SL_FAIL(SL_ERR_NOMEM, "no memory for a copy of scores");
    }
    to->choices = calloc((size_t)from->n_choices, sizeof *to->choices);
    if (!to->choices) return SL_FAIL(SL_ERR_NOMEM, "no memory for a copy of choices");
    for (; to->n_choices < from->n_choices; to->n_choices++) {
        const sl_engine_choice *c = &from->choices[to->n_choices];
        run_choice *copy = &to->choices[to->n_choices];
        copy->tokens = copy_choices(c->tokens, c->n_tokens);
        if (!copy->tokens) return SL_FAIL(SL_ERR_NOMEM, "no memory for a copy of tokens");
        copy->finish = c->finish;
        copy->n_tokens = c->n_tokens;
    }
    return SL_OK;
}

static sl_status take_all(sl_engine *engine, run_result *results, int n, int *n_answered) {
    for (;;) {
        const sl_engine_result *result = NULL;
        SL_TRY(sl_engine_take(engine, &result));
        if (!result) return SL_OK;
        sl_status st = SL_OK;
        run_result *mine = result->user;
        if (mine < results || mine >= results + n)
            st = SL_FAIL(SL_ERR_ARG, "a result's user is not of this run");
        else if (mine->n_answers++ > 0)
            st = SL_FAIL(SL_ERR_ARG, "request %td was answered twice", mine - results);
        else
            st = copy_result(result, mine);
        if (st == SL_OK) mine->order = (*n_answered)++;
        sl_engine_release(engine, result);
        if (st != SL_OK) return st;
    }
}

/* Submits requests[*next] and counts on; refusals are noted and do not stop the run. */
static void submit_next(sl_engine *engine, const sl_engine_request *requests, run_result *results,
                        int *next, int *n_refused) {
    sl_engine_request request = requests[*next];
    run_result *mine = &results[*next];
    uint64_t id;
    request.user = mine;
    mine->status = sl_engine_submit(engine, &request, &id);
    if (mine->status != SL_OK) {
        snprintf(mine->message, sizeof mine->message, "%s", sl_error_message());
        (*n_refused)++;
    }
    (*next)++;
}

static sl_status drive_first(sl_engine *engine, const run_options *options,
                             const sl_engine_request *requests, int n, run_result *results) {
    int next = 0, n_answered = 0, n_refused = 0, done = 0, finished = 0;
    for (int step = 0; !done; step++) {
        if (options->arrival == RUN_ALL_AT_ONCE)
            while (next < n) submit_next(engine, requests, results, &next, &n_refused);
        else if (next < n && (options->arrival == RUN_TRICKLE || next == n_answered + n_refused))
            submit_next(engine, requests, results, &next, &n_refused);
        if (options->stop_after > 0 && step == options->stop_after) sl_engine_stop(engine);
        if (next == n && !finished) {
            sl_engine_finish(engine);
            finished = 1;
        }
        SL_TRY(sl_engine_step(engine, &done));
        SL_TRY(take_all(engine, results, n, &n_answered));
    }
    if (options->stop_after == 0 && n_answered + n_refused != n)
        return SL_FAIL(SL_ERR_ARG, "%d of %d requests were answered, %d refused", n_answered, n,
                       n_refused);
    return SL_OK;
}

sl_status run_engine(const run_options *options, sl_transport *transport,
                     const sl_engine_request *requests, int n, run_result *results,
                     sl_engine_stats *stats) {
    const sl_cpu_options cpu = {.n_threads = options->n_threads,
                                .reference = options->reference,
                                .device_bytes = options->device_bytes};
    sl_source *source = NULL;
    sl_backend *backend = NULL;
    sl_engine *engine = NULL;
    sl_policy policy = options->policy;
    int done = 0;
    if (policy.cpu_budget_bytes == 0) policy.cpu_budget_bytes = (size_t)256 << 20;
    sl_status st = sl_source_open(options->model, 1, &source);
    if (st == SL_OK) st = sl_cpu_backend_open(&cpu, &backend);
    /* A rank must not leave the others waiting in a collective call. */
    SL_GO(transport->ops->agree(transport, st));
    SL_GO(sl_engine_open(source, backend, transport, &policy, options->on_token, &engine));
    sl_source_close(source);
    source = NULL; /* the engine needs it no longer; a use after this shows under ASan */
    if (sl_transport_is_first(transport))
        SL_GO(drive_first(engine, options, requests, n, results));
    else
        while (!done) SL_GO(sl_engine_step(engine, &done));
    if (stats) sl_engine_get_stats(engine, stats);

fail:
    sl_engine_close(engine);
    sl_backend_close(backend);
    sl_source_close(source);
    return st;
}

void run_results_free(run_result *results, int n) {
    for (int i = 0; i < n; i++) {
        for (int c = 0; c < results[i].n_choices; c++) free(results[i].choices[c].tokens);
        free(results[i].choices);
        free(results[i].prompt_scores);
    }
    memset(results, 0, (size_t)n * sizeof *results);
}

static int tokens_differ(const sl_choice *a, const sl_choice *b) {
    if (a->id != b->id || a->n_top != b->n_top ||
        memcmp(&a->logprob, &b->logprob, sizeof a->logprob) != 0)
        return 1;
    for (int i = 0; i < a->n_top; i++)
        if (a->top[i].id != b->top[i].id ||
            memcmp(&a->top[i].logprob, &b->top[i].logprob, sizeof a->top[i].logprob) != 0)
            return 1;
    return 0;
}

int run_results_differ(const run_result *a, const run_result *b, const char *label) {
    if (a->status != b->status || a->n_choices != b->n_choices || a->n_prompt != b->n_prompt ||
        !a->prompt_scores != !b->prompt_scores) {
        fprintf(stderr, "%s: status %d and %d, %d and %d choices, prompts of %d and %d\n", label,
                a->status, b->status, a->n_choices, b->n_choices, a->n_prompt, b->n_prompt);
        return 1;
    }
    for (int i = 1; a->prompt_scores && i < a->n_prompt; i++)
        if (tokens_differ(&a->prompt_scores[i], &b->prompt_scores[i])) {
            fprintf(stderr, "%s: prompt of %d, score of token %d: %.9g and %.9g\n", label,
                    a->n_prompt, i, (double)a->prompt_scores[i].logprob,
                    (double)b->prompt_scores[i].logprob);
            return 1;
        }
    for (int c = 0; c < a->n_choices; c++) {
        const run_choice *x = &a->choices[c], *y = &b->choices[c];
        for (int i = 0; i < x->n_tokens && i < y->n_tokens; i++)
            if (tokens_differ(&x->tokens[i], &y->tokens[i])) {
                fprintf(stderr, "%s: prompt of %d, choice %d, token %d: %d (%.9g) and %d (%.9g)\n",
                        label, a->n_prompt, c, i, x->tokens[i].id, (double)x->tokens[i].logprob,
                        y->tokens[i].id, (double)y->tokens[i].logprob);
                return 1;
            }
        if (x->n_tokens != y->n_tokens || x->finish != y->finish) {
            fprintf(stderr, "%s: prompt of %d, choice %d: %d tokens (finish %d) and %d (%d)\n",
                    label, a->n_prompt, c, x->n_tokens, x->finish, y->n_tokens, y->finish);
            return 1;
        }
    }
    return 0;
}
