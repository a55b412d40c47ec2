#include "engine/executor.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

typedef enum { TASK_WAITING, TASK_RUNNING, TASK_DONE } task_state;

struct sl_executor {
    unsigned char *state; /* [capacity] task_state */
    sl_ticket *ticket;    /* [capacity] */
    int capacity;
};

/* Tasks of computation that are queued on the device at a time.  More do not make it faster, and
 * once the device's own queue of launches is full the next one blocks: then nobody looks after
 * wires, disks and the host's attention for as long as it takes. */
enum { MOST_AHEAD = 6 };

/* What it costs to see late that the device is done, against what looking costs those that share
 * the core. */
static const double LONGEST_PAUSE_S = 2e-5;

/* What one run carries from round to round. */
typedef struct {
    sl_executor *ex;
    const sl_sweep *sweep;
    const sl_task_runner *runner;
    int next[SL_QUEUE_COUNT];   /* first task of the queue that has not started */
    int oldest[SL_QUEUE_COUNT]; /* first task of the queue that is not done */
    int n_done;
    int n_computing; /* tasks of computation that are running */
} run_state;

sl_status sl_executor_open(sl_executor **out) {
    sl_executor *ex = calloc(1, sizeof *ex);
    if (!ex) return SL_FAIL(SL_ERR_NOMEM, "executor: out of host memory");
    *out = ex;
    return SL_OK;
}

void sl_executor_close(sl_executor *ex) {
    if (!ex) return;
    free(ex->state);
    free(ex->ticket);
    free(ex);
}

static sl_status reserve(sl_executor *ex, int n) {
    if (n <= ex->capacity) return SL_OK;
    unsigned char *state = realloc(ex->state, (size_t)n);
    if (state) ex->state = state;
    sl_ticket *ticket = realloc(ex->ticket, (size_t)n * sizeof *ticket);
    if (ticket) ex->ticket = ticket;
    if (!state || !ticket)
        return SL_FAIL(SL_ERR_NOMEM, "executor: out of host memory for %d tasks", n);
    ex->capacity = n;
    return SL_OK;
}

/* First task of `queue` at or after `from`, n_tasks if there is none. */
static int seek(const sl_sweep *s, sl_queue queue, int from) {
    while (from < s->n_tasks && s->task[from].queue != queue) from++;
    return from;
}

/* Whether the task may start: its dependencies are done, or the device will wait for them. */
static sl_status check_ready(const run_state *r, const sl_task *t, int *ready_out) {
    *ready_out = 0;
    for (int d = 0; d < t->n_deps; d++) {
        const int dep = t->dep[d];
        if (r->ex->state[dep] == TASK_WAITING) return SL_OK;
        if (r->ex->state[dep] == TASK_RUNNING && !r->runner->chain) return SL_OK;
    }
    for (int d = 0; d < t->n_deps; d++) {
        const int dep = t->dep[d];
        if (r->ex->state[dep] == TASK_DONE) continue;
        int chained = 0;
        SL_TRY(r->runner->chain(r->runner->context, t, &r->sweep->task[dep], r->ex->ticket[dep],
                                &chained));
        if (!chained) return SL_OK;
    }
    *ready_out = 1;
    return SL_OK;
}

/* Polls the queue's running tasks, in order, up to the first that is not done: they end in order,
 * or nearly so. */
static sl_status poll_queue(run_state *r, sl_queue queue, int *moved) {
    for (int i = r->oldest[queue]; i < r->next[queue]; i++) {
        if (r->sweep->task[i].queue != queue || r->ex->state[i] != TASK_RUNNING) continue;
        int done = 0;
        SL_TRY(r->runner->poll(r->runner->context, &r->sweep->task[i], r->ex->ticket[i], &done));
        if (!done) break;
        r->ex->state[i] = TASK_DONE;
        r->n_done++;
        r->n_computing -= queue == SL_QUEUE_COMPUTE;
        *moved = 1;
    }
    int *oldest = &r->oldest[queue];
    while (*oldest < r->next[queue] &&
           (r->sweep->task[*oldest].queue != queue || r->ex->state[*oldest] == TASK_DONE))
        (*oldest)++;
    return SL_OK;
}

