/* Predicted times and memory beside what was measured, and how they answer to what they depend on.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/footprint.h"
#include "policy_fixture.h"
#include "replay.h"

/* What a CUDA backend takes of the device's memory for these jobs: 32 MiB of cuBLAS, 64 of unpacked
 * weights, 32 of attention results, and rows of micro-batches. */
static const size_t backend_bytes = (size_t)142 << 20;

static sl_cost_problem problem_of(const sl_model_config *c, const sl_profile *m,
                                  const sl_workload *w) {
    return (sl_cost_problem){.config = c,
                             .profile = m,
                             .workload = w,
                             .has_device = 1,
                             .n_layers = c->n_layers,
                             .n_ranks = 1};
}

static sl_cost cost_on(const sl_profile *m, const measured_job *j, const sl_policy *p) {
    sl_model_config c;
    sl_cost cost;
    sl_workload w = sl_workload_uniform(512, 32, j->n_prompts);
    w.unpaced = 1; /* as they ran */
    assert_int_equal(measured_config(j, &c), SL_OK);
    const sl_cost_problem problem = problem_of(&c, m, &w);
    if (sl_cost_measured(&problem, p, &cost) != SL_OK) fail_msg("%s", sl_error_message());
    return cost;
}

static sl_cost cost_of(const measured_job *j) {
    const sl_profile m = g16_profile();
    const sl_policy p = measured_policy(j);
    return cost_on(&m, j, &p);
}

static void assert_within(const char *what, double found, double expected, double frac) {
    if (found < (1 - frac) * expected || found > (1 + frac) * expected)
        fail_msg("%s: %.4g, expected %.4g within %g %%", what, found, expected, 100 * frac);
}

static void measured_jobs_are_predicted_within_15_percent(void **state) {
    (void)state;
    for (int i = 0; i < N_MEASURED_JOBS; i++) {
        const measured_job *j = &measured_jobs[i];
        const sl_cost c = cost_of(j);
        assert_within(j->name, c.tokens_per_s, j->tokens_per_s, 0.15);
        assert_within(j->name, c.prefill_s, j->prefill_s, 0.2);
        assert_within(j->name, c.decode_s, j->decode_s, 0.2);
        assert_true(c.bound_tokens_per_s >= c.tokens_per_s);
    }
}

static double busy_frac(const sl_cost *c, sl_cost_queue q) {
    double s = 0;
    for (int p = 0; p < SL_N_PHASES; p++) s += c->phase[p].n_sweeps * c->phase[p].queue_s[q];
    return s / c->total_s;
}

static void measured_queues_are_predicted(void **state) {
    (void)state;
    const sl_cost w2 = cost_of(&measured_jobs[2]), w3 = cost_of(&measured_jobs[3]);
    assert_within("W2 h2d", busy_frac(&w2, SL_COST_H2D), 0.84, 0.15);
    assert_within("W2 attention", busy_frac(&w2, SL_COST_ATTEND), 0.32, 0.3);
    assert_int_equal(w2.phase[SL_PHASE_DECODE].longest, SL_COST_H2D);
    assert_within("W3 h2d", busy_frac(&w3, SL_COST_H2D), 0.60, 0.15);
    assert_within("W3 attention", busy_frac(&w3, SL_COST_ATTEND), 0.54, 0.25);
    assert_within("W3 gpu", busy_frac(&w3, SL_COST_COMPUTE), 0.70, 0.15);
    assert_int_equal(w3.phase[SL_PHASE_PREFILL].longest, SL_COST_COMPUTE);
}

static void measured_peaks_are_predicted_within_5_percent(void **state) {
    (void)state;
    for (int i = 0; i < N_MEASURED_JOBS; i++) {
        const measured_job *j = &measured_jobs[i];
        if (j->gpu_gib == 0) continue;
        sl_model_config c;
        sl_source *source = NULL;
        sl_footprint m;
        const sl_policy p = measured_policy(j);
        assert_int_equal(measured_config(j, &c), SL_OK);
        assert_int_equal(sl_source_open_dummy(&c, j->model, 0, &source), SL_OK);
        const sl_footprint_options o = {.source = source,
                                        .policy = &p,
                                        .n_ranks = 1,
                                        .last_layer = c.n_layers,
                                        .attends_on_host = 1,
                                        .act_bytes = 2,
                                        .gpu_bytes = (size_t)(16 * GIB),
                                        .backend_bytes = backend_bytes};
        if (sl_footprint_of(&o, &m) != SL_OK) fail_msg("%s", sl_error_message());
        const double gpu = (double)m.need_bytes[SL_TIER_GPU] / GIB;
        const double cpu = (double)m.need_bytes[SL_TIER_CPU] / GIB;
        print_message("%s: gpu %.2f of %.2f GiB, cpu %.1f of %.1f\n", j->name, gpu, j->gpu_gib, cpu,
                      j->cpu_gib);
        assert_within(j->name, gpu, j->gpu_gib, 0.05);
        assert_within(j->name, cpu, j->cpu_gib, 0.05);
        sl_source_close(source);
    }
}

