#include "store/kv_visits.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

typedef struct {
    sl_kv_visitor who;
    sl_tier_kind home;
    int n_before; /* pages that hold earlier tokens */
    int n_full;   /* of them, full ones */
    int n_pages;  /* pages that hold tokens after this sweep */
    int n_full_after;
    /* Its first pages, full ones, are those of an earlier visitor too, and brought by that one. */
    int n_brought, brought_by;
    /* Of its first pages, those that visitor `near` of the micro-batch `near_batch` before has too:
     * they are copied from its place as long as it has that. */
    int n_near, near, near_batch;
    int at;     /* in the place on the device, the first page that it brings itself */
    int staged; /* the same in the staging */
} visitor;

typedef struct {
    const sl_kv_cache *kv;
    visitor *visitor; /* [most] */
    int n;
    int32_t *page; /* [most, pages_per_slot] numbers within the place */
} party;

/* Disk transfers of one place. */
typedef struct {
    sl_disk_ticket *ticket; /* [capacity] */
    int n;
    sl_disk *disk;
} transfers;

struct sl_kv_visits {
    sl_kv_visits_options opt;
    int most; /* visitors of a micro-batch, those on the host included */
    size_t place_bytes, staging_bytes;
    unsigned char *places;  /* gpu: [n_places, place_bytes] */
    unsigned char *staging; /* host: [n_places, staging_bytes] */
    party *party;           /* [n_micro_batches] */
    transfers *under_way;   /* [n_places] */
    struct {
        int layer, micro_batch; /* -1: nothing of this sweep */
    } * holds;                  /* [n_places] */
    size_t last_bytes;
};

static sl_status sizes(const sl_kv_visits_options *o, size_t *place, size_t *staging) {
    size_t slot;
    SL_TRY(sl_size_mul((size_t)o->pages_per_slot, o->format.page_bytes, &slot));
    *place = 0;
    if (o->gpu) SL_TRY(sl_size_mul(slot, (size_t)o->most_visitors, place));
    return sl_size_mul(slot, (size_t)o->most_on_disk, staging);
}

sl_status sl_kv_visits_measure(const sl_kv_visits_options *o, size_t bytes[SL_TIER_COUNT]) {
    size_t place, staging;
    SL_TRY(sizes(o, &place, &staging));
    SL_TRY(sl_size_mul(place, (size_t)o->n_places, &place));
    SL_TRY(sl_size_mul(staging, (size_t)o->n_places, &staging));
    bytes[SL_TIER_GPU] = place;
    bytes[SL_TIER_CPU] = staging;
    bytes[SL_TIER_DISK] = 0;
    return SL_OK;
}

static sl_status open_tables(sl_kv_visits *v) {
    const sl_kv_visits_options *o = &v->opt;
    const size_t most = (size_t)v->most, pages = most * (size_t)o->pages_per_slot;
    v->party = calloc((size_t)o->n_micro_batches, sizeof *v->party);
    v->under_way = calloc((size_t)o->n_places, sizeof *v->under_way);
    v->holds = calloc((size_t)o->n_places, sizeof *v->holds);
    int ok = v->party && v->under_way && v->holds;
    for (int i = 0; ok && i < o->n_micro_batches; i++) {
        v->party[i].visitor = calloc(most + 1, sizeof *v->party[i].visitor);
        v->party[i].page = calloc(pages + 1, sizeof *v->party[i].page);
        ok = v->party[i].visitor && v->party[i].page;
    }
    for (int i = 0; ok && i < o->n_places; i++) {
        v->under_way[i].ticket = calloc(pages + 1, sizeof *v->under_way[i].ticket);
        ok = v->under_way[i].ticket != NULL;
    }
    return ok ? SL_OK
              : SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory for %zu visitors", most);
}

