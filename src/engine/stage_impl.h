/* stage_impl.h - the inside of a stage, shared by stage.c (running) and stage_open.c (memory).
 * Layer: engine, private.  Thread safety: one owner. */
#ifndef SL_ENGINE_STAGE_IMPL_H
#define SL_ENGINE_STAGE_IMPL_H

#include "engine/executor.h"
#include "engine/program.h"
#include "engine/slots.h"
#include "engine/stage.h"
#include "engine/sweep.h"
#include "store/kv_cache.h"
#include "store/weights.h"

/* Follows the hidden states of a micro-batch on the wire, so that a failure goes with them. */
typedef struct {
    int32_t status;
    char message[252];
} sl_stage_trailer;

/* Two sets of hidden states: while one block's are still being sent, the next block is computed. */
enum { SL_STAGE_SETS = 2 };

typedef struct {
    sl_rows rows;
    int32_t *token, *position; /* [max_rows] */
    int32_t *wanted;           /* [max_rows] */
    sl_segment *segment;       /* [micro_batch] */
    int choice0;               /* of the micro-batch's first wanted row in the block */
} sl_stage_rows;

struct sl_stage {
    sl_stage_options opt;
    sl_model_config config;
    int is_first, is_last;
    const sl_device_ops *device; /* NULL: the host computes */
    sl_tier *cpu, *gpu;          /* gpu: NULL without a device */
    sl_tier *fast;               /* the one of the two that computes */
    sl_weights *weights;
    sl_program *program;
    sl_kv_cache *kv;
    sl_slots slots;
    sl_executor *executor;
    sl_sweep sweep;
    unsigned char *is_fetched, *is_uploaded; /* [layers of the slice] */
    sl_event **event;                        /* [n_events] by task number, devices only */
    int n_events;
    sl_stage_rows *mb;                   /* [num_micro_batches] */
    void **hidden[SL_STAGE_SETS];        /* [num_micro_batches] rows, where it is computed */
    unsigned char **wire[SL_STAGE_SETS]; /* [num_micro_batches] rows and trailer, host; without a
                                          * device the same memory as hidden */
    sl_ticket *sending[SL_STAGE_SETS];   /* [num_micro_batches] */
    sl_choice_ask *ask;                  /* [max_rows], last rank */
    const sl_block *block;               /* being computed */
    sl_block_result *result;             /* last rank, being filled */
    int set;                             /* of the block being computed */
    sl_status failed;                    /* first failure seen here or before; sticks */
    char message[sizeof((sl_stage_trailer *)0)->message];
    double compute_s, wait_s;
    uint64_t sent_bytes, received_bytes;
    size_t taken_at_start; /* calls of sl_tier_take() by the end of open */
};

static inline size_t sl_stage_row_bytes(const sl_stage *s) {
    return (size_t)s->config.hidden * s->opt.backend->ops->act_bytes;
}

static inline int sl_stage_n_layers(const sl_stage *s) {
    return s->opt.last_layer - s->opt.first_layer;
}

#endif
