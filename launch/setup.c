#include "setup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "capacity.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_host_attention.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "model/layout.h"
#include "setup_plan.h"
#include "setup_policy.h"
#include "simulate.h"

const char *const sl_setup_wishes[] = {"auto", "always", "never", NULL};
const char *const sl_setup_weights[] = {"stored", "f32", "f16", "q8", "q4", NULL};
const char *const sl_setup_caches[] = {"f16", "f32", "q8", "q4", NULL};
const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};
enum { BACKEND_AUTO, BACKEND_CPU, BACKEND_CUDA };

void sl_setup_options_init(sl_setup_options *options) {
    *options = (sl_setup_options){.cpu_attention = 100,
                                  .expected_prompt_len = 512,
                                  .expected_gen_len = 128,
                                  .expected_prompts = 1000};
}

sl_status sl_setup_agree(const sl_setup *setup, sl_status mine) {
    return setup->transport->ops->agree(setup->transport, mine);
}

sl_status sl_setup_begin(const sl_launch *launch, const sl_setup_options *options, sl_setup *out) {
    sl_setup setup = {.launch = launch, .options = options};
    if (launch->simulated) {
        SL_TRY(sl_simulated_open_transport(launch->simulated, &setup.transport));
    } else if (launch->is_mpi) {
        SL_TRY(sl_transport_open_mpi(&setup.transport));
    } else {
        SL_TRY(sl_transport_open_loopback(&setup.transport));
    }
    setup.workload = sl_workload_uniform(options->expected_prompt_len, options->expected_gen_len,
                                         options->expected_prompts);
    *out = setup;
    return SL_OK;
}

void sl_setup_close(sl_setup *setup) {
    sl_engine_close(setup->engine); /* may report to the trace until here */
    sl_host_attention_close(setup->host_attention);
    sl_trace_close(setup->trace);
    sl_backend_close(setup->backend);
    sl_tokenizer_close(setup->tokenizer);
    sl_source_close(setup->source);
    sl_transport_close(setup->transport);
    free(setup->ranks);
    *setup = (sl_setup){0};
}

/* ---- parts ---- */

static sl_status check_layers(const sl_setup *setup) {
    const sl_option_ints *layers = &setup->options->layers;
    const int n_ranks = setup->transport->n_ranks;
    int sum = 0;
    if (layers->n == 0) return SL_OK;
    if (layers->n != n_ranks)
        return SL_FAIL(SL_ERR_ARG, "--layers: found %d numbers, expected one for each of %d ranks",
                       layers->n, n_ranks);
    for (int i = 0; i < layers->n && sum <= setup->config.n_layers; i++) sum += layers->values[i];
    if (sum != setup->config.n_layers)
        return SL_FAIL(SL_ERR_ARG, "--layers: found a sum of %d, expected the model's %d layers",
                       sum, setup->config.n_layers);
    return SL_OK;
}

static sl_status open_tokenizer(sl_setup *setup) {
    const sl_checkpoint *ckpt = sl_source_checkpoint(setup->source);
    if (ckpt && sl_checkpoint_format(ckpt) == SL_CHECKPOINT_GGUF)
        return sl_tokenizer_open_gguf(ckpt, &setup->tokenizer);
    if (!ckpt) return SL_OK; /* dummy weights speak no language */
    return sl_tokenizer_open_folder(sl_source_path(setup->source), &setup->tokenizer);
}

/* A job of hours must not fail at its end for a file that cannot be written. */
static sl_status check_output(const char *what, const char *path) {
    FILE *file = path ? fopen(path, "a") : NULL;
    if (path && !file) return SL_FAIL(SL_ERR_IO, "open %s %s: %s", what, path, strerror(errno));
    if (file) fclose(file);
    return SL_OK;
}

static sl_status check_outputs(const sl_setup *setup) {
    SL_TRY(check_output("metrics", setup->options->metrics_path));
    return check_output("trace", setup->options->trace_path);
}

