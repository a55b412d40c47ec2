/* Unit tests of launch/simulate.c: what a machine's profile becomes, and ranks that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "simulate.c"
#include "support/sim_run.h"

const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};
enum { SIM = 3 };

static const char t4_file[] = SL_TESTS_DIR "/../cluster/t4.json";

static void assert_as_in(const sl_sim_curve *found, const sl_curve *profile, int n) {
    for (int i = 0; i < n; i++) {
        assert_int_equal(found[i].n, profile[i].n);
        for (int p = 0; p < found[i].n; p++) {
            assert_true(found[i].x[p] == profile[i].x[p]);
            assert_true(found[i].y[p] == profile[i].y[p]);
        }
    }
}

static void profile_gives_every_rate(void **state) {
    (void)state;
    sl_profile b;
    assert_int_equal(sl_profile_read(t4_file, &b), SL_OK);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        b.gemm_small_flops[f] = (sl_curve){1, {1}, {1e12 + f}};
        b.gemm_large_flops[f] = (sl_curve){1, {1}, {2e12 + f}};
    }
    b.compute_beside_h2d_frac = 0.75;
    const sl_sim_rates a = sl_simulated_rates(&b);
    assert_true(a.compute_beside_h2d_frac == 0.75);
    const double found[] = {a.gpu_bytes,      a.cpu_bytes, a.disk_bytes, a.duplex_bps,
                            a.dram_bps,       a.wire_bps,  a.memory_bps, a.dram_beside_h2d_bps,
                            a.wire_latency_s, a.layer_s,   a.sweep_s,    a.host_job_s};
    const double expected[] = {b.gpu_bytes,      b.cpu_bytes, b.disk_bytes, b.duplex_bps,
                               b.dram_bps,       b.wire_bps,  b.memory_bps, b.dram_beside_h2d_bps,
                               b.wire_latency_s, b.layer_s,   b.sweep_s,    b.host_job_s};
    assert_memory_equal(found, expected, sizeof found);
    assert_as_in(&a.h2d_bps, &b.h2d_bps, 1);
    assert_as_in(&a.d2h_bps, &b.d2h_bps, 1);
    assert_as_in(&a.disk_read_bps, &b.disk_read_bps, 1);
    assert_as_in(&a.disk_write_bps, &b.disk_write_bps, 1);
    assert_as_in(a.host_attend_bps, b.host_attend_bps, SL_SIM_FORMATS);
    assert_as_in(a.gemm_flops, b.gemm_flops, SL_SIM_FORMATS);
    assert_as_in(a.gemm_small_flops, b.gemm_small_flops, SL_SIM_FORMATS);
    assert_as_in(a.gemm_large_flops, b.gemm_large_flops, SL_SIM_FORMATS);
    assert_as_in(a.attend_bps, b.attend_bps, SL_SIM_FORMATS);
    assert_as_in(a.prefill_attend_flops, b.prefill_attend_flops, SL_SIM_FORMATS);
}

static void budgets_are_the_machines_where_none_are_asked_for(void **state) {
    (void)state;
    sl_profile profile;
    assert_int_equal(sl_profile_read(t4_file, &profile), SL_OK);
    const sl_simulated rank = {.profile = &profile};
    sl_policy policy;
    sl_policy_init(&policy);
    sl_simulated_set_budgets(&rank, &policy);
    assert_int_equal(policy.cpu_budget_bytes, (size_t)profile.cpu_bytes);
    assert_int_equal(policy.disk_budget_bytes, (size_t)profile.disk_bytes);
    assert_non_null(policy.disk_dir);
    policy.cpu_budget_bytes = 5;
    profile.disk_bytes = 0;
    policy.disk_dir = NULL;
    sl_simulated_set_budgets(&rank, &policy);
    assert_int_equal(policy.cpu_budget_bytes, 5);
    assert_null(policy.disk_dir);
}

/* ---- ranks ---- */

typedef struct {
    int n_ran[4];
    int failing;
} ranks_seen;

static sl_status rank_main(const sl_launch *launch, const void *all) {
    ranks_seen *seen = (ranks_seen *)(uintptr_t)all;
    const int rank = launch->info.rank;
    assert_int_equal(launch->info.n_ranks, 4);
    assert_non_null(launch->simulated);
    seen->n_ran[rank]++;
    sl_transport *t = NULL;
    SL_TRY(sl_simulated_open_transport(launch->simulated, &t));
    sl_status st = rank == seen->failing ? SL_FAIL(SL_ERR_IO, "no luck") : SL_OK;
    st = t->ops->agree(t, st);
    sl_transport_close(t);
    return st;
}

static void every_rank_runs_once_and_all_share_the_outcome(void **state) {
    (void)state;
    const sl_launch launch = {.info = {.n_ranks = 1, .n_local_ranks = 1}};
    sl_setup_options o = {.backend = SIM, .sim_ranks = 4, .cluster = {1, {t4_file}}};
    for (int failing = -1; failing < 4; failing += 2) {
        ranks_seen seen = {.failing = failing};
        const sl_status st = sl_simulate_or_run(&launch, &o, rank_main, &seen);
        for (int r = 0; r < 4; r++) assert_int_equal(seen.n_ran[r], 1);
        assert_int_equal(st, failing < 0 ? SL_OK : SL_ERR_IO);
        if (failing < 0) continue;
        char text[32];
        snprintf(text, sizeof text, "rank %d: no luck", failing);
        assert_non_null(strstr(sl_error_message(), text));
    }
}

/* A rank that returns while others wait for it. */
static sl_status leave_early(const sl_launch *launch, const void *all) {
    (void)all;
    sl_transport *t = NULL;
    if (launch->info.rank == 2) return SL_FAIL(SL_ERR_IO, "gone");
    SL_TRY(sl_simulated_open_transport(launch->simulated, &t));
    const sl_status st = t->ops->agree(t, SL_OK);
    sl_transport_close(t);
    return st;
}

static void rank_that_leaves_does_not_hang_the_others(void **state) {
    (void)state;
    const sl_launch launch = {.info = {.n_ranks = 1, .n_local_ranks = 1}};
    const sl_setup_options o = {.backend = SIM, .sim_ranks = 4, .cluster = {1, {t4_file}}};
    assert_int_equal(sl_simulate_or_run(&launch, &o, leave_early, NULL), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "gone"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profile_gives_every_rate),
        cmocka_unit_test(budgets_are_the_machines_where_none_are_asked_for),
        cmocka_unit_test(every_rank_runs_once_and_all_share_the_outcome),
        cmocka_unit_test(rank_that_leaves_does_not_hang_the_others),
    };
    return cmocka_run_group_tests_name("simulate", tests, NULL, NULL);
}
