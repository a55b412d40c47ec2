#include "store/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "store/page_pool.h"

struct sl_kv_cache {
    sl_kv_options opt;
    int pages_per_slot;
    size_t layer_bytes[SL_TIER_COUNT];
    unsigned char *pool[SL_TIER_COUNT]; /* [n_layers, n_pages, page_bytes]; gpu and cpu */
    unsigned char *tails;               /* [n_layers, disk-homed slots, page_bytes] */
    sl_disk *disk;
    unsigned char *home; /* [n_slots] */
    int32_t *tail_of;    /* [n_slots] number of a disk-homed slot among its like */
    int n_tails;
    int32_t *table;  /* [n_slots, pages_per_slot] */
    int32_t *n_held; /* [n_slots] pages of each slot */
    int n_kept_max;
    int32_t *kept;            /* [n_kept_max] page numbers, -1: none */
    unsigned char *kept_home; /* [n_kept_max] */
    sl_page_pool pages[SL_TIER_COUNT];
};

static sl_tier_kind home_of(const sl_kv_options *o, int slot) {
    return o->home ? (sl_tier_kind)o->home[slot] : SL_TIER_CPU;
}

static sl_status check_options(const sl_kv_options *o) {
    if (o->n_layers < 1 || o->n_slots < 1 || o->max_context < 1 || o->format.page_bytes == 0)
        return SL_FAIL(SL_ERR_ARG, "kv cache of %d layers, pages of %zu bytes, %d slots, %d tokens",
                       o->n_layers, o->format.page_bytes, o->n_slots, o->max_context);
    for (int s = 0; s < o->n_slots; s++) {
        const sl_tier_kind t = home_of(o, s);
        if ((int)t < 0 || t >= SL_TIER_COUNT || o->n_pages[t] < 1)
            return SL_FAIL(SL_ERR_ARG,
                           "kv cache: slot %d is homed in the %s tier, which has %d pages", s,
                           sl_tier_name(t), t < SL_TIER_COUNT ? o->n_pages[t] : 0);
        if (t == SL_TIER_GPU && !o->gpu)
            return SL_FAIL(SL_ERR_ARG, "kv cache: slot %d is homed on a gpu that is not there", s);
        if (t == SL_TIER_DISK && (!o->disk_dir || o->format.page_bytes % SL_DISK_ALIGN != 0))
            return SL_FAIL(
                SL_ERR_ARG,
                "kv cache: slot %d is homed on disk, in folder %s and pages of %zu bytes", s,
                o->disk_dir ? o->disk_dir : "(none)", o->format.page_bytes);
    }
    return SL_OK;
}

static int count_tails(const sl_kv_options *o) {
    int n = 0;
    for (int s = 0; s < o->n_slots; s++) n += home_of(o, s) == SL_TIER_DISK;
    return n;
}

static sl_status pool_bytes(const sl_kv_options *o, int n_pages, size_t *layer_out, size_t *out) {
    SL_TRY(sl_size_mul((size_t)n_pages, o->format.page_bytes, layer_out));
    return sl_size_mul(*layer_out, (size_t)o->n_layers, out);
}

sl_status sl_kv_measure(const sl_kv_options *o, size_t bytes[SL_TIER_COUNT]) {
    size_t layer, tails, all[SL_TIER_COUNT];
    for (int t = 0; t < SL_TIER_COUNT; t++) SL_TRY(pool_bytes(o, o->n_pages[t], &layer, &all[t]));
    SL_TRY(pool_bytes(o, count_tails(o), &layer, &tails));
    SL_TRY(sl_size_add(all[SL_TIER_CPU], tails, &all[SL_TIER_CPU]));
    memcpy(bytes, all, sizeof all);
    return SL_OK;
}

static sl_status open_memory(sl_kv_cache *kv) {
    const sl_kv_options *o = &kv->opt;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        size_t bytes;
        void *memory = NULL;
        SL_TRY(pool_bytes(o, o->n_pages[t], &kv->layer_bytes[t], &bytes));
        SL_TRY(sl_page_pool_open(o->n_pages[t], &kv->pages[t]));
        if (bytes == 0) continue;
        if (t == SL_TIER_DISK) {
            SL_TRY(
                sl_hollow_open_scratch(o->host.hollow, o->host.be, o->disk_dir, bytes, &kv->disk));
            continue;
        }
        if (t == SL_TIER_GPU)
            SL_TRY(sl_tier_take(o->gpu, bytes, "the KV cache", &memory));
        else
            SL_TRY(sl_pinned_take(&o->host, bytes, "the KV cache", &memory));
        kv->pool[t] = memory;
    }
    if (kv->n_tails) {
        size_t layer, bytes;
        void *memory = NULL;
        SL_TRY(pool_bytes(o, kv->n_tails, &layer, &bytes));
        SL_TRY(sl_pinned_take(&o->host, bytes, "the last pages of sequences on disk", &memory));
        kv->tails = memory;
    }
    return SL_OK;
}

