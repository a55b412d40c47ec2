/* sim_disk.h - disks of a simulated machine: transfers take their time and move nothing.
 *
 * All disks of a machine are one: reads queue behind reads, writes behind writes.
 * Layer: kernels/sim.  May include: src.  Thread safety: one thread, the rank's.
 */
#ifndef SL_SIM_DISK_H
#define SL_SIM_DISK_H

#include "sim/sim.h"
#include "store/disk.h"

/* Errors: SL_ERR_ARG when the machine has no disk, SL_ERR_NOMEM. */
sl_status sl_sim_disk_open(sl_sim *sim, int rank, const char *name, size_t bytes, sl_disk **out);

#endif