sl_status sl_kv_visits_open(const sl_kv_visits_options *o, sl_kv_visits **out) {
    sl_status st = SL_OK;
    void *memory = NULL;
    if (o->n_places < 1 || o->n_micro_batches < 1 || o->most_visitors < 0 || o->most_on_disk < 0)
        return SL_FAIL(SL_ERR_ARG, "kv visits: %d places, %d micro-batches, %d and %d visitors",
                       o->n_places, o->n_micro_batches, o->most_visitors, o->most_on_disk);
    sl_kv_visits *v = calloc(1, sizeof *v);
    if (!v) return SL_FAIL(SL_ERR_NOMEM, "kv visits: out of host memory");
    v->opt = *o;
    v->most = o->most_visitors + o->most_on_disk;
    SL_GO(sizes(o, &v->place_bytes, &v->staging_bytes));
    SL_GO(open_tables(v));
    const size_t n = (size_t)o->n_places;
    if (v->place_bytes) {
        SL_GO(sl_tier_take(o->gpu, n * v->place_bytes, "pages on the way", &memory));
        v->places = memory;
    }
    if (v->staging_bytes) {
        SL_GO(sl_pinned_take(&o->host, n * v->staging_bytes, "pages from disk", &memory));
        v->staging = memory;
    }
    *out = v;
    return SL_OK;

fail:
    sl_kv_visits_close(v);
    return st;
}

void sl_kv_visits_close(sl_kv_visits *v) {
    if (!v) return;
    sl_pinned_put(&v->opt.host, v->staging);
    if (v->opt.gpu) sl_tier_put(v->opt.gpu, v->places);
    for (int i = 0; v->party && i < v->opt.n_micro_batches; i++) {
        free(v->party[i].visitor);
        free(v->party[i].page);
    }
    for (int i = 0; v->under_way && i < v->opt.n_places; i++) free(v->under_way[i].ticket);
    free(v->party);
    free(v->holds);
    free(v->under_way);
    free(v);
}

/* Number of a visitor's page `k` in the place on the device, or (`staged`) in the staging. */
static int number_of(const party *all, int i, int k, int staged) {
    while (k < all->visitor[i].n_brought) i = all->visitor[i].brought_by;
    const visitor *p = &all->visitor[i];
    return (staged ? p->staged : p->at) + k - p->n_brought;
}

static const int32_t *home_pages(const party *all, const visitor *p) {
    int n;
    return sl_kv_pages(all->kv, p->who.slot, &n);
}

/* Whether what the visitor needs comes to the same place as for another one. */
static int goes_along(const visitor *p, const visitor *q) {
    return p->home == q->home && p->who.on_host == q->who.on_host &&
           (p->home == SL_TIER_DISK || !p->who.on_host);
}

/* Looks for the earlier visitor with which visitor i has most of its first pages in common. */
static void find_brought(party *all, int i) {
    visitor *p = &all->visitor[i];
    const int32_t *page = home_pages(all, p);
    for (int j = 0; j < i && p->n_full > 0; j++) {
        const visitor *q = &all->visitor[j];
        const int32_t *other = home_pages(all, q);
        if (q->n_full == 0 || page[0] != other[0] || !goes_along(p, q)) continue;
        int n = 1;
        while (n < p->n_full && n < q->n_full && page[n] == other[n]) n++;
        if (n <= p->n_brought) continue;
        p->n_brought = n;
        p->brought_by = j;
    }
}

/* The same among the micro-batches whose places are not yet given to others by then. */
static void find_near(sl_kv_visits *v, int micro_batch, int i) {
    const party *all = &v->party[micro_batch];
    visitor *p = &v->party[micro_batch].visitor[i];
    const int32_t *page = home_pages(all, p);
    if (p->home != SL_TIER_CPU || p->who.on_host || !v->opt.gpu || p->n_full == 0) return;
    for (int b = micro_batch - 1; b >= 0 && b > micro_batch - v->opt.n_places; b--) {
        for (int j = 0; j < v->party[b].n; j++) {
            const visitor *q = &v->party[b].visitor[j];
            const int32_t *other = home_pages(all, q);
            if (q->n_full == 0 || page[0] != other[0] || !goes_along(p, q)) continue;
            int n = 1;
            while (n < p->n_full && n < q->n_full && page[n] == other[n]) n++;
            if (n <= p->n_near) continue;
            p->n_near = n;
            p->near = j;
            p->near_batch = b;
        }
    }
}

