/* half.h - scalar conversions between float and the 16-bit formats, in plain C.
 *
 * The vector kernels of kernels/cpu use the processor's own instructions and are compared with
 * these.  Rounding is to nearest even; NaN stays NaN; f16 overflow gives infinity.
 * Layer: base.  Thread safety: pure functions.
 */
#ifndef SL_BASE_HALF_H
#define SL_BASE_HALF_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t sl_f16;  /* IEEE 754 binary16 */
typedef uint16_t sl_bf16; /* the upper half of a binary32 */

float sl_f16_to_f32(sl_f16 h);
sl_f16 sl_f32_to_f16(float f);
float sl_bf16_to_f32(sl_bf16 h);
sl_bf16 sl_f32_to_bf16(float f);

#ifdef __cplusplus
}
#endif
#endif
