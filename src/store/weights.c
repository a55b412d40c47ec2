#include "store/weights.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "base/parallel.h"
#include "store/packed_file.h"
#include "store/pinned.h"

typedef struct {
    int layer; /* number in the model */
    sl_layout layout;
    unsigned char *home; /* [n_pieces] sl_tier_kind */
    unsigned char *
        *host;       /* [n_pieces] where a piece that is uploaded lies in host memory; NULL: not */
    sl_slab *slabs;  /* one per matrix piece, in piece order */
    sl_slab *joined; /* [n_joined] the first of them again, as slabs of view.qkv */
    int n_joined;
    sl_layer_weights view;
    void *fast, *lower; /* pieces in the tier that computes, and in host memory beside a device */
    size_t bytes[SL_TIER_COUNT]; /* pieces by home */
} packed_layer;

/* Half of a ring: the pieces of one layer. */
typedef struct {
    unsigned char *memory;
    int index; /* of the layer in layer[]; -1: empty */
} ring_half;

enum { N_HALVES = 2 };

typedef struct {
    ring_half half[N_HALVES];
    int next;
} ring;

struct sl_weights {
    sl_weights_options opt;
    int n_layers; /* of the model */
    int has_embed, has_head;
    sl_tier_kind fast; /* the tier that computes */
    int n_packed;
    packed_layer *layer; /* [n_packed]: the embedding if any, decoder layers, the head if any */
    sl_weights_size size;
    sl_tier *gpu, *cpu;
    unsigned char *staging; /* pinned, while loading */
    sl_packed_file *file;
    sl_disk *disk; /* of `file`; of a hollow backend its own */
    ring host, device;
    sl_disk_ticket *reading[N_HALVES]; /* [most pieces of a layer] by half; 0 once done */
    int n_left[N_HALVES];              /* reads under way */
    int n_parts_left;                  /* of the layer being uploaded */
    uint64_t uploaded_bytes;
};

static sl_status take_pinned(sl_weights *w, size_t bytes, const char *what, unsigned char **out) {
    const sl_pinned_from from = {w->cpu, w->opt.be, w->opt.device, w->opt.hollow};
    void *memory = NULL;
    SL_TRY(sl_pinned_take(&from, bytes, what, &memory));
    *out = memory;
    return SL_OK;
}

static void put_pinned(sl_weights *w, void *memory) {
    const sl_pinned_from from = {w->cpu, w->opt.be, w->opt.device, w->opt.hollow};
    sl_pinned_put(&from, memory);
}

static int index_of(const sl_weights *w, int layer) {
    if (layer == SL_LAYER_EMBED) return w->has_embed ? 0 : -1;
    if (layer == w->n_layers) return w->has_head ? w->n_packed - 1 : -1;
    if (layer < w->opt.first || layer >= w->opt.last) return -1;
    return w->has_embed + layer - w->opt.first;
}

static int layer_of(const sl_weights *w, int index) {
    if (w->has_embed && index == 0) return SL_LAYER_EMBED;
    if (w->has_head && index == w->n_packed - 1) return w->n_layers;
    return w->opt.first + index - w->has_embed;
}

static int is_decoder(const sl_weights *w, const packed_layer *l) {
    return l->layer >= 0 && l->layer < w->n_layers;
}

static size_t piece_room(const sl_piece *p) {
    return sl_align_up(p->bytes, SL_PACK_ALIGN);
}

/* Bytes of the layer that are uploaded before use. */
static size_t upload_bytes(const sl_weights *w, const packed_layer *l) {
    return w->opt.device ? l->bytes[SL_TIER_CPU] + l->bytes[SL_TIER_DISK] : 0;
}

