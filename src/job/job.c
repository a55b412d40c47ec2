#include "job/job.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "job/choice_text.h"
#include "job/result.h"

enum {
    CONTEXT_TOKENS = 16, /* of a prompt's end, kept for the decoder of its choices */
    WARNED_FIELDS = 64,  /* names of unknown fields that are remembered */
    WINDOW_SEATS = 16,   /* lines under way or waiting for an older one, per seat of the engine */
    WINDOW_LINES_MIN = 256,    /* at least so many */
    HELD_BYTES_MAX = 256 << 20 /* results that wait for an older line */
};

typedef struct job job;
typedef struct item item;

/* One prompt of a line. */
typedef struct {
    item *item;
    const sl_engine_result *result; /* NULL until the engine gave it; released with the item */
    int n_texts;
    sl_choice_text **texts; /* [n_texts], opened with the first token */
    int n_context;
    int32_t context[CONTEXT_TOKENS]; /* last tokens of the prompt */
} part;

/* One line under way.  Items form a list in the order of the lines. */
struct item {
    job *job;
    item *before, *after;
    sl_request request;
    part *parts; /* [request.n_prompts] */
    int n_open;  /* parts that the engine has */
    int n_end_ids;
    int32_t end_ids[SL_MAX_STOP_IDS];
    sl_json_text line; /* the result, when ready */
    int ready;
    int dropped; /* the engine was stopped before it was done: no result */
};

struct job {
    const sl_job_options *o;
    sl_job_counts *counts;
    sl_result_job shared;
    item *first, *last;
    int n_items, window;
    size_t held_bytes; /* of results that are ready and not written */
    int n_open;        /* parts that the engine has */
    int ended;         /* no more lines */
    int stopped;
    sl_job_format format;
    uint64_t line_number;  /* of the line in hand */
    sl_status callback_st; /* first failure inside the token callback */
    char callback_message[1024];
    int n_warned;
    char warned[WARNED_FIELDS][64];
};

/* ---- items ---- */

static void free_parts(item *it) {
    for (int p = 0; it->parts && p < it->request.n_prompts; p++) {
        part *pt = &it->parts[p];
        if (pt->result) sl_engine_release(it->job->o->engine, pt->result);
        for (int c = 0; c < pt->n_texts; c++) sl_choice_text_close(pt->texts[c]);
        free(pt->texts);
    }
    free(it->parts);
    it->parts = NULL;
}

static void free_item(item *it) {
    free_parts(it);
    sl_request_free(&it->request);
    sl_json_free(&it->line);
    free(it);
}

static void link_item(job *j, item *it) {
    it->before = j->last;
    if (j->last) {
        j->last->after = it;
    } else {
        j->first = it;
    }
    j->last = it;
    j->n_items++;
}

static void unlink_item(job *j, item *it) {
    if (it->before) {
        it->before->after = it->after;
    } else {
        j->first = it->after;
    }
    if (it->after) {
        it->after->before = it->before;
    } else {
        j->last = it->before;
    }
    j->n_items--;
}

/* ---- results ---- */

static sl_status write_item(job *j, item *it) {
    SL_TRY(sl_writer_put(j->o->writer, it->line.data, it->line.n_bytes));
    if (it->request.error.status_code) {
        j->counts->n_refused++;
    } else {
        j->counts->n_answered++;
    }
    j->held_bytes -= it->line.n_bytes;
    unlink_item(j, it);
    free_item(it);
    return SL_OK;
}

/* Writes what is ready; in input order only as far as no older line is missing, unless `all`. */
static sl_status write_ready(job *j, int all) {
    for (item *it = j->first, *next; it; it = next) {
        next = it->after;
        if (it->ready) {
            SL_TRY(write_item(j, it));
        } else if (j->o->order == SL_ORDER_INPUT && !all) {
            return SL_OK;
        }
    }
    return SL_OK;
}

