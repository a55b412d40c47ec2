#include "program_measured.h"

#include <math.h>
#include <string.h>

#include "engine/sweep.h"

/* GLPK sees numbers near 1: memory in GiB, and a sweep in units of what it takes at least. */
static const double gib = 1073741824.0;

/* Parts of a row below this are rounding beside the rest of it. */
static const double negligible = 1e-9;

enum {
    N_SHARES = SL_COST_N_VARS - 1,
    N_COLS = N_SHARES + SL_N_PHASES,
    N_ROWS_MAX = 3 + SL_N_PHASES * (SL_COST_N_QUEUES + 2) + SL_PROGRAM_N_MEMORY_ROWS
};

typedef struct {
    const sl_plan_problem *q;
    const sl_cost_terms *terms;
    const sl_room *room;
    sl_program_mode mode;
    sl_lp *lp;
} program;

static int col_of(int var) {
    return var - 1;
}

/* Whether a variable may be above 0. */
static int may_be(const sl_plan_problem *q, sl_program_mode mode, int var) {
    const int has_disk = mode.uses_disk && q->budget_bytes[SL_TIER_DISK] > 0 &&
                         q->profile->disk_read_bps.n > 0 && q->profile->disk_write_bps.n > 0;
    switch (var) {
    case SL_COST_WEIGHTS_GPU:
    case SL_COST_CACHE_GPU:
        return q->has_device;
    case SL_COST_WEIGHTS_CPU:
        return !mode.all_on_device;
    case SL_COST_WEIGHTS_DISK:
        return has_disk && !mode.all_on_device;
    case SL_COST_CACHE_CPU_ATTENDS:
        return mode.mode.on_host;
    case SL_COST_CACHE_DISK_ATTENDS:
        return mode.mode.on_host && has_disk;
    case SL_COST_CACHE_DISK_VISITS:
        return has_disk;
    case SL_COST_HIDDEN_GPU:
        return q->has_device;
    case SL_COST_HIDDEN_CPU:
        return !q->has_device || mode.mode.travels;
    case SL_COST_HIDDEN_DISK:
        return has_disk && mode.mode.travels;
    default:
        return 1;
    }
}

static sl_status add_sum(sl_lp *lp, int from, int to) {
    double row[N_COLS] = {0};
    for (int v = from; v <= to; v++) row[col_of(v)] = 1;
    return sl_lp_add_row(lp, row, 1, 1);
}

/* What a sweep takes at least, whatever the shares. */
static double unit_s(const sl_cost_terms *terms, int phase) {
    const double s = terms->phase[phase].coef[SL_COST_COMPUTE][SL_COST_ONE];
    return s > 0 ? s : 1;
}

/* Largest value of coef.x, given that the shares of each kind sum to 1 at most. */
static double most_of(const double *coef, const sl_plan_problem *q, sl_program_mode mode) {
    static const int kinds[][2] = {{SL_COST_WEIGHTS_GPU, SL_COST_WEIGHTS_DISK},
                                   {SL_COST_CACHE_GPU, SL_COST_CACHE_DISK_ATTENDS},
                                   {SL_COST_HIDDEN_GPU, SL_COST_HIDDEN_DISK}};
    double sum = 0;
    for (int k = 0; k < 3; k++) {
        double most = 0;
        for (int v = kinds[k][0]; v <= kinds[k][1]; v++)
            if (may_be(q, mode, v)) most = fmax(most, coef[v]);
        sum += most;
    }
    return sum;
}

/* coef.x + constant <= the phase's sweep; rows that can never be the longest are left out. */
static sl_status add_time(const program *p, int phase, const double *coef, double constant_s) {
    double row[N_COLS] = {0};
    const double unit = unit_s(p->terms, phase), fixed = coef[SL_COST_ONE] + constant_s;
    const double most = most_of(coef, p->q, p->mode);
    if (fixed + most <= unit) return SL_OK;
    for (int v = 1; v < SL_COST_N_VARS; v++)
        if (may_be(p->q, p->mode, v) && coef[v] > negligible * (most + fixed))
            row[col_of(v)] = -coef[v] / unit;
    row[N_SHARES + phase] = 1;
    return sl_lp_add_row(p->lp, row, fixed / unit, INFINITY);
}

/* A layer's place in the ring is free once the `lag` micro-batches that lag behind are computed,
 * and with a single micro-batch attention on the host and computation take turns. */
static sl_status add_waits(const program *p, int phase) {
    const sl_cost_phase_terms *t = &p->terms->phase[phase];
    const int k = p->terms->n_batches, lag = sl_sweep_lag(k, 1, p->mode.mode.travels);
    double coef[SL_COST_N_VARS];
    if (!p->mode.mode.on_host || t->decode_rows <= 0) return SL_OK;
    if (lag == 0) {
        for (int v = 0; v < SL_COST_N_VARS; v++)
            coef[v] = t->coef[SL_COST_COMPUTE][v] + t->coef[SL_COST_ATTEND][v];
        return add_time(p, phase, coef, t->host_jobs_s);
    }
    if (p->mode.all_on_device) return SL_OK;
    for (int v = 0; v < SL_COST_N_VARS; v++)
        coef[v] = t->coef[SL_COST_H2D][v] + t->coef[SL_COST_COMPUTE][v] * lag / k;
    return add_time(p, phase, coef, 0);
}

static sl_status add_phase(const program *p, int phase) {
    const sl_cost_phase_terms *t = &p->terms->phase[phase];
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        double constant_s = 0;
        if (p->mode.mode.on_host && q == SL_COST_ATTEND) constant_s = t->host_jobs_s;
        SL_TRY(add_time(p, phase, t->coef[q], constant_s));
    }
    return add_waits(p, phase);
}

