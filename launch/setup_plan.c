#include "setup_plan.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capacity.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "planner.h"
#include "profile_cache.h"
#include "profile_report.h"
#include "setup_wire.h"
#include "simulate.h"

/* ---- the job and what computes it ---- */

/* Memory of the device that this rank will compute on, 0 without one, and an activation's bytes. */
typedef struct {
    size_t bytes, act_bytes;
} device;

static sl_status find_device(const sl_setup *setup, device *out) {
    const sl_simulated *sim = setup->launch->simulated;
    device d = {setup->options->gpu_mem_bytes, 4};
    if (sim && sim->profile->device[0]) {
        d.act_bytes = 2;
        if (d.bytes == 0) d.bytes = (size_t)sim->profile->gpu_bytes;
    }
#ifdef SL_CUDA
    const int is_cpu = strcmp(sl_setup_backends[setup->options->backend], "cpu") == 0;
    const int n_devices = is_cpu || sim ? 0 : sl_cuda_device_count();
    if (n_devices > 0) {
        const sl_capacity_gpu gpu = sl_capacity_gpu_of(setup->launch, n_devices);
        size_t free_bytes;
        d.act_bytes = 2;
        d.bytes -= sl_setup_wire_share(setup, d.bytes);
        if (d.bytes == 0) {
            SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
            d.bytes = sl_capacity_gpu_bytes(&gpu, free_bytes);
        }
    }
#endif
    *out = d;
    return SL_OK;
}

static int context_of(const sl_setup *setup) {
    const int positions = setup->config.max_positions, wanted = setup->options->max_context;
    return wanted > 0 && wanted < positions ? wanted : positions;
}

/* What is expected of the job, as far as it can be run. */
static sl_workload find_workload(const sl_setup *setup) {
    const int context = context_of(setup);
    sl_workload w = setup->workload;
    for (int b = 0; b < w.n_bins; b++) {
        sl_workload_bin *bin = &w.bin[b];
        if (bin->gen_len > context - 1) bin->gen_len = context - 1;
        if (bin->gen_len < 1) bin->gen_len = 1;
        if (bin->prompt_len > context - bin->gen_len) bin->prompt_len = context - bin->gen_len;
        if (bin->prompt_len < 1) bin->prompt_len = 1;
    }
    if (w.n_prompts < 1) w.n_prompts = 1;
    return w;
}

/* Precisions as the planner numbers them: its auto is 0.  1: there are such plans. */
static int find_precisions(const sl_setup *setup, int is_cuda, sl_planner_ask *ask) {
    const sl_setup_options *o = setup->options;
    if (o->weights == SL_SETUP_WEIGHTS_F32 || o->cache == SL_SETUP_CACHE_F32) return 0;
    ask->weights = o->weights == SL_SETUP_WEIGHTS_STORED ? 1
                   : o->weights == SL_SETUP_WEIGHTS_AUTO ? 0
                                                         : o->weights - SL_SETUP_WEIGHTS_F16 + 1;
    ask->keeps_stored = o->weights == SL_SETUP_WEIGHTS_STORED && !is_cuda;
    ask->cache = o->cache == SL_SETUP_CACHE_F16    ? 1
                 : o->cache == SL_SETUP_CACHE_AUTO ? 0
                                                   : o->cache - SL_SETUP_CACHE_F32 + 1;
    ask->quality = o->quality;
    ask->max_request_s = o->max_latency_s;
    return 1;
}

/* Borrows profile and workload.  *can_out = 0: there is no plan for these precisions. */
static sl_planner_ask ask_of(const sl_setup *setup, const sl_policy *budgets, device d,
                             const sl_profile *profile, const sl_workload *workload, int *can_out) {
    sl_planner_ask ask = {
        .source = setup->source,
        .profile = profile,
        .workload = workload,
        .has_device = d.bytes > 0,
        .act_bytes = d.act_bytes,
        .n_ranks = setup->transport->n_ranks,
        .cap_bytes = {d.bytes, budgets->cpu_budget_bytes, budgets->disk_budget_bytes},
        .disk_dir = budgets->disk_dir,
        .uses_disk = budgets->disk_dir != NULL,
        .max_context = context_of(setup)};
    *can_out = find_precisions(setup, d.act_bytes == 2, &ask);
    return ask;
}

