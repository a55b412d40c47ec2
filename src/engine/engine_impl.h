/* engine_impl.h - the inside of an engine, shared by engine.c (opening, requests, results, numbers)
 * and engine_step.c (blocks through the pipeline).
 * Layer: engine, private.  Thread safety: one owner. */
#ifndef SL_ENGINE_ENGINE_IMPL_H
#define SL_ENGINE_ENGINE_IMPL_H

#include "engine/block.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/stage.h"

struct sl_engine {
    sl_backend *backend;
    sl_transport *transport;
    sl_policy policy;
    int *layers;    /* [n_ranks], owned; policy.layers_per_rank */
    sl_seat *seats; /* [seats of all blocks] */
    int first_layer, last_layer;
    sl_stage *stage;
    sl_scheduler *sched; /* first rank only */
    sl_block block;
    sl_block next; /* formed or read ahead while `block` is computed */
    int has_next;
    int tried;       /* first rank: no block can be formed before another result has come */
    sl_status ahead; /* first rank: failure of what was done ahead, after which nothing is */
    char ahead_message[SL_BLOCK_MESSAGE_BYTES];
    sl_block_result result;
    sl_buffer out;          /* header or result being sent */
    sl_ticket sending;      /* of `out` */
    int started;            /* the first step has been taken */
    int finishing, stopped; /* no more requests; STOP has been sent or seen */
    int waits_for_prefill;  /* blocks in flight that hold prompt rows */
    uint8_t *is_prefill;    /* [blocks_in_flight] ring over block numbers */
    uint64_t n_blocks;
    double prefill_s, decode_s, wait_s;
    uint64_t sent_bytes, received_bytes;
};

/* Called by the stage while it computes: forms the next block or reads its header, if it can, and
 * has it prepared. */
sl_status sl_engine_look_ahead(void *engine);

#endif
