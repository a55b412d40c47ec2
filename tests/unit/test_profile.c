/* Unit tests of policy/profile: curves, formats, checks, and the files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "profile.h"

static void assert_near(double got, double want) {
    if (!(got > want * (1 - 1e-9) && got < want * (1 + 1e-9)))
        fail_msg("%.17g, expected %.17g", got, want);
}

static sl_curve curve_of(double x0, double y0, double x1, double y1) {
    sl_curve curve = {0};
    assert_int_equal(sl_curve_add(&curve, x0, y0), SL_OK);
    assert_int_equal(sl_curve_add(&curve, x1, y1), SL_OK);
    return curve;
}

/* A machine with everything; all numbers differ. */
static sl_profile machine(void) {
    sl_profile p = {.name = "a \"machine\"",
                    .source = "made up",
                    .device = "a device",
                    .n_threads = 7,
                    .gpu_bytes = 16e9,
                    .cpu_bytes = 64e9,
                    .disk_bytes = 1e12,
                    .h2d_bps = curve_of(65536, 16e9, 16777216, 52.5e9),
                    .d2h_bps = curve_of(65536, 17e9, 16777216, 55.2e9),
                    .duplex_bps = 85e9,
                    .compute_beside_h2d_frac = 0.9,
                    .dram_bps = 148e9 + 1.0 / 3,
                    .dram_beside_h2d_bps = 163e9,
                    .dram_threads_bps = curve_of(1, 15e9, 16, 148e9),
                    .disk_read_bps = curve_of(4096, 0.1e9, 1048576, 1.2e9),
                    .disk_write_bps = curve_of(4096, 0.2e9, 1048576, 1.1e9),
                    .wire_bps = 3e9,
                    .wire_latency_s = 20e-6,
                    .memory_bps = 3e12,
                    .layer_s = 60e-6,
                    .sweep_s = 1e-3,
                    .host_job_s = 40e-6};
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        p.host_attend_bps[f] = curve_of(64, 1e9 + f, 4096, 2e9 + f);
        p.gemm_flops[f] = curve_of(1, 1e12 + f, 4096, 700e12 + f);
        p.gemm_small_flops[f] = curve_of(1, 0.5e12 + f, 2048, 300e12 + f);
        p.gemm_large_flops[f] = curve_of(1, 1.5e12 + f, 2048, 600e12 + f);
        p.attend_bps[f] = curve_of(1, 1e11 + f, 256, 2e12 + f);
        p.prefill_attend_flops[f] = curve_of(128, 1e14 + f, 2048, 3e14 + f);
    }
    return p;
}

static void curve_between_points_is_linear_in_the_logarithm(void **state) {
    (void)state;
    const sl_curve curve = curve_of(1, 10, 16, 50);
    assert_near(sl_curve_at(&curve, 4), 30);
    assert_near(sl_curve_at(&curve, 2), 20);
    assert_near(sl_curve_at(&curve, 16), 50);
    assert_near(sl_curve_at(&curve, 1), 10);
}

static void curve_beyond_its_points_is_constant(void **state) {
    (void)state;
    const sl_curve curve = curve_of(2, 10, 16, 50), none = {0};
    sl_curve one = {0};
    assert_int_equal(sl_curve_add(&one, 5, 3), SL_OK);
    assert_near(sl_curve_at(&curve, 0.001), 10);
    assert_near(sl_curve_at(&curve, 0), 10);
    assert_near(sl_curve_at(&curve, 1e30), 50);
    assert_near(sl_curve_at(&one, 1), 3);
    assert_near(sl_curve_at(&one, 9), 3);
    assert_true(sl_curve_at(&none, 5) == 0.0);
}

static void curve_takes_ascending_points_only(void **state) {
    (void)state;
    sl_curve curve = {0};
    assert_int_equal(sl_curve_add(&curve, 0, 1), SL_ERR_ARG);
    assert_int_equal(sl_curve_add(&curve, 2, 1), SL_OK);
    assert_int_equal(sl_curve_add(&curve, 2, 1), SL_ERR_ARG);
    assert_int_equal(sl_curve_add(&curve, 3, 0), SL_ERR_ARG);
    for (int i = 1; i < SL_CURVE_MAX; i++) assert_int_equal(sl_curve_add(&curve, 2 + i, 1), SL_OK);
    assert_int_equal(sl_curve_add(&curve, 1000, 1), SL_ERR_ARG);
    assert_int_equal(curve.n, SL_CURVE_MAX);
}

