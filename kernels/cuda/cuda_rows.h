/* cuda_rows.h - a micro-batch's rows as the kernels see them.
 *
 * Layer: kernels/cuda.  May include: base, store.  Thread safety: plain data.
 */
#ifndef SL_CUDA_ROWS_H
#define SL_CUDA_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "store/kv_format.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t row0, n_rows, position0;
    int32_t page0; /* its first page in `pages` */
} sl_cuda_segment;

/* Device arrays that lie one after another in one allocation. */
typedef struct {
    int n_rows;
    int n_segments; /* those of one row (decode) first, then the others (prefill) */
    int n_decode;
    int max_prefill_rows;           /* rows of the longest prefill segment */
    int max_decode_tokens;          /* positions that the longest decode segment sees */
    const int32_t *token;           /* device [n_rows], or NULL if the host had none */
    const int32_t *position;        /* device [n_rows] */
    const int32_t *in_segment;      /* device [n_rows]: number of the row's segment */
    const sl_cuda_segment *segment; /* device [n_segments] */
    const int32_t *pages;           /* device: the page lists of all segments */
} sl_cuda_rows;

/* One layer's pages, sizes worked out for the kernels. */
typedef struct {
    unsigned char *base; /* device */
    size_t page_bytes, half_bytes, head_bytes;
    int n_kv_heads, head_dim;
    int bits;     /* of a code: 8, 4; 0: f16 elements */
    int n_groups; /* pairs of a token and head */
    int row_bytes;
} sl_cuda_pages;

static inline sl_cuda_pages sl_cuda_pages_of(const sl_kv_view *cache) {
    const sl_kv_format *f = &cache->format;
    sl_cuda_pages p;
    p.base = (unsigned char *)cache->base;
    p.page_bytes = f->page_bytes;
    p.half_bytes = f->half_bytes;
    p.head_bytes = f->head_bytes;
    p.n_kv_heads = f->n_kv_heads;
    p.head_dim = f->head_dim;
    p.bits = sl_dtype_group_bits(f->dtype);
    p.n_groups = sl_kv_groups(f);
    p.row_bytes = (int)sl_kv_row_bytes(f);
    return p;
}

#ifdef __cplusplus
}
#endif
#endif
