/* measure_machine.h - all measurements of one rank's machine, in order and in time.
 *
 * Layer: policy.  May include: src.  Thread safety: one caller; it starts and joins threads.
 */
#ifndef SL_POLICY_MEASURE_MACHINE_H
#define SL_POLICY_MEASURE_MACHINE_H

#include "measure.h"
#include "profile.h"

/* Fills all rates of a profile, the threads' number and how the disk is reached; the caller fills
 * in name, source, device and capacities.
 *
 * Ranks begin each part together, so that those of one host share what they will share at work.
 * Takes some 20 seconds with options' sample_s at 0.1, and hardly longer than limit_s on any
 * machine.  Collective; all ranks get the same status.
 *   disk_engine_out  sl_disk_engine() of the disk, "" without one; may be NULL
 * Errors: SL_ERR_ARG, SL_ERR_NOMEM, SL_ERR_IO, SL_ERR_DEVICE, SL_ERR_COMM. */
sl_status sl_measure_machine(const sl_measure_options *options, sl_profile *out,
                             const char **disk_engine_out);

#endif
