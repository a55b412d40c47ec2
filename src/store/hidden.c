#include "store/hidden.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct sl_hidden {
    sl_hidden_options opt;
    size_t home_bytes[SL_TIER_COUNT];   /* of one micro-batch */
    size_t place_bytes;                 /* of one place */
    unsigned char *places;              /* computing tier: [n_places, place_bytes] */
    unsigned char *home[SL_TIER_COUNT]; /* gpu, cpu: [n_micro_batches, home_bytes] */
    unsigned char *staging;             /* host: [n_places, home_bytes[DISK]] */
    sl_disk *disk;                      /* [n_micro_batches, home_bytes[DISK]] */
    sl_disk_ticket *under_way;          /* [n_places]; 0: none */
    size_t last_bytes;
};

int sl_hidden_travels(const sl_shares *s, int has_device) {
    const double stays =
        has_device ? s->frac[SL_TIER_GPU] : s->frac[SL_TIER_GPU] + s->frac[SL_TIER_CPU];
    double sum = 0.0;
    for (int t = 0; t < SL_TIER_COUNT; t++) sum += s->frac[t];
    return sum > 0.0 && stays < 1.0 - 1e-9;
}

/* Rows of each home among n_rows. */
static void split(const sl_hidden_options *o, int n_rows, int rows[SL_TIER_COUNT]) {
    const double *frac = o->shares.frac;
    const int gpu = o->gpu ? (int)(frac[SL_TIER_GPU] * n_rows + 0.5) : 0;
    int upper = (int)((frac[SL_TIER_GPU] + frac[SL_TIER_CPU]) * n_rows + 0.5);
    if (frac[SL_TIER_DISK] == 0.0) upper = n_rows;
    if (upper < gpu) upper = gpu;
    rows[SL_TIER_GPU] = gpu;
    rows[SL_TIER_CPU] = upper - gpu;
    rows[SL_TIER_DISK] = n_rows - upper;
}

/* Bytes of one micro-batch's rows at home, for any number of rows up to the most; whole blocks of
 * the disk. */
static sl_status sizes(const sl_hidden_options *o, size_t home[SL_TIER_COUNT], size_t *place) {
    int rows[SL_TIER_COUNT];
    split(o, o->max_rows, rows);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        home[t] = 0;
        const double frac =
            o->shares.frac[t] + (t == SL_TIER_CPU && !o->gpu ? o->shares.frac[SL_TIER_GPU] : 0.0);
        if (frac == 0.0 || (t == SL_TIER_GPU && !o->gpu)) continue;
        /* Rounding may give a home up to two rows more of a smaller number of rows. */
        SL_TRY(sl_size_mul((size_t)rows[t] + 2, o->row_bytes, &home[t]));
        home[t] = sl_align_up(home[t], SL_DISK_ALIGN);
    }
    SL_TRY(sl_size_mul((size_t)o->max_rows, o->row_bytes, place));
    *place = sl_align_up(*place, SL_DISK_ALIGN);
    return SL_OK;
}

sl_status sl_hidden_measure(const sl_hidden_options *o, size_t bytes[SL_TIER_COUNT]) {
    size_t home[SL_TIER_COUNT], place, staging;
    const size_t k = (size_t)o->n_micro_batches, n = (size_t)o->n_places;
    SL_TRY(sizes(o, home, &place));
    SL_TRY(sl_size_mul(home[SL_TIER_DISK], n, &staging));
    SL_TRY(sl_size_mul(place, n, &place));
    for (int t = 0; t < SL_TIER_COUNT; t++) SL_TRY(sl_size_mul(home[t], k, &bytes[t]));
    SL_TRY(sl_size_add(bytes[SL_TIER_CPU], staging, &bytes[SL_TIER_CPU]));
    size_t *fast = &bytes[o->gpu ? SL_TIER_GPU : SL_TIER_CPU];
    return sl_size_add(*fast, place, fast);
}

static sl_status take(sl_hidden *h, int on_gpu, size_t bytes, const char *what,
                      unsigned char **out) {
    void *memory = NULL;
    if (bytes == 0) return SL_OK;
    if (on_gpu)
        SL_TRY(sl_tier_take(h->opt.gpu, bytes, what, &memory));
    else
        SL_TRY(sl_pinned_take(&h->opt.host, bytes, what, &memory));
    *out = memory;
    return SL_OK;
}

