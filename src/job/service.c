#include "job/service.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "job/chunk.h"
#include "job/service_impl.h"

/* ---- opening ---- */

sl_status sl_service_open(const sl_service_options *o, sl_service **out) {
    sl_service *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "service: out of host memory");
    s->o = *o;
    s->shared = (sl_item_shared){
        .engine = o->engine,
        .config = o->config,
        .result = {.model = o->api->model_name, .tokenizer = o->api->tokenizer, .seed = o->seed}};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, &attr);
    pthread_condattr_destroy(&attr);
    sl_engine_get_stats(o->engine, &s->metrics.engine);
    *out = s;
    return SL_OK;
}

void sl_service_close(sl_service *s) {
    if (!s) return;
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- calls, with the lock held ---- */

void sl_call_wake(sl_call *call) {
    if (!call->parked) return;
    call->parked = 0;
    call->service->o.wake(call->user);
}

void sl_call_fail(sl_call *call, int status, const char *message) {
    if (call->answered) return;
    call->answered = 1;
    if (call->status == 0) {
        call->status = status;
        sl_result_error(status, message, NULL, &call->out);
        call->service->metrics.n_refused++;
    } else {
        sl_chunk_error(status, message, &call->out);
    }
    sl_call_wake(call);
}

void sl_call_drop(sl_call *call) {
    if (!call->engine_done || !call->released) return;
    sl_json_free(&call->out);
    free(call);
}

/* ---- submitting ---- */

static const char *admission_refusal(const sl_service *s, int *status_out) {
    *status_out = 503;
    if (s->ended || s->stopping) return "the server is stopping";
    *status_out = 429;
    if (s->n_calls >= s->o.max_queue) return "the queue is full: try again later";
    return NULL;
}

/* Queues a call that was read, or answers it with what is wrong with it. */
static void admit(sl_service *s, sl_call *call) {
    int status;
    const char *refusal = admission_refusal(s, &status);
    const int is_wrong = call->request.error.status_code != 0;
    if (is_wrong) {
        call->status = call->request.error.status_code;
        call->answered = 1;
        s->metrics.n_refused++;
        sl_result_refusal(&s->shared.result, &call->request, &call->out);
    } else if (refusal) {
        sl_call_fail(call, status, refusal);
    }
    if (is_wrong || refusal) {
        sl_request_free(&call->request);
        call->engine_done = 1;
        return;
    }
    if (s->inbox_last) {
        s->inbox_last->next = call;
    } else {
        s->inbox = call;
    }
    s->inbox_last = call;
    s->n_calls++;
    pthread_cond_signal(&s->work);
}

sl_status sl_service_submit(sl_service *s, sl_answer_form form, const char *body, size_t n_bytes,
                            void *user, sl_call **out) {
    sl_call *call = calloc(1, sizeof *call);
    if (!call) return SL_FAIL(SL_ERR_NOMEM, "call: out of host memory");
    call->service = s;
    call->user = user;
    call->start_s = sl_clock_s();
    pthread_mutex_lock(&s->lock);
    const uint64_t number = ++s->n_numbers;
    pthread_mutex_unlock(&s->lock);
    const sl_status st = sl_api_read(s->o.api, form, body, n_bytes, number, &call->request);
    if (st != SL_OK) {
        free(call);
        return st;
    }
    call->is_stream = call->request.stream;
    pthread_mutex_lock(&s->lock);
    admit(s, call);
    pthread_mutex_unlock(&s->lock);
    *out = call;
    return SL_OK;
}

/* ---- waiting ---- */

static sl_call_state park_call(sl_call *call, void (*park)(void *user)) {
    call->parked = 1;
    park(call->user);
    return SL_CALL_PARKED;
}

sl_call_state sl_call_await(sl_call *call, void (*park)(void *user), int *status_out,
                            int *is_stream_out) {
    sl_service *s = call->service;
    sl_call_state state = SL_CALL_READY;
    pthread_mutex_lock(&s->lock);
    if (call->gone) {
        state = SL_CALL_GONE;
    } else if (call->status == 0) {
        state = park_call(call, park);
    } else {
        *status_out = call->status;
        *is_stream_out = call->is_stream && call->status == 200;
    }
    pthread_mutex_unlock(&s->lock);
    return state;
}

sl_call_state sl_call_read(sl_call *call, void (*park)(void *user), char *buffer, size_t room,
                           size_t *n_out) {
    sl_service *s = call->service;
    sl_call_state state = SL_CALL_READY;
    pthread_mutex_lock(&s->lock);
    const size_t left = call->out.n_bytes - call->n_read, n = left < room ? left : room;
    if (call->gone) {
        state = SL_CALL_GONE;
    } else if (n == 0 && !call->answered) {
        state = park_call(call, park);
    } else {
        if (n) memcpy(buffer, call->out.data + call->n_read, n);
        call->n_read += n;
        *n_out = n;
        if (call->n_read == call->out.n_bytes) { /* room for the next pieces */
            sl_json_clear(&call->out);
            call->n_read = 0;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return state;
}

size_t sl_call_size(sl_call *call) {
    sl_service *s = call->service;
    pthread_mutex_lock(&s->lock);
    const size_t n = call->out.n_bytes - call->n_read;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void sl_call_release(sl_call *call) {
    if (!call) return;
    sl_service *s = call->service;
    pthread_mutex_lock(&s->lock);
    call->released = call->gone = 1;
    call->parked = 0;
    pthread_cond_signal(&s->work);
    sl_call_drop(call);
    pthread_mutex_unlock(&s->lock);
}

/* ---- from outside ---- */

void sl_service_stop(sl_service *s) {
    pthread_mutex_lock(&s->lock);
    if (!s->stopping) s->stop_s = sl_clock_s();
    s->stopping = 1;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

int sl_service_is_open(sl_service *s) {
    pthread_mutex_lock(&s->lock);
    const int is_open = !s->stopping && !s->ended;
    pthread_mutex_unlock(&s->lock);
    return is_open;
}

static void tick_call(const sl_service *s, sl_call *call, double now_s) {
    if (call->gone || call->answered) return;
    if (call->parked && s->o.is_gone(call->user)) {
        call->gone = 1;
        sl_call_wake(call);
    } else if (s->stopping && now_s - s->stop_s > s->o.drain_s) {
        sl_call_fail(call, 503, "the server is stopping");
    } else if (s->o.timeout_s > 0 && now_s - call->start_s > s->o.timeout_s) {
        sl_call_fail(call, 503, "the answer took longer than the server's time limit");
    }
}

void sl_service_tick(sl_service *s) {
    const double now_s = sl_clock_s();
    pthread_mutex_lock(&s->lock);
    for (sl_call *c = s->inbox; c; c = c->next) tick_call(s, c, now_s);
    for (sl_call *c = s->active; c; c = c->next) tick_call(s, c, now_s);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

const sl_pace *sl_service_pace(const sl_service *s) {
    return &s->pace;
}

void sl_service_metrics(sl_service *s, sl_metrics *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->metrics;
    pthread_mutex_unlock(&s->lock);
}
