/* cuda_pool.h - hands out parts of one run of bytes: the device memory taken at the start.
 *
 * The pool deals in offsets and keeps its books on the host, so it knows nothing of the memory
 * itself.  Parts are multiples of SL_CUDA_POOL_ALIGN, taken where they fit first.
 * Layer: kernels/cuda.  May include: base.  Thread safety: one thread per pool.
 */
#ifndef SL_CUDA_POOL_H
#define SL_CUDA_POOL_H

#include <stddef.h>

#include "base/status.h"

enum { SL_CUDA_POOL_ALIGN = 256 };

typedef struct {
    size_t offset, bytes;
} sl_cuda_part;

typedef struct {
    size_t budget_bytes, used_bytes, peak_bytes;
    sl_cuda_part *part; /* [n] handed out, by offset; owned */
    size_t n, capacity;
    size_t n_taken; /* since init */
} sl_cuda_pool;

void sl_cuda_pool_init(sl_cuda_pool *pool, size_t budget_bytes);
void sl_cuda_pool_free(sl_cuda_pool *pool);

/* Errors: SL_ERR_ARG (zero bytes), SL_ERR_NOMEM naming `what`, what it needs, and what is left in
 * all and in one run. */
sl_status sl_cuda_pool_take(sl_cuda_pool *pool, size_t bytes, const char *what, size_t *offset_out);

/* Gives the part at `offset` back; an offset that was not handed out is ignored. */
void sl_cuda_pool_put(sl_cuda_pool *pool, size_t offset);

#endif
