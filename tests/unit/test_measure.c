/* Unit tests of policy/measure: all measurements on small memory and in little time, where the
 * host computes, and with a stand-in for a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_host_attention.h"
#include "measure_machine.h"

enum { N_THREADS = 2, MIB = 1 << 20 };

typedef struct {
    sl_backend *be;
    sl_host_attention *ha;
    sl_transport *alone;
    sl_measure_options options;
    double last_frac;
    int n_calls;
} machine;

static void on_progress(void *user, const char *what, double done_frac) {
    machine *m = user;
    assert_true(what[0] != '\0');
    assert_true(done_frac >= m->last_frac && done_frac <= 1.0 + 1e-9);
    m->last_frac = done_frac;
    m->n_calls++;
}

static void machine_open(machine *m, size_t device_bytes) {
    const sl_cpu_options cpu = {.n_threads = N_THREADS, .device_bytes = device_bytes};
    const sl_cpu_host_options host = {.n_threads = N_THREADS};
    *m = (machine){0};
    assert_int_equal(sl_cpu_backend_open(&cpu, &m->be), SL_OK);
    assert_int_equal(sl_cpu_host_attention_open(&host, &m->ha), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&m->alone), SL_OK);
    m->options = (sl_measure_options){.backend = m->be,
                                      .host_attention = m->ha,
                                      .n_threads = N_THREADS,
                                      .transport = m->alone,
                                      .host_bytes = 128 * MIB,
                                      .disk_dir = "/tmp",
                                      .disk_bytes = 8 * MIB,
                                      .sample_s = 0.002,
                                      .limit_s = 20.0,
                                      .on_progress = on_progress,
                                      .user = m};
}

static void machine_close(machine *m) {
    sl_transport_close(m->alone);
    sl_host_attention_close(m->ha);
    sl_backend_close(m->be);
}

/* Capacities are the caller's. */
static void add_capacities(sl_profile *p, int with_device) {
    snprintf(p->device, sizeof p->device, "%s", with_device ? "stand-in" : "");
    p->gpu_bytes = with_device ? 1e9 : 0;
    p->cpu_bytes = 1e9;
    p->disk_bytes = p->disk_read_bps.n > 0 ? 1e9 : 0;
}

static void measure_on_the_host_fills_a_whole_profile(void **state) {
    (void)state;
    machine m;
    sl_profile p;
    char engine[SL_MEASURE_TEXT];
    machine_open(&m, 0);
    const double start_s = sl_clock_s();
    const sl_status st = sl_measure_machine(&m.options, &p, engine);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    assert_true(sl_clock_s() - start_s < 60.0); /* 2 s on two idle cores */
    add_capacities(&p, 0);
    assert_int_equal(sl_profile_check(&p), SL_OK);
    assert_int_equal(p.n_threads, N_THREADS);
    assert_int_equal(p.h2d_bps.n, 0);
    assert_true(p.dram_bps > 1e7 && p.dram_bps < 1e13);
    assert_true(p.dram_beside_h2d_bps == p.dram_bps);
    assert_true(p.compute_beside_h2d_frac == 0.0);
    assert_int_equal(p.dram_threads_bps.n, 2);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        assert_true(p.gemm_flops[f].n > 0 && p.gemm_flops[f].y[0] > 1e5);
        assert_true(p.attend_bps[f].n > 0 && p.attend_bps[f].y[0] > 1e5);
        assert_true(p.prefill_attend_flops[f].n > 0);
        assert_true(p.host_attend_bps[f].n > 0 && p.host_attend_bps[f].y[0] > 1e5);
    }
    assert_true(p.disk_read_bps.n > 0 && p.disk_write_bps.n > 0);
    assert_true(p.memory_bps > 1e7 && p.host_job_s > 0.0 && p.layer_s + p.sweep_s > 0.0);
    assert_true(p.wire_bps == 0.0 && p.wire_latency_s == 0.0);
    assert_non_null(strstr(engine, ", "));
    assert_true(m.last_frac > 0.999 && m.n_calls > 20);
    machine_close(&m);
}

