/* Unit tests of src/job/bins.c, history.c and timeline.c: sums over pieces of time. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "job/history.h"
#include "job/timeline.h"

static void is_near(double a, double b) {
    if (fabs(a - b) > 1e-9 * (1 + fabs(b))) fail_msg("%.17g is not %.17g", a, b);
}

static double sum_of(const double *sum, int n) {
    double s = 0;
    for (int b = 0; b < n; b++) s += sum[b];
    return s;
}

static void bins_grow_with_time_and_stay_half_used(void **state) {
    (void)state;
    sl_bin_axis axis;
    double sum[SL_BINS] = {0};
    sl_bins_begin(&axis, 100);
    assert_int_equal(sl_bins_used(&axis), 0);
    for (int i = 1; i <= 4000; i++) {
        const double end_s = 100 + 0.01 * i;
        const int n_times = sl_bins_reach(&axis, end_s);
        sl_bins_fold(sum, n_times);
        sl_bins_spread(&axis, end_s - 0.01, end_s, 1, sum);
        is_near(sum_of(sum, SL_BINS), i);
        if (i > 100) assert_in_range(sl_bins_used(&axis), SL_BINS / 2, SL_BINS);
    }
    /* The rate is the same in every bin, the last one included, which is not over. */
    const int n = sl_bins_used(&axis);
    for (int b = 0; b < n; b++) {
        const double rate = sum[b] / sl_bins_width_s(&axis, b);
        if (fabs(rate - 100) > 1e-3) fail_msg("bin %d of %d: %g a second", b, n, rate);
    }
    assert_true(sl_bins_width_s(&axis, n) == 0);
}

static void an_amount_is_spread_over_the_time_it_took(void **state) {
    (void)state;
    sl_bin_axis axis;
    double sum[SL_BINS] = {0};
    sl_bins_begin(&axis, 0);
    (void)sl_bins_reach(&axis, 0.128); /* bins of a millisecond */
    sl_bins_spread(&axis, 0.0015, 0.0040, 10, sum);
    is_near(sum[0], 0);
    is_near(sum[1], 2);
    is_near(sum[2], 4);
    is_near(sum[3], 4);
    sl_bins_spread(&axis, 0.050, 0.050, 3, sum); /* at once */
    is_near(sum_of(sum, SL_BINS), 13);
}

static void times_that_make_no_sense_do_no_harm(void **state) {
    (void)state;
    sl_bin_axis axis;
    double sum[SL_BINS] = {0};
    sl_bins_begin(&axis, 5);
    assert_int_equal(sl_bins_reach(&axis, 4), 0);
    assert_int_equal(sl_bins_reach(&axis, NAN), 0);
    sl_bins_spread(&axis, 1, 2, 1, sum);
    sl_bins_spread(&axis, 7, 6, 1, sum);
    (void)sl_bins_reach(&axis, INFINITY);
    sl_bins_spread(&axis, 5, 1e300, 1, sum);
    assert_true(sl_bins_used(&axis) <= SL_BINS);
}

static void a_history_keeps_its_sums(void **state) {
    (void)state;
    sl_history h = {0};
    double at_s = 1000, sums[SL_HISTORY_COUNT] = {0};
    for (int i = 0; i < 3000; i++) {
        double amount[SL_HISTORY_COUNT];
        const double end_s = at_s + 1e-4 * pow(1.01, i % 900);
        for (int s = 0; s < SL_HISTORY_COUNT; s++) {
            amount[s] = (double)((i * 7 + s) % 11);
            sums[s] += amount[s];
        }
        sl_history_add(&h, at_s, end_s, amount);
        at_s = end_s + 1e-5;
    }
    for (int s = 0; s < SL_HISTORY_COUNT; s++) {
        is_near(sum_of(h.sum[s], SL_BINS), sums[s]);
        assert_string_not_equal(sl_history_name((sl_history_series)s), "?");
    }
    is_near(h.axis.start_s, 1000);
    assert_in_range(sl_bins_used(&h.axis), SL_BINS / 2, SL_BINS);
}

/* ---- timeline ---- */

typedef struct {
    sl_transport *transport;
    sl_timeline *timeline;
    double zero_s;
} fixture;

static void open_timeline(fixture *f) {
    assert_int_equal(sl_transport_open_loopback(&f->transport), SL_OK);
    assert_int_equal(sl_timeline_open(f->transport, &f->timeline), SL_OK);
    assert_int_equal(sl_timeline_start(f->timeline), SL_OK);
    f->zero_s = sl_timeline_zero_s(f->timeline);
}

