/* footprint.h - what opening an engine will take of each tier, without opening it.
 *
 * The numbers are those of the stage's own planning: nothing here adds up buffers a second time.
 * They are exact for a policy that says where the weights live; one that leaves it open gets the
 * shares that opening would choose.
 * Layer: engine.  May include: base, model, store.  Thread safety: pure functions.
 */
#ifndef SL_ENGINE_FOOTPRINT_H
#define SL_ENGINE_FOOTPRINT_H

#include <stddef.h>

#include "base/status.h"
#include "engine/engine.h"

typedef struct {
    const sl_source *source; /* borrowed for the call; its weights are not read */
    const sl_policy *policy; /* what it leaves open is chosen as sl_engine_open() does; disk_dir is
                              * not looked at, only whether there is one */
    int rank, n_ranks;
    int first_layer, last_layer; /* the rank's slice */
    int attends_on_host;         /* 1: host attention will be there, beside a device */
    size_t act_bytes;            /* of an activation element: 2 on a GPU, 4 on CPUs */
    size_t gpu_bytes;            /* memory of the device; 0: the host computes */
    size_t backend_bytes;        /* of it, what the backend takes itself */
    double gpu_pages_frac; /* of full contexts in the gpu's seats that are needed at a time, as
                            * sequences take pages as they grow; 0: all */
} sl_footprint_options;

typedef struct {
    sl_shares weights;                     /* shares, as given or chosen */
    size_t weight_bytes[SL_TIER_COUNT];    /* packed, by home; embedding and head included */
    size_t ring_bytes[SL_TIER_COUNT];      /* weights on the way */
    size_t loading_bytes;                  /* of host memory, while weights are loaded */
    size_t buffer_bytes[SL_TIER_COUNT];    /* all else but pages */
    size_t page_bytes;                     /* one page in every layer of the slice */
    int context_pages;                     /* of one full context */
    int n_seats[SL_TIER_COUNT];            /* sequences by home here: without a device the gpu's
                                            * are in host memory */
    size_t all_pages_bytes[SL_TIER_COUNT]; /* full contexts in all seats */
    size_t need_bytes[SL_TIER_COUNT];      /* at the peak, with all of them, or the part needed */
    size_t least_bytes[SL_TIER_COUNT];     /* at the peak, with room for one context by home; with
                                            * less an engine does not open */
} sl_footprint;

/* Errors: SL_ERR_ARG (policy), SL_ERR_NOMEM (no shares fit, where they are to be chosen). */
sl_status sl_footprint_of(const sl_footprint_options *options, sl_footprint *out);

#endif
