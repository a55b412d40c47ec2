/* cuda_norm.h - launcher of the CUDA normalisation kernels.
 *
 * Layer: kernels/cuda.  May include: base, model.  Thread safety: as CUDA's.
 */
#ifndef SL_CUDA_NORM_H
#define SL_CUDA_NORM_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[r,:] = norm(x[r,:]) * gain + bias
 *
 *   y, x        device, f16, [n_rows, cols], dense; may be the same
 *   gain, bias  device, float32, [cols], or NULL (gain 1, bias 0)
 *   eps         added to the (population) variance, or to the mean square, >= 0
 *   stream      work is queued on it; the call does not wait
 *
 * Sums are float32.  Errors: SL_ERR_ARG, SL_ERR_DEVICE (launch refused).
 * Source: Ba, Kiros, Hinton 2016 (LayerNorm); Zhang, Sennrich 2019 (RMSNorm). */
sl_status sl_cuda_norm(void *y, const void *x, const float *gain, const float *bias,
                       sl_norm_kind kind, float eps, int n_rows, int cols, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
