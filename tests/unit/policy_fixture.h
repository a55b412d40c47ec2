/* policy_fixture.h - a machine and the jobs that were measured on it, for tests of the policy.
 *
 * G16: one H100 whose memory is capped to 16 GiB, 16 cores of Sapphire Rapids.  Links, host memory
 * and disk are rates that were measured there alone; copies to the device beyond 4 MiB are no
 * faster here, which is what these jobs reached.  Attention on the host is what the jobs below
 * reached with 15 threads beside copies.  Products and attention on the device follow bench_cuda's
 * times where it has them; products of 512 rows and more in 4 bits, memory_bps, layer_s, sweep_s
 * and host_job_s are estimates that agree with the jobs.
 */
#ifndef SL_TESTS_POLICY_FIXTURE_H
#define SL_TESTS_POLICY_FIXTURE_H

#include "cost_measured.h"
#include "model/config.h"
#include "profile.h"

#define KIB 1024.0
#define MIB 1048576.0
#define GIB 1073741824.0

static inline sl_profile g16_profile(void) {
    const sl_profile p = {
        .name = "g16",
        .source = "measured",
        .device = "H100",
        .n_threads = 15,
        .gpu_bytes = 16 * GIB,
        .cpu_bytes = 114 * GIB,
        .disk_bytes = 400 * GIB,
        .h2d_bps = {6,
                    {64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 256 * MIB},
                    {16e9, 34e9, 45e9, 50.5e9, 50.5e9, 50.5e9}},
        .d2h_bps = {6,
                    {64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 256 * MIB},
                    {16e9, 34e9, 46e9, 52e9, 54e9, 55.2e9}},
        .duplex_bps = 85e9,
        .dram_bps = 148e9,
        .dram_beside_h2d_bps = 163e9,
        .dram_threads_bps = {4, {1, 4, 8, 16}, {15e9, 61e9, 107e9, 148e9}},
        .disk_read_bps = {2, {128 * KIB, 16 * MIB}, {0.8e9, 1.2e9}},
        .disk_write_bps = {2, {128 * KIB, 16 * MIB}, {0.8e9, 1.2e9}},
        .host_attend_bps = {{1, {512}, {95e9}}, {1, {512}, {75e9}}, {1, {512}, {59e9}}},
        .gemm_flops = {{7,
                        {1, 16, 64, 128, 512, 2048, 8192},
                        {2.6e12, 41e12, 160e12, 300e12, 600e12, 700e12, 740e12}},
                       {8,
                        {1, 16, 32, 64, 65, 512, 2048, 8192},
                        {4.5e12, 60e12, 75e12, 95e12, 58e12, 380e12, 580e12, 650e12}},
                       {9,
                        {1, 16, 32, 64, 65, 128, 512, 2048, 4096},
                        {7e12, 80e12, 88e12, 100e12, 60e12, 120e12, 370e12, 550e12, 640e12}}},
        .attend_bps = {{3, {1, 8, 64}, {0.6e12, 2.0e12, 2.6e12}},
                       {3, {1, 8, 64}, {0.4e12, 1.5e12, 2.1e12}},
                       {3, {1, 8, 64}, {0.3e12, 1.2e12, 1.8e12}}},
        .prefill_attend_flops = {{2, {512, 2048}, {120e12, 180e12}},
                                 {2, {512, 2048}, {58e12, 116e12}},
                                 {2, {512, 2048}, {58e12, 114e12}}},
        .memory_bps = 2.7e12,
        .layer_s = 80e-6,
        .sweep_s = 1.5e-3,
        .host_job_s = 300e-6,
    };
    return p;
}

/* A job as it was measured: its policy, and what came out. */
typedef struct {
    const char *name, *model;
    int n_layers; /* 0: the model's */
    sl_dtype weights, cache;
    int n_prompts, micro_batch, num_micro_batches, max_rows;
    double weights_gpu, cache_gpu, host_attends;
    double tokens_per_s, prefill_s, decode_s; /* measured; 0: not known */
    double gpu_gib, cpu_gib;
} measured_job;

static const measured_job measured_jobs[] = {
    {"W1", "opt-6.7b", 0, SL_DTYPE_Q4G64, SL_DTYPE_Q4G64, 520, 65, 2, 4096, 1, 1, 0, 1595, 7.2, 3.3,
     0, 0},
    {"W1f", "opt-6.7b", 0, SL_DTYPE_F16, SL_DTYPE_F16, 64, 8, 1, 2048, 1, 1, 0, 693, 1.0, 2.0, 0,
     0},
    {"W2", "opt-30b", 0, SL_DTYPE_F16, SL_DTYPE_F16, 80, 20, 4, 2048, .04, .15, 1, 51.2, 9.1, 40.9,
     15.33, 100.3},
    {"W3", "opt-30b", 0, SL_DTYPE_Q4G64, SL_DTYPE_Q4G64, 512, 64, 4, 2048, .65, .05, .6, 271, 34.3,
     26.1, 15.41, 53.1},
    {"W4", "opt-175b", 24, SL_DTYPE_Q4G64, SL_DTYPE_Q4G64, 384, 48, 4, 2048, .38, .05, .8, 197,
     35.6, 26.6, 0, 0},
};
enum { N_MEASURED_JOBS = sizeof measured_jobs / sizeof measured_jobs[0] };

static inline sl_policy measured_policy(const measured_job *j) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = j->micro_batch;
    p.num_micro_batches = j->num_micro_batches;
    p.max_rows = j->max_rows;
    p.max_context = 544;
    p.weights_dtype = j->weights;
    p.cache_dtype = j->cache;
    p.weights = (sl_shares){{j->weights_gpu, 1 - j->weights_gpu, 0}};
    p.cache = (sl_shares){{j->cache_gpu, 1 - j->cache_gpu, 0}};
    p.host_attends = j->host_attends;
    p.cpu_budget_bytes = (size_t)(114 * GIB);
    return p;
}

static inline sl_status measured_config(const measured_job *j, sl_model_config *out) {
    SL_TRY(sl_config_named(j->model, out));
    if (j->n_layers) out->n_layers = j->n_layers;
    return SL_OK;
}

#endif
