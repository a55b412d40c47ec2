/* measure_links.h - copies to and from the device: by size, and both ways at once.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_LINKS_H
#define SL_POLICY_MEASURE_LINKS_H

#include "measure.h"
#include "profile.h"

/* Fills h2d_bps, d2h_bps and duplex_bps; without a device they stay as they are.
 * Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_links(sl_measure *m, sl_profile *profile);

#endif