static sl_status build_answer(job *j, item *it) {
    sl_status st = SL_OK;
    const int n = it->request.n_prompts;
    sl_result_part *parts = calloc((size_t)n, sizeof *parts);
    if (!parts) return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
    for (int p = 0; p < n; p++) {
        part *pt = &it->parts[p];
        for (int c = 0; c < pt->n_texts; c++) {
            if (pt->texts[c]) SL_GO(sl_choice_text_finish(pt->texts[c]));
        }
        parts[p] = (sl_result_part){.result = pt->result, .texts = pt->texts};
        j->counts->n_prompt_tokens += (uint64_t)pt->result->n_prompt;
    }
    st = sl_result_answer(&j->shared, &it->request, parts, (int64_t)time(NULL), &it->line);

fail:
    free(parts);
    return st;
}

/* All parts of the line are back from the engine, or it never got there. */
static sl_status complete_item(job *j, item *it) {
    if (it->dropped) {
        unlink_item(j, it);
        free_item(it);
        return SL_OK;
    }
    if (it->request.error.status_code) {
        SL_TRY(sl_result_refusal(&j->shared, &it->request, &it->line));
    } else {
        SL_TRY(build_answer(j, it));
    }
    free_parts(it);
    it->ready = 1;
    j->held_bytes += it->line.n_bytes;
    return SL_OK;
}

static sl_status take_results(job *j) {
    for (;;) {
        const sl_engine_result *result = NULL;
        SL_TRY(sl_engine_take(j->o->engine, &result));
        if (!result) return SL_OK;
        part *pt = result->user;
        item *it = pt->item;
        pt->result = result;
        for (int c = 0; c < result->n_choices; c++)
            it->dropped |= result->choices[c].finish == SL_FINISH_CANCELLED;
        it->n_open--;
        j->n_open--;
        if (it->n_open > 0) continue;
        SL_TRY(complete_item(j, it));
        SL_TRY(write_ready(j, 0));
    }
}

/* ---- tokens ---- */

static sl_status push_token(part *pt, int choice, int32_t id, int *ended_out) {
    item *it = pt->item;
    if (choice < 0 || choice >= pt->n_texts)
        return SL_FAIL(SL_ERR_ARG, "line %" PRIu64 ": token for choice %d of %d", it->request.line,
                       choice, pt->n_texts);
    if (!pt->texts[choice]) {
        const sl_choice_text_options options = {.tokenizer = it->job->o->tokenizer,
                                                .params = &it->request.params,
                                                .prompt = pt->context,
                                                .n_prompt = pt->n_context,
                                                .end_ids = it->end_ids,
                                                .n_end_ids = it->n_end_ids};
        SL_TRY(sl_choice_text_open(&options, &pt->texts[choice]));
    }
    return sl_choice_text_push(pt->texts[choice], id, ended_out);
}

int sl_job_on_token(void *user, int choice, const sl_choice *token) {
    part *pt = user;
    job *j = pt->item->job;
    int ended = 0;
    j->counts->n_generated_tokens++;
    /* Another prompt of the same line was refused: this one's answer will not be used. */
    if (pt->item->request.error.status_code) return 1;
    if (j->callback_st != SL_OK) return 1;
    j->callback_st = push_token(pt, choice, token->id, &ended);
    if (j->callback_st != SL_OK) {
        snprintf(j->callback_message, sizeof j->callback_message, "%s", sl_error_message());
        return 1;
    }
    return ended;
}

/* ---- submitting ---- */

/* Messages of the library end with the place in the source, which says nothing to who wrote the
 * request. */
static void refuse_as_failed(item *it) {
    char message[512];
    snprintf(message, sizeof message, "%s", sl_error_message());
    char *place = strrchr(message, '(');
    if (place && place > message && strstr(place, ".c:")) place[-1] = '\0';
    sl_request_refuse(&it->request.error, "", "line %" PRIu64 ": %s", it->request.line, message);
}

