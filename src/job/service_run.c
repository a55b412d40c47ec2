/* The engine's side of a service: takes calls in, steps, hands answers out. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "job/service_impl.h"

int sl_service_on_token(void *user, int choice, const sl_choice *token) {
    sl_item_part *part = user;
    sl_call *call = part->item->owner;
    if (call->first_s == 0) call->first_s = sl_clock_s();
    return sl_item_on_token(part, choice, token);
}

/* ---- calls in ---- */

/* In order of arrival, which is the order in which they go to the engine. */
static void push_active(sl_service *s, sl_call *call) {
    sl_call **link = &s->active;
    while (*link) link = &(*link)->next;
    call->next = NULL;
    *link = call;
}

/* The whole inbox, oldest first; its calls are active from now on. */
static sl_call *take_inbox(sl_service *s) {
    sl_call *list = s->inbox;
    s->inbox = s->inbox_last = NULL;
    return list;
}

static sl_status submit_call(sl_service *s, sl_call *call) {
    SL_TRY(sl_item_open(&s->shared, &call->request, &call->item));
    call->item->owner = call;
    SL_TRY(sl_item_submit(call->item));
    /* One of several prompts can never run: the others are of no use. */
    if (call->item->request.error.status_code) sl_item_cancel(call->item);
    return SL_OK;
}

/* ---- answers out, with the lock held ---- */

static void hand_over(sl_call *call, int status) {
    sl_json_text *line = &call->item->line;
    if (!call->answered && line->n_bytes) {
        call->status = status;
        sl_json_bytes(&call->out, line->data, line->n_bytes);
        if (call->out.failed || call->out.n_bytes - call->n_read > SL_CALL_UNREAD_MAX) {
            if (call->is_stream) call->gone = 1;
        }
        sl_call_wake(call);
    }
    sl_json_clear(line);
}

static void count_call(sl_service *s, const sl_call *call) {
    sl_metrics *m = &s->metrics;
    if (call->first_s > 0) sl_histogram_add(&m->first_token, call->first_s - call->start_s);
    sl_histogram_add(&m->whole, sl_clock_s() - call->start_s);
    for (int p = 0; p < call->item->request.n_prompts; p++) {
        const sl_engine_result *r = call->item->parts[p].result;
        for (int c = 0; r && c < r->n_choices; c++) {
            const int cut = r->choices[c].finish == SL_FINISH_LENGTH;
            *(cut ? &m->n_cut : &m->n_stopped) += 1;
        }
    }
}

/* The engine's side is through with the call. */
static void end_call(sl_service *s, sl_call *call) {
    sl_call **link = &s->active;
    while (*link && *link != call) link = &(*link)->next;
    if (*link) *link = call->next;
    s->n_calls--;
    call->engine_done = 1;
    sl_call_drop(call);
}

/* ---- a turn ---- */

/* Nothing of the call is in the engine any more: its answer, or nothing. */
static sl_status complete_call(sl_service *s, sl_call *call) {
    sl_item *it = call->item;
    const int refused = it->request.error.status_code;
    const int dropped = it->dropped && !refused;
    if (!dropped && !refused) {
        pthread_mutex_lock(&s->lock);
        if (!call->answered) count_call(s, call);
        pthread_mutex_unlock(&s->lock);
    }
    if (!dropped) SL_TRY(sl_item_finish(it));
    pthread_mutex_lock(&s->lock);
    if (refused && !call->answered) s->metrics.n_refused++;
    if (dropped) {
        s->metrics.n_aborted++;
    } else {
        s->n_done++;
        hand_over(call, refused ? refused : 200);
    }
    call->answered = 1; /* what was dropped is answered already, or nobody waits for it */
    sl_call_wake(call);
    call->item = NULL;
    end_call(s, call);
    pthread_mutex_unlock(&s->lock);
    sl_item_close(it);
    return SL_OK;
}

static sl_status take_calls(sl_service *s) {
    pthread_mutex_lock(&s->lock);
    sl_call *list = take_inbox(s);
    for (sl_call *c = list, *next; c; c = next) {
        next = c->next;
        push_active(s, c);
    }
    pthread_mutex_unlock(&s->lock);
    /* They are active, so nothing is lost should one of these fail. */
    sl_status st = SL_OK;
    for (sl_call *c = s->active, *next; c && st == SL_OK; c = next) {
        next = c->next;
        if (c->item) continue;
        st = submit_call(s, c);
        if (st == SL_OK && c->item->n_open == 0) st = complete_call(s, c);
    }
    return st;
}

