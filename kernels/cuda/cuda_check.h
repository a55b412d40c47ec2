/* cuda_check.h - turns CUDA's and cuBLAS's results into sl_status.
 *
 * Layer: kernels/cuda.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_CUDA_CHECK_H
#define SL_CUDA_CHECK_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "base/status.h"

/* `what` names the operation in the words of the caller: "copy a layer". */
static inline sl_status sl_cuda_status_at(cudaError_t err, const char *what, const char *file,
                                          int line) {
    if (err == cudaSuccess) return SL_OK;
    (void)cudaGetLastError(); /* clear it, or the next launch gets blamed */
    const sl_status code = err == cudaErrorMemoryAllocation ? SL_ERR_NOMEM : SL_ERR_DEVICE;
    sl_fail_at(code, file, line, "%s: %s (%s)", what, cudaGetErrorString(err),
               cudaGetErrorName(err));
    return code;
}
#define SL_CUDA(err, what) sl_cuda_status_at((err), (what), __FILE__, __LINE__)

static inline sl_status sl_cublas_status_at(cublasStatus_t err, const char *what, const char *file,
                                            int line) {
    if (err == CUBLAS_STATUS_SUCCESS) return SL_OK;
    sl_fail_at(SL_ERR_DEVICE, file, line, "%s: %s", what, cublasLtGetStatusString(err));
    return SL_ERR_DEVICE;
}
#define SL_CUBLAS(err, what) sl_cublas_status_at((err), (what), __FILE__, __LINE__)

#endif
