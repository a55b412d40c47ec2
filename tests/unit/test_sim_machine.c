/* Unit tests of kernels/sim/sim_machine.c and sim_rates.c: queues, and what they share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "sim/sim_machine.h"
#include "support/sim_run.h"

enum { H2D = SL_STREAM_H2D, ANSWER = SL_STREAM_ANSWER, D2H = SL_STREAM_D2H };

static int n_seen;

static void count(void *user, const sl_sim_mark *mark) {
    (void)user, (void)mark;
    n_seen++;
}

static sl_sim_machine *open_machine(const sl_sim_rates *rates) {
    sl_sim_machine *m = NULL;
    n_seen = 0;
    assert_int_equal(sl_sim_machine_open(rates, count, NULL, &m), SL_OK);
    return m;
}

static void work(sl_sim_machine *m, int queue, sl_sim_load load) {
    assert_int_equal(sl_sim_machine_work(m, queue, &load), SL_OK);
}

static void mark(sl_sim_machine *m, int queue, sl_sim_mark *at) {
    assert_int_equal(sl_sim_machine_mark(m, queue, at), SL_OK);
}

static void run_to_end(sl_sim_machine *m) {
    while (isfinite(sl_sim_machine_next_s(m))) sl_sim_machine_run(m, sl_sim_machine_next_s(m));
}

static void assert_near(double got, double want) {
    if (fabs(got - want) > 1e-9 * fabs(want)) fail_msg("%.12g, expected %.12g", got, want);
}

static void queue_does_its_work_in_order_and_alone(void **state) {
    (void)state;
    const sl_sim_rates rates = sim_t4();
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark a = {0}, b = {0}, other = {0};
    work(m, SL_STREAM_COMPUTE, (sl_sim_load){.seconds = 2});
    mark(m, SL_STREAM_COMPUTE, &a);
    work(m, SL_STREAM_COMPUTE, (sl_sim_load){.seconds = 3});
    mark(m, SL_STREAM_COMPUTE, &b);
    work(m, SL_SIM_HOST, (sl_sim_load){.seconds = 4});
    mark(m, SL_SIM_HOST, &other);
    sl_sim_machine_run(m, 2.5); /* in the middle of work */
    assert_int_equal(n_seen, 1);
    assert_true(sl_sim_mark_is_reached(&a) && !sl_sim_mark_is_reached(&b));
    run_to_end(m);
    assert_near(a.at_s, 2);
    assert_near(other.at_s, 4);
    assert_near(b.at_s, 5);
    sl_sim_machine_close(m);
}

static void mark_on_an_idle_queue_is_reached_at_once(void **state) {
    (void)state;
    const sl_sim_rates rates = sim_t4();
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark a = {0};
    sl_sim_machine_run(m, 7);
    mark(m, H2D, &a);
    assert_true(sl_sim_mark_is_reached(&a));
    assert_near(a.at_s, 7);
    sl_sim_machine_close(m);
}

static void wait_holds_a_queue_until_the_mark(void **state) {
    (void)state;
    const sl_sim_rates rates = sim_t4();
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark a = {0}, b = {0};
    work(m, H2D, (sl_sim_load){.seconds = 2});
    mark(m, H2D, &a);
    assert_int_equal(sl_sim_machine_wait(m, SL_STREAM_COMPUTE, &a), SL_OK);
    work(m, SL_STREAM_COMPUTE, (sl_sim_load){.seconds = 1});
    mark(m, SL_STREAM_COMPUTE, &b);
    mark(m, H2D, &a); /* recorded again: the wait is for the first time */
    work(m, H2D, (sl_sim_load){.seconds = 50});
    run_to_end(m);
    assert_near(b.at_s, 3);
    sl_sim_machine_close(m);
}

static void copies_in_one_direction_take_turns(void **state) {
    (void)state;
    const sl_sim_rates rates = {.cpu_bytes = 1};
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark large = {0}, small = {0};
    work(m, H2D, (sl_sim_load){.seconds = 10, .h2d_bps = 12e9});
    mark(m, H2D, &large);
    sl_sim_machine_run(m, 1);
    work(m, ANSWER, (sl_sim_load){.seconds = 1, .h2d_bps = 4e9});
    mark(m, ANSWER, &small);
    run_to_end(m);
    assert_near(small.at_s, 3);  /* at half speed */
    assert_near(large.at_s, 11); /* the link was never idle */
    sl_sim_machine_close(m);
}

static void copies_to_the_device_slow_its_computation(void **state) {
    (void)state;
    const sl_sim_rates rates = {.cpu_bytes = 1, .compute_beside_h2d_frac = 0.8};
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark computed = {0}, copied = {0}, back = {0};
    work(m, D2H, (sl_sim_load){.seconds = 20, .d2h_bps = 1e9}); /* does not */
    mark(m, D2H, &back);
    work(m, SL_STREAM_COMPUTE, (sl_sim_load){.seconds = 10});
    mark(m, SL_STREAM_COMPUTE, &computed);
    sl_sim_machine_run(m, 2);
    work(m, H2D, (sl_sim_load){.seconds = 5, .h2d_bps = 1e9});
    mark(m, H2D, &copied);
    run_to_end(m);
    assert_near(copied.at_s, 7);
    assert_near(computed.at_s, 11); /* 2 alone, 4 in the 5 beside, 4 alone */
    assert_near(back.at_s, 20);
    sl_sim_machine_close(m);
}

