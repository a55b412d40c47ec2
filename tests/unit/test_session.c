/* Unit tests of mpi/session.c and mpi/hosts.c that need no second rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hosts.h"
#include "session.h"

static const char *const launch_names[] = {
    "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",   "PMI_RANK", "PMI_SIZE",
    "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"};
enum { N_NAMES = sizeof launch_names / sizeof launch_names[0] };

static int clear_environment(void **state) {
    (void)state;
    for (int i = 0; i < N_NAMES; i++) unsetenv(launch_names[i]);
    return 0;
}

static void a_plain_start_needs_no_mpi(void **state) {
    (void)state;
    assert_int_equal(sl_mpi_is_launched(), 0);
    sl_mpi_close(); /* MPI was never started: nothing happens */
}

static void launchers_are_known_by_their_environment(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        clear_environment(NULL);
        setenv(launch_names[i], "1", 1);
        assert_int_equal(sl_mpi_is_launched(), 1);
    }
}

static void a_step_of_several_srun_tasks_counts_as_launched(void **state) {
    (void)state;
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    assert_int_equal(sl_mpi_is_launched(), 0); /* no task of it */
    setenv("SLURM_PROCID", "2", 1);
    assert_int_equal(sl_mpi_is_launched(), 1);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1); /* a batch script's own step */
    assert_int_equal(sl_mpi_is_launched(), 0);
}

static void a_transport_without_mpi_is_an_argument_error(void **state) {
    (void)state;
    sl_transport *t = NULL;
    assert_int_equal(sl_transport_open_mpi(&t), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "not started"));
    assert_null(t);
}

static void local_ranks_are_counted_by_host_key(void **state) {
    (void)state;
    static const char keys[6][SL_HOST_KEY_BYTES] = {"a/1", "b/2", "a/1", "a/3", "b/2", "a/1"};
    static const int local[6] = {0, 0, 1, 0, 1, 2}, n_local[6] = {3, 2, 3, 1, 2, 3};
    for (int r = 0; r < 6; r++) {
        int got = -1, n = -1;
        sl_hosts_local_rank(keys, 6, r, &got, &n);
        assert_int_equal(got, local[r]);
        assert_int_equal(n, n_local[r]);
    }
}

static void the_host_key_is_the_same_every_time(void **state) {
    (void)state;
    char a[SL_HOST_KEY_BYTES], b[SL_HOST_KEY_BYTES];
    memset(a, 1, sizeof a);
    memset(b, 2, sizeof b);
    sl_hosts_key(a);
    sl_hosts_key(b);
    assert_memory_equal(a, b, sizeof a);
    assert_true(strlen(a) > 1);
    assert_null(strchr(a, '\n'));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_plain_start_needs_no_mpi, clear_environment),
        cmocka_unit_test_setup(launchers_are_known_by_their_environment, clear_environment),
        cmocka_unit_test_setup(a_step_of_several_srun_tasks_counts_as_launched, clear_environment),
        cmocka_unit_test(a_transport_without_mpi_is_an_argument_error),
        cmocka_unit_test(local_ranks_are_counted_by_host_key),
        cmocka_unit_test(the_host_key_is_the_same_every_time),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
