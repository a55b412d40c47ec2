/* cuda_pointwise.h - launchers of the CUDA operators that take one pass over rows of activations.
 *
 * All buffers are on the device and f16 unless said otherwise; work is queued on `stream`, and the
 * calls do not wait.  Values are computed in float32 and rounded once.
 * Layer: kernels/cuda.  May include: base, model.  Thread safety: as CUDA's.
 * Errors of all: SL_ERR_ARG (shapes), SL_ERR_DEVICE (launch refused).
 */
#ifndef SL_CUDA_POINTWISE_H
#define SL_CUDA_POINTWISE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A run of rows [row0, row0 + n_rows) of a table, `row_bytes` apart. */
typedef struct {
    const void *data; /* device; F16, BF16, F32, Q8G64 or Q4G64 */
    sl_dtype dtype;
    size_t row_bytes;
    int row0, n_rows;
    int cols;
} sl_cuda_table;

/* y[r,:] = table row id[r] + offset (or += when `accumulate`), for those ids that lie in the run;
 * other rows of y are left alone, so that a table in several runs takes one call for each.
 *   y   [n_ids, cols];  id: device, int32, [n_ids] */
sl_status sl_cuda_embed(void *y, const sl_cuda_table *table, const int32_t *id, int offset,
                        int n_ids, int accumulate, cudaStream_t stream);

/* y[i,:] = x[index[i],:]; index: host, int32, [n], read before the call returns. */
sl_status sl_cuda_gather(void *y, const void *x, const int32_t *index, int n, int cols,
                         cudaStream_t stream);

/* Rotates the first n_heads * head_dim columns of each row of x, [n_rows, ldx], in place.
 *   inv_freq  host, float32, [head_dim / 2], read before the call returns
 *   position  device, int32, [n_rows]
 * Source: Su et al. 2021; half-split pairs (i, i + head_dim / 2). */
sl_status sl_cuda_rope(void *x, int ldx, int n_heads, int head_dim, const float *inv_freq,
                       const int32_t *position, int n_rows, cudaStream_t stream);

/* y[r,c] = act(g[r,c]) * u[r,c], or act(g[r,c]) when u is NULL.  y: [n_rows, n_cols], may be g if
 * ld == n_cols; g, u: [n_rows, ld]. */
sl_status sl_cuda_activate(void *y, const void *g, const void *u, int ld, sl_activation act,
                           int n_rows, int n_cols, cudaStream_t stream);

/* y[i] += x[i], n elements. */
sl_status sl_cuda_add(void *y, const void *x, size_t n, cudaStream_t stream);

/* y[i] = f16(x[i]), n elements; x: float32 or bf16. */
sl_status sl_cuda_to_f16(void *y, const void *x, sl_dtype dtype, size_t n, cudaStream_t stream);

/* y[r,:] += bias; y: f16 or, with is_f32, float32, [n_rows, ldy]; bias: float32, [cols]. */
sl_status sl_cuda_add_bias(void *y, int ldy, int is_f32, const float *bias, int n_rows, int cols,
                           cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