static unsigned char bits_of(const sl_kv_visits *v, const visitor *p) {
    unsigned char bits = 0;
    if (p->home == SL_TIER_DISK) {
        if (p->n_full > 0) bits |= SL_KV_FETCH;
        /* The fetch, if only an empty one, takes the place that keeps account of the write. */
        if (p->n_full_after > p->n_full) bits |= SL_KV_FETCH | SL_KV_WRITE;
    }
    if (!p->who.on_host && (v->opt.gpu || p->home == SL_TIER_DISK))
        bits |= SL_KV_UPLOAD | SL_KV_STORE;
    return bits;
}

sl_status sl_kv_visits_set(sl_kv_visits *v, const sl_kv_cache *kv, int micro_batch,
                           const sl_kv_visitor *who, int n, unsigned char *bits_out) {
    party *all = &v->party[micro_batch];
    int at = 0, staged = 0;
    unsigned char bits = 0;
    const int per_slot = v->opt.pages_per_slot;
    all->n = 0;
    all->kv = kv;
    for (int q = 0; q < v->opt.n_places; q++) v->holds[q].layer = -1;
    for (int i = 0; i < n; i++) {
        const int end = who[i].position0 + who[i].n_rows;
        visitor p = {.who = who[i],
                     .home = sl_kv_home(kv, who[i].slot),
                     .n_before = sl_kv_pages_for(who[i].position0),
                     .n_full = who[i].position0 / SL_PAGE_TOKENS,
                     .n_pages = sl_kv_pages_for(end),
                     .n_full_after = end / SL_PAGE_TOKENS,
                     .at = at,
                     .staged = staged};
        if (i >= v->most || p.n_pages > per_slot)
            return SL_FAIL(SL_ERR_ARG,
                           "micro-batch %d has %d visitors or more, with %d pages; opened for %d, "
                           "%d pages each",
                           micro_batch, i + 1, p.n_pages, v->most, per_slot);
        all->visitor[i] = p;
        find_brought(all, i);
        find_near(v, micro_batch, i);
        p = all->visitor[i];
        if (p.home == SL_TIER_DISK) staged += p.n_pages - p.n_brought;
        if (!p.who.on_host && v->opt.gpu) at += p.n_pages - p.n_brought;
        if (at > v->opt.most_visitors * per_slot || staged > v->opt.most_on_disk * per_slot)
            return SL_FAIL(SL_ERR_ARG,
                           "micro-batch %d has visitors with %d pages, %d on disk; opened for %d "
                           "and %d on disk, %d pages each",
                           micro_batch, at, staged, v->opt.most_visitors, v->opt.most_on_disk,
                           per_slot);
        for (int k = 0; k < p.n_pages; k++)
            all->page[i * per_slot + k] = number_of(all, i, k, !v->opt.gpu);
        bits |= bits_of(v, &p);
        all->n = i + 1;
    }
    *bits_out = bits;
    return SL_OK;
}

const int32_t *sl_kv_visits_pages(const sl_kv_visits *v, int micro_batch, int i) {
    return v->party[micro_batch].page + i * v->opt.pages_per_slot;
}

static unsigned char *staging_of(const sl_kv_visits *v, int place, int page) {
    return v->staging + (size_t)place * v->staging_bytes + (size_t)page * v->opt.format.page_bytes;
}

static unsigned char *place_of(const sl_kv_visits *v, int place, int page) {
    if (!v->opt.gpu) return staging_of(v, place, page);
    return v->places + (size_t)place * v->place_bytes + (size_t)page * v->opt.format.page_bytes;
}

sl_kv_view sl_kv_visits_view(const sl_kv_visits *v, int place) {
    return (sl_kv_view){v->opt.format, place_of(v, place, 0)};
}

static unsigned char *pool_page(const sl_kv_visits *v, const party *all, int layer, int32_t page) {
    const sl_kv_view pool = sl_kv_layer(all->kv, SL_TIER_CPU, layer);
    return (unsigned char *)pool.base + (size_t)page * v->opt.format.page_bytes;
}

