/* cost_measured.h - how long a job takes under a policy on a machine whose rates were measured.
 *
 * Times of every queue are affine in the shares of weights, cache and hidden states by tier, with
 * coefficients that follow from the profile's curves at the block's own sizes; search_measured.c
 * minimises over them.  With shares given, the schedule itself is replayed (replay.h), so that a
 * sweep takes its longest queue and what that cannot hide.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_COST_MEASURED_H
#define SL_POLICY_COST_MEASURED_H

#include "base/status.h"
#include "engine/engine.h"
#include "profile.h"
#include "workload.h"

/* LINK is both directions of the link to the device at once, DRAM all that host memory carries:
 * copies to and from the device and the disk, and attention on the host. */
typedef enum {
    SL_COST_H2D,
    SL_COST_D2H,
    SL_COST_LINK,
    SL_COST_DISK_READ,
    SL_COST_DISK_WRITE,
    SL_COST_COMPUTE,
    SL_COST_ATTEND,
    SL_COST_WIRE,
    SL_COST_DRAM,
    SL_COST_N_QUEUES
} sl_cost_queue;

const char *sl_cost_queue_name(sl_cost_queue queue); /* as run reports name them */

typedef struct {
    const sl_model_config *config;
    const sl_profile *profile;
    const sl_workload *workload;
    int has_device;
    int n_layers; /* of the slice that takes longest */
    int n_ranks;
    const int *layers_per_rank;         /* [n_ranks], or NULL: n_layers each */
    const sl_profile *profile_per_rank; /* [n_ranks], or NULL: alike, as `profile` */
    const sl_shares *weights_per_rank;  /* [n_ranks], or NULL: the policy's */
    int is_one_rank, rank;              /* 1: only this one counts */
} sl_cost_problem;

/* What the times depend on: one, and the shares.  Of the sequences whose pages live in host memory
 * or on disk, those that attend on the device and on the host count apart. */
typedef enum {
    SL_COST_ONE,
    SL_COST_WEIGHTS_GPU,
    SL_COST_WEIGHTS_CPU,
    SL_COST_WEIGHTS_DISK,
    SL_COST_CACHE_GPU,
    SL_COST_CACHE_CPU_VISITS,
    SL_COST_CACHE_CPU_ATTENDS,
    SL_COST_CACHE_DISK_VISITS,
    SL_COST_CACHE_DISK_ATTENDS,
    SL_COST_HIDDEN_GPU,
    SL_COST_HIDDEN_CPU,
    SL_COST_HIDDEN_DISK,
    SL_COST_N_VARS
} sl_cost_var;

/* Seconds of each queue in one sweep of a phase are the sum of coef * variable.  COMPUTE includes
 * what copies to the device cost it if they all run beside it. */
typedef struct {
    double n_sweeps;  /* of the whole job, of all blocks */
    double n_batches; /* micro-batches of a block that have work, in the mean */
    double n_blocks;  /* that have work */
    double coef[SL_COST_N_QUEUES][SL_COST_N_VARS];
    double bytes[SL_COST_N_QUEUES][SL_COST_N_VARS]; /* that they move: copies and the disk */
    /* Of both, what comes of decode rows: sequences that decode live elsewhere than those whose
     * prompts are computed. */
    double decode_coef[SL_COST_N_QUEUES][SL_COST_N_VARS];
    double decode_bytes[SL_COST_N_QUEUES][SL_COST_N_VARS];
    double head_s, embed_s; /* of COMPUTE, what is no part of the layers; of all micro-batches */
    double before_frac;     /* of the products, those before attention */
    double products_s;      /* of COMPUTE: products, and all that follows from rows alone */
    double host_jobs_s;     /* of ATTEND, where anything attends on the host: jobs' fixed costs */
    double host_attend_bps;
    double ask_bytes,
        answer_bytes;   /* of a micro-batch in a layer, if all of its rows attend there */
    double decode_rows; /* mean, of a micro-batch */
    double prefill_rows;
} sl_cost_phase_terms;

typedef struct {
    int n_batches;  /* micro-batches of a block that have work */
    int n_blocks;   /* sweeps of a rank for one turn of every sequence */
    double fixed_s; /* of a sweep */
    sl_turns turns;
    sl_cost_phase_terms phase[SL_N_PHASES];
} sl_cost_terms;

/* Turns of a policy's blocks. */
sl_status sl_cost_turns(const sl_cost_problem *problem, const sl_policy *policy, sl_turns *out);

/* The policy's block and precision count; its shares do not, but for on_device_frac: about how many
 * sequences attend on the device, at which its rate is read.
 * Errors: SL_ERR_ARG (numbers below 1, rates that are missing, named), SL_ERR_NOMEM. */
sl_status sl_cost_terms_make(const sl_cost_problem *problem, const sl_policy *policy,
                             const sl_turns *turns, double on_device_frac, sl_cost_terms *out);

/* The variables' values in a policy, [SL_COST_N_VARS]. */
void sl_cost_variables(const sl_policy *policy, int has_device, double *out);

typedef struct {
    double n_sweeps;
    double queue_s[SL_COST_N_QUEUES]; /* busy in one sweep */
    double sweep_s;                   /* one sweep, from its start to the next one's */
    sl_cost_queue longest;
    double decode_rows, prefill_rows; /* of a sweep, mean */
} sl_cost_phase;

typedef struct {
    sl_cost_phase phase[SL_N_PHASES];
    double prefill_s, decode_s, total_s; /* as run reports count them */
    double tokens_per_s;                 /* generated, over both */
    double prefill_tokens_per_s;         /* prompt tokens over prefill_s */
    double decode_tokens_per_s;          /* of sweeps that only decode */
    double bound_tokens_per_s;           /* if the longest queues were all that takes time */
    double request_s;                    /* from a request's start to its end, queueing apart */
} sl_cost;

/* Errors: as sl_cost_terms_make(). */
sl_status sl_cost_measured(const sl_cost_problem *problem, const sl_policy *policy, sl_cost *out);
sl_status sl_cost_measured_of_turns(const sl_cost_problem *problem, const sl_policy *policy,
                                    const sl_turns *turns, sl_cost *out);

#endif
