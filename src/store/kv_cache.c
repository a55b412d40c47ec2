#include "store/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct sl_kv_cache {
    sl_kv_options opt;
    int pages_per_slot;
    size_t layer_bytes;
    sl_tier *tier;
    unsigned char *pool;  /* [n_layers, n_pages, page_bytes] */
    int32_t *table;       /* [n_slots, pages_per_slot] */
    int32_t *n_held;      /* [n_slots] pages of each slot */
    uint32_t *references; /* [n_pages] */
    int32_t *free_page;   /* stack of free page numbers; low numbers on top at the start */
    int n_free;
    int peak;
};

static sl_status check_options(const sl_kv_options *o) {
    if (o->n_layers < 1 || o->n_pages < 1 || o->n_slots < 1 || o->max_context < 1 ||
        o->format.page_bytes == 0)
        return SL_FAIL(SL_ERR_ARG,
                       "kv cache of %d layers, %d pages of %zu bytes, %d slots, %d tokens each",
                       o->n_layers, o->n_pages, o->format.page_bytes, o->n_slots, o->max_context);
    return SL_OK;
}

sl_status sl_kv_open(const sl_kv_options *options, sl_tier *tier, sl_kv_cache **out) {
    SL_TRY(check_options(options));
    size_t layer_bytes, bytes;
    SL_TRY(sl_size_mul((size_t)options->n_pages, options->format.page_bytes, &layer_bytes));
    SL_TRY(sl_size_mul(layer_bytes, (size_t)options->n_layers, &bytes));

    sl_status st = SL_OK;
    sl_kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv) return SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory");
    kv->opt = *options;
    kv->tier = tier;
    kv->layer_bytes = layer_bytes;
    kv->pages_per_slot = sl_kv_pages_for(options->max_context);
    kv->table = calloc((size_t)options->n_slots * (size_t)kv->pages_per_slot, sizeof *kv->table);
    kv->n_held = calloc((size_t)options->n_slots, sizeof *kv->n_held);
    kv->references = calloc((size_t)options->n_pages, sizeof *kv->references);
    kv->free_page = calloc((size_t)options->n_pages, sizeof *kv->free_page);
    if (!kv->table || !kv->n_held || !kv->references || !kv->free_page) {
        st = SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory for %d page numbers",
                     options->n_pages);
        goto fail;
    }
    void *pool = NULL;
    SL_GO(sl_tier_take(tier, bytes, "the KV cache", &pool));
    kv->pool = pool;
    for (int p = 0; p < options->n_pages; p++) kv->free_page[p] = options->n_pages - 1 - p;
    kv->n_free = options->n_pages;
    *out = kv;
    return SL_OK;

fail:
    sl_kv_close(kv);
    return st;
}

void sl_kv_close(sl_kv_cache *kv) {
    if (!kv) return;
    sl_tier_put(kv->tier, kv->pool);
    free(kv->free_page);
    free(kv->references);
    free(kv->n_held);
    free(kv->table);
    free(kv);
}

sl_kv_view sl_kv_layer(const sl_kv_cache *kv, int layer) {
    return (sl_kv_view){kv->opt.format, kv->pool + (size_t)layer * kv->layer_bytes};
}

static int32_t *slot_table(const sl_kv_cache *kv, int slot) {
    return kv->table + (size_t)slot * (size_t)kv->pages_per_slot;
}

static sl_status take_page(sl_kv_cache *kv, int32_t *out) {
    if (kv->n_free == 0)
        return SL_FAIL(SL_ERR_NOMEM, "kv cache: all %d pages are in use", kv->opt.n_pages);
    const int32_t page = kv->free_page[--kv->n_free];
    kv->references[page] = 1;
    const int used = kv->opt.n_pages - kv->n_free;
    if (used > kv->peak) kv->peak = used;
    *out = page;
    return SL_OK;
}

static sl_status check_slot(const sl_kv_cache *kv, int slot, int n_tokens) {
    if (slot < 0 || slot >= kv->opt.n_slots)
        return SL_FAIL(SL_ERR_ARG, "kv cache: slot %d of %d", slot, kv->opt.n_slots);
    if (n_tokens < 0 || n_tokens > kv->opt.max_context)
        return SL_FAIL(SL_ERR_ARG, "kv cache: %d tokens in slot %d, at most %d", n_tokens, slot,
                       kv->opt.max_context);
    return SL_OK;
}

sl_status sl_kv_extend(sl_kv_cache *kv, int slot, int n_tokens) {
    SL_TRY(check_slot(kv, slot, n_tokens));
    const int want = sl_kv_pages_for(n_tokens);
    int32_t *pages = slot_table(kv, slot);
    while (kv->n_held[slot] < want) {
        SL_TRY(take_page(kv, &pages[kv->n_held[slot]]));
        kv->n_held[slot]++;
    }
    return SL_OK;
}

sl_status sl_kv_fork(sl_kv_cache *kv, int from, int to, int n_tokens, int32_t *copy_from,
                     int32_t *copy_to) {
    SL_TRY(check_slot(kv, from, n_tokens));
    SL_TRY(check_slot(kv, to, n_tokens));
    if (kv->n_held[to] != 0 || from == to)
        return SL_FAIL(SL_ERR_ARG, "kv cache: fork of slot %d into slot %d, which holds %d pages",
                       from, to, (int)kv->n_held[to]);
    if (kv->n_held[from] < sl_kv_pages_for(n_tokens))
        return SL_FAIL(SL_ERR_ARG, "kv cache: fork of %d tokens of slot %d, which holds %d pages",
                       n_tokens, from, (int)kv->n_held[from]);
    const int n_whole = n_tokens / SL_PAGE_TOKENS;
    const int32_t *source = slot_table(kv, from);
    int32_t *pages = slot_table(kv, to);
    int32_t own = -1;
    if (n_tokens % SL_PAGE_TOKENS != 0) SL_TRY(take_page(kv, &own));
    for (int p = 0; p < n_whole; p++) {
        pages[p] = source[p];
        kv->references[pages[p]]++;
    }
    if (own >= 0) pages[n_whole] = own;
    kv->n_held[to] = n_whole + (own >= 0);
    *copy_from = own >= 0 ? source[n_whole] : -1;
    *copy_to = own;
    return SL_OK;
}

void sl_kv_release(sl_kv_cache *kv, int slot) {
    if (slot < 0 || slot >= kv->opt.n_slots) return;
    const int32_t *pages = slot_table(kv, slot);
    /* Backwards, so that the next sequence takes the pages in the same order again. */
    for (int p = kv->n_held[slot] - 1; p >= 0; p--)
        if (--kv->references[pages[p]] == 0) kv->free_page[kv->n_free++] = pages[p];
    kv->n_held[slot] = 0;
}

const int32_t *sl_kv_pages(const sl_kv_cache *kv, int slot, int *n_pages_out) {
    *n_pages_out = kv->n_held[slot];
    return slot_table(kv, slot);
}

int sl_kv_n_pages(const sl_kv_cache *kv) {
    return kv->opt.n_pages;
}
int sl_kv_n_free(const sl_kv_cache *kv) {
    return kv->n_free;
}
int sl_kv_peak(const sl_kv_cache *kv) {
    return kv->peak;
}
