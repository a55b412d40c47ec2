#include "exact_measured.h"

#include <math.h>
#include <string.h>

#include "store/kv_cache.h"

sl_status sl_plan_exact_init(const sl_plan_problem *q, sl_plan_exact *out) {
    memset(out, 0, sizeof *out);
    out->q = q;
    out->cost = sl_plan_cost_problem(q);
    out->method = SL_LP_PLAIN;
    for (int w = 0; w < q->n_weights; w++)
        SL_TRY(sl_room_weights_make(q, q->weights[w], &out->weights[w]));
    return SL_OK;
}

static const sl_room_weights *weights_of(const sl_plan_exact *e, sl_dtype dtype) {
    for (int w = 0; w < e->q->n_weights; w++)
        if (e->q->weights[w] == dtype) return &e->weights[w];
    return &e->weights[0];
}

/* Turns follow from the block's numbers: neighbours in the search often share them. */
static sl_status find_turns(sl_plan_exact *e, const sl_plan_shape *s) {
    sl_plan_shape *t = &e->turns_shape;
    if (t->micro_batch == s->micro_batch && t->num_micro_batches == s->num_micro_batches &&
        t->max_rows == s->max_rows)
        return SL_OK;
    SL_TRY(sl_workload_turns(e->q->workload, s->micro_batch, s->num_micro_batches, e->q->n_ranks,
                             s->max_rows, &e->turns));
    *t = *s;
    return SL_OK;
}

/* Most that a curve gives. */
static double fastest(const sl_curve *curve) {
    double most = 0;
    for (int i = 0; i < curve->n; i++) most = fmax(most, curve->y[i]);
    return most;
}

/* A sweep that decodes reads all weights and the cache of all sequences: what the device does not
 * hold is copied to it or attended on the host, what both do not hold comes from disk.  INFINITY:
 * there is no room for it. */
static double read_s(const sl_plan_exact *e, const sl_plan_shape *shape,
                     const sl_cost_terms *terms) {
    const sl_plan_problem *q = e->q;
    const sl_profile *m = q->profile;
    const sl_policy p = sl_plan_policy(q, shape);
    const sl_model_config *c = e->cost.config;
    const sl_kv_format page = sl_kv_format_make(shape->cache, c->n_kv_heads, c->head_dim);
    const double seats = (double)shape->micro_batch * shape->num_micro_batches * q->n_ranks;
    const double part = q->pages_frac > 0 ? q->pages_frac : 1;
    const double tokens = part * sl_kv_pages_for(p.max_context) * SL_PAGE_TOKENS * seats;
    const double pages = tokens / SL_PAGE_TOKENS * (double)page.page_bytes * e->cost.n_layers;
    const double all = weights_of(e, shape->weights)->matrix_bytes + pages;
    const sl_sweep_load *load = &terms->turns.load[SL_PHASE_DECODE];
    const double read = load->n_sweeps > 0
                            ? load->decode_tokens / load->n_sweeps * terms->n_batches / tokens
                            : 0; /* of the pages' tokens */
    const double below = all - (q->has_device ? q->budget_bytes[SL_TIER_GPU] : 0);
    const double on_disk = below - q->budget_bytes[SL_TIER_CPU];
    double s = 0;
    if (on_disk > q->budget_bytes[SL_TIER_DISK]) return INFINITY;
    if (q->has_device && below > 0)
        s = read * below /
            (fastest(&m->h2d_bps) + fastest(&m->host_attend_bps[sl_profile_format(shape->cache)]));
    if (on_disk > 0) s = fmax(s, read * on_disk / fastest(&m->disk_read_bps));
    return s;
}

sl_status sl_plan_exact_bound(sl_plan_exact *e, const sl_plan_shape *shape, double *seconds_out) {
    const sl_policy p = sl_plan_policy(e->q, shape);
    sl_cost_terms terms;
    SL_TRY(find_turns(e, shape));
    SL_TRY(sl_cost_terms_make(&e->cost, &p, &e->turns, 1, &terms));
    double least_s = read_s(e, shape, &terms);
    *seconds_out = isinf(least_s) ? INFINITY : 0;
    for (int i = 0; i < SL_N_PHASES && !isinf(least_s); i++) {
        const sl_cost_phase_terms *t = &terms.phase[i];
        const double compute_s = t->coef[SL_COST_COMPUTE][SL_COST_ONE];
        const double one = i == SL_PHASE_DECODE ? fmax(least_s, compute_s) : compute_s;
        if (t->n_sweeps > 0) *seconds_out += t->n_sweeps * (one + terms.fixed_s);
    }
    return SL_OK;
}

