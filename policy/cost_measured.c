#include "cost_measured.h"

#include <math.h>
#include <string.h>

#include "replay.h"

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

static double sum(const double *coef, const double *x, int from, int to) {
    double s = 0;
    for (int v = from; v <= to; v++) s += x[v] != 0 ? coef[v] * x[v] : 0;
    return s;
}

static double sum_all(const double *coef, const double *x) {
    return sum(coef, x, 0, SL_COST_N_VARS - 1);
}

static double on_host(const double *x) {
    return x[SL_COST_CACHE_CPU_ATTENDS] + x[SL_COST_CACHE_DISK_ATTENDS];
}

/* Two transfers that share what carries them: by how much both get longer while both run. */
static double slowed_s(double a_s, double a_bytes, double b_s, double b_bytes, double shared_bps) {
    if (a_s <= 0 || b_s <= 0 || shared_bps <= 0) return 0;
    const double wanted = a_bytes / a_s + b_bytes / b_s;
    return wanted > shared_bps ? fmin(a_s, b_s) * (wanted / shared_bps - 1) : 0;
}

/* How much longer the copies and attention on the host take because they share link and memory. */
typedef struct {
    double h2d, d2h, attend; /* factors >= 1 */
} slowing;

static slowing slow(const sl_profile *m, const sl_cost_phase_terms *t, const double *x,
                    const double *q) {
    slowing f = {1, 1, 1};
    const double copied = sum_all(t->coef[SL_COST_LINK], x) * m->duplex_bps;
    const double both = q[SL_COST_H2D] + q[SL_COST_D2H];
    if (both <= 0) return f;
    const double h2d_bytes = copied * q[SL_COST_H2D] / both, d2h_bytes = copied - h2d_bytes;
    const double linked =
        slowed_s(q[SL_COST_H2D], h2d_bytes, q[SL_COST_D2H], d2h_bytes, m->duplex_bps);
    const double longer = fmax(q[SL_COST_H2D], q[SL_COST_D2H]) + linked;
    const double attend_s = sum_all(t->coef[SL_COST_ATTEND], x);
    const double beside =
        slowed_s(longer, copied, attend_s, attend_s * t->host_attend_bps, m->dram_beside_h2d_bps);
    const double copies = (longer + beside) / fmax(q[SL_COST_H2D], q[SL_COST_D2H]);
    f.h2d = f.d2h = copies;
    if (attend_s > 0) f.attend = (attend_s + beside) / attend_s;
    return f;
}

static unsigned char visit_bits(const sl_cost_phase_terms *t, const double *x) {
    const double disk = x[SL_COST_CACHE_DISK_VISITS] + x[SL_COST_CACHE_DISK_ATTENDS];
    const double below = disk + x[SL_COST_CACHE_CPU_VISITS] + x[SL_COST_CACHE_CPU_ATTENDS];
    const double visits = t->prefill_rows > 0 ? below : below - on_host(x);
    unsigned char bits = 0;
    if (visits > 1e-9) bits |= SL_VISIT_UPLOAD | SL_VISIT_STORE;
    if (disk > 1e-9 || x[SL_COST_HIDDEN_DISK] > 1e-9) bits |= SL_VISIT_FETCH | SL_VISIT_WRITE;
    if (on_host(x) > 1e-9 && t->decode_rows > 0) bits |= SL_VISIT_HOST;
    return bits;
}

