/* What is expected of a run, before it begins. */
#include <stdlib.h>
#include <string.h>

#include "setup_job.h"
#include "setup_plan.h"

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
    sl_workload workload = sl_setup_workload(setup);
    sl_profile *profiles = calloc((size_t)n, sizeof *profiles);
    sl_cost cost;
    sl_footprint memory;
    sl_setup_device d;
    int can;
    if (!profiles || sl_setup_find_device(setup, &d) != SL_OK) goto end;
    if ((d.bytes > 0) != (setup->profile.device[0] != '\0')) goto end;
    for (int r = 0; r < n; r++) profiles[r] = setup->ranks[r].profile;
    sl_planner_ask ask = sl_setup_ask(setup, &setup->policy, d, &setup->profile, &workload, &can);
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