/* ---- how it answers ---- */

static void faster_machines_never_take_longer(void **state) {
    (void)state;
    for (int i = 0; i < N_MEASURED_JOBS; i++) {
        const measured_job *j = &measured_jobs[i];
        const sl_policy p = measured_policy(j);
        const double before = cost_of(j).total_s * (1 + 1e-9);
        for (int field = 0; field < 6; field++) {
            sl_profile m = g16_profile();
            sl_curve *const curves[] = {&m.h2d_bps,
                                        &m.d2h_bps,
                                        &m.host_attend_bps[sl_profile_format(j->cache)],
                                        &m.gemm_flops[sl_profile_format(j->weights)],
                                        &m.attend_bps[sl_profile_format(j->cache)],
                                        &m.prefill_attend_flops[sl_profile_format(j->cache)]};
            for (int k = 0; k < curves[field]->n; k++) curves[field]->y[k] *= 1.5;
            /* What they share grows with them: else a faster part may slow down its neighbour. */
            m.duplex_bps *= 2;
            m.dram_beside_h2d_bps *= 2;
            assert_true(cost_on(&m, j, &p).total_s <= before);
        }
    }
}

static void more_tokens_never_take_less_time(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[3];
    const sl_profile m = g16_profile();
    const sl_policy p = measured_policy(j);
    sl_model_config c;
    assert_int_equal(measured_config(j, &c), SL_OK);
    double last = 0;
    for (int n = 32; n <= 2048; n *= 2) {
        const sl_workload w = sl_workload_uniform(n, 32, 512);
        const sl_cost_problem problem = problem_of(&c, &m, &w);
        sl_cost cost;
        assert_int_equal(sl_cost_measured(&problem, &p, &cost), SL_OK);
        assert_true(cost.total_s > last);
        last = cost.total_s;
    }
}

static void sweeps_take_at_least_their_longest_queue(void **state) {
    (void)state;
    sl_rng rng = {.key = 3};
    const sl_profile m = g16_profile();
    for (int i = 0; i < 300; i++) {
        const measured_job *j = &measured_jobs[sl_rng_below(&rng, N_MEASURED_JOBS)];
        sl_policy p = measured_policy(j);
        p.micro_batch = 1 + (int)sl_rng_below(&rng, 128);
        p.num_micro_batches = 1 + (int)sl_rng_below(&rng, 12);
        p.max_rows = 64 << sl_rng_below(&rng, 7);
        p.weights.frac[SL_TIER_GPU] = (double)sl_rng_below(&rng, 5) / 8;
        p.weights.frac[SL_TIER_DISK] = (double)sl_rng_below(&rng, 3) / 8;
        p.weights.frac[SL_TIER_CPU] =
            1 - p.weights.frac[SL_TIER_GPU] - p.weights.frac[SL_TIER_DISK];
        p.cache.frac[SL_TIER_DISK] = (double)sl_rng_below(&rng, 3) / 8;
        p.cache.frac[SL_TIER_GPU] = (double)sl_rng_below(&rng, 5) / 8;
        p.cache.frac[SL_TIER_CPU] = 1 - p.cache.frac[SL_TIER_GPU] - p.cache.frac[SL_TIER_DISK];
        p.host_attends = (double)sl_rng_below(&rng, 5) / 4;
        const sl_cost c = cost_on(&m, j, &p);
        for (int f = 0; f < SL_N_PHASES; f++)
            for (int q = 0; q < SL_COST_N_QUEUES; q++)
                assert_true(c.phase[f].queue_s[q] <= c.phase[f].sweep_s * (1 + 1e-9));
        assert_true(c.tokens_per_s > 0);
    }
}