static void formats_have_the_index_of_the_nearest_size(void **state) {
    (void)state;
    assert_int_equal(sl_profile_format(SL_DTYPE_F16), 0);
    assert_int_equal(sl_profile_format(SL_DTYPE_BF16), 0);
    assert_int_equal(sl_profile_format(SL_DTYPE_Q8G64), 1);
    assert_int_equal(sl_profile_format(SL_DTYPE_Q6_K), 1);
    assert_int_equal(sl_profile_format(SL_DTYPE_Q4G64), 2);
    assert_int_equal(sl_profile_format(SL_DTYPE_Q4_K), 2);
}

/* The rate that a product's seconds are of. */
static double rate_of(const sl_profile *p, double rows, double elems) {
    return 2 * rows * elems / sl_profile_product_s(p, 2, rows, elems / 128, 128);
}

static void products_go_at_the_rate_of_their_size(void **state) {
    (void)state;
    const double small = SL_PRODUCT_SMALL_ELEMS, medium = SL_PRODUCT_MEDIUM_ELEMS;
    const double large = SL_PRODUCT_LARGE_ELEMS;
    sl_profile p = {0};
    p.gemm_flops[2] = curve_of(1, 20, 100, 400);
    p.gemm_small_flops[2] = curve_of(1, 10, 100, 100);
    p.gemm_large_flops[2] = curve_of(1, 40, 100, 200);
    assert_near(rate_of(&p, 100, small), 100);
    assert_near(rate_of(&p, 100, small / 50), 100);
    assert_near(rate_of(&p, 100, 2 * small), 250); /* half-way in the logarithm */
    assert_near(rate_of(&p, 100, medium), 400);
    assert_near(rate_of(&p, 100, sqrt(medium * large)), 300);
    assert_near(rate_of(&p, 100, large), 200);
    assert_near(rate_of(&p, 100, large * 50), 200);
    assert_near(rate_of(&p, 10, large), 120); /* rows count, too */
    assert_near(sl_profile_product_s(&p, 2, 100, 16384, 4096), 2 * 100 * medium / 400);
    /* What is not unpacked goes by its outputs. */
    p.gemm_flops[0] = p.gemm_flops[2];
    p.gemm_small_flops[0] = p.gemm_small_flops[2];
    assert_near(sl_profile_product_s(&p, 0, 100, 4096, 16384), 2 * 100 * medium / 100);
    assert_near(sl_profile_product_s(&p, 0, 100, 16384, 1024), 2 * 100 * small / 400);
}

static void products_of_sizes_that_nobody_measured_go_at_the_rate_of_all(void **state) {
    (void)state;
    const double elems[] = {1, 1e6, SL_PRODUCT_SMALL_ELEMS, SL_PRODUCT_LARGE_ELEMS, 1e12};
    sl_profile p = {0};
    p.gemm_flops[2] = curve_of(1, 20, 100, 400);
    for (int i = 0; i < 5; i++) assert_near(rate_of(&p, 100, elems[i]), 400);
    p.gemm_small_flops[2] = curve_of(1, 10, 100, 100);
    assert_near(rate_of(&p, 100, 1e6), 100);
    assert_near(rate_of(&p, 100, 1e12), 400);
}

static void check_takes_whole_machines(void **state) {
    (void)state;
    sl_profile p = machine();
    assert_int_equal(sl_profile_check(&p), SL_OK);
    /* No GPU, no disk, one rank. */
    p.device[0] = '\0';
    p.gpu_bytes = p.disk_bytes = p.duplex_bps = p.wire_bps = 0;
    p.h2d_bps.n = p.d2h_bps.n = p.disk_read_bps.n = p.disk_write_bps.n = 0;
    assert_int_equal(sl_profile_check(&p), SL_OK);
}

static void assert_refused(const sl_profile *p, const char *key) {
    assert_int_equal(sl_profile_check(p), SL_ERR_ARG);
    if (!strstr(sl_error_message(), key))
        fail_msg("\"%s\" does not name %s", sl_error_message(), key);
}