sl_status sl_hidden_open(const sl_hidden_options *o, sl_hidden **out) {
    sl_status st = SL_OK;
    SL_TRY(sl_shares_check(&o->shares, "hidden states"));
    if (o->max_rows < 1 || o->n_places < 1 || o->n_micro_batches < 1)
        return SL_FAIL(SL_ERR_ARG, "hidden states of %d micro-batches of %d rows in %d places",
                       o->n_micro_batches, o->max_rows, o->n_places);
    if (o->shares.frac[SL_TIER_DISK] > 0.0 && !o->disk_dir)
        return SL_FAIL(SL_ERR_ARG,
                       "%.3g of the hidden states are to live on disk, but no folder is given",
                       o->shares.frac[SL_TIER_DISK]);
    sl_hidden *h = calloc(1, sizeof *h);
    if (!h) return SL_FAIL(SL_ERR_NOMEM, "hidden states: out of host memory");
    h->opt = *o;
    const size_t k = (size_t)o->n_micro_batches, n = (size_t)o->n_places;
    h->under_way = calloc(n, sizeof *h->under_way);
    if (!h->under_way) {
        st = SL_FAIL(SL_ERR_NOMEM, "hidden states: out of host memory");
        goto fail;
    }
    SL_GO(sizes(o, h->home_bytes, &h->place_bytes));
    SL_GO(take(h, o->gpu != NULL, n * h->place_bytes, "hidden states on the way", &h->places));
    for (int t = SL_TIER_GPU; t <= SL_TIER_CPU; t++)
        SL_GO(
            take(h, t == SL_TIER_GPU, k * h->home_bytes[t], "hidden states at home", &h->home[t]));
    if (h->home_bytes[SL_TIER_DISK]) {
        SL_GO(take(h, 0, n * h->home_bytes[SL_TIER_DISK], "hidden states from disk", &h->staging));
        SL_GO(sl_hollow_open_scratch(o->host.hollow, o->host.be, o->disk_dir,
                                     k * h->home_bytes[SL_TIER_DISK], &h->disk));
    }
    h->opt.disk_dir = NULL;
    *out = h;
    return SL_OK;

fail:
    sl_hidden_close(h);
    return st;
}

void sl_hidden_close(sl_hidden *h) {
    if (!h) return;
    sl_disk_close(h->disk);
    sl_pinned_put(&h->opt.host, h->staging);
    sl_pinned_put(&h->opt.host, h->home[SL_TIER_CPU]);
    if (h->opt.gpu) {
        sl_tier_put(h->opt.gpu, h->home[SL_TIER_GPU]);
        sl_tier_put(h->opt.gpu, h->places);
    } else {
        sl_pinned_put(&h->opt.host, h->places);
    }
    free(h->under_way);
    free(h);
}

void *sl_hidden_place(const sl_hidden *h, int place) {
    return h->places + (size_t)place * h->place_bytes;
}

/* The disk's part of a micro-batch; whole blocks, so what follows the rows moves with them. */
static sl_status transfer(sl_hidden *h, int micro_batch, int place, int n_rows, int write) {
    int rows[SL_TIER_COUNT];
    split(&h->opt, n_rows, rows);
    h->last_bytes = sl_align_up((size_t)rows[SL_TIER_DISK] * h->opt.row_bytes, SL_DISK_ALIGN);
    if (h->last_bytes == 0) return SL_OK;
    const size_t offset = (size_t)micro_batch * h->home_bytes[SL_TIER_DISK];
    unsigned char *staging = h->staging + (size_t)place * h->home_bytes[SL_TIER_DISK];
    return write ? sl_disk_write(h->disk, offset, h->last_bytes, staging, &h->under_way[place])
                 : sl_disk_read(h->disk, offset, h->last_bytes, staging, &h->under_way[place]);
}

sl_status sl_hidden_fetch(sl_hidden *h, int micro_batch, int place, int n_rows) {
    return transfer(h, micro_batch, place, n_rows, 0);
}

sl_status sl_hidden_write(sl_hidden *h, int micro_batch, int place, int n_rows) {
    return transfer(h, micro_batch, place, n_rows, 1);
}

sl_status sl_hidden_is_done(sl_hidden *h, int place, int *done_out) {
    *done_out = 1;
    if (h->under_way[place] == 0) return SL_OK;
    const sl_status st = sl_disk_test(h->disk, h->under_way[place], done_out);
    if (st != SL_OK || *done_out) h->under_way[place] = 0;
    return st;
}

static sl_status move(sl_hidden *h, sl_stream stream, void *to, const void *from, size_t bytes) {
    if (bytes == 0) return SL_OK;
    if (h->opt.gpu) return h->opt.host.device->copy(h->opt.host.be, stream, to, from, bytes);
    memcpy(to, from, bytes);
    return SL_OK;
}

/* Moves a micro-batch's rows between their homes and a place. */
static sl_status move_all(sl_hidden *h, sl_stream stream, int micro_batch, int place, int n_rows) {
    int rows[SL_TIER_COUNT];
    split(&h->opt, n_rows, rows);
    unsigned char *here = sl_hidden_place(h, place);
    h->last_bytes = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        const size_t bytes = (size_t)rows[t] * h->opt.row_bytes;
        unsigned char *home = t == SL_TIER_DISK
                                  ? h->staging + (size_t)place * h->home_bytes[t]
                                  : h->home[t] + (size_t)micro_batch * h->home_bytes[t];
        if (bytes > 0 && stream == SL_STREAM_H2D)
            SL_TRY(move(h, stream, here, home, bytes));
        else if (bytes > 0)
            SL_TRY(move(h, stream, home, here, bytes));
        if (t != SL_TIER_GPU) h->last_bytes += bytes; /* the gpu's part crosses no link */
        here += bytes;
    }
    return SL_OK;
}

sl_status sl_hidden_load(sl_hidden *h, int micro_batch, int place, int n_rows) {
    return move_all(h, SL_STREAM_H2D, micro_batch, place, n_rows);
}

sl_status sl_hidden_save(sl_hidden *h, int micro_batch, int place, int n_rows) {
    return move_all(h, SL_STREAM_D2H, micro_batch, place, n_rows);
}

size_t sl_hidden_last_bytes(const sl_hidden *h) {
    return h->last_bytes;
}