static void rates_that_are_missing_are_named(void **state) {
    (void)state;
    const measured_job *j = &measured_jobs[3];
    const sl_workload w = sl_workload_uniform(512, 32, j->n_prompts);
    sl_profile m = g16_profile();
    sl_model_config c;
    sl_cost cost;
    assert_int_equal(measured_config(j, &c), SL_OK);
    const sl_cost_problem problem = problem_of(&c, &m, &w);
    sl_policy p = measured_policy(j);
    m.gemm_flops[2].n = 0;
    assert_int_equal(sl_cost_measured(&problem, &p, &cost), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "gemm_flops.q4"));
    m = g16_profile();
    m.host_attend_bps[2].n = 0;
    assert_int_equal(sl_cost_measured(&problem, &p, &cost), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "cpu attention"));
    p.host_attends = 0;
    assert_int_equal(sl_cost_measured(&problem, &p, &cost), SL_OK);
}

/* ---- turns ---- */

static void turns_compute_every_row_once(void **state) {
    (void)state;
    sl_rng rng = {.key = 5};
    for (int i = 0; i < 200; i++) {
        const int prompt = 1 + (int)sl_rng_below(&rng, 3000), gen = 1 + (int)sl_rng_below(&rng, 90);
        const int seats = 1 + (int)sl_rng_below(&rng, 60), k = 1 + (int)sl_rng_below(&rng, 8);
        const int n = 1 + (int)sl_rng_below(&rng, 2000), rows = 1 + (int)sl_rng_below(&rng, 2048);
        const int blocks = 1 + (int)sl_rng_below(&rng, 4);
        const sl_workload w = sl_workload_uniform(prompt, gen, n);
        sl_turns t;
        assert_int_equal(sl_workload_turns(&w, seats, k, blocks, rows, &t), SL_OK);
        double prefill = 0, decode = 0, tokens = 0;
        for (int p = 0; p < SL_N_PHASES; p++) {
            prefill += t.load[p].prefill_rows * t.n_batches;
            decode += t.load[p].decode_rows * t.n_batches;
            tokens += t.load[p].decode_tokens * t.n_batches;
        }
        assert_within("prefill rows", prefill, (double)n * prompt, 1e-6);
        assert_within("decode rows", decode + 1, (double)n * (gen - 1) + 1, 1e-6);
        const double seen = (double)n * (gen - 1) * (prompt + 0.5 * gen);
        assert_within("tokens seen", tokens + 1, seen + 1, 1e-6);
    }
}

static void kinds_of_prompts_mix_in_their_proportion(void **state) {
    (void)state;
    const sl_workload w = {.n_prompts = 400, .n_bins = 2, .bin = {{100, 10, 3}, {500, 50, 1}}};
    sl_turns t;
    assert_int_equal(sl_workload_context(&w), 550);
    assert_int_equal(sl_workload_turns(&w, 20, 2, 1, 512, &t), SL_OK);
    double prefill = 0, decode = 0;
    for (int p = 0; p < SL_N_PHASES; p++) {
        prefill += t.load[p].prefill_rows * t.n_batches;
        decode += t.load[p].decode_rows * t.n_batches;
    }
    assert_within("prefill rows", prefill, 400 * 200, 1e-6);
    assert_within("decode rows", decode, 400 * 19, 1e-6);
    assert_within("tokens", t.n_tokens, 400 * 20, 1e-9);
}

/* ---- replay ---- */

static const sl_replay_batch batches[4] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
static const sl_replay_batch attending[4] = {
    {SL_VISIT_HOST, 0, 1}, {SL_VISIT_HOST, 0, 1}, {SL_VISIT_HOST, 0, 1}, {SL_VISIT_HOST, 0, 1}};

static sl_replay_work streamed_work(void) {
    return (sl_replay_work){.n_layers = 48,
                            .n_micro_batches = 4,
                            .is_first_rank = 1,
                            .is_last_rank = 1,
                            .has_device = 1,
                            .is_uploaded = 1,
                            .batch = batches,
                            .upload = {20e-3, 0},
                            .before_s = 1e-3,
                            .after_s = 2e-3};
}

static void streamed_weights_hide_computation(void **state) {
    (void)state;
    sl_replay_work w = streamed_work();
    sl_replay_times t;
    assert_int_equal(sl_replay_sweep(&w, &t), SL_OK);
    assert_within("sweep", t.sweep_s, 48 * 20e-3, 0.03);
    w.upload.seconds = 1e-3;
    assert_int_equal(sl_replay_sweep(&w, &t), SL_OK);
    assert_within("sweep", t.sweep_s, 48 * 4 * 3e-3, 0.01);
    assert_within("first", t.first_s, 48 * 4 * 3e-3, 0.02);
}

/* With rows on the host a layer's last micro-batches are computed after the next layer's first:
 * its place in the ring is free later. */
