#include "partition_measured.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exact_measured.h"
#include "lp.h"

enum { POINTS = 7, MOST_RANKS = SL_PARTITION_MAX_RANKS, CACHE_VARS = 5 };

/* One rank with so many layers. */
typedef struct {
    int layers;
    double sweep_s[SL_N_PHASES];
} point;

typedef struct {
    const sl_partition_ask *ask;
    const sl_plan_shape *shape;
    const double *cache;
    int n, n_layers;
    int *layers;                  /* [n] scratch */
    int n_points[MOST_RANKS];     /* 0: the rank cannot take any */
    point at[MOST_RANKS][POINTS]; /* ascending in layers */
    double n_sweeps[SL_N_PHASES];
    int n_programs;
} tables;

/* ---- machines ---- */

static int is_near(double a, double b) {
    return fabs(a - b) <= 0.1 * fmax(fabs(a), fabs(b));
}

static double most_of(const sl_curve *c) {
    double most = 0;
    for (int i = 0; i < c->n; i++) most = fmax(most, c->y[i]);
    return most;
}

/* Whether two ranks can be planned for as one. */
static int are_alike(const sl_partition_ask *ask, int i, int k) {
    const sl_profile *a = &ask->profile[i], *b = &ask->profile[k];
    int alike = (a->device[0] != 0) == (b->device[0] != 0) &&
                is_near(most_of(&a->h2d_bps), most_of(&b->h2d_bps)) &&
                is_near(a->memory_bps, b->memory_bps) && is_near(a->dram_bps, b->dram_bps);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++)
        alike &= is_near(most_of(&a->gemm_flops[f]), most_of(&b->gemm_flops[f])) &&
                 is_near(most_of(&a->host_attend_bps[f]), most_of(&b->host_attend_bps[f]));
    for (int t = 0; t < SL_TIER_COUNT; t++)
        alike &= is_near(ask->budget_bytes[i][t], ask->budget_bytes[k][t]);
    return alike;
}

int sl_partition_is_even(const sl_partition_ask *ask) {
    for (int r = 1; r < ask->problem->n_ranks; r++)
        if (!are_alike(ask, 0, r)) return 0;
    return 1;
}

/* The problem of one rank that has so many layers. */
static sl_plan_problem problem_of(const sl_partition_ask *ask, int rank, int n_layers,
                                  int *layers) {
    sl_plan_problem q = *ask->problem;
    for (int r = 0; r < q.n_ranks; r++) layers[r] = n_layers;
    q.profile = &ask->profile[rank];
    q.has_device = q.profile->device[0] != '\0';
    memcpy(q.budget_bytes, ask->budget_bytes[rank], sizeof q.budget_bytes);
    q.layers_per_rank = layers;
    q.is_one_rank = 1;
    q.rank = rank;
    return q;
}

/* ---- one rank ---- */

static sl_status plan_rank(tables *t, int rank, int n_layers, int *found_out, sl_policy *policy,
                           sl_cost *cost, sl_footprint *memory) {
    sl_plan_problem q = problem_of(t->ask, rank, n_layers, t->layers);
    sl_plan_exact e;
    double seconds;
    q.cache = t->cache;
    SL_TRY(sl_plan_exact_init(&q, &e));
    SL_TRY(sl_plan_exact_solve(&e, t->shape, 0, found_out, &seconds));
    if (*found_out) SL_TRY(sl_plan_exact_round(&e, found_out, policy, cost, memory));
    t->n_programs += e.n_programs;
    return SL_OK;
}

static sl_status add_point(tables *t, int rank, int n_layers, int *found_out) {
    sl_policy policy;
    sl_cost cost;
    sl_footprint memory;
    SL_TRY(plan_rank(t, rank, n_layers, found_out, &policy, &cost, &memory));
    if (!*found_out) return SL_OK;
    point *p = &t->at[rank][t->n_points[rank]++];
    p->layers = n_layers;
    for (int i = 0; i < SL_N_PHASES; i++) {
        p->sweep_s[i] = cost.phase[i].sweep_s;
        t->n_sweeps[i] = cost.phase[i].n_sweeps;
    }
    return SL_OK;
}

