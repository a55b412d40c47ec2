#include "setup_policy.h"

#include <stdio.h>
#include <string.h>

#include "capacity.h"
#include "policy_file.h"
#include "setup_plan.h"
#include "simulate.h"

static const sl_dtype weights_dtypes[] = {SL_DTYPE_AS_STORED, SL_DTYPE_F32, SL_DTYPE_F16,
                                          SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
static const sl_dtype cache_dtypes[] = {SL_DTYPE_F16, SL_DTYPE_F32, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

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
    if (o->weights != SL_SETUP_WEIGHTS_STORED && o->weights != SL_SETUP_WEIGHTS_AUTO)
        p->weights_dtype = weights_dtypes[o->weights];
    if (o->cache != SL_SETUP_CACHE_F16 && o->cache != SL_SETUP_CACHE_AUTO)
        p->cache_dtype = cache_dtypes[o->cache];
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

/* ---- deciding ---- */

/* Whether the options decide something that a plan would. */
static int has_decisions(const sl_setup_options *o) {
    return o->micro_batch || o->num_micro_batches || o->max_rows || o->blocks_in_flight ||
           o->weights_at.n || o->cache_at.n || o->hidden_at.n || o->percent.n || o->layers.n ||
           o->cpu_attention != ALL_ON_CPU;
}

/* Plans, or takes the engine's own choices where no plan is to be had and none was asked for. */
static sl_status plan(sl_setup *setup, const sl_policy *budgets, int is_asked, sl_policy *out) {
    sl_status st = sl_setup_find_profile(setup, budgets, 1);
    if (st == SL_OK) st = sl_setup_plan(setup, budgets, out);
    if (st == SL_OK || is_asked) return st;
    if (!setup->options->quiet && sl_launch_is_first(setup->launch))
        fprintf(stderr, "sluice: note: no plan, the engine chooses: %s\n", sl_error_message());
    return SL_OK;
}

/* Collective.  *out is right on the first rank. */
static sl_status decide(sl_setup *setup, const sl_policy *budgets, sl_policy *out) {
    const sl_setup_options *o = setup->options;
    const int is_first = sl_transport_is_first(setup->transport);
    const int is_asked = o->profile_path || o->plan == SL_SETUP_PLAN_ALWAYS ||
                         o->max_latency_s > 0 || (o->cluster.n && !setup->launch->simulated);
    int is_simple = 0;
    if (o->max_latency_s > 0 &&
        (o->policy_path || o->plan == SL_SETUP_PLAN_NEVER || has_decisions(o)))
        return SL_FAIL(SL_ERR_ARG, "--max-latency bounds what is planned, but other options decide "
                                   "it; use sluice plan --max-latency --save FILE and --policy "
                                   "FILE");
    if (o->quality > 0 && o->weights != SL_SETUP_WEIGHTS_AUTO && o->cache != SL_SETUP_CACHE_AUTO)
        return SL_FAIL(SL_ERR_ARG, "--quality is for --weights auto or --cache auto, and neither "
                                   "is given");
    if (o->profile_path && (o->plan == SL_SETUP_PLAN_NEVER || has_decisions(o)))
        return SL_FAIL(SL_ERR_ARG,
                       "--profile asks for a plan, but other options decide a part of it; use "
                       "sluice plan --save FILE and --policy FILE");
    if (o->policy_path)
        SL_TRY(sl_setup_agree(setup, is_first ? sl_policy_read(o->policy_path, out) : SL_OK));
    if (o->policy_path || has_decisions(o))
        return sl_setup_find_profile(setup, budgets, 0); /* for what is expected */
    if (o->plan == SL_SETUP_PLAN_NEVER) return SL_OK;
    int is_uneven = 0;
    if (!is_asked) SL_TRY(sl_setup_is_uneven(setup, budgets, &is_uneven));
    if (!is_asked && !is_uneven) SL_TRY(sl_setup_plan_simple(setup, budgets, &is_simple, out));
    if (is_simple) return sl_setup_find_profile(setup, budgets, 0);
    return plan(setup, budgets, is_asked, out);
}

sl_status sl_setup_choose_policy(sl_setup *setup) {
    sl_policy decided, budgets;
    sl_policy_init(&decided);
    sl_policy_init(&budgets);
    decided.host_attends = 1;
    SL_TRY(sl_setup_agree(setup, set_budgets(setup, &budgets)));
    SL_TRY(setup->transport->ops->broadcast(setup->transport, 0, &setup->workload,
                                            sizeof setup->workload));
    SL_TRY(decide(setup, &budgets, &decided));
    decided.layers_per_rank = NULL;
    decided.disk_dir = NULL;
    SL_TRY(setup->transport->ops->broadcast(setup->transport, 0, &decided, sizeof decided));
    sl_status st = set_budgets(setup, &decided);
    if (st == SL_OK) st = apply_options(setup, &decided);
    SL_TRY(sl_setup_agree(setup, st));
    if (setup->is_split) {
        decided.layers_per_rank = setup->layers;
        decided.weights = setup->weights[setup->transport->rank];
    }
    setup->policy = decided;
    return SL_OK;
}
