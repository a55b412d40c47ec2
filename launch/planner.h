/* planner.h - the policy of a run that does not say one: searched for on a machine profile.
 *
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_PLANNER_H
#define SL_LAUNCH_PLANNER_H

#include "base/status.h"
#include "model/source.h"
#include "profile.h"
#include "search_measured.h"

extern const char *const sl_planner_precisions[]; /* "auto", "f16", "q8", "q4" */
extern const char *const sl_planner_qualities[];  /* "f16", "q8", "q4": the lowest that may be */

typedef struct {
    const sl_source *source;     /* borrowed for the call */
    const sl_profile *profile;   /* likewise */
    const sl_workload *workload; /* likewise */
    int has_device;
    size_t act_bytes; /* 0: 2 on a device, else 4 */
    int n_ranks;
    size_t cap_bytes[SL_TIER_COUNT]; /* of each memory; 0: as the profile says */
    const char *disk_dir;            /* NULL with uses_disk: the policy is only looked at */
    int uses_disk;
    int weights, cache; /* index into sl_planner_precisions */
    int quality;        /* index into sl_planner_qualities, where they are auto */
    int keeps_stored;   /* 1: weights stay as they are stored */
    int micro_batch, num_micro_batches, max_rows, max_context; /* 0: chosen */
    double max_request_s;                                      /* 0: any */
} sl_planner_ask;

/* The problem that the ask stands for; borrows what the ask does. */
sl_plan_problem sl_planner_problem(const sl_planner_ask *ask);

/* The fastest policy.  Takes some seconds at most.
 * Errors: SL_ERR_ARG, SL_ERR_NOMEM, SL_ERR_INFEASIBLE with what is missing and what would help. */
sl_status sl_search_default(const sl_planner_ask *ask, sl_policy *out);

/* One paragraph about why nothing is feasible, into buf; returns buf. */
const char *sl_planner_refusal(const sl_plan_problem *problem, const sl_measured_found *found,
                               char *buf, size_t buf_bytes);

#endif
