/* quant.h - reference conversion of stored rows to float32, in plain C.
 *
 * Layer: model.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_MODEL_QUANT_H
#define SL_MODEL_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = value of element i of a stored row, i < n.
 *
 *   y     host, float32, [n]
 *   x     host, `dtype`, n elements; unaligned is fine
 *   n     a multiple of the dtype's block; in the group formats the width of the whole row, since
 *         the place of its steps follows from it
 *
 * Source: the definitions of GGML's blocks (FORMATS section 3), checked against the `gguf` package.
 */
void sl_dequantize_row(float *y, const void *x, sl_dtype dtype, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
