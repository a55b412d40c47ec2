#include "cost_flexgen.h"

#include <math.h>
#include <string.h>

#define GIB 1073741824.0

/* Fitted by the authors to runs on their machine (fit_cost_model.py), not data sheet values. */
const sl_flexgen_machine sl_flexgen_t4 = {
    .name = "NVIDIA T4",
    .cpu_to_gpu_bps = 12.89 * GIB,
    .gpu_to_cpu_cache_bps = 0.97 * GIB,
    .gpu_to_cpu_hidden_bps = 4.82 * GIB,
    .disk_to_cpu_bps = 0.473 * GIB,
    .cpu_to_disk_cache_bps = 0.746 * GIB,
    .cpu_to_disk_hidden_bps = 2.015 * GIB,
    .cpu_to_disk_decode_bps = 2.015 * GIB,
    .matmul_prefill_flops = 21.24e12,
    .matmul_decode_flops = 4.3e12,
    .bmm_prefill_flops = 9.97e12,
    .bmm_decode_flops = 0.079e12,
    .cpu_flops = 0.0123e12,
    .c1 = 0.0168,
    .c2 = 0.0328,
    .c3 = 0.0621,
};

/* Columns, as in the paper: w, c, h on g, c, n. */
enum { WG, WC, WN, CG, CC, CN, HG, HC, HN, TPRE, TGEN };

/* k + coef.share */
typedef struct {
    double coef[SL_FLEXGEN_N_SHARES], k;
} affine;

typedef struct {
    affine time[SL_FLEXGEN_N_TIMES], peak[SL_FLEXGEN_N_PEAKS];
} terms;

/* The paper's symbols for one block shape. */
typedef struct {
    const sl_flexgen_machine *m;
    double s, n, l, h1, h2, nh, gbs, bls;
    double w; /* bytes of a layer's weights */
} symbols;

static double value_of(const affine *a, const double *share) {
    double sum = a->k;
    for (int i = 0; i < SL_FLEXGEN_N_SHARES; i++) sum += a->coef[i] * share[i];
    return sum;
}

/* ---- the formulas ---- */

/* The rate of attention on the CPU; its floor is 0.1 in the program, 0.5 where it was fitted. */
static double cpu_flops(const symbols *y) {
    const double a = fmax(0, log2(64 / y->gbs)), b = fmax(0, log2(4096 / y->h1));
    const double fall = 1 + y->m->c1 * a * b - y->m->c2 * a - y->m->c3 * b;
    return y->m->cpu_flops * fmax(0.1, fall);
}

static void add_prefill_times(const symbols *y, affine *t) {
    const sl_flexgen_machine *m = y->m;
    const double hidden = 2 * y->s * y->h1 * y->bls, cache = 4 * (y->s + 1) * y->h1 * y->bls;
    affine *ctog = &t[SL_FLEXGEN_CTOG_P], *gtoc = &t[SL_FLEXGEN_GTOC_P];
    affine *dtoc = &t[SL_FLEXGEN_DTOC_P], *ctod = &t[SL_FLEXGEN_CTOD_P];
    /* ctogp = [W(wc+wn) + 2 s h1 bls (hc+hn)] / ctog */
    ctog->coef[WC] = ctog->coef[WN] = y->w / m->cpu_to_gpu_bps;
    ctog->coef[HC] = ctog->coef[HN] = hidden / m->cpu_to_gpu_bps;
    /* gtocp = 4(s+1) h1 bls (cc+cn) / gtoc_cache + 2 s h1 bls (hc+hn) / gtoc_hidden */
    gtoc->coef[CC] = gtoc->coef[CN] = cache / m->gpu_to_cpu_cache_bps;
    gtoc->coef[HC] = gtoc->coef[HN] = hidden / m->gpu_to_cpu_hidden_bps;
    /* dtocp = [W wn + 2 s h1 bls hn] / dtoc */
    dtoc->coef[WN] = y->w / m->disk_to_cpu_bps;
    dtoc->coef[HN] = hidden / m->disk_to_cpu_bps;
    /* ctodp = 4 bls (s+1) h1 cn / ctod_cache_p + 2 s h1 bls hn / ctod_hidden_p */
    ctod->coef[CN] = cache / m->cpu_to_disk_cache_bps;
    ctod->coef[HN] = hidden / m->cpu_to_disk_hidden_bps;
    /* compp = bls(8 s h1^2 + 4 s h1 h2) / mm_p + 4 bls s^2 h1 / bmm_p */
    t[SL_FLEXGEN_COMP_P].k =
        y->bls * (8 * y->s * y->h1 * y->h1 + 4 * y->s * y->h1 * y->h2) / m->matmul_prefill_flops +
        4 * y->bls * y->s * y->s * y->h1 / m->bmm_prefill_flops;
}

