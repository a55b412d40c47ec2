/* Unit tests of src/job/html.c, chart.c and report_html.c: pages whose text is only text, whole
 * files or none, and words in the place of drawings that would be empty. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "job/chart.h"
#include "job/html.h"
#include "job/report_html.h"
#include "support/files.h"

/* The file as a text, the caller's to free. */
static char *read_text(const char *path) {
    buffer b = read_whole(path);
    put(&b, "", 1);
    return (char *)b.at;
}

static void text_is_escaped_and_made_valid(void **state) {
    char path[4096];
    sl_html *h = NULL;
    path_in(*state, "page.html", path);
    assert_int_equal(sl_html_open(path, &h), SL_OK);
    sl_html_text(h, "<a href=\"x\">&'</a>\x01\xff\xc3\xa9\n");
    sl_html_text(h, NULL);
    assert_int_equal(sl_html_close(h, 1), SL_OK);
    char *text = read_text(path);
    assert_string_equal(text, "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;"
                              "\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9\n");
    free(text);
}

static void numbers_are_such_as_drawings_take(void **state) {
    char path[4096];
    sl_html *h = NULL;
    path_in(*state, "page.html", path);
    assert_int_equal(sl_html_open(path, &h), SL_OK);
    sl_html_number(h, -1.25, 2);
    sl_html_raw(h, " ");
    sl_html_number(h, NAN, 1);
    sl_html_raw(h, " ");
    sl_html_number(h, -INFINITY, 0);
    sl_html_raw(h, " ");
    sl_html_number(h, 1e300, 1); /* long, but whole */
    assert_int_equal(sl_html_close(h, 1), SL_OK);
    char *text = read_text(path);
    assert_int_equal(strncmp(text, "-1.25 0.0 0 1000000", 19), 0);
    assert_int_equal(strlen(text), 12 + 301 + 2);
    free(text);
}

static void a_page_appears_whole_or_not_at_all(void **state) {
    char path[4096];
    sl_html *h = NULL;
    struct stat info;
    path_in(*state, "page.html", path);
    write_bytes(path, "before", 6);
    assert_int_equal(sl_html_open(path, &h), SL_OK);
    sl_html_raw(h, "half");
    assert_int_equal(sl_html_close(h, 0), SL_OK);
    char *text = read_text(path);
    assert_string_equal(text, "before");
    free(text);
    assert_int_equal(sl_html_open(path, &h), SL_OK);
    sl_html_raw(h, "after");
    text = read_text(path);
    assert_string_equal(text, "before");
    free(text);
    assert_int_equal(sl_html_close(h, 1), SL_OK);
    text = read_text(path);
    assert_string_equal(text, "after");
    free(text);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(unlink(path), 0);
    /* Nothing else is in the folder. */
    assert_int_equal(rmdir(*state), 0);
    assert_int_equal(mkdir(*state, 0700), 0);
}

static void what_cannot_be_written_is_named(void **state) {
    char path[4096];
    sl_html *const untouched = (sl_html *)(uintptr_t)0x1;
    sl_html *h = untouched;
    path_in(*state, "none/page.html", path);
    assert_int_equal(sl_html_open(path, &h), SL_ERR_IO);
    assert_ptr_equal(h, untouched);
    assert_non_null(strstr(sl_error_message(), path));
    assert_int_equal(sl_html_open(*state, &h), SL_ERR_IO); /* a folder */
    assert_int_equal(sl_html_open("/dev/null", &h), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "no ordinary file"));
    assert_int_equal(sl_html_close(NULL, 1), SL_OK);
}

static void a_page_that_cannot_get_its_name_leaves_nothing(void **state) {
    char path[4096];
    sl_html *h = NULL;
    path_in(*state, "page.html", path);
    assert_int_equal(sl_html_open(path, &h), SL_OK);
    /* A folder came into its place meanwhile. */
    assert_int_equal(mkdir(path, 0700), 0);
    sl_html_raw(h, "text");
    assert_int_equal(sl_html_close(h, 1), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), path));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(*state), 0);
    assert_int_equal(mkdir(*state, 0700), 0);
}

static void steps_and_numbers_are_round(void **state) {
    char text[48];
    (void)state;
    assert_true(sl_chart_step(10, 5) == 2 && sl_chart_step(9, 4) == 5);
    assert_true(fabs(sl_chart_step(0.0007, 4) - 0.0002) < 1e-12);
    assert_true(sl_chart_step(0, 4) == 1 && sl_chart_step(NAN, 4) == 1);
    assert_string_equal(sl_chart_number(0, text, sizeof text), "0");
    assert_string_equal(sl_chart_number(12, text, sizeof text), "12");
    assert_string_equal(sl_chart_number(1234, text, sizeof text), "1.23 k");
    assert_string_equal(sl_chart_number(999600, text, sizeof text), "1 M");
    assert_string_equal(sl_chart_number(2.5e10, text, sizeof text), "25 G");
    assert_string_equal(sl_chart_number(0.012, text, sizeof text), "0.012");
}

/* A run of which there is nothing to tell: no chart of it may break, and none may be blank. */
static void an_empty_report_says_why_charts_are_missing(void **state) {
    char path[4096];
    sl_engine_stats rank = {.rank = 0, .last_layer = 4, .cpu_budget_bytes = 1 << 20};
    sl_policy policy;
    sl_policy_init(&policy);
    const sl_report report = {.program = "run",
                              .model = "</title><script>alert(1)</script>",
                              .backend = "cpu",
                              .transport = "loopback",
                              .policy = &policy,
                              .n_ranks = 1,
                              .ranks = &rank};
    path_in(*state, "page.html", path);
    assert_int_equal(sl_report_html_write(&report, path), SL_OK);
    char *text = read_text(path);
    assert_null(strstr(text, "<script"));
    assert_non_null(strstr(text, "&lt;/title&gt;&lt;script&gt;alert(1)"));
    static const char *const names[] = {"speed",  "queues", "moment", "links",
                                        "memory", "plan",   "prefix"};
    for (int i = 0; i < 7; i++) {
        char id[64];
        snprintf(id, sizeof id, "<figure id=\"chart-%s\">", names[i]);
        const char *at = strstr(text, id);
        if (!at) fail_msg("no %s", id);
        const char *end = strstr(at, "</figure>"), *none = strstr(at, "<div class=\"none\">");
        const int has_words = none && none < end;
        assert_int_equal(has_words, strcmp(names[i], "memory") != 0);
    }
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(text_is_escaped_and_made_valid, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(numbers_are_such_as_drawings_take, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_page_appears_whole_or_not_at_all, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_cannot_be_written_is_named, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_page_that_cannot_get_its_name_leaves_nothing, make_dir,
                                        remove_dir),
        cmocka_unit_test(steps_and_numbers_are_round),
        cmocka_unit_test_setup_teardown(an_empty_report_says_why_charts_are_missing, make_dir,
                                        remove_dir),
    };
    return cmocka_run_group_tests_name("report_html", tests, NULL, NULL);
}