static void check_names_the_key_that_is_wrong(void **state) {
    (void)state;
    const sl_profile good = machine();
    sl_profile p = good;
    p.duplex_bps = -1;
    assert_refused(&p, "duplex_bps");
    p = good;
    p.compute_beside_h2d_frac = 1.01;
    assert_refused(&p, "compute_beside_h2d_frac");
    p.compute_beside_h2d_frac = -0.5;
    assert_refused(&p, "compute_beside_h2d_frac");
    p = good;
    p.dram_bps = 1.0 / 0.0;
    assert_refused(&p, "dram_bps");
    p = good;
    p.cpu_bytes = 0;
    assert_refused(&p, "cpu_bytes");
    p = good;
    p.n_threads = 0;
    assert_refused(&p, "n_threads");
    p = good;
    p.h2d_bps.x[1] = p.h2d_bps.x[0];
    assert_refused(&p, "h2d_bps");
    p = good;
    p.gemm_flops[2].y[1] = 0;
    assert_refused(&p, "gemm_flops.q4");
    p = good;
    p.gemm_small_flops[1].y[0] = -1;
    assert_refused(&p, "gemm_small_flops.q8");
    p = good;
    p.gemm_large_flops[0].x[1] = 1;
    assert_refused(&p, "gemm_large_flops.f16");
    p = good;
    p.attend_bps[0].n = 0;
    assert_refused(&p, "attend_bps.f16");
    p = good;
    p.disk_write_bps.n = 0;
    assert_refused(&p, "disk_write_bps");
    p = good;
    p.device[0] = '\0';
    assert_refused(&p, "gpu_bytes");
    p = good;
    memset(p.name, 'x', sizeof p.name);
    assert_refused(&p, "name");
    p = good;
    p.memory_bps = 0;
    assert_refused(&p, "memory_bps");
}

static int make_dir(void **state) {
    char *dir = strdup("/tmp/sl-test-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

static int remove_dir(void **state) {
    const int rc = rmdir(*state); /* fails if a partial file was left behind */
    free(*state);
    return rc;
}

static void file_gives_back_every_bit(void **state) {
    char path[64];
    const sl_profile p = machine();
    sl_profile q;
    memset(&q, 0x55, sizeof q);
    snprintf(path, sizeof path, "%s/p.json", (char *)*state);
    assert_int_equal(sl_profile_write(&p, path), SL_OK);
    assert_int_equal(sl_profile_write(&p, path), SL_OK); /* over an older one */
    assert_int_equal(sl_profile_read(path, &q), SL_OK);
    assert_int_equal(unlink(path), 0);

    sl_json_text a = {0}, b = {0};
    sl_profile_print(&p, &a);
    sl_profile_print(&q, &b);
    assert_string_equal(a.data, b.data);
    sl_json_free(&a);
    sl_json_free(&b);
    assert_true(q.dram_bps == p.dram_bps);
    assert_true(q.gemm_flops[2].y[1] == p.gemm_flops[2].y[1]);
    assert_true(q.gemm_small_flops[1].y[1] == p.gemm_small_flops[1].y[1]);
    assert_true(q.gemm_large_flops[0].y[1] == p.gemm_large_flops[0].y[1]);
    assert_true(q.compute_beside_h2d_frac == p.compute_beside_h2d_frac);
    assert_string_equal(q.name, p.name);
}

static void file_without_optional_keys_stays_as_it_is(void **state) {
    (void)state;
    sl_profile p = machine(), q = {0};
    sl_json_text a = {0}, b = {0};
    memset(p.gemm_small_flops, 0, sizeof p.gemm_small_flops);
    memset(p.gemm_large_flops, 0, sizeof p.gemm_large_flops);
    p.compute_beside_h2d_frac = 0;
    assert_int_equal(sl_profile_check(&p), SL_OK);
    assert_true(sl_profile_lost_frac(&p) == 0);
    sl_profile_print(&p, &a);
    assert_null(strstr(a.data, "gemm_small_flops"));
    assert_null(strstr(a.data, "gemm_large_flops"));
    assert_null(strstr(a.data, "compute_beside_h2d_frac"));
    assert_int_equal(sl_profile_parse(a.data, a.n_bytes, "p.json", &q), SL_OK);
    assert_int_equal(q.gemm_small_flops[0].n + q.gemm_large_flops[2].n, 0);
    sl_profile_print(&q, &b);
    assert_string_equal(a.data, b.data);
    sl_json_free(&a);
    sl_json_free(&b);
}

static void file_that_cannot_be_is_an_io_error(void **state) {
    char path[64];
    const sl_profile p = machine();
    sl_profile q;
    snprintf(path, sizeof path, "%s/no/p.json", (char *)*state);
    assert_int_equal(sl_profile_write(&p, path), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), path));
    assert_int_equal(sl_profile_read(path, &q), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), path));
}

