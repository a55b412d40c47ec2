#include "measure_dram.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "measure_copies.h"

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

/* ---- one number ---- */

static double sum_of(reader *readers, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (double)atomic_load_explicit(&readers[i].read_bytes, memory_order_relaxed);
    return sum;
}

/* What n threads read, and what is copied meanwhile. */
static sl_status watch(reader *readers, int n, sl_copies *c, double seconds, double *bps_out) {
    enum { WARM, TIMED, PHASES };
    const double phase_s[PHASES] = {seconds / 4, seconds};
    double bytes = 0.0, start_s = 0.0;
    for (int phase = WARM; phase < PHASES; phase++) {
        start_s = sl_clock_s();
        bytes = sum_of(readers, n) + c->copied_bytes;
        /* On a busy machine the readers may have to wait for a processor first. */
        while (sl_clock_s() - start_s < phase_s[phase] ||
               sum_of(readers, n) + c->copied_bytes == bytes) {
            SL_TRY(sl_copies_poll(c));
            sl_clock_sleep(100e-6);
        }
    }
    *bps_out = (sum_of(readers, n) + c->copied_bytes - bytes) / (sl_clock_s() - start_s);
    return SL_OK;
}

static sl_status read_with(sl_measure *m, const char *memory, size_t bytes, int n, sl_copies *c,
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
    sl_copies none = {0};
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
    sl_copies c;
    sl_status st = sl_copies_open(m, &c);
    if (st == SL_OK)
        st = read_with(m, memory, bytes, m->opt->n_threads, &c, &p->dram_beside_h2d_bps);
    sl_copies_close(&c);
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
