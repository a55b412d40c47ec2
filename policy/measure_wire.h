/* measure_wire.h - the wire between neighbouring ranks: bandwidth and latency.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_WIRE_H
#define SL_POLICY_MEASURE_WIRE_H

#include "measure.h"
#include "profile.h"

/* Fills wire_bps and wire_latency_s of every rank but the last, where they are 0.  Every rank
 * sends to its next one at the same time, as in a pipeline at work: from device to device where the
 * transport can, else from host memory.  Latency is that of a word between hosts.  Collective.
 * Errors: SL_ERR_COMM, SL_ERR_NOMEM, on all ranks. */
sl_status sl_measure_wire(sl_measure *m, sl_profile *profile);

#endif
