/* sim_host_attention.h - attention on the host of a simulated machine.
 *
 * Layer: kernels.  May include: src.  Thread safety: one thread, the rank's.
 */
#ifndef SL_SIM_HOST_ATTENTION_H
#define SL_SIM_HOST_ATTENTION_H

#include "engine/host_attention.h"
#include "sim/sim.h"

/* Jobs take host_job_s and the reading of their pages; results are not written.  Close with
 * sl_host_attention_close() before the simulation.  Errors: SL_ERR_NOMEM. */
sl_status sl_sim_host_attention_open(sl_sim *sim, int rank, sl_host_attention **out);

#endif
