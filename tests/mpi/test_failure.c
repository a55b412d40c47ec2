/* A failure on any rank ends all ranks with one message, while opening and in mid-run, and nothing
 * hangs.  Any number of ranks from 2. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "mpi_test.h"
#include "support/direct.h"

enum { PROMPT = 40, GENERATE = 12, N_REQUESTS = 10 };

static const char model[] = SL_TESTS_DIR "/golden/models/qwen2";

/* The real operator, and how many calls it is from failing; -1: never. */
static sl_status (*real_linear)(sl_backend *, void *, int, const void *, const sl_weight *,
                                const float *, int, int);
static int calls_left = -1;

static sl_status failing_linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                                const float *bias, int n_rows, int accumulate) {
    if (calls_left == 0) return SL_FAIL(SL_ERR_DEVICE, "planted failure");
    if (calls_left > 0) calls_left--;
    return real_linear(be, y, ldy, x, w, bias, n_rows, accumulate);
}

static sl_backend *open_backend(sl_backend_ops *patched, int is_direct) {
    const sl_cpu_options options = {.n_threads = 1, .device_bytes = is_direct ? 64 << 20 : 0};
    sl_backend *be = NULL;
    CHECK_OK(sl_cpu_backend_open(&options, &be));
    real_linear = be->ops->linear;
    calls_left = -1; /* opening tries the operators, too */
    *patched = *be->ops;
    patched->linear = failing_linear;
    be->ops = patched;
    return be;
}

static void submit_all(sl_engine *e) {
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t prompt[PROMPT];
        for (int j = 0; j < PROMPT; j++) prompt[j] = (i * 31 + j * 7) % 97;
        const sl_engine_request r = {.prompt = prompt,
                                     .n_prompt = PROMPT - i,
                                     .max_tokens = GENERATE,
                                     .n = 1,
                                     .sampling = {.top_p = 1, .repetition_penalty = 1}};
        uint64_t id;
        CHECK_OK(sl_engine_submit(e, &r, &id));
    }
    sl_engine_finish(e);
}

/* Steps until done or failed; *n_results counts the requests that were answered. */
static sl_status run(sl_engine *e, int is_first, int *n_results) {
    int done = 0;
    *n_results = 0;
    while (!done) {
        const sl_status st = sl_engine_step(e, &done);
        if (st != SL_OK) return st;
        const sl_engine_result *res = NULL;
        while (is_first && sl_engine_take(e, &res) == SL_OK && res) {
            CHECK(res->choices[0].n_tokens == GENERATE);
            ++*n_results;
            sl_engine_release(e, res);
        }
    }
    return SL_OK;
}

/* is_direct: hidden states go from device to device. */
static void one_run(const sl_source *source, int bad_rank, int after_calls, int is_direct) {
    sl_transport *mpi = NULL, *t = NULL;
    sl_backend_ops patched;
    sl_backend *be = open_backend(&patched, is_direct);
    sl_engine *e = NULL;
    CHECK_OK(sl_transport_open_mpi(&mpi));
    t = mpi;
    if (is_direct) CHECK_OK(direct_open(mpi, &t));
    sl_policy policy;
    sl_policy_init(&policy);
    policy.cpu_budget_bytes = 64 << 20;
    policy.micro_batch = 2;
    policy.num_micro_batches = 2;
    policy.max_rows = 16;
    CHECK_OK(sl_engine_open(source, be, t, &policy, NULL, &e));
    calls_left = t->rank == bad_rank ? after_calls : -1;
    if (t->rank == 0) submit_all(e);

    const double start_s = sl_clock_s();
    int n_results;
    const sl_status st = run(e, t->rank == 0, &n_results);
    CHECK_THAT(sl_clock_s() - start_s < 20.0, "ending took %.1f s", sl_clock_s() - start_s);
    if (bad_rank < 0) {
        CHECK_THAT(st == SL_OK, "%s", sl_error_message());
        CHECK(t->rank != 0 || n_results == N_REQUESTS);
    } else {
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d: planted failure", bad_rank);
        CHECK_THAT(st == SL_ERR_DEVICE, "status is %s", sl_status_name(st));
        CHECK_THAT(strstr(sl_error_message(), expected) != NULL, "the message is \"%s\"",
                   sl_error_message());
        CHECK(n_results < N_REQUESTS);
    }
    sl_engine_close(e);
    sl_backend_close(be);
    if (is_direct) sl_transport_close(t);
    sl_transport_close(mpi);
}

/* One rank's budget is too small: no rank opens, all say why. */
static void opening_fails_everywhere(const sl_source *source, int bad_rank) {
    sl_transport *t = NULL;
    sl_backend_ops patched;
    sl_backend *be = open_backend(&patched, 0);
    sl_engine *e = NULL;
    CHECK_OK(sl_transport_open_mpi(&t));
    sl_policy policy;
    sl_policy_init(&policy);
    policy.cpu_budget_bytes = t->rank == bad_rank ? 4096 : 64 << 20;
    char expected[64];
    snprintf(expected, sizeof expected, "rank %d: ", bad_rank);
    CHECK_FAILS(sl_engine_open(source, be, t, &policy, NULL, &e), SL_ERR_NOMEM, expected);
    CHECK(e == NULL);
    sl_backend_close(be);
    sl_transport_close(t);
}

/* Ranks that were given different options are told so. */
static void different_options_are_refused(const sl_source *source) {
    sl_transport *t = NULL;
    sl_backend_ops patched;
    sl_backend *be = open_backend(&patched, 0);
    sl_engine *e = NULL;
    CHECK_OK(sl_transport_open_mpi(&t));
    sl_policy policy;
    sl_policy_init(&policy);
    policy.cpu_budget_bytes = 64 << 20;
    policy.micro_batch = 2 + (t->rank == 1);
    CHECK_FAILS(sl_engine_open(source, be, t, &policy, NULL, &e), SL_ERR_ARG, "different");
    sl_backend_close(be);
    sl_transport_close(t);
}

int main(int argc, char **argv) {
    sl_mpi_info info;
    sl_source *source = NULL;
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    CHECK_OK(sl_source_open(model, 0, &source));
    const int n_layers = sl_source_config(source)->n_layers;
    if (info.n_ranks > n_layers) {
        sl_source_close(source);
        sl_mpi_info_free(&info);
        sl_mpi_close();
        if (info.rank == 0) printf("skipped: %d ranks, %d layers\n", info.n_ranks, n_layers);
        return 77;
    }
    one_run(source, -1, 0, 0);
    for (int bad = 0; bad < info.n_ranks; bad++) {
        opening_fails_everywhere(source, bad);
        for (int is_direct = 0; is_direct < 2; is_direct++) {
            one_run(source, bad, 0, is_direct);
            one_run(source, bad, 3, is_direct);
            one_run(source, bad, 150, is_direct);
        }
    }
    one_run(source, -1, 0, 1);
    one_run(source, -1, 0, 0);
    different_options_are_refused(source);
    sl_source_close(source);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return 0;
}
