/* kv_cache.h - pages of keys and values, where they live, and which sequence holds which.
 *
 * Sequences occupy slots, and every slot has a home: all of its pages live in that tier.  Pages are
 * numbered per home, once for all layers of the slice: page p lies at the same number in every
 * layer's pool.  A sequence's pages are taken in runs of consecutive numbers where there are any,
 * so that they move as one.  Whole pages of a common prefix are shared by reference count and never
 * written again; a sequence's last, partly filled page is its own.
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

/* Gives the empty slot `to` the first n_tokens of `from`, which has the same home: whole pages are
 * shared; for a partly filled last page a new one is taken, and the caller copies *copy_from to
 * *copy_to in every layer (both -1 when there is none), for a disk-homed slot by
 * sl_kv_copy_tail().  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_kv_fork(sl_kv_cache *kv, int from, int to, int n_tokens, int32_t *copy_from,
                     int32_t *copy_to);

/* Disk-homed slots: makes the tail of `to` the page of `from` that holds token n_tokens - 1, in
 * every layer; `from` itself holds n_from tokens.  May read from disk; blocks.  Errors: SL_ERR_IO.
 */
sl_status sl_kv_copy_tail(sl_kv_cache *kv, int from, int n_from, int to, int n_tokens);

/* Empties a slot; pages that no other slot shares become free at once. */
void sl_kv_release(sl_kv_cache *kv, int slot);

/* The slot's pages in token order; valid until the slot changes. */
const int32_t *sl_kv_pages(const sl_kv_cache *kv, int slot, int *n_pages_out);

int sl_kv_n_pages(const sl_kv_cache *kv, sl_tier_kind home);
int sl_kv_n_free(const sl_kv_cache *kv, sl_tier_kind home);
int sl_kv_peak(const sl_kv_cache *kv, sl_tier_kind home); /* most pages in use at a time */

static inline int sl_kv_pages_for(int n_tokens) {
    return (n_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
}

#endif
