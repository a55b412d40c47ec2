/* service.h - requests that come one by one, from many clients, into one engine.
 *
 * One thread owns the engine and runs the service; any thread may submit calls and wait for their
 * answers.  A call's answer gathers in its mailbox, whole or in pieces; whoever waits for it parks,
 * and is woken once.  New requests join the blocks that are running.
 * Layer: job.  May include: base, model, engine.  Thread safety: as said at each function; one lock
 * guards all that threads share.
 */
#ifndef SL_JOB_SERVICE_H
#define SL_JOB_SERVICE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/api.h"
#include "job/metrics.h"
#include "job/pace.h"
#include "model/config.h"

typedef struct sl_service sl_service;
typedef struct sl_call sl_call;

/* All pointers are borrowed until close. */
typedef struct {
    sl_engine *engine; /* opened with sl_service_on_token */
    const sl_model_config *config;
    const sl_api *api;
    uint64_t seed;    /* of requests that bring none */
    int max_queue;    /* calls under way at most */
    double timeout_s; /* of a call, from its arrival to the end of its answer; 0: none */
    double drain_s;   /* after a stop: calls that are not answered by then are given up */
    /* Wakes whoever parked for a call.  Called with the lock held, by any thread; must not call the
     * service. */
    void (*wake)(void *user);
    /* Whether the client of a parked call is gone.  As wake. */
    int (*is_gone)(void *user);
} sl_service_options;

sl_status sl_service_open(const sl_service_options *options, sl_service **out);

/* No calls may be left. */
void sl_service_close(sl_service *service);

/* The engine's token callback. */
int sl_service_on_token(void *user, int choice, const sl_choice *token);

/* The thread that owns the engine, on the first rank.  Returns after sl_service_stop(), when all
 * calls are answered.  A failure of the engine answers all of them with it.
 * *engine_failed_out: 1: the failure is the engine's, all ranks have it. */
sl_status sl_service_run(sl_service *service, int *engine_failed_out);

/* Any thread.  No more calls are taken; what is under way has drain_s. */
void sl_service_stop(sl_service *service);
int sl_service_is_open(sl_service *service); /* 1: calls are taken */

/* Any thread, several times a second: gives up calls that are overdue or whose client is gone. */
void sl_service_tick(sl_service *service);

/* Any thread.  Takes a body that asks for a completion or a chat.  Always gives a call, which may
 * be answered with an error at once.  user: for wake and is_gone.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_service_submit(sl_service *service, sl_answer_form form, const char *body,
                            size_t n_bytes, void *user, sl_call **out);

typedef enum {
    SL_CALL_PARKED, /* nothing yet: `park` was called, with the lock held; a wake will follow */
    SL_CALL_READY,
    SL_CALL_GONE /* the client is gone: no answer is wanted */
} sl_call_state;

/* The thread that serves the call.  READY: *status_out is the answer's HTTP status, and its body,
 * or a stream's beginning, can be read. */
sl_call_state sl_call_await(sl_call *call, void (*park)(void *user), int *status_out,
                            int *is_stream_out);

/* Moves at most `room` bytes of the answer to `buffer`.  READY with *n_out 0 is its end. */
sl_call_state sl_call_read(sl_call *call, void (*park)(void *user), char *buffer, size_t room,
                           size_t *n_out);

/* Bytes of a whole answer; of no use for a stream. */
size_t sl_call_size(sl_call *call);

/* Ends the thread's part in the call; one that is not answered is cancelled.  NULL is allowed. */
void sl_call_release(sl_call *call);

/* How fast the engine went; after the run. */
const sl_pace *sl_service_pace(const sl_service *service);

/* Any thread.  What sl_metrics_write() needs. */
void sl_service_metrics(sl_service *service, sl_metrics *out);

#endif
