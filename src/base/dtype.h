/* dtype.h - the number formats that tensors are stored in, and their sizes.
 *
 * A format stores a row as blocks of `block_elems` consecutive elements in `block_bytes` bytes;
 * plain formats have blocks of one.  Rows start on a block boundary.  The group formats (Q8G64,
 * Q4G64) keep all codes of a row before all of its steps and minima instead, and take any width.
 * Layer: base.  Thread safety: pure functions over a constant table.
 * Source: FORMATS section 3; GGML's block layouts.
 */
#ifndef SL_BASE_DTYPE_H
#define SL_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SL_DTYPE_F32,
    SL_DTYPE_F16,
    SL_DTYPE_BF16,
    SL_DTYPE_Q4_0, /* GGML: blocks of 32 */
    SL_DTYPE_Q4_1,
    SL_DTYPE_Q5_0,
    SL_DTYPE_Q5_1,
    SL_DTYPE_Q8_0,
    SL_DTYPE_Q4_K, /* GGML: super-blocks of 256 */
    SL_DTYPE_Q5_K,
    SL_DTYPE_Q6_K,
    SL_DTYPE_Q8G64, /* our own groups of 64, laid out by whole rows: model/pack.h */
    SL_DTYPE_Q4G64,
    SL_DTYPE_COUNT
} sl_dtype;

/* "F16", "Q4_K", ...; "?" for a value out of range. */
const char *sl_dtype_name(sl_dtype dtype);
int sl_dtype_block_elems(sl_dtype dtype);    /* 1 for the group formats */
size_t sl_dtype_block_bytes(sl_dtype dtype); /* 0 for the group formats: they have no blocks */

/* Elements that share a step and a minimum in the group formats. */
enum { SL_GROUP_ELEMS = 64 };

/* Bits of a code in a group format, 0 for every other format. */
static inline int sl_dtype_group_bits(sl_dtype dtype) {
    return dtype == SL_DTYPE_Q8G64 ? 8 : dtype == SL_DTYPE_Q4G64 ? 4 : 0;
}

/* Bytes of a row of `cols` elements.
 * Errors: SL_ERR_FORMAT (cols < 0 or no multiple of the block), SL_ERR_NOMEM (overflow). */
sl_status sl_dtype_row_bytes(sl_dtype dtype, int64_t cols, size_t *out);

#ifdef __cplusplus
}
#endif
#endif
