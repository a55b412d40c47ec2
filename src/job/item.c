#include "job/item.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "job/stream.h"

/* ---- ownership ---- */

sl_status sl_item_open(sl_item_shared *shared, sl_request *request, sl_item **out) {
    sl_item *it = calloc(1, sizeof *it);
    if (!it) return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", request->line);
    it->shared = shared;
    it->request = *request;
    it->created = (int64_t)time(NULL);
    *out = it;
    return SL_OK;
}

static void free_parts(sl_item *it) {
    for (int p = 0; it->parts && p < it->request.n_prompts; p++) {
        sl_item_part *pt = &it->parts[p];
        if (pt->result) sl_engine_release(it->shared->engine, pt->result);
        for (int c = 0; c < pt->n_texts; c++) sl_choice_text_close(pt->texts[c]);
        free(pt->texts);
        free(pt->sent_bytes);
    }
    free(it->parts);
    it->parts = NULL;
}

void sl_item_close(sl_item *it) {
    if (!it) return;
    free_parts(it);
    sl_request_free(&it->request);
    sl_json_free(&it->line);
    free(it);
}

/* ---- submitting ---- */

/* Messages of the library end with the place in the source, which says nothing to who wrote the
 * request. */
static void refuse_as_failed(sl_item *it) {
    char message[512];
    snprintf(message, sizeof message, "%s", sl_error_message());
    char *place = strrchr(message, '(');
    if (place && place > message && strstr(place, ".c:")) place[-1] = '\0';
    sl_request_refuse(&it->request.error, "", "line %" PRIu64 ": %s", it->request.line, message);
}

