/* capacity.h - what of its host and GPU a rank takes unless it is told: its share of what is free.
 *
 * Layer: launch.  May include: all.  Thread safety: that of the transport.
 */
#ifndef SL_LAUNCH_CAPACITY_H
#define SL_LAUNCH_CAPACITY_H

#include <stddef.h>

#include "base/status.h"
#include "commands.h"
#include "engine/transport.h"

/* The processors of this rank.  Where the launcher let all ranks of a host run on the same ones,
 * they are divided, and this thread is bound to its part (cores.h).  The first rank notes on
 * standard error, unless quiet, when mpirun bound it to less than there is.  Collective. gpu_node
 * NUMA node of the rank's GPU, -1: none, or unknown */
sl_status sl_capacity_threads(const sl_launch *launch, sl_transport *transport, int gpu_node,
                              int quiet, int *out);

/* 80 % of the host memory that is available, divided among the ranks of the host. */
sl_status sl_capacity_cpu(const sl_launch *launch, size_t *out);

/* 80 % of what is free in a folder, divided in the same way.  Errors: SL_ERR_IO. */
sl_status sl_capacity_disk(const sl_launch *launch, const char *dir, size_t *out);

/* The GPU of a rank: ranks of a host take turns. */
typedef struct {
    int device;    /* CUDA's number of it */
    int n_sharing; /* ranks that use it */
} sl_capacity_gpu;

sl_capacity_gpu sl_capacity_gpu_of(const sl_launch *launch, int n_devices);

/* The NUMA node of it; -1: none, or not known. */
int sl_capacity_gpu_node(const sl_launch *launch, int without_gpu);

/* 90 % of what is free of it, divided among those. */
size_t sl_capacity_gpu_bytes(const sl_capacity_gpu *gpu, size_t free_bytes);

#endif
