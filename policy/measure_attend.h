/* measure_attend.h - attention where the backend computes: decode by sequences, prefill by tokens.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_ATTEND_H
#define SL_POLICY_MEASURE_ATTEND_H

#include "measure.h"
#include "profile.h"

/* Fills attend_bps and prefill_attend_flops.  Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_attend(sl_measure *m, sl_profile *profile);

#endif
