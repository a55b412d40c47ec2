#include "cpu/cpu_team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A job's door: open or shut, and how many threads are inside.  A thread enters only while it is
 * open; the caller shuts it and waits until those inside have left, so no thread is ever in a job
 * whose caller has returned. */
enum { DOOR_OPEN = 1 << 30 };

/* Polls before sleeping: a pause takes 40 to 140 cycles, so some 10 to 50 microseconds. */
enum { POLLS = 1000 };

typedef struct {
    sl_cpu_team *team;
    pthread_t thread;
    int number; /* 1 .. n_threads - 1 */
} worker;

struct sl_cpu_team {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int n_workers; /* started */
    worker *workers;
    atomic_uint n_jobs; /* posted so far; also raised to end the threads */
    atomic_int n_asleep;
    atomic_int ending;
    atomic_int door;
    /* The job; written while the door is shut and nobody is inside. */
    atomic_int next_item;
    int n_items;
    sl_cpu_item *compute;
    void *context;
};

static inline void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_items(sl_cpu_team *team, int thread) {
    const int n_items = team->n_items;
    for (;;) {
        const int item = atomic_fetch_add_explicit(&team->next_item, 1, memory_order_relaxed);
        if (item >= n_items) return;
        team->compute(team->context, item, thread);
    }
}

/* Returns the number of jobs posted once it differs from `seen`. */
static unsigned wait_for_job(sl_cpu_team *team, unsigned seen) {
    for (int i = 0; i < POLLS; i++) {
        const unsigned n = atomic_load_explicit(&team->n_jobs, memory_order_acquire);
        if (n != seen) return n;
        cpu_pause();
    }
    /* The poster raises n_jobs, then looks at n_asleep; here it is the other way round: one of the
     * two sees the other. */
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->n_asleep, 1);
    while (atomic_load(&team->n_jobs) == seen) pthread_cond_wait(&team->wake, &team->lock);
    atomic_fetch_sub(&team->n_asleep, 1);
    pthread_mutex_unlock(&team->lock);
    return atomic_load(&team->n_jobs);
}

static int enter(sl_cpu_team *team) {
    int door = atomic_load_explicit(&team->door, memory_order_relaxed);
    while (door & DOOR_OPEN)
        if (atomic_compare_exchange_weak_explicit(&team->door, &door, door + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return 1;
    return 0;
}

static void *work(void *argument) {
    worker *self = argument;
    sl_cpu_team *team = self->team;
    for (unsigned seen = 0;;) {
        seen = wait_for_job(team, seen);
        if (atomic_load(&team->ending)) return NULL;
        if (!enter(team)) continue; /* came too late */
        take_items(team, self->number);
        atomic_fetch_sub_explicit(&team->door, 1, memory_order_release);
    }
}

static void announce(sl_cpu_team *team) {
    atomic_fetch_add(&team->n_jobs, 1);
    if (atomic_load(&team->n_asleep) == 0) return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

void sl_cpu_team_run(sl_cpu_team *team, int n_items, sl_cpu_item *compute, void *context) {
    if (team->n_workers == 0 || n_items <= 1) {
        for (int i = 0; i < n_items; i++) compute(context, i, 0);
        return;
    }
    team->n_items = n_items;
    team->compute = compute;
    team->context = context;
    atomic_store_explicit(&team->next_item, 0, memory_order_relaxed);
    atomic_store_explicit(&team->door, DOOR_OPEN, memory_order_release);
    announce(team);
    take_items(team, 0);
    atomic_fetch_and_explicit(&team->door, ~DOOR_OPEN, memory_order_acq_rel);
    /* Those inside have one item each to end; if the system has stopped one of them, it may have
     * this processor. */
    for (int i = 0; atomic_load_explicit(&team->door, memory_order_acquire) != 0; i++) {
        if (i < POLLS)
            cpu_pause();
        else
            sched_yield();
    }
}

sl_status sl_cpu_team_open(int n_threads, sl_cpu_team **out) {
    if (n_threads < 1) return SL_FAIL(SL_ERR_ARG, "a team of %d threads", n_threads);
    sl_cpu_team *team = calloc(1, sizeof *team);
    worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (!team || !workers) {
        free(workers);
        free(team);
        return SL_FAIL(SL_ERR_NOMEM, "no memory for a team of %d threads", n_threads);
    }
    team->workers = workers;
    pthread_mutex_init(&team->lock, NULL); /* these two cannot fail on Linux */
    pthread_cond_init(&team->wake, NULL);

    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = 0;
    for (int i = 1; i < n_threads && err == 0; i++) {
        worker *w = &workers[i - 1];
        *w = (worker){.team = team, .number = i};
        err = pthread_create(&w->thread, NULL, work, w);
        if (err == 0) team->n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        const sl_status st = SL_FAIL(SL_ERR_NOMEM, "cpu backend: cannot start thread %d of %d: %s",
                                     team->n_workers + 1, n_threads, strerror(err));
        sl_cpu_team_close(team);
        return st;
    }
    *out = team;
    return SL_OK;
}

void sl_cpu_team_close(sl_cpu_team *team) {
    if (!team) return;
    atomic_store(&team->ending, 1);
    announce(team);
    for (int i = 0; i < team->n_workers; i++) pthread_join(team->workers[i].thread, NULL);
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->lock);
    free(team->workers);
    free(team);
}