/* Most layers that the rank has room for, at least `least`, which it has. */
static sl_status find_most(tables *t, int rank, int least, int *out) {
    int low = least, high = t->n_layers + 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        sl_policy policy;
        sl_cost cost;
        sl_footprint memory;
        int found;
        SL_TRY(plan_rank(t, rank, middle, &found, &policy, &cost, &memory));
        if (found)
            low = middle;
        else
            high = middle;
    }
    *out = low;
    return SL_OK;
}

/* From one layer to as many as fit; closer where there are few. */
static sl_status fill_rank(tables *t, int rank) {
    int found, most;
    t->n_points[rank] = 0;
    SL_TRY(add_point(t, rank, 1, &found));
    if (!found) return SL_OK;
    SL_TRY(find_most(t, rank, 1, &most));
    for (int i = 1; i < POINTS; i++) {
        const double part = (double)i / (POINTS - 1);
        const int n = i == POINTS - 1 ? most : (int)floor(1 + (most - 1) * part * part + 0.5);
        if (n > t->at[rank][t->n_points[rank] - 1].layers) SL_TRY(add_point(t, rank, n, &found));
    }
    return SL_OK;
}

static sl_status fill_tables(tables *t) {
    for (int r = 0; r < t->n; r++) {
        int like = -1;
        /* The first and the last rank have the embedding and the head. */
        for (int k = 1; k < r && r < t->n - 1 && like < 0; k++)
            if (are_alike(t->ask, r, k)) like = k;
        if (like < 0) {
            SL_TRY(fill_rank(t, r));
            continue;
        }
        t->n_points[r] = t->n_points[like];
        memcpy(t->at[r], t->at[like], sizeof t->at[r]);
    }
    return SL_OK;
}

/* ---- the program ---- */

/* Columns: layers of each rank, whether it works, seconds of a sweep of each phase. */
static int works_col(const tables *t, int rank) {
    return t->n + rank;
}

static int sweep_col(const tables *t, int phase) {
    return 2 * t->n + phase;
}

/* The sweep takes no less than the line through two points says. */
static sl_status add_line(const tables *t, sl_lp *lp, int rank, int phase, const point *a,
                          const point *b, double *row) {
    const double slope =
        a == b ? 0 : (b->sweep_s[phase] - a->sweep_s[phase]) / (b->layers - a->layers);
    const double unit = t->at[rank][0].sweep_s[phase];
    if (unit <= 0) return SL_OK;
    memset(row, 0, (size_t)sl_lp_n_cols(lp) * sizeof *row);
    row[sweep_col(t, phase)] = 1;
    row[rank] = -slope;
    row[works_col(t, rank)] = -(a->sweep_s[phase] - slope * a->layers);
    return sl_lp_add_row(lp, row, 0, INFINITY);
}

static sl_status add_rank(const tables *t, sl_lp *lp, int rank, double *row) {
    const int n = t->n_points[rank], most = n > 0 ? t->at[rank][n - 1].layers : 0;
    const int may_rest = t->ask->may_idle || n == 0;
    SL_TRY(sl_lp_set_col(lp, rank, may_rest ? 0 : 1, most, 0));
    SL_TRY(sl_lp_set_whole(lp, rank));
    SL_TRY(sl_lp_set_col(lp, works_col(t, rank), may_rest ? 0 : 1, n > 0, 0));
    SL_TRY(sl_lp_set_whole(lp, works_col(t, rank)));
    memset(row, 0, (size_t)sl_lp_n_cols(lp) * sizeof *row);
    row[rank] = -1;
    row[works_col(t, rank)] = most; /* no layers without work */
    SL_TRY(sl_lp_add_row(lp, row, 0, INFINITY));
    row[rank] = 1;
    row[works_col(t, rank)] = -1; /* no work without layers */
    SL_TRY(sl_lp_add_row(lp, row, 0, INFINITY));
    for (int p = 0; p < SL_N_PHASES; p++)
        for (int i = 0; i < (n > 1 ? n - 1 : n); i++)
            SL_TRY(add_line(t, lp, rank, p, &t->at[rank][i], &t->at[rank][n > 1 ? i + 1 : i], row));
    return SL_OK;
}

