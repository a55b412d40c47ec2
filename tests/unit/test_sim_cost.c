/* The cost model against the simulated backend, which runs the engine's own schedule: random
 * models, jobs, machines and policies.  Both know the same rates, so that they have to agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/partition.h"
#include "plan_problem.h"
#include "simulate.c"
#include "support/sim_run.h"

const char *const sl_setup_backends[] = {"auto", "cpu", "cuda", "sim", NULL};

enum { N_CASES = 50, N_TRIES = 4000 };

static const double tolerance = 0.05;

static const char *const machines[] = {"t4", "rtx3090", "h100", "g16", "toy"};
static const char *const models[] = {"opt-1.3b", "opt-6.7b", "opt-13b", "opt-30b", "opt-175b"};
static const sl_dtype formats[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

typedef struct {
    const char *machine, *model;
    int n_layers, n_ranks, layers[4];
    sl_profile profile;
    sl_model_config config;
    sl_workload workload;
    sl_policy policy;
    sl_source *source;
} one_case;

static int between(sl_rng *rng, int least, int most) {
    return least + (int)sl_rng_below(rng, (uint64_t)(most - least + 1));
}

/* As many small ones as large ones. */
static int about(sl_rng *rng, int least, int most) {
    const double part = sl_rng_unit(sl_rng_next(rng));
    return (int)floor(least * pow((most + 0.99) / least, part));
}

static sl_shares random_shares(sl_rng *rng, int has_device, int has_disk) {
    sl_shares s = {{0}};
    double left = 1;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if ((t == SL_TIER_GPU && !has_device) || (t == SL_TIER_DISK && !has_disk)) continue;
        const int kind = between(rng, 0, 2);
        s.frac[t] = kind == 0 ? 0 : kind == 1 ? left : left * between(rng, 1, 19) / 20;
        left -= s.frac[t];
    }
    s.frac[SL_TIER_CPU] += left;
    return s;
}

static void random_policy(sl_rng *rng, one_case *c) {
    sl_policy *p = &c->policy;
    const int has_disk = between(rng, 0, 4) == 0;
    const int context = c->workload.bin[0].prompt_len + c->workload.bin[0].gen_len;
    sl_policy_init(p);
    p->micro_batch = about(rng, c->n_ranks > 1 ? 8 : 1, 128);
    p->num_micro_batches = about(rng, 1, 8);
    p->max_rows = about(rng, 128, 4096);
    if (p->max_rows < p->micro_batch) p->max_rows = p->micro_batch;
    p->blocks_in_flight = c->n_ranks;
    p->max_context = context;
    p->weights_dtype = formats[between(rng, 0, 2)];
    p->cache_dtype = formats[between(rng, 0, 2)];
    p->weights = random_shares(rng, 1, has_disk);
    p->cache = random_shares(rng, 1, has_disk && between(rng, 0, 1));
    p->hidden.frac[between(rng, 0, 5) ? SL_TIER_GPU : SL_TIER_CPU] = 1;
    p->host_attends = between(rng, 0, 4) / 4.0;
    p->cpu_budget_bytes = (size_t)c->profile.cpu_bytes;
    p->disk_budget_bytes = (size_t)c->profile.disk_bytes;
    p->disk_dir = has_disk ? "/nowhere" : NULL;
}

/* Every second machine is one whose products of other sizes go at rates of their own, and one in
 * three computes slower beside copies. */
static void add_rates(one_case *c) {
    if (c->n_layers % 3 == 0) c->profile.compute_beside_h2d_frac = 0.85;
    if (c->n_layers % 2) return;
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        c->profile.gemm_small_flops[f] = c->profile.gemm_large_flops[f] = c->profile.gemm_flops[f];
        for (int i = 0; i < c->profile.gemm_flops[f].n; i++) {
            c->profile.gemm_small_flops[f].y[i] *= 0.6;
            c->profile.gemm_large_flops[f].y[i] *= 0.8;
        }
    }
}

static void random_case(sl_rng *rng, one_case *c) {
    char path[1024];
    memset(c, 0, sizeof *c);
    c->machine = machines[between(rng, 0, 4)];
    c->model = models[between(rng, 0, 4)];
    snprintf(path, sizeof path, SL_TESTS_DIR "/../cluster/%s.json", c->machine);
    assert_int_equal(sl_profile_read(path, &c->profile), SL_OK);
    assert_int_equal(sl_config_named(c->model, &c->config), SL_OK);
    c->n_ranks = between(rng, 0, 3) ? 1 : between(rng, 2, 4);
    c->config.n_layers = c->n_layers = c->n_ranks * between(rng, 3, 12);
    add_rates(c);
    const int prompt = about(rng, 16, 1024), gen = about(rng, 8, 128);
    c->workload = sl_workload_uniform(prompt, gen, 1);
    random_policy(rng, c);
    const int seats = c->policy.micro_batch * c->policy.num_micro_batches * c->n_ranks;
    c->workload.n_prompts = about(rng, seats, 6 * seats);
    /* Where blocks differ or are missing in the end, ranks wait for each other in ways that only
     * the simulation knows. */
    if (c->n_ranks > 1) c->workload.n_prompts = seats * between(rng, 1, 4);
}

