#include "setup_policy.h"

#include <stdio.h>
#include <string.h>

#include "capacity.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "planner.h"
#include "policy_file.h"
#include "profile_cache.h"
#include "simulate.h"

static const sl_dtype weights_dtypes[] = {SL_DTYPE_AS_STORED, SL_DTYPE_F32, SL_DTYPE_F16,
                                          SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
static const sl_dtype cache_dtypes[] = {SL_DTYPE_F16, SL_DTYPE_F32, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

enum { WEIGHTS_STORED, WEIGHTS_F32, WEIGHTS_F16 };
enum { CACHE_F16, CACHE_F32 };
enum { ALL_ON_CPU = 100 }; /* --cpu-attention unless it is given */

/* ---- options ---- */

/* Two percentages, gpu and cpu; the rest is disk's. */
static sl_status read_shares(const char *name, const int *percent, int n, sl_shares *out) {
    if (n != 2 || percent[0] + percent[1] > 100)
        return SL_FAIL(SL_ERR_ARG,
                       "--%s: expected two percentages that sum to at most 100, such as 20,80",
                       name);
    out->frac[SL_TIER_GPU] = percent[0] / 100.0;
    out->frac[SL_TIER_CPU] = percent[1] / 100.0;
    out->frac[SL_TIER_DISK] = (100 - percent[0] - percent[1]) / 100.0;
    return SL_OK;
}

static sl_status read_placement(const sl_setup_options *o, sl_policy *policy) {
    sl_shares *const shares[] = {&policy->weights, &policy->cache, &policy->hidden};
    const sl_option_ints *const each[] = {&o->weights_at, &o->cache_at, &o->hidden_at};
    const char *const names[] = {"weights-at", "cache-at", "hidden-at"};
    if (o->percent.n != 0 && o->percent.n != 6)
        return SL_FAIL(SL_ERR_ARG, "--percent: found %d numbers, expected six", o->percent.n);
    for (int i = 0; i < 3; i++) {
        if (o->percent.n) SL_TRY(read_shares("percent", o->percent.values + 2 * i, 2, shares[i]));
        if (each[i]->n) SL_TRY(read_shares(names[i], each[i]->values, each[i]->n, shares[i]));
    }
    return SL_OK;
}

/* What was decided before, with what the options say put in its place. */
static sl_status apply_options(const sl_setup *setup, sl_policy *p) {
    const sl_setup_options *o = setup->options;
    if (o->micro_batch) p->micro_batch = o->micro_batch;
    if (o->num_micro_batches) p->num_micro_batches = o->num_micro_batches;
    if (o->max_rows) p->max_rows = o->max_rows;
    if (o->blocks_in_flight) p->blocks_in_flight = o->blocks_in_flight;
    if (o->max_context) p->max_context = o->max_context;
    if (o->weights != WEIGHTS_STORED) p->weights_dtype = weights_dtypes[o->weights];
    if (o->cache != CACHE_F16) p->cache_dtype = cache_dtypes[o->cache];
    if (o->cpu_attention != ALL_ON_CPU) p->host_attends = o->cpu_attention / 100.0;
    return read_placement(o, p);
}

static sl_status set_budgets(const sl_setup *setup, sl_policy *p) {
    const sl_setup_options *o = setup->options;
    p->cpu_budget_bytes = o->cpu_mem_bytes;
    p->layers_per_rank = o->layers.n ? o->layers.values : NULL;
    p->disk_dir = o->disk_dir;
    p->sparsity = (float)o->attn_sparsity;
    p->no_overlap = o->no_overlap;
    p->no_sharing = o->no_sharing;
    p->two_phase = o->two_phase;
    p->disk_budget_bytes = o->disk_mem_bytes;
    if (setup->launch->simulated) {
        sl_simulated_set_budgets(setup->launch->simulated, p);
        return SL_OK;
    }
    if (o->disk_dir && o->disk_mem_bytes == 0)
        SL_TRY(sl_capacity_disk(setup->launch, o->disk_dir, &p->disk_budget_bytes));
    if (p->cpu_budget_bytes == 0) SL_TRY(sl_capacity_cpu(setup->launch, &p->cpu_budget_bytes));
    return SL_OK;
}

/* ---- searching ---- */

/* The device that this rank will compute on: its memory, 0 without one. */
static sl_status find_device(const sl_setup *setup, size_t *bytes_out, size_t *act_bytes_out) {
    *bytes_out = setup->options->gpu_mem_bytes;
    *act_bytes_out = 4;
#ifdef SL_CUDA
    const int is_cpu = strcmp(sl_setup_backends[setup->options->backend], "cpu") == 0;
    const int n_devices = is_cpu ? 0 : sl_cuda_device_count();
    if (n_devices == 0) return SL_OK;
    const sl_capacity_gpu gpu = sl_capacity_gpu_of(setup->launch, n_devices);
    *act_bytes_out = 2;
    if (*bytes_out > 0) return SL_OK;
    size_t free_bytes;
    SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
    *bytes_out = sl_capacity_gpu_bytes(&gpu, free_bytes);
#endif
    return SL_OK;
}

/* Precisions as the planner numbers them: its auto is 0. */
static sl_status find_precisions(const sl_setup *setup, int is_cuda, sl_planner_ask *ask) {
    const sl_setup_options *o = setup->options;
    if (o->weights == WEIGHTS_F32 || o->cache == CACHE_F32)
        return SL_FAIL(SL_ERR_ARG, "--profile: no plan for weights or cache in f32");
    ask->weights = o->weights == WEIGHTS_STORED ? 1 : o->weights - WEIGHTS_F16 + 1;
    ask->keeps_stored = o->weights == WEIGHTS_STORED && !is_cuda;
    ask->cache = o->cache == CACHE_F16 ? 1 : o->cache - CACHE_F32 + 1;
    return SL_OK;
}

/* What is known of the job before its requests are read. */
static sl_workload find_workload(const sl_setup *setup, int max_context) {
    const sl_setup_options *o = setup->options;
    int prompt = o->expected_prompt_len, gen = o->expected_gen_len;
    if (gen > max_context - 1) gen = max_context - 1;
    if (gen < 1) gen = 1;
    if (prompt > max_context - gen) prompt = max_context - gen;
    return sl_workload_uniform(prompt > 0 ? prompt : 1, gen, o->expected_prompts);
}

static sl_status search(const sl_setup *setup, const sl_policy *budgets, sl_policy *out) {
    const sl_setup_options *o = setup->options;
    const int positions = setup->config.max_positions;
    const int context =
        o->max_context > 0 && o->max_context < positions ? o->max_context : positions;
    const sl_workload workload = find_workload(setup, context);
    sl_profile profile;
    size_t gpu_bytes, act_bytes;
    SL_TRY(sl_profile_read(o->profile_path, &profile));
    SL_TRY(find_device(setup, &gpu_bytes, &act_bytes));
    if ((gpu_bytes > 0) != (profile.device[0] != '\0'))
        return SL_FAIL(SL_ERR_ARG, "--profile %s is of a machine with %s, this one has %s",
                       o->profile_path, profile.device[0] ? profile.device : "no GPU",
                       gpu_bytes > 0 ? "one" : "none");
    sl_planner_ask ask = {
        .source = setup->source,
        .profile = &profile,
        .workload = &workload,
        .has_device = gpu_bytes > 0,
        .act_bytes = act_bytes,
        .n_ranks = setup->transport->n_ranks,
        .cap_bytes = {gpu_bytes, budgets->cpu_budget_bytes, budgets->disk_budget_bytes},
        .disk_dir = o->disk_dir,
        .uses_disk = o->disk_dir != NULL,
        .max_context = context};
    SL_TRY(find_precisions(setup, act_bytes == 2, &ask));
    return sl_search_default(&ask, out);
}

/* Whether the options decide something that a plan would. */
static int has_decisions(const sl_setup_options *o) {
    return o->micro_batch || o->num_micro_batches || o->max_rows || o->blocks_in_flight ||
           o->weights_at.n || o->cache_at.n || o->hidden_at.n || o->percent.n || o->layers.n ||
           o->cpu_attention != ALL_ON_CPU;
}

/* First rank. */
static sl_status decide(const sl_setup *setup, const sl_policy *budgets, sl_policy *out) {
    const sl_setup_options *o = setup->options;
    if (o->policy_path) return sl_policy_read(o->policy_path, out);
    if (!o->profile_path) return SL_OK;
    if (has_decisions(o))
        return SL_FAIL(SL_ERR_ARG,
                       "--profile asks for a plan, but other options decide a part of it; use "
                       "sluice plan --save FILE and --policy FILE");
    return search(setup, budgets, out);
}

sl_status sl_setup_choose_policy(sl_setup *setup) {
    const int is_first = sl_transport_is_first(setup->transport);
    sl_policy decided, budgets;
    sl_policy_init(&decided);
    sl_policy_init(&budgets);
    decided.host_attends = 1;
    sl_status st = set_budgets(setup, &budgets);
    if (st == SL_OK && is_first) st = decide(setup, &budgets, &decided);
    SL_TRY(sl_setup_agree(setup, st));
    decided.layers_per_rank = NULL;
    decided.disk_dir = NULL;
    SL_TRY(setup->transport->ops->broadcast(setup->transport, 0, &decided, sizeof decided));
    st = set_budgets(setup, &decided);
    if (st == SL_OK) st = apply_options(setup, &decided);
    SL_TRY(sl_setup_agree(setup, st));
    setup->policy = decided;
    return SL_OK;
}
