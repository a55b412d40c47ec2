#include "cost_measured.h"

#include <math.h>
#include <string.h>

#include "cost_sweep.h"

const char *sl_cost_queue_name(sl_cost_queue queue) {
    static const char *const names[SL_COST_N_QUEUES] = {
        "h2d",     "d2h",           "h2d+d2h", "disk read",  "disk write",
        "compute", "cpu attention", "wire",    "host memory"};
    return (int)queue >= 0 && queue < SL_COST_N_QUEUES ? names[queue] : "?";
}

/* All zero stands for the tier that computes. */
static sl_shares shares_of(const sl_shares *s) {
    sl_shares all = {{0}};
    all.frac[SL_TIER_GPU] = 1;
    return sl_shares_are_set(s) ? *s : all;
}

void sl_cost_variables(const sl_policy *p, int has_device, double *out) {
    const sl_shares cache = shares_of(&p->cache);
    const sl_shares hidden = sl_shares_are_set(&p->hidden) ? p->hidden : shares_of(&p->hidden);
    const double host = has_device ? p->host_attends : 0;
    out[SL_COST_ONE] = 1;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        out[SL_COST_WEIGHTS_GPU + t] = p->weights.frac[t];
        out[SL_COST_HIDDEN_GPU + t] = hidden.frac[t];
    }
    out[SL_COST_CACHE_GPU] = cache.frac[SL_TIER_GPU];
    out[SL_COST_CACHE_CPU_VISITS] = cache.frac[SL_TIER_CPU] * (1 - host);
    out[SL_COST_CACHE_CPU_ATTENDS] = cache.frac[SL_TIER_CPU] * host;
    out[SL_COST_CACHE_DISK_VISITS] = cache.frac[SL_TIER_DISK] * (1 - host);
    out[SL_COST_CACHE_DISK_ATTENDS] = cache.frac[SL_TIER_DISK] * host;
}

/* ---- a job ---- */

/* Sums over the sweeps of a phase. */
static void add_sweeps(const sl_cost_sweep *one, const sl_cost_terms *terms, int phase,
                       sl_cost_phase *out, double *longest_s) {
    const sl_cost_phase_terms *t = &terms->phase[phase];
    double most_s = 0;
    out->n_sweeps += t->n_sweeps;
    out->sweep_s += t->n_sweeps * one->sweep_s;
    out->decode_rows += t->n_sweeps * t->decode_rows;
    out->prefill_rows += t->n_sweeps * t->prefill_rows;
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        out->queue_s[q] += t->n_sweeps * one->queue_s[q];
        most_s = fmax(most_s, one->queue_s[q]);
    }
    *longest_s += t->n_sweeps * most_s;
}

static void take_means(sl_cost_phase *p) {
    if (p->n_sweeps <= 0) return;
    p->sweep_s /= p->n_sweeps;
    p->decode_rows /= p->n_sweeps;
    p->prefill_rows /= p->n_sweeps;
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        p->queue_s[q] /= p->n_sweeps;
        if (p->queue_s[q] > p->queue_s[p->longest]) p->longest = (sl_cost_queue)q;
    }
}

/* The sweeps of a group of each phase; index -1: none. */
static sl_status add_groups(const sl_cost_problem *problem, const sl_policy *policy,
                            const sl_turns *turns, int prefill, int decode, sl_cost *c,
                            double *longest_s) {
    static const sl_sweep_load none;
    sl_turns some = *turns;
    sl_cost_terms terms;
    some.load[SL_PHASE_PREFILL] = prefill < 0 ? none : turns->group[prefill];
    some.load[SL_PHASE_DECODE] = decode < 0 ? none : turns->group[decode];
    for (int p = 0; p < SL_N_PHASES; p++) {
        sl_cost_sweep one;
        if (some.load[p].n_sweeps <= 0) continue;
        SL_TRY(sl_cost_sweep_of(problem, policy, &some, p, &terms, &one));
        /* The first sweep of all holds prompts alone. */
        if (p == SL_PHASE_PREFILL && c->phase[p].n_sweeps == 0) c->phase[p].sweep_s = one.cold_s;
        add_sweeps(&one, &terms, p, &c->phase[p], longest_s);
    }
    return SL_OK;
}

sl_status sl_cost_measured(const sl_cost_problem *problem, const sl_policy *policy, sl_cost *out) {
    sl_turns turns;
    SL_TRY(sl_cost_turns(problem, policy, &turns));
    return sl_cost_measured_of_turns(problem, policy, &turns, out);
}

sl_status sl_cost_measured_of_turns(const sl_cost_problem *problem, const sl_policy *policy,
                                    const sl_turns *turns, sl_cost *out) {
    enum { MOST = SL_SWEEP_GROUPS_PREFILL, OTHERS = SL_SWEEP_GROUPS - MOST };
    double longest_s = 0;
    sl_cost_terms terms;
    sl_cost c;
    memset(&c, 0, sizeof c);
    SL_TRY(sl_cost_terms_make(problem, policy, turns, 1, &terms));
    for (int g = 0; g < MOST; g++)
        SL_TRY(add_groups(problem, policy, turns, g, g < OTHERS ? MOST + g : -1, &c, &longest_s));
    for (int p = 0; p < SL_N_PHASES; p++) take_means(&c.phase[p]);
    const sl_cost_phase *prefill = &c.phase[SL_PHASE_PREFILL], *decode = &c.phase[SL_PHASE_DECODE];
    const sl_sweep_load *load = &terms.turns.load[SL_PHASE_DECODE];
    c.prefill_s = prefill->n_sweeps * prefill->sweep_s;
    c.decode_s = decode->n_sweeps * decode->sweep_s;
    c.total_s = c.prefill_s + c.decode_s;
    c.tokens_per_s = terms.turns.n_tokens / c.total_s;
    c.bound_tokens_per_s = terms.turns.n_tokens / longest_s;
    if (c.prefill_s > 0) c.prefill_tokens_per_s = terms.turns.n_prompt_tokens / c.prefill_s;
    if (c.decode_s > 0)
        c.decode_tokens_per_s = load->decode_rows * terms.turns.n_batches / c.decode_s;
    c.request_s = terms.turns.seated_sweeps * terms.n_blocks * c.total_s /
                  (prefill->n_sweeps + decode->n_sweeps);
    *out = c;
    return SL_OK;
}
