/* kv_cache.h - pages of keys and values, and which sequence holds which.
 *
 * Pages are numbered once for all layers of the slice: page p of a sequence lies at the same number
 * in every layer's pool.  Sequences occupy slots.  Whole pages of a common prefix are shared by
 * reference count and never written again; a sequence's last, partly filled page is its own.
 * Every rank applies the same operations in the same order, so that all agree on page numbers.
 * Layer: store.  May include: base, model.  Thread safety: one thread per cache.
 */
#ifndef SL_STORE_KV_CACHE_H
#define SL_STORE_KV_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "store/kv_format.h"
#include "store/tier.h"

typedef struct sl_kv_cache sl_kv_cache;

typedef struct {
    sl_kv_format format;
    int n_layers;    /* of the slice */
    int n_pages;     /* per layer */
    int n_slots;     /* sequences at a time */
    int max_context; /* tokens of one sequence */
} sl_kv_options;

/* Takes n_layers * n_pages * page_bytes from the tier, which is borrowed until close.
 * Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_kv_open(const sl_kv_options *options, sl_tier *tier, sl_kv_cache **out);
void sl_kv_close(sl_kv_cache *kv);

/* `layer` counts from the slice's first. */
sl_kv_view sl_kv_layer(const sl_kv_cache *kv, int layer);

/* Makes sure that the slot has pages for tokens [0, n_tokens).
 * Errors: SL_ERR_NOMEM when no page is free, SL_ERR_ARG beyond max_context. */
sl_status sl_kv_extend(sl_kv_cache *kv, int slot, int n_tokens);

/* Gives the empty slot `to` the first n_tokens of `from`: whole pages are shared; for a partly
 * filled last page a new one is taken, and the caller copies *copy_from to *copy_to in every layer
 * (both -1 when there is none).  Errors: SL_ERR_ARG, SL_ERR_NOMEM. */
sl_status sl_kv_fork(sl_kv_cache *kv, int from, int to, int n_tokens, int32_t *copy_from,
                     int32_t *copy_to);

/* Empties a slot; pages that no other slot shares become free at once. */
void sl_kv_release(sl_kv_cache *kv, int slot);

/* The slot's pages in token order; valid until the slot changes. */
const int32_t *sl_kv_pages(const sl_kv_cache *kv, int slot, int *n_pages_out);

int sl_kv_n_pages(const sl_kv_cache *kv);
int sl_kv_n_free(const sl_kv_cache *kv);
int sl_kv_peak(const sl_kv_cache *kv); /* most pages in use at a time */

static inline int sl_kv_pages_for(int n_tokens) {
    return (n_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
}

#endif