/* The ids that end a choice: the request's own, and the model's unless they are to be ignored. */
static int collect_end_ids(item *it) {
    const sl_params *params = &it->request.params;
    const sl_job_options *o = it->job->o;
    const int vocab = o->config->vocab;
    for (int i = 0; i < params->n_stop_ids; i++) {
        if (params->stop_ids[i] >= vocab)
            return sl_request_refuse(&it->request.error, "stop_token_ids",
                                     "line %" PRIu64 ": stop_token_ids: found %" PRId32
                                     ", expected ids below the vocabulary's %d",
                                     it->request.line, params->stop_ids[i], vocab);
        it->end_ids[it->n_end_ids++] = params->stop_ids[i];
    }
    if (params->ignore_eos) return 1;
    int32_t eos[SL_MAX_EOS];
    int n_eos = 0;
    for (int i = 0; i < o->config->n_eos; i++) eos[n_eos++] = o->config->eos_id[i];
    if (n_eos == 0 && o->tokenizer && sl_tokenizer_eos_id(o->tokenizer) >= 0)
        eos[n_eos++] = sl_tokenizer_eos_id(o->tokenizer);
    for (int i = 0; i < n_eos; i++) {
        int known = 0;
        for (int k = 0; k < it->n_end_ids; k++) known |= it->end_ids[k] == eos[i];
        if (known) continue;
        if (it->n_end_ids == SL_MAX_STOP_IDS)
            return sl_request_refuse(&it->request.error, "stop_token_ids",
                                     "line %" PRIu64 ": stop_token_ids: found %d, expected at most "
                                     "%d beside the model's own",
                                     it->request.line, params->n_stop_ids, SL_MAX_STOP_IDS - n_eos);
        it->end_ids[it->n_end_ids++] = eos[i];
    }
    return 1;
}

static int check_bias(item *it) {
    const sl_params *params = &it->request.params;
    const int vocab = it->job->o->config->vocab;
    for (int i = 0; i < params->n_bias; i++) {
        if (params->bias[i].id >= vocab)
            return sl_request_refuse(&it->request.error, "logit_bias",
                                     "line %" PRIu64 ": logit_bias: found token id %" PRId32
                                     ", expected ids below the vocabulary's %d",
                                     it->request.line, params->bias[i].id, vocab);
    }
    return 1;
}

static sl_sampling make_sampling(const item *it, int p) {
    const sl_params *params = &it->request.params;
    /* A request's own seed gives the same text wherever the request stands; without one the line
     * number takes its place. */
    const uint64_t base =
        params->has_seed ? sl_rng_mix(params->seed) : sl_rng_at(it->job->o->seed, it->request.line);
    sl_sampling sampling = {.temperature = (float)params->temperature,
                            .top_k = params->top_k,
                            .top_p = (float)params->top_p,
                            .min_p = (float)params->min_p,
                            .repetition_penalty = (float)params->repetition_penalty,
                            .frequency_penalty = (float)params->frequency_penalty,
                            .presence_penalty = (float)params->presence_penalty,
                            .key = sl_rng_at(base, (uint64_t)p),
                            .min_tokens = params->min_tokens,
                            .n_bias = params->n_bias,
                            .bias = params->bias,
                            .n_logprobs = params->logprobs};
    if (params->min_tokens > 0) {
        sampling.n_ban = it->n_end_ids;
        memcpy(sampling.ban, it->end_ids, sizeof sampling.ban);
    }
    /* Choosing the best of several needs their probabilities. */
    if (params->best_of > params->n && sampling.n_logprobs < 0) sampling.n_logprobs = 0;
    return sampling;
}

/* Hands a prompt's ids to the engine.  A prompt that can never run makes the line an error. */
static sl_status submit_ids(item *it, int p, const int32_t *ids, size_t n) {
    const sl_params *params = &it->request.params;
    part *pt = &it->parts[p];
    if (n == 0) {
        sl_request_refuse(&it->request.error, "prompt", "line %" PRIu64 ": prompt: found no tokens",
                          it->request.line);
        return SL_OK;
    }
    if (n > INT32_MAX)
        return SL_FAIL(SL_ERR_ARG, "line %" PRIu64 ": %zu tokens", it->request.line, n);
    /* Greedy choices are all the same: none is the best of them. */
    const int n_choices =
        params->best_of > params->n && params->temperature > 0 ? params->best_of : params->n;
    pt->item = it;
    pt->texts = calloc((size_t)n_choices, sizeof *pt->texts);
    if (!pt->texts)
        return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
    pt->n_texts = n_choices;
    pt->n_context = n < CONTEXT_TOKENS ? (int)n : CONTEXT_TOKENS;
    memcpy(pt->context, ids + n - (size_t)pt->n_context, (size_t)pt->n_context * sizeof *ids);

    sl_engine_request request = {.prompt = ids,
                                 .n_prompt = (int)n,
                                 .max_tokens = params->max_tokens,
                                 .n = n_choices,
                                 .echo_logprobs = params->echo && params->logprobs >= 0,
                                 .sampling = make_sampling(it, p),
                                 .n_stop_ids = it->n_end_ids,
                                 .user = pt};
    memcpy(request.stop_ids, it->end_ids, sizeof request.stop_ids);
    uint64_t id;
    const sl_status st = sl_engine_submit(it->job->o->engine, &request, &id);
    if (st == SL_ERR_ARG) {
        refuse_as_failed(it);
        return SL_OK;
    }
    if (st != SL_OK) return st;
    it->n_open++;
    it->job->n_open++;
    return SL_OK;
}

