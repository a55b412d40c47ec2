/* run_key.h - what the results of `sluice run` follow from, as a job's key.
 *
 * Everything that changes a result is in it, nothing that only changes how fast it comes: ranks,
 * threads, placement, block shape and budgets may be others when a job goes on.
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_RUN_KEY_H
#define SL_LAUNCH_RUN_KEY_H

#include <stdint.h>

#include "base/status.h"
#include "job/job_key.h"
#include "job/params.h"
#include "setup.h"

typedef struct {
    const sl_setup_options *setup;
    const sl_params *defaults;
    const char *format, *order; /* names of the options' values */
    int64_t n_lines;            /* requests of the input */
    uint64_t input_hash;
} sl_run_key_parts;

/* *out is the caller's to free.  Reads parts of the model's files.  Errors: SL_ERR_IO,
 * SL_ERR_NOMEM.
 */
sl_status sl_run_key(const sl_run_key_parts *parts, sl_job_key *out);

#endif