static void note(const sl_setup *setup, const char *text) {
    if (setup->options->quiet || !sl_launch_is_first(setup->launch)) return;
    fprintf(stderr, "sluice: note: %s\n", text);
}

/* ---- without a plan ---- */

/* What the job takes about, at rates that any machine reaches. */
static double job_s(const sl_setup *setup, const sl_workload *w, int has_device) {
    static const double gpu_flops = 5e12, thread_flops = 2e10, read_bps = 1e9;
    const sl_model_config *c = &setup->config;
    const double n_wide = c->gated_mlp ? 3 : 2, h = c->hidden;
    const double elems = c->n_layers * (4 * h * h + n_wide * h * c->ffn) + h * c->vocab;
    double tokens = 0, gen = 0, weight = 0;
    for (int b = 0; b < w->n_bins; b++) {
        tokens += w->bin[b].weight * (w->bin[b].prompt_len + w->bin[b].gen_len);
        gen += w->bin[b].weight * w->bin[b].gen_len;
        weight += w->bin[b].weight;
    }
    const double n_sweeps = (w->n_prompts / 32.0 + 1) * gen / weight;
    return 2 * elems * w->n_prompts * tokens / weight /
               (has_device ? gpu_flops : thread_flops * setup->n_threads) +
           2 * elems * n_sweeps / read_bps;
}

/* The engine's own choices; on a device, where all fits, a block of most of the sequences. */
static void fill_simple(const sl_setup *setup, int has_device, int n_seats, sl_policy *p) {
    enum { DEVICE_ROWS = 2048 };
    const int n_ranks = setup->transport->n_ranks;
    if (!has_device) return;
    const int n_batches = n_ranks > 1 ? 2 * n_ranks : 1;
    p->num_micro_batches = n_ranks > 1 ? 2 : 1;
    p->blocks_in_flight = n_ranks;
    p->micro_batch = (n_seats + n_batches - 1) / n_batches;
    p->max_rows = p->micro_batch > DEVICE_ROWS ? p->micro_batch : DEVICE_ROWS;
    p->weights = (sl_shares){{1, 0, 0}};
}

/* Whether so many sequences fit beside all weights, with a fifth of the memory to spare. */
static sl_status fits_at_once(const sl_setup *setup, const sl_policy *budgets, device d,
                              const sl_workload *w, int n_seats, int *out) {
    static const double room = 0.8;
    const sl_profile none = {.gpu_bytes = 0};
    const int fast = d.bytes > 0 ? SL_TIER_GPU : SL_TIER_CPU;
    int can;
    sl_footprint m;
    sl_planner_ask ask = ask_of(setup, budgets, d, &none, w, &can);
    ask.max_context = sl_workload_context(w);
    const sl_plan_problem q = sl_planner_problem(&ask);
    sl_policy p = *budgets;
    fill_simple(setup, d.bytes > 0, n_seats, &p);
    p.max_context = ask.max_context;
    p.weights = (sl_shares){{fast == SL_TIER_GPU, fast == SL_TIER_CPU, 0}};
    p.weights_dtype = can ? q.weights[0] : SL_DTYPE_F32;
    p.cache_dtype = can ? q.caches[0] : SL_DTYPE_F32;
    *out = 0;
    SL_TRY(sl_plan_measure(&q, &p, 0, &m));
    *out = (double)m.need_bytes[fast] <= room * q.budget_bytes[fast] &&
           (double)m.need_bytes[SL_TIER_CPU] <= q.budget_bytes[SL_TIER_CPU];
    if (!*out || d.bytes == 0) return SL_OK;
    /* A single sequence may be as long as the model's context. */
    p.max_context = context_of(setup);
    SL_TRY(sl_plan_measure(&q, &p, 0, &m));
    *out = (double)m.least_bytes[fast] <= q.budget_bytes[fast];
    return SL_OK;
}

