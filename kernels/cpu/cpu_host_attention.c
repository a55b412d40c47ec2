#include "cpu/cpu_host_attention.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/cpu_choose.h"
#include "cpu/cpu_host_job.h"

/* Polls before the driver sleeps: some 10 to 50 microseconds, as the team's threads. */
enum { POLLS = 1000 };

/* A job and what became of it.  The caller writes the job before it raises n_started, the driver
 * the rest before it raises n_done. */
typedef struct {
    sl_host_job job;
    sl_status status;
    char message[256];
    double start_s, end_s;
} place;

typedef struct {
    sl_host_attention base; /* first: both have the same address */
    sl_cpu_host host;       /* the driver's, once it runs */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t driver;
    int has_driver;
    /* Job t, counted from 1, is in place t % SL_HOST_JOBS.  Jobs end in the order in which they
     * were started, so two numbers say which ones are under way. */
    atomic_uint_fast64_t n_started, n_done;
    atomic_int is_asleep, ending;
    place place[SL_HOST_JOBS];
    sl_host_stats stats; /* under the lock */
} queue;

static inline void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- the driver ---- */

static int has_news(queue *q, uint64_t n_done) {
    return atomic_load(&q->n_started) != n_done || atomic_load(&q->ending);
}

static void wait_for_news(queue *q, uint64_t n_done) {
    for (int i = 0; i < POLLS; i++) {
        if (has_news(q, n_done)) return;
        cpu_pause();
    }
    /* Who brings news raises a number, then looks at is_asleep; here it is the other way round: one
     * of the two sees the other. */
    pthread_mutex_lock(&q->lock);
    atomic_store(&q->is_asleep, 1);
    while (!has_news(q, n_done)) pthread_cond_wait(&q->wake, &q->lock);
    atomic_store(&q->is_asleep, 0);
    pthread_mutex_unlock(&q->lock);
}

