#include "measure_copies.h"

enum { COPY_BYTES = 16 << 20, LEAST_BYTES = 4096 };

static sl_status queue_copy(sl_copies *c, int slot) {
    const sl_device_ops *d = c->m->device;
    const size_t at = (size_t)slot * c->bytes;
    SL_TRY(
        d->copy(c->m->be, SL_STREAM_H2D, (char *)c->device + at, (char *)c->host + at, c->bytes));
    return d->record(c->m->be, SL_STREAM_H2D, c->done[slot]);
}

sl_status sl_copies_poll(sl_copies *c) {
    for (int i = 0; c->bytes > 0 && i < SL_COPIES_AT_ONCE; i++) {
        int done = 0;
        SL_TRY(c->m->device->is_done(c->m->be, c->done[i], &done));
        if (!done) continue;
        c->copied_bytes += (double)c->bytes;
        SL_TRY(queue_copy(c, i));
    }
    return SL_OK;
}

void sl_copies_close(sl_copies *c) {
    if (!c->m) return;
    const sl_device_ops *d = c->m->device;
    (void)d->drain(c->m->be);
    for (int i = 0; i < SL_COPIES_AT_ONCE; i++)
        if (c->done[i]) d->event_close(c->m->be, c->done[i]);
    sl_measure_put(c->m, c->device);
    sl_pinned_put(&c->m->pinned, c->host);
    *c = (sl_copies){0};
}

sl_status sl_copies_open(sl_measure *m, sl_copies *c) {
    *c = (sl_copies){.m = m, .bytes = COPY_BYTES};
    const size_t host_room = sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host);
    const size_t room = host_room < sl_measure_room(m) ? host_room : sl_measure_room(m);
    while (c->bytes > LEAST_BYTES && 2 * SL_COPIES_AT_ONCE * c->bytes > room) c->bytes /= 4;
    SL_TRY(sl_pinned_take(&m->pinned, SL_COPIES_AT_ONCE * c->bytes, "copies", &c->host));
    SL_TRY(sl_measure_take(m, SL_COPIES_AT_ONCE * c->bytes, "copies", &c->device));
    for (int i = 0; i < SL_COPIES_AT_ONCE; i++) {
        SL_TRY(m->device->event_open(m->be, &c->done[i]));
        SL_TRY(queue_copy(c, i));
    }
    return SL_OK;
}