static sl_timeline_rank *end_timeline(fixture *f) {
    sl_timeline_rank *all = NULL;
    assert_int_equal(sl_timeline_gather(f->timeline, &all), SL_OK);
    assert_non_null(all);
    sl_timeline_close(f->timeline);
    sl_transport_close(f->transport);
    return all;
}

static void add(fixture *f, sl_queue queue, int layer, double start_s, double end_s) {
    const sl_span span = {"a name that is longer than what is kept",
                          queue,
                          layer,
                          2,
                          f->zero_s + start_s,
                          f->zero_s + end_s,
                          10};
    sl_timeline_add(f->timeline, &span);
}

static void a_timeline_counts_from_its_start_and_by_queue(void **state) {
    (void)state;
    fixture f;
    open_timeline(&f);
    add(&f, SL_QUEUE_COMPUTE, 0, -1, -0.5); /* before the start */
    add(&f, SL_QUEUE_COMPUTE, 3, 0.01, 0.03);
    add(&f, SL_QUEUE_H2D, -1, 0.02, 0.10);
    sl_timeline_rank *r = end_timeline(&f);
    is_near(sum_of(r->busy_s[SL_QUEUE_COMPUTE], SL_BINS), 0.02);
    is_near(sum_of(r->busy_s[SL_QUEUE_H2D], SL_BINS), 0.08);
    assert_true(fabs(r->axis.start_s) < 1e-12 && fabs(r->axis.end_s - 0.1) < 1e-9);
    assert_int_equal(r->n_spans, 2);
    assert_int_equal(r->span[0].layer, 3);
    assert_int_equal(r->span[0].queue, SL_QUEUE_COMPUTE);
    assert_true(fabs(r->span[0].start_s - 0.01) < 1e-9);
    assert_int_equal(strlen(r->span[0].name), SL_TIMELINE_NAME_BYTES - 1);
    free(r);
}

static void transfers_beside_each_other_count_once(void **state) {
    (void)state;
    fixture f;
    open_timeline(&f);
    add(&f, SL_QUEUE_DISK_READ, 0, 0.00, 0.04);
    add(&f, SL_QUEUE_DISK_READ, 1, 0.01, 0.05);
    add(&f, SL_QUEUE_DISK_READ, 2, 0.02, 0.03); /* inside */
    add(&f, SL_QUEUE_DISK_READ, 3, 0.07, 0.08);
    sl_timeline_rank *r = end_timeline(&f);
    is_near(sum_of(r->busy_s[SL_QUEUE_DISK_READ], SL_BINS), 0.06);
    assert_int_equal(r->n_spans, 4);
    free(r);
}

static void the_moment_is_of_the_later_half_of_a_long_run(void **state) {
    (void)state;
    fixture f;
    const int n = 100000;
    open_timeline(&f);
    for (int i = 0; i < n; i++) add(&f, SL_QUEUE_COMPUTE, i % 7, 0.001 * i, 0.001 * i + 0.0005);
    sl_timeline_rank *r = end_timeline(&f);
    is_near(sum_of(r->busy_s[SL_QUEUE_COMPUTE], SL_BINS), 0.0005 * n);
    assert_int_equal(r->n_spans, SL_TIMELINE_SPANS);
    assert_true(r->span[0].start_s > 0.45 * 0.001 * n);
    assert_true(r->span[SL_TIMELINE_SPANS - 1].end_s <= 0.001 * n);
    free(r);
}

static void a_timeline_that_was_never_started_is_refused(void **state) {
    (void)state;
    sl_transport *transport;
    sl_timeline *timeline;
    sl_timeline_rank *all = NULL;
    assert_int_equal(sl_transport_open_loopback(&transport), SL_OK);
    assert_int_equal(sl_timeline_open(transport, &timeline), SL_OK);
    const sl_span span = {"layer", SL_QUEUE_COMPUTE, 0, 0, 0, 1, 0};
    sl_timeline_add(timeline, &span);
    assert_int_equal(sl_timeline_gather(timeline, &all), SL_ERR_ARG);
    assert_null(all);
    sl_timeline_close(timeline);
    sl_timeline_close(NULL);
    sl_transport_close(transport);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bins_grow_with_time_and_stay_half_used),
        cmocka_unit_test(an_amount_is_spread_over_the_time_it_took),
        cmocka_unit_test(times_that_make_no_sense_do_no_harm),
        cmocka_unit_test(a_history_keeps_its_sums),
        cmocka_unit_test(a_timeline_counts_from_its_start_and_by_queue),
        cmocka_unit_test(transfers_beside_each_other_count_once),
        cmocka_unit_test(the_moment_is_of_the_later_half_of_a_long_run),
        cmocka_unit_test(a_timeline_that_was_never_started_is_refused),
    };
    return cmocka_run_group_tests_name("bins", tests, NULL, NULL);
}