void sl_kv_visits_host_pages(const sl_kv_visits *v, int layer, int micro_batch, int i, int place,
                             void **out) {
    const party *all = &v->party[micro_batch];
    const visitor *p = &all->visitor[i];
    const int32_t *page = home_pages(all, p);
    for (int k = 0; k < p->n_pages; k++) {
        if (p->home == SL_TIER_CPU)
            out[k] = pool_page(v, all, layer, page[k]);
        else
            out[k] = k < p->n_full ? (void *)staging_of(v, place, number_of(all, i, k, 1))
                                   : sl_kv_tail(all->kv, layer, p->who.slot);
    }
}

/* End of the run of consecutive page numbers that begins at `from`. */
static int run_end(const int32_t *page, int from, int end) {
    int to = from + 1;
    while (to < end && page[to] == page[to - 1] + 1) to++;
    return to;
}

static sl_status start_transfer(sl_kv_visits *v, const party *all, int place, int write,
                                size_t offset, int n_pages, void *memory) {
    transfers *t = &v->under_way[place];
    const size_t bytes = (size_t)n_pages * v->opt.format.page_bytes;
    t->disk = sl_kv_disk(all->kv);
    if (write)
        SL_TRY(sl_disk_write(t->disk, offset, bytes, memory, &t->ticket[t->n]));
    else
        SL_TRY(sl_disk_read(t->disk, offset, bytes, memory, &t->ticket[t->n]));
    t->n++;
    v->last_bytes += bytes;
    return SL_OK;
}

sl_status sl_kv_visits_fetch(sl_kv_visits *v, int layer, int micro_batch, int place) {
    const party *all = &v->party[micro_batch];
    v->last_bytes = 0;
    for (int i = 0; i < all->n; i++) {
        const visitor *p = &all->visitor[i];
        if (p->home != SL_TIER_DISK) continue;
        const int32_t *page = home_pages(all, p);
        for (int k = p->n_brought, end; k < p->n_full; k = end) {
            end = run_end(page, k, p->n_full);
            SL_TRY(start_transfer(v, all, place, 0, sl_kv_disk_offset(all->kv, layer, page[k]),
                                  end - k, staging_of(v, place, number_of(all, i, k, 1))));
        }
    }
    return SL_OK;
}

sl_status sl_kv_visits_write(sl_kv_visits *v, int layer, int micro_batch, int place) {
    const party *all = &v->party[micro_batch];
    v->last_bytes = 0;
    for (int i = 0; i < all->n; i++) {
        const visitor *p = &all->visitor[i];
        if (p->home != SL_TIER_DISK) continue;
        const int32_t *page = home_pages(all, p);
        for (int k = p->n_full, end; k < p->n_full_after; k = end) {
            end = run_end(page, k, p->n_full_after);
            void *from = p->who.on_host ? sl_kv_tail(all->kv, layer, p->who.slot)
                                        : (void *)staging_of(v, place, number_of(all, i, k, 1));
            SL_TRY(start_transfer(v, all, place, 1, sl_kv_disk_offset(all->kv, layer, page[k]),
                                  end - k, from));
        }
    }
    return SL_OK;
}

sl_status sl_kv_visits_is_done(sl_kv_visits *v, int place, int *done_out) {
    transfers *t = &v->under_way[place];
    *done_out = 0;
    while (t->n > 0) {
        int done = 0;
        const sl_status st = sl_disk_test(t->disk, t->ticket[t->n - 1], &done);
        if (st == SL_OK && !done) return SL_OK;
        t->n--;
        if (st != SL_OK) return st;
    }
    *done_out = 1;
    return SL_OK;
}

/* Queues one copy, or does it where the host computes. */
static sl_status move(sl_kv_visits *v, sl_stream stream, void *to, const void *from, int n_pages) {
    const size_t bytes = (size_t)n_pages * v->opt.format.page_bytes;
    v->last_bytes += bytes;
    if (v->opt.gpu) return v->opt.host.device->copy(v->opt.host.be, stream, to, from, bytes);
    memcpy(to, from, bytes);
    return SL_OK;
}

/* Moves pages [from, to) of cpu-homed visitor i, which brings them itself, between pool and place,
 * run by run. */
