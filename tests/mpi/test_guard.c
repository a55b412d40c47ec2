/* Ranks that watch each other: failures and signals reach all, and all end when nobody else ends
 * them, or when none of them gets anything done.  Dead and silent ranks are e2e tests.  Any number
 * of ranks from 2. */
#include <mpi.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "guard.h"
#include "mpi_test.h"

static const double PATIENCE_S = 0.4, WAIT_S = 10;
/* Far more than a loaded machine takes from a process at a time. */
static const double STALL_S = 1.5, COUNT_EVERY_S = 0.02;

typedef struct {
    atomic_int n_said, n_ended, n_stopped, said_rank, stopped_rank;
    char said[256];
} events;

static void say(void *context, int rank, const char *reason) {
    events *e = context;
    snprintf(e->said, sizeof e->said, "%s", reason);
    atomic_store(&e->said_rank, rank);
    atomic_fetch_add(&e->n_said, 1);
}
static void end(void *context) {
    atomic_fetch_add(&((events *)context)->n_ended, 1);
}
static void stop(void *context, int rank, const char *reason) {
    events *e = context;
    (void)reason;
    atomic_store(&e->stopped_rank, rank);
    atomic_fetch_add(&e->n_stopped, 1);
}

static sl_guard *open_guard_of(const sl_mpi_info *info, const sl_pulse *pulse, events *e) {
    sl_guard *g = NULL;
    int n_unlinked = -1;
    memset(e, 0, sizeof *e);
    const sl_guard_options options = {.timeout_s = 5,
                                      .patience_s = PATIENCE_S,
                                      .stall_s = pulse ? STALL_S : 0,
                                      .pulse = pulse,
                                      .say = say,
                                      .end = end,
                                      .stop = stop,
                                      .context = e};
    CHECK_OK(sl_guard_open(info, &options, &n_unlinked, &g));
    CHECK_THAT(n_unlinked == 0, "%d ranks are not linked", n_unlinked);
    return g;
}

static sl_guard *open_guard(const sl_mpi_info *info, events *e) {
    return open_guard_of(info, NULL, e);
}

static void wait_for(const atomic_int *what, const char *name) {
    const double until_s = sl_clock_s() + WAIT_S;
    while (atomic_load(what) == 0 && sl_clock_s() < until_s) sl_clock_sleep(0.005);
    CHECK_THAT(atomic_load(what) == 1, "%s: %d times", name, atomic_load(what));
}

/* A barrier in which nobody is missed: guards watch over a thread that is in MPI. */
static void meet(void) {
    CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
}

static void nothing_happens_to_ranks_that_end_as_they_should(const sl_mpi_info *info) {
    events e;
    for (int i = 0; i < 5; i++) {
        sl_guard *g = open_guard(info, &e);
        if (i % 2) meet();
        if (i == 4) sl_clock_sleep(0.1 * info->rank); /* in any order */
        sl_guard_close(g, SL_OK);
        meet();
        CHECK_THAT(e.n_said == 0 && e.n_ended == 0 && e.n_stopped == 0, "said \"%s\"", e.said);
    }
}

static void a_failure_ends_all_after_a_while(const sl_mpi_info *info, int bad) {
    events e;
    sl_guard *g = open_guard(info, &e);
    meet();
    const double start_s = sl_clock_s();
    if (info->rank == bad) sl_guard_tell(g, "rank 7: the device is on fire");
    wait_for(&e.n_ended, "end");
    CHECK_THAT(sl_clock_s() - start_s > PATIENCE_S * 0.9, "ended after %.2f s",
               sl_clock_s() - start_s);
    CHECK(e.n_said == (info->rank == 0));
    if (info->rank == 0) {
        CHECK_THAT(strcmp(e.said, "rank 7: the device is on fire") == 0, "said \"%s\"", e.said);
        CHECK(atomic_load(&e.said_rank) == bad);
    }
    sl_guard_close(g, SL_ERR_DEVICE);
    meet();
}

static void a_failure_that_all_end_for_is_not_said(const sl_mpi_info *info, int bad) {
    events e;
    sl_guard *g = open_guard(info, &e);
    if (info->rank == bad) sl_guard_tell(g, "no memory");
    meet();
    sl_guard_close(g, SL_ERR_NOMEM);
    meet();
    CHECK(e.n_said == 0 && e.n_ended == 0);
}

static void a_signal_anywhere_stops_the_first_rank(const sl_mpi_info *info, int who) {
    events e;
    sl_guard *g = open_guard(info, &e);
    if (info->rank == who) sl_guard_signal(g, SIGTERM);
    if (info->rank == 0) {
        wait_for(&e.n_stopped, "stop");
        CHECK(atomic_load(&e.stopped_rank) == who && sl_guard_signalled_rank(g) == who);
    }
    meet();
    sl_guard_close(g, SL_ERR_STOPPED);
    meet();
    CHECK_THAT(e.n_said == 0 && e.n_ended == 0, "said \"%s\"", e.said);
}