/* Calls that nobody waits for any more leave the engine; pieces of streams go to their mailboxes.
 */
static void look_after_calls(sl_service *s) {
    pthread_mutex_lock(&s->lock);
    for (sl_call *c = s->active; c; c = c->next) {
        if (c->is_stream && c->item) hand_over(c, 200);
        if (!c->item || c->cancelled || (!c->gone && !c->answered)) continue;
        c->cancelled = 1;
        sl_item_cancel(c->item);
    }
    sl_engine_get_stats(s->o.engine, &s->metrics.engine);
    s->metrics.n_running = sl_engine_n_running(s->o.engine);
    s->metrics.n_waiting = sl_engine_n_queued(s->o.engine);
    s->metrics.n_prompt_tokens = s->shared.n_prompt_tokens;
    s->metrics.n_generated_tokens = s->shared.n_generated_tokens;
    pthread_mutex_unlock(&s->lock);
}

static sl_status take_results(sl_service *s) {
    for (;;) {
        const sl_engine_result *result = NULL;
        SL_TRY(sl_engine_take(s->o.engine, &result));
        if (!result) return SL_OK;
        sl_item *it = ((sl_item_part *)result->user)->item;
        sl_item_take(result->user, result);
        if (it->n_open == 0) SL_TRY(complete_call(s, it->owner));
    }
}

/* Waits until there is something to do.  Returns 1 when all is done after a stop. */
static int wait_for_work(sl_service *s) {
    pthread_mutex_lock(&s->lock);
    while (!s->inbox && !s->active && !s->stopping) pthread_cond_wait(&s->work, &s->lock);
    const int is_over = s->stopping && !s->inbox && !s->active;
    pthread_mutex_unlock(&s->lock);
    return is_over;
}

static sl_status step(sl_service *s, int *done_out, int *engine_failed_out) {
    *engine_failed_out = 1;
    SL_TRY(sl_pace_step(&s->pace, s->o.engine, done_out));
    *engine_failed_out = 0;
    if (s->shared.token_st == SL_OK) return SL_OK;
    return sl_fail_text(s->shared.token_st, s->shared.token_message);
}

static sl_status run_turns(sl_service *s, int *engine_failed_out) {
    int done = 0;
    while (!wait_for_work(s)) {
        SL_TRY(take_calls(s));
        look_after_calls(s);
        SL_TRY(take_results(s)); /* of what was cancelled */
        if (!s->active) continue;
        SL_TRY(step(s, &done, engine_failed_out));
        SL_TRY(take_results(s));
        sl_pace_answered(&s->pace, s->n_done);
        look_after_calls(s);
    }
    sl_engine_finish(s->o.engine);
    while (!done) SL_TRY(step(s, &done, engine_failed_out));
    return SL_OK;
}

/* ---- ends ---- */

/* Answers all that is left with why there will be no answer. */
static void fail_calls(sl_service *s, const char *message) {
    sl_item *items = NULL;
    pthread_mutex_lock(&s->lock);
    s->ended = 1;
    for (sl_call *c = take_inbox(s), *next; c; c = next) {
        next = c->next;
        push_active(s, c);
    }
    while (s->active) {
        sl_call *c = s->active;
        if (c->item) {
            c->item->after = items;
            items = c->item;
            c->item = NULL;
        } else {
            sl_request_free(&c->request);
        }
        sl_call_fail(c, message ? 500 : 503, message ? message : "the server is stopping");
        end_call(s, c);
    }
    pthread_mutex_unlock(&s->lock);
    for (sl_item *next; items; items = next) {
        next = items->after;
        sl_item_close(items);
    }
}

/* A failure of this rank's own, which the others know nothing of: ends them. */
static void end_others(sl_service *s) {
    int done = 0;
    sl_engine_stop(s->o.engine);
    while (!done && sl_engine_step(s->o.engine, &done) == SL_OK) {
    }
}

sl_status sl_service_run(sl_service *s, int *engine_failed_out) {
    char message[1024];
    *engine_failed_out = 0;
    const sl_status st = run_turns(s, engine_failed_out);
    snprintf(message, sizeof message, "%s", st == SL_OK ? "" : sl_error_message());
    if (st != SL_OK && !*engine_failed_out) end_others(s);
    fail_calls(s, st == SL_OK ? NULL : message);
    return st == SL_OK ? SL_OK : sl_fail_text(st, message);
}