static sl_status replay_phase(const sl_cost_problem *problem, const sl_cost_terms *terms,
                              const sl_cost_phase_terms *t, const double *x, const double *q,
                              double *sweep_s_out) {
    const double layers = problem->n_layers, items = layers * terms->n_batches;
    const slowing f = slow(problem->profile, t, x, q);
    const int first_cache = SL_COST_CACHE_GPU, last = SL_COST_HIDDEN_DISK;
    const double after_s = t->products_s * (1 - t->before_frac) / items;
    const double all_s = (q[SL_COST_COMPUTE] - t->head_s - t->embed_s) / items;
    const double streamed = x[SL_COST_WEIGHTS_CPU] + x[SL_COST_WEIGHTS_DISK];
    const double hidden = x[SL_COST_HIDDEN_CPU] + x[SL_COST_HIDDEN_DISK];
    const double *h2d = t->coef[SL_COST_H2D], *d2h = t->coef[SL_COST_D2H];
    const double *in = t->coef[SL_COST_DISK_READ], *out = t->coef[SL_COST_DISK_WRITE];
    const sl_replay_work w = {
        .n_layers = problem->n_layers,
        .n_micro_batches = terms->n_batches,
        .is_first_rank = problem->n_ranks == 1,
        .is_last_rank = 1,
        .has_device = problem->has_device,
        .is_fetched = x[SL_COST_WEIGHTS_DISK] > 0,
        .is_uploaded = problem->has_device && streamed > 0,
        .visit = visit_bits(t, x),
        .hidden_travels = problem->has_device ? hidden > 1e-9 : x[SL_COST_HIDDEN_DISK] > 1e-9,
        .embed_s = t->embed_s / terms->n_batches,
        .head_s = t->head_s / terms->n_batches,
        .before_s = all_s - after_s,
        .after_s = after_s,
        .fetch_s = in[SL_COST_WEIGHTS_DISK] * x[SL_COST_WEIGHTS_DISK] / layers,
        .upload_s = f.h2d * sum(h2d, x, SL_COST_WEIGHTS_GPU, SL_COST_WEIGHTS_DISK) / layers,
        .attend_s = (f.attend * sum_all(t->coef[SL_COST_ATTEND], x) + t->host_jobs_s) / items,
        .visit_upload_s = f.h2d * sum(h2d, x, first_cache, last) / items,
        .visit_store_s = f.d2h * sum(d2h, x, first_cache, last) / items,
        .visit_fetch_s = sum(in, x, first_cache, last) / items,
        .visit_write_s = sum(out, x, first_cache, last) / items,
        .wire_s = q[SL_COST_WIRE] / terms->n_batches};
    SL_TRY(sl_replay_sweep(&w, sweep_s_out));
    *sweep_s_out += terms->fixed_s;
    return SL_OK;
}

static sl_status evaluate_phase(const sl_cost_problem *problem, const sl_cost_terms *terms,
                                int phase, const double *x, sl_cost_phase *out) {
    const sl_cost_phase_terms *t = &terms->phase[phase];
    memset(out, 0, sizeof *out);
    out->n_sweeps = t->n_sweeps;
    out->decode_rows = t->decode_rows;
    out->prefill_rows = t->prefill_rows;
    if (t->n_sweeps <= 0) return SL_OK;
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        out->queue_s[q] = sum_all(t->coef[q], x);
        if (q == SL_COST_ATTEND && on_host(x) > 0) out->queue_s[q] += t->host_jobs_s;
        if (q == SL_COST_COMPUTE && on_host(x) > 0) out->queue_s[q] += t->split_s;
        if (!isfinite(out->queue_s[q]))
            return SL_FAIL(SL_ERR_ARG, "the machine profile has no rate for %s",
                           sl_cost_queue_name((sl_cost_queue)q));
        if (out->queue_s[q] > out->queue_s[out->longest]) out->longest = (sl_cost_queue)q;
    }
    SL_TRY(replay_phase(problem, terms, t, x, out->queue_s, &out->sweep_s));
    if (out->sweep_s < out->queue_s[out->longest]) out->sweep_s = out->queue_s[out->longest];
    return SL_OK;
}

/* Sequences that attend on the device, of all. */
static double on_device(const double *x, int has_device) {
    return has_device ? 1 - on_host(x) : 1;
}

sl_status sl_cost_measured(const sl_cost_problem *problem, const sl_policy *policy, sl_cost *out) {
    sl_turns turns;
    SL_TRY(sl_cost_turns(problem, policy, &turns));
    return sl_cost_measured_of_turns(problem, policy, &turns, out);
}

sl_status sl_cost_measured_of_turns(const sl_cost_problem *problem, const sl_policy *policy,
                                    const sl_turns *turns, sl_cost *out) {
    double x[SL_COST_N_VARS], longest_s = 0;
    sl_cost_terms terms;
    sl_cost c;
    memset(&c, 0, sizeof c);
    sl_cost_variables(policy, problem->has_device, x);
    SL_TRY(sl_cost_terms_make(problem, policy, turns, on_device(x, problem->has_device), &terms));
    for (int p = 0; p < SL_N_PHASES; p++) {
        SL_TRY(evaluate_phase(problem, &terms, p, x, &c.phase[p]));
        longest_s += c.phase[p].n_sweeps * c.phase[p].queue_s[c.phase[p].longest];
    }
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
