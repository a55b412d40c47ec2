/* Unit tests of src/job/trace.c, trace_file.c and trace_clock.c, and of queue names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "job/trace.h"
#include "job/trace_clock.h"
#include "support/files.h"

typedef struct {
    char path[4096];
    sl_transport *transport;
    sl_trace *trace;
    double zero_s; /* no earlier than the trace's start */
    json_t *root;
} fixture;

static void open_trace(fixture *f, const char *dir, size_t max_spans) {
    *f = (fixture){.trace = NULL};
    path_in(dir, "trace.json", f->path);
    assert_int_equal(sl_transport_open_loopback(&f->transport), SL_OK);
    assert_int_equal(sl_trace_open(f->transport, max_spans, &f->trace), SL_OK);
    assert_int_equal(sl_trace_start(f->trace), SL_OK);
    f->zero_s = sl_clock_s();
}

/* Writes the file and reads it back. */
static json_t *write_trace(fixture *f) {
    json_error_t error;
    if (sl_trace_write(f->trace, f->path) != SL_OK) fail_msg("%s", sl_error_message());
    f->root = json_load_file(f->path, JSON_REJECT_DUPLICATES, &error);
    if (!f->root) fail_msg("line %d: %s", error.line, error.text);
    assert_string_equal(json_string_value(json_object_get(f->root, "displayTimeUnit")), "ms");
    return json_object_get(f->root, "traceEvents");
}

static void close_trace(fixture *f) {
    json_decref(f->root);
    sl_trace_close(f->trace);
    sl_transport_close(f->transport);
}

static const char *text_of(const json_t *event, const char *field) {
    const char *text = json_string_value(json_object_get(event, field));
    return text ? text : "";
}

static double number_of(const json_t *event, const char *field) {
    const json_t *number = json_object_get(event, field);
    if (!json_is_number(number)) fail_msg("%s is no number", field);
    return json_number_value(number);
}

static int64_t other_of(const fixture *f, const char *field) {
    return json_integer_value(json_object_get(json_object_get(f->root, "otherData"), field));
}

/* The `nth` event of a phase ("X", "M") with this name; NULL: any name. */
static const json_t *find(const json_t *events, const char *phase, const char *name, int nth) {
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) {
        if (strcmp(text_of(event, "ph"), phase) != 0) continue;
        if (name && strcmp(text_of(event, "name"), name) != 0) continue;
        if (nth-- == 0) return event;
    }
    return NULL;
}

static void add(fixture *f, const char *name, sl_queue queue, double start_s, double end_s) {
    const sl_span span = {name, queue, -1, -1, f->zero_s + start_s, f->zero_s + end_s, 0};
    sl_trace_add(f->trace, &span);
}

static void every_queue_has_a_name_of_its_own(void **state) {
    (void)state;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        assert_string_not_equal(sl_queue_name((sl_queue)q), "?");
        for (int p = 0; p < q; p++)
            assert_string_not_equal(sl_queue_name((sl_queue)p), sl_queue_name((sl_queue)q));
    }
    assert_string_equal(sl_queue_name(SL_QUEUE_COMPUTE), "gpu");
    assert_string_equal(sl_queue_name(SL_QUEUE_WIRE_OUT), "wire-out");
    assert_string_equal(sl_queue_name(SL_QUEUE_COUNT), "?");
    assert_string_equal(sl_queue_name((sl_queue)-1), "?");
}

static void spans_become_events_of_their_rank_and_queue(void **state) {
    fixture f;
    open_trace(&f, *state, 0);
    const sl_span layer = {"layer",         SL_QUEUE_COMPUTE,     7, 3,
                           f.zero_s + 0.25, f.zero_s + 0.2501234, 0};
    const sl_span load = {"weights in", SL_QUEUE_H2D, 0, -1, f.zero_s + 0.1, f.zero_s + 0.2, 4096};
    sl_trace_add(f.trace, &load);
    sl_trace_add(f.trace, &layer);
    const json_t *events = write_trace(&f), *e = find(events, "X", "layer", 0);
    assert_non_null(e);
    assert_int_equal(number_of(e, "pid"), 0);
    assert_int_equal(number_of(e, "tid"), SL_QUEUE_COMPUTE);
    assert_string_equal(text_of(e, "cat"), "gpu");
    /* Microseconds from the start, which was a little before zero_s. */
    assert_true(number_of(e, "ts") >= 250e3 && number_of(e, "ts") < 260e3);
    assert_true(number_of(e, "dur") > 123.39 && number_of(e, "dur") < 123.41);
    const json_t *args = json_object_get(e, "args");
    assert_int_equal(number_of(args, "layer"), 7);
    assert_int_equal(number_of(args, "micro_batch"), 3);
    assert_null(json_object_get(args, "bytes"));

    e = find(events, "X", "weights in", 0);
    args = json_object_get(e, "args");
    assert_int_equal(number_of(args, "layer"), 0);
    assert_int_equal(number_of(args, "bytes"), 4096);
    assert_null(json_object_get(args, "micro_batch"));
    assert_int_equal(other_of(&f, "spans"), 2);
    assert_int_equal(other_of(&f, "dropped_spans"), 0);
    assert_int_equal(sl_trace_n_kept(f.trace), 2);
    close_trace(&f);
}