/* Whether the block's buffers alone leave room. */
static int has_room(const sl_plan_problem *q, const sl_room *room, sl_program_mode mode) {
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        double need = room->bytes[t][SL_COST_ONE];
        if (t == SL_TIER_GPU && !q->has_device) continue;
        if (t == SL_TIER_GPU && mode.all_on_device) need += room->bytes[t][SL_COST_WEIGHTS_GPU];
        if (need > q->budget_bytes[t]) return 0;
    }
    return 1;
}

/* One way to run the block; keeps it if it is faster than *seconds. */
static sl_status solve_mode(sl_plan_exact *e, const sl_plan_shape *shape, sl_program_mode mode,
                            int *found, double *seconds) {
    const sl_policy p = sl_plan_policy(e->q, shape);
    sl_cost_terms terms;
    sl_room room;
    double x[SL_COST_N_VARS], s;
    int one;
    SL_TRY(sl_room_make(e->q, shape, weights_of(e, shape->weights), mode.mode, &room));
    if (!has_room(e->q, &room, mode)) return SL_OK;
    SL_TRY(sl_cost_terms_make(&e->cost, &p, &e->turns, mode.mode.on_host ? 0.5 : 1, &terms));
    e->n_programs++;
    SL_TRY(sl_program_measured_solve(e->q, &terms, &room, mode, e->q->budget_bytes, e->method, &one,
                                     &s, x));
    if (!one || (*found && s >= *seconds)) return SL_OK;
    *found = 1;
    *seconds = s;
    e->shape = *shape;
    e->mode = mode;
    e->terms = terms;
    e->room = room;
    memcpy(e->x, x, sizeof e->x);
    return SL_OK;
}

/* All ways to run the block, with the disk or without. */
static sl_status solve_modes(sl_plan_exact *e, const sl_plan_shape *shape, int uses_disk,
                             int *found, double *seconds) {
    const sl_plan_problem *q = e->q;
    const int format = sl_profile_format(shape->cache);
    const int can =
        q->has_device && q->can_attend_on_host && q->profile->host_attend_bps[format].n > 0;
    const int may_hold =
        q->has_device && weights_of(e, shape->weights)->matrix_bytes < q->budget_bytes[SL_TIER_GPU];
    for (int on_host = 0; on_host <= can; on_host++)
        for (int all = 0; all <= may_hold; all++) {
            const sl_program_mode mode = {{on_host, 0}, all, uses_disk};
            SL_TRY(solve_mode(e, shape, mode, found, seconds));
        }
    /* Hidden states leave the device where nothing else fits. */
    for (int on_host = 0; on_host <= can && q->has_device && !*found; on_host++) {
        const sl_program_mode mode = {{on_host, 1}, 0, uses_disk};
        SL_TRY(solve_mode(e, shape, mode, found, seconds));
    }
    return SL_OK;
}

sl_status sl_plan_exact_solve(sl_plan_exact *e, const sl_plan_shape *shape, int uses_disk,
                              int *found_out, double *seconds_out) {
    const int has_disk = e->q->budget_bytes[SL_TIER_DISK] > 0;
    *found_out = 0;
    SL_TRY(find_turns(e, shape));
    if (!uses_disk) SL_TRY(solve_modes(e, shape, 0, found_out, seconds_out));
    if (uses_disk || (has_disk && !*found_out))
        SL_TRY(solve_modes(e, shape, 1, found_out, seconds_out));
    return SL_OK;
}

/* Shares below a thousandth go to where most is. */
static sl_shares clean(const double *x) {
    sl_shares s = {{0}};
    int most = 0;
    for (int t = 1; t < SL_TIER_COUNT; t++)
        if (x[t] > x[most]) most = t;
    double rest = 1;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (t == most || x[t] < 1e-3) continue;
        s.frac[t] = x[t];
        rest -= x[t];
    }
    s.frac[most] = rest;
    return s;
}

