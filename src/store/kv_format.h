/* kv_format.h - the layout of a page of keys and values.
 *
 * A page holds SL_PAGE_TOKENS tokens of one sequence in one layer: keys
 * [n_kv_heads, SL_PAGE_TOKENS, head_dim], then values of the same shape.  One head's keys are
 * contiguous, so attention streams them.
 * Layer: store.  May include: base.  Thread safety: plain data.
 */
#ifndef SL_STORE_KV_FORMAT_H
#define SL_STORE_KV_FORMAT_H

#include <stddef.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 32 tokens: on average 16 are wasted at a sequence's end (3 % of 512), while a page of a 7168-wide
 * layer is 896 KiB in f16, large enough for a link, and a 576-wide one's head (4 KiB of keys) still
 * fills whole cache lines and vector registers.  Prefixes are shared by whole pages. */
enum { SL_PAGE_TOKENS = 32 };

typedef struct {
    sl_dtype dtype; /* F16 or F32 */
    int n_kv_heads;
    int head_dim;
    size_t head_bytes; /* SL_PAGE_TOKENS * head_dim elements */
    size_t half_bytes; /* keys of a page: n_kv_heads * head_bytes; values follow */
    size_t page_bytes; /* 2 * half_bytes */
} sl_kv_format;

/* The pages of one layer: page p lies at base + p * format.page_bytes. */
typedef struct {
    sl_kv_format format;
    void *base;
} sl_kv_view;

sl_kv_format sl_kv_format_make(sl_dtype dtype, int n_kv_heads, int head_dim);

#ifdef __cplusplus
}
#endif
#endif
