#include "cpu/cpu_device.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"

enum { MAX_TAKEN = 4096, POLLS_BEFORE_DONE = 3, TAKE_ALIGN = 256 };

typedef struct {
    void *dst;
    const void *src;
    size_t bytes;
} held_copy;

/* Copies that are held back, in order. */
typedef struct {
    held_copy *copy;
    size_t n, capacity;
    uint64_t n_queued, n_done; /* since open */
} held_stream;

struct sl_event {
    sl_stream stream;
    uint64_t after; /* copies of the stream that were queued when it was recorded */
    int n_polls;
    double at_s;
};

struct sl_cpu_device {
    size_t budget_bytes, used_bytes, peak_bytes;
    struct {
        void *memory;
        size_t bytes;
    } taken[MAX_TAKEN];
    int n_taken;
    held_stream stream[SL_STREAM_COUNT];
};

sl_status sl_cpu_device_open(size_t budget_bytes, sl_cpu_device **out) {
    if (budget_bytes == 0) return SL_FAIL(SL_ERR_ARG, "cpu device: a memory of zero bytes");
    sl_cpu_device *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "cpu device: out of host memory");
    d->budget_bytes = budget_bytes;
    *out = d;
    return SL_OK;
}

void sl_cpu_device_close(sl_cpu_device *d) {
    if (!d) return;
    for (int i = 0; i < d->n_taken; i++) free(d->taken[i].memory);
    for (int s = 0; s < SL_STREAM_COUNT; s++) free(d->stream[s].copy);
    free(d);
}

static sl_status take(struct sl_backend *be, size_t bytes, const char *what, void **out) {
    sl_cpu_device *d = sl_cpu_device_of(be);
    size_t room;
    SL_TRY(sl_size_add(bytes, TAKE_ALIGN - 1, &room));
    room &= ~(size_t)(TAKE_ALIGN - 1);
    if (room == 0 || room > d->budget_bytes - d->used_bytes) {
        char want[32], used[32], budget[32];
        return SL_FAIL(SL_ERR_NOMEM, "gpu tier: %s needs %s, but %s of the budget of %s are in use",
                       what, sl_bytes_format(bytes, want, sizeof want),
                       sl_bytes_format(d->used_bytes, used, sizeof used),
                       sl_bytes_format(d->budget_bytes, budget, sizeof budget));
    }
    void *memory = d->n_taken < MAX_TAKEN ? aligned_alloc(TAKE_ALIGN, room) : NULL;
    if (!memory) return SL_FAIL(SL_ERR_NOMEM, "cpu device: no %zu bytes for %s", room, what);
    memset(memory, 0xff, room); /* NaN in every float format: nothing may rely on zeros */
    d->taken[d->n_taken].memory = memory;
    d->taken[d->n_taken++].bytes = room;
    d->used_bytes += room;
    if (d->used_bytes > d->peak_bytes) d->peak_bytes = d->used_bytes;
    *out = memory;
    return SL_OK;
}

static void put(struct sl_backend *be, void *memory) {
    sl_cpu_device *d = sl_cpu_device_of(be);
    for (int i = 0; memory && i < d->n_taken; i++) {
        if (d->taken[i].memory != memory) continue;
        d->used_bytes -= d->taken[i].bytes;
        d->taken[i] = d->taken[--d->n_taken];
        free(memory);
        return;
    }
}

static size_t budget_bytes(const struct sl_backend *be) {
    return sl_cpu_device_of(be)->budget_bytes;
}

static size_t used_bytes(const struct sl_backend *be) {
    return sl_cpu_device_of(be)->used_bytes;
}

static size_t peak_bytes(const struct sl_backend *be) {
    return sl_cpu_device_of(be)->peak_bytes;
}

static sl_status pin(struct sl_backend *be, void *host, size_t bytes) {
    (void)be;
    return host && bytes ? SL_OK : SL_FAIL(SL_ERR_ARG, "cpu device: pin %zu bytes", bytes);
}

static void unpin(struct sl_backend *be, void *host) {
    (void)be;
    (void)host;
}

