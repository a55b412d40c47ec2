#include "setup.h"

#include <errno.h>
#include <inttypes.h>
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
#include "engine/delayed.h"
#include "job/html.h"
#include "model/layout.h"
#include "model/stamp.h"
#include "ranks_table.h"
#include "setup_plan.h"
#include "setup_policy.h"
#include "setup_wire.h"
#include "simulate.h"

const char *const sl_setup_wishes[] = {"auto", "always", "never", NULL};
const char *const sl_setup_qualities[] = {"f16", "q8", "q4", NULL};
const char *const sl_setup_weights[] = {"stored", "f32", "f16", "q8", "q4", "auto", NULL};
const char *const sl_setup_caches[] = {"f16", "f32", "q8", "q4", "auto", NULL};
const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};
const char *const sl_setup_transports[] = {"auto", "mpi", "nccl", NULL};
enum { BACKEND_AUTO, BACKEND_CPU, BACKEND_CUDA };

void sl_setup_options_init(sl_setup_options *options) {
    *options = (sl_setup_options){.cpu_attention = 100,
                                  .expected_prompt_len = 512,
                                  .expected_gen_len = 128,
                                  .expected_prompts = 1000,
                                  .timeout_s = SL_SETUP_TIMEOUT_S,
                                  .stall_s = SL_SETUP_STALL_S,
                                  .patience_s = SL_SETUP_PATIENCE_S};
}

sl_status sl_setup_agree(const sl_setup *setup, sl_status mine) {
    /* The others may be far from here: they learn of a failure now, and agree when they come. */
    if (mine != SL_OK) sl_watch_tell(setup->watch, sl_error_message());
    return setup->transport->ops->agree(setup->transport, mine);
}

/* Tests of pipelines on slow wires: SLUICE_TEST_DELAY_S=0.01 has every message between ranks come
 * 10 ms later.  No option: nobody wants it. */
static sl_status delay_for_tests(sl_transport **transport) {
    const char *text = getenv("SLUICE_TEST_DELAY_S");
    char *end = NULL;
    if (!text) return SL_OK;
    const double delay_s = strtod(text, &end);
    if (end == text || *end)
        return SL_FAIL(SL_ERR_ARG, "SLUICE_TEST_DELAY_S: found \"%s\", expected seconds", text);
    return sl_transport_open_delayed(*transport, delay_s, transport);
}

/* A rank tells now and then what it has got done, and any computer may be held up for a moment. */
static sl_status check_stall(const sl_setup_options *o) {
    if (o->stall_s == 0 || o->stall_s >= SL_SETUP_LEAST_STALL_S) return SL_OK;
    return SL_FAIL(SL_ERR_ARG, "--stall-timeout: found %g, expected 0 or at least %g", o->stall_s,
                   SL_SETUP_LEAST_STALL_S);
}

static sl_status open_watch(sl_setup *setup) {
    const sl_setup_options *o = setup->options;
    const sl_status st = sl_pulse_open(&setup->pulse);
    const sl_watch_options watch = {.timeout_s = o->timeout_s,
                                    .patience_s = o->patience_s,
                                    .stall_s = o->stall_s,
                                    .pulse = setup->pulse,
                                    .quiet = o->quiet};
    /* Collective: a rank without a pulse takes part. */
    const sl_status watched = sl_watch_open(setup->launch, &watch, &setup->watch);
    return st == SL_OK ? watched : st;
}

sl_status sl_setup_begin(const sl_launch *launch, const sl_setup_options *options, sl_setup *out) {
    sl_setup setup = {.launch = launch, .options = options};
    SL_TRY(check_stall(options));
    if (launch->simulated) {
        SL_TRY(sl_simulated_open_transport(launch->simulated, &setup.transport));
    } else if (launch->is_mpi) {
        SL_TRY(sl_transport_open_mpi(&setup.transport));
    } else {
        SL_TRY(sl_transport_open_loopback(&setup.transport));
    }
    setup.workload = sl_workload_uniform(options->expected_prompt_len, options->expected_gen_len,
                                         options->expected_prompts);
    sl_status st = launch->is_mpi ? delay_for_tests(&setup.transport) : SL_OK;
    const sl_status watched = open_watch(&setup);
    if (st == SL_OK) st = watched;
    st = sl_setup_agree(&setup, st);
    if (st != SL_OK) {
        sl_setup_close(&setup, st);
        return st;
    }
    *out = setup;
    return SL_OK;
}

