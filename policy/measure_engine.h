/* measure_engine.h - what the engine costs beside its work: for a layer, and for a sweep.
 *
 * Two models that are too small to compute anything generate tokens; what they take is launches,
 * gaps, polling and bookkeeping.  Where a device computes, what a layer costs is measured on it
 * (measure_layer.h).
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_ENGINE_H
#define SL_POLICY_MEASURE_ENGINE_H

#include "measure.h"
#include "profile.h"

/* Fills layer_s and sweep_s.  Errors: those of the engine. */
sl_status sl_measure_engine(sl_measure *m, sl_profile *profile);

#endif
