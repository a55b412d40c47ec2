/* pack_search.h - packing of weights to 4 bits with a search for each group's step and minimum.
 *
 * The range of a group's values is a poor choice of 4-bit steps: one value far out makes all steps
 * wide.  Weights are packed once, so there is time to try a few narrower ranges and to refine the
 * best of them by least squares.  The format is that of model/pack.h, which is what everything that
 * reads it knows.
 * Layer: model.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_MODEL_PACK_SEARCH_H
#define SL_MODEL_PACK_SEARCH_H

#include <stdint.h>

/* Packs n <= SL_GROUP_ELEMS elements as one group of 4 bits.
 *   codes     host, (n + 1) / 2 bytes, all written;  x: host, float32, [n]
 *   pair_out  step, min: the bits of f16
 * The sum of squared errors is at most that of sl_pack_group(), which decides what becomes of
 * values that are not finite and of ranges beyond f16's.
 * Source: the search is ours; the paper takes the range (section 5). */
void sl_pack_group_search(uint8_t *codes, uint16_t pair_out[2], const float *x, int n);

/* row: host, sl_dtype_row_bytes(SL_DTYPE_Q4G64, cols) bytes, all written; x: host, [cols]. */
void sl_pack_row_search(void *row, const float *x, int64_t cols);

#endif