/* Chooses homes and adds up sizes; embedding and head stay where they are computed with. */
static sl_status lay_out(sl_weights *w, const sl_source *source) {
    sl_place_carry carry = {{0}};
    sl_shares all_fast = {{0}};
    all_fast.frac[w->fast] = 1.0;
    SL_TRY(sl_shares_check(&w->opt.shares, "weights"));
    size_t most_fetched = 0, most_uploaded = 0, n_on_disk = 0;
    for (int i = 0; i < w->n_packed; i++) {
        packed_layer *l = &w->layer[i];
        l->layer = layer_of(w, i);
        SL_TRY(sl_layout_make_as(source, l->layer, !w->has_embed, w->opt.precision, &l->layout));
        if (l->layout.n_pieces == 0)
            continue; /* a tied head without a norm has nothing of its own */
        l->home = calloc((size_t)l->layout.n_pieces, 1);
        l->host = calloc((size_t)l->layout.n_pieces, sizeof *l->host);
        if (!l->home || !l->host) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
        sl_place_layer(&l->layout, is_decoder(w, l) ? &w->opt.shares : &all_fast, w->fast, &carry,
                       l->home);
        for (int p = 0; p < l->layout.n_pieces; p++) {
            size_t *sum = &l->bytes[l->home[p]], *all = &w->size.resident_bytes[l->home[p]];
            SL_TRY(sl_size_add(*sum, piece_room(&l->layout.pieces[p]), sum));
            SL_TRY(sl_size_add(*all, piece_room(&l->layout.pieces[p]), all));
            n_on_disk += l->home[p] == SL_TIER_DISK;
        }
        if (l->bytes[SL_TIER_DISK] > most_fetched) most_fetched = l->bytes[SL_TIER_DISK];
        if (upload_bytes(w, l) > most_uploaded) most_uploaded = upload_bytes(w, l);
        if (l->bytes[SL_TIER_GPU] > w->size.loading_bytes)
            w->size.loading_bytes = l->bytes[SL_TIER_GPU];
    }
    if (n_on_disk) SL_TRY(sl_packed_table_bytes(n_on_disk, &w->size.table_bytes));
    SL_TRY(sl_size_mul(N_HALVES, most_fetched, &w->size.ring_bytes[SL_TIER_CPU]));
    return sl_size_mul(N_HALVES, most_uploaded, &w->size.ring_bytes[SL_TIER_GPU]);
}

static sl_status check_options(const sl_weights_options *o) {
    const int n_layers = sl_source_config(o->source)->n_layers;
    if (o->first < 0 || o->first >= o->last || o->last > n_layers)
        return SL_FAIL(SL_ERR_ARG, "slice [%d, %d) of a model with %d layers", o->first, o->last,
                       n_layers);
    if (o->shares.frac[SL_TIER_DISK] > 0.0 && !o->disk_dir)
        return SL_FAIL(SL_ERR_ARG,
                       "%.3g of the weights are to live on disk, but no folder is given",
                       o->shares.frac[SL_TIER_DISK]);
    if (o->shares.frac[SL_TIER_GPU] > 0.0 && !o->device)
        return SL_FAIL(SL_ERR_ARG,
                       "%.3g of the weights are to live on the gpu, but the backend has "
                       "no memory of its own",
                       o->shares.frac[SL_TIER_GPU]);
    return SL_OK;
}

static sl_status open_plan(const sl_weights_options *o, sl_weights **out) {
    SL_TRY(check_options(o));
    sl_status st = SL_OK;
    sl_weights *w = calloc(1, sizeof *w);
    if (!w) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    w->opt = *o;
    w->opt.source = NULL;
    w->fast = o->device ? SL_TIER_GPU : SL_TIER_CPU;
    w->n_layers = sl_source_config(o->source)->n_layers;
    w->has_embed = o->first == 0;
    w->has_head = o->last == w->n_layers;
    w->n_packed = o->last - o->first + w->has_embed + w->has_head;
    for (int h = 0; h < N_HALVES; h++) w->host.half[h].index = w->device.half[h].index = -1;
    w->layer = calloc((size_t)w->n_packed, sizeof *w->layer);
    if (!w->layer) {
        st = SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
        goto fail;
    }
    SL_GO(lay_out(w, o->source));
    *out = w;
    return SL_OK;

fail:
    sl_weights_close(w);
    return st;
}

sl_status sl_weights_measure(const sl_weights_options *options, sl_weights_size *out) {
    sl_weights *w = NULL;
    SL_TRY(open_plan(options, &w));
    *out = w->size;
    sl_weights_close(w);
    return SL_OK;
}

/* Pieces of a layer being read by several threads. */
typedef struct {
    const sl_source *source;
    const packed_layer *l;
    unsigned char *const *to; /* [n_pieces] host memory; NULL: not read now */
    sl_pulse *pulse;
} reading_layer;

static sl_status read_piece(void *context, int piece) {
    const reading_layer *r = context;
    if (!r->to[piece]) return SL_OK;
    SL_TRY(sl_layout_read(r->source, &r->l->layout, piece, r->to[piece]));
    sl_pulse_count(r->pulse);
    return SL_OK;
}