/* Starts what the queue can start: all that is ready on the wires, one task of computation, so that
 * the wires are looked after between two of them. */
static sl_status start_queue(run_state *r, sl_queue queue, int *moved) {
    for (;;) {
        const int i = r->next[queue];
        if (i >= r->sweep->n_tasks) return SL_OK;
        if (queue == SL_QUEUE_COMPUTE && r->n_computing >= MOST_AHEAD) return SL_OK;
        int ready;
        SL_TRY(check_ready(r, &r->sweep->task[i], &ready));
        if (!ready) return SL_OK;
        sl_ticket ticket = 0;
        SL_TRY(r->runner->start(r->runner->context, &r->sweep->task[i], &ticket));
        r->ex->ticket[i] = ticket;
        r->ex->state[i] = ticket ? TASK_RUNNING : TASK_DONE;
        r->n_done += ticket == 0;
        r->n_computing += ticket != 0 && queue == SL_QUEUE_COMPUTE;
        r->next[queue] = seek(r->sweep, queue, i + 1);
        *moved = 1;
        if (queue == SL_QUEUE_COMPUTE) return SL_OK;
    }
}

void sl_executor_pause(double *pause_s) {
    *pause_s = *pause_s == 0.0 ? 2e-6 : *pause_s < LONGEST_PAUSE_S ? 1.5 * *pause_s : *pause_s;
    sl_clock_sleep(*pause_s);
}

static void pause_a_little(double *pause_s, double *wait_s) {
    const double t0 = sl_clock_s();
    sl_executor_pause(pause_s);
    *wait_s += sl_clock_s() - t0;
}

static sl_status run_serially(const sl_sweep *sweep, const sl_task_runner *runner, double *wait_s) {
    for (int i = 0; i < sweep->n_tasks; i++) {
        const sl_task *task = &sweep->task[i];
        sl_ticket ticket = 0;
        double pause_s = 0.0;
        SL_TRY(runner->start(runner->context, task, &ticket));
        for (int done = ticket == 0; !done;) {
            SL_TRY(runner->progress(runner->context));
            SL_TRY(runner->poll(runner->context, task, ticket, &done));
            if (!done) pause_a_little(&pause_s, wait_s);
        }
    }
    return runner->progress(runner->context);
}

sl_status sl_executor_run(sl_executor *ex, const sl_sweep *sweep, const sl_task_runner *runner,
                          int serial, double *wait_s_out) {
    double wait_s = 0.0, pause_s = 0.0;
    if (serial) {
        SL_TRY(run_serially(sweep, runner, &wait_s));
        *wait_s_out = wait_s;
        return SL_OK;
    }
    SL_TRY(reserve(ex, sweep->n_tasks));
    memset(ex->state, TASK_WAITING, (size_t)sweep->n_tasks);
    run_state r = {.ex = ex, .sweep = sweep, .runner = runner};
    for (int q = 0; q < SL_QUEUE_COUNT; q++) r.next[q] = r.oldest[q] = seek(sweep, (sl_queue)q, 0);

    while (r.n_done < sweep->n_tasks) {
        int moved = 0;
        SL_TRY(runner->progress(runner->context)); /* first: what it finds is polled at once */
        for (int q = 0; q < SL_QUEUE_COUNT; q++) {
            SL_TRY(poll_queue(&r, (sl_queue)q, &moved));
            SL_TRY(start_queue(&r, (sl_queue)q, &moved));
        }
        /* Nothing can run until a peer has sent or the device is done: give the core away, because
         * ranks may outnumber cores. */
        if (moved)
            pause_s = 0.0;
        else
            pause_a_little(&pause_s, &wait_s);
    }
    *wait_s_out = wait_s;
    return SL_OK;
}
