/* measure_dram.h - reading host memory: by threads, and with copies to the device running beside.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure; it starts and joins
 * threads of its own.
 */
#ifndef SL_POLICY_MEASURE_DRAM_H
#define SL_POLICY_MEASURE_DRAM_H

#include "measure.h"
#include "profile.h"

/* Fills dram_threads_bps, dram_bps and dram_beside_h2d_bps.
 * Errors: SL_ERR_NOMEM (memory, threads), SL_ERR_DEVICE. */
sl_status sl_measure_dram(sl_measure *m, sl_profile *profile);

#endif
