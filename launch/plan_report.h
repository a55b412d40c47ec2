/* plan_report.h - what `sluice plan` prints: a table, a JSON object, or why nothing fits.
 *
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_PLAN_REPORT_H
#define SL_LAUNCH_PLAN_REPORT_H

#include <stddef.h>
#include <stdio.h>

#include "base/status.h"
#include "job/json_text.h"
#include "search_flexgen.h"
#include "shortage_flexgen.h"

typedef struct {
    const char *model;
    double alpha;     /* share of each memory that may be planned with */
    int is_shape_set; /* 1: the user gave both numbers of the block */
    sl_flexgen_problem problem;
    sl_flexgen_found found;
    sl_flexgen_shortage shortage; /* only where found.best is not feasible */
} sl_plan_answer;

/* A feasible plan for people. */
void sl_plan_report_text(const sl_plan_answer *answer, FILE *stream);

/* Either kind of answer as one JSON object. */
sl_status sl_plan_report_json(const sl_plan_answer *answer, sl_json_text *out);

/* One paragraph about what is missing and what would help, into buf; returns buf. */
const char *sl_plan_report_shortage(const sl_plan_answer *answer, char *buf, size_t buf_bytes);

#endif
