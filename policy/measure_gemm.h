/* measure_gemm.h - matrix products by format and rows, and what moves memory where they run.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_GEMM_H
#define SL_POLICY_MEASURE_GEMM_H

#include "measure.h"
#include "profile.h"

/* Fills gemm_flops and memory_bps.  Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_gemm(sl_measure *m, sl_profile *profile);

/* Fill gemm_small_flops and gemm_large_flops: on devices only, where memory suffices and the time
 * is not over; else the curves stay as they are.  Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_gemm_small(sl_measure *m, sl_profile *profile);
sl_status sl_measure_gemm_large(sl_measure *m, sl_profile *profile);

#endif