static void wake_driver(queue *q) {
    if (!atomic_load(&q->is_asleep)) return;
    pthread_mutex_lock(&q->lock);
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

static void run_job(queue *q, place *p) {
    uint64_t bytes = 0;
    p->start_s = sl_clock_s();
    p->status = sl_cpu_host_run(&q->host, &p->job, &bytes);
    if (p->status != SL_OK) {
        strncpy(p->message, sl_error_message(), sizeof p->message - 1);
        p->message[sizeof p->message - 1] = '\0';
    }
    p->end_s = sl_clock_s();
    pthread_mutex_lock(&q->lock);
    q->stats.page_bytes_read += bytes;
    q->stats.busy_s += p->end_s - p->start_s;
    pthread_mutex_unlock(&q->lock);
}

static void *drive(void *argument) {
    queue *q = argument;
    for (uint64_t n_done = 0;;) {
        wait_for_news(q, n_done);
        if (atomic_load(&q->n_started) == n_done) return NULL; /* ending, and nothing is left */
        run_job(q, &q->place[(n_done + 1) % SL_HOST_JOBS]);
        atomic_store_explicit(&q->n_done, ++n_done, memory_order_release);
    }
}

/* ---- the table ---- */

static void queue_close(sl_host_attention *ha) {
    queue *q = (queue *)ha;
    if (q->has_driver) {
        atomic_store(&q->ending, 1);
        wake_driver(q);
        pthread_join(q->driver, NULL);
    }
    sl_cpu_team_close(q->host.team);
    free(q->host.own.data);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static sl_status queue_start(sl_host_attention *ha, const sl_host_job *job, uint64_t *ticket_out) {
    queue *q = (queue *)ha;
    if (!job || !ticket_out)
        return SL_FAIL(SL_ERR_ARG, "host attention: no job or nowhere to put its ticket");
    SL_TRY(sl_cpu_host_check(job));
    const uint64_t ticket = atomic_load_explicit(&q->n_started, memory_order_relaxed) + 1;
    const uint64_t n_done = atomic_load_explicit(&q->n_done, memory_order_acquire);
    if (ticket - n_done > SL_HOST_JOBS)
        return SL_FAIL(SL_ERR_NOMEM, "host attention: %d jobs are under way already",
                       (int)SL_HOST_JOBS);
    q->place[ticket % SL_HOST_JOBS] = (place){.job = *job};
    atomic_store(&q->n_started, ticket);
    wake_driver(q);
    *ticket_out = ticket;
    return SL_OK;
}

static sl_status queue_is_done(sl_host_attention *ha, uint64_t ticket, int *done_out,
                               double *start_s, double *end_s) {
    queue *q = (queue *)ha;
    const uint64_t n_started = atomic_load_explicit(&q->n_started, memory_order_relaxed);
    if (!done_out || ticket < 1 || ticket > n_started || n_started - ticket >= SL_HOST_JOBS)
        return SL_FAIL(
            SL_ERR_ARG, "host attention: ticket %llu of %llu, of which the last %d are known",
            (unsigned long long)ticket, (unsigned long long)n_started, (int)SL_HOST_JOBS);
    if (atomic_load_explicit(&q->n_done, memory_order_acquire) < ticket) {
        *done_out = 0;
        return SL_OK;
    }
    const place *p = &q->place[ticket % SL_HOST_JOBS];
    if (p->status != SL_OK) return sl_fail_text(p->status, p->message);
    *done_out = 1;
    if (start_s) *start_s = p->start_s;
    if (end_s) *end_s = p->end_s;
    return SL_OK;
}

static void queue_get_stats(const sl_host_attention *ha, sl_host_stats *out) {
    queue *q = (queue *)(uintptr_t)ha; /* the lock changes, what it guards does not */
    pthread_mutex_lock(&q->lock);
    *out = q->stats;
    pthread_mutex_unlock(&q->lock);
}

static const sl_host_attention_ops queue_ops = {.close = queue_close,
                                                .start = queue_start,
                                                .is_done = queue_is_done,
                                                .get_stats = queue_get_stats};

static sl_status start_driver(queue *q) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int err = pthread_create(&q->driver, NULL, drive, q);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0)
        return SL_FAIL(SL_ERR_NOMEM, "host attention: cannot start its thread: %s", strerror(err));
    q->has_driver = 1;
    return SL_OK;
}

sl_status sl_cpu_host_attention_open(const sl_cpu_host_options *options, sl_host_attention **out) {
    if (!options || !out) return SL_FAIL(SL_ERR_ARG, "host attention: no options or no result");
    if (options->n_threads < 0)
        return SL_FAIL(SL_ERR_ARG, "host attention: %d threads", options->n_threads);
    const sl_cpu_kernels *kernels = NULL;
    SL_TRY(sl_cpu_choose_kernels(options->simd, &kernels));

    sl_status st = SL_OK;
    queue *q = calloc(1, sizeof *q);
    if (!q) return SL_FAIL(SL_ERR_NOMEM, "host attention: no %zu bytes for its state", sizeof *q);
    q->base.ops = &queue_ops;
    pthread_mutex_init(&q->lock, NULL); /* these two cannot fail on Linux */
    pthread_cond_init(&q->wake, NULL);
    q->host.n_threads = sl_cpu_choose_threads(options->n_threads);
    q->host.kernels = kernels;
    q->host.host = sl_cpu_choose_host_kernels(kernels);
    SL_GO(sl_cpu_team_open(q->host.n_threads, &q->host.team));
    SL_GO(start_driver(q)); /* the driver is the team's first thread */
    *out = &q->base;
    return SL_OK;

fail:
    queue_close(&q->base);
    return st;
}

int sl_cpu_host_attention_threads(const sl_host_attention *ha) {
    return ((const queue *)ha)->host.n_threads;
}

const char *sl_cpu_host_attention_simd(const sl_host_attention *ha) {
    return ((const queue *)ha)->host.kernels->name;
}