static void attention_on_the_host_holds_the_ring_longer(void **state) {
    (void)state;
    sl_replay_work w = streamed_work();
    sl_replay_times without, with;
    assert_int_equal(sl_replay_sweep(&w, &without), SL_OK);
    w.batch = attending;
    w.attend.seconds = 1e-3;
    assert_int_equal(sl_replay_sweep(&w, &with), SL_OK);
    assert_within("sweep", with.sweep_s, 48 * (20e-3 + 2 * 3e-3), 0.05);
    assert_true(with.sweep_s > without.sweep_s);
}

/* Copies both ways at 10 GB/s each over a link of 12 in all, beside attention that takes most of
 * host memory. */
static void what_is_shared_slows_all_that_share_it(void **state) {
    (void)state;
    const sl_replay_batch visiting[1] = {{SL_VISIT_UPLOAD | SL_VISIT_STORE, 1, 0}};
    sl_replay_work w = {.n_layers = 40,
                        .n_micro_batches = 1,
                        .is_first_rank = 1,
                        .is_last_rank = 1,
                        .has_device = 1,
                        .batch = visiting,
                        .visit_upload = {10e-3, 10e9},
                        .visit_store = {10e-3, 10e9}};
    sl_replay_times alone, shared;
    assert_int_equal(sl_replay_sweep(&w, &alone), SL_OK);
    assert_within("alone", alone.sweep_s, 41 * 10e-3, 0.01);
    w.duplex_bps = 12e9;
    assert_int_equal(sl_replay_sweep(&w, &shared), SL_OK);
    assert_within("shared link", shared.sweep_s, 41 * 10e-3 * 20 / 12, 0.03);
    w.dram_beside_h2d_bps = 6e9;
    assert_int_equal(sl_replay_sweep(&w, &shared), SL_OK);
    assert_within("shared memory", shared.sweep_s, 41 * 10e-3 * 20 / 6, 0.03);
}

/* Weights that stream cost computation a part of its speed, in all that tells of it. */
static void copies_slow_computation(void **state) {
    (void)state;
    const measured_job *w3 = &measured_jobs[3];
    const sl_policy streamed = measured_policy(w3);
    sl_policy resident = streamed;
    resident.weights = resident.cache = (sl_shares){{1, 0, 0}};
    resident.host_attends = 0;
    const sl_profile m = g16_profile();
    sl_profile slow = m;
    slow.compute_beside_h2d_frac = 0.8;
    const sl_cost with = cost_on(&slow, w3, &streamed), without = cost_on(&m, w3, &streamed);
    assert_true(cost_on(&slow, w3, &resident).total_s == cost_on(&m, w3, &resident).total_s);
    assert_true(with.total_s > 1.02 * without.total_s && with.total_s < without.total_s / 0.8);
    for (int p = 0; p < SL_N_PHASES; p++) {
        const double *slower = with.phase[p].queue_s, *alone = without.phase[p].queue_s;
        const double beside_s = alone[SL_COST_COMPUTE] + 0.2 * alone[SL_COST_H2D];
        assert_within("compute", slower[SL_COST_COMPUTE],
                      fmin(beside_s, alone[SL_COST_COMPUTE] / 0.8), 1e-9);
    }

    sl_replay_work w = streamed_work();
    sl_replay_times times;
    w.upload = (sl_replay_load){4e-3, 1e9};
    w.lost_frac = 0.5;
    assert_int_equal(sl_replay_sweep(&w, &times), SL_OK);
    assert_within("beside", times.sweep_s, 48 * (4 * 3e-3 + 0.5 * 4e-3), 0.02);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_jobs_are_predicted_within_15_percent),
        cmocka_unit_test(measured_queues_are_predicted),
        cmocka_unit_test(measured_peaks_are_predicted_within_5_percent),
        cmocka_unit_test(faster_machines_never_take_longer),
        cmocka_unit_test(more_tokens_never_take_less_time),
        cmocka_unit_test(sweeps_take_at_least_their_longest_queue),
        cmocka_unit_test(rates_that_are_missing_are_named),
        cmocka_unit_test(turns_compute_every_row_once),
        cmocka_unit_test(kinds_of_prompts_mix_in_their_proportion),
        cmocka_unit_test(streamed_weights_hide_computation),
        cmocka_unit_test(what_is_shared_slows_all_that_share_it),
        cmocka_unit_test(copies_slow_computation),
        cmocka_unit_test(attention_on_the_host_holds_the_ring_longer),
    };
    return cmocka_run_group_tests_name("cost_measured", tests, NULL, NULL);
}
