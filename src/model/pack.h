/* pack.h - Sluice's own low-bit formats: groups of 64 codes with a step and a minimum.
 *
 * x = code * step + min, codes unsigned (8 or 4 bits), step and min in f16, both of the group.
 * A row of `cols` elements is stored as two parts, each padded with zeros to 16 bytes:
 *
 *   codes   Q8G64: one byte each.  Q4G64: element 2i in the low half of byte i, 2i + 1 in the high
 *   pairs   for each group of 64 elements in turn: f16 step, f16 min; the last group may be shorter
 *
 * The step itself is stored, never its inverse, which overflows f16 where the range is tiny.
 * The packers below take both from the group's range; model/pack_search.h looks for better ones.
 * The minimum is rounded down and the step up, so that the codes span the group's values: every
 * element is met within half a step, and a constant group exactly wherever f16 holds it.
 * Values beyond f16's range (65504) are clamped to what the codes reach.  A group with a value that
 * is not finite decodes to NaN throughout: a broken tensor stays visible.
 * Layer: model.  May include: base.  Thread safety: pure functions.
 * Source: the FlexGen paper, section 5 (group-wise quantisation, 64 elements, asymmetric).
 */
#ifndef SL_MODEL_PACK_H
#define SL_MODEL_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of the codes of a row, padding included; the pairs follow. */
static inline size_t sl_pack_code_bytes(sl_dtype dtype, size_t cols) {
    const size_t bytes = dtype == SL_DTYPE_Q8G64 ? cols : (cols + 1) / 2;
    return (bytes + 15) & ~(size_t)15;
}

static inline int sl_pack_groups(int64_t cols) {
    return (int)((cols + SL_GROUP_ELEMS - 1) / SL_GROUP_ELEMS);
}

/* Packs n <= SL_GROUP_ELEMS elements as one group: the reference for every other packer, which
 * gives the same bytes.
 *   codes     host, bits/8 * n bytes rounded up, all written;  x: host, float32, [n]
 *   pair_out  step, min: the bits of f16 */
void sl_pack_group(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits, int n);

/* Step and minimum of a group whose least and greatest values are low and high, both finite.  They
 * do not depend on the sign of a zero. */
void sl_pack_range(float low, float high, int bits, uint16_t pair_out[2]);

/* The two halves of sl_pack_group(): step and minimum, and the nearest codes under a step and a
 * minimum (all 0 where the step is 0). */
void sl_pack_pair(uint16_t pair_out[2], const float *x, int bits, int n);
void sl_pack_codes(uint8_t *codes, const uint16_t pair[2], const float *x, int bits, int n);

/* y[i] = code i * step + min, i < n.  The product is exact in float32, so only the sum rounds. */
void sl_unpack_group(float *y, const uint8_t *codes, const uint16_t pair[2], int bits, int n);

/* row: host, sl_dtype_row_bytes(dtype, cols) bytes, all written; x: host, float32, [cols];
 * dtype: Q8G64 or Q4G64. */
void sl_pack_row(void *row, const float *x, sl_dtype dtype, int64_t cols);
void sl_unpack_row(float *y, const void *row, sl_dtype dtype, int64_t cols);

#ifdef __cplusplus
}
#endif
#endif
