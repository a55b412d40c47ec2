/* The threads of the CPU backend: every item once, whoever comes late. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cpu/cpu_team.h"

enum { MAX_ITEMS = 1000, MAX_THREADS = 8 };

typedef struct {
    int n_items, n_threads;
    int count[MAX_ITEMS]; /* plain: items are computed once and seen by the caller afterwards */
    atomic_int busy[MAX_THREADS];
    atomic_int n_wrong;
    double delay_s; /* of item 0 */
} job;

static void compute(void *context, int item, int thread) {
    job *j = context;
    if (item < 0 || item >= j->n_items || thread < 0 || thread >= j->n_threads) {
        atomic_fetch_add(&j->n_wrong, 1);
        return;
    }
    if (atomic_fetch_add(&j->busy[thread], 1) != 0) atomic_fetch_add(&j->n_wrong, 1);
    if (item == 0 && j->delay_s > 0.0) sl_clock_sleep(j->delay_s);
    j->count[item]++;
    atomic_fetch_sub(&j->busy[thread], 1);
}

static void check_job(sl_cpu_team *team, job *j) {
    memset(j->count, 0, sizeof j->count);
    sl_cpu_team_run(team, j->n_items, compute, j);
    for (int i = 0; i < MAX_ITEMS; i++)
        if (j->count[i] != (i < j->n_items)) fail_msg("item %d computed %d times", i, j->count[i]);
    assert_int_equal(atomic_load(&j->n_wrong), 0);
}

static void run_computes_every_item_once(void **state) {
    (void)state;
    static job j;
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        sl_cpu_team *team;
        assert_int_equal(sl_cpu_team_open(n_threads, &team), SL_OK);
        memset(&j, 0, sizeof j);
        j.n_threads = n_threads;
        for (int round = 0; round < 300; round++) {
            j.n_items = round * 37 % (MAX_ITEMS + 1);
            check_job(team, &j);
        }
        sl_cpu_team_close(team);
    }
}

/* Long pauses put the threads to sleep; the next job wakes them. */
static void run_after_a_pause_computes_every_item_once(void **state) {
    (void)state;
    static job j;
    sl_cpu_team *team;
    assert_int_equal(sl_cpu_team_open(3, &team), SL_OK);
    j.n_threads = 3;
    for (int round = 0; round < 20; round++) {
        sl_clock_sleep(0.002);
        j.n_items = 5;
        j.delay_s = round % 2 ? 0.001 : 0.0; /* the caller waits for whoever has item 0 */
        check_job(team, &j);
    }
    sl_cpu_team_close(team);
}

static void close_is_legal_at_once_and_of_nothing(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        sl_cpu_team *team;
        assert_int_equal(sl_cpu_team_open(1 + i % 4, &team), SL_OK);
        sl_cpu_team_close(team);
    }
    sl_cpu_team_close(NULL);
    sl_cpu_team *team = NULL;
    assert_int_equal(sl_cpu_team_open(0, &team), SL_ERR_ARG);
    assert_null(team);
}

static volatile sig_atomic_t n_signals;
static pthread_t signalled;

static void note_signal(int number) {
    (void)number;
    n_signals++;
    signalled = pthread_self();
}

/* Handlers of the program run on its own threads, whose calls they are to interrupt. */
static void signals_go_to_the_programs_own_thread(void **state) {
    (void)state;
    struct sigaction action = {.sa_handler = note_signal}, before;
    sigaction(SIGUSR1, &action, &before);
    sl_cpu_team *team;
    assert_int_equal(sl_cpu_team_open(4, &team), SL_OK);
    for (int i = 0; i < 20; i++) assert_int_equal(kill(getpid(), SIGUSR1), 0);
    assert_true(n_signals > 0);
    assert_true(pthread_equal(signalled, pthread_self()));
    sl_cpu_team_close(team);
    sigaction(SIGUSR1, &before, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_computes_every_item_once),
        cmocka_unit_test(run_after_a_pause_computes_every_item_once),
        cmocka_unit_test(close_is_legal_at_once_and_of_nothing),
        cmocka_unit_test(signals_go_to_the_programs_own_thread),
    };
    return cmocka_run_group_tests_name("cpu_team", tests, NULL, NULL);
}
