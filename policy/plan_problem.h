/* plan_problem.h - what a policy is searched for: model, machine, job, and what is given already.
 *
 * Layer: policy.  May include: src.  Thread safety: plain data.
 */
#ifndef SL_POLICY_PLAN_PROBLEM_H
#define SL_POLICY_PLAN_PROBLEM_H

#include <stddef.h>

#include "cost_measured.h"
#include "engine/footprint.h"
#include "model/source.h"
#include "profile.h"
#include "workload.h"

typedef struct {
    const sl_source *source; /* borrowed; its weights are not read */
    const sl_profile *profile;
    const sl_workload *workload;
    int has_device;
    size_t act_bytes;           /* of an activation element; 0: 2 on a device, else 4 */
    int n_ranks;                /* alike */
    const int *layers_per_rank; /* [n_ranks], borrowed; NULL: as many on each */
    int is_one_rank, rank;      /* 1: only this rank is planned for */
    const double *cache;        /* [5] values of the variables from SL_COST_CACHE_GPU on, where
                                 * there is a device; NULL: chosen; borrowed */
    double budget_bytes[SL_TIER_COUNT]; /* gpu 0 without a device; disk 0: there is none */
    const char *disk_dir;               /* of the policy that comes out; may be NULL in a plan */
    int can_attend_on_host;             /* 1: threads beside a device may attend */
    /* What the device's backend takes itself for blocks and weights like these; NULL: nothing. */
    size_t (*backend_bytes)(const sl_policy *policy);
    /* Precisions that may be chosen, the best first. */
    int n_weights, n_caches;
    sl_dtype weights[SL_PROFILE_FORMATS], caches[SL_PROFILE_FORMATS];
    /* 0: chosen. */
    int micro_batch, num_micro_batches, max_rows;
    int max_context;      /* 0: what the longest request needs */
    double pages_frac;    /* of full contexts on the device that are needed at a time; 0: all */
    double max_request_s; /* 0: any; from a request's start to its end, queueing apart */
} sl_plan_problem;

/* A block's shape and precision. */
typedef struct {
    int micro_batch, num_micro_batches, max_rows;
    sl_dtype weights, cache;
} sl_plan_shape;

/* A policy with this shape; shares are left open. */
sl_policy sl_plan_policy(const sl_plan_problem *problem, const sl_plan_shape *shape);
sl_cost_problem sl_plan_cost_problem(const sl_plan_problem *problem);

/* Of an activation element. */
size_t sl_plan_act_bytes(const sl_plan_problem *problem);

/* Layers of the longest slice. */
int sl_plan_n_layers(const sl_plan_problem *problem);

/* What opening takes, the most of any rank.  n_layers > 0: for a slice of so many layers only.
 * Errors: as sl_footprint_of(). */
sl_status sl_plan_measure(const sl_plan_problem *problem, const sl_policy *policy, int n_layers,
                          sl_footprint *out);

#endif
