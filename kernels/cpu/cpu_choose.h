/* cpu_choose.h - which of the processor's instructions and how many of its threads are used.
 *
 * Layer: kernels/cpu.  Thread safety: pure functions.
 */
#ifndef SL_CPU_CHOOSE_H
#define SL_CPU_CHOOSE_H

#include "cpu/cpu_backend.h"
#include "cpu/cpu_host_kernels.h"
#include "cpu/cpu_kernels.h"

/* AUTO is the widest instruction set that the processor has.
 * Errors: SL_ERR_ARG (one that it lacks, or none of the enumeration). */
sl_status sl_cpu_choose_kernels(sl_cpu_simd simd, const sl_cpu_kernels **out);

/* `wanted` threads, but no more than the processors that this process may run on; 0: all those. */
int sl_cpu_choose_threads(int wanted);

/* The kernels of host attention for the same instruction set. */
const sl_cpu_host_kernels *sl_cpu_choose_host_kernels(const sl_cpu_kernels *kernels);

#endif