/* Of the average decode step: the cache holds s + n/2 tokens. */
static void add_decode_times(const symbols *y, affine *t) {
    const sl_flexgen_machine *m = y->m;
    const double hidden = 2 * y->h1 * y->bls, cache = 4 * y->bls * (y->s + y->n / 2) * y->h1;
    affine *ctog = &t[SL_FLEXGEN_CTOG_G], *gtoc = &t[SL_FLEXGEN_GTOC_G];
    affine *dtoc = &t[SL_FLEXGEN_DTOC_G], *ctod = &t[SL_FLEXGEN_CTOD_G];
    affine *comp = &t[SL_FLEXGEN_COMP_G];
    /* ctogg = [W(wc+wn) + 2 h1 bls (hc+hn)] / ctog */
    ctog->coef[WC] = ctog->coef[WN] = y->w / m->cpu_to_gpu_bps;
    ctog->coef[HC] = ctog->coef[HN] = hidden / m->cpu_to_gpu_bps;
    /* gtocg = 2 h1 bls (hc+hn) / gtoc_hidden */
    gtoc->coef[HC] = gtoc->coef[HN] = hidden / m->gpu_to_cpu_hidden_bps;
    /* dtocg = [4 bls (s+n/2) h1 cn + 2 h1 bls hn] / dtoc + W wn / (0.95 dtoc) */
    dtoc->coef[CN] = cache / m->disk_to_cpu_bps;
    dtoc->coef[HN] = hidden / m->disk_to_cpu_bps;
    dtoc->coef[WN] = y->w / (0.95 * m->disk_to_cpu_bps);
    /* ctodg = [4 bls h1 cn + 2 h1 bls hn] / ctod_g */
    ctod->coef[CN] = 4 * y->bls * y->h1 / m->cpu_to_disk_decode_bps;
    ctod->coef[HN] = hidden / m->cpu_to_disk_decode_bps;
    /* compg = bls(8 h1^2 + 4 h1 h2) / mm_g + 4 bls (s+n/2) h1 [cg / bmm_g + (cc+cn) / cpu] */
    comp->k = y->bls * (8 * y->h1 * y->h1 + 4 * y->h1 * y->h2) / m->matmul_decode_flops;
    comp->coef[CG] = cache / m->bmm_decode_flops;
    comp->coef[CC] = comp->coef[CN] = cache / cpu_flops(y);
}

static void add_gpu_peaks(const symbols *y, affine *peak) {
    const double s = y->s, h1 = y->h1, gbs = y->gbs, all = y->s + y->n;
    affine *p = &peak[SL_FLEXGEN_GPU_P], *g = &peak[SL_FLEXGEN_GPU_G];
    /* home_p = W l wg + 2 s h1 bls hg + 4(s+n) h1 bls l cg
     * w_p    = 2W(1-wg) + 2 s h1 gbs (1-hg) + inter_p
     * inter_p is the sum of all intermediate buffers; the appendix takes the largest. */
    p->coef[WG] = y->w * y->l - 2 * y->w;
    p->coef[HG] = 2 * s * h1 * y->bls - 2 * s * h1 * gbs;
    p->coef[CG] = 4 * all * h1 * y->bls * y->l;
    p->k = 2 * y->w + 2 * s * h1 * gbs +
           gbs * (8 * s * h1 + (2 * s * h1 + 2 * y->nh * s * s) + 2 * s * h1 + 4 * s * h1 +
                  2 * s * y->h2 + 2 * s * h1);
    /* home_g = W l wg + 2 h1 bls hg + 4(s+n) h1 bls l cg
     * w_g    = 2W(1-wg) + 2 h1 gbs (1-hg) + 4 gbs (s+n) h1 cg + inter_g
     * inter_g = 8 gbs h1 + gbs[2 h1 + 2(s+n) h1 + 2 nh (s+n)] cg + gbs[2(s+n) h1 + 2 h1] cg
     *           + 4 gbs h1 + 2 gbs h2 + 2 gbs h1 */
    g->coef[WG] = y->w * y->l - 2 * y->w;
    g->coef[HG] = 2 * h1 * y->bls - 2 * h1 * gbs;
    g->coef[CG] = 4 * all * h1 * y->bls * y->l + 4 * gbs * all * h1 +
                  gbs * (2 * h1 + 2 * all * h1 + 2 * y->nh * all) + gbs * (2 * all * h1 + 2 * h1);
    g->k = 2 * y->w + 2 * h1 * gbs + 8 * gbs * h1 + 4 * gbs * h1 + 2 * gbs * y->h2 + 2 * gbs * h1;
}

