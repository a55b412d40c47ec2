/* kv_format.h - the layout of a page of keys and values.
 *
 * A page holds SL_PAGE_TOKENS tokens of one sequence in one layer: the keys of its heads, one head
 * after another, then the values in the same way.  What one head has is contiguous, so attention
 * streams it:
 *
 *   F16, F32      [SL_PAGE_TOKENS, head_dim] elements
 *   Q8G64, Q4G64  [SL_PAGE_TOKENS, code_bytes] codes, then [SL_PAGE_TOKENS, n_groups] pairs of
 *                 f16 step and f16 min, 4 bytes each.  Groups of 64 run along the head dimension;
 *                 the last one is shorter where head_dim is no multiple of 64 (80: 64 + 16).
 *                 Codes and pairs are those of model/pack.h: Q8G64 code_bytes = head_dim, Q4G64
 *                 (head_dim + 1) / 2, element 2i in the low half of byte i.  Both parts of a head
 *                 are multiples of 32 bytes, and there is no padding.
 *
 * Layer: store.  May include: base, model.  Thread safety: plain data, pure functions.
 */
#ifndef SL_STORE_KV_FORMAT_H
#define SL_STORE_KV_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 32 tokens: on average 16 are wasted at a sequence's end (3 % of 512), while a page of a 7168-wide
 * layer is 896 KiB in f16, large enough for a link, and a 576-wide one's head (4 KiB of keys) still
 * fills whole cache lines and vector registers.  Prefixes are shared by whole pages. */
enum { SL_PAGE_TOKENS = 32 };

typedef struct {
    sl_dtype dtype; /* F16, F32, Q8G64 or Q4G64 */
    int n_kv_heads;
    int head_dim;
    size_t head_bytes; /* SL_PAGE_TOKENS tokens of one head, keys or values */
    size_t half_bytes; /* keys of a page: n_kv_heads * head_bytes; values follow */
    size_t page_bytes; /* 2 * half_bytes */
} sl_kv_format;

/* The pages of one layer: page p lies at base + p * format.page_bytes. */
typedef struct {
    sl_kv_format format;
    void *base;
} sl_kv_view;

sl_kv_format sl_kv_format_make(sl_dtype dtype, int n_kv_heads, int head_dim);

/* Bytes of one token's elements or codes within a head. */
static inline size_t sl_kv_row_bytes(const sl_kv_format *f) {
    const int bits = sl_dtype_group_bits(f->dtype);
    return bits ? ((size_t)f->head_dim * (size_t)bits + 7) / 8
                : (size_t)f->head_dim * sl_dtype_block_bytes(f->dtype);
}

/* Groups of one token within a head; 0 in the plain formats. */
static inline int sl_kv_groups(const sl_kv_format *f) {
    return sl_dtype_group_bits(f->dtype) ? (f->head_dim + SL_GROUP_ELEMS - 1) / SL_GROUP_ELEMS : 0;
}

/* The reference in plain C: puts one token's vector of one head where it belongs, and gets it back.
 *   head   host, head_bytes: the keys (or values) of one head in one page
 *   x, y   host, float32, [head_dim];  token: in [0, SL_PAGE_TOKENS) */
void sl_kv_put(const sl_kv_format *f, void *head, int token, const float *x);
void sl_kv_get(const sl_kv_format *f, const void *head, int token, float *y);

#ifdef __cplusplus
}
#endif
#endif
