/* span.h - what a queue was busy with, and when: the engine's account of its own overlap.
 *
 * Layer: engine.  May include: base.  Thread safety: plain data.
 */
#ifndef SL_ENGINE_SPAN_H
#define SL_ENGINE_SPAN_H

#include <stddef.h>

#include "engine/sweep.h"

/* One task that is over. */
typedef struct {
    const char *name; /* "layer", "weights in", ...; a string constant */
    sl_queue queue;
    int layer, micro_batch; /* -1: none */
    double start_s, end_s;  /* clock of this rank (base/clock.h) */
    size_t bytes;           /* moved over the queue's link; 0 for computation */
} sl_span;

/* Called for each task that is over, queue by queue in order of their ends, by the engine's
 * thread. */
typedef void (*sl_span_callback)(void *user, const sl_span *span);

/* "gpu", "h2d", "d2h", "h2d-small", "d2h-small", "cpu-attention", "disk-read", "disk-write",
 * "wire-in", "wire-out". */
const char *sl_queue_name(sl_queue queue);

#endif