/* A row of zeros where the budget holds the most there can be: rows keep their numbers. */
static sl_status add_memory(const program *p, const double *bytes, double budget_bytes) {
    double row[N_COLS] = {0};
    const double left = budget_bytes - bytes[SL_COST_ONE];
    const double most = most_of(bytes, p->q, p->mode);
    if (most <= left) return sl_lp_add_row(p->lp, row, -INFINITY, INFINITY);
    for (int v = 1; v < SL_COST_N_VARS; v++)
        if (may_be(p->q, p->mode, v) && fabs(bytes[v]) > negligible * most)
            row[col_of(v)] = bytes[v] / gib;
    return sl_lp_add_row(p->lp, row, -INFINITY, left / gib);
}

/* Of placements that are as fast, the one that moves less. */
static double tie_s(const program *p, int var) {
    static const double small = 1e-3;
    double s = 0;
    for (int i = 0; i < SL_N_PHASES; i++)
        for (int q = 0; q < SL_COST_N_QUEUES; q++)
            if (q != SL_COST_COMPUTE)
                s += small * p->terms->phase[i].n_sweeps * p->terms->phase[i].coef[q][var];
    return s;
}

static int is_given(const sl_plan_problem *q, int var) {
    return q->has_device && q->cache && var >= SL_COST_CACHE_GPU &&
           var <= SL_COST_CACHE_DISK_ATTENDS;
}

static sl_status add_cols(const program *p) {
    double most = 0;
    for (int i = 0; i < SL_N_PHASES; i++)
        most = fmax(most, p->terms->phase[i].n_sweeps * unit_s(p->terms, i));
    for (int v = 1; v < SL_COST_N_VARS; v++)
        if (is_given(p->q, v) && may_be(p->q, p->mode, v)) {
            const double x = p->q->cache[v - SL_COST_CACHE_GPU];
            SL_TRY(sl_lp_set_col(p->lp, col_of(v), x, x, 0));
        } else if (may_be(p->q, p->mode, v))
            SL_TRY(sl_lp_set_col(p->lp, col_of(v), 0, 1, tie_s(p, v) / most));
        else
            SL_TRY(sl_lp_set_col(p->lp, col_of(v), 0, 0, 0));
    /* Those that all stay do not travel, and take other places. */
    if (p->mode.mode.travels && p->q->has_device)
        SL_TRY(sl_lp_set_col(p->lp, col_of(SL_COST_HIDDEN_GPU), 0, 0.9, 0));
    for (int i = 0; i < SL_N_PHASES; i++)
        SL_TRY(sl_lp_set_col(p->lp, N_SHARES + i, p->terms->phase[i].n_sweeps > 0, INFINITY,
                             p->terms->phase[i].n_sweeps * unit_s(p->terms, i) / most));
    return SL_OK;
}

static sl_status fill(const program *p, const double *budget_bytes, int *memory_row_out) {
    SL_TRY(add_cols(p));
    SL_TRY(add_sum(p->lp, SL_COST_WEIGHTS_GPU, SL_COST_WEIGHTS_DISK));
    SL_TRY(add_sum(p->lp, SL_COST_CACHE_GPU, SL_COST_CACHE_DISK_ATTENDS));
    SL_TRY(add_sum(p->lp, SL_COST_HIDDEN_GPU, SL_COST_HIDDEN_DISK));
    for (int i = 0; i < SL_N_PHASES; i++)
        if (p->terms->phase[i].n_sweeps > 0) SL_TRY(add_phase(p, i));
    *memory_row_out = sl_lp_n_rows(p->lp);
    for (int t = 0; t < SL_TIER_COUNT; t++)
        SL_TRY(add_memory(p, p->room->bytes[t],
                          t == SL_TIER_GPU && !p->q->has_device ? INFINITY : budget_bytes[t]));
    return add_memory(p, p->room->loading, budget_bytes[SL_TIER_CPU]);
}

sl_status sl_program_measured(const sl_plan_problem *q, const sl_cost_terms *terms,
                              const sl_room *room, sl_program_mode mode, const double *budget_bytes,
                              sl_lp **out, int *memory_row_out) {
    program p = {q, terms, room, mode, NULL};
    SL_TRY(sl_lp_open(N_COLS, N_ROWS_MAX, &p.lp));
    const sl_status st = fill(&p, budget_bytes, memory_row_out);
    if (st != SL_OK) {
        sl_lp_close(p.lp);
        return st;
    }
    *out = p.lp;
    return SL_OK;
}

sl_status sl_program_measured_solve(const sl_plan_problem *q, const sl_cost_terms *terms,
                                    const sl_room *room, sl_program_mode mode,
                                    const double *budget_bytes, sl_lp_method method, int *found_out,
                                    double *seconds_out, double *x_out) {
    sl_lp *lp = NULL;
    sl_lp_outcome outcome;
    double x[N_COLS];
    int row;
    SL_TRY(sl_program_measured(q, terms, room, mode, budget_bytes, &lp, &row));
    const sl_status st = sl_lp_solve(lp, method, x, &outcome);
    sl_lp_close(lp);
    if (st != SL_OK && method == SL_LP_AUTO) return st;
    *found_out = st == SL_OK && outcome == SL_LP_OPTIMAL;
    if (!*found_out) return SL_OK;
    x_out[SL_COST_ONE] = 1;
    memcpy(x_out + 1, x, N_SHARES * sizeof *x);
    *seconds_out = 0;
    for (int p = 0; p < SL_N_PHASES; p++)
        *seconds_out +=
            terms->phase[p].n_sweeps * (x[N_SHARES + p] * unit_s(terms, p) + terms->fixed_s);
    return SL_OK;
}
