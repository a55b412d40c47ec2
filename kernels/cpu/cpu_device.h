/* cpu_device.h - host memory that pretends to be a device's: the device of machines without a GPU.
 *
 * It has a pool of its own under a budget, and copies that happen late: a copy on H2D or D2H is
 * held back until somebody waits for an event behind it, so that whoever uses data without waiting
 * gets what was there before.  Placements, rings and hand-offs are tested with it where no GPU is.
 * Layer: kernels/cpu.  Thread safety: one thread per backend.
 */
#ifndef SL_CPU_DEVICE_H
#define SL_CPU_DEVICE_H

#include <stddef.h>

#include "base/status.h"
#include "store/device.h"

typedef struct sl_cpu_device sl_cpu_device;

/* Errors: SL_ERR_ARG (zero bytes), SL_ERR_NOMEM. */
sl_status sl_cpu_device_open(size_t budget_bytes, sl_cpu_device **out);
void sl_cpu_device_close(sl_cpu_device *device);

/* The table; its functions find the device through sl_cpu_device_of(). */
extern const sl_device_ops sl_cpu_device_ops;

/* The device of a CPU backend that was opened with one. */
sl_cpu_device *sl_cpu_device_of(const struct sl_backend *be);

#endif