/* Reads the layer's pieces that live in memory; those of a device by way of the staging buffer. */
static sl_status read_layer(sl_weights *w, const sl_source *source, packed_layer *l,
                            unsigned char **fast) {
    const int n = l->layout.n_pieces;
    unsigned char **to = calloc((size_t)n, sizeof *to);
    if (!to) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    unsigned char *next = w->staging;
    for (int p = 0; p < n; p++) {
        to[p] = fast[p] && !w->opt.device ? fast[p] : l->host[p];
        if (!fast[p] || !w->opt.device) continue;
        to[p] = next;
        next += piece_room(&l->layout.pieces[p]);
    }
    const reading_layer reading = {source, l, to, w->opt.pulse};
    sl_status st = w->opt.hollow ? SL_OK : sl_parallel_for(0, n, read_piece, (void *)&reading);
    for (int p = 0; st == SL_OK && w->opt.device && p < n; p++)
        if (fast[p])
            st = w->opt.device->copy(w->opt.be, SL_STREAM_H2D, fast[p], to[p],
                                     l->layout.pieces[p].bytes);
    /* The staging buffer is used again. */
    if (st == SL_OK && w->opt.device) st = w->opt.device->drain(w->opt.be);
    free(to);
    return st;
}

/* Q, K and V come first. */
static sl_status join_projections(packed_layer *l) {
    const sl_weight *q = &l->view.matrix[SL_ROLE_Q], *k = q + 1, *v = k + 1;
    const float *const *bias = &l->view.vector[SL_ROLE_Q_BIAS];
    const int n = q->n_slabs + k->n_slabs + v->n_slabs;
    if (q->n_slabs == 0 || k->n_slabs == 0 || v->n_slabs == 0) return SL_OK;
    for (int i = 1; i < n; i++)
        if (q->slabs[i].dtype != q->slabs[0].dtype || q->slabs[i].cols != q->slabs[0].cols)
            return SL_OK;
    const int has_bias = bias[0] || bias[1] || bias[2];
    if (has_bias && (!bias[0] || bias[1] != bias[0] + q->rows || bias[2] != bias[1] + k->rows))
        return SL_OK;
    l->joined = malloc((size_t)n * sizeof *l->joined);
    if (!l->joined) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    l->n_joined = n;
    for (int i = 0; i < n; i++) {
        l->joined[i] = q->slabs[i];
        if (i >= q->n_slabs) l->joined[i].row0 += q->rows;
        if (i >= q->n_slabs + k->n_slabs) l->joined[i].row0 += k->rows;
    }
    l->view.qkv = (sl_weight){q->rows + k->rows + v->rows, q->cols, n, l->joined};
    return SL_OK;
}

/* Where a piece is now. */
static void set_data(packed_layer *l, int piece, const void *data) {
    const int slab = piece - l->layout.n_vectors;
    l->slabs[slab].data = data;
    if (slab < l->n_joined) l->joined[slab].data = data;
}

static sl_status load_layer(sl_weights *w, const sl_source *source, packed_layer *l) {
    const int n_matrices = l->layout.n_pieces - l->layout.n_vectors;
    if (l->layout.n_pieces == 0) return SL_OK;
    if (n_matrices > 0) {
        l->slabs = calloc((size_t)n_matrices, sizeof *l->slabs);
        if (!l->slabs) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    }
    if (l->bytes[w->fast])
        SL_TRY(sl_tier_take(w->opt.device ? w->gpu : w->cpu, l->bytes[w->fast], "a layer's weights",
                            &l->fast));
    unsigned char *next = l->fast, *lower = NULL;
    if (w->opt.device && l->bytes[SL_TIER_CPU]) {
        SL_TRY(take_pinned(w, l->bytes[SL_TIER_CPU], "a layer's weights", &lower));
        l->lower = lower;
    }
    unsigned char **fast = calloc((size_t)l->layout.n_pieces, sizeof *fast);
    if (!fast) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    int s = 0;
    for (int p = 0; p < l->layout.n_pieces; p++) {
        const sl_piece *piece = &l->layout.pieces[p];
        if (l->home[p] == w->fast) {
            fast[p] = next;
            next += piece_room(piece);
        } else if (l->home[p] == SL_TIER_CPU) {
            l->host[p] = lower;
            lower += piece_room(piece);
        }
        if (sl_role_is_vector(piece->role)) {
            l->view.vector[piece->role] = (const float *)(const void *)fast[p];
            continue;
        }
        sl_weight *m = &l->view.matrix[piece->role];
        l->slabs[s] = (sl_slab){piece->dtype,     (int)piece->row0, (int)piece->n_rows,
                                (int)piece->cols, piece->row_bytes, fast[p]};
        if (m->n_slabs == 0) m->slabs = &l->slabs[s];
        m->n_slabs++;
        m->rows += (int)piece->n_rows;
        m->cols = (int)piece->cols;
        s++;
    }
    sl_status st = join_projections(l);
    if (st == SL_OK) st = read_layer(w, source, l, fast);
    free(fast);
    return st;
}

