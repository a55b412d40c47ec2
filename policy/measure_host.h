/* measure_host.h - attention on the host: by format and length, and what one job costs beside.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_HOST_H
#define SL_POLICY_MEASURE_HOST_H

#include "measure.h"
#include "profile.h"

/* Fills host_attend_bps and host_job_s.  Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_host(sl_measure *m, sl_profile *profile);

#endif
