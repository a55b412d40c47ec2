/* cpu_host_job.h - one job of decode attention over host pages: checked, cut into items, computed.
 *
 * A work item is one row's next few key/value heads, which lie side by side in its pages: it
 * appends their keys and values and then attends.  No item touches what another one does, and a
 * head's arithmetic depends on its row alone, so neither the other rows nor the number of threads
 * show in the results.
 * Layer: kernels/cpu.  Thread safety: one caller per sl_cpu_host; it has a team's threads.
 */
#ifndef SL_CPU_HOST_JOB_H
#define SL_CPU_HOST_JOB_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/cpu_host_kernels.h"
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_state.h"
#include "cpu/cpu_team.h"
#include "engine/host_attention.h"

typedef struct {
    int n_threads;
    sl_cpu_team *team;
    const sl_cpu_kernels *kernels;
    const sl_cpu_host_kernels *host;
    sl_cpu_buffer own; /* n_threads parts */
    size_t own_bytes;  /* of one part */
} sl_cpu_host;

/* What can be seen of a job without walking its rows' page lists.  Errors: SL_ERR_ARG. */
sl_status sl_cpu_host_check(const sl_host_job *job);

/* Computes a checked job; *bytes_out: keys and values read.
 * Errors: SL_ERR_ARG (a page that is missing or not aligned), SL_ERR_NOMEM (scratch). */
sl_status sl_cpu_host_run(sl_cpu_host *host, const sl_host_job *job, uint64_t *bytes_out);

#endif
