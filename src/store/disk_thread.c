/* The engine for systems without io_uring: a few threads that read and write at positions. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/disk_impl.h"

/* One request at a time leaves a disk idle between two; four of 1 MiB keep it busy. */
enum { N_THREADS = 4 };

/* A circle of requests. */
typedef struct {
    sl_disk_request **at; /* [depth] */
    int first, n;
} queue;

typedef struct {
    int fd;
    int depth;
    pthread_mutex_t mutex; /* of all that follows */
    pthread_cond_t wanted, ended;
    queue todo, done;
    int n_under_way; /* submitted and not yet reaped */
    int stop;
    int n_threads;
    pthread_t threads[N_THREADS];
} pool;

static void push(queue *q, int depth, sl_disk_request *request) {
    q->at[(q->first + q->n) % depth] = request;
    q->n++;
}

static sl_disk_request *pop(queue *q, int depth) {
    sl_disk_request *request = q->at[q->first];
    q->first = (q->first + 1) % depth;
    q->n--;
    return request;
}

static void *work(void *arg) {
    pool *p = arg;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (p->todo.n == 0 && !p->stop) pthread_cond_wait(&p->wanted, &p->mutex);
        if (p->todo.n == 0) break;
        sl_disk_request *r = pop(&p->todo, p->depth);
        pthread_mutex_unlock(&p->mutex);
        const ssize_t moved = r->is_write ? pwrite(p->fd, r->buf, r->bytes, (off_t)r->offset)
                                          : pread(p->fd, r->buf, r->bytes, (off_t)r->offset);
        r->result = moved < 0 ? -errno : moved;
        pthread_mutex_lock(&p->mutex);
        push(&p->done, p->depth, r);
        pthread_cond_signal(&p->ended);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static void close_pool(void *engine) {
    pool *p = engine;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    p->stop = 1;
    pthread_cond_broadcast(&p->wanted);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ended);
    pthread_cond_destroy(&p->wanted);
    pthread_mutex_destroy(&p->mutex);
    free(p->done.at);
    free(p->todo.at);
    free(p);
}

static sl_status open_pool(int fd, int depth, int is_direct, void **out) {
    (void)is_direct;
    sl_status st = SL_OK;
    pool *p = calloc(1, sizeof *p);
    if (!p) return SL_FAIL(SL_ERR_NOMEM, "disk threads: out of host memory");
    /* With default attributes none of the three can fail on Linux. */
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wanted, NULL);
    pthread_cond_init(&p->ended, NULL);
    p->fd = fd;
    p->depth = depth;
    p->todo.at = calloc((size_t)depth, sizeof *p->todo.at);
    p->done.at = calloc((size_t)depth, sizeof *p->done.at);
    if (!p->todo.at || !p->done.at) {
        st = SL_FAIL(SL_ERR_NOMEM, "disk threads: out of host memory");
        goto fail;
    }
    /* Signals are for the threads that the program made itself. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = 0;
    while (p->n_threads < N_THREADS && err == 0) {
        err = pthread_create(&p->threads[p->n_threads], NULL, work, p);
        if (err == 0) p->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->n_threads == 0) {
        st = SL_FAIL(SL_ERR_IO, "disk threads: cannot start one: %s", strerror(err));
        goto fail;
    }
    *out = p;
    return SL_OK;

fail:
    close_pool(p);
    return st;
}

static void submit(void *engine, sl_disk_request *request) {
    pool *p = engine;
    pthread_mutex_lock(&p->mutex);
    push(&p->todo, p->depth, request);
    p->n_under_way++;
    pthread_cond_signal(&p->wanted);
    pthread_mutex_unlock(&p->mutex);
}

static void flush(void *engine) {
    (void)engine; /* submitting has woken a thread */
}

static sl_disk_request *reap(void *engine, int wait) {
    pool *p = engine;
    sl_disk_request *request = NULL;
    pthread_mutex_lock(&p->mutex);
    while (wait && p->done.n == 0 && p->n_under_way > 0) pthread_cond_wait(&p->ended, &p->mutex);
    if (p->done.n > 0) {
        request = pop(&p->done, p->depth);
        p->n_under_way--;
    }
    pthread_mutex_unlock(&p->mutex);
    return request;
}

const sl_disk_engine_ops sl_disk_threads = {
    .name = "threads",
    .open = open_pool,
    .close = close_pool,
    .submit = submit,
    .flush = flush,
    .reap = reap,
};
