/* cpu_team.h - the threads of a CPU backend: one job of independent items at a time.
 *
 * Unlike an OpenMP team, the caller never waits for a thread that has not taken an item: where the
 * system gives a processor to somebody else, the threads that do run finish the job.  Waiting
 * threads poll for some microseconds, which covers the gap between two operators, and then sleep,
 * so an oversubscribed machine loses little.  (libgomp polls for milliseconds and its barriers wait
 * for every thread: with the processors busy elsewhere the same products took 10 to 100 times as
 * long.  Its policy can be changed by environment variables only, before the program starts.)
 * Layer: kernels/cpu.  Thread safety: one caller at a time.
 */
#ifndef SL_CPU_TEAM_H
#define SL_CPU_TEAM_H

#include "base/status.h"

typedef struct sl_cpu_team sl_cpu_team;

/* Computes one item; thread is in [0, n_threads), different among those that run at once. */
typedef void sl_cpu_item(void *context, int item, int thread);

/* Starts n_threads - 1 threads; the caller of run() is the other one.  Signals stay with the
 * program's own threads.  Errors: SL_ERR_NOMEM. */
sl_status sl_cpu_team_open(int n_threads, sl_cpu_team **out);
void sl_cpu_team_close(sl_cpu_team *team);

/* Calls compute(context, i, thread) once for every i in [0, n_items), in no order, and returns when
 * all are done.  Allocates nothing. */
void sl_cpu_team_run(sl_cpu_team *team, int n_items, sl_cpu_item *compute, void *context);

#endif