static void add_host_peaks(const symbols *y, affine *peak) {
    const double s = y->s, h1 = y->h1, gbs = y->gbs, all = y->s + y->n;
    affine *p = &peak[SL_FLEXGEN_CPU_P], *g = &peak[SL_FLEXGEN_CPU_G];
    affine *disk = &peak[SL_FLEXGEN_DISK];
    /* W l wc + 2 s h1 bls hc + 4 s h1 bls l cc + W(1-wg) + 2 s h1 gbs (1-hg)
     * The appendix has (s+n) in the cache's term. */
    p->coef[WC] = y->w * y->l;
    p->coef[HC] = 2 * s * h1 * y->bls;
    p->coef[CC] = 4 * s * h1 * y->bls * y->l;
    p->coef[WG] = -y->w;
    p->coef[HG] = -2 * s * h1 * gbs;
    p->k = y->w + 2 * s * h1 * gbs;
    /* W l wc + 2 h1 bls hc + 4(s+n) h1 bls l cc + W wn + 4 h1 gbs hn + 8(s+n) h1 gbs cn
     * + 2 nh (s+n) gbs + 2 h1 gbs */
    g->coef[WC] = y->w * y->l;
    g->coef[HC] = 2 * h1 * y->bls;
    g->coef[CC] = 4 * all * h1 * y->bls * y->l;
    g->coef[WN] = y->w;
    g->coef[HN] = 4 * h1 * gbs;
    g->coef[CN] = 8 * all * h1 * gbs;
    g->k = 2 * y->nh * all * gbs + 2 * h1 * gbs;
    /* W l wn + 2 s h1 bls hn + 4(s+n) h1 bls l cn */
    disk->coef[WN] = y->w * y->l;
    disk->coef[HN] = 2 * s * h1 * y->bls;
    disk->coef[CN] = 4 * all * h1 * y->bls * y->l;
}

static symbols make_symbols(const sl_flexgen_problem *q, int micro_batch, int num_micro_batches) {
    symbols y = {
        .m = q->machine,
        .s = q->prompt_len,
        .n = q->gen_len,
        .l = q->n_layers,
        .h1 = q->hidden,
        .h2 = q->ffn,
        .nh = q->n_heads,
        .gbs = micro_batch,
        .bls = (double)micro_batch * num_micro_batches,
    };
    y.w = (8 * y.h1 * y.h1 + 4 * y.h1 * y.h2) / (q->compress_weights ? 4 : 1);
    return y;
}

static void make_terms(const symbols *y, terms *out) {
    memset(out, 0, sizeof *out);
    add_prefill_times(y, out->time);
    add_decode_times(y, out->time);
    add_gpu_peaks(y, out->peak);
    add_host_peaks(y, out->peak);
}

/* ---- checking ---- */

static sl_status check_machine(const sl_flexgen_machine *m) {
    const double rates[] = {
        m->cpu_to_gpu_bps,         m->gpu_to_cpu_cache_bps,  m->gpu_to_cpu_hidden_bps,
        m->disk_to_cpu_bps,        m->cpu_to_disk_cache_bps, m->cpu_to_disk_hidden_bps,
        m->cpu_to_disk_decode_bps, m->matmul_prefill_flops,  m->matmul_decode_flops,
        m->bmm_prefill_flops,      m->bmm_decode_flops,      m->cpu_flops,
    };
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        if (!(rates[i] > 0) || !isfinite(rates[i]))
            return SL_FAIL(SL_ERR_ARG, "machine %s: rate %zu is %g", m->name, i, rates[i]);
    }
    if (!isfinite(m->c1) || !isfinite(m->c2) || !isfinite(m->c3))
        return SL_FAIL(SL_ERR_ARG, "machine %s: c1, c2, c3 are %g, %g, %g", m->name, m->c1, m->c2,
                       m->c3);
    return SL_OK;
}

