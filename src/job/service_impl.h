/* service_impl.h - what the two sides of a service share: service.c (any thread) and service_run.c
 * (the engine's).
 *
 * Private to them.  Layer: job.  May include: base, model, engine.
 */
#ifndef SL_JOB_SERVICE_IMPL_H
#define SL_JOB_SERVICE_IMPL_H

#include <pthread.h>

#include "job/item.h"
#include "job/service.h"

enum { SL_CALL_UNREAD_MAX = 8 << 20 }; /* bytes that a slow reader leaves: then it is given up */

/* Both sides hold a call; the last one frees it. */
struct sl_call {
    sl_service *service;
    void *user;
    double start_s;
    int is_stream;
    /* The engine's side, after it has taken the call from the inbox. */
    sl_call *next; /* in the inbox, then among the active ones */
    sl_request request;
    sl_item *item;
    double first_s; /* when its first token came, 0: not yet */
    int cancelled;
    /* Guarded by the lock. */
    int status;   /* HTTP, 0: not known yet */
    int answered; /* the answer is whole, or the call was given up */
    int gone;     /* nobody waits for the answer */
    int parked;   /* to be woken */
    int engine_done, released;
    sl_json_text out; /* the answer */
    size_t n_read;    /* of it */
};

struct sl_service {
    sl_service_options o;
    sl_item_shared shared; /* the engine's thread */
    uint64_t n_done;       /* calls that the engine's side has answered */
    sl_pace pace;          /* the engine's thread */
    sl_call *active;       /* the engine's thread; the list itself is read by tick */
    pthread_mutex_t lock;
    pthread_cond_t work; /* something to do for the engine's thread */
    sl_call *inbox, *inbox_last;
    int n_calls; /* in the inbox and active */
    uint64_t n_numbers;
    int stopping, ended; /* no more calls; the engine's thread has left */
    double stop_s;       /* when the stop was asked for */
    sl_metrics metrics;
};

/* With the lock held: wakes whoever parked. */
void sl_call_wake(sl_call *call);

/* With the lock held: answers with an error, or ends a stream that has begun with one.  Does
 * nothing to a call that is answered. */
void sl_call_fail(sl_call *call, int status, const char *message);

/* With the lock held: frees a call that neither side holds. */
void sl_call_drop(sl_call *call);

#endif
