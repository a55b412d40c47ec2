/* hidden.h - hidden states that leave the computing tier between layers.
 *
 * Of every micro-batch's rows a share lives in each tier: first those of the gpu, then those in
 * host memory, then those on disk.  Before a layer they come to one of a few places in the
 * computing tier, after it they go home.  Without a device the gpu's share belongs to host memory.
 * Layer: store.  May include: base.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_HIDDEN_H
#define SL_STORE_HIDDEN_H

#include <stddef.h>

#include "base/status.h"
#include "store/disk.h"
#include "store/pinned.h"
#include "store/placement.h"

typedef struct sl_hidden sl_hidden;

typedef struct {
    sl_shares shares; /* of each micro-batch's rows */
    int max_rows;
    size_t row_bytes;
    int n_micro_batches, n_places;
    sl_tier *gpu;         /* borrowed until close; NULL without a device */
    sl_pinned_from host;  /* borrowed until close */
    const char *disk_dir; /* borrowed during open; needed with a share on disk */
} sl_hidden_options;

/* Whether hidden states with these shares leave the tier that computes. */
int sl_hidden_travels(const sl_shares *shares, int has_device);

/* Bytes that open will take of each tier; disk: of the file. */
sl_status sl_hidden_measure(const sl_hidden_options *options, size_t bytes_out[SL_TIER_COUNT]);
sl_status sl_hidden_open(const sl_hidden_options *options, sl_hidden **out);
void sl_hidden_close(sl_hidden *h); /* nothing may be under way */

/* A place: [max_rows] rows in the computing tier. */
void *sl_hidden_place(const sl_hidden *h, int place);

/* The four steps for a micro-batch of n_rows rows.  fetch and write are polled, load and save are
 * queued on H2D and D2H (without a device they are done on return).
 * Errors: SL_ERR_IO, SL_ERR_DEVICE, SL_ERR_NOMEM. */
sl_status sl_hidden_fetch(sl_hidden *h, int micro_batch, int place, int n_rows);
sl_status sl_hidden_load(sl_hidden *h, int micro_batch, int place, int n_rows);
sl_status sl_hidden_save(sl_hidden *h, int micro_batch, int place, int n_rows);
sl_status sl_hidden_write(sl_hidden *h, int micro_batch, int place, int n_rows);
/* Whether the place's fetch or write is done; never waits.  Errors: SL_ERR_IO. */
sl_status sl_hidden_is_done(sl_hidden *h, int place, int *done_out);

/* Bytes that the last step moved or queued over its link. */
size_t sl_hidden_last_bytes(const sl_hidden *h);

#endif
