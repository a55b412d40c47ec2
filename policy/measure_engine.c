#include "measure_engine.h"

#include <math.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "measure_layer.h"
#include "model/source.h"

enum {
    FEW_LAYERS = 2,
    MANY_LAYERS = 10,
    MICRO_BATCHES = SL_MEASURE_MICRO_BATCHES,
    CONTEXT = 2048,
    FIRST_STEPS = 8
};

static int on_token(void *user, int choice, const sl_choice *token) {
    (void)user;
    (void)choice;
    (void)token;
    return 0;
}

static sl_status open_model(int n_layers, sl_source **out) {
    sl_model_config config;
    SL_TRY(sl_config_named("opt-125m", &config));
    config.n_layers = n_layers;
    config.hidden = config.embed_dim = config.head_dim = 64;
    config.n_heads = config.n_kv_heads = 1;
    config.ffn = 128;
    config.vocab = 256;
    config.max_positions = CONTEXT;
    config.bos_id = config.pad_id = -1;
    config.n_eos = 0;
    SL_TRY(sl_config_check(&config, "a model to measure with"));
    return sl_source_open_dummy(&config, "measure", 1, out);
}

static sl_status submit(sl_engine *engine) {
    static const int32_t prompt[1] = {1};
    uint64_t id;
    const sl_engine_request request = {
        .prompt = prompt,
        .n_prompt = 1,
        .max_tokens = CONTEXT - 1,
        .n = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
    };
    return sl_engine_submit(engine, &request, &id);
}

/* Median seconds of a step in which all micro-batches decode. */
static sl_status time_steps(sl_engine *engine, double sample_s, double *seconds_out) {
    enum { LEAST = 32 };
    double step_s[CONTEXT];
    int done = 0, n = 0;
    for (int i = 0; i < MICRO_BATCHES; i++) SL_TRY(submit(engine));
    for (int i = 0; i < FIRST_STEPS && !done; i++) SL_TRY(sl_engine_step(engine, &done));
    const double start_s = sl_clock_s();
    for (double now_s = start_s; !done && n < CONTEXT - 2 * FIRST_STEPS; n++) {
        if (n >= LEAST && now_s - start_s > sample_s) break;
        SL_TRY(sl_engine_step(engine, &done));
        const double end_s = sl_clock_s();
        step_s[n] = end_s - now_s;
        now_s = end_s;
    }
    sl_engine_stop(engine);
    while (!done) SL_TRY(sl_engine_step(engine, &done));
    if (n == 0) return SL_FAIL(SL_ERR_ARG, "the engine ended before it was measured");
    *seconds_out = sl_measure_median(step_s, n);
    return SL_OK;
}

static sl_status time_model(sl_measure *m, int n_layers, double *seconds_out) {
    sl_source *source = NULL;
    sl_transport *alone = NULL;
    sl_engine *engine = NULL;
    sl_policy policy;
    sl_status st = SL_OK;
    sl_policy_init(&policy);
    policy.micro_batch = 1;
    policy.num_micro_batches = MICRO_BATCHES;
    policy.max_rows = 16;
    policy.blocks_in_flight = 1;
    policy.max_context = CONTEXT;
    policy.cpu_budget_bytes = sl_tier_budget_bytes(m->host);
    SL_GO(open_model(n_layers, &source));
    SL_GO(sl_transport_open_loopback(&alone));
    SL_GO(sl_engine_open(source, m->be, alone, &policy, on_token, &engine));
    SL_GO(time_steps(engine, m->opt->sample_s, seconds_out));

fail:
    sl_engine_close(engine);
    sl_transport_close(alone);
    sl_source_close(source);
    return st;
}

sl_status sl_measure_engine(sl_measure *m, sl_profile *profile) {
    double few_s, many_s;
    SL_TRY(time_model(m, FEW_LAYERS, &few_s));
    sl_measure_point(m, 1, 2);
    SL_TRY(time_model(m, MANY_LAYERS, &many_s));
    double layer_s = fmax(many_s - few_s, 0.0) / (MANY_LAYERS - FEW_LAYERS) / MICRO_BATCHES;
    profile->sweep_s = sl_measure_round(fmax(few_s - layer_s * FEW_LAYERS * MICRO_BATCHES, 0.0));
    /* These models wait for launches, which a device that has work to do hides. */
    if (m->be->ops->bind_rows) SL_TRY(sl_measure_layer(m, &layer_s));
    profile->layer_s = sl_measure_round(layer_s);
    return SL_OK;
}
