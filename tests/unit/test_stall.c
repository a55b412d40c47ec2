/* Unit tests of mpi/stall.c, with a clock of their own, of src/base/pulse.c, and of the guard over
 * one rank, which needs no MPI. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "guard.h"
#include "stall.h"

enum { TEXT = 256 };

static const double PATIENCE_S = 10.0;

static sl_stall *open_stall(int n_ranks) {
    sl_stall *s = NULL;
    assert_int_equal(sl_stall_open(n_ranks, PATIENCE_S, 100.0, &s), SL_OK);
    return s;
}

static void stall_of_ranks_that_move_is_none(void **state) {
    (void)state;
    int rank;
    char text[TEXT];
    sl_stall *s = open_stall(2);
    for (int i = 1; i < 50; i++) {
        sl_stall_note(s, i % 2, (uint64_t)i, "", 100.0 + i * 9.0);
        assert_int_equal(sl_stall_check(s, 100.0 + i * 9.0, &rank, text, sizeof text), 0);
        assert_int_equal(sl_stall_check(s, 109.9 + i * 9.0, &rank, text, sizeof text), 0);
    }
    sl_stall_close(s);
}

/* Rank 1 waits and has done so for longest; of the two at work, rank 2 stopped before rank 0. */
static void stall_is_the_fault_of_who_stopped_first_at_work(void **state) {
    (void)state;
    int rank = -2;
    char text[TEXT];
    sl_stall *s = open_stall(3);
    sl_stall_note(s, 1, 1, "", 101.0);
    sl_stall_note(s, 2, 1, "\"weights in\" of layer 12", 102.0);
    sl_stall_note(s, 0, 1, "\"layer\" of layer 3", 103.0);
    for (int i = 0; i < 3; i++) /* beats without news */
        sl_stall_note(s, 2, 1, "\"weights in\" of layer 12", 104.0 + i);
    assert_int_equal(sl_stall_check(s, 112.9, &rank, text, sizeof text), 0);
    assert_int_equal(sl_stall_check(s, 113.1, &rank, text, sizeof text), 1);
    assert_int_equal(rank, 2);
    assert_string_equal(text, "stalled: nothing has got done on any rank for 10 s "
                              "(--stall-timeout); under way on this one: \"weights in\" of layer "
                              "12");
    sl_stall_close(s);
}

static void stall_of_ranks_that_all_wait_names_none(void **state) {
    (void)state;
    int rank = -2;
    char text[TEXT];
    sl_stall *s = open_stall(4);
    assert_int_equal(sl_stall_check(s, 110.1, &rank, text, sizeof text), 1);
    assert_int_equal(rank, -1);
    assert_non_null(strstr(text, "each waits for another"));
    sl_stall_close(s);
}

static void stall_counts_from_the_end_of_idleness(void **state) {
    (void)state;
    int rank;
    char text[TEXT];
    sl_stall *s = open_stall(1);
    sl_stall_forgive(s, 500.0);
    assert_int_equal(sl_stall_check(s, 509.9, &rank, text, sizeof text), 0);
    assert_int_equal(sl_stall_check(s, 510.1, &rank, text, sizeof text), 1);
    assert_string_equal(text, "stalled: nothing has got done for 10 s (--stall-timeout): no task "
                              "is under way");
    sl_stall_close(s);
}

static void stall_text_ends_where_the_room_does(void **state) {
    (void)state;
    int rank;
    char text[12];
    sl_stall *s = open_stall(1);
    assert_int_equal(sl_stall_check(s, 200.0, &rank, text, sizeof text), 1);
    assert_string_equal(text, "stalled: no");
    sl_stall_close(s);
}

static void pulse_shows_what_is_under_way(void **state) {
    (void)state;
    char text[TEXT];
    sl_pulse *p = NULL;
    sl_pulse_view view;
    assert_int_equal(sl_pulse_open(&p), SL_OK);
    sl_pulse_look(p, &view);
    sl_stall_describe(&view, text, sizeof text);
    assert_string_equal(text, "");
    sl_pulse_begin(p, "packing weights", -1);
    sl_pulse_look(p, &view);
    sl_stall_describe(&view, text, sizeof text);
    assert_string_equal(text, "\"packing weights\"");
    sl_pulse_begin(p, "layer", 7);
    sl_pulse_look(p, &view);
    assert_int_equal(view.n_done, 0);
    sl_stall_describe(&view, text, sizeof text);
    assert_string_equal(text, "2 tasks, the last begun \"layer\" of layer 7");
    sl_pulse_end(p);
    sl_pulse_end(p);
    sl_pulse_count(p);
    sl_pulse_look(p, &view);
    assert_int_equal(view.n_done, 3);
    sl_stall_describe(&view, text, sizeof text);
    assert_string_equal(text, "");
    sl_pulse_close(p);
}

static void pulse_that_is_not_there_takes_everything(void **state) {
    (void)state;
    sl_pulse_begin(NULL, "layer", 1);
    sl_pulse_end(NULL);
    sl_pulse_count(NULL);
    sl_pulse_set_busy(NULL, 1);
    sl_pulse_close(NULL);
}

/* ---- one rank, without MPI ---- */

typedef struct {
    atomic_int n_ended;
    char said[TEXT];
} events;

static void say(void *context, int rank, const char *reason) {
    assert_int_equal(rank, 0);
    snprintf(((events *)context)->said, TEXT, "%s", reason);
}
static void end(void *context) {
    atomic_fetch_add(&((events *)context)->n_ended, 1);
}
static void stop(void *context, int rank, const char *reason) {
    (void)context, (void)rank, (void)reason;
}

static void guard_of_one_rank_ends_what_stands_still(void **state) {
    (void)state;
    const sl_mpi_info info = {.n_ranks = 1, .n_local_ranks = 1};
    events e = {0};
    sl_pulse *pulse = NULL;
    sl_guard *g = NULL;
    int n_unlinked = -1;
    assert_int_equal(sl_pulse_open(&pulse), SL_OK);
    const sl_guard_options options = {.timeout_s = 5,
                                      .patience_s = 5,
                                      .stall_s = 0.4,
                                      .pulse = pulse,
                                      .say = say,
                                      .end = end,
                                      .stop = stop,
                                      .context = &e};
    assert_int_equal(sl_guard_open(&info, &options, &n_unlinked, &g), SL_OK);
    assert_int_equal(n_unlinked, 0);
    sl_pulse_begin(pulse, "layer", 3);
    sl_pulse_set_busy(pulse, 1);
    const double until_s = sl_clock_s() + 10;
    while (!atomic_load(&e.n_ended) && sl_clock_s() < until_s) sl_clock_sleep(0.005);
    assert_int_equal(atomic_load(&e.n_ended), 1);
    assert_string_equal(e.said, "stalled: nothing has got done for 0.4 s (--stall-timeout); under "
                                "way: \"layer\" of layer 3");
    sl_guard_close(g, SL_ERR_DEVICE);
    sl_pulse_close(pulse);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stall_of_ranks_that_move_is_none),
        cmocka_unit_test(stall_is_the_fault_of_who_stopped_first_at_work),
        cmocka_unit_test(stall_of_ranks_that_all_wait_names_none),
        cmocka_unit_test(stall_counts_from_the_end_of_idleness),
        cmocka_unit_test(stall_text_ends_where_the_room_does),
        cmocka_unit_test(pulse_shows_what_is_under_way),
        cmocka_unit_test(pulse_that_is_not_there_takes_everything),
        cmocka_unit_test(guard_of_one_rank_ends_what_stands_still),
    };
    return cmocka_run_group_tests_name("stall", tests, NULL, NULL);
}