/* The ids that end a choice: the request's own, and the model's unless they are to be ignored. */
static int collect_end_ids(sl_item *it) {
    const sl_params *params = &it->request.params;
    const sl_model_config *config = it->shared->config;
    const sl_tokenizer *tokenizer = it->shared->result.tokenizer;
    const int vocab = config->vocab;
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
    for (int i = 0; i < config->n_eos; i++) eos[n_eos++] = config->eos_id[i];
    if (n_eos == 0 && tokenizer && sl_tokenizer_eos_id(tokenizer) >= 0)
        eos[n_eos++] = sl_tokenizer_eos_id(tokenizer);
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

static int check_bias(sl_item *it) {
    const sl_params *params = &it->request.params;
    const int vocab = it->shared->config->vocab;
    for (int i = 0; i < params->n_bias; i++) {
        if (params->bias[i].id >= vocab)
            return sl_request_refuse(&it->request.error, "logit_bias",
                                     "line %" PRIu64 ": logit_bias: found token id %" PRId32
                                     ", expected ids below the vocabulary's %d",
                                     it->request.line, params->bias[i].id, vocab);
    }
    return 1;
}

static sl_sampling make_sampling(const sl_item *it, int p) {
    const sl_params *params = &it->request.params;
    /* A request's own seed gives the same text wherever the request stands; without one the line
     * number takes its place. */
    const uint64_t base = params->has_seed ? sl_rng_mix(params->seed)
                                           : sl_rng_at(it->shared->result.seed, it->request.line);
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
static sl_status submit_ids(sl_item *it, int p, const int32_t *ids, size_t n) {
    const sl_params *params = &it->request.params;
    sl_item_part *pt = &it->parts[p];
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
    pt->sent_bytes = calloc((size_t)n_choices, sizeof *pt->sent_bytes);
    if (!pt->texts || !pt->sent_bytes)
        return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
    pt->n_texts = n_choices;
    pt->n_context = n < SL_ITEM_CONTEXT_TOKENS ? (int)n : SL_ITEM_CONTEXT_TOKENS;
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
    const sl_status st = sl_engine_submit(it->shared->engine, &request, &pt->id);
    if (st == SL_ERR_ARG) {
        refuse_as_failed(it);
        return SL_OK;
    }
    if (st != SL_OK) return st;
    it->n_open++;
    pt->is_open = 1;
    return SL_OK;
}

static sl_status submit_prompt(sl_item *it, int p) {
    const sl_prompt *prompt = &it->request.prompts[p];
    const sl_tokenizer *tokenizer = it->shared->result.tokenizer;
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
    sl_status st = sl_tokenizer_encode(tokenizer, prompt->text.bytes, prompt->text.n_bytes,
                                       it->request.params.add_special_tokens, &ids, &n);
    if (st == SL_ERR_FORMAT || st == SL_ERR_ARG) { /* a text that this tokenizer cannot take */
        refuse_as_failed(it);
        return SL_OK;
    }
    if (st == SL_OK) st = submit_ids(it, p, ids, n);
    free(ids);
    return st;
}

sl_status sl_item_submit(sl_item *it) {
    if (it->request.error.status_code || !collect_end_ids(it) || !check_bias(it)) return SL_OK;
    it->parts = calloc((size_t)it->request.n_prompts, sizeof *it->parts);
    if (!it->parts)
        return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
    for (int p = 0; p < it->request.n_prompts && !it->request.error.status_code; p++)
        SL_TRY(submit_prompt(it, p));
    return SL_OK;
}

/* ---- tokens ---- */

static sl_status push_token(sl_item_part *pt, int choice, int32_t id, int *ended_out) {
    sl_item *it = pt->item;
    if (choice < 0 || choice >= pt->n_texts)
        return SL_FAIL(SL_ERR_ARG, "line %" PRIu64 ": token for choice %d of %d", it->request.line,
                       choice, pt->n_texts);
    if (!pt->texts[choice]) {
        const sl_choice_text_options options = {.tokenizer = it->shared->result.tokenizer,
                                                .params = &it->request.params,
                                                .prompt = pt->context,
                                                .n_prompt = pt->n_context,
                                                .end_ids = it->end_ids,
                                                .n_end_ids = it->n_end_ids};
        SL_TRY(sl_choice_text_open(&options, &pt->texts[choice]));
    }
    return sl_choice_text_push(pt->texts[choice], id, ended_out);
}

int sl_item_on_token(sl_item_part *pt, int choice, const sl_choice *token) {
    sl_item_shared *shared = pt->item->shared;
    int ended = 0;
    shared->n_generated_tokens++;
    /* Another prompt of the same line was refused: this one's answer will not be used. */
    if (pt->item->request.error.status_code || shared->token_st != SL_OK) return 1;
    shared->token_st = push_token(pt, choice, token->id, &ended);
    if (shared->token_st == SL_OK && pt->item->request.stream)
        shared->token_st = sl_stream_token(pt, choice, token);
    if (shared->token_st == SL_OK) return ended;
    snprintf(shared->token_message, sizeof shared->token_message, "%s", sl_error_message());
    return 1;
}

/* ---- results ---- */

void sl_item_take(sl_item_part *pt, const sl_engine_result *result) {
    pt->result = result;
    pt->is_open = 0;
    for (int c = 0; c < result->n_choices; c++)
        pt->item->dropped |= result->choices[c].finish == SL_FINISH_CANCELLED;
    pt->item->n_open--;
}

void sl_item_cancel(sl_item *it) {
    for (int p = 0; it->parts && p < it->request.n_prompts; p++) {
        if (it->parts[p].is_open) sl_engine_cancel(it->shared->engine, it->parts[p].id);
    }
}

static sl_status build_answer(sl_item *it) {
    sl_status st = SL_OK;
    const int n = it->request.n_prompts;
    sl_result_part *parts = calloc((size_t)n, sizeof *parts);
    if (!parts) return SL_FAIL(SL_ERR_NOMEM, "line %" PRIu64 ": out of memory", it->request.line);
    for (int p = 0; p < n; p++) {
        sl_item_part *pt = &it->parts[p];
        for (int c = 0; c < pt->n_texts; c++) {
            if (pt->texts[c]) SL_GO(sl_choice_text_finish(pt->texts[c]));
        }
        parts[p] = (sl_result_part){.result = pt->result, .texts = pt->texts};
        it->shared->n_prompt_tokens += (uint64_t)pt->result->n_prompt;
    }
    if (it->request.stream) {
        st = sl_stream_end(it, parts);
    } else {
        st = sl_result_answer(&it->shared->result, &it->request, parts, it->created, &it->line);
    }

fail:
    free(parts);
    return st;
}

sl_status sl_item_finish(sl_item *it) {
    if (it->request.error.status_code) {
        SL_TRY(sl_result_refusal(&it->shared->result, &it->request, &it->line));
    } else {
        SL_TRY(build_answer(it));
    }
    free_parts(it);
    it->ready = 1;
    return SL_OK;
}