/* Whole sequences. */
static void round_cache(const double *x, int has_device, int n_seats, sl_policy *p) {
    const double disk = x[SL_COST_CACHE_DISK_VISITS] + x[SL_COST_CACHE_DISK_ATTENDS];
    const double host = x[SL_COST_CACHE_CPU_ATTENDS] + x[SL_COST_CACHE_DISK_ATTENDS];
    int n_gpu = (int)floor(x[SL_COST_CACHE_GPU] * n_seats + 0.5);
    int n_disk = (int)floor(disk * n_seats + 0.5);
    if (n_gpu > n_seats) n_gpu = n_seats;
    if (n_disk > n_seats - n_gpu) n_disk = n_seats - n_gpu;
    const int below = n_seats - n_gpu;
    int n_host = (int)floor(host * n_seats + 0.5);
    if (n_host > below) n_host = below;
    p->cache.frac[SL_TIER_GPU] = (double)n_gpu / n_seats;
    p->cache.frac[SL_TIER_DISK] = (double)n_disk / n_seats;
    p->cache.frac[SL_TIER_CPU] = 1 - p->cache.frac[SL_TIER_GPU] - p->cache.frac[SL_TIER_DISK];
    if (n_seats == n_gpu + n_disk) p->cache.frac[SL_TIER_CPU] = 0;
    p->host_attends = has_device && below > 0 ? (double)n_host / below : 0;
}

static sl_policy policy_of(const sl_plan_exact *e) {
    const double *x = e->x;
    sl_policy p = sl_plan_policy(e->q, &e->shape);
    p.weights = clean(x + SL_COST_WEIGHTS_GPU);
    round_cache(x, e->q->has_device, p.micro_batch * p.num_micro_batches * p.blocks_in_flight, &p);
    if (e->mode.mode.travels) p.hidden = clean(x + SL_COST_HIDDEN_GPU);
    if (p.weights.frac[SL_TIER_DISK] == 0 && p.cache.frac[SL_TIER_DISK] == 0 &&
        p.hidden.frac[SL_TIER_DISK] == 0)
        p.disk_dir = NULL;
    return p;
}

/* Takes what is too much off the program's budgets; 1 if all fit. */
static int tighten(const sl_plan_problem *q, const sl_footprint *m, double *budget_bytes,
                   double *over_bytes) {
    int fits = 1;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        over_bytes[t] = 0;
        if (t == SL_TIER_GPU && !q->has_device) continue;
        const double over = (double)m->need_bytes[t] - q->budget_bytes[t];
        if (over <= 0) continue;
        fits = 0;
        over_bytes[t] = over;
        budget_bytes[t] -= 1.05 * over + 4096;
    }
    return fits;
}

sl_status sl_plan_exact_round(sl_plan_exact *e, int *found_out, sl_policy *policy_out,
                              sl_cost *cost_out, sl_footprint *memory_out) {
    enum { ROUNDS = 8 };
    double budget_bytes[SL_TIER_COUNT], seconds;
    memcpy(budget_bytes, e->q->budget_bytes, sizeof budget_bytes);
    *found_out = 1;
    for (int round = 0; round < ROUNDS && *found_out; round++) {
        const sl_policy p = policy_of(e);
        sl_footprint m;
        e->n_measured++;
        SL_TRY(sl_plan_measure(e->q, &p, 0, &m));
        if (tighten(e->q, &m, budget_bytes, e->over_bytes)) {
            SL_TRY(find_turns(e, &e->shape));
            SL_TRY(sl_cost_measured_of_turns(&e->cost, &p, &e->turns, cost_out));
            *policy_out = p;
            *memory_out = m;
            return SL_OK;
        }
        e->n_programs++;
        SL_TRY(sl_program_measured_solve(e->q, &e->terms, &e->room, e->mode, budget_bytes,
                                         e->method, found_out, &seconds, e->x));
    }
    *found_out = 0;
    return SL_OK;
}