sl_status sl_setup_plan_simple(const sl_setup *setup, const sl_policy *budgets, int *is_simple_out,
                               sl_policy *out) {
    enum { MOST = 256, LEAST = 64, DEFAULT = 32 };
    static const double small_s = 60; /* measuring alone takes half of it */
    const sl_workload w = find_workload(setup);
    device d = {0, 0};
    int fits = 0, is_small = 0, n_seats = w.n_prompts < MOST ? w.n_prompts : MOST;
    sl_status st = find_device(setup, &d);
    if (d.bytes == 0 && n_seats > DEFAULT) n_seats = DEFAULT;
    if (st == SL_OK) is_small = job_s(setup, &w, d.act_bytes == 2) <= small_s;
    for (; st == SL_OK && !fits; n_seats /= 2) {
        st = fits_at_once(setup, budgets, d, &w, n_seats, &fits);
        if (fits || n_seats / 2 < LEAST) break;
    }
    SL_TRY(sl_setup_agree(setup, st));
    int64_t least[3] = {fits, is_small, fits ? n_seats : INT_MAX};
    SL_TRY(setup->transport->ops->min_i64(setup->transport, least, 3));
    *is_simple_out = least[0] || least[1];
    if (!*is_simple_out) return SL_OK;
    if (least[0]) {
        fill_simple(setup, d.bytes > 0, (int)least[2], out);
        note(setup, d.bytes > 0 ? "model and cache fit into the GPU's memory: nothing to plan"
                                : "model and cache fit into memory: nothing to plan");
    } else {
        note(setup, "a small job: not planned (--plan always plans it)");
    }
    return SL_OK;
}

/* ---- the profile ---- */

static const char *file_of(const sl_setup *setup) {
    const sl_setup_options *o = setup->options;
    const int rank = setup->transport->rank, n = o->cluster.n;
    return n > 0 ? o->cluster.values[rank < n ? rank : n - 1] : o->profile_path;
}

static sl_status measure(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    const sl_setup_options *o = setup->options;
    sl_profile_bar bar;
    sl_profile_origin origin;
    sl_profile_bar_init(&bar, sl_launch_is_first(setup->launch) && !o->quiet ? stderr : NULL);
    /* Rates do not depend on how much of host memory the run may use, and measuring them takes more
     * than a small budget. */
    const sl_profile_ask ask = {.launch = setup->launch,
                                .transport = setup->transport,
                                .backend = o->backend,
                                .n_threads = o->n_threads,
                                .gpu_mem_bytes = o->gpu_mem_bytes,
                                .disk_mem_bytes = budgets->disk_budget_bytes,
                                .disk_dir = o->disk_dir,
                                .quiet = o->quiet,
                                .only_cached = !may_measure,
                                .on_progress = sl_profile_bar_update,
                                .user = &bar};
    const sl_status st = sl_launch_profile(&ask, &setup->profile, &origin);
    sl_profile_bar_clear(&bar);
    if (st != SL_OK) return st;
    setup->has_profile = origin.was_cached || origin.measured_s > 0;
    if (origin.measured_s > 0 && !o->quiet && sl_launch_is_first(setup->launch))
        fprintf(stderr, "sluice: note: measured this machine in %.0f s%s%s\n", origin.measured_s,
                origin.path[0] ? ", for later runs too: " : "", origin.path);
    return SL_OK;
}

static sl_status find_own(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    const char *path = file_of(setup);
    if (setup->launch->simulated) {
        setup->profile = *setup->launch->simulated->profile;
        setup->has_profile = 1;
        return SL_OK;
    }
    if (!path) return measure(setup, budgets, may_measure);
    SL_TRY(sl_setup_agree(setup, sl_profile_read(path, &setup->profile)));
    setup->has_profile = 1;
    return SL_OK;
}

