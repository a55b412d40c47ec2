#include "support/sim_run.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/rng.h"
#include "sim/sim.h"
#include "sim/sim_backend.h"
#include "sim/sim_host_attention.h"
#include "sim/sim_transport.h"

#define POINTS(...)                                                                                \
    { __VA_ARGS__ }

sl_sim_rates sim_t4(void) {
    const sl_sim_curve link = {5, POINTS(65536, 262144, 1 << 20, 4 << 20, 16 << 20),
                               POINTS(4e9, 8e9, 10.5e9, 11.5e9, 12e9)};
    /* Up to 160 rows a product is as slow as reading its matrix at 250 GB/s. */
    const sl_sim_curve gemm = {
        10, POINTS(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        POINTS(.25e12, .5e12, 1e12, 2e12, 4e12, 8e12, 16e12, 28e12, 36e12, 40e12)};
    const sl_sim_rates t4 = {
        .gpu_bytes = 14.5 * 1073741824.0,
        .cpu_bytes = 200e9,
        .disk_bytes = 1500e9,
        .h2d_bps = link,
        .d2h_bps = link,
        .duplex_bps = 20e9,
        .dram_bps = 60e9,
        .dram_beside_h2d_bps = 60e9,
        .disk_read_bps = {1, {1 << 20}, {2e9}},
        .disk_write_bps = {1, {1 << 20}, {1e9}},
        .wire_bps = 1.25e9,
        .wire_latency_s = 50e-6,
        .host_attend_bps = {{1, {512}, {45e9}}, {1, {512}, {40e9}}, {1, {512}, {30e9}}},
        .gemm_flops = {gemm, gemm, gemm},
        .attend_bps = {{2, {1, 16}, {100e9, 220e9}},
                       {2, {1, 16}, {80e9, 180e9}},
                       {2, {1, 16}, {60e9, 120e9}}},
        .prefill_attend_flops = {{1, {512}, {10e12}}, {1, {512}, {10e12}}, {1, {512}, {10e12}}},
        .memory_bps = 250e9,
        .layer_s = 100e-6,
        .sweep_s = 2e-3,
        .host_job_s = 50e-6};
    return t4;
}

/* ---- one rank ---- */

typedef struct {
    const sim_job *job;
    sl_sim *sim;
    sl_sim_mail *mail;
    int rank;
    sim_outcome *out;
    sl_status status;
    char message[512];
} rank_run;

static sl_status submit(sl_engine *e, const sim_job *job, int vocab, int i) {
    int32_t *prompt = malloc((size_t)job->prompt_len * sizeof *prompt);
    if (!prompt) return SL_FAIL(SL_ERR_NOMEM, "no memory for a prompt");
    for (int k = 0; k < job->prompt_len; k++)
        prompt[k] = (int32_t)(sl_rng_at((uint64_t)i, (uint64_t)k) % (uint64_t)vocab);
    const sl_engine_request request = {
        .prompt = prompt,
        .n_prompt = job->prompt_len,
        .max_tokens = job->gen_len,
        .n = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .key = (uint64_t)i}};
    uint64_t id;
    const sl_status st = sl_engine_submit(e, &request, &id);
    free(prompt);
    return st;
}

static sl_status drive(sl_engine *e, const sim_job *job, int vocab, sim_outcome *out) {
    for (int i = 0; i < job->n_prompts; i++) SL_TRY(submit(e, job, vocab, i));
    sl_engine_finish(e);
    for (int done = 0; !done;) {
        SL_TRY(sl_engine_step(e, &done));
        const sl_engine_result *r = NULL;
        while (sl_engine_take(e, &r) == SL_OK && r) {
            uint64_t hash = r->id; /* requests may end in any order: their hashes are added up */
            for (int k = 0; k < r->choices[0].n_tokens; k++)
                hash = sl_rng_mix(hash + (uint64_t)r->choices[0].tokens[k].id);
            out->hash += hash;
            out->n_tokens += (uint64_t)r->choices[0].n_tokens;
            sl_engine_release(e, r);
        }
    }
    return SL_OK;
}

