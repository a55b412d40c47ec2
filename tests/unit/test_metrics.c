/* Unit tests of src/job/metrics.c: the text that Prometheus reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "job/metrics.h"

static void has_line(const sl_json_text *text, const char *line) {
    char whole[512];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(text->data, whole)) fail_msg("no line %s in\n%s", line, text->data);
}

static void counters_are_written_with_help_type_and_labels(void **state) {
    (void)state;
    sl_metrics m = {.n_running = 3, .n_waiting = 2, .n_generated_tokens = 77, .n_stopped = 5};
    m.engine.pages_total = 8;
    m.engine.pages_free = 6;
    sl_json_text text = {0};
    sl_metrics_write(&m, "a \"b\"\\\n", &text);
    assert_int_equal(sl_json_status(&text), SL_OK);
    assert_int_equal(strncmp(text.data, "# HELP sluice:num_requests_running ", 35), 0);
    has_line(&text, "# TYPE sluice:generation_tokens_total counter");
    has_line(&text, "sluice:num_requests_running{model_name=\"a \\\"b\\\"\\\\\\n\"} 3");
    has_line(&text, "sluice:num_requests_waiting{model_name=\"a \\\"b\\\"\\\\\\n\"} 2");
    has_line(&text, "sluice:kv_cache_usage_perc{model_name=\"a \\\"b\\\"\\\\\\n\"} 0.25");
    has_line(&text, "sluice:generation_tokens_total{model_name=\"a \\\"b\\\"\\\\\\n\"} 77");
    has_line(&text, "sluice:request_success_total{model_name=\"a \\\"b\\\"\\\\\\n\","
                    "finished_reason=\"stop\"} 5");
    assert_int_equal(text.data[text.n_bytes - 1], '\n');
    sl_json_free(&text);
}

static void buckets_count_all_that_is_below_them(void **state) {
    (void)state;
    sl_metrics m = {0};
    sl_json_text text = {0};
    sl_histogram_add(&m.whole, 0.01); /* a bound belongs to its bucket */
    sl_histogram_add(&m.whole, 0.2);
    sl_histogram_add(&m.whole, 1e6);
    sl_metrics_write(&m, "m", &text);
    has_line(&text, "# TYPE sluice:e2e_request_latency_seconds histogram");
    has_line(&text, "sluice:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.01\"} 1");
    has_line(&text, "sluice:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.1\"} 1");
    has_line(&text, "sluice:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"0.25\"} 2");
    has_line(&text, "sluice:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"7200\"} 2");
    has_line(&text, "sluice:e2e_request_latency_seconds_bucket{model_name=\"m\",le=\"+Inf\"} 3");
    has_line(&text, "sluice:e2e_request_latency_seconds_count{model_name=\"m\"} 3");
    has_line(&text, "sluice:e2e_request_latency_seconds_sum{model_name=\"m\"} 1000000.21");
    sl_json_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_are_written_with_help_type_and_labels),
        cmocka_unit_test(buckets_count_all_that_is_below_them),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