/* The packed file of the disk-homed pieces. */
static sl_status open_file(sl_weights *w, const sl_source *source) {
    sl_status st = SL_OK;
    const size_t n = (size_t)w->n_packed;
    sl_layout *layout = calloc(n, sizeof *layout);
    const unsigned char **on_disk = calloc(n, sizeof *on_disk);
    unsigned char **flags = calloc(n, sizeof *flags);
    if (!layout || !on_disk || !flags) {
        st = SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        const packed_layer *l = &w->layer[i];
        layout[i] = l->layout;
        flags[i] = calloc((size_t)l->layout.n_pieces + 1, 1);
        if (!flags[i]) {
            st = SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
            goto done;
        }
        for (int p = 0; p < l->layout.n_pieces; p++) flags[i][p] = l->home[p] == SL_TIER_DISK;
        on_disk[i] = flags[i];
    }
    const sl_packed_wanted wanted = {source, w->n_packed, layout, on_disk, w->opt.pulse};
    st = sl_packed_open(w->opt.disk_dir, &wanted, w->opt.disk_budget_bytes, NULL, &w->file);
    if (st == SL_OK) w->disk = sl_packed_disk(w->file);

done:
    for (size_t i = 0; flags && i < n; i++) free(flags[i]);
    free(flags);
    free(on_disk);
    free(layout);
    return st;
}

/* A disk in place of the packed file: pieces have sizes there, and all the same place. */
static sl_status open_hollow(sl_weights *w) {
    const size_t bytes = w->size.resident_bytes[SL_TIER_DISK];
    char want[32], budget[32];
    if (bytes > w->opt.disk_budget_bytes)
        return SL_FAIL(SL_ERR_NOMEM, "disk tier: the weights need %s, the budget is %s",
                       sl_bytes_format(bytes, want, sizeof want),
                       sl_bytes_format(w->opt.disk_budget_bytes, budget, sizeof budget));
    return w->opt.hollow->open_disk(w->opt.be, "the weights' disk", bytes, &w->disk);
}

static sl_status find_on_disk(const sl_weights *w, int index, int piece, size_t *offset_out,
                              size_t *bytes_out) {
    if (w->file) return sl_packed_find(w->file, index, piece, offset_out, bytes_out);
    *offset_out = 0;
    *bytes_out = piece_room(&w->layer[index].layout.pieces[piece]);
    return SL_OK;
}

static sl_status open_rings(sl_weights *w) {
    int most_pieces = 1;
    for (int i = 0; i < w->n_packed; i++)
        if (w->layer[i].layout.n_pieces > most_pieces) most_pieces = w->layer[i].layout.n_pieces;
    for (int h = 0; h < N_HALVES; h++) {
        void *memory = NULL;
        if (w->size.ring_bytes[SL_TIER_CPU]) {
            SL_TRY(take_pinned(w, w->size.ring_bytes[SL_TIER_CPU] / N_HALVES,
                               "the ring of weights from disk", &w->host.half[h].memory));
            w->reading[h] = calloc((size_t)most_pieces, sizeof *w->reading[h]);
            if (!w->reading[h]) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
        }
        if (w->size.ring_bytes[SL_TIER_GPU]) {
            SL_TRY(sl_tier_take(w->gpu, w->size.ring_bytes[SL_TIER_GPU] / N_HALVES,
                                "the ring of weights from the host", &memory));
            w->device.half[h].memory = memory;
        }
    }
    return SL_OK;
}