static void ranks_and_used_queues_are_named(void **state) {
    fixture f;
    open_trace(&f, *state, 0);
    add(&f, "in", SL_QUEUE_WIRE_IN, 0, 1);
    add(&f, "read", SL_QUEUE_DISK_READ, 0, 1);
    const json_t *events = write_trace(&f);
    const json_t *process = json_object_get(find(events, "M", "process_name", 0), "args");
    assert_int_equal(strncmp(text_of(process, "name"), "rank 0 (", 8), 0);
    assert_null(find(events, "M", "process_name", 1));
    assert_null(find(events, "M", "process_labels", 0)); /* nothing was dropped */
    const sl_queue used[] = {SL_QUEUE_DISK_READ, SL_QUEUE_WIRE_IN};
    for (int i = 0; i < 2; i++) {
        const json_t *thread = find(events, "M", "thread_name", i);
        assert_int_equal(number_of(thread, "tid"), used[i]);
        assert_string_equal(text_of(json_object_get(thread, "args"), "name"),
                            sl_queue_name(used[i]));
    }
    assert_null(find(events, "M", "thread_name", 2));
    close_trace(&f);
}

/* More than are gathered at once, with other queues between. */
static void spans_keep_their_order_in_a_queue(void **state) {
    enum { N = 9001 };
    fixture f;
    open_trace(&f, *state, 0);
    for (int i = 0; i < N; i++) {
        const sl_span span = {
            i % 3 ? "layer" : "part", (sl_queue)(i % SL_QUEUE_COUNT), i,        i % 7,
            f.zero_s + 1e-4 * i,      f.zero_s + 1e-4 * (i + 1),      (size_t)i};
        sl_trace_add(f.trace, &span);
    }
    const json_t *events = write_trace(&f);
    double last_us[SL_QUEUE_COUNT] = {0};
    int n = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        if (strcmp(text_of(e, "ph"), "X") != 0) continue;
        const int queue = (int)number_of(e, "tid");
        const json_t *args = json_object_get(e, "args");
        assert_int_equal(queue, n % SL_QUEUE_COUNT);
        assert_int_equal(number_of(args, "layer"), n);
        assert_int_equal(number_of(args, "micro_batch"), n % 7);
        assert_string_equal(text_of(e, "name"), n % 3 ? "layer" : "part");
        assert_true(number_of(e, "ts") >= last_us[queue]);
        last_us[queue] = number_of(e, "ts") + number_of(e, "dur") - 0.01; /* rounded twice */
        n++;
    }
    assert_int_equal(n, N);
    close_trace(&f);
}

static void any_name_makes_a_valid_file(void **state) {
    static const char *const names[] = {"a \"quoted\" name", "back\\slash", "line\nbreak\ttab\x01",
                                        "K\xc3\xb6rper", ""};
    fixture f;
    open_trace(&f, *state, 0);
    for (int i = 0; i < 5; i++) add(&f, names[i], SL_QUEUE_H2D, i, i + 1);
    add(&f, "bytes \xff of no text", SL_QUEUE_H2D, 5, 6);
    const json_t *events = write_trace(&f);
    for (int i = 0; i < 5; i++)
        assert_string_equal(text_of(find(events, "X", NULL, i), "name"), names[i]);
    assert_string_equal(text_of(find(events, "X", NULL, 5), "name"),
                        "bytes \xef\xbf\xbd of no text");
    close_trace(&f);
}

static void names_beyond_the_table_are_summed_up(void **state) {
    static char names[100][80];
    fixture f;
    open_trace(&f, *state, 0);
    for (int i = 0; i < 100; i++) {
        snprintf(names[i], sizeof names[i], "task %d%s", i,
                 i == 3 ? " of a name that is longer than any that is kept" : "");
        add(&f, names[i], SL_QUEUE_COMPUTE, i, i + 1);
    }
    add(&f, "task 5", SL_QUEUE_COMPUTE, 100, 101); /* the same text at another address */
    const json_t *events = write_trace(&f);
    assert_non_null(find(events, "X", "task 62", 0));
    assert_non_null(find(events, "X", "other", 36));
    assert_null(find(events, "X", "other", 37));
    assert_non_null(find(events, "X", "task 5", 1));
    assert_int_equal(strlen(text_of(find(events, "X", NULL, 3), "name")), 47);
    close_trace(&f);
}

static void what_exceeds_the_bound_is_dropped_and_counted(void **state) {
    fixture f;
    open_trace(&f, *state, 5000);
    for (int i = 0; i < 5015; i++) add(&f, "layer", SL_QUEUE_COMPUTE, i, i + 1);
    assert_int_equal(sl_trace_n_kept(f.trace), 5000);
    assert_int_equal(sl_trace_n_dropped(f.trace), 15);
    const json_t *events = write_trace(&f);
    assert_non_null(find(events, "X", "layer", 4999));
    assert_null(find(events, "X", "layer", 5000));
    assert_int_equal(other_of(&f, "spans"), 5000);
    assert_int_equal(other_of(&f, "dropped_spans"), 15);
    const json_t *labels = json_object_get(find(events, "M", "process_labels", 0), "args");
    assert_string_equal(text_of(labels, "labels"), "15 spans dropped");
    close_trace(&f);
}