static sl_status open_source(sl_setup *setup, int with_tokenizer) {
    if (sl_launch_is_first(setup->launch)) SL_TRY(check_outputs(setup));
    SL_TRY(sl_source_open(setup->options->model, setup->options->seed, &setup->source));
    setup->config = *sl_source_config(setup->source);
    if (with_tokenizer && sl_launch_is_first(setup->launch)) SL_TRY(open_tokenizer(setup));
    return check_layers(setup);
}

static sl_status open_cpu(sl_setup *setup) {
    const sl_cpu_options cpu = {.n_threads = setup->n_threads,
                                .device_bytes = setup->options->gpu_mem_bytes};
    SL_TRY(sl_cpu_backend_open(&cpu, &setup->backend));
    snprintf(setup->backend_name, sizeof setup->backend_name, "cpu (%s)",
             sl_cpu_backend_simd(setup->backend));
    return SL_OK;
}

#ifdef SL_CUDA
/* The GPU of this rank: ranks of a host take turns. */
static sl_status open_cuda(sl_setup *setup, int n_devices) {
    const sl_capacity_gpu gpu = sl_capacity_gpu_of(setup->launch, n_devices);
    sl_policy *p = &setup->policy;
    /* The device computes on f16 and on our own low-bit formats. */
    if (p->weights_dtype == SL_DTYPE_AS_STORED || p->weights_dtype == SL_DTYPE_F32)
        p->weights_dtype = SL_DTYPE_F16;
    sl_cuda_options cuda = {.device = gpu.device,
                            .memory_bytes = setup->options->gpu_mem_bytes,
                            .max_rows = p->max_rows,
                            .n_bound = SL_BOUND_PER_BATCH *
                                       (p->num_micro_batches ? p->num_micro_batches : 2)};
    if (cuda.memory_bytes == 0) {
        size_t free_bytes;
        SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
        cuda.memory_bytes = sl_capacity_gpu_bytes(&gpu, free_bytes);
    }
    SL_TRY(sl_cuda_backend_open(&cuda, &setup->backend));
    snprintf(setup->backend_name, sizeof setup->backend_name, "cuda (gpu %d)", gpu.device);
    return SL_OK;
}
#endif

/* A simulated rank has the budgets of its machine where none are asked for. */
static sl_status open_simulated(sl_setup *setup) {
    const sl_simulated *sim = setup->launch->simulated;
    sl_policy *p = &setup->policy;
    SL_TRY(sl_simulated_open_backend(sim, setup->options->gpu_mem_bytes, &setup->backend));
    if (setup->backend->ops->device &&
        (p->weights_dtype == SL_DTYPE_AS_STORED || p->weights_dtype == SL_DTYPE_F32))
        p->weights_dtype = SL_DTYPE_F16;
    snprintf(setup->backend_name, sizeof setup->backend_name, "sim (%.64s)", sim->profile->name);
    return SL_OK;
}

static sl_status open_backend(sl_setup *setup) {
    const int wanted = setup->options->backend;
    if (setup->launch->simulated) return open_simulated(setup);
#ifdef SL_CUDA
    const int n_devices = wanted == BACKEND_CPU ? 0 : sl_cuda_device_count();
    if (wanted == BACKEND_CUDA && n_devices == 0)
        return SL_FAIL(SL_ERR_DEVICE, "--backend cuda: no CUDA device is found");
    /* A stand-in's memory is asked for by name only: where there is a GPU, --gpu-mem is its. */
    if (n_devices > 0) return open_cuda(setup, n_devices);
#else
    if (wanted == BACKEND_CUDA)
        return SL_FAIL(SL_ERR_ARG, "--backend cuda: this program was built without CUDA");
#endif
    return open_cpu(setup);
}

/* Threads that attend on the host beside a device, where some sequences want it.  One processor is
 * left to the thread that drives the device. */
