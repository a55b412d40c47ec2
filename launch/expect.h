/* expect.h - what a job will be like, from a sample of its input: for the plan.
 *
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_EXPECT_H
#define SL_LAUNCH_EXPECT_H

#include <stdint.h>

#include "base/status.h"
#include "job/request.h"
#include "model/tokenizer.h"
#include "workload.h"

typedef struct {
    const char *input; /* a regular file */
    int64_t n_lines;   /* that are not blank */
    int64_t n_left;    /* of them to be answered */
    sl_job_format format;
    const sl_params *defaults;
    const sl_tokenizer *tokenizer; /* NULL: prompts that are text count four bytes a token */
    int max_context;               /* longer prompts are refused, and not counted */
} sl_expect_ask;

/* Lengths of prompts and outputs in up to 512 lines spread evenly over the file, in up to 16 kinds.
 * Outputs are taken to be as long as they may be.  A job none of whose sampled lines can be run
 * leaves *workload as it was, but for the number of prompts.
 * Errors: SL_ERR_IO, SL_ERR_NOMEM. */
sl_status sl_expect_from_file(const sl_expect_ask *ask, sl_workload *workload);

#endif
