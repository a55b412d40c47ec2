/* executor.h - runs the tasks of a sweep by their dependencies.
 *
 * Queues start their tasks in list order, a task once its dependencies are done or, on a device
 * that orders work by events, under way.  What "start" means is the runner's business.  A queue may
 * have several tasks under way. Layer: engine.  May include: base.  Thread safety: one thread per
 * executor.
 */
#ifndef SL_ENGINE_EXECUTOR_H
#define SL_ENGINE_EXECUTOR_H

#include "base/status.h"
#include "engine/sweep.h"
#include "engine/transport.h"

typedef struct {
    void *context;
    /* Starts a task.  *ticket_out = 0 when it is done on return, else what poll() asks for.
     * A failure here ends the run: the runner keeps failures that must not break the hand-off. */
    sl_status (*start)(void *context, const sl_task *task, sl_ticket *ticket_out);
    /* Whether a started task is done. */
    sl_status (*poll)(void *context, const sl_task *task, sl_ticket ticket, int *done_out);
    /* Whether `task` may be started although `dep` is still under way, because the device will
     * order them; the runner queues the order.  NULL: never. */
    sl_status (*chain)(void *context, const sl_task *task, const sl_task *dep, sl_ticket ticket,
                       int *chained_out);
    /* Called once per round, between tasks: a chance to move transfers along. */
    sl_status (*progress)(void *context);
} sl_task_runner;

typedef struct sl_executor sl_executor;

/* Gives the core away for a little longer each time; *pause_s starts as 0. */
void sl_executor_pause(double *pause_s);

sl_status sl_executor_open(sl_executor **out);
void sl_executor_close(sl_executor *executor);

/* Runs the whole sweep; `serial`: one task at a time, in list order, each to its end.
 * *wait_s_out = seconds in which nothing could be started or was seen to end. */
sl_status sl_executor_run(sl_executor *executor, const sl_sweep *sweep,
                          const sl_task_runner *runner, int serial, double *wait_s_out);

#endif