static sl_status open_transport(const rank_run *r, sl_transport **out) {
    return sl_sim_n_ranks(r->sim) > 1 ? sl_sim_transport_open(r->mail, r->rank, out)
                                      : sl_transport_open_loopback(out);
}

static sl_status run_rank(rank_run *r) {
    sl_status st = SL_OK;
    const sim_job *job = r->job;
    const sl_sim_rates *rates = sl_sim_machine_rates(sl_sim_machine_of(r->sim, r->rank));
    const sl_sim_backend_options options = {.device_bytes = job->gpu_bytes};
    sl_policy policy = job->policy;
    sl_source *source = NULL;
    sl_transport *t = NULL;
    sl_backend *be = NULL;
    sl_host_attention *ha = NULL;
    sl_engine *e = NULL;
    int vocab = 0;
    SL_GO(open_transport(r, &t));
    st = job->config ? sl_source_open_dummy(job->config, job->model, 0, &source)
                     : sl_source_open(job->model, 0, &source);
    if (st == SL_OK) st = sl_sim_backend_open(r->sim, r->rank, &options, &be);
    if (st == SL_OK) st = sl_sim_host_attention_open(r->sim, r->rank, &ha);
    SL_GO(t->ops->agree(t, st));
    vocab = sl_source_config(source)->vocab;
    policy.host_attention = be->ops->device ? ha : NULL;
    if (job->weights) policy.weights = job->weights[r->rank];
    if (policy.cpu_budget_bytes == 0) policy.cpu_budget_bytes = (size_t)rates->cpu_bytes;
    if (rates->disk_bytes > 0.0) policy.disk_dir = "/nowhere";
    if (policy.disk_budget_bytes == 0) policy.disk_budget_bytes = (size_t)rates->disk_bytes;
    SL_GO(sl_engine_open(source, be, t, &policy, NULL, &e));
    r->out->policy = policy;
    r->out->start_s = sl_clock_s();
    if (r->rank == 0)
        SL_GO(drive(e, job, vocab, r->out));
    else
        for (int done = 0; !done;) SL_GO(sl_engine_step(e, &done));
    r->out->end_s = sl_clock_s();
    sl_engine_get_stats(e, &r->out->stats);

fail:
    sl_engine_close(e);
    sl_host_attention_close(ha);
    sl_backend_close(be);
    sl_source_close(source);
    sl_transport_close(t);
    return st;
}

static void *run_thread(void *context) {
    rank_run *r = context;
    sl_sim_enter(r->sim, r->rank);
    r->status = run_rank(r);
    if (r->status != SL_OK) snprintf(r->message, sizeof r->message, "%s", sl_error_message());
    sl_sim_leave(r->sim, r->rank);
    return NULL;
}

enum { MAX_RANKS = 64 };

sl_status sim_run(const sim_job *job, const sl_sim_rates *rates, int n_ranks, sim_outcome *out) {
    sl_status st = SL_OK;
    sl_sim *sim = NULL;
    sl_sim_mail *mail = NULL;
    rank_run run[MAX_RANKS];
    pthread_t thread[MAX_RANKS];
    if (n_ranks > MAX_RANKS) return SL_FAIL(SL_ERR_ARG, "%d ranks", n_ranks);
    SL_TRY(sl_sim_open(rates, n_ranks, &sim));
    SL_GO(sl_sim_mail_open(sim, &mail));
    for (int i = 0; i < n_ranks; i++) {
        out[i] = (sim_outcome){0};
        run[i] = (rank_run){.job = job, .sim = sim, .mail = mail, .rank = i, .out = &out[i]};
        if (i > 0 && pthread_create(&thread[i], NULL, run_thread, &run[i]) != 0) abort();
    }
    run_thread(&run[0]);
    for (int i = 1; i < n_ranks; i++) (void)pthread_join(thread[i], NULL);
    for (int i = n_ranks - 1; i >= 0; i--)
        if (run[i].status != SL_OK) st = sl_fail_text(run[i].status, run[i].message);

fail:
    sl_sim_mail_close(mail);
    sl_sim_close(sim);
    return st;
}

double sim_tps(const sim_outcome *first) {
    return (double)first->n_tokens / (first->stats.prefill_s + first->stats.decode_s);
}
