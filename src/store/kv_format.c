#include "store/kv_format.h"

#include <string.h>

#include "base/half.h"
#include "model/pack.h"

sl_kv_format sl_kv_format_make(sl_dtype dtype, int n_kv_heads, int head_dim) {
    sl_kv_format format = {.dtype = dtype, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    format.head_bytes =
        (size_t)SL_PAGE_TOKENS * (sl_kv_row_bytes(&format) + (size_t)sl_kv_groups(&format) * 4);
    format.half_bytes = (size_t)n_kv_heads * format.head_bytes;
    format.page_bytes = 2 * format.half_bytes;
    return format;
}

/* Where a token's pairs begin. */
static size_t pairs_at(const sl_kv_format *f, int token) {
    return SL_PAGE_TOKENS * sl_kv_row_bytes(f) + (size_t)token * (size_t)sl_kv_groups(f) * 4;
}

static int group_elems(const sl_kv_format *f, int group) {
    const int left = f->head_dim - group * SL_GROUP_ELEMS;
    return left < SL_GROUP_ELEMS ? left : SL_GROUP_ELEMS;
}

void sl_kv_put(const sl_kv_format *f, void *head, int token, const float *x) {
    const int bits = sl_dtype_group_bits(f->dtype);
    uint8_t *row = (uint8_t *)head + (size_t)token * sl_kv_row_bytes(f);
    if (f->dtype == SL_DTYPE_F32) memcpy(row, x, (size_t)f->head_dim * sizeof *x);
    for (int i = 0; i < f->head_dim && f->dtype == SL_DTYPE_F16; i++) {
        const sl_f16 h = sl_f32_to_f16(x[i]);
        memcpy(row + (size_t)i * sizeof h, &h, sizeof h);
    }
    for (int g = 0; g < sl_kv_groups(f); g++) {
        uint16_t pair[2];
        sl_pack_group(row + g * SL_GROUP_ELEMS * bits / 8, pair, x + g * SL_GROUP_ELEMS, bits,
                      group_elems(f, g));
        memcpy((uint8_t *)head + pairs_at(f, token) + (size_t)g * 4, pair, sizeof pair);
    }
}

void sl_kv_get(const sl_kv_format *f, const void *head, int token, float *y) {
    const int bits = sl_dtype_group_bits(f->dtype);
    const uint8_t *row = (const uint8_t *)head + (size_t)token * sl_kv_row_bytes(f);
    if (f->dtype == SL_DTYPE_F32) memcpy(y, row, (size_t)f->head_dim * sizeof *y);
    for (int i = 0; i < f->head_dim && f->dtype == SL_DTYPE_F16; i++) {
        sl_f16 h;
        memcpy(&h, row + (size_t)i * sizeof h, sizeof h);
        y[i] = sl_f16_to_f32(h);
    }
    for (int g = 0; g < sl_kv_groups(f); g++) {
        uint16_t pair[2];
        memcpy(pair, (const uint8_t *)head + pairs_at(f, token) + (size_t)g * 4, sizeof pair);
        sl_unpack_group(y + g * SL_GROUP_ELEMS, row + g * SL_GROUP_ELEMS * bits / 8, pair, bits,
                        group_elems(f, g));
    }
}