static sl_status move_pool(sl_kv_visits *v, const party *all, int i, int layer, int place,
                           sl_stream stream, int from, int to) {
    const int32_t *page = home_pages(all, &all->visitor[i]);
    for (int k = from, end; k < to; k = end) {
        end = run_end(page, k, to);
        void *home = pool_page(v, all, layer, page[k]),
             *here = place_of(v, place, number_of(all, i, k, 0));
        SL_TRY(stream == SL_STREAM_H2D ? move(v, stream, here, home, end - k)
                                       : move(v, stream, home, here, end - k));
    }
    return SL_OK;
}

/* Copies from a place nearby what visitor i has in common with it, beyond what others bring.
 * *have_out: its first pages that need not come from home. */
static sl_status copy_near(sl_kv_visits *v, const party *all, int i, int layer, int place,
                           int *have_out) {
    const visitor *p = &all->visitor[i];
    *have_out = p->n_brought;
    if (p->n_near <= p->n_brought) return SL_OK;
    int from = 0;
    while (from < v->opt.n_places &&
           (v->holds[from].layer != layer || v->holds[from].micro_batch != p->near_batch))
        from++;
    if (from == v->opt.n_places || from == place) return SL_OK;
    const party *near = &v->party[p->near_batch];
    const size_t bytes = v->opt.format.page_bytes;
    for (int k = p->n_brought, end; k < p->n_near; k = end) {
        const int first = number_of(near, p->near, k, 0);
        for (end = k + 1; end < p->n_near; end++)
            if (number_of(near, p->near, end, 0) != first + end - k) break;
        SL_TRY(v->opt.host.device->copy(v->opt.host.be, SL_STREAM_H2D,
                                        place_of(v, place, number_of(all, i, k, 0)),
                                        place_of(v, from, first), (size_t)(end - k) * bytes));
    }
    *have_out = p->n_near;
    return SL_OK;
}

sl_status sl_kv_visits_upload(sl_kv_visits *v, int layer, int micro_batch, int place) {
    const party *all = &v->party[micro_batch];
    v->last_bytes = 0;
    v->holds[place].layer = layer;
    v->holds[place].micro_batch = micro_batch;
    for (int i = 0; i < all->n; i++) {
        const visitor *p = &all->visitor[i];
        if (p->who.on_host || p->n_before == 0) continue;
        if (p->home == SL_TIER_CPU) {
            int have;
            SL_TRY(copy_near(v, all, i, layer, place, &have));
            SL_TRY(move_pool(v, all, i, layer, place, SL_STREAM_H2D, have, p->n_before));
            continue;
        }
        const int32_t *here = sl_kv_visits_pages(v, micro_batch, i);
        if (v->opt.gpu && p->n_full > p->n_brought)
            SL_TRY(move(v, SL_STREAM_H2D, place_of(v, place, here[p->n_brought]),
                        staging_of(v, place, p->staged), p->n_full - p->n_brought));
        if (p->n_before > p->n_full)
            SL_TRY(move(v, SL_STREAM_H2D, place_of(v, place, here[p->n_full]),
                        sl_kv_tail(all->kv, layer, p->who.slot), 1));
    }
    return SL_OK;
}

sl_status sl_kv_visits_store(sl_kv_visits *v, int layer, int micro_batch, int place) {
    const party *all = &v->party[micro_batch];
    v->last_bytes = 0;
    for (int i = 0; i < all->n; i++) {
        const visitor *p = &all->visitor[i];
        if (p->who.on_host) continue;
        if (p->home == SL_TIER_CPU) {
            SL_TRY(move_pool(v, all, i, layer, place, SL_STREAM_D2H, p->n_full, p->n_pages));
            continue;
        }
        const int32_t *here = sl_kv_visits_pages(v, micro_batch, i);
        if (v->opt.gpu && p->n_full_after > p->n_full)
            SL_TRY(move(v, SL_STREAM_D2H, staging_of(v, place, number_of(all, i, p->n_full, 1)),
                        place_of(v, place, here[p->n_full]), p->n_full_after - p->n_full));
        if (p->n_pages > p->n_full_after)
            SL_TRY(move(v, SL_STREAM_D2H, sl_kv_tail(all->kv, layer, p->who.slot),
                        place_of(v, place, here[p->n_full_after]), 1));
    }
    return SL_OK;
}

size_t sl_kv_visits_last_bytes(const sl_kv_visits *v) {
    return v->last_bytes;
}