void sl_setup_close(sl_setup *setup, sl_status outcome) {
    if (outcome != SL_OK) sl_watch_tell(setup->watch, sl_error_message());
    sl_engine_close(setup->engine); /* may report to the trace until here */
    sl_host_attention_close(setup->host_attention);
    sl_trace_close(setup->trace);
    sl_timeline_close(setup->timeline);
    free(setup->timelines);
    free(setup->links);
    sl_transport_close(setup->transport); /* may use the backend's streams until here */
    sl_backend_close(setup->backend);
    sl_tokenizer_close(setup->tokenizer);
    sl_source_close(setup->source);
    free(setup->ranks);
    sl_watch_close(setup->watch, outcome);
    sl_pulse_close(setup->pulse);
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

/* A page takes the place of another when it is whole. */
static sl_status check_page(const char *path) {
    sl_html *page = NULL;
    if (!path) return SL_OK;
    SL_TRY(sl_html_open(path, &page));
    return sl_html_close(page, 0);
}

static sl_status check_outputs(const sl_setup *setup) {
    SL_TRY(check_output("metrics", setup->options->metrics_path));
    SL_TRY(check_page(setup->options->report_path));
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
                            .unpack_bytes = sl_cuda_unpack_bytes(p->weights_dtype),
                            .max_rows = p->max_rows,
                            .n_bound = SL_BOUND_PER_BATCH *
                                       (p->num_micro_batches ? p->num_micro_batches : 2)};
    if (cuda.memory_bytes == 0) {
        size_t free_bytes;
        SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
        cuda.memory_bytes = sl_capacity_gpu_bytes(&gpu, free_bytes);
    } else { /* what was asked for is for all that we do there */
        cuda.memory_bytes -= sl_setup_wire_share(setup, cuda.memory_bytes);
    }
    SL_TRY(sl_cuda_backend_open(&cuda, &setup->backend));
    snprintf(setup->backend_name, sizeof setup->backend_name, "cuda (gpu %d)", gpu.device);
    sl_cuda_identity identity;
    SL_TRY(sl_cuda_identify(gpu.device, &identity));
    snprintf(setup->device_name, sizeof setup->device_name, "gpu %d, %s, %s", gpu.device,
             identity.name, identity.bus);
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

/* Files may lie on each host's own disk: what they hold is compared by samples. */
static sl_status check_same_model(const sl_setup *setup) {
    struct {
        uint64_t stamp;
        int n_layers;
    } mine, first;
    sl_transport *t = setup->transport;
    memset(&mine, 0, sizeof mine);
    if (t->n_ranks == 1 || setup->launch->simulated) return SL_OK;
    SL_TRY(sl_setup_agree(setup, sl_model_stamp(setup->options->model, &mine.stamp)));
    mine.n_layers = setup->config.n_layers;
    memcpy(&first, &mine, sizeof first);
    SL_TRY(t->ops->broadcast(t, 0, &first, sizeof first));
    sl_status st = SL_OK;
    if (memcmp(&first, &mine, sizeof first) != 0)
        st = SL_FAIL(
            SL_ERR_ARG,
            "--model %s is another checkpoint than the first rank's: fingerprint %016" PRIx64
            " and %d layers here, %016" PRIx64 " and %d there",
            setup->options->model, mine.stamp, mine.n_layers, first.stamp, first.n_layers);
    return sl_setup_agree(setup, st);
}

static void on_span(void *user, const sl_span *span) {
    const sl_setup *setup = user;
    if (setup->trace) sl_trace_add(setup->trace, span);
    if (setup->timeline) sl_timeline_add(setup->timeline, span);
}

/* What watches the engine at work, as far as asked for. */
static sl_status open_watchers(sl_setup *setup) {
    const sl_setup_options *o = setup->options;
    if (o->trace_path) SL_TRY(sl_trace_open(setup->transport, 0, &setup->trace));
    if (o->report_path || o->metrics_path)
        SL_TRY(sl_timeline_open(setup->transport, &setup->timeline));
    if (setup->trace || setup->timeline) {
        setup->policy.on_span = on_span;
        setup->policy.span_user = setup;
    }
    return SL_OK;
}

sl_status sl_setup_open(sl_setup *setup, int with_tokenizer, sl_token_callback on_token) {
    const double start_s = sl_clock_s();
    sl_status st = open_source(setup, with_tokenizer);
    SL_TRY(sl_setup_agree(setup, st));
    SL_TRY(check_same_model(setup));
    if (setup->expect && sl_launch_is_first(setup->launch))
        st = setup->expect(setup->expect_user, setup, &setup->workload);
    SL_TRY(sl_setup_agree(setup, st));
    setup->n_threads = setup->options->n_threads;
    if (setup->launch->simulated) setup->n_threads = setup->launch->simulated->profile->n_threads;
    if (setup->n_threads == 0)
        SL_TRY(sl_capacity_threads(
            setup->launch, setup->transport,
            sl_capacity_gpu_node(setup->launch, setup->options->backend == BACKEND_CPU),
            setup->options->quiet, &setup->n_threads));

    SL_TRY(sl_setup_open_wire(setup));
    SL_TRY(sl_setup_choose_policy(setup));
    st = open_backend(setup);
    if (st == SL_OK) st = open_host_attention(setup);
    if (st == SL_OK) st = open_watchers(setup);
    SL_TRY(sl_setup_agree(setup, st));
    if (setup->watch) {
        setup->policy.on_failure = sl_watch_tell;
        setup->policy.failure_user = setup->watch;
    }
    setup->policy.pulse = setup->pulse;
    SL_TRY(sl_engine_open(setup->source, setup->backend, setup->transport, &setup->policy, on_token,
                          &setup->engine));
    SL_TRY(sl_setup_predict(setup));
    sl_source_close(setup->source);
    setup->source = NULL;
    if (setup->trace) SL_TRY(sl_trace_start(setup->trace));
    if (setup->timeline) SL_TRY(sl_timeline_start(setup->timeline));
    setup->open_s = sl_clock_s() - start_s;
    if (setup->transport->n_ranks > 1 && !setup->launch->simulated && !setup->options->quiet)
        SL_TRY(sl_ranks_table_print(setup, stderr));
    return SL_OK;
}

sl_status sl_setup_write_trace(const sl_setup *setup) {
    return setup->trace ? sl_trace_write(setup->trace, setup->options->trace_path) : SL_OK;
}
