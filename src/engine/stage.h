/* stage.h - one rank's part of the pipeline: its slice, its pages, and how it computes a block.
 *
 * A stage does what block headers say: applies operations on sequences, lays out rows, sweeps the
 * slice, hands hidden states on, and on the last rank chooses tokens.  It holds no queue and takes
 * no decision.  A failure does not break the hand-off: it travels with the hidden states and comes
 * out in the block's result.
 * Layer: engine.  May include: base, model, store.  Thread safety: one thread per stage.
 */
#ifndef SL_ENGINE_STAGE_H
#define SL_ENGINE_STAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"
#include "base/status.h"
#include "engine/backend.h"
#include "engine/block.h"
#include "engine/host_attention.h"
#include "engine/seats.h"
#include "engine/span.h"
#include "engine/transport.h"
#include "model/source.h"
#include "store/placement.h"

typedef struct {
    const sl_source *source; /* borrowed during open; its config is copied */
    sl_backend *backend;     /* borrowed until close */
    sl_transport *transport; /* borrowed until close */
    int first_layer, last_layer;
    int micro_batch, num_micro_batches, max_rows; /* bounds of a block */
    int n_slots;                                  /* sequences at a time */
    int max_context;
    sl_dtype cache_dtype;
    size_t cpu_budget_bytes;
    const char *disk_dir;     /* folder of the disk tier, or NULL: there is none */
    size_t disk_budget_bytes; /* of the disk tier */
    sl_shares weights;        /* of the decoder matrices by tier; all zero: as high as they fit */
    sl_dtype weights_dtype;   /* as for sl_layout_make_as() */
    const sl_seat *seats;     /* [n_slots] borrowed until close */
    sl_shares hidden;         /* of hidden states; all zero: in the tier that computes */
    float sparsity;           /* of attention in decode, (0, 1]; 0: dense */
    int no_overlap;           /* 1: one task at a time */
    sl_host_attention *host_attention; /* borrowed until close; NULL: the device attends to all */
    sl_span_callback on_span;          /* may be NULL */
    void *span_user;
    void (*on_failure)(void *user, const char *message); /* may be NULL */
    void *failure_user;
    sl_pulse *pulse; /* borrowed until close; may be NULL */
    /* Called between tasks while a block is computed: the moment to look for the next one's header.
     * May be NULL.  Errors: the hand-off is broken. */
    sl_status (*on_turn)(void *user);
    void *turn_user;
} sl_stage_options;

typedef struct sl_stage sl_stage;

/* Loads the slice and takes buffers from the budgets, all but the pages.  max_pages_out: pages per
 * layer, by the seats' home, that the rest of the budgets holds, at most what full contexts in
 * those seats need.  A rank without a device keeps the gpu's sequences in host memory. Errors:
 * SL_ERR_NOMEM with the numbers when a home does not hold even one full context. */
sl_status sl_stage_open(const sl_stage_options *options, sl_stage **out,
                        int64_t max_pages_out[SL_TIER_COUNT]);
void sl_stage_close(sl_stage *stage);

/* Takes the pages, after the ranks have agreed on their numbers. */
sl_status sl_stage_open_pages(sl_stage *stage, const int n_pages[SL_TIER_COUNT]);

sl_block_limits sl_stage_limits(const sl_stage *stage);

/* The block that will be run after the one under way, or next: its hidden states may come from now
 * on.  At most one block is expected; without a call sl_stage_run() expects its own. */
void sl_stage_expect(sl_stage *stage, const sl_block *block);

/* Whether all computations of the block under way are queued, so that the next may be prepared. */
int sl_stage_is_queued(const sl_stage *stage);

/* While a block is computed: lays out the block that will be run next as soon as the one under way
 * does not need the place; to be called at every turn, with the same block.  A failure comes out in
 * the result of the block under way. */
sl_status sl_stage_prepare(sl_stage *stage, const sl_block *block);

/* Moves hidden states along; to be called while waiting for anything else.
 * Errors: the hand-off is broken. */
sl_status sl_stage_progress(sl_stage *stage);
/* Whether hidden states are still to leave, so that it has to be called. */
int sl_stage_is_handing_on(const sl_stage *stage);

/* For the account of time: work begins; the caller has waited for another rank until now. */
void sl_stage_start(sl_stage *stage);
void sl_stage_waited(sl_stage *stage);

/* Computes one WORK block, waiting for hidden states from the rank before.
 * On the last rank *result is filled: choices, or the first failure of any rank up to here.
 * Errors: only those after which the hand-off itself is broken. */
sl_status sl_stage_run(sl_stage *stage, const sl_block *block, sl_block_result *result);

/* Ends the work: waits until all hidden states sent are out of this stage's buffers, and frees the
 * pages of all sequences. */
sl_status sl_stage_finish(sl_stage *stage);

typedef struct {
    size_t weight_bytes[SL_TIER_COUNT]; /* packed, by home */
    size_t cpu_peak_bytes, gpu_budget_bytes, gpu_peak_bytes, page_bytes;
    size_t disk_peak_bytes;
    uint64_t disk_read_bytes; /* of weights */
    double disk_read_s;       /* while reads of weights were under way */
    uint64_t uploaded_bytes;  /* weights copied to the device, loading left out */
    int pages_total, pages_peak, pages_free;
    int home_pages[SL_TIER_COUNT]; /* of pages_total, by home */
    double compute_s, wait_s;
    uint64_t sent_bytes, received_bytes;
    double busy_s[SL_QUEUE_COUNT];        /* in tasks */
    uint64_t moved_bytes[SL_QUEUE_COUNT]; /* over the queue's link; ATTEND: pages read */
    double sweep_s;                       /* in sl_stage_run() */
    /* Since sl_stage_start(), in which nothing was computed: before the first block; later, for
     * other ranks to compute or to ask for something; for hidden states on the wire. */
    double run_s, start_s, bubble_s, exposed_s;
    uint64_t n_drains;       /* waits for the whole device since open_pages: 0 */
    uint64_t n_steady_takes; /* tensor allocations after open_pages */
} sl_stage_stats;
void sl_stage_get_stats(const sl_stage *stage, sl_stage_stats *out);

#endif