/* Collective.  The first rank gets to know all profiles and budgets. */
static sl_status gather_ranks(sl_setup *setup, const sl_policy *budgets) {
    const int n = setup->transport->n_ranks;
    sl_setup_rank mine = {.profile = setup->profile}, *all = NULL;
    device d = {0, 0};
    sl_status st = find_device(setup, &d);
    if (st == SL_OK && sl_transport_is_first(setup->transport)) {
        all = calloc((size_t)n, sizeof *all);
        if (!all) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", n);
    }
    SL_GO(sl_setup_agree(setup, st));
    mine.budget_bytes[SL_TIER_GPU] = (double)d.bytes;
    mine.budget_bytes[SL_TIER_CPU] = (double)budgets->cpu_budget_bytes;
    mine.budget_bytes[SL_TIER_DISK] = budgets->disk_dir ? (double)budgets->disk_budget_bytes : 0;
    SL_GO(setup->transport->ops->gather(setup->transport, &mine, sizeof mine, all));
    setup->ranks = all;
    return SL_OK;

fail:
    free(all);
    return st;
}

sl_status sl_setup_find_profile(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    if (setup->has_profile) return SL_OK;
    SL_TRY(find_own(setup, budgets, may_measure));
    return setup->has_profile ? gather_ranks(setup, budgets) : SL_OK;
}

/* ---- planning ---- */

/* This rank has what its profile says. */
static sl_status check_device(const sl_setup *setup) {
    const sl_profile *profile = &setup->profile;
    const char *path = file_of(setup);
    device d;
    SL_TRY(find_device(setup, &d));
    if ((d.bytes > 0) != (profile->device[0] != '\0'))
        return SL_FAIL(SL_ERR_ARG, "%s is the profile of a machine with %s, this one has %s",
                       path ? path : profile->name, profile->device[0] ? profile->device : "no GPU",
                       d.bytes > 0 ? "one" : "none");
    return SL_OK;
}

/* First rank.  Layers for ranks that differ. */
static sl_status partition(sl_setup *setup, const sl_plan_problem *problem,
                           const sl_profile *profiles, const double (*budgets)[SL_TIER_COUNT],
                           sl_policy *out) {
    const sl_partition_ask ask = {.problem = problem, .profile = profiles, .budget_bytes = budgets};
    sl_partition_found *found = malloc(sizeof *found);
    if (!found) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    sl_status st = sl_partition_search(&ask, found);
    if (st == SL_OK && !found->is_feasible)
        st = SL_FAIL(SL_ERR_INFEASIBLE, "the model does not fit on these %d unequal ranks",
                     problem->n_ranks);
    if (st == SL_OK) {
        *out = found->policy;
        setup->is_split = 1;
        memcpy(setup->layers, found->layers, sizeof setup->layers);
        memcpy(setup->weights, found->weights, sizeof setup->weights);
    }
    free(found);
    return st;
}

sl_status sl_setup_is_uneven(sl_setup *setup, const sl_policy *budgets, int *out) {
    sl_transport *t = setup->transport;
    sl_profile profiles[SL_PARTITION_MAX_RANKS];
    double each[SL_PARTITION_MAX_RANKS][SL_TIER_COUNT];
    const sl_plan_problem problem = {.n_ranks = t->n_ranks};
    const sl_partition_ask ask = {.problem = &problem,
                                  .profile = profiles,
                                  .budget_bytes = (const double(*)[SL_TIER_COUNT])each};
    *out = 0;
    if (t->n_ranks == 1 || t->n_ranks > SL_PARTITION_MAX_RANKS) return SL_OK;
    SL_TRY(sl_setup_find_profile(setup, budgets, 0));
    for (int r = 0; setup->ranks && r < t->n_ranks; r++) {
        profiles[r] = setup->ranks[r].profile;
        memcpy(each[r], setup->ranks[r].budget_bytes, sizeof each[r]);
    }
    if (setup->ranks) *out = !sl_partition_is_even(&ask);
    return t->ops->broadcast(t, 0, out, sizeof *out);
}

