#include "setup_plan.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "setup_job.h"

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
static sl_status fits_at_once(const sl_setup *setup, const sl_policy *budgets, sl_setup_device d,
                              const sl_workload *w, int n_seats, int *out) {
    static const double room = 0.8;
    const sl_profile none = {.gpu_bytes = 0};
    const int fast = d.bytes > 0 ? SL_TIER_GPU : SL_TIER_CPU;
    int can;
    sl_footprint m;
    sl_planner_ask ask = sl_setup_ask(setup, budgets, d, &none, w, &can);
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
    p.max_context = sl_setup_context(setup);
    SL_TRY(sl_plan_measure(&q, &p, 0, &m));
    *out = (double)m.least_bytes[fast] <= q.budget_bytes[fast];
    return SL_OK;
}

sl_status sl_setup_plan_simple(const sl_setup *setup, const sl_policy *budgets, int *is_simple_out,
                               sl_policy *out) {
    enum { MOST = 256, LEAST = 64, DEFAULT = 32 };
    static const double small_s = 60; /* measuring alone takes half of it */
    const sl_workload w = sl_setup_workload(setup);
    sl_setup_device d = {0, 0};
    int fits = 0, is_small = 0, n_seats = w.n_prompts < MOST ? w.n_prompts : MOST;
    sl_status st = sl_setup_find_device(setup, &d);
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

/* ---- planning ---- */

/* This rank has what its profile says. */
static sl_status check_device(const sl_setup *setup) {
    const sl_profile *profile = &setup->profile;
    const char *path = sl_setup_profile_path(setup);
    sl_setup_device d;
    SL_TRY(sl_setup_find_device(setup, &d));
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
    const sl_workload workload = sl_setup_workload(setup);
    sl_profile profiles[SL_PARTITION_MAX_RANKS];
    double each[SL_PARTITION_MAX_RANKS][SL_TIER_COUNT];
    sl_setup_device d;
    int can;
    SL_TRY(sl_setup_find_device(setup, &d));
    sl_planner_ask ask = sl_setup_ask(setup, budgets, d, &setup->profile, &workload, &can);
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
