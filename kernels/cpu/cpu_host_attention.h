/* cpu_host_attention.h - decode attention over host pages by vector kernels on threads of its own.
 *
 * Layer: kernels.  May include: src.  Thread safety: one caller per object.
 */
#ifndef SL_CPU_HOST_ATTENTION_H
#define SL_CPU_HOST_ATTENTION_H

#include "cpu/cpu_backend.h"
#include "engine/host_attention.h"

typedef struct {
    int n_threads;    /* 0: the processors that this process may run on; never more than those */
    sl_cpu_simd simd; /* AUTO: the widest that this processor has */
} sl_cpu_host_options;

/* Starts the threads, which sleep while there is no job; signals stay with the program's own.
 * Close with sl_host_attention_close().
 *
 * Queries are not rounded: results are those of float32 arithmetic over what the pages say.  With
 * job.sparsity, of n keys the newest one's value is always used, and beside it those of the
 * ceil(sparsity * n) - 1 largest weights of the others; of equal weights the lowest positions'.
 * Errors: SL_ERR_ARG (also an instruction set that this processor lacks), SL_ERR_NOMEM. */
sl_status sl_cpu_host_attention_open(const sl_cpu_host_options *options, sl_host_attention **out);

/* Threads that it computes with, and "avx512", "avx2" or "c": the kernels in use. */
int sl_cpu_host_attention_threads(const sl_host_attention *ha);
const char *sl_cpu_host_attention_simd(const sl_host_attention *ha);

#endif