sl_status sl_weights_open(const sl_weights_options *options, sl_tier *gpu, sl_tier *cpu,
                          sl_weights **out) {
    sl_status st = SL_OK;
    sl_weights *w = NULL;
    SL_TRY(open_plan(options, &w));
    w->gpu = gpu;
    w->cpu = cpu;
    if (w->size.loading_bytes)
        SL_GO(take_pinned(w, w->size.loading_bytes, "the loading buffer", &w->staging));
    for (int i = 0; i < w->n_packed; i++) {
        sl_pulse_begin(options->pulse, "loading weights", w->layer[i].layer);
        st = load_layer(w, options->source, &w->layer[i]);
        sl_pulse_end(options->pulse);
        if (st != SL_OK) goto fail;
    }
    put_pinned(w, w->staging);
    w->staging = NULL;
    if (w->size.resident_bytes[SL_TIER_DISK]) {
        sl_pulse_begin(options->pulse, "packing weights", -1);
        st = w->opt.hollow ? open_hollow(w) : open_file(w, options->source);
        sl_pulse_end(options->pulse);
        if (st != SL_OK) goto fail;
    }
    SL_GO(open_rings(w));
    if (w->has_embed && w->has_head && sl_source_config(options->source)->tied_head)
        w->layer[w->n_packed - 1].view.matrix[SL_ROLE_HEAD] =
            w->layer[0].view.matrix[SL_ROLE_TOKEN_EMBED];
    *out = w;
    return SL_OK;

fail:
    sl_weights_close(w);
    return st;
}

void sl_weights_close(sl_weights *w) {
    if (!w) return;
    /* Waits for reads under way: the ring goes after it. */
    if (w->file)
        sl_packed_close(w->file);
    else
        sl_disk_close(w->disk);
    put_pinned(w, w->staging);
    for (int h = 0; h < N_HALVES; h++) {
        put_pinned(w, w->host.half[h].memory);
        if (w->gpu) sl_tier_put(w->gpu, w->device.half[h].memory);
        free(w->reading[h]);
    }
    for (int i = 0; w->layer && i < w->n_packed; i++) {
        packed_layer *l = &w->layer[i];
        if (l->fast) sl_tier_put(w->opt.device ? w->gpu : w->cpu, l->fast);
        put_pinned(w, l->lower);
        sl_layout_free(&l->layout);
        free(l->home);
        free(l->host);
        free(l->slabs);
        free(l->joined);
    }
    free(w->layer);
    free(w);
}

const sl_layer_weights *sl_weights_layer(const sl_weights *w, int layer) {
    const int index = index_of(w, layer);
    return index < 0 ? NULL : &w->layer[index].view;
}

int sl_weights_is_on_disk(const sl_weights *w, int layer) {
    const int index = index_of(w, layer);
    return index >= 0 && w->layer[index].bytes[SL_TIER_DISK] > 0;
}

int sl_weights_is_uploaded_layer(const sl_weights *w, int layer) {
    const int index = index_of(w, layer);
    return index >= 0 && upload_bytes(w, &w->layer[index]) > 0;
}

/* The half that holds a layer; -1 if none does. */
static int half_of(const ring *r, int index) {
    for (int h = 0; h < N_HALVES; h++)
        if (r->half[h].index == index) return h;
    return -1;
}

/* Gives the layer the place of the load before the last. */
static int take_half(ring *r, int index) {
    const int h = r->next;
    r->next = (r->next + 1) % N_HALVES;
    r->half[h].index = index;
    return h;
}

sl_status sl_weights_fetch(sl_weights *w, int layer, size_t *bytes_out) {
    const int index = index_of(w, layer);
    if (index < 0 || w->layer[index].bytes[SL_TIER_DISK] == 0)
        return SL_FAIL(SL_ERR_ARG, "layer %d has nothing on disk", layer);
    *bytes_out = 0;
    if (half_of(&w->host, index) >= 0) return SL_OK;
    if (w->n_left[w->host.next] > 0)
        return SL_FAIL(SL_ERR_ARG, "layer %d is fetched into a place that is still being read into",
                       layer);
    const int h = take_half(&w->host, index);
    packed_layer *l = &w->layer[index];
    unsigned char *next = w->host.half[h].memory;
    for (int p = l->layout.n_vectors; p < l->layout.n_pieces; p++) {
        if (l->home[p] != SL_TIER_DISK) continue;
        size_t offset, bytes;
        SL_TRY(find_on_disk(w, index, p, &offset, &bytes));
        SL_TRY(sl_disk_read(w->disk, offset, bytes, next, &w->reading[h][w->n_left[h]]));
        w->n_left[h]++;
        *bytes_out += bytes;
        if (w->opt.device)
            l->host[p] = next;
        else
            set_data(l, p, next);
        next += bytes;
    }
    return SL_OK;
}

