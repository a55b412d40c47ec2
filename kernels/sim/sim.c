#include "sim/sim.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"

typedef enum { RANK_AWAY, RANK_READY, RANK_SLEEPS, RANK_WAITS, RANK_GONE } rank_state;

typedef struct {
    sl_sim *sim;
    sl_sim_machine *machine;
    rank_state state;
    double until_s; /* SLEEPS: when it wakes if nothing at all happens */
    pthread_cond_t turn;
    sl_clock_source clock;
} rank_of_sim;

struct sl_sim {
    int n_ranks, n_entered;
    double now_s;
    int running; /* whose turn it is; -1: nobody's */
    int stuck;   /* nothing can happen any more */
    int n_met;
    uint64_t n_meetings;
    pthread_mutex_t lock; /* of all that several ranks see while they wait for their turn */
    rank_of_sim *rank;    /* [n_ranks] */
};

static double now_s(void *context) {
    const rank_of_sim *r = context;
    return r->sim->now_s;
}

static void note_mark(void *user, const sl_sim_mark *mark) {
    sl_sim *s = user;
    for (int i = 0; i < 2; i++)
        if (mark->rank[i] >= 0) sl_sim_wake(s, mark->rank[i]);
}

void sl_sim_wake(sl_sim *s, int rank) {
    rank_state *state = &s->rank[rank].state;
    if (*state == RANK_SLEEPS || *state == RANK_WAITS) *state = RANK_READY;
}

/* ---- whose turn it is ---- */

static int next_ready(const sl_sim *s, int after) {
    for (int i = 1; i <= s->n_ranks; i++) {
        const int r = (after + i) % s->n_ranks;
        if (s->rank[r].state == RANK_READY) return r;
    }
    return -1;
}

/* Lets time go on to the next end of work on any machine.  Returns 0 when there is none. */
static int let_work_end(sl_sim *s) {
    int soonest = -1;
    double next_s = INFINITY;
    for (int r = 0; r < s->n_ranks; r++) {
        const double t = sl_sim_machine_next_s(s->rank[r].machine);
        if (t >= next_s) continue;
        next_s = t;
        soonest = r;
    }
    if (soonest < 0) return 0;
    s->now_s = fmax(s->now_s, next_s);
    sl_sim_machine_run(s->rank[soonest].machine, s->now_s);
    return 1;
}

/* No machine works: who sleeps wakes after the time that it asked for, the first of them first.
 * Returns 0 when nobody sleeps. */
static int let_sleep_end(sl_sim *s) {
    rank_of_sim *first = NULL;
    for (int i = 0; i < s->n_ranks; i++) {
        rank_of_sim *r = &s->rank[i];
        if (r->state == RANK_SLEEPS && (!first || r->until_s < first->until_s)) first = r;
    }
    if (!first) return 0;
    s->now_s = fmax(s->now_s, first->until_s);
    first->state = RANK_READY;
    return 1;
}

/* Gives the turn to a rank that is ready, letting time go on until there is one. */
static void pass_turn(sl_sim *s, int from) {
    int next = next_ready(s, from);
    while (next < 0) {
        if (!let_work_end(s) && !let_sleep_end(s)) {
            int n_waiting = 0;
            for (int r = 0; r < s->n_ranks; r++) n_waiting += s->rank[r].state == RANK_WAITS;
            if (n_waiting == 0) break; /* all have left */
            s->stuck = 1;
            for (int r = 0; r < s->n_ranks; r++) sl_sim_wake(s, r);
        }
        next = next_ready(s, from);
    }
    s->running = next;
    if (next >= 0 && next != from) pthread_cond_signal(&s->rank[next].turn);
}

static void await_turn(sl_sim *s, int rank) {
    while (s->running != rank) pthread_cond_wait(&s->rank[rank].turn, &s->lock);
}

/* Lets others run, in a state, until it is this rank's turn again. */
static void yield_turn(sl_sim *s, int rank, rank_state state) {
    pthread_mutex_lock(&s->lock);
    s->rank[rank].state = state;
    pass_turn(s, rank);
    await_turn(s, rank);
    pthread_mutex_unlock(&s->lock);
}

/* Polls of the engine come here: instead of asking again and again, it asks when something has
 * ended. */
static void sleep_until_news(void *context, double seconds) {
    rank_of_sim *r = context;
    r->until_s = r->sim->now_s + seconds;
    yield_turn(r->sim, (int)(r - r->sim->rank), RANK_SLEEPS);
}

