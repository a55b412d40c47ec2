#include "store/kv_format.h"

sl_kv_format sl_kv_format_make(sl_dtype dtype, int n_kv_heads, int head_dim) {
    sl_kv_format format = {.dtype = dtype, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    format.head_bytes = (size_t)SL_PAGE_TOKENS * (size_t)head_dim * sl_dtype_block_bytes(dtype);
    format.half_bytes = (size_t)n_kv_heads * format.head_bytes;
    format.page_bytes = 2 * format.half_bytes;
    return format;
}