static void times_that_make_no_sense_do_no_harm(void **state) {
    fixture f;
    open_trace(&f, *state, 0);
    add(&f, "early", SL_QUEUE_COMPUTE, -100, -99);
    add(&f, "backwards", SL_QUEUE_COMPUTE, 2, 1);
    const json_t *events = write_trace(&f);
    assert_true(number_of(find(events, "X", "early", 0), "ts") == 0);
    assert_true(number_of(find(events, "X", "backwards", 0), "dur") == 0);
    close_trace(&f);
}

static void a_trace_without_spans_is_a_trace(void **state) {
    fixture f;
    open_trace(&f, *state, 0);
    const json_t *events = write_trace(&f);
    assert_null(find(events, "X", NULL, 0));
    assert_non_null(find(events, "M", "process_name", 0));
    close_trace(&f);
}

static void spans_of_before_the_start_are_not_kept(void **state) {
    (void)state;
    const sl_span span = {"layer", SL_QUEUE_COMPUTE, 0, 0, 1, 2, 0};
    sl_transport *transport = NULL;
    sl_trace *trace = NULL;
    assert_int_equal(sl_transport_open_loopback(&transport), SL_OK);
    assert_int_equal(sl_trace_open(transport, 0, &trace), SL_OK);
    sl_trace_add(trace, &span);
    assert_int_equal(sl_trace_n_kept(trace), 0);
    assert_int_equal(sl_trace_n_dropped(trace), 0);
    assert_int_equal(sl_trace_write(trace, "/nonexistent"), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "never started"));
    sl_trace_close(trace);
    sl_trace_close(NULL);
    sl_transport_close(transport);
}

static void files_that_cannot_be_written_are_named(void **state) {
    fixture f;
    open_trace(&f, *state, 0);
    for (int i = 0; i < 1000; i++) add(&f, "layer", SL_QUEUE_COMPUTE, i, i + 1);
    assert_int_equal(sl_trace_write(f.trace, "/nonexistent/t.json"), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "open trace /nonexistent/t.json: No such file"));
    if (access("/dev/full", W_OK) == 0) {
        assert_int_equal(sl_trace_write(f.trace, "/dev/full"), SL_ERR_IO);
        assert_non_null(strstr(sl_error_message(), "write trace /dev/full: No space left"));
    }
    write_trace(&f); /* it can be written again */
    close_trace(&f);
}

static void clocks_of_hosts_are_compared_by_the_median(void **state) {
    (void)state;
    sl_trace_clock first = {.host = "node1"}, other = {.host = "node2"};
    for (int i = 0; i < SL_TRACE_CLOCK_ROUNDS; i++) {
        first.at_s[i] = 1000.0 + 1e-3 * i;
        other.at_s[i] = first.at_s[i] + 250.0 + 1e-6 * i;
    }
    other.at_s[2] += 0.3; /* it was late once */
    other.at_s[8] += 0.5; /* and once more */
    first.at_s[5] += 0.4;
    const double ahead_s = sl_trace_clock_ahead_s(&first, &other);
    assert_true(ahead_s > 250.0 - 1e-9 && ahead_s < 250.0 + 1e-5);
    const double back_s = sl_trace_clock_ahead_s(&other, &first);
    assert_true(ahead_s + back_s < 1e-9 && ahead_s + back_s > -1e-9);
    /* Two machines of one name are two machines. */
    strcpy(other.host, "node1");
    assert_true(sl_trace_clock_ahead_s(&first, &other) == ahead_s);
}

static void ranks_of_a_host_have_one_clock(void **state) {
    (void)state;
    sl_trace_clock first = {.host = "node1"}, other = {.host = "node1"};
    for (int i = 0; i < SL_TRACE_CLOCK_ROUNDS; i++) other.at_s[i] = 0.01; /* late, on one core */
    assert_true(sl_trace_clock_ahead_s(&first, &other) == 0);
    strcpy(other.host, "node2");
    assert_true(sl_trace_clock_ahead_s(&first, &other) == 0.01);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_queue_has_a_name_of_its_own),
        IN_FOLDER(spans_become_events_of_their_rank_and_queue),
        IN_FOLDER(ranks_and_used_queues_are_named),
        IN_FOLDER(spans_keep_their_order_in_a_queue),
        IN_FOLDER(any_name_makes_a_valid_file),
        IN_FOLDER(names_beyond_the_table_are_summed_up),
        IN_FOLDER(what_exceeds_the_bound_is_dropped_and_counted),
        IN_FOLDER(times_that_make_no_sense_do_no_harm),
        IN_FOLDER(a_trace_without_spans_is_a_trace),
        cmocka_unit_test(spans_of_before_the_start_are_not_kept),
        IN_FOLDER(files_that_cannot_be_written_are_named),
        cmocka_unit_test(clocks_of_hosts_are_compared_by_the_median),
        cmocka_unit_test(ranks_of_a_host_have_one_clock),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