static sl_status submit_prompt(item *it, int p) {
    const sl_prompt *prompt = &it->request.prompts[p];
    const sl_tokenizer *tokenizer = it->job->o->tokenizer;
    if (!prompt->text.bytes) return submit_ids(it, p, prompt->ids, (size_t)prompt->n_ids);
    if (!tokenizer) {
        sl_request_refuse(&it->request.error, "prompt",
                          "line %" PRIu64 ": prompt: found text, expected token ids: the model has "
                          "no tokenizer",
                          it->request.line);
        return SL_OK;
    }
    int32_t *ids = NULL;
    size_t n = 0;
    SL_TRY(sl_tokenizer_encode(tokenizer, prompt->text.bytes, prompt->text.n_bytes,
                               it->request.params.add_special_tokens, &ids, &n));
    const sl_status st = submit_ids(it, p, ids, n);
    free(ids);
    return st;
}

static sl_status submit_item(job *j, item *it) {
    if (!it->request.error.status_code && collect_end_ids(it) && check_bias(it)) {
        it->parts = calloc((size_t)it->request.n_prompts, sizeof *it->parts);
        if (!it->parts)
            return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
        for (int p = 0; p < it->request.n_prompts && !it->request.error.status_code; p++)
            SL_TRY(submit_prompt(it, p));
    }
    if (it->n_open > 0) return SL_OK;
    SL_TRY(complete_item(j, it));
    return write_ready(j, 0);
}

/* ---- reading ---- */

static void warn_unknown(void *context, const char *field) {
    job *j = context;
    char text[160];
    for (int i = 0; i < j->n_warned; i++) {
        if (strncmp(j->warned[i], field, sizeof j->warned[i] - 1) == 0) return;
    }
    if (j->n_warned == WARNED_FIELDS || !j->o->warn) return;
    snprintf(j->warned[j->n_warned++], sizeof j->warned[0], "%s", field);
    snprintf(text, sizeof text,
             "line %" PRIu64 ": unknown field \"%.60s\" is ignored, here and below", j->line_number,
             field);
    if (j->o->progress) sl_progress_clear(j->o->progress);
    j->o->warn(j->o->warn_context, text);
}

static sl_status admit_line(job *j, const sl_read *read) {
    if (read->kind == SL_READ_LINE && sl_request_is_blank(read->line, read->n_bytes)) return SL_OK;
    item *it = calloc(1, sizeof *it);
    if (!it) return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", read->number);
    it->job = j;
    j->line_number = read->number;
    sl_status st;
    if (read->kind == SL_READ_TOO_LONG) {
        st = sl_request_refused_line(read->number, "longer than 64 MiB", &it->request);
    } else {
        if (j->format == SL_FORMAT_AUTO) j->format = sl_request_detect(read->line, read->n_bytes);
        st = sl_request_parse(read->line, read->n_bytes, read->number, j->format, &j->o->defaults,
                              warn_unknown, j, &it->request);
    }
    if (st != SL_OK) {
        free(it);
        return st;
    }
    j->counts->n_lines++;
    link_item(j, it);
    return submit_item(j, it);
}

/* Reads lines as long as the engine has room for them; waits for one only where there is nothing
 * else to do. */
