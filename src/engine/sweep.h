/* sweep.h - the schedule of one block on one rank: a pure function of slice, block and policy.
 *
 * A sweep is a list of tasks with dependencies.  Tasks go to queues in list order; within a queue
 * they start in that order.  The order is the paper's zig-zag: per layer all micro-batches, so that
 * one reading of a layer's weights serves the whole block, and each micro-batch's hidden states
 * leave as soon as its last layer is done.
 *
 * Where some rows attend on the host, a layer has two parts: BEFORE attention and AFTER it.  AFTER
 * comes `lag` micro-batches later, so that the device computes others while the host attends.
 *
 * What lives outside the computing tier comes as a visit: the pages (and hidden states) of one
 * micro-batch in one layer are fetched from disk, uploaded, used, stored back and written to disk
 * again.  Visits take turns in `n_places` places; uploads run ahead of their use, and the next
 * layer's weights come in parts between them.
 * Layer: engine.  May include: base.  Thread safety: pure function.
 * Source: FlexGen, section 4.1, algorithm 1 and figure 3b.
 */
#ifndef SL_ENGINE_SWEEP_H
#define SL_ENGINE_SWEEP_H

#include "base/status.h"

typedef enum {
    SL_TASK_EMBED,   /* token ids -> hidden states; first rank */
    SL_TASK_RECEIVE, /* hidden states from the rank before */
    SL_TASK_LAYER,   /* one decoder layer for one micro-batch */
    SL_TASK_BEFORE,  /* its part before attention on the host, attention on the device included */
    SL_TASK_AFTER,   /* its part after attention */
    SL_TASK_HEAD,    /* final norm, logits and choice; last rank */
    SL_TASK_SEND,    /* hidden states to the next rank */
    SL_TASK_LOWER,   /* hidden states to where they are sent from */
    SL_TASK_FETCH,   /* a layer's streamed weights from disk to host memory */
    SL_TASK_UPLOAD,  /* a part of a layer's streamed weights from host to device memory */
    SL_TASK_ASK,     /* queries, new keys and values of rows that attend on the host */
    SL_TASK_ATTEND,  /* attention on the host */
    SL_TASK_ANSWER,  /* its results back to the device */
    SL_TASK_VISIT_FETCH,  /* a visit's pages and hidden states from disk to host memory */
    SL_TASK_VISIT_UPLOAD, /* from host memory to its place in the computing tier */
    SL_TASK_VISIT_STORE,  /* what is new, back to host memory */
    SL_TASK_VISIT_WRITE,  /* what is new, to disk */
    SL_TASK_COUNT
} sl_task_kind;

typedef enum {
    SL_QUEUE_DISK_READ,
    SL_QUEUE_H2D,
    SL_QUEUE_WIRE_IN,
    SL_QUEUE_ANSWER, /* small urgent copies to the device, beside H2D */
    SL_QUEUE_COMPUTE,
    SL_QUEUE_ASK, /* small urgent copies from the device, beside D2H */
    SL_QUEUE_ATTEND,
    SL_QUEUE_D2H,
    SL_QUEUE_DISK_WRITE,
    SL_QUEUE_WIRE_OUT,
    SL_QUEUE_COUNT
} sl_queue;

enum { SL_TASK_MAX_DEPS = 6, SL_SWEEP_RING = 2 };

typedef struct {
    sl_task_kind kind;
    sl_queue queue;
    int layer;         /* number in the model; -1: none */
    int micro_batch;   /* -1 for weights */
    int part, n_parts; /* UPLOAD: which of how many */
    int place;         /* of the visit that the task belongs to or computes with; -1: none */
    int n_deps;
    int dep[SL_TASK_MAX_DEPS]; /* earlier tasks that must be done first */
} sl_task;

/* What a micro-batch needs in every layer. */
enum {
    SL_VISIT_FETCH = 1 << 0,  /* something comes from disk */
    SL_VISIT_UPLOAD = 1 << 1, /* something comes to its place */
    SL_VISIT_STORE = 1 << 2,  /* something goes back from its place */
    SL_VISIT_WRITE = 1 << 3,  /* something goes to disk */
    SL_VISIT_HOST = 1 << 4,   /* some rows attend on the host */
};

typedef struct {
    int first_layer, last_layer; /* slice [first, last) */
    int is_first_rank, is_last_rank;
    int n_micro_batches;
    /* Which layers have pieces on disk, and pieces outside the device's memory: [last_layer -
     * first_layer] each, or NULL: none.  With a device what is fetched is uploaded too. */
    const unsigned char *is_fetched, *is_uploaded;
    int has_device;             /* 1: hidden states are lowered before they are sent, */
    int is_direct;              /* but for 1 here: they are sent from where they are computed */
    const unsigned char *visit; /* [n_micro_batches] SL_VISIT_..., or NULL: none */
    int hidden_travels;         /* 1: hidden states leave the computing tier between layers, so that
                                 * every micro-batch visits with UPLOAD and STORE */
    int n_places;               /* at least sl_sweep_places() */
} sl_sweep_shape;

typedef struct {
    int n_tasks, capacity;
    sl_task *task; /* [n_tasks], dependencies point backwards */
} sl_sweep;

/* Micro-batches that AFTER follows behind BEFORE. */
int sl_sweep_lag(int n_micro_batches, int attends_on_host, int hidden_travels);

/* Places that visits need so that uploads run up to two visits ahead; 1 where nothing visits. */
int sl_sweep_places(int n_micro_batches, int attends_on_host, int hidden_travels);

/* Writes the schedule into *sweep, whose array grows and is kept; a zeroed sl_sweep is valid.
 * Errors: SL_ERR_ARG (empty slice or block, too few places), SL_ERR_NOMEM. */
sl_status sl_sweep_make(const sl_sweep_shape *shape, sl_sweep *sweep);
void sl_sweep_free(sl_sweep *sweep);

#endif