static sl_status open_host_attention(sl_setup *setup) {
    const sl_policy *p = &setup->policy;
    const double below = p->cache.frac[SL_TIER_CPU] + p->cache.frac[SL_TIER_DISK];
    if (!setup->backend->ops->device || below == 0.0 || p->host_attends == 0.0) return SL_OK;
    if (setup->launch->simulated) {
        SL_TRY(sl_simulated_open_host_attention(setup->launch->simulated, &setup->host_attention));
        setup->policy.host_attention = setup->host_attention;
        return SL_OK;
    }
    const sl_cpu_host_options options = {.n_threads =
                                             setup->n_threads > 1 ? setup->n_threads - 1 : 1};
    SL_TRY(sl_cpu_host_attention_open(&options, &setup->host_attention));
    setup->policy.host_attention = setup->host_attention;
    return SL_OK;
}

sl_status sl_setup_open(sl_setup *setup, int with_tokenizer, sl_token_callback on_token) {
    const double start_s = sl_clock_s();
    SL_TRY(sl_setup_agree(setup, open_source(setup, with_tokenizer)));
    setup->n_threads = setup->options->n_threads;
    if (setup->launch->simulated) setup->n_threads = setup->launch->simulated->profile->n_threads;
    if (setup->n_threads == 0)
        SL_TRY(sl_capacity_threads(setup->launch, setup->transport, setup->options->quiet,
                                   &setup->n_threads));

    SL_TRY(sl_setup_choose_policy(setup));
    sl_status st = open_backend(setup);
    if (st == SL_OK) st = open_host_attention(setup);
    if (st == SL_OK && setup->options->trace_path)
        st = sl_trace_open(setup->transport, 0, &setup->trace);
    SL_TRY(sl_setup_agree(setup, st));
    if (setup->trace) {
        setup->policy.on_span = sl_trace_add;
        setup->policy.span_user = setup->trace;
    }
    SL_TRY(sl_engine_open(setup->source, setup->backend, setup->transport, &setup->policy, on_token,
                          &setup->engine));
    SL_TRY(sl_setup_predict(setup));
    sl_source_close(setup->source);
    setup->source = NULL;
    if (setup->trace) SL_TRY(sl_trace_start(setup->trace));
    setup->open_s = sl_clock_s() - start_s;
    return SL_OK;
}

/* ---- report ---- */

sl_status sl_setup_report(const sl_setup *setup, sl_report *report, sl_engine_stats **ranks_out) {
    sl_engine_stats *ranks = NULL;
    SL_TRY(sl_report_gather(setup->engine, setup->transport, &ranks));
    report->model = setup->options->model;
    report->backend = setup->backend_name;
    report->transport = setup->transport->ops->name;
    report->n_threads = setup->n_threads;
    report->policy = sl_engine_policy(setup->engine);
    report->open_s = setup->open_s;
    report->n_ranks = setup->transport->n_ranks;
    report->ranks = ranks;
    report->plan = setup->predicted.is_there ? &setup->predicted : NULL;
    *ranks_out = ranks;
    return SL_OK;
}

sl_status sl_setup_write_metrics(const sl_setup *setup, const sl_report *report) {
    const char *path = setup->options->metrics_path;
    if (!path) return SL_OK;
    sl_json_text text = {0};
    FILE *file = NULL;
    sl_status st = SL_OK;
    SL_GO(sl_report_json(report, &text));
    sl_json_raw(&text, "\n");
    SL_GO(sl_json_status(&text));
    file = fopen(path, "w");
    if (!file || fwrite(text.data, 1, text.n_bytes, file) != text.n_bytes || fflush(file) != 0)
        st = SL_FAIL(SL_ERR_IO, "write metrics to %s: %s", path, strerror(errno));

fail:
    if (file) fclose(file);
    sl_json_free(&text);
    return st;
}

sl_status sl_setup_write_trace(const sl_setup *setup) {
    return setup->trace ? sl_trace_write(setup->trace, setup->options->trace_path) : SL_OK;
}