static sl_status check_fixed(const sl_flexgen_problem *q) {
    static const char *const names[] = {"weights", "cache", "hidden states"};
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        const double gpu = q->fixed[k][SL_TIER_GPU], cpu = q->fixed[k][SL_TIER_CPU];
        if (!(gpu >= 0) || !(cpu >= 0) || !(gpu + cpu <= 1 + 1e-9))
            return SL_FAIL(SL_ERR_ARG,
                           "%s: %g %% on the GPU and %g %% in host memory, expected "
                           "0 to 100 %% together",
                           names[k], 100 * gpu, 100 * cpu);
        if (k == SL_FLEXGEN_HIDDEN && gpu + cpu < 1 - 1e-9)
            return SL_FAIL(SL_ERR_ARG,
                           "hidden states: %g %% on the GPU and %g %% in host memory, "
                           "expected 100 %% together: none are kept on disk",
                           100 * gpu, 100 * cpu);
    }
    return SL_OK;
}

static sl_status check(const sl_flexgen_problem *q, int micro_batch, int num_micro_batches) {
    if (q->n_layers < 1 || q->hidden < 1 || q->ffn < 1 || q->n_heads < 1)
        return SL_FAIL(SL_ERR_ARG, "model of %d layers, width %d, MLP %d, %d heads", q->n_layers,
                       q->hidden, q->ffn, q->n_heads);
    if (q->prompt_len < 1 || q->gen_len < 1)
        return SL_FAIL(SL_ERR_ARG, "prompts of %d and outputs of %d tokens", q->prompt_len,
                       q->gen_len);
    if (micro_batch < 1 || num_micro_batches < 1)
        return SL_FAIL(SL_ERR_ARG, "block of %d x %d", micro_batch, num_micro_batches);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (!(q->budget_bytes[t] >= 0) || !isfinite(q->budget_bytes[t]))
            return SL_FAIL(SL_ERR_ARG, "%s budget of %g bytes", sl_tier_name((sl_tier_kind)t),
                           q->budget_bytes[t]);
    }
    SL_TRY(check_machine(q->machine));
    return q->is_fixed ? check_fixed(q) : SL_OK;
}

sl_tier_kind sl_cost_flexgen_tier(sl_flexgen_peak peak) {
    if (peak == SL_FLEXGEN_DISK) return SL_TIER_DISK;
    return peak == SL_FLEXGEN_GPU_P || peak == SL_FLEXGEN_GPU_G ? SL_TIER_GPU : SL_TIER_CPU;
}

/* ---- the program ---- */

/* wg+wc+wn = 1, cg+cc+cn = 1, hg+hc+hn = 1, and hg+hc = 1: no hidden states on disk.
 * Given shares need no rows: their sums are not exactly 1 in binary. */
static sl_status add_share_rows(sl_lp *lp, int is_fixed) {
    const double least = is_fixed ? -INFINITY : 1, most = is_fixed ? INFINITY : 1;
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        double row[SL_FLEXGEN_N_COLS] = {0};
        for (int t = 0; t < SL_TIER_COUNT; t++) row[SL_TIER_COUNT * k + t] = 1;
        SL_TRY(sl_lp_add_row(lp, row, least, most));
    }
    double row[SL_FLEXGEN_N_COLS] = {0};
    row[HG] = row[HC] = 1;
    return sl_lp_add_row(lp, row, least, most);
}

/* T >= a + b, in units of unit_s; b may be NULL. */
static sl_status add_time_row(sl_lp *lp, int time_col, const affine *a, const affine *b,
                              double unit_s) {
    double row[SL_FLEXGEN_N_COLS] = {0};
    for (int i = 0; i < SL_FLEXGEN_N_SHARES; i++)
        row[i] = -(a->coef[i] + (b ? b->coef[i] : 0)) / unit_s;
    row[time_col] = 1;
    return sl_lp_add_row(lp, row, (a->k + (b ? b->k : 0)) / unit_s, INFINITY);
}

