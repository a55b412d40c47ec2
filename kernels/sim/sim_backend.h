/* sim_backend.h - the backend that computes nothing: operators take time on a simulated machine.
 *
 * Where the machine has a device, that is one; without, operators run in host memory and are over
 * when they return, as on CPUs.  Memory and disks are hollow (store/hollow.h).
 *
 * What an operator takes, alone: products gemm_flops, attention attend_bps and
 * prefill_attend_flops, everything else the bytes that it reads and writes at memory_bps.  Each of
 * the two products of a layer that add to the hidden states takes half of layer_s besides, and the
 * first rows that are bound after any operator take sweep_s of the thread that drives the device.
 * Chosen tokens are random ids that follow from the sequence's key, whatever else is asked for.
 * Layer: kernels.  May include: src.  Thread safety: one thread per backend, its rank's.
 */
#ifndef SL_SIM_BACKEND_H
#define SL_SIM_BACKEND_H

#include "engine/backend.h"
#include "sim/sim.h"

typedef struct {
    size_t device_bytes; /* of the device's memory; 0: rates.gpu_bytes */
} sl_sim_backend_options;

/* The calling thread has entered the simulation.  Close with sl_backend_close() before it leaves.
 * Errors: SL_ERR_ARG (memory of a device that the machine lacks), SL_ERR_NOMEM. */
sl_status sl_sim_backend_open(sl_sim *sim, int rank, const sl_sim_backend_options *options,
                              sl_backend **out);

#endif