sl_status sl_sim_wait_any(sl_sim *s, int rank, const char *what) {
    if (!s->stuck) yield_turn(s, rank, RANK_WAITS);
    if (!s->stuck) return SL_OK;
    return SL_FAIL(SL_ERR_COMM, "simulated rank %d waits for %s, but nothing happens any more",
                   rank, what);
}

sl_status sl_sim_wait_mark(sl_sim *s, int rank, const sl_sim_mark *mark, const char *what) {
    while (!sl_sim_mark_is_reached(mark)) SL_TRY(sl_sim_wait_any(s, rank, what));
    return SL_OK;
}

sl_status sl_sim_meet(sl_sim *s, int rank) {
    const uint64_t meeting = s->n_meetings;
    if (++s->n_met == s->n_ranks) {
        s->n_met = 0;
        s->n_meetings++;
        for (int r = 0; r < s->n_ranks; r++) sl_sim_wake(s, r);
        return SL_OK;
    }
    while (s->n_meetings == meeting) SL_TRY(sl_sim_wait_any(s, rank, "the other ranks"));
    return SL_OK;
}

/* ---- beginning and end ---- */

sl_status sl_sim_open(const sl_sim_rates *rates, int n_ranks, sl_sim **out) {
    if (n_ranks < 1) return SL_FAIL(SL_ERR_ARG, "a simulation of %d ranks", n_ranks);
    for (int r = 0; r < n_ranks; r++) {
        SL_TRY(sl_sim_rates_check(&rates[r]));
        if (r < n_ranks - 1 && rates[r].wire_bps == 0.0)
            return SL_FAIL(SL_ERR_ARG, "simulated machine %d has no wire to the next rank", r);
    }
    sl_status st = SL_OK;
    sl_sim *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "simulation: out of host memory");
    s->running = -1;
    pthread_mutex_init(&s->lock, NULL); /* cannot fail on Linux, nor can what follows */
    s->rank = calloc((size_t)n_ranks, sizeof *s->rank);
    if (!s->rank) {
        st = SL_FAIL(SL_ERR_NOMEM, "simulation of %d ranks: out of host memory", n_ranks);
        goto fail;
    }
    for (; s->n_ranks < n_ranks; s->n_ranks++) {
        rank_of_sim *r = &s->rank[s->n_ranks];
        sl_sim_rates mine = rates[s->n_ranks];
        if (mine.wire_bps == 0.0 && s->n_ranks > 0) {
            mine.wire_bps = rates[s->n_ranks - 1].wire_bps;
            mine.wire_latency_s = rates[s->n_ranks - 1].wire_latency_s;
        }
        SL_GO(sl_sim_machine_open(&mine, note_mark, s, &r->machine));
        r->sim = s;
        r->clock = (sl_clock_source){now_s, sleep_until_news, r};
        pthread_cond_init(&r->turn, NULL);
    }
    *out = s;
    return SL_OK;

fail:
    sl_sim_close(s);
    return st;
}

void sl_sim_close(sl_sim *s) {
    if (!s) return;
    for (int r = 0; r < s->n_ranks; r++) {
        sl_sim_machine_close(s->rank[r].machine);
        pthread_cond_destroy(&s->rank[r].turn);
    }
    pthread_mutex_destroy(&s->lock);
    free(s->rank);
    free(s);
}

void sl_sim_enter(sl_sim *s, int rank) {
    pthread_mutex_lock(&s->lock);
    s->rank[rank].state = RANK_READY;
    if (++s->n_entered == s->n_ranks) pass_turn(s, s->n_ranks - 1);
    await_turn(s, rank);
    pthread_mutex_unlock(&s->lock);
    sl_clock_set_source(&s->rank[rank].clock);
}

void sl_sim_leave(sl_sim *s, int rank) {
    sl_clock_set_source(NULL);
    pthread_mutex_lock(&s->lock);
    s->rank[rank].state = RANK_GONE;
    pass_turn(s, rank);
    pthread_mutex_unlock(&s->lock);
}

int sl_sim_n_ranks(const sl_sim *s) {
    return s->n_ranks;
}

double sl_sim_now_s(const sl_sim *s) {
    return s->now_s;
}

sl_sim_machine *sl_sim_machine_of(sl_sim *s, int rank) {
    sl_sim_machine *m = s->rank[rank].machine;
    sl_sim_machine_run(m, s->now_s);
    return m;
}

void sl_sim_mark_init(sl_sim_mark *mark, int rank, int other) {
    *mark = (sl_sim_mark){.rank = {rank, other}};
}

int sl_sim_has_left(const sl_sim *s, int rank) {
    return s->rank[rank].state == RANK_GONE;
}