sl_status sl_kv_open(const sl_kv_options *options, sl_kv_cache **out) {
    SL_TRY(check_options(options));
    sl_status st = SL_OK;
    sl_kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv) return SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory");
    kv->opt = *options;
    kv->pages_per_slot = sl_kv_pages_for(options->max_context);
    const size_t n_slots = (size_t)options->n_slots;
    kv->table = calloc(n_slots * (size_t)kv->pages_per_slot, sizeof *kv->table);
    kv->n_held = calloc(n_slots, sizeof *kv->n_held);
    kv->home = calloc(n_slots, sizeof *kv->home);
    kv->tail_of = calloc(n_slots, sizeof *kv->tail_of);
    for (int t = 0; t < SL_TIER_COUNT; t++) kv->n_kept_max += options->n_pages[t];
    const size_t n_kept = (size_t)kv->n_kept_max;
    kv->kept = malloc((n_kept + 1) * sizeof *kv->kept);
    kv->kept_home = calloc(n_kept + 1, sizeof *kv->kept_home);
    if (!kv->table || !kv->n_held || !kv->home || !kv->tail_of || !kv->kept || !kv->kept_home) {
        st = SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory for %zu slots", n_slots);
        goto fail;
    }
    for (int k = 0; k < kv->n_kept_max; k++) kv->kept[k] = -1;
    for (int s = 0; s < options->n_slots; s++) {
        kv->home[s] = (unsigned char)home_of(options, s);
        if (kv->home[s] == SL_TIER_DISK) kv->tail_of[s] = kv->n_tails++;
    }
    kv->opt.home = kv->home;
    SL_GO(open_memory(kv));
    kv->opt.disk_dir = NULL;
    *out = kv;
    return SL_OK;

fail:
    sl_kv_close(kv);
    return st;
}

void sl_kv_close(sl_kv_cache *kv) {
    if (!kv) return;
    sl_disk_close(kv->disk);
    sl_pinned_put(&kv->opt.host, kv->tails);
    sl_pinned_put(&kv->opt.host, kv->pool[SL_TIER_CPU]);
    if (kv->opt.gpu) sl_tier_put(kv->opt.gpu, kv->pool[SL_TIER_GPU]);
    for (int t = 0; t < SL_TIER_COUNT; t++) sl_page_pool_close(&kv->pages[t]);
    free(kv->kept_home);
    free(kv->kept);
    free(kv->tail_of);
    free(kv->home);
    free(kv->n_held);
    free(kv->table);
    free(kv);
}

sl_tier_kind sl_kv_home(const sl_kv_cache *kv, int slot) {
    return (sl_tier_kind)kv->home[slot];
}

sl_kv_view sl_kv_layer(const sl_kv_cache *kv, sl_tier_kind home, int layer) {
    return (sl_kv_view){kv->opt.format, kv->pool[home] + (size_t)layer * kv->layer_bytes[home]};
}

void *sl_kv_tail(const sl_kv_cache *kv, int layer, int slot) {
    const size_t index = (size_t)layer * (size_t)kv->n_tails + (size_t)kv->tail_of[slot];
    return kv->tails + index * kv->opt.format.page_bytes;
}

sl_disk *sl_kv_disk(const sl_kv_cache *kv) {
    return kv->disk;
}

size_t sl_kv_disk_offset(const sl_kv_cache *kv, int layer, int32_t page) {
    return (size_t)layer * kv->layer_bytes[SL_TIER_DISK] + (size_t)page * kv->opt.format.page_bytes;
}

static int32_t *slot_table(const sl_kv_cache *kv, int slot) {
    return kv->table + (size_t)slot * (size_t)kv->pages_per_slot;
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
    const int held = kv->n_held[slot], want = sl_kv_pages_for(n_tokens) - held;
    int32_t *pages = slot_table(kv, slot);
    if (want <= 0) return SL_OK;
    SL_TRY(sl_page_pool_take(&kv->pages[kv->home[slot]], want, held > 0 ? pages[held - 1] : -1,
                             pages + held));
    kv->n_held[slot] = held + want;
    return SL_OK;
}

