#include "measure_dram.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Four streams a thread, as attention reads keys and values of some heads; a step of all of them is
 * some 20 microseconds, so that the count is never far behind. */
enum { N_STREAMS = 4, STEP_BYTES = 64 << 10, LINE_BYTES = 64 };

typedef uint64_t words __attribute__((vector_size(16)));

typedef struct {
    _Alignas(LINE_BYTES) atomic_ullong read_bytes; /* so far */
    const char *memory;                            /* [N_STREAMS * stream_bytes] */
    size_t stream_bytes;                           /* a multiple of STEP_BYTES */
    const atomic_int *stop;
    pthread_t thread;
    words sum; /* keeps the loads from being left out */
} reader;

static words read_step(const char *at, size_t stream_bytes) {
    words sum[N_STREAMS] = {0};
    for (size_t i = 0; i < STEP_BYTES; i += LINE_BYTES)
        for (int s = 0; s < N_STREAMS; s++) {
            const words *line = (const void *)(at + (size_t)s * stream_bytes + i);
            sum[s] += line[0] ^ line[1] ^ line[2] ^ line[3];
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static void *read_on(void *context) {
    reader *r = context;
    size_t at = 0;
    while (!atomic_load_explicit(r->stop, memory_order_relaxed)) {
        r->sum ^= read_step(r->memory + at, r->stream_bytes);
        atomic_fetch_add_explicit(&r->read_bytes, N_STREAMS * STEP_BYTES, memory_order_relaxed);
        at = at + STEP_BYTES < r->stream_bytes ? at + STEP_BYTES : 0;
    }
    return NULL;
}

/* ---- copies beside ---- */

enum { COPIES = 4, COPY_BYTES = 16 << 20 };

typedef struct {
    sl_measure *m;
    void *host, *device; /* [COPIES * bytes] */
    size_t bytes;        /* of one; 0: no copies */
    sl_event *done[COPIES];
    double copied_bytes; /* so far */
} copier;

static sl_status copier_queue(copier *c, int slot) {
    const sl_device_ops *d = c->m->device;
    const size_t at = (size_t)slot * c->bytes;
    SL_TRY(
        d->copy(c->m->be, SL_STREAM_H2D, (char *)c->device + at, (char *)c->host + at, c->bytes));
    return d->record(c->m->be, SL_STREAM_H2D, c->done[slot]);
}

/* Queues again what is done. */
static sl_status copier_poll(copier *c) {
    for (int i = 0; c->bytes > 0 && i < COPIES; i++) {
        int done = 0;
        SL_TRY(c->m->device->is_done(c->m->be, c->done[i], &done));
        if (!done) continue;
        c->copied_bytes += (double)c->bytes;
        SL_TRY(copier_queue(c, i));
    }
    return SL_OK;
}

static void copier_close(copier *c) {
    const sl_device_ops *d = c->m->device;
    if (!d) return;
    (void)d->drain(c->m->be);
    for (int i = 0; i < COPIES; i++)
        if (c->done[i]) d->event_close(c->m->be, c->done[i]);
    sl_measure_put(c->m, c->device);
    sl_pinned_put(&c->m->pinned, c->host);
}

static sl_status copier_open(sl_measure *m, copier *c) {
    *c = (copier){.m = m, .bytes = COPY_BYTES};
    const size_t host_room = sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host);
    while (c->bytes > 4096 && 2 * COPIES * c->bytes >
                                  (host_room < sl_measure_room(m) ? host_room : sl_measure_room(m)))
        c->bytes /= 4;
    SL_TRY(sl_pinned_take(&m->pinned, COPIES * c->bytes, "copies", &c->host));
    SL_TRY(sl_measure_take(m, COPIES * c->bytes, "copies", &c->device));
    for (int i = 0; i < COPIES; i++) {
        SL_TRY(m->device->event_open(m->be, &c->done[i]));
        SL_TRY(copier_queue(c, i));
    }
    return SL_OK;
}

/* ---- one number ---- */

static double sum_of(reader *readers, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (double)atomic_load_explicit(&readers[i].read_bytes, memory_order_relaxed);
    return sum;
}

/* What n threads read, and what is copied meanwhile. */
static sl_status watch(reader *readers, int n, copier *c, double seconds, double *bps_out) {
    enum { WARM, TIMED, PHASES };
    const double phase_s[PHASES] = {seconds / 4, seconds};
    double bytes = 0.0, start_s = 0.0;
    for (int phase = WARM; phase < PHASES; phase++) {
        start_s = sl_clock_s();
        bytes = sum_of(readers, n) + c->copied_bytes;
        /* On a busy machine the readers may have to wait for a processor first. */
        while (sl_clock_s() - start_s < phase_s[phase] ||
               sum_of(readers, n) + c->copied_bytes == bytes) {
            SL_TRY(copier_poll(c));
            sl_clock_sleep(100e-6);
        }
    }
    *bps_out = (sum_of(readers, n) + c->copied_bytes - bytes) / (sl_clock_s() - start_s);
    return SL_OK;
}

static sl_status read_with(sl_measure *m, const char *memory, size_t bytes, int n, copier *c,
                           double *bps_out) {
    sl_status st = SL_OK;
    atomic_int stop = 0;
    int n_started = 0;
    const size_t share = bytes / (size_t)n / N_STREAMS / STEP_BYTES * STEP_BYTES;
    reader *readers = aligned_alloc(LINE_BYTES, (size_t)n * sizeof *readers);
    if (!readers) return SL_FAIL(SL_ERR_NOMEM, "%d threads: out of host memory", n);
    memset(readers, 0, (size_t)n * sizeof *readers);
    for (; n_started < n; n_started++) {
        reader *r = &readers[n_started];
        r->memory = memory + (size_t)n_started * N_STREAMS * share;
        r->stream_bytes = share;
        r->stop = &stop;
        const int err = pthread_create(&r->thread, NULL, read_on, r);
        if (err != 0) {
            st = SL_FAIL(SL_ERR_NOMEM, "start thread %d of %d: %s", n_started, n, strerror(err));
            break;
        }
    }
    if (st == SL_OK) st = watch(readers, n, c, m->opt->sample_s, bps_out);
    atomic_store(&stop, 1);
    for (int i = 0; i < n_started; i++) pthread_join(readers[i].thread, NULL);
    free(readers);
    return st;
}

static sl_status read_by_threads(sl_measure *m, const char *memory, size_t bytes, sl_profile *p) {
    const int most = m->opt->n_threads;
    copier none = {0};
    for (int n = 1;; n = 2 * n < most ? 2 * n : most) {
        SL_TRY(read_with(m, memory, bytes, n, &none, &p->dram_bps));
        p->dram_bps = sl_measure_round(p->dram_bps);
        if (p->dram_threads_bps.n < SL_CURVE_MAX)
            SL_TRY(sl_curve_add(&p->dram_threads_bps, n, p->dram_bps));
        sl_measure_point(m, n, 2 * most);
        if (n == most) return SL_OK;
    }
}

static sl_status read_beside_copies(sl_measure *m, const char *memory, size_t bytes,
                                    sl_profile *p) {
    copier c;
    sl_status st = copier_open(m, &c);
    if (st == SL_OK)
        st = read_with(m, memory, bytes, m->opt->n_threads, &c, &p->dram_beside_h2d_bps);
    copier_close(&c);
    p->dram_beside_h2d_bps = sl_measure_round(p->dram_beside_h2d_bps);
    return st;
}

sl_status sl_measure_dram(sl_measure *m, sl_profile *profile) {
    enum { MOST_BYTES = 1 << 30 }; /* many times what a cache holds */
    const size_t least = (size_t)m->opt->n_threads * N_STREAMS * STEP_BYTES;
    size_t bytes = (sl_tier_budget_bytes(m->host) - sl_tier_used_bytes(m->host)) / 2;
    void *memory = NULL;
    if (bytes > MOST_BYTES) bytes = MOST_BYTES;
    if (bytes < least) bytes = least;
    SL_TRY(sl_tier_take_touched(m->host, bytes, "reading host memory", &memory));
    sl_status st = read_by_threads(m, memory, bytes, profile);
    if (st == SL_OK && m->device) {
        st = read_beside_copies(m, memory, bytes, profile);
    } else {
        profile->dram_beside_h2d_bps = profile->dram_bps;
    }
    sl_tier_put(m->host, memory);
    return st;
}
