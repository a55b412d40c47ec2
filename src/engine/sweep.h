/* sweep.h - the schedule of one block on one rank: a pure function of slice and block.
 *
 * A sweep is a list of tasks with dependencies.  Tasks go to queues in list order; within a queue
 * they start in that order.  The order is the paper's zig-zag: per layer all micro-batches, so that
 * one reading of a layer's weights serves the whole block, and each micro-batch's hidden states
 * leave as soon as its last layer is done. Layer: engine.  May include: base.  Thread safety: pure
 * function. Source: FlexGen, section 4.1, algorithm 1 and figure 3b.
 */
#ifndef SL_ENGINE_SWEEP_H
#define SL_ENGINE_SWEEP_H

#include "base/status.h"

typedef enum {
    SL_TASK_EMBED,   /* token ids -> hidden states; first rank */
    SL_TASK_RECEIVE, /* hidden states from the rank before */
    SL_TASK_LAYER,   /* one decoder layer for one micro-batch */
    SL_TASK_HEAD,    /* final norm, logits and choice; last rank */
    SL_TASK_SEND,    /* hidden states to the next rank */
    SL_TASK_LOWER,   /* hidden states from device to host memory, before they are sent */
    SL_TASK_FETCH,   /* a layer's streamed weights from disk to host memory */
    SL_TASK_UPLOAD   /* a layer's streamed weights from host to device memory */
} sl_task_kind;

typedef enum {
    SL_QUEUE_DISK_READ,
    SL_QUEUE_H2D,
    SL_QUEUE_WIRE_IN,
    SL_QUEUE_COMPUTE,
    SL_QUEUE_D2H,
    SL_QUEUE_WIRE_OUT,
    SL_QUEUE_COUNT
} sl_queue;

enum { SL_TASK_MAX_DEPS = 2, SL_SWEEP_RING = 2 };

typedef struct {
    sl_task_kind kind;
    sl_queue queue;
    int layer;       /* LAYER: number in the model; else -1 */
    int micro_batch; /* -1 for weights */
    int n_deps;
    int dep[SL_TASK_MAX_DEPS]; /* earlier tasks that must be done first */
} sl_task;

typedef struct {
    int first_layer, last_layer; /* slice [first, last) */
    int is_first_rank, is_last_rank;
    int n_micro_batches;
    /* Which layers have pieces on disk, and pieces outside the device's memory: [last_layer -
     * first_layer] each, or NULL: none.  With a device what is fetched is uploaded too. */
    const unsigned char *is_fetched, *is_uploaded;
    int has_device; /* 1: hidden states are lowered before they are sent */
} sl_sweep_shape;

typedef struct {
    int n_tasks, capacity;
    sl_task *task; /* [n_tasks], dependencies point backwards */
} sl_sweep;

/* Writes the schedule into *sweep, whose array grows and is kept; a zeroed sl_sweep is valid.
 * Errors: SL_ERR_ARG (empty slice or block), SL_ERR_NOMEM. */
sl_status sl_sweep_make(const sl_sweep_shape *shape, sl_sweep *sweep);
void sl_sweep_free(sl_sweep *sweep);

#endif