static int numa_node(const struct sl_backend *be) {
    (void)be;
    return -1;
}

/* Carries out the stream's copies up to number `until`. */
static void flush(held_stream *s, uint64_t until) {
    size_t n = 0;
    for (; n < s->n && s->n_done < until; n++, s->n_done++)
        memcpy(s->copy[n].dst, s->copy[n].src, s->copy[n].bytes);
    if (n == 0) return;
    memmove(s->copy, s->copy + n, (s->n - n) * sizeof *s->copy);
    s->n -= n;
}

static sl_status copy(struct sl_backend *be, sl_stream stream, void *dst, const void *src,
                      size_t bytes) {
    held_stream *s = &sl_cpu_device_of(be)->stream[stream];
    if (stream == SL_STREAM_COMPUTE) { /* operators compute at once, so do copies among them */
        memcpy(dst, src, bytes);
        return SL_OK;
    }
    if (s->n == s->capacity) {
        const size_t more = s->capacity ? 2 * s->capacity : 64;
        held_copy *grown = realloc(s->copy, more * sizeof *grown);
        if (!grown) return SL_FAIL(SL_ERR_NOMEM, "cpu device: out of host memory for a copy");
        s->copy = grown;
        s->capacity = more;
    }
    s->copy[s->n++] = (held_copy){dst, src, bytes};
    s->n_queued++;
    return SL_OK;
}

static sl_status drain(struct sl_backend *be) {
    sl_cpu_device *d = sl_cpu_device_of(be);
    for (int s = 0; s < SL_STREAM_COUNT; s++) flush(&d->stream[s], d->stream[s].n_queued);
    return SL_OK;
}

/* Any address will do: this device has no libraries of its own. */
static void *native_stream(struct sl_backend *be, sl_stream stream) {
    return &sl_cpu_device_of(be)->stream[stream];
}

static sl_status event_open(struct sl_backend *be, sl_event **out) {
    (void)be;
    sl_event *e = calloc(1, sizeof *e);
    if (!e) return SL_FAIL(SL_ERR_NOMEM, "cpu device: out of host memory for an event");
    *out = e;
    return SL_OK;
}

static void event_close(struct sl_backend *be, sl_event *e) {
    (void)be;
    free(e);
}

static sl_status record(struct sl_backend *be, sl_stream stream, sl_event *e) {
    *e = (sl_event){stream, sl_cpu_device_of(be)->stream[stream].n_queued, 0, sl_clock_s()};
    return SL_OK;
}

/* What comes on the stream from now on may rely on the event: carry out what is behind it.  A copy
 * stream that waits for operators finds them done; one that waits for the other copy stream has it
 * carried out now, which is early, but not too early. */
static sl_status wait(struct sl_backend *be, sl_stream stream, sl_event *e) {
    (void)stream;
    flush(&sl_cpu_device_of(be)->stream[e->stream], e->after);
    return SL_OK;
}

static sl_status is_done(struct sl_backend *be, sl_event *e, int *done_out) {
    held_stream *s = &sl_cpu_device_of(be)->stream[e->stream];
    if (++e->n_polls >= POLLS_BEFORE_DONE) flush(s, e->after);
    *done_out = s->n_done >= e->after;
    return SL_OK;
}

static sl_status elapsed(struct sl_backend *be, sl_event *from, sl_event *to, double *seconds_out) {
    (void)be;
    *seconds_out = to->at_s - from->at_s;
    return SL_OK;
}

const sl_device_ops sl_cpu_device_ops = {
    .take = take,
    .put = put,
    .budget_bytes = budget_bytes,
    .used_bytes = used_bytes,
    .peak_bytes = peak_bytes,
    .pin = pin,
    .unpin = unpin,
    .numa_node = numa_node,
    .copy = copy,
    .drain = drain,
    .native_stream = native_stream,
    .event_open = event_open,
    .event_close = event_close,
    .record = record,
    .wait = wait,
    .is_done = is_done,
    .elapsed = elapsed,
};
