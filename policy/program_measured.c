#include "program_measured.h"

#include <math.h>
#include <string.h>

#include "engine/sweep.h"

/* GLPK sees numbers near 1. */
static const double gib = 1073741824.0, ms = 1e-3;

enum {
    N_SHARES = SL_COST_N_VARS - 1,
    N_COLS = N_SHARES + SL_N_PHASES,
    N_ROWS_MAX = 3 + SL_N_PHASES * (SL_COST_N_QUEUES + 2) + SL_PROGRAM_N_MEMORY_ROWS
};

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

/* coef.x + constant <= the phase's sweep. */
static sl_status add_time(sl_lp *lp, int phase, const double *coef, double constant_s) {
    double row[N_COLS] = {0};
    for (int v = 1; v < SL_COST_N_VARS; v++)
        row[col_of(v)] = isfinite(coef[v]) ? -coef[v] / ms : 0; /* infinite: the column is fixed */
    row[N_SHARES + phase] = 1;
    return sl_lp_add_row(lp, row, (coef[SL_COST_ONE] + constant_s) / ms, INFINITY);
}

/* A layer's place in the ring is free once the `lag` micro-batches that lag behind are computed,
 * and with a single micro-batch attention on the host and computation take turns. */
static sl_status add_waits(sl_lp *lp, const sl_cost_terms *terms, sl_program_mode mode, int phase) {
    const sl_cost_phase_terms *t = &terms->phase[phase];
    const int k = terms->n_batches, lag = sl_sweep_lag(k, 1, mode.mode.travels);
    double coef[SL_COST_N_VARS];
    if (!mode.mode.on_host || t->decode_rows <= 0) return SL_OK;
    if (lag == 0) {
        for (int v = 0; v < SL_COST_N_VARS; v++)
            coef[v] = t->coef[SL_COST_COMPUTE][v] + t->coef[SL_COST_ATTEND][v];
        return add_time(lp, phase, coef, t->host_jobs_s + t->split_s);
    }
    if (mode.all_on_device) return SL_OK;
    for (int v = 0; v < SL_COST_N_VARS; v++)
        coef[v] = t->coef[SL_COST_H2D][v] + t->coef[SL_COST_COMPUTE][v] * lag / k;
    return add_time(lp, phase, coef, t->split_s * lag / k);
}

static sl_status add_phase(sl_lp *lp, const sl_cost_terms *terms, sl_program_mode mode, int phase) {
    const sl_cost_phase_terms *t = &terms->phase[phase];
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        double constant_s = 0;
        if (mode.mode.on_host && q == SL_COST_ATTEND) constant_s = t->host_jobs_s;
        if (mode.mode.on_host && q == SL_COST_COMPUTE) constant_s = t->split_s;
        SL_TRY(add_time(lp, phase, t->coef[q], constant_s));
    }
    return add_waits(lp, terms, mode, phase);
}

static sl_status add_memory(sl_lp *lp, const double *bytes, double budget_bytes) {
    double row[N_COLS] = {0};
    for (int v = 1; v < SL_COST_N_VARS; v++) row[col_of(v)] = bytes[v] / gib;
    return sl_lp_add_row(lp, row, -INFINITY, (budget_bytes - bytes[SL_COST_ONE]) / gib);
}

static sl_status fill(const sl_plan_problem *q, const sl_cost_terms *terms, const sl_room *room,
                      sl_program_mode mode, const double *budget_bytes, sl_lp *lp,
                      int *memory_row_out) {
    for (int v = 1; v < SL_COST_N_VARS; v++)
        SL_TRY(sl_lp_set_col(lp, col_of(v), 0, may_be(q, mode, v) ? 1 : 0, 0));
    /* Those that all stay do not travel, and take other places. */
    if (mode.mode.travels) SL_TRY(sl_lp_set_col(lp, col_of(SL_COST_HIDDEN_GPU), 0, 0.9, 0));
    for (int p = 0; p < SL_N_PHASES; p++)
        SL_TRY(sl_lp_set_col(lp, N_SHARES + p, 0, INFINITY, terms->phase[p].n_sweeps));
    SL_TRY(add_sum(lp, SL_COST_WEIGHTS_GPU, SL_COST_WEIGHTS_DISK));
    SL_TRY(add_sum(lp, SL_COST_CACHE_GPU, SL_COST_CACHE_DISK_ATTENDS));
    SL_TRY(add_sum(lp, SL_COST_HIDDEN_GPU, SL_COST_HIDDEN_DISK));
    for (int p = 0; p < SL_N_PHASES; p++)
        if (terms->phase[p].n_sweeps > 0) SL_TRY(add_phase(lp, terms, mode, p));
    *memory_row_out = sl_lp_n_rows(lp);
    for (int t = 0; t < SL_TIER_COUNT; t++)
        SL_TRY(add_memory(lp, room->bytes[t],
                          t == SL_TIER_GPU && !q->has_device ? gib * gib : budget_bytes[t]));
    return add_memory(lp, room->loading, budget_bytes[SL_TIER_CPU]);
}

sl_status sl_program_measured(const sl_plan_problem *q, const sl_cost_terms *terms,
                              const sl_room *room, sl_program_mode mode, const double *budget_bytes,
                              sl_lp **out, int *memory_row_out) {
    sl_lp *lp = NULL;
    SL_TRY(sl_lp_open(N_COLS, N_ROWS_MAX, &lp));
    const sl_status st = fill(q, terms, room, mode, budget_bytes, lp, memory_row_out);
    if (st != SL_OK) {
        sl_lp_close(lp);
        return st;
    }
    *out = lp;
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
        *seconds_out += terms->phase[p].n_sweeps * (x[N_SHARES + p] * ms + terms->fixed_s);
    return SL_OK;
}
