/* cuda_gemm.h - f16 matrix products by cuBLASLt, with the algorithm of each shape remembered.
 *
 * Layer: kernels/cuda.  May include: base.  Thread safety: one thread per sl_cuda_gemm.
 */
#ifndef SL_CUDA_GEMM_H
#define SL_CUDA_GEMM_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stddef.h>

#include "base/status.h"

typedef struct sl_cuda_gemm sl_cuda_gemm;

/* y[n, m] = x W^T (+ y) (+ bias) with float32 sums. */
typedef struct {
    void *y; /* device, f16 or float32, [n, ldy] */
    int ldy, is_f32, accumulate;
    const void *x;    /* device, f16, [n, k], dense */
    const void *w;    /* device, f16, [m, ldw] */
    int ldw;          /* elements */
    const void *bias; /* device, f16, [m], or NULL; with an f16 y only */
    int n, m, k;
} sl_cuda_gemm_task;

/* workspace: device, borrowed until close; used by every product that is queued.
 * Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_cuda_gemm_open(void *workspace, size_t workspace_bytes, sl_cuda_gemm **out);
void sl_cuda_gemm_close(sl_cuda_gemm *gemm);

/* Queues the product; does not wait.  *done is 0 where cuBLASLt has no algorithm for the shape and
 * alignment, and nothing was queued then.  Errors: SL_ERR_DEVICE. */
sl_status sl_cuda_gemm_run(sl_cuda_gemm *gemm, const sl_cuda_gemm_task *task, cudaStream_t stream,
                           int *done);

#endif