/* Tpre = max(ctogp + dtocp, gtocp + ctodp, compp)
 * Tgen = ctogg + max(gtocg, dtocg, ctodg, compg)
 * The appendix has the largest of all five terms in both. */
static sl_status add_time_rows(sl_lp *lp, const affine *t, const double *unit_s) {
    const double p = unit_s[0], g = unit_s[1];
    SL_TRY(add_time_row(lp, TPRE, &t[SL_FLEXGEN_CTOG_P], &t[SL_FLEXGEN_DTOC_P], p));
    SL_TRY(add_time_row(lp, TPRE, &t[SL_FLEXGEN_GTOC_P], &t[SL_FLEXGEN_CTOD_P], p));
    SL_TRY(add_time_row(lp, TPRE, &t[SL_FLEXGEN_COMP_P], NULL, p));
    for (int i = SL_FLEXGEN_GTOC_G; i <= SL_FLEXGEN_COMP_G; i++)
        SL_TRY(add_time_row(lp, TGEN, &t[SL_FLEXGEN_CTOG_G], &t[i], g));
    return SL_OK;
}

static sl_status add_peak_rows(sl_lp *lp, const affine *peak, const double *budget_bytes) {
    for (int p = 0; p < SL_FLEXGEN_N_PEAKS; p++) {
        double row[SL_FLEXGEN_N_COLS] = {0};
        const double budget = budget_bytes[sl_cost_flexgen_tier((sl_flexgen_peak)p)];
        for (int i = 0; i < SL_FLEXGEN_N_SHARES; i++) row[i] = peak[p].coef[i] / GIB;
        SL_TRY(sl_lp_add_row(lp, row, -INFINITY, (budget - peak[p].k) / GIB));
    }
    return SL_OK;
}

static sl_status fix_shares(sl_lp *lp, const sl_flexgen_problem *q) {
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        const double gpu = q->fixed[k][SL_TIER_GPU], cpu = q->fixed[k][SL_TIER_CPU];
        const double rest = k == SL_FLEXGEN_HIDDEN ? 0 : fmax(0, 1 - gpu - cpu);
        const double share[SL_TIER_COUNT] = {gpu, cpu, rest < 1e-9 ? 0 : rest};
        for (int t = 0; t < SL_TIER_COUNT; t++)
            SL_TRY(sl_lp_set_col(lp, SL_TIER_COUNT * k + t, share[t], share[t], 0));
    }
    return SL_OK;
}

/* About the longest that a phase's layer can take: times in this unit are near 1. */
static double largest(const affine *time, int n) {
    double most = 0;
    for (int i = 0; i < n; i++) {
        double sum = time[i].k;
        for (int c = 0; c < SL_FLEXGEN_N_SHARES; c++) sum += time[i].coef[c];
        most = fmax(most, sum);
    }
    return most;
}

static sl_status fill_program(sl_lp *lp, const sl_flexgen_problem *q, const symbols *y) {
    terms t;
    make_terms(y, &t);
    const double unit_s[] = {largest(&t.time[SL_FLEXGEN_CTOG_P], 5),
                             largest(&t.time[SL_FLEXGEN_CTOG_G], 5)};
    /* T / bls with T = l Tpre + l (n-1) Tgen; l / bls changes nothing in where the least lies. */
    const double cost[] = {unit_s[0], (y->n - 1) * unit_s[1]};
    SL_TRY(sl_lp_set_col(lp, TPRE, 0, INFINITY, cost[0] / (cost[0] + cost[1])));
    SL_TRY(sl_lp_set_col(lp, TGEN, 0, INFINITY, cost[1] / (cost[0] + cost[1])));
    if (q->is_fixed) SL_TRY(fix_shares(lp, q));
    SL_TRY(add_share_rows(lp, q->is_fixed));
    SL_TRY(add_time_rows(lp, t.time, unit_s));
    return add_peak_rows(lp, t.peak, q->budget_bytes);
}

