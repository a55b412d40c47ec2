/* setup_job.h - the job of a run as a planner asks about it: what computes, how long requests are,
 * in which precisions.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_SETUP_JOB_H
#define SL_LAUNCH_SETUP_JOB_H

#include <stddef.h>

#include "base/status.h"
#include "planner.h"
#include "setup.h"

/* Memory of the device that this rank will compute on, 0 without one, and an activation's bytes. */
typedef struct {
    size_t bytes, act_bytes;
} sl_setup_device;

/* Errors: SL_ERR_DEVICE. */
sl_status sl_setup_find_device(const sl_setup *setup, sl_setup_device *out);

/* The file of this rank's profile; NULL: none is given. */
const char *sl_setup_profile_path(const sl_setup *setup);

/* Tokens of the longest request. */
int sl_setup_context(const sl_setup *setup);

/* What is expected of the job, as far as it can be run. */
sl_workload sl_setup_workload(const sl_setup *setup);

/* Borrows profile and workload.  budgets: this rank's.  *can_out = 0: there is no plan for these
 * precisions. */
sl_planner_ask sl_setup_ask(const sl_setup *setup, const sl_policy *budgets, sl_setup_device d,
                            const sl_profile *profile, const sl_workload *workload, int *can_out);

#endif