static void both_directions_share_the_duplex_rate(void **state) {
    (void)state;
    const sl_sim_rates rates = {.cpu_bytes = 1, .duplex_bps = 15e9};
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark up = {0}, down = {0};
    work(m, H2D, (sl_sim_load){.seconds = 1, .h2d_bps = 10e9});
    mark(m, H2D, &up);
    work(m, D2H, (sl_sim_load){.seconds = 2, .d2h_bps = 10e9});
    mark(m, D2H, &down);
    run_to_end(m);
    assert_near(up.at_s, 1 / 0.75);
    assert_near(down.at_s, 1 / 0.75 + 1); /* half of it alone */
    sl_sim_machine_close(m);
}

/* Measured on an H100 host with 16 cores: 148 GB/s to the processors alone, copies at 53.7 GB/s
 * alone, together 118 + 45. */
static void host_memory_is_shared_by_copies_and_attention(void **state) {
    (void)state;
    const sl_sim_rates rates = {
        .cpu_bytes = 1, .dram_bps = 148e9, .dram_beside_h2d_bps = 163e9, .duplex_bps = 85e9};
    sl_sim_machine *m = open_machine(&rates);
    sl_sim_mark copied = {0}, attended = {0};
    work(m, H2D, (sl_sim_load){.seconds = 1, .h2d_bps = 53.7e9, .dram_bps = 53.7e9});
    mark(m, H2D, &copied);
    work(m, SL_SIM_ATTEND, (sl_sim_load){.seconds = 1, .dram_bps = 148e9});
    mark(m, SL_SIM_ATTEND, &attended);
    run_to_end(m);
    assert_near(copied.at_s, (148e9 + 53.7e9) / 163e9);
    assert_near(attended.at_s, copied.at_s);
    assert_in_range((int)(53.7 / copied.at_s), 42, 45);
    assert_in_range((int)(148 / attended.at_s), 117, 120);

    /* What does not ask for all of it is not slowed down. */
    const double start_s = copied.at_s;
    work(m, H2D, (sl_sim_load){.seconds = 1, .h2d_bps = 53.7e9, .dram_bps = 53.7e9});
    mark(m, H2D, &copied);
    work(m, SL_SIM_ATTEND, (sl_sim_load){.seconds = 1, .dram_bps = 66e9});
    run_to_end(m);
    assert_near(copied.at_s - start_s, 1);
    sl_sim_machine_close(m);
}

static void thousands_of_items_pass_in_order(void **state) {
    (void)state;
    const sl_sim_rates rates = sim_t4();
    sl_sim_machine *m = open_machine(&rates);
    static sl_sim_mark at[5000];
    memset(at, 0, sizeof at);
    for (int i = 0; i < 5000; i++) {
        work(m, D2H, (sl_sim_load){.seconds = 0.25, .d2h_bps = 1e9});
        mark(m, D2H, &at[i]);
        if (i % 3 == 0) sl_sim_machine_run(m, 0.25 * (i / 2));
    }
    run_to_end(m);
    assert_int_equal(n_seen, 5000);
    for (int i = 0; i < 5000; i++) assert_near(at[i].at_s, 0.25 * (i + 1));
    sl_sim_machine_close(m);
}

static void curve_between_points_is_linear_in_the_logarithm(void **state) {
    (void)state;
    const sl_sim_curve c = {2, {1, 100}, {10, 30}}, none = {0};
    assert_near(sl_sim_curve_at(&c, 10), 20);
    assert_near(sl_sim_curve_at(&c, 0.5), 10);
    assert_near(sl_sim_curve_at(&c, 1e9), 30);
    assert_true(sl_sim_curve_at(&none, 1) == 0.0);
}

static void format_is_the_one_of_the_nearest_size(void **state) {
    (void)state;
    assert_int_equal(sl_sim_format(SL_DTYPE_F16), 0);
    assert_int_equal(sl_sim_format(SL_DTYPE_F32), 0);
    assert_int_equal(sl_sim_format(SL_DTYPE_Q8G64), 1);
    assert_int_equal(sl_sim_format(SL_DTYPE_Q6_K), 1);
    assert_int_equal(sl_sim_format(SL_DTYPE_Q4G64), 2);
    assert_int_equal(sl_sim_format(SL_DTYPE_Q5_1), 2);
}

static void rates_that_are_missing_are_named(void **state) {
    (void)state;
    sl_sim_rates rates = sim_t4();
    assert_int_equal(sl_sim_rates_check(&rates), SL_OK);
    rates.h2d_bps.n = 0;
    assert_int_equal(sl_sim_rates_check(&rates), SL_ERR_ARG);
    rates = sim_t4();
    rates.memory_bps = NAN;
    assert_int_equal(sl_sim_rates_check(&rates), SL_ERR_ARG);
    rates = sim_t4();
    rates.gemm_flops[0].y[3] = 0;
    assert_int_equal(sl_sim_rates_check(&rates), SL_ERR_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queue_does_its_work_in_order_and_alone),
        cmocka_unit_test(mark_on_an_idle_queue_is_reached_at_once),
        cmocka_unit_test(wait_holds_a_queue_until_the_mark),
        cmocka_unit_test(copies_in_one_direction_take_turns),
        cmocka_unit_test(both_directions_share_the_duplex_rate),
        cmocka_unit_test(copies_to_the_device_slow_its_computation),
        cmocka_unit_test(host_memory_is_shared_by_copies_and_attention),
        cmocka_unit_test(thousands_of_items_pass_in_order),
        cmocka_unit_test(curve_between_points_is_linear_in_the_logarithm),
        cmocka_unit_test(format_is_the_one_of_the_nearest_size),
        cmocka_unit_test(rates_that_are_missing_are_named),
    };
    return cmocka_run_group_tests_name("sim_machine", tests, NULL, NULL);
}