sl_status sl_cost_flexgen_program(const sl_flexgen_problem *problem, int micro_batch,
                                  int num_micro_batches, sl_lp **out) {
    sl_lp *lp = NULL;
    SL_TRY(check(problem, micro_batch, num_micro_batches));
    SL_TRY(sl_lp_open(SL_FLEXGEN_N_COLS, SL_FLEXGEN_N_ROWS, &lp));
    const symbols y = make_symbols(problem, micro_batch, num_micro_batches);
    const sl_status st = fill_program(lp, problem, &y);
    if (st != SL_OK) {
        sl_lp_close(lp);
        return st;
    }
    *out = lp;
    return SL_OK;
}

/* ---- solutions ---- */

/* Shares below a millionth of a per cent are rounding; each kind sums to 1 exactly. */
static void tidy(const double *x, double *share) {
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        double sum = 0;
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            const int i = SL_TIER_COUNT * k + t;
            share[i] = x[i] < 1e-8 ? 0 : x[i];
            sum += share[i];
        }
        for (int t = 0; t < SL_TIER_COUNT; t++) share[SL_TIER_COUNT * k + t] /= sum;
    }
}

static void fill_plan(const sl_flexgen_problem *q, const symbols *y, sl_flexgen_plan *plan) {
    terms t;
    make_terms(y, &t);
    const double *share = &plan->share[0][0];
    double *v = plan->time_s;
    for (int i = 0; i < SL_FLEXGEN_N_TIMES; i++) v[i] = value_of(&t.time[i], share);
    plan->prefill_layer_s = fmax(fmax(v[SL_FLEXGEN_CTOG_P] + v[SL_FLEXGEN_DTOC_P],
                                      v[SL_FLEXGEN_GTOC_P] + v[SL_FLEXGEN_CTOD_P]),
                                 v[SL_FLEXGEN_COMP_P]);
    plan->decode_layer_s =
        v[SL_FLEXGEN_CTOG_G] + fmax(fmax(v[SL_FLEXGEN_GTOC_G], v[SL_FLEXGEN_DTOC_G]),
                                    fmax(v[SL_FLEXGEN_CTOD_G], v[SL_FLEXGEN_COMP_G]));
    plan->total_s = y->l * plan->prefill_layer_s + y->l * (y->n - 1) * plan->decode_layer_s;
    plan->objective_s = plan->total_s / y->bls;
    plan->tokens_per_s = y->bls * y->n / plan->total_s;
    plan->is_feasible = 1;
    for (int p = 0; p < SL_FLEXGEN_N_PEAKS; p++) {
        const double budget = q->budget_bytes[sl_cost_flexgen_tier((sl_flexgen_peak)p)];
        plan->peak_bytes[p] = value_of(&t.peak[p], share);
        if (plan->peak_bytes[p] > budget * (1 + 1e-6) + 1) plan->is_feasible = 0;
    }
}

sl_status sl_cost_flexgen_evaluate(const sl_flexgen_problem *problem, int micro_batch,
                                   int num_micro_batches, const double *share,
                                   sl_flexgen_plan *out) {
    SL_TRY(check(problem, micro_batch, num_micro_batches));
    const symbols y = make_symbols(problem, micro_batch, num_micro_batches);
    *out = (sl_flexgen_plan){.micro_batch = micro_batch, .num_micro_batches = num_micro_batches};
    memcpy(out->share, share, sizeof out->share);
    fill_plan(problem, &y, out);
    return SL_OK;
}

sl_status sl_cost_flexgen(const sl_flexgen_problem *problem, int micro_batch, int num_micro_batches,
                          sl_flexgen_plan *out) {
    sl_lp *lp = NULL;
    double x[SL_FLEXGEN_N_COLS], share[SL_FLEXGEN_N_SHARES];
    sl_lp_outcome outcome;
    SL_TRY(sl_cost_flexgen_program(problem, micro_batch, num_micro_batches, &lp));
    const sl_status st = sl_lp_solve(lp, SL_LP_AUTO, x, &outcome);
    sl_lp_close(lp);
    if (st != SL_OK) return st;
    if (outcome == SL_LP_INFEASIBLE) {
        *out =
            (sl_flexgen_plan){.micro_batch = micro_batch, .num_micro_batches = num_micro_batches};
        return SL_OK;
    }
    tidy(x, share);
    return sl_cost_flexgen_evaluate(problem, micro_batch, num_micro_batches, share, out);
}