/* Tasks of a simulation, about. */
static double size_of(const one_case *c) {
    const sl_policy *p = &c->policy;
    const sl_workload_bin *b = &c->workload.bin[0];
    const double seats = (double)p->micro_batch * p->num_micro_batches * c->n_ranks;
    const double sweeps = c->workload.n_prompts / seats *
                          (b->gen_len + (double)p->micro_batch * b->prompt_len / p->max_rows) *
                          c->n_ranks;
    return sweeps * c->n_layers *
           (p->num_micro_batches + p->micro_batch * p->num_micro_batches / 8.0);
}

static size_t no_bytes(const sl_policy *policy) {
    (void)policy;
    return 0;
}

static int fits(const one_case *c, const sl_plan_problem *q) {
    sl_footprint m;
    if (sl_plan_measure(q, &c->policy, 0, &m) != SL_OK) return 0;
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if ((double)m.need_bytes[t] > q->budget_bytes[t]) return 0;
    return 1;
}

static sl_plan_problem problem_of(const one_case *c) {
    return (sl_plan_problem){
        .source = c->source,
        .profile = &c->profile,
        .workload = &c->workload,
        .has_device = 1,
        .n_ranks = c->n_ranks,
        .layers_per_rank = c->layers,
        .budget_bytes = {c->profile.gpu_bytes, c->profile.cpu_bytes, c->profile.disk_bytes},
        .can_attend_on_host = 1,
        .backend_bytes = no_bytes};
}

/* predicted / simulated */
static double compare(const one_case *c, const sl_plan_problem *q, int number) {
    sl_cost cost;
    const sl_cost_problem problem = sl_plan_cost_problem(q);
    if (sl_cost_measured(&problem, &c->policy, &cost) != SL_OK) fail_msg("%s", sl_error_message());
    sl_sim_rates rates[4];
    sim_outcome out[4];
    for (int r = 0; r < c->n_ranks; r++) rates[r] = sl_simulated_rates(&c->profile);
    const sim_job job = {.model = c->model,
                         .config = &c->config,
                         .policy = c->policy,
                         .n_prompts = c->workload.n_prompts,
                         .prompt_len = c->workload.bin[0].prompt_len,
                         .gen_len = c->workload.bin[0].gen_len};
    if (sim_run(&job, rates, c->n_ranks, out) != SL_OK) fail_msg("%s", sl_error_message());
    const sl_policy *p = &c->policy;
    const double prefill_s = out[0].stats.prefill_s, decode_s = out[0].stats.decode_s;
    const double ratio = cost.total_s / (prefill_s + decode_s);
    printf(
        "%2d %-8s %-8s/%-2d x%d %4d+%-3d x %-4d  %3d x %d, %4d rows, %s/%s w %.2f %.2f %.2f "
        "c %.2f %.2f %.2f%s host %.2f: prefill %8.3f / %8.3f, decode %8.3f / %8.3f: %+5.1f %%%s\n",
        number, c->machine, c->model, c->n_layers, c->n_ranks, job.prompt_len, job.gen_len,
        job.n_prompts, p->micro_batch, p->num_micro_batches, p->max_rows,
        sl_dtype_name(p->weights_dtype), sl_dtype_name(p->cache_dtype), p->weights.frac[0],
        p->weights.frac[1], p->weights.frac[2], p->cache.frac[0], p->cache.frac[1],
        p->cache.frac[2], p->hidden.frac[0] < 1 ? " travels" : "", p->host_attends, cost.prefill_s,
        prefill_s, cost.decode_s, decode_s, 100 * (ratio - 1),
        fabs(ratio - 1) > tolerance ? " <--" : "");
    return ratio;
}

static void model_and_simulation_agree(void **state) {
    (void)state;
    sl_rng rng = {.key = 2};
    int n = 0, n_off = 0;
    double worst = 0;
    for (int i = 0; i < N_TRIES && n < N_CASES / SL_TEST_STEP; i++) {
        one_case c;
        random_case(&rng, &c);
        if (size_of(&c) > 60000) continue;
        assert_int_equal(sl_source_open_dummy(&c.config, c.model, 0, &c.source), SL_OK);
        int first[5];
        assert_int_equal(sl_partition_by_cost(c.source, c.n_ranks, first), SL_OK);
        for (int r = 0; r < c.n_ranks; r++) c.layers[r] = first[r + 1] - first[r];
        const sl_plan_problem q = problem_of(&c);
        if (fits(&c, &q)) {
            const double off = fabs(compare(&c, &q, n++) - 1);
            n_off += off > tolerance;
            if (off > worst) worst = off;
        }
        sl_source_close(c.source);
    }
    printf("%d cases, %d of them off by more than %.0f %%, the worst by %.1f %%\n", n, n_off,
           100 * tolerance, 100 * worst);
    assert_int_equal(n, N_CASES / SL_TEST_STEP);
    assert_int_equal(n_off, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(model_and_simulation_agree)};
    return cmocka_run_group_tests_name("sim_cost", tests, NULL, NULL);
}
