/* partition_measured.h - which layers each of several unequal ranks computes.
 *
 * All ranks run the same blocks with the same split of the cache; each has its own profile, budgets
 * and placement of its weights.  How long a rank's sweep takes with so many layers is planned for a
 * few numbers of layers (program_measured.h); a mixed-integer program then gives whole layers to
 * ranks so that the slowest one is fastest, embedding and head included.
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_PARTITION_MEASURED_H
#define SL_POLICY_PARTITION_MEASURED_H

#include "search_measured.h"

enum { SL_PARTITION_MAX_RANKS = 64 };

typedef struct {
    const sl_plan_problem *problem; /* of all ranks; profile and budgets are those below */
    const sl_profile *profile;      /* [n_ranks] */
    const double (*budget_bytes)[SL_TIER_COUNT]; /* [n_ranks] */
    int may_idle;                                /* 1: a rank that only harms may get no layers */
    const int *layers; /* [n_ranks] that are given already; NULL: chosen */
} sl_partition_ask;

typedef struct {
    int is_feasible;
    sl_plan_shape shape;
    sl_policy policy;                   /* of all ranks; weights are those of the first */
    int layers[SL_PARTITION_MAX_RANKS]; /* 0: the rank is best left out */
    sl_shares weights[SL_PARTITION_MAX_RANKS];
    sl_footprint memory[SL_PARTITION_MAX_RANKS];
    sl_cost cost; /* of the pipeline without ranks that are left out */
    int n_programs;
} sl_partition_found;

/* Whether the machines can be planned for as one: rates and budgets within a tenth. */
int sl_partition_is_even(const sl_partition_ask *ask);

/* Blocks are those that are best for each kind of machine alone.  That nothing fits is no error.
 * Errors: those of sl_search_measured(); SL_ERR_ARG (too many ranks). */
sl_status sl_partition_search(const sl_partition_ask *ask, sl_partition_found *out);

/* The same for a given block and split of the cache (values of the five variables from
 * SL_COST_CACHE_GPU on). */
sl_status sl_partition_place(const sl_partition_ask *ask, const sl_plan_shape *shape,
                             const double *cache, sl_partition_found *out);

#endif
