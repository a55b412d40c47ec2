/* measure_beside.h - what computation on the device loses while copies to it run.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_BESIDE_H
#define SL_POLICY_MEASURE_BESIDE_H

#include "measure.h"
#include "profile.h"

/* Fills compute_beside_h2d_frac: on devices only, where memory suffices and the time is not over.
 * Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_beside(sl_measure *m, sl_profile *profile);

#endif