static sl_status admit(job *j) {
    sl_engine *engine = j->o->engine;
    const int room = 2 * sl_engine_n_seats(engine);
    while (!j->ended && sl_engine_n_queued(engine) < room && j->n_items < j->window &&
           j->held_bytes < HELD_BYTES_MAX) {
        sl_read read;
        SL_TRY(sl_reader_next(j->o->reader, j->n_open == 0, &read));
        if (read.kind == SL_READ_NOTHING) return SL_OK;
        if (read.kind == SL_READ_END) {
            j->ended = 1;
            sl_engine_finish(engine);
            return SL_OK;
        }
        SL_TRY(admit_line(j, &read));
        if (j->o->stop && *j->o->stop) return SL_OK;
    }
    return SL_OK;
}

/* ---- the job ---- */

static sl_status check_callback(const job *j) {
    if (j->callback_st == SL_OK) return SL_OK;
    return sl_fail_text(j->callback_st, j->callback_message);
}

static sl_status run_turns(job *j) {
    int done = 0;
    while (!done) {
        if (j->o->stop && *j->o->stop && !j->stopped) {
            j->stopped = j->ended = 1;
            sl_engine_stop(j->o->engine);
        }
        SL_TRY(admit(j));
        if (j->n_open == 0 && !j->ended) continue; /* a signal came while waiting for a line */
        j->counts->engine_failed = 1;
        SL_TRY(sl_pace_step(&j->counts->pace, j->o->engine, &done));
        j->counts->engine_failed = 0;
        SL_TRY(check_callback(j));
        SL_TRY(take_results(j));
        if (j->o->progress)
            sl_progress_update(j->o->progress, j->counts->n_answered + j->counts->n_refused,
                               j->counts->n_generated_tokens);
    }
    return write_ready(j, 1);
}

/* A failure of our own, which the other ranks know nothing of: ends them, keeps the message. */
static sl_status end_others(job *j, sl_status failure) {
    char message[1024];
    snprintf(message, sizeof message, "%s", sl_error_message());
    sl_engine_stop(j->o->engine);
    int done = 0;
    while (!done && sl_engine_step(j->o->engine, &done) == SL_OK) {
    }
    return sl_fail_text(failure, message);
}

/* How far a job got that a signal ended. */
static sl_status report_stop(const job *j) {
    const uint64_t n_done = j->counts->n_answered + j->counts->n_refused;
    const int64_t total = j->o->progress ? j->o->progress->total : -1;
    if (total < 0)
        return SL_FAIL(SL_ERR_STOPPED, "stopped by a signal: %" PRIu64 " requests are answered",
                       n_done);
    return SL_FAIL(SL_ERR_STOPPED,
                   "stopped by a signal: %" PRIu64 " of %" PRId64 " requests are answered", n_done,
                   total);
}

sl_status sl_job_run(const sl_job_options *options, sl_job_counts *counts) {
    *counts = (sl_job_counts){0};
    job *j = calloc(1, sizeof *j);
    if (!j) return SL_FAIL(SL_ERR_NOMEM, "job: out of host memory");
    j->o = options;
    j->counts = counts;
    j->format = options->format;
    j->shared = (sl_result_job){
        .model = options->model_name, .tokenizer = options->tokenizer, .seed = options->seed};
    const int seats = sl_engine_n_seats(options->engine);
    j->window = seats > WINDOW_LINES_MIN / WINDOW_SEATS ? WINDOW_SEATS * seats : WINDOW_LINES_MIN;

    sl_status st = sl_writer_start(options->writer);
    if (st == SL_OK) st = run_turns(j);
    if (st == SL_OK && j->stopped)
        st = report_stop(j);
    else if (st != SL_OK && !counts->engine_failed)
        st = end_others(j, st);

    if (options->progress) sl_progress_clear(options->progress);
    while (j->first) {
        item *it = j->first;
        unlink_item(j, it);
        free_item(it);
    }
    free(j);
    return st;
}

sl_status sl_job_follow(sl_engine *engine) {
    int done = 0;
    while (!done) SL_TRY(sl_engine_step(engine, &done));
    return SL_OK;
}