/* A kept number that is in use, and a slot with its home that has room for one page more. */
static sl_status check_taking(const sl_kv_cache *kv, int slot, int kept) {
    SL_TRY(check_slot(kv, slot, 0));
    if (kept < 0 || kept >= kv->n_kept_max || kv->kept[kept] < 0)
        return SL_FAIL(SL_ERR_ARG, "kv cache: no page is kept as number %d of %d", kept,
                       kv->n_kept_max);
    if (kv->kept_home[kept] != kv->home[slot] || kv->n_held[slot] >= kv->pages_per_slot)
        return SL_FAIL(SL_ERR_ARG,
                       "kv cache: kept page %d (%s) for slot %d (%s), which holds %d of %d pages",
                       kept, sl_tier_name(kv->kept_home[kept]), slot, sl_tier_name(kv->home[slot]),
                       (int)kv->n_held[slot], kv->pages_per_slot);
    return SL_OK;
}

sl_status sl_kv_keep(sl_kv_cache *kv, int slot, int index, int kept) {
    SL_TRY(check_slot(kv, slot, 0));
    if (kept < 0 || kept >= kv->n_kept_max || kv->kept[kept] >= 0 || index < 0 ||
        index >= kv->n_held[slot])
        return SL_FAIL(SL_ERR_ARG,
                       "kv cache: page %d of slot %d, which holds %d, to be kept as number %d of "
                       "%d, which is %s",
                       index, slot, (int)kv->n_held[slot], kept, kv->n_kept_max,
                       kept >= 0 && kept < kv->n_kept_max && kv->kept[kept] >= 0 ? "taken"
                                                                                 : "free");
    kv->kept[kept] = slot_table(kv, slot)[index];
    kv->kept_home[kept] = kv->home[slot];
    sl_page_pool_share(&kv->pages[kv->home[slot]], kv->kept[kept]);
    return SL_OK;
}

sl_status sl_kv_share(sl_kv_cache *kv, int slot, int kept) {
    SL_TRY(check_taking(kv, slot, kept));
    slot_table(kv, slot)[kv->n_held[slot]++] = kv->kept[kept];
    sl_page_pool_share(&kv->pages[kv->home[slot]], kv->kept[kept]);
    return SL_OK;
}

sl_status sl_kv_copy(sl_kv_cache *kv, int slot, int kept, int32_t *from, int32_t *to) {
    SL_TRY(check_taking(kv, slot, kept));
    if (kv->home[slot] == SL_TIER_DISK)
        return SL_FAIL(SL_ERR_ARG, "kv cache: a copy of kept page %d for slot %d on disk", kept,
                       slot);
    int32_t *page = slot_table(kv, slot) + kv->n_held[slot];
    SL_TRY(sl_page_pool_take(&kv->pages[kv->home[slot]], 1, -1, page));
    kv->n_held[slot]++;
    *from = kv->kept[kept];
    *to = *page;
    return SL_OK;
}

sl_status sl_kv_drop(sl_kv_cache *kv, int kept) {
    if (kept < 0 || kept >= kv->n_kept_max || kv->kept[kept] < 0)
        return SL_FAIL(SL_ERR_ARG, "kv cache: no page is kept as number %d of %d", kept,
                       kv->n_kept_max);
    sl_page_pool_put(&kv->pages[kv->kept_home[kept]], kv->kept[kept]);
    kv->kept[kept] = -1;
    return SL_OK;
}

void sl_kv_drop_all(sl_kv_cache *kv) {
    for (int k = 0; k < kv->n_kept_max; k++)
        if (kv->kept[k] >= 0) (void)sl_kv_drop(kv, k);
}

void sl_kv_release(sl_kv_cache *kv, int slot) {
    if (slot < 0 || slot >= kv->opt.n_slots) return;
    const int32_t *pages = slot_table(kv, slot);
    for (int p = kv->n_held[slot] - 1; p >= 0; p--)
        sl_page_pool_put(&kv->pages[kv->home[slot]], pages[p]);
    kv->n_held[slot] = 0;
}

const int32_t *sl_kv_pages(const sl_kv_cache *kv, int slot, int *n_pages_out) {
    *n_pages_out = kv->n_held[slot];
    return slot_table(kv, slot);
}

int sl_kv_n_kept_max(const sl_kv_cache *kv) {
    return kv->n_kept_max;
}
int sl_kv_n_pages(const sl_kv_cache *kv, sl_tier_kind home) {
    return kv->pages[home].n;
}
int sl_kv_n_free(const sl_kv_cache *kv, sl_tier_kind home) {
    return kv->pages[home].n_free;
}
int sl_kv_peak(const sl_kv_cache *kv, sl_tier_kind home) {
    return kv->pages[home].peak;
}