/* The text of machine() with `from` replaced by `to`. */
static sl_status parse_changed(const char *from, const char *to) {
    const sl_profile p = machine();
    sl_profile q = {0};
    sl_json_text text = {0}, changed = {0};
    sl_profile_print(&p, &text);
    const char *at = strstr(text.data, from);
    assert_non_null(at);
    sl_json_bytes(&changed, text.data, (size_t)(at - text.data));
    sl_json_raw(&changed, to);
    sl_json_raw(&changed, at + strlen(from));
    const sl_status st = sl_profile_parse(changed.data, changed.n_bytes, "p.json", &q);
    if (st != SL_OK) assert_int_equal(q.n_threads, 0); /* written on success only */
    sl_json_free(&text);
    sl_json_free(&changed);
    return st;
}

static void assert_format_error(const char *from, const char *to, const char *key) {
    assert_int_equal(parse_changed(from, to), SL_ERR_FORMAT);
    if (!strstr(sl_error_message(), key) || !strstr(sl_error_message(), "p.json"))
        fail_msg("\"%s\" does not name p.json and %s", sl_error_message(), key);
}

static void file_with_a_wrong_key_is_refused_by_name(void **state) {
    (void)state;
    assert_int_equal(parse_changed("made up", "elsewhere"), SL_OK);
    assert_format_error("\"duplex_bps\"", "\"duplex_gbps\"", "duplex_gbps");
    assert_format_error("\"layer_s\": 6e-05,\n", "", "layer_s is missing");
    assert_format_error("\"n_threads\": 7", "\"n_threads\": 7.5", "n_threads");
    assert_format_error("\"n_threads\": 7", "\"n_threads\": 0", "n_threads");
    assert_format_error("\"memory_bps\": 3e+12", "\"memory_bps\": \"3\"", "memory_bps");
    assert_format_error("\"memory_bps\": 3e+12", "\"memory_bps\": -3", "memory_bps");
    assert_format_error("\"compute_beside_h2d_frac\": 0.9", "\"compute_beside_h2d_frac\": 9",
                        "compute_beside_h2d_frac");
    assert_format_error("\"h2d_bps\": [[", "\"h2d_bps\": [5, [", "h2d_bps");
    assert_format_error("\"h2d_bps\": [[65536.0", "\"h2d_bps\": [[65536000000.0", "h2d_bps");
    assert_format_error("\"q8\"", "\"q7\"", "q7");
    assert_format_error("\"gemm_small_flops\": {", "\"gemm_small_flops\": {\"x\": [],", "x");
    assert_format_error("\"gemm_large_flops\": {\n    \"f16\": [",
                        "\"gemm_large_flops\": {\n    \"f16\": [5, ", "gemm_large_flops.f16");
    assert_format_error("\"gemm_small_flops\"", "\"gemm_tiny_flops\"", "gemm_tiny_flops");
    assert_format_error("made up", "\n", "line");
    assert_format_error("\"profile_version\": 1", "\"profile_version\": 2", "profile_version");
    assert_format_error("\"profile_version\": 1,", "", "profile_version is missing");
}

static void profiles_that_come_along_are_whole(void **state) {
    (void)state;
    static const char *const names[] = {"t4", "rtx3090", "h100", "g16", "toy"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        sl_profile p;
        snprintf(path, sizeof path, "%s/../cluster/%s.json", SL_TESTS_DIR, names[i]);
        if (sl_profile_read(path, &p) != SL_OK) fail_msg("%s", sl_error_message());
        assert_true(p.device[0] && p.source[0] && p.disk_bytes > 0);
        for (int f = 0; f < SL_PROFILE_FORMATS; f++)
            assert_true(p.gemm_flops[f].n > 0 && p.attend_bps[f].n > 0 &&
                        p.host_attend_bps[f].n > 0 && p.prefill_attend_flops[f].n > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curve_between_points_is_linear_in_the_logarithm),
        cmocka_unit_test(curve_beyond_its_points_is_constant),
        cmocka_unit_test(curve_takes_ascending_points_only),
        cmocka_unit_test(formats_have_the_index_of_the_nearest_size),
        cmocka_unit_test(products_go_at_the_rate_of_their_size),
        cmocka_unit_test(products_of_sizes_that_nobody_measured_go_at_the_rate_of_all),
        cmocka_unit_test(check_takes_whole_machines),
        cmocka_unit_test(check_names_the_key_that_is_wrong),
        cmocka_unit_test_setup_teardown(file_gives_back_every_bit, make_dir, remove_dir),
        cmocka_unit_test(file_without_optional_keys_stays_as_it_is),
        cmocka_unit_test_setup_teardown(file_that_cannot_be_is_an_io_error, make_dir, remove_dir),
        cmocka_unit_test(file_with_a_wrong_key_is_refused_by_name),
        cmocka_unit_test(profiles_that_come_along_are_whole),
    };
    return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
