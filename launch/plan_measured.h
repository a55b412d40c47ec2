/* plan_measured.h - `sluice plan` with the measured cost model.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_PLAN_MEASURED_H
#define SL_LAUNCH_PLAN_MEASURED_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "commands.h"
#include "job/json_text.h"
#include "options.h"
#include "planner.h"

typedef struct {
    const char *model, *profile_path, *save_path;
    int prompt_len, gen_len, n_prompts;
    sl_option_texts cluster; /* profiles of the ranks; the last one of those that have none */
    int may_idle;
    sl_planner_ask ask; /* source, profile and workload are filled in */
    int json;
} sl_plan_measured_options;

/* First rank.  *n_refused_out = 1 where nothing fits and an object says so. */
sl_status sl_plan_measured(const sl_launch *launch, const sl_plan_measured_options *options,
                           uint64_t *n_refused_out);

/* plan_ranks.c: a plan for ranks on different machines, printed. */
sl_status sl_plan_ranks(const sl_plan_measured_options *options, const sl_plan_problem *problem,
                        const sl_profile *profiles, uint64_t *n_refused_out);

/* plan_measured_report.c */
typedef struct {
    const char *model;
    const sl_plan_problem *problem;
    const sl_measured_found *found;
} sl_plan_measured_answer;

void sl_plan_measured_text(const sl_plan_measured_answer *answer, FILE *stream);
sl_status sl_plan_measured_json(const sl_plan_measured_answer *answer, sl_json_text *out);

#endif
