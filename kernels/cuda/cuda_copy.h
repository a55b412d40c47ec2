/* cuda_copy.h - small copies between pinned host memory and the device by a kernel.
 *
 * A copy engine takes what is queued for its direction in order, whatever the streams: a small copy
 * waits for all large ones that were queued before, milliseconds of them.  Multiprocessors reach
 * pinned memory beside the engine.
 * Layer: kernels/cuda.  May include: base.  Thread safety: as CUDA's.
 */
#ifndef SL_CUDA_COPY_H
#define SL_CUDA_COPY_H

#include <cuda_runtime_api.h>
#include <stddef.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dst[0, bytes) = src[0, bytes); either may be pinned host memory, which has to be mapped for the
 * device.  Work is queued on the stream; the call does not wait.
 * Errors: SL_ERR_DEVICE (memory that is not pinned, launch refused). */
sl_status sl_cuda_copy_small(void *dst, const void *src, size_t bytes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
