#include "shortage_measured.h"

#include <math.h>
#include <string.h>

#include "program_measured.h"

static const double gib = 1073741824.0;

/* Room for the steps between whole pieces and sequences. */
static const double margin = 1.03;

enum { N_GROUPS = SL_TIER_COUNT };

/* Relaxes the memory rows; `only` >= 0: of this tier alone. */
static sl_status relax(const sl_lp *lp, int memory_row, int only, double *slack_bytes,
                       int *helps_out) {
    enum { MOST_ROWS = 64, MOST_COLS = 32 };
    int groups[MOST_ROWS];
    double weights[N_GROUPS], slack[N_GROUPS], x[MOST_COLS];
    sl_lp_outcome outcome;
    for (int r = 0; r < sl_lp_n_rows(lp); r++) groups[r] = -1;
    for (int t = 0; t < SL_TIER_COUNT; t++) groups[memory_row + t] = t;
    groups[memory_row + SL_TIER_COUNT] = SL_TIER_CPU; /* while weights are loaded */
    for (int t = 0; t < N_GROUPS; t++) weights[t] = only < 0 || t == only ? 1 : INFINITY;
    SL_TRY(sl_lp_relax(lp, groups, weights, N_GROUPS, slack, x, &outcome));
    *helps_out = outcome == SL_LP_OPTIMAL;
    for (int t = 0; *helps_out && t < N_GROUPS; t++)
        slack_bytes[t] = slack[t] > 0 && isfinite(slack[t]) ? slack[t] * gib : 0;
    return SL_OK;
}

/* The least that helps with hidden states kept or sent away, whichever is less. */
static sl_status add_mode(const sl_plan_problem *q, const sl_plan_shape *shape,
                          const sl_room_weights *w, int travels, sl_measured_shortage *s) {
    const sl_program_mode mode = {.mode = {.travels = travels}, .uses_disk = 1};
    const sl_cost_problem problem = sl_plan_cost_problem(q);
    const sl_policy p = sl_plan_policy(q, shape);
    sl_turns turns;
    sl_cost_terms terms;
    sl_room room;
    sl_lp *lp = NULL;
    int row, helps;
    double slack[SL_TIER_COUNT], sum = 0, before = 0;
    SL_TRY(sl_cost_turns(&problem, &p, &turns));
    SL_TRY(sl_cost_terms_make(&problem, &p, &turns, 1, &terms));
    SL_TRY(sl_room_make(q, shape, w, mode.mode, &room));
    SL_TRY(sl_program_measured(q, &terms, &room, mode, q->budget_bytes, &lp, &row));
    sl_status st = relax(lp, row, -1, slack, &helps);
    for (int t = 0; t < SL_TIER_COUNT && helps; t++) {
        sum += slack[t];
        before += s->together_bytes[t];
    }
    if (st == SL_OK && helps && sum < before)
        memcpy(s->together_bytes, slack, sizeof s->together_bytes);
    for (int t = 0; st == SL_OK && t < SL_TIER_COUNT; t++) {
        st = relax(lp, row, t, slack, &helps);
        if (st == SL_OK && helps) s->alone_bytes[t] = fmin(s->alone_bytes[t], slack[t]);
    }
    sl_lp_close(lp);
    return st;
}

static sl_status add_modes(const sl_plan_problem *q, const sl_plan_shape *shape,
                           sl_measured_shortage *s) {
    sl_room_weights w;
    SL_TRY(sl_room_weights_make(q, shape->weights, &w));
    for (int t = 0; t < SL_TIER_COUNT; t++) s->alone_bytes[t] = s->together_bytes[t] = INFINITY;
    SL_TRY(add_mode(q, shape, &w, 0, s));
    return q->has_device ? add_mode(q, shape, &w, 1, s) : SL_OK;
}

sl_status sl_shortage_measured(const sl_plan_problem *q, const sl_plan_shape *smallest,
                               sl_measured_shortage *out) {
    sl_measured_shortage s = {.shape = *smallest}, low;
    SL_TRY(add_modes(q, smallest, &s));
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        s.alone_bytes[t] *= margin;
        s.together_bytes[t] *= margin;
    }
    if (smallest->weights != SL_DTYPE_Q4G64 || smallest->cache != SL_DTYPE_Q4G64) {
        sl_plan_shape packed = *smallest;
        packed.weights = packed.cache = SL_DTYPE_Q4G64;
        const sl_profile *m = q->profile;
        if (m->gemm_flops[2].n && m->attend_bps[2].n && m->prefill_attend_flops[2].n) {
            SL_TRY(add_modes(q, &packed, &low));
            double sum = 0;
            for (int t = 0; t < SL_TIER_COUNT; t++) sum += low.together_bytes[t];
            s.fits_in_4_bits = sum < 1;
        }
    }
    *out = s;
    return SL_OK;
}
