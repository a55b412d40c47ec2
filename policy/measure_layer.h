/* measure_layer.h - what a device spends on a layer beside products and attention.
 *
 * Norms, the activation, keys and values into their pages, and the gaps between kernels: a sweep of
 * few rows notices.  They are queued behind work that keeps the device busy meanwhile, as in a
 * sweep, where layers are queued ahead; what launching takes is hidden.
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_LAYER_H
#define SL_POLICY_MEASURE_LAYER_H

#include "measure.h"

/* *seconds_out: of one layer with 16 rows of 4096.  Devices with a queue of their own (bind_rows)
 * only.  Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_measure_layer(sl_measure *m, double *seconds_out);

#endif
