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

#include "base/status.h"
#include "engine/backend.h"
#include "engine/block.h"
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
} sl_stage_options;

typedef struct sl_stage sl_stage;

/* Loads the slice and takes buffers from the budget, all but the pages.  *max_pages_out: pages per
 * layer that the rest of the budget holds, at most what n_slots full contexts need.
 * Errors: SL_ERR_NOMEM with the numbers when not even one full context fits. */
sl_status sl_stage_open(const sl_stage_options *options, sl_stage **out, int64_t *max_pages_out);
void sl_stage_close(sl_stage *stage);

/* Takes the pages, after the ranks have agreed on their number. */
sl_status sl_stage_open_pages(sl_stage *stage, int n_pages);

sl_block_limits sl_stage_limits(const sl_stage *stage);

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
    uint64_t disk_read_bytes;
    double disk_read_s;      /* while reads were under way */
    uint64_t uploaded_bytes; /* weights copied to the device, loading left out */
    int pages_total, pages_peak, pages_free;
    double compute_s, wait_s;
    uint64_t sent_bytes, received_bytes;
    uint64_t n_steady_takes; /* tensor allocations after open_pages */
} sl_stage_stats;
void sl_stage_get_stats(const sl_stage *stage, sl_stage_stats *out);

#endif
