/* kv_visits.h - brings the pages of sequences that live elsewhere to where they are computed with.
 *
 * Sequences of a micro-batch whose pages do not live in the computing tier are its visitors.  For
 * each layer their pages come to one of a few places, are attended and extended there, and what is
 * new goes back home:
 *
 *   home cpu, with a device   host pool -> place on the device -> host pool
 *   home disk                 file -> staging in host memory (-> place on the device), the tail
 * from host memory; new full pages the same way back, the tail to host memory
 *
 * Without a device the staging is the place.  A visitor that attends on the host does not come to
 * the device: of its disk pages the full ones are fetched into the staging, and the host is told
 * where its pages are.  Pages that several visitors of a micro-batch share come once; those
 * that the micro-batches just before had too are copied within the device.
 * Layer: store.  May include: base, model.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_KV_VISITS_H
#define SL_STORE_KV_VISITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "store/kv_cache.h"

typedef struct sl_kv_visits sl_kv_visits;

typedef struct {
    int n_layers; /* of the slice */
    int n_micro_batches, n_places;
    int most_visitors;  /* of a micro-batch, those that attend on the host left out */
    int most_on_disk;   /* disk-homed sequences of a micro-batch */
    int pages_per_slot; /* of a full context */
    sl_kv_format format;
    sl_tier *gpu;        /* borrowed until close; NULL without a device */
    sl_pinned_from host; /* borrowed until close */
} sl_kv_visits_options;

/* Bytes that open will take of gpu and cpu. */
sl_status sl_kv_visits_measure(const sl_kv_visits_options *options,
                               size_t bytes_out[SL_TIER_COUNT]);
sl_status sl_kv_visits_open(const sl_kv_visits_options *options, sl_kv_visits **out);
void sl_kv_visits_close(sl_kv_visits *v); /* nothing may be under way */

typedef struct {
    int slot, position0, n_rows; /* rows computed now: positions [position0, position0 + n_rows) */
    int on_host;                 /* 1: attends on the host */
} sl_kv_visitor;

/* Says who visits with a micro-batch from now on.  The slots' pages (`kv`, borrowed until the next
 * call) must be extended for their rows.  *bits_out: SL_VISIT_... (engine/sweep.h has the same
 * values) that their tasks need, HOST left out.  Errors: SL_ERR_ARG (more than was opened for). */
enum { SL_KV_FETCH = 1, SL_KV_UPLOAD = 2, SL_KV_STORE = 4, SL_KV_WRITE = 8 };
sl_status sl_kv_visits_set(sl_kv_visits *v, const sl_kv_cache *kv, int micro_batch,
                           const sl_kv_visitor *visitor, int n, unsigned char *bits_out);

/* Page numbers of a visitor within its place, for view(). */
const int32_t *sl_kv_visits_pages(const sl_kv_visits *v, int micro_batch, int visitor);
sl_kv_view sl_kv_visits_view(const sl_kv_visits *v, int place);

/* The pages of a visitor that attends on the host, in token order: pointers into the host's pool,
 * or into a place's staging and the tail.   out: [pages for position0 + n_rows tokens] */
void sl_kv_visits_host_pages(const sl_kv_visits *v, int layer, int micro_batch, int visitor,
                             int place, void **out);

/* The four steps; `layer` counts from the slice's first.  fetch and write are polled, upload and
 * store are queued on the device's H2D and D2H (without a device they are done on return).
 * Errors: SL_ERR_IO, SL_ERR_DEVICE, SL_ERR_NOMEM. */
sl_status sl_kv_visits_fetch(sl_kv_visits *v, int layer, int micro_batch, int place);
sl_status sl_kv_visits_upload(sl_kv_visits *v, int layer, int micro_batch, int place);
sl_status sl_kv_visits_store(sl_kv_visits *v, int layer, int micro_batch, int place);
sl_status sl_kv_visits_write(sl_kv_visits *v, int layer, int micro_batch, int place);
/* Whether the place's transfers of fetch or write are done; never waits.  Errors: SL_ERR_IO. */
sl_status sl_kv_visits_is_done(sl_kv_visits *v, int place, int *done_out);

/* Bytes that the last call of fetch, upload, store or write moved or queued. */
size_t sl_kv_visits_last_bytes(const sl_kv_visits *v);

#endif
