/* sim_device.h - the memory, streams and events of a simulated device.
 *
 * Memory is addresses that nothing stands behind: using them ends the program.
 * Layer: kernels/sim.  May include: src.  Thread safety: one thread per device, its rank's.
 */
#ifndef SL_SIM_DEVICE_H
#define SL_SIM_DEVICE_H

#include <stddef.h>

#include "base/status.h"
#include "sim/sim.h"
#include "store/device.h"

typedef struct sl_sim_device sl_sim_device;

/* Errors: SL_ERR_NOMEM. */
sl_status sl_sim_device_open(sl_sim *sim, int rank, size_t budget_bytes, sl_sim_device **out);
void sl_sim_device_close(sl_sim_device *device);

/* Of a backend that has one: sim_backend.c. */
sl_sim_device *sl_sim_device_of(const struct sl_backend *be);

extern const sl_device_ops sl_sim_device_ops;

#endif