/* First rank. */
static sl_status search(sl_setup *setup, const sl_policy *budgets, sl_policy *out) {
    const int n = setup->transport->n_ranks;
    const sl_workload workload = find_workload(setup);
    sl_profile profiles[SL_PARTITION_MAX_RANKS];
    double each[SL_PARTITION_MAX_RANKS][SL_TIER_COUNT];
    device d;
    int can;
    SL_TRY(find_device(setup, &d));
    sl_planner_ask ask = ask_of(setup, budgets, d, &setup->profile, &workload, &can);
    if (!can) return SL_FAIL(SL_ERR_ARG, "no plan for weights or cache in f32");
    for (int r = 0; r < n && n <= SL_PARTITION_MAX_RANKS; r++) {
        profiles[r] = setup->ranks[r].profile;
        memcpy(each[r], setup->ranks[r].budget_bytes, sizeof each[r]);
        if ((profiles[r].device[0] != '\0') != (d.bytes > 0))
            return SL_FAIL(SL_ERR_ARG, "no plan for ranks with a GPU beside ranks without");
    }
    const sl_plan_problem problem = sl_planner_problem(&ask);
    const sl_partition_ask together = {.problem = &problem,
                                       .profile = profiles,
                                       .budget_bytes = (const double(*)[SL_TIER_COUNT])each};
    if (n > 1 && n <= SL_PARTITION_MAX_RANKS && !sl_partition_is_even(&together))
        return partition(setup, &problem, profiles, together.budget_bytes, out);
    for (int r = 1; r < n && n <= SL_PARTITION_MAX_RANKS; r++)
        for (int t = 0; t < SL_TIER_COUNT; t++)
            if (each[r][t] < (double)ask.cap_bytes[t]) ask.cap_bytes[t] = (size_t)each[r][t];
    return sl_search_default(&ask, out);
}

sl_status sl_setup_plan(sl_setup *setup, const sl_policy *budgets, sl_policy *out) {
    sl_transport *t = setup->transport;
    SL_TRY(sl_setup_agree(setup, check_device(setup)));
    const sl_status st = sl_transport_is_first(t) ? search(setup, budgets, out) : SL_OK;
    SL_TRY(sl_setup_agree(setup, st));
    SL_TRY(t->ops->broadcast(t, 0, &setup->is_split, sizeof setup->is_split));
    SL_TRY(t->ops->broadcast(t, 0, setup->layers, sizeof setup->layers));
    return t->ops->broadcast(t, 0, setup->weights, sizeof setup->weights);
}

/* ---- what is expected ---- */

static sl_queue queue_of(sl_cost_queue queue) {
    static const sl_queue queues[SL_COST_N_QUEUES] = {[SL_COST_H2D] = SL_QUEUE_H2D,
                                                      [SL_COST_D2H] = SL_QUEUE_D2H,
                                                      [SL_COST_LINK] = SL_QUEUE_COUNT,
                                                      [SL_COST_DISK_READ] = SL_QUEUE_DISK_READ,
                                                      [SL_COST_DISK_WRITE] = SL_QUEUE_DISK_WRITE,
                                                      [SL_COST_COMPUTE] = SL_QUEUE_COMPUTE,
                                                      [SL_COST_ATTEND] = SL_QUEUE_ATTEND,
                                                      [SL_COST_WIRE] = SL_QUEUE_WIRE_OUT,
                                                      [SL_COST_DRAM] = SL_QUEUE_COUNT};
    return queues[queue];
}

static void fill_prediction(const sl_setup *setup, const sl_workload *w, const sl_cost *cost,
                            const sl_footprint *memory, sl_report_plan *out) {
    sl_report_plan r = {.is_there = 1,
                        .n_prompts = w->n_prompts,
                        .prefill_s = cost->prefill_s,
                        .decode_s = cost->decode_s,
                        .tokens_per_s = cost->tokens_per_s};
    double weight = 0;
    memcpy(r.machine, setup->profile.name, sizeof r.machine);
    for (int b = 0; b < w->n_bins; b++) {
        weight += w->bin[b].weight;
        r.prompt_len += w->bin[b].weight * w->bin[b].prompt_len;
        r.gen_len += w->bin[b].weight * w->bin[b].gen_len;
    }
    r.prompt_len /= weight;
    r.gen_len /= weight;
    for (int p = 0; p < SL_N_PHASES; p++)
        for (int q = 0; q < SL_COST_N_QUEUES; q++) {
            const sl_queue queue = queue_of((sl_cost_queue)q);
            const sl_cost_phase *phase = &cost->phase[p];
            if (queue < SL_QUEUE_COUNT) r.busy_s[queue] += phase->n_sweeps * phase->queue_s[q];
        }
    for (int t = 0; t < SL_TIER_COUNT; t++) r.peak_bytes[t] = memory->need_bytes[t];
    *out = r;
}

