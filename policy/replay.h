/* replay.h - how long a sweep takes when each of its tasks takes a given time.
 *
 * The schedule is the engine's own (engine/sweep.h): queues in order, dependencies between them.
 * What the longest queue cannot hide (a ring that waits for computation, the first layer's
 * attention) comes out of it instead of being guessed.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_REPLAY_H
#define SL_POLICY_REPLAY_H

#include "base/status.h"
#include "engine/sweep.h"

/* Times in seconds of one task each; all micro-batches and layers alike. */
typedef struct {
    int n_layers, n_micro_batches;
    int is_first_rank, is_last_rank;
    int has_device;
    int is_fetched, is_uploaded; /* weights come from disk; from host to device memory */
    unsigned char visit;         /* SL_VISIT_... of each micro-batch */
    int hidden_travels;
    double embed_s, head_s;
    double before_s, after_s; /* the two parts of a layer; LAYER takes both */
    double fetch_s, upload_s; /* of a layer's weights */
    double attend_s;          /* of a micro-batch in a layer, on the host */
    double visit_fetch_s, visit_upload_s, visit_store_s, visit_write_s;
    double wire_s;
} sl_replay_work;

/* *sweep_s_out: from the first task's start to the last one's end, in a sweep that is neither the
 * first nor the last.  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_replay_sweep(const sl_replay_work *work, double *sweep_s_out);

#endif
