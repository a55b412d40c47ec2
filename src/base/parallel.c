#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_THREADS = 64, MESSAGE_BYTES = 1024 };

typedef struct {
    sl_parallel_item *work;
    void *context;
    int n_items;
    atomic_int next;
    atomic_int stop;
    pthread_mutex_t lock; /* of what follows */
    int failed_item;      /* n_items: none */
    sl_status status;
    char message[MESSAGE_BYTES];
} loop;

static void *run(void *argument) {
    loop *l = argument;
    while (!atomic_load(&l->stop)) {
        const int item = atomic_fetch_add(&l->next, 1);
        if (item >= l->n_items) break;
        const sl_status st = l->work(l->context, item);
        if (st == SL_OK) continue;
        atomic_store(&l->stop, 1);
        pthread_mutex_lock(&l->lock);
        if (item < l->failed_item) {
            l->failed_item = item;
            l->status = st;
            snprintf(l->message, sizeof l->message, "%s", sl_error_message());
        }
        pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

static int allowed_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return CPU_COUNT(&set);
}

sl_status sl_parallel_for(int n_threads, int n_items, sl_parallel_item *work, void *context) {
    loop l = {.work = work, .context = context, .n_items = n_items, .failed_item = n_items};
    pthread_t thread[MAX_THREADS];
    if (n_threads <= 0) n_threads = allowed_processors();
    if (n_threads > n_items) n_threads = n_items;
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    pthread_mutex_init(&l.lock, NULL);
    int n_started = 0;
    /* Where no more threads are to be had the others do the work. */
    while (n_started < n_threads - 1 && pthread_create(&thread[n_started], NULL, run, &l) == 0)
        n_started++;
    run(&l);
    for (int i = 0; i < n_started; i++) pthread_join(thread[i], NULL);
    pthread_mutex_destroy(&l.lock);
    return l.status == SL_OK ? SL_OK : sl_fail_text(l.status, l.message);
}