static sl_status fill_program(const tables *t, sl_lp *lp, double *row) {
    double largest = 0;
    for (int p = 0; p < SL_N_PHASES; p++) largest = fmax(largest, t->n_sweeps[p]);
    for (int p = 0; p < SL_N_PHASES; p++)
        SL_TRY(sl_lp_set_col(lp, sweep_col(t, p), 0, INFINITY, t->n_sweeps[p] / largest));
    for (int r = 0; r < t->n; r++) SL_TRY(add_rank(t, lp, r, row));
    memset(row, 0, (size_t)sl_lp_n_cols(lp) * sizeof *row);
    for (int r = 0; r < t->n; r++) row[r] = 1;
    return sl_lp_add_row(lp, row, t->n_layers, t->n_layers);
}

static sl_status assign(const tables *t, int *found_out, int *layers_out) {
    const int n_cols = 2 * t->n + SL_N_PHASES;
    const int n_rows = t->n * (2 + SL_N_PHASES * POINTS) + 1;
    sl_status st = SL_OK;
    sl_lp *lp = NULL;
    sl_lp_outcome outcome = SL_LP_INFEASIBLE;
    double row[2 * MOST_RANKS + SL_N_PHASES], x[2 * MOST_RANKS + SL_N_PHASES];
    SL_GO(sl_lp_open(n_cols, n_rows, &lp));
    SL_GO(fill_program(t, lp, row));
    SL_GO(sl_lp_solve_whole(lp, x, &outcome));
    *found_out = outcome == SL_LP_OPTIMAL;
    for (int r = 0; r < t->n && *found_out; r++) layers_out[r] = (int)floor(x[r] + 0.5);

fail:
    sl_lp_close(lp);
    return st;
}

/* ---- what comes of it ---- */

/* Ranks that got nothing are left out. */
static sl_status time_pipeline(const tables *t, sl_partition_found *f) {
    sl_profile *profiles = calloc(MOST_RANKS, sizeof *profiles);
    sl_shares weights[MOST_RANKS];
    int layers[MOST_RANKS], n = 0;
    if (!profiles) return SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
    for (int r = 0; r < t->n; r++) {
        if (f->layers[r] == 0) continue;
        profiles[n] = t->ask->profile[r];
        weights[n] = f->weights[r];
        layers[n++] = f->layers[r];
    }
    sl_plan_problem q = *t->ask->problem;
    q.n_ranks = n;
    q.profile = profiles;
    q.has_device = profiles[0].device[0] != '\0';
    q.layers_per_rank = layers;
    sl_cost_problem problem = sl_plan_cost_problem(&q);
    problem.profile_per_rank = profiles;
    problem.weights_per_rank = weights;
    f->policy.blocks_in_flight = n > f->policy.blocks_in_flight ? n : f->policy.blocks_in_flight;
    const sl_status st = sl_cost_measured(&problem, &f->policy, &f->cost);
    free(profiles);
    return st;
}

static sl_status settle(tables *t, sl_partition_found *f) {
    int is_first = 1;
    f->is_feasible = 1;
    for (int r = 0; r < t->n && f->is_feasible; r++) {
        sl_policy policy;
        sl_cost cost;
        if (f->layers[r] == 0) continue;
        SL_TRY(plan_rank(t, r, f->layers[r], &f->is_feasible, &policy, &cost, &f->memory[r]));
        if (!f->is_feasible) return SL_OK;
        f->weights[r] = policy.weights;
        if (is_first) f->policy = policy;
        is_first = 0;
    }
    return time_pipeline(t, f);
}

