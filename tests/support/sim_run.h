/* sim_run.h - runs a job of random prompts on simulated machines, and the machine of the paper.
 *
 * Usable from cmocka tests and from plain programs.
 */
#ifndef SL_TESTS_SIM_RUN_H
#define SL_TESTS_SIM_RUN_H

#include "engine/engine.h"
#include "sim/sim_rates.h"

/* A cloud host with one T4: 16 GB at 40 TFLOP/s, PCIe 3 at 12 GB/s, 208 GB of DRAM, a disk of 2
 * GB/s to read and 1 GB/s to write (the FlexGen paper, table 1).  What the paper does not say is
 * taken from the T4's data sheet (300 GB/s of memory, of which 250 reach a product) and from hosts
 * of its age (60 GB/s of DRAM, 45 of which reach attention on it). */
sl_sim_rates sim_t4(void);

typedef struct {
    const char *model;             /* as sl_source_open() takes it */
    const sl_model_config *config; /* of another shape, `model` is its name; NULL: the model's */
    sl_policy policy; /* budgets that are 0 are those of the machine; parts are filled in */
    int n_prompts, prompt_len, gen_len;
    size_t gpu_bytes;         /* 0: all */
    const sl_shares *weights; /* [n_ranks] instead of the policy's; NULL: the policy's */
} sim_job;

/* Of one rank. */
typedef struct {
    sl_engine_stats stats;
    sl_policy policy;        /* as chosen */
    double start_s, end_s;   /* of the job, on the virtual clock */
    uint64_t n_tokens, hash; /* generated, and of all of them: first rank */
} sim_outcome;

/* Runs the job on n_ranks machines, each in a thread of its own.
 *   rates, out  [n_ranks]
 * Errors: the engine's, of the lowest rank that failed. */
sl_status sim_run(const sim_job *job, const sl_sim_rates *rates, int n_ranks, sim_outcome *out);

/* Generated tokens / (prefill time + decode time). */
double sim_tps(const sim_outcome *first);

#endif