static void check_stalled(const sl_mpi_info *info, const events *e, int rank, const char *text) {
    CHECK(e->n_said == (info->rank == 0));
    if (info->rank != 0) return;
    CHECK_THAT(strstr(e->said, text) != NULL, "said \"%s\"", e->said);
    CHECK_THAT(atomic_load(&e->said_rank) == rank, "of rank %d", atomic_load(&e->said_rank));
}

/* at: the rank that is at a task, -1: each waits for another. */
static void ranks_that_get_nothing_done_are_ended(const sl_mpi_info *info, int at) {
    events e;
    sl_pulse *pulse = NULL;
    CHECK_OK(sl_pulse_open(&pulse));
    sl_guard *g = open_guard_of(info, pulse, &e);
    meet();
    const double start_s = sl_clock_s();
    if (info->rank == at) sl_pulse_begin(pulse, "weights in", 12);
    if (info->rank == 0) sl_pulse_set_busy(pulse, 1);
    wait_for(&e.n_ended, "end");
    const double took_s = sl_clock_s() - start_s;
    CHECK_THAT(took_s > STALL_S * 0.9 && took_s < STALL_S + 2, "ended after %.2f s", took_s);
    check_stalled(info, &e, at,
                  at < 0 ? "nothing has got done on any rank for 1.5 s (--stall-timeout): each "
                           "waits for another"
                         : "; under way on this one: \"weights in\" of layer 12");
    sl_guard_close(g, SL_ERR_DEVICE);
    sl_pulse_close(pulse);
    meet();
}

static void ranks_without_work_may_stand_still(const sl_mpi_info *info) {
    events e;
    sl_pulse *pulse = NULL;
    CHECK_OK(sl_pulse_open(&pulse));
    if (info->rank == 0) sl_pulse_set_busy(pulse, 1);
    sl_guard *g = open_guard_of(info, pulse, &e);
    sl_clock_sleep(STALL_S / 3);
    if (info->rank == 0) sl_pulse_set_busy(pulse, 0);
    sl_clock_sleep(STALL_S * 1.4);
    if (info->rank == 0) sl_pulse_set_busy(pulse, 1); /* time counts anew */
    sl_clock_sleep(STALL_S / 3);
    if (info->rank == 0) sl_pulse_set_busy(pulse, 0);
    meet();
    CHECK_THAT(e.n_said == 0 && e.n_ended == 0, "said \"%s\"", e.said);
    sl_guard_close(g, SL_OK);
    sl_pulse_close(pulse);
    meet();
}

static void one_rank_that_gets_on_keeps_all_going(const sl_mpi_info *info, int active) {
    events e;
    sl_pulse *pulse = NULL;
    CHECK_OK(sl_pulse_open(&pulse));
    sl_guard *g = open_guard_of(info, pulse, &e);
    if (info->rank == 0) sl_pulse_set_busy(pulse, 1);
    sl_pulse_begin(pulse, "layer", info->rank);
    const double until_s = sl_clock_s() + STALL_S * 1.6;
    while (sl_clock_s() < until_s) {
        if (info->rank == active) sl_pulse_count(pulse);
        sl_clock_sleep(COUNT_EVERY_S);
    }
    CHECK_THAT(e.n_said == 0 && e.n_ended == 0, "said \"%s\"", e.said);
    /* Then it stops too.  The fault is that of one which stopped before. */
    wait_for(&e.n_ended, "end");
    check_stalled(info, &e, active == 0, "; under way on this one: \"layer\" of layer ");
    sl_guard_close(g, SL_ERR_DEVICE);
    sl_pulse_close(pulse);
    meet();
}

int main(int argc, char **argv) {
    sl_mpi_info info;
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    for (int r = 0; r < info.n_ranks; r++)
        CHECK(info.place[r].host == 0 && strncmp(info.place[r].name, info.host, 63) == 0);
    nothing_happens_to_ranks_that_end_as_they_should(&info);
    for (int r = 0; r < info.n_ranks; r++) {
        a_failure_ends_all_after_a_while(&info, r);
        a_failure_that_all_end_for_is_not_said(&info, r);
        a_signal_anywhere_stops_the_first_rank(&info, r);
    }
    ranks_that_get_nothing_done_are_ended(&info, -1);
    ranks_that_get_nothing_done_are_ended(&info, info.n_ranks - 1);
    ranks_without_work_may_stand_still(&info);
    one_rank_that_gets_on_keeps_all_going(&info, 0);
    one_rank_that_gets_on_keeps_all_going(&info, info.n_ranks - 1);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return 0;
}
