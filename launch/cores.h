/* cores.h - which processors a rank takes of those that its host's ranks share.
 *
 * Masks are those of host.h.  Layer: launch.  May include: all.  Thread safety: pure functions but
 * for sl_cores_bind().
 */
#ifndef SL_LAUNCH_CORES_H
#define SL_LAUNCH_CORES_H

#include <stddef.h>
#include <stdint.h>

#include "host.h"

/* What a rank of this host may run on, and the NUMA node of its GPU, -1: none. */
typedef struct {
    uint8_t mask[SL_HOST_MASK_BYTES];
    int node;
} sl_cores_rank;

/* The processors of one rank: all of its own where the launcher gave ranks different ones, or there
 * are fewer processors than ranks; else an equal part, of its GPU's node where all ranks have a GPU
 * and the node has a processor for each.  Parts do not overlap, and keep the threads of a core and
 * the cores of a node together as far as they go.  Returns 1 where it is such a part.
 *   ranks  [n_ranks] of this host, in their order */
int sl_cores_divide(const sl_cores_rank *ranks, int n_ranks, int rank,
                    uint8_t out[SL_HOST_MASK_BYTES]);

int sl_cores_count(const uint8_t mask[SL_HOST_MASK_BYTES]);

/* Binds the calling thread, and those that it starts from now on.  Returns 0 where the system does
 * not let it. */
int sl_cores_bind(const uint8_t mask[SL_HOST_MASK_BYTES]);

/* "0-7,16-23"; cut to fit, with "..." then.  Returns buf. */
const char *sl_cores_format(const uint8_t mask[SL_HOST_MASK_BYTES], char *buf, size_t buf_bytes);

#endif
