/* replay.h - how long a sweep takes when each of its tasks takes a given time.
 *
 * The schedule is the engine's own (engine/sweep.h): queues in order, dependencies between them.
 * What the longest queue cannot hide (a ring that waits for computation, the first layer's
 * attention) comes out of it instead of being guessed.  Copies, the disk and attention on the host
 * slow each other down while they share the link and host memory.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_REPLAY_H
#define SL_POLICY_REPLAY_H

#include "base/status.h"
#include "engine/sweep.h"

/* A task alone, and what it takes of what is shared meanwhile. */
typedef struct {
    double seconds;
    double bps; /* of host memory, and of the link if it is a copy */
} sl_replay_load;

/* What a micro-batch needs in every layer: SL_VISIT_..., and how much of it, beside the mean's 1.
 */
typedef struct {
    unsigned char visit;
    double pages_part, host_part; /* of pages that travel; of attention on the host */
} sl_replay_batch;

/* One task each; all layers alike. */
typedef struct {
    int n_layers, n_micro_batches;
    int is_first_rank, is_last_rank;
    int has_device;
    int is_fetched, is_uploaded;  /* weights come from disk; from host to device memory */
    const sl_replay_batch *batch; /* [n_micro_batches] */
    int hidden_travels;
    double embed_s, head_s;
    double before_s, after_s;          /* the two parts of a layer; LAYER takes both */
    sl_replay_load fetch, upload;      /* of a layer's weights */
    sl_replay_load attend;             /* of a micro-batch in a layer, on the host */
    sl_replay_load ask, answer, lower; /* small copies for it; hidden states that are sent on */
    /* Of pages; those of hidden states come on top. */
    sl_replay_load visit_fetch, visit_upload, visit_store, visit_write;
    sl_replay_load hidden_fetch, hidden_upload, hidden_store, hidden_write;
    double wire_s; /* of a message, both ways */
    int is_cold;   /* 1: the first sweep of all, for which no weights were loaded ahead */
    /* What is shared; 0: no bound. */
    double duplex_bps, dram_bps, dram_beside_h2d_bps;
    double lost_frac; /* part of its speed that computation loses beside copies to the device */
} sl_replay_work;

typedef struct {
    double sweep_s; /* from the first task's start to the last one's end */
    double first_s; /* to the end of the first micro-batch */
    double last_s;  /* and of the last one: loads for the next sweep go on */
} sl_replay_times;

/* Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_replay_sweep(const sl_replay_work *work, sl_replay_times *out);

#endif