sl_status sl_partition_place(const sl_partition_ask *ask, const sl_plan_shape *shape,
                             const double *cache, sl_partition_found *out) {
    const int *layers = ask->layers;
    sl_partition_found *f = calloc(1, sizeof *f);
    tables *t = calloc(1, sizeof *t);
    sl_status st = SL_OK;
    int found = 1;
    if (f && t) t->layers = calloc((size_t)ask->problem->n_ranks, sizeof *t->layers);
    if (!f || !t || !t->layers) {
        st = SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
        goto fail;
    }
    t->ask = ask;
    t->shape = shape;
    t->cache = cache;
    t->n = ask->problem->n_ranks;
    t->n_layers = sl_source_config(ask->problem->source)->n_layers;
    f->shape = *shape;
    if (layers)
        memcpy(f->layers, layers, (size_t)t->n * sizeof *layers);
    else
        SL_GO(fill_tables(t));
    if (!layers) SL_GO(assign(t, &found, f->layers));
    if (found) SL_GO(settle(t, f));
    f->n_programs = t->n_programs;
    *out = *f;

fail:
    if (t) free(t->layers);
    free(t);
    free(f);
    return st;
}

/* The block that is best for one kind of machine with so many of the layers; with fewer where they
 * do not fit. */
static sl_status try_kind(const sl_partition_ask *ask, int rank, int n_layers, int *layers,
                          sl_partition_found *best) {
    sl_measured_found found;
    sl_partition_found *one = malloc(sizeof *one);
    double x[SL_COST_N_VARS];
    if (!one) return SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
    sl_status st = SL_OK;
    one->is_feasible = found.is_feasible = 0;
    for (; n_layers >= 1 && !found.is_feasible; n_layers /= 2) {
        const sl_plan_problem q = problem_of(ask, rank, n_layers, layers);
        SL_GO(sl_search_measured(&q, &found));
    }
    if (!found.is_feasible) goto fail;
    sl_cost_variables(&found.best.policy, ask->profile[rank].device[0] != '\0', x);
    SL_GO(sl_partition_place(ask, &found.best.shape, x + SL_COST_CACHE_GPU, one));
    one->n_programs += found.n_programs + best->n_programs;
    best->n_programs = one->n_programs;
    if (one->is_feasible && (!best->is_feasible || one->cost.total_s < best->cost.total_s))
        *best = *one;

fail:
    free(one);
    return st;
}

/* A rank of each kind of machine, of a few. */
static int find_kinds(const sl_partition_ask *ask, int most, int *kind) {
    int n = 0;
    for (int r = 0; r < ask->problem->n_ranks && n < most; r++) {
        int is_new = 1;
        for (int k = 0; k < n; k++) is_new &= !are_alike(ask, r, kind[k]);
        if (is_new) kind[n++] = r;
    }
    return n;
}

sl_status sl_partition_search(const sl_partition_ask *ask, sl_partition_found *out) {
    enum { MOST_KINDS = 4 };
    const int n = ask->problem->n_ranks;
    const int even = (sl_source_config(ask->problem->source)->n_layers + n - 1) / n;
    int kind[MOST_KINDS], most[MOST_KINDS];
    if (n < 1 || n > MOST_RANKS)
        return SL_FAIL(SL_ERR_ARG, "a partition among %d ranks, expected 1 to %d", n,
                       (int)MOST_RANKS);
    int *layers = calloc((size_t)n, sizeof *layers);
    if (!layers) return SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
    sl_status st = SL_OK;
    memset(out, 0, sizeof *out);
    const int n_kinds = find_kinds(ask, MOST_KINDS, kind);
    const int all = sl_source_config(ask->problem->source)->n_layers;
    for (int k = 0; k < n_kinds; k++) {
        const int whole = all - (ask->may_idle ? 0 : n - 1), middle = (even + whole) / 2;
        SL_GO(try_kind(ask, kind[k], ask->layers ? ask->layers[kind[k]] : even, layers, out));
        /* A block that leaves room for more layers on the machine that computes them best. */
        if (ask->layers || n == 1) continue;
        if (middle > even) SL_GO(try_kind(ask, kind[k], middle, layers, out));
        if (whole > middle && n_kinds <= 2) SL_GO(try_kind(ask, kind[k], whole, layers, out));
    }
    /* Once more with as many layers as they got, which may want another block. */
    for (int k = 0; k < n_kinds; k++) most[k] = out->layers[kind[k]];
    for (int k = 0; k < n_kinds && out->is_feasible && !ask->layers; k++)
        if (most[k] > 0 && most[k] != even) SL_GO(try_kind(ask, kind[k], most[k], layers, out));

fail:
    free(layers);
    return st;
}
