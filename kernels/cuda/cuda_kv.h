/* cuda_kv.h - launchers of the CUDA kernels that write pages of keys and values.
 *
 * Layer: kernels/cuda.  May include: base, store.  Thread safety: as CUDA's.
 */
#ifndef SL_CUDA_KV_H
#define SL_CUDA_KV_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "cuda/cuda_rows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Checks that the kernels read and write such a cache: F16, Q8G64 or Q4G64, sizes as
 * sl_kv_format_make() gives them.  `op` names the operator in the error.  Errors: SL_ERR_ARG. */
sl_status sl_cuda_check_cache(const char *op, const sl_kv_view *cache);

/* Writes the rows' keys and values into their pages, packed as sl_kv_put() does, to the same bytes.
 *   cache  pages on the device;  k, v: device, f16, [n_rows, ld], n_kv_heads * head_dim columns
 *   stream work is queued on it; the call does not wait
 * Errors: SL_ERR_ARG, SL_ERR_DEVICE. */
sl_status sl_cuda_kv_append(const sl_kv_view *cache, const void *k, const void *v, int ld,
                            const sl_cuda_rows *rows, cudaStream_t stream);

/* out[r, :] = attention of row r's query heads over the keys [max(0, p + 1 - window), p] of its
 * sequence, p its position, read from the pages in their own format.
 *   out      device, f16, [n_rows, n_heads * head_dim], dense
 *   q        device, f16, [n_rows, ldq], the first n_heads * head_dim columns
 *   window   0: no limit;  scale: of the scores, > 0
 *   sparsity of single rows: 0: dense, else as the operator attend_sparse says
 *   scratch  device, scratch_bytes: partial results of long sequences; at least
 *            sl_cuda_attend_scratch() of them.  Used until the queued work is done.
 *
 * Rows of a prefill segment go through a tiled kernel on the tensor cores, single rows through one
 * that splits the cache; grouped query heads share every read in both.  Which kernel a row takes,
 * and how its keys are cut, depends on the row's own segment alone, so its bits do not depend on
 * the other segments.  Sums are float32, probabilities f16.
 * Errors: SL_ERR_ARG, SL_ERR_DEVICE.
 * Source: Dao 2023 (FlashAttention-2, online softmax); Dao et al. 2023 (Flash-Decoding). */
sl_status sl_cuda_attend(void *out, const void *q, int ldq, int n_heads, const sl_kv_view *cache,
                         float scale, int window, float sparsity, const sl_cuda_rows *rows,
                         void *scratch, size_t scratch_bytes, cudaStream_t stream);

/* The least scratch for sequences of up to max_tokens: one sequence's partial results. */
size_t sl_cuda_attend_scratch(int max_tokens, int n_heads, int head_dim);

/* The parts of sl_cuda_attend(): segments [first, first + n) by the tiled kernel, decode segments
 * by the splitting one or by the sparse one, and every row by a plain one that takes any
 * head_dim. */
sl_status sl_cuda_attend_tiled(void *out, const void *q, int ldq, int n_heads,
                               const sl_cuda_pages *pages, float scale, int window,
                               const sl_cuda_rows *rows, int first, int n, int max_rows,
                               cudaStream_t stream);
sl_status sl_cuda_attend_split(void *out, const void *q, int ldq, int n_heads,
                               const sl_cuda_pages *pages, float scale, int window,
                               const sl_cuda_rows *rows, void *scratch, size_t scratch_bytes,
                               cudaStream_t stream);
sl_status sl_cuda_attend_sparse(void *out, const void *q, int ldq, int n_heads,
                                const sl_cuda_pages *pages, float scale, int window, float sparsity,
                                const sl_cuda_rows *rows, void *scratch, size_t scratch_bytes,
                                cudaStream_t stream);
sl_status sl_cuda_attend_any(void *out, const void *q, int ldq, int n_heads,
                             const sl_cuda_pages *pages, float scale, int window,
                             const sl_cuda_rows *rows, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