sl_status sl_weights_is_fetched(sl_weights *w, int layer, int *done_out) {
    const int h = half_of(&w->host, index_of(w, layer));
    if (h < 0) return SL_FAIL(SL_ERR_ARG, "layer %d has not been fetched", layer);
    while (w->n_left[h] > 0) {
        int done = 0;
        SL_TRY(sl_disk_test(w->disk, w->reading[h][w->n_left[h] - 1], &done));
        if (!done) break;
        w->n_left[h]--;
    }
    *done_out = w->n_left[h] == 0;
    return SL_OK;
}

/* Queues the copies of the layer's pieces that begin within [from, to) of its uploaded bytes;
 * pieces that lie one after another in host memory go as one, since large copies run faster.  Not
 * those of two tiers, which may be neighbours by chance: no copy may span memory that was pinned
 * in two parts. */
static sl_status upload_range(sl_weights *w, packed_layer *l, unsigned char *memory, size_t from,
                              size_t to, size_t *bytes_out) {
    size_t at = 0, run_at = 0, run_bytes = 0;
    const unsigned char *run = NULL;
    int run_home = -1;
    for (int p = l->layout.n_vectors; p < l->layout.n_pieces; p++) {
        const sl_piece *piece = &l->layout.pieces[p];
        const size_t room = piece_room(piece);
        if (l->home[p] == SL_TIER_GPU) continue;
        if (at >= from && at < to) {
            if (run && (l->home[p] != run_home || l->host[p] != run + run_bytes)) {
                SL_TRY(
                    w->opt.device->copy(w->opt.be, SL_STREAM_H2D, memory + run_at, run, run_bytes));
                run = NULL;
            }
            if (!run) {
                run = l->host[p];
                run_home = l->home[p];
                run_at = at;
                run_bytes = 0;
            }
            run_bytes += room;
            set_data(l, p, memory + at);
            *bytes_out += piece->bytes;
        }
        at += room;
    }
    if (!run) return SL_OK;
    return w->opt.device->copy(w->opt.be, SL_STREAM_H2D, memory + run_at, run, run_bytes);
}

sl_status sl_weights_upload(sl_weights *w, int layer, int part, int n_parts, size_t *bytes_out) {
    const int index = index_of(w, layer);
    if (index < 0 || upload_bytes(w, &w->layer[index]) == 0 || part < 0 || part >= n_parts)
        return SL_FAIL(SL_ERR_ARG, "part %d of %d of layer %d: nothing to upload", part, n_parts,
                       layer);
    *bytes_out = 0;
    int h = half_of(&w->device, index);
    if (h >= 0 && part == 0) return SL_OK; /* it is there: loaded in the sweep before */
    if (h >= 0 && w->n_parts_left == 0) return SL_OK;
    if (part == 0) {
        h = take_half(&w->device, index);
        w->n_parts_left = n_parts;
    }
    if (h < 0 || w->n_parts_left != n_parts - part)
        return SL_FAIL(SL_ERR_ARG, "part %d of %d of layer %d is uploaded out of order", part,
                       n_parts, layer);
    const size_t all = upload_bytes(w, &w->layer[index]);
    const size_t from = all / (size_t)n_parts * (size_t)part;
    const size_t to = part == n_parts - 1 ? all : all / (size_t)n_parts * ((size_t)part + 1);
    w->n_parts_left--;
    SL_TRY(upload_range(w, &w->layer[index], w->device.half[h].memory, from, to, bytes_out));
    w->uploaded_bytes += *bytes_out;
    return SL_OK;
}

sl_weights_size sl_weights_bytes(const sl_weights *w) {
    return w->size;
}

uint64_t sl_weights_uploaded_bytes(const sl_weights *w) {
    return w->uploaded_bytes;
}

void sl_weights_disk_stats(const sl_weights *w, sl_disk_stats *out) {
    *out = (sl_disk_stats){0};
    if (w->disk) sl_disk_get_stats(w->disk, out);
}
