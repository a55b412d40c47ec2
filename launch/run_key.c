#include "run_key.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/stamp.h"

static sl_status add_int(sl_job_key *key, const char *name, int value) {
    return sl_job_key_add(key, name, "%d", value);
}

/* The fewest digits that read back as the same number. */
static sl_status add_real(sl_job_key *key, const char *name, double value) {
    char text[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return sl_job_key_add(key, name, "%s", text);
}

static sl_status add_stops(sl_job_key *key, const sl_params *p) {
    sl_json_text text = {0};
    sl_json_raw(&text, "[");
    for (int i = 0; i < p->n_stops; i++) {
        if (i) sl_json_raw(&text, ", ");
        sl_json_string(&text, p->stops[i].bytes, p->stops[i].n_bytes);
    }
    sl_json_raw(&text, "]");
    sl_status st = sl_json_status(&text);
    if (st == SL_OK) st = sl_job_key_add(key, "--stop", "%s", text.data);
    sl_json_free(&text);
    return st;
}

static sl_status add_defaults(sl_job_key *key, const sl_params *p) {
    SL_TRY(add_int(key, "--max-tokens", p->max_tokens));
    SL_TRY(add_int(key, "--min-tokens", p->min_tokens));
    SL_TRY(add_int(key, "--choices", p->n));
    SL_TRY(add_real(key, "--temperature", p->temperature));
    SL_TRY(add_int(key, "--top-k", p->top_k));
    SL_TRY(add_real(key, "--top-p", p->top_p));
    SL_TRY(add_real(key, "--min-p", p->min_p));
    SL_TRY(add_real(key, "--repetition-penalty", p->repetition_penalty));
    SL_TRY(add_real(key, "--frequency-penalty", p->frequency_penalty));
    SL_TRY(add_real(key, "--presence-penalty", p->presence_penalty));
    SL_TRY(add_stops(key, p));
    SL_TRY(add_int(key, "--ignore-eos", p->ignore_eos));
    SL_TRY(add_int(key, "--logprobs", p->logprobs));
    SL_TRY(add_int(key, "--echo", p->echo));
    SL_TRY(add_int(key, "--return-token-ids", p->return_token_ids));
    return add_int(key, "--no-special-tokens", !p->add_special_tokens);
}

static sl_status add_all(sl_job_key *key, const sl_run_key_parts *parts) {
    const sl_setup_options *o = parts->setup;
    uint64_t stamp;
    SL_TRY(sl_model_stamp(o->model, &stamp));
    SL_TRY(sl_job_key_add(key, "the input", "%" PRId64 " requests (%016" PRIx64 ")", parts->n_lines,
                          parts->input_hash));
    SL_TRY(sl_job_key_add(key, "--model", "%s", o->model)); /* results name it */
    SL_TRY(sl_job_key_add(key, "the model's files", "%016" PRIx64, stamp));
    SL_TRY(sl_job_key_add(key, "--seed", "%" PRIu64, o->seed));
    SL_TRY(sl_job_key_add(key, "--format", "%s", parts->format));
    SL_TRY(sl_job_key_add(key, "--order", "%s", parts->order));
    SL_TRY(add_defaults(key, parts->defaults));
    SL_TRY(add_int(key, "--max-context", o->max_context));
    SL_TRY(sl_job_key_add(key, "--weights", "%s", sl_setup_weights[o->weights]));
    SL_TRY(sl_job_key_add(key, "--cache", "%s", sl_setup_caches[o->cache]));
    if (o->quality) SL_TRY(sl_job_key_add(key, "--quality", "%s", sl_setup_qualities[o->quality]));
    return add_real(key, "--attn-sparsity", o->attn_sparsity);
}

sl_status sl_run_key(const sl_run_key_parts *parts, sl_job_key *out) {
    sl_job_key key = {0};
    const sl_status st = add_all(&key, parts);
    if (st == SL_OK) {
        *out = key;
    } else {
        sl_job_key_free(&key);
    }
    return st;
}
