/* cpu_backend.h - the backend that computes on the host: plain operators and SIMD ones.
 *
 * Layer: kernels.  May include: src.  Thread safety: one thread per backend; it has
 * threads of its own.
 */
#ifndef SL_CPU_BACKEND_H
#define SL_CPU_BACKEND_H

#include "engine/backend.h"

/* Instruction sets of the vector kernels. */
typedef enum { SL_CPU_AUTO, SL_CPU_PLAIN_C, SL_CPU_AVX2, SL_CPU_AVX512 } sl_cpu_simd;

typedef struct {
    int n_threads;       /* 0: the processors that this process may run on; never more than those */
    int reference;       /* 1: plain C operators only, the oracle of every test; slow */
    sl_cpu_simd simd;    /* AUTO: the widest that this processor has */
    size_t device_bytes; /* > 0: pretend to be a device with that much memory of its own, for tests
                          * of placements where there is no GPU (cpu_device.h) */
} sl_cpu_options;

/* Opens a CPU backend; activations are float32.  Close with sl_backend_close().
 * Errors: SL_ERR_ARG (also an instruction set that this processor lacks), SL_ERR_NOMEM. */
sl_status sl_cpu_backend_open(const sl_cpu_options *options, sl_backend **out);

/* Threads that it computes with. */
int sl_cpu_backend_threads(const sl_backend *be);

/* "avx512", "avx2" or "c": the kernels in use. */
const char *sl_cpu_backend_simd(const sl_backend *be);

#endif