/* Of each memory the most that any rank takes.  *spread_out: whether the GPU's pages do not hold
 * all sequences at their longest, so that they begin one after the other. */
static sl_status find_peaks(const sl_setup *setup, const sl_plan_problem *whole,
                            const sl_policy *policy, const sl_shares *weights, sl_footprint *out,
                            int *spread_out) {
    memset(out, 0, sizeof *out);
    *spread_out = 0;
    for (int r = 0; r < whole->n_ranks; r++) {
        sl_plan_problem q = *whole;
        sl_policy p = *policy;
        sl_footprint one;
        memcpy(q.budget_bytes, setup->ranks[r].budget_bytes, sizeof q.budget_bytes);
        q.is_one_rank = 1;
        q.rank = r;
        p.weights = weights[r];
        SL_TRY(sl_plan_measure(&q, &p, policy->layers_per_rank[r], &one));
        const double most = q.budget_bytes[SL_TIER_GPU];
        if (q.has_device && (double)one.need_bytes[SL_TIER_GPU] > most) {
            one.need_bytes[SL_TIER_GPU] = (size_t)most;
            *spread_out = !policy->two_phase;
        }
        for (int t = 0; t < SL_TIER_COUNT; t++)
            if (one.need_bytes[t] > out->need_bytes[t]) out->need_bytes[t] = one.need_bytes[t];
    }
    return SL_OK;
}

/* First rank.  Nothing is expected where a profile lacks a rate that the policy needs. */
static void predict(sl_setup *setup, const sl_shares *weights) {
    const int n = setup->transport->n_ranks;
    const sl_policy *policy = sl_engine_policy(setup->engine);
    sl_workload workload = find_workload(setup);
    sl_profile *profiles = calloc((size_t)n, sizeof *profiles);
    sl_cost cost;
    sl_footprint memory;
    device d;
    int can;
    if (!profiles || find_device(setup, &d) != SL_OK) goto end;
    if ((d.bytes > 0) != (setup->profile.device[0] != '\0')) goto end;
    for (int r = 0; r < n; r++) profiles[r] = setup->ranks[r].profile;
    sl_planner_ask ask = ask_of(setup, &setup->policy, d, &setup->profile, &workload, &can);
    ask.max_context = policy->max_context;
    sl_plan_problem q = sl_planner_problem(&ask);
    q.layers_per_rank = policy->layers_per_rank;
    sl_cost_problem problem = sl_plan_cost_problem(&q);
    problem.profile_per_rank = profiles;
    problem.weights_per_rank = weights;
    if (can && find_peaks(setup, &q, policy, weights, &memory, &workload.spread) == SL_OK &&
        sl_cost_measured(&problem, policy, &cost) == SL_OK)
        fill_prediction(setup, &workload, &cost, &memory, &setup->predicted);

end:
    free(profiles);
}

sl_status sl_setup_predict(sl_setup *setup) {
    sl_transport *t = setup->transport;
    sl_shares *weights = NULL;
    sl_status st = SL_OK;
    if (!setup->has_profile) return SL_OK;
    if (sl_transport_is_first(t)) {
        weights = calloc((size_t)t->n_ranks, sizeof *weights);
        if (!weights) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", t->n_ranks);
    }
    SL_GO(sl_setup_agree(setup, st));
    SL_GO(t->ops->gather(t, &sl_engine_policy(setup->engine)->weights, sizeof *weights, weights));
    if (weights) predict(setup, weights);

fail:
    free(weights);
    return st;
}
