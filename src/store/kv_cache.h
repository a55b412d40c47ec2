/* kv_cache.h - pages of keys and values, where they live, and which sequence holds which.
 *
 * Sequences occupy slots, and every slot has a home: all of its pages live in that tier.  Pages are
 * numbered per home, once for all layers of the slice: page p lies at the same number in every
 * layer's pool.  A sequence's pages are taken in runs of consecutive numbers where there are any,
 * so that they move as one.
 *
 * Pages of prompts can be kept under a number of their own.  A kept page is one holder more: it
 * stays when its sequence has gone, and other sequences of the same home take it over.  What is
 * shared is whole pages, and never written again; of a partly filled page, or where only its first
 * tokens agree, the other sequence gets a copy.
 *
 *   gpu   [n_layers, pages] in device memory; without a device nothing is homed there
 *   cpu   [n_layers, pages] in host memory, pinned beside a device
 *   disk  full pages in an unlinked file; the last, partly filled one stays in host memory (its
 *         tail) until it is full, so that the disk sees whole pages, each once
 *
 * Every rank applies the same operations in the same order, so that all agree on page numbers.
 * Layer: store.  May include: base, model.  Thread safety: one thread per cache.
 */
#ifndef SL_STORE_KV_CACHE_H
#define SL_STORE_KV_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "store/disk.h"
#include "store/kv_format.h"
#include "store/pinned.h"
#include "store/tier.h"

typedef struct sl_kv_cache sl_kv_cache;

typedef struct {
    sl_kv_format format;       /* page_bytes a multiple of SL_DISK_ALIGN where pages live on disk */
    int n_layers;              /* of the slice */
    int n_slots;               /* sequences at a time */
    int max_context;           /* tokens of one sequence */
    const unsigned char *home; /* [n_slots] sl_tier_kind; borrowed during open; NULL: all in cpu */
    int n_pages[SL_TIER_COUNT]; /* per layer, by home */
    sl_tier *gpu;               /* borrowed until close; NULL without a device */
    sl_pinned_from host;        /* borrowed until close */
    const char *disk_dir;       /* borrowed during open; needed with disk pages only */
} sl_kv_options;

/* Bytes that open will take of each tier; disk: of the file. */
sl_status sl_kv_measure(const sl_kv_options *options, size_t bytes_out[SL_TIER_COUNT]);

/* Takes the memory, makes the file.  Errors: SL_ERR_ARG, SL_ERR_NOMEM, SL_ERR_IO. */
sl_status sl_kv_open(const sl_kv_options *options, sl_kv_cache **out);
void sl_kv_close(sl_kv_cache *kv); /* nothing may be under way */

sl_tier_kind sl_kv_home(const sl_kv_cache *kv, int slot);

/* The pool of one layer in gpu or cpu; `layer` counts from the slice's first. */
sl_kv_view sl_kv_layer(const sl_kv_cache *kv, sl_tier_kind home, int layer);
/* A disk-homed slot's tail in one layer, host memory, page_bytes. */
void *sl_kv_tail(const sl_kv_cache *kv, int layer, int slot);
/* The file of disk-homed pages, and where one lies in it. */
sl_disk *sl_kv_disk(const sl_kv_cache *kv);
size_t sl_kv_disk_offset(const sl_kv_cache *kv, int layer, int32_t page);

/* Makes sure that the slot has pages for tokens [0, n_tokens).
 * Errors: SL_ERR_NOMEM when no page is free, SL_ERR_ARG beyond max_context. */
sl_status sl_kv_extend(sl_kv_cache *kv, int slot, int n_tokens);

/* Keeps the slot's page `index` (in token order) as number `kept`.
 * Errors: SL_ERR_ARG (no such page, or the number is taken). */
sl_status sl_kv_keep(sl_kv_cache *kv, int slot, int index, int kept);

/* Appends a kept page to the pages of a slot with the same home, as the next whole page.
 * Errors: SL_ERR_ARG. */
sl_status sl_kv_share(sl_kv_cache *kv, int slot, int kept);

/* Appends a page of the slot's own; the caller copies *from to *to in every layer.  Not for slots
 * homed on disk, whose last page is not a page yet.  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_kv_copy(sl_kv_cache *kv, int slot, int kept, int32_t *from, int32_t *to);

/* Gives up a kept page; without other holders it becomes free at once.  Errors: SL_ERR_ARG. */
sl_status sl_kv_drop(sl_kv_cache *kv, int kept);
void sl_kv_drop_all(sl_kv_cache *kv);

/* Empties a slot; pages that no other slot shares become free at once. */
void sl_kv_release(sl_kv_cache *kv, int slot);

/* The slot's pages in token order; valid until the slot changes. */
const int32_t *sl_kv_pages(const sl_kv_cache *kv, int slot, int *n_pages_out);

int sl_kv_n_kept_max(const sl_kv_cache *kv); /* kept numbers are below it: pages of all homes */
int sl_kv_n_pages(const sl_kv_cache *kv, sl_tier_kind home);
int sl_kv_n_free(const sl_kv_cache *kv, sl_tier_kind home);
int sl_kv_peak(const sl_kv_cache *kv, sl_tier_kind home); /* most pages in use at a time */

static inline int sl_kv_pages_for(int n_tokens) {
    return (n_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
}

#endif