static void measure_of_a_device_adds_its_links(void **state) {
    (void)state;
    machine m;
    sl_profile p;
    char engine[SL_MEASURE_TEXT];
    machine_open(&m, 64 * MIB);
    m.options.disk_dir = NULL;
    const size_t used = m.be->ops->device->used_bytes(m.be);
    const sl_status st = sl_measure_machine(&m.options, &p, engine);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    add_capacities(&p, 1);
    assert_int_equal(sl_profile_check(&p), SL_OK);
    assert_true(p.h2d_bps.n > 2 && p.d2h_bps.n == p.h2d_bps.n);
    assert_true(p.duplex_bps > 1e6 && p.dram_beside_h2d_bps > 1e6);
    assert_true(p.compute_beside_h2d_frac > 0.0 && p.compute_beside_h2d_frac <= 1.0);
    assert_int_equal(p.disk_read_bps.n, 0);
    assert_string_equal(engine, "");
    assert_int_equal(m.be->ops->device->used_bytes(m.be), used); /* all given back */
    machine_close(&m);
}

static void measure_that_is_late_ends_each_curve_early(void **state) {
    (void)state;
    machine m;
    sl_profile p;
    machine_open(&m, 0);
    m.options.limit_s = 1e-9;
    const sl_status st = sl_measure_machine(&m.options, &p, NULL);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    add_capacities(&p, 0);
    assert_int_equal(sl_profile_check(&p), SL_OK);
    assert_int_equal(p.gemm_flops[2].n, 1);
    assert_int_equal(p.disk_read_bps.n, 1);
    machine_close(&m);
}

static void measure_in_a_folder_that_is_missing_names_it(void **state) {
    (void)state;
    machine m;
    sl_profile p = {.n_threads = 77};
    machine_open(&m, 0);
    m.options.limit_s = 1e-9;
    m.options.disk_dir = "/no/such/folder";
    assert_int_equal(sl_measure_machine(&m.options, &p, NULL), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/no/such/folder"));
    assert_int_equal(p.n_threads, 77);
    machine_close(&m);
}

static void measure_without_memory_is_refused(void **state) {
    (void)state;
    machine m;
    sl_profile p;
    machine_open(&m, 0);
    m.options.host_bytes = 4096;
    assert_int_equal(sl_measure_machine(&m.options, &p, NULL), SL_ERR_NOMEM);
    m.options.host_bytes = 0;
    assert_int_equal(sl_measure_machine(&m.options, &p, NULL), SL_ERR_ARG);
    machine_close(&m);
}

typedef struct {
    int n_calls;
} counter;

static sl_status count_call(void *context, int run) {
    counter *c = context;
    assert_int_equal(run, c->n_calls);
    c->n_calls++;
    sl_clock_sleep(1e-3);
    return SL_OK;
}

static void time_of_work_is_about_what_it_takes(void **state) {
    (void)state;
    machine m;
    sl_measure measure;
    counter c = {0};
    double seconds = 0.0;
    machine_open(&m, 0);
    m.options.sample_s = 0.02;
    assert_int_equal(sl_measure_open(&m.options, &measure), SL_OK);
    assert_int_equal(sl_measure_time(&measure, count_call, &c, &seconds), SL_OK);
    assert_true(seconds >= 1e-3 && seconds < 0.1); /* sleeps may be long where much runs */
    assert_true(c.n_calls >= 2);
    sl_measure_close(&measure);
    machine_close(&m);
}

static void median_is_the_middle_one(void **state) {
    (void)state;
    double three[] = {3.0, -1.0, 2.0}, four[] = {4.0, 1.0, 3.0, 2.0}, one[] = {5.0};
    assert_true(sl_measure_median(three, 3) == 2.0);
    assert_true(sl_measure_median(four, 4) == 3.0);
    assert_true(sl_measure_median(one, 1) == 5.0);
}

static void rounding_keeps_three_digits(void **state) {
    (void)state;
    assert_true(sl_measure_round(53712345678.0) == 53.7e9);
    assert_true(sl_measure_round(1.23456e-5) == 1.23e-5);
    assert_true(sl_measure_round(0.0) == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measure_on_the_host_fills_a_whole_profile),
        cmocka_unit_test(measure_of_a_device_adds_its_links),
        cmocka_unit_test(measure_that_is_late_ends_each_curve_early),
        cmocka_unit_test(measure_in_a_folder_that_is_missing_names_it),
        cmocka_unit_test(measure_without_memory_is_refused),
        cmocka_unit_test(time_of_work_is_about_what_it_takes),
        cmocka_unit_test(median_is_the_middle_one),
        cmocka_unit_test(rounding_keeps_three_digits),
    };
    return cmocka_run_group_tests_name("measure", tests, NULL, NULL);
}
