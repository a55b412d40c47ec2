#include "measure_links.h"

/* Copies of weights are pieces of some MiB, those of pages and activations start at some KiB. */
static const size_t sizes[] = {16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20};
enum { N_SIZES = sizeof sizes / sizeof sizes[0], DUPLEX_BYTES = 16 << 20, BUFFER_BYTES = 64 << 20 };

typedef struct {
    sl_measure *m;
    void *host[2], *device[2]; /* to the device, from it; [buffer_bytes] */
    size_t buffer_bytes, bytes;
} link_buffers;

static sl_status copy_in(const link_buffers *b, size_t at) {
    const sl_measure *m = b->m;
    return m->device->copy(m->be, SL_STREAM_H2D, (char *)b->device[0] + at,
                           (const char *)b->host[0] + at, b->bytes);
}

static sl_status copy_out(const link_buffers *b, size_t at) {
    const sl_measure *m = b->m;
    return m->device->copy(m->be, SL_STREAM_D2H, (char *)b->host[1] + at,
                           (const char *)b->device[1] + at, b->bytes);
}

/* The copies go through the whole buffers. */
static size_t offset_of(const link_buffers *b, int run) {
    return (size_t)run % (b->buffer_bytes / b->bytes) * b->bytes;
}

static sl_status work_in(void *context, int run) {
    const link_buffers *b = context;
    return copy_in(b, offset_of(b, run));
}

static sl_status work_out(void *context, int run) {
    const link_buffers *b = context;
    return copy_out(b, offset_of(b, run));
}

static sl_status work_both(void *context, int run) {
    const link_buffers *b = context;
    SL_TRY(copy_in(b, offset_of(b, run)));
    return copy_out(b, offset_of(b, run));
}

static sl_status measure_sizes(link_buffers *b, sl_profile *p) {
    double s;
    for (int i = 0; i < N_SIZES && sizes[i] <= b->buffer_bytes; i++) {
        b->bytes = sizes[i];
        SL_TRY(sl_measure_time(b->m, work_in, b, &s));
        SL_TRY(sl_curve_add(&p->h2d_bps, (double)b->bytes, sl_measure_round((double)b->bytes / s)));
        SL_TRY(sl_measure_time(b->m, work_out, b, &s));
        SL_TRY(sl_curve_add(&p->d2h_bps, (double)b->bytes, sl_measure_round((double)b->bytes / s)));
        sl_measure_point(b->m, i + 1, N_SIZES + 1);
        if (sl_measure_is_late(b->m)) break;
    }
    b->bytes = b->buffer_bytes < DUPLEX_BYTES ? b->buffer_bytes : DUPLEX_BYTES;
    SL_TRY(sl_measure_time(b->m, work_both, b, &s));
    p->duplex_bps = sl_measure_round(2.0 * (double)b->bytes / s);
    return SL_OK;
}

sl_status sl_measure_links(sl_measure *m, sl_profile *profile) {
    sl_status st = SL_OK;
    link_buffers b = {.m = m, .buffer_bytes = BUFFER_BYTES};
    if (!m->device) return SL_OK;
    const size_t host_room = sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host);
    while (b.buffer_bytes > sizes[0] &&
           (4 * b.buffer_bytes > sl_measure_room(m) || 4 * b.buffer_bytes > host_room))
        b.buffer_bytes /= 4;
    for (int i = 0; i < 2; i++) {
        SL_GO(sl_pinned_take(&m->pinned, b.buffer_bytes, "copies", &b.host[i]));
        SL_GO(sl_measure_take(m, b.buffer_bytes, "copies", &b.device[i]));
    }
    SL_GO(measure_sizes(&b, profile));

fail:
    for (int i = 0; i < 2; i++) {
        const sl_status waited = sl_measure_wait(m); /* memory in use is not to be released */
        if (st == SL_OK) st = waited;
        sl_measure_put(m, b.device[i]);
        sl_pinned_put(&m->pinned, b.host[i]);
    }
    return st;
}
