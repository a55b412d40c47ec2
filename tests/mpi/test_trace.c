/* Traces on any number of ranks from 2: the spans of all of them arrive, on one clock. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "job/trace.h"
#include "mpi_test.h"
#include "transport_mpi.h"

enum { MAX_RANKS = 16 };

/* Different for each rank, with several rounds of gathering for the last ones and none for one. */
static int n_spans_of(int rank) {
    return rank == 1 ? 3 : 3000 * rank;
}

static void write_and_read(sl_trace *trace, const sl_transport *t, const char *path,
                           json_t **root_out) {
    CHECK_OK(sl_trace_write(trace, path));
    *root_out = NULL;
    if (t->rank != 0) return;
    json_error_t error;
    *root_out = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    CHECK_THAT(*root_out, "%s:%d: %s", path, error.line, error.text);
}

static void spans_of_all_ranks_arrive_in_order(sl_transport *t, const char *path) {
    static const char *const names[] = {"layer", "send", "only of odd ranks"};
    sl_trace *trace = NULL;
    json_t *root, *e;
    CHECK_OK(sl_trace_open(t, 0, &trace));
    CHECK_OK(sl_trace_start(trace));
    const double now_s = sl_clock_s();
    for (int i = 0; i < n_spans_of(t->rank); i++) {
        const char *name = names[t->rank % 2 ? 2 - i % 3 : i % 2]; /* numbered differently */
        const sl_span span = {name,
                              (sl_queue)(t->rank % SL_QUEUE_COUNT),
                              i,
                              t->rank,
                              now_s + 1e-6 * i,
                              now_s + 1e-6 * (i + 1),
                              1};
        sl_trace_add(trace, &span);
    }
    write_and_read(trace, t, path, &root);
    int n[MAX_RANKS] = {0}, n_named = 0;
    size_t k;
    json_array_foreach(json_object_get(root, "traceEvents"), k, e) {
        const char *name = json_string_value(json_object_get(e, "name"));
        const int rank = (int)json_integer_value(json_object_get(e, "pid"));
        const int tid = (int)json_integer_value(json_object_get(e, "tid"));
        const json_t *args = json_object_get(e, "args");
        CHECK(rank >= 0 && rank < t->n_ranks);
        n_named += strcmp(name, "process_name") == 0;
        if (strcmp(json_string_value(json_object_get(e, "ph")), "X") != 0) continue;
        const int i = n[rank]++;
        CHECK(tid == rank % SL_QUEUE_COUNT);
        CHECK(json_integer_value(json_object_get(args, "layer")) == i);
        CHECK(json_integer_value(json_object_get(args, "micro_batch")) == rank);
        CHECK_THAT(strcmp(name, names[rank % 2 ? 2 - i % 3 : i % 2]) == 0,
                   "span %d of rank %d is called %s", i, rank, name);
    }
    if (root) {
        CHECK(n_named == t->n_ranks);
        for (int r = 0; r < t->n_ranks; r++)
            CHECK_THAT(n[r] == n_spans_of(r), "%d spans of rank %d", n[r], r);
    }
    json_decref(root);
    sl_trace_close(trace);
}

/* One moment, seen by all: the ranks leave a collective, each some time after the last has come. */
static void ranks_share_one_clock(sl_transport *t, const char *path) {
    sl_trace *trace = NULL;
    json_t *root, *e;
    double first_us = 0, last_us = 0;
    CHECK_OK(sl_trace_open(t, 0, &trace));
    CHECK_OK(sl_trace_start(trace));
    CHECK_OK(t->ops->agree(t, SL_OK));
    const double now_s = sl_clock_s();
    const sl_span span = {"now", SL_QUEUE_COMPUTE, -1, -1, now_s, now_s + 1, 0};
    sl_trace_add(trace, &span);
    write_and_read(trace, t, path, &root);
    size_t k;
    int n = 0;
    json_array_foreach(json_object_get(root, "traceEvents"), k, e) {
        if (strcmp(json_string_value(json_object_get(e, "name")), "now") != 0) continue;
        const double us = json_number_value(json_object_get(e, "ts"));
        first_us = n == 0 ? us : fmin(first_us, us);
        last_us = fmax(last_us, us);
        n++;
    }
    CHECK(!root || n == t->n_ranks);
    /* Far more than it takes, far less than the hours that clocks of hosts are apart. */
    CHECK_THAT(last_us - first_us < 2e6, "%.0f us apart", last_us - first_us);
    json_decref(root);
    sl_trace_close(trace);
}

static void each_rank_keeps_an_equal_part(sl_transport *t, const char *path) {
    sl_trace *trace = NULL;
    json_t *root;
    CHECK_OK(sl_trace_open(t, (size_t)t->n_ranks * 10, &trace));
    CHECK_OK(sl_trace_start(trace));
    for (int i = 0; i < 12; i++) {
        const sl_span span = {"layer", SL_QUEUE_COMPUTE, i, -1, i, i + 1, 0};
        sl_trace_add(trace, &span);
    }
    CHECK(sl_trace_n_kept(trace) == 10 && sl_trace_n_dropped(trace) == 2);
    write_and_read(trace, t, path, &root);
    const json_t *other = json_object_get(root, "otherData");
    CHECK(!root || json_integer_value(json_object_get(other, "spans")) == 10 * t->n_ranks);
    CHECK(!root || json_integer_value(json_object_get(other, "dropped_spans")) == 2 * t->n_ranks);
    json_decref(root);
    sl_trace_close(trace);
}

static void a_failure_of_the_first_rank_is_told_to_all(sl_transport *t) {
    sl_trace *trace = NULL;
    CHECK_OK(sl_trace_open(t, 0, &trace));
    CHECK_OK(sl_trace_start(trace));
    CHECK_FAILS(sl_trace_write(trace, "/nonexistent/t.json"), SL_ERR_IO,
                "rank 0: open trace /nonexistent/t.json");
    if (access("/dev/full", W_OK) == 0)
        CHECK_FAILS(sl_trace_write(trace, "/dev/full"), SL_ERR_IO, "rank 0: write trace /dev/full");
    sl_trace_close(trace);
}

int main(int argc, char **argv) {
    sl_mpi_info info = {0};
    char path[] = "/tmp/sl-test-XXXXXX";
    sl_transport *t = NULL;
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    CHECK_THAT(info.n_ranks >= 2 && info.n_ranks <= MAX_RANKS, "%d ranks", info.n_ranks);
    CHECK_OK(sl_transport_open_mpi(&t));
    if (t->rank == 0) {
        const int fd = mkstemp(path);
        CHECK(fd >= 0);
        close(fd);
    }
    spans_of_all_ranks_arrive_in_order(t, path);
    ranks_share_one_clock(t, path);
    each_rank_keeps_an_equal_part(t, path);
    a_failure_of_the_first_rank_is_told_to_all(t);
    if (t->rank == 0) unlink(path);
    sl_transport_close(t);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return 0;
}
