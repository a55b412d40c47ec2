#include "sim/sim_device.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "sim/sim_cost.h"

enum { TAKE_ALIGN = 4096 }; /* what the system maps, and more than what is promised */

typedef struct {
    char *memory;
    size_t bytes;
} taken;

struct sl_sim_device {
    sl_sim *sim;
    int rank;
    size_t budget_bytes, used_bytes, peak_bytes;
    taken *all; /* [n] */
    size_t n, capacity;
};

struct sl_event {
    sl_sim_mark mark;
};

sl_status sl_sim_device_open(sl_sim *sim, int rank, size_t budget_bytes, sl_sim_device **out) {
    sl_sim_device *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "simulated device: out of host memory");
    d->sim = sim;
    d->rank = rank;
    d->budget_bytes = budget_bytes;
    *out = d;
    return SL_OK;
}

void sl_sim_device_close(sl_sim_device *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n; i++) (void)munmap(d->all[i].memory, d->all[i].bytes);
    free(d->all);
    free(d);
}

/* ---- memory ---- */

static sl_status over_budget(const sl_sim_device *d, size_t bytes, const char *what) {
    char want[32], used[32], budget[32];
    return SL_FAIL(SL_ERR_NOMEM, "gpu tier: %s needs %s, but %s of the budget of %s are in use",
                   what, sl_bytes_format(bytes, want, sizeof want),
                   sl_bytes_format(d->used_bytes, used, sizeof used),
                   sl_bytes_format(d->budget_bytes, budget, sizeof budget));
}

static sl_status take(struct sl_backend *be, size_t bytes, const char *what, void **out) {
    sl_sim_device *d = sl_sim_device_of(be);
    size_t room;
    SL_TRY(sl_size_add(bytes, TAKE_ALIGN - 1, &room));
    room &= ~(size_t)(TAKE_ALIGN - 1);
    if (room == 0 || room > d->budget_bytes - d->used_bytes) return over_budget(d, room, what);
    if (d->n == d->capacity) {
        const size_t more = d->capacity ? 2 * d->capacity : 64;
        taken *all = realloc(d->all, more * sizeof *all);
        if (!all) return SL_FAIL(SL_ERR_NOMEM, "simulated device: out of host memory for %s", what);
        d->all = all;
        d->capacity = more;
    }
    char *memory = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return SL_FAIL(SL_ERR_NOMEM, "simulated device: no %zu addresses for %s", room, what);
    d->all[d->n++] = (taken){memory, room};
    d->used_bytes += room;
    if (d->used_bytes > d->peak_bytes) d->peak_bytes = d->used_bytes;
    *out = memory;
    return SL_OK;
}

static void put(struct sl_backend *be, void *memory) {
    sl_sim_device *d = sl_sim_device_of(be);
    for (size_t i = 0; memory && i < d->n; i++) {
        if (d->all[i].memory != memory) continue;
        (void)munmap(memory, d->all[i].bytes);
        d->used_bytes -= d->all[i].bytes;
        d->all[i] = d->all[--d->n];
        return;
    }
}

static size_t budget_bytes(const struct sl_backend *be) {
    return sl_sim_device_of(be)->budget_bytes;
}

static size_t used_bytes(const struct sl_backend *be) {
    return sl_sim_device_of(be)->used_bytes;
}

static size_t peak_bytes(const struct sl_backend *be) {
    return sl_sim_device_of(be)->peak_bytes;
}

static sl_status pin(struct sl_backend *be, void *host, size_t bytes) {
    (void)be;
    return host && bytes ? SL_OK : SL_FAIL(SL_ERR_ARG, "simulated device: pin %zu bytes", bytes);
}

static void unpin(struct sl_backend *be, void *host) {
    (void)be;
    (void)host;
}

static int numa_node(const struct sl_backend *be) {
    (void)be;
    return -1;
}

static int is_here(const sl_sim_device *d, const void *at) {
    for (size_t i = 0; i < d->n; i++)
        if ((const char *)at >= d->all[i].memory &&
            (const char *)at < d->all[i].memory + d->all[i].bytes)
            return 1;
    return 0;
}

/* ---- streams ---- */

static sl_status copy(struct sl_backend *be, sl_stream stream, void *dst, const void *src,
                      size_t bytes) {
    sl_sim_device *d = sl_sim_device_of(be);
    sl_sim_machine *m = sl_sim_machine_of(d->sim, d->rank);
    const sl_sim_rates *rates = sl_sim_machine_rates(m);
    int to_device =
        stream == SL_STREAM_H2D || stream == SL_STREAM_ANSWER || stream == SL_STREAM_WIRE_IN;
    if (bytes == 0) return SL_OK;
    if (stream == SL_STREAM_COMPUTE || stream == SL_STREAM_H2D) {
        to_device = is_here(d, dst);
        if (to_device && is_here(d, src)) {
            const sl_sim_load within = {.seconds = sl_sim_memory_s(rates, 2.0 * (double)bytes)};
            return sl_sim_machine_work(m, stream, &within);
        }
    }
    const sl_sim_load load = sl_sim_copy(rates, to_device, (double)bytes);
    return sl_sim_machine_work(m, stream, &load);
}

static sl_status drain(struct sl_backend *be) {
    sl_sim_device *d = sl_sim_device_of(be);
    for (int s = 0; s < SL_STREAM_COUNT; s++) {
        if (s == SL_STREAM_WIRE_IN || s == SL_STREAM_WIRE_OUT) continue;
        sl_sim_mark mark;
        sl_sim_mark_init(&mark, d->rank, -1);
        SL_TRY(sl_sim_machine_mark(sl_sim_machine_of(d->sim, d->rank), s, &mark));
        SL_TRY(sl_sim_wait_mark(d->sim, d->rank, &mark, "its device"));
    }
    return SL_OK;
}

static sl_status event_open(struct sl_backend *be, sl_event **out) {
    const sl_sim_device *d = sl_sim_device_of(be);
    sl_event *e = calloc(1, sizeof *e);
    if (!e) return SL_FAIL(SL_ERR_NOMEM, "simulated device: out of host memory for an event");
    sl_sim_mark_init(&e->mark, d->rank, -1);
    *out = e;
    return SL_OK;
}

static void event_close(struct sl_backend *be, sl_event *e) {
    (void)be;
    free(e);
}

static sl_status record(struct sl_backend *be, sl_stream stream, sl_event *e) {
    sl_sim_device *d = sl_sim_device_of(be);
    return sl_sim_machine_mark(sl_sim_machine_of(d->sim, d->rank), stream, &e->mark);
}

static sl_status wait(struct sl_backend *be, sl_stream stream, sl_event *e) {
    sl_sim_device *d = sl_sim_device_of(be);
    return sl_sim_machine_wait(sl_sim_machine_of(d->sim, d->rank), stream, &e->mark);
}

static sl_status is_done(struct sl_backend *be, sl_event *e, int *done_out) {
    (void)be;
    *done_out = sl_sim_mark_is_reached(&e->mark);
    return SL_OK;
}

static sl_status elapsed(struct sl_backend *be, sl_event *from, sl_event *to, double *seconds_out) {
    (void)be;
    *seconds_out = to->mark.at_s - from->mark.at_s;
    return SL_OK;
}

const sl_device_ops sl_sim_device_ops = {
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
    .event_open = event_open,
    .event_close = event_close,
    .record = record,
    .wait = wait,
    .is_done = is_done,
    .elapsed = elapsed,
};
