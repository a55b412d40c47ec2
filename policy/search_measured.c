#include "search_measured.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "engine/partition.h"
#include "exact_measured.h"
#include "store/kv_cache.h"

/* What has been tried, and how long it takes; INFINITY: it does not fit. */
typedef struct {
    sl_plan_shape shape;
    double bound_s; /* that no placement avoids */
    double total_s;
} tried;

enum { MAX_TRIED = 16384, MAX_CLIMB = 24 };

/* Products run at their full rate long before. */
enum { MOST_ROWS = 8192 };

/* Of a micro-batch's page lists on a device: what the CUDA backend has room for. */
enum { MOST_PAGES = 65536 };

typedef struct {
    sl_plan_exact exact; /* what shapes share */
    const sl_plan_problem *q;
    tried *tried; /* [n] */
    int n, n_fitting;
    double limit_s; /* slower ones are of no use */
    int uses_disk;  /* 1: the disk is used even where the rest holds all */
    sl_measured_found found;
} search;

static const int micro_batches[] = {1,  2,  4,  6,  8,   12,  16,  20,  24,  28,  32,  40,  48,
                                    56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024};
static const int numbers[] = {1, 2, 3, 4, 6, 8, 12, 16};
static const int row_counts[] = {64, 256, 512, 1024, 2048, 4096, 8192};

static int same_shape(const sl_plan_shape *a, const sl_plan_shape *b) {
    return a->micro_batch == b->micro_batch && a->num_micro_batches == b->num_micro_batches &&
           a->max_rows == b->max_rows && a->weights == b->weights && a->cache == b->cache;
}

/* Another block, not the same with a little more or less. */
static int is_other(const sl_plan_shape *a, const sl_plan_shape *b) {
    const double ratio = (double)a->micro_batch / b->micro_batch;
    return a->weights != b->weights || a->cache != b->cache ||
           a->num_micro_batches != b->num_micro_batches || ratio < 0.8 || ratio > 1.25;
}

/* ---- shapes ---- */

static int longest_prompt(const sl_workload *w) {
    int most = 0;
    for (int b = 0; b < w->n_bins; b++)
        if (w->bin[b].prompt_len > most) most = w->bin[b].prompt_len;
    return most;
}

/* Whether the numbers go together, and none is larger than can be used. */
static int is_useful(const sl_plan_problem *q, const sl_plan_shape *s) {
    const int n_prompts = q->workload->n_prompts, blocks = q->n_ranks;
    const int context = q->max_context ? q->max_context : sl_workload_context(q->workload);
    const long pages = (long)s->micro_batch * sl_kv_pages_for(context);
    if (s->max_rows < s->micro_batch || (q->has_device && pages > MOST_PAGES)) return 0;
    if (q->max_rows == 0 && s->max_rows > MOST_ROWS) return 0;
    if (q->max_rows == 0 && s->max_rows > row_counts[0] &&
        s->max_rows / 4 >= (double)s->micro_batch * longest_prompt(q->workload))
        return 0;
    const long seats = (long)s->micro_batch * s->num_micro_batches * blocks;
    if (q->pages_frac > 0 && SL_WORKLOAD_SPREAD_FROM * seats > n_prompts) return 0;
    if (q->micro_batch == 0 && s->micro_batch > 1 && seats > n_prompts &&
        (long)(s->micro_batch - 1) * s->num_micro_batches * blocks >= n_prompts)
        return 0;
    if (q->num_micro_batches == 0 && s->num_micro_batches > 1 &&
        (long)(s->num_micro_batches - 1) * blocks >= n_prompts)
        return 0;
    return 1;
}

static int is_tried(const search *s, const sl_plan_shape *shape) {
    for (int i = 0; i < s->n; i++)
        if (same_shape(&s->tried[i].shape, shape)) return 1;
    return 0;
}

static sl_status add_shape(search *s, const sl_plan_shape *shape) {
    if (!is_useful(s->q, shape) || s->n == MAX_TRIED) return SL_OK;
    tried t = {.shape = *shape, .total_s = INFINITY};
    SL_TRY(sl_plan_exact_bound(&s->exact, shape, &t.bound_s));
    s->tried[s->n++] = t;
    return SL_OK;
}

static sl_status add_rows(search *s, sl_plan_shape shape) {
    const sl_plan_problem *q = s->q;
    const int n = (int)(sizeof row_counts / sizeof row_counts[0]);
    for (int i = 0; i < (q->max_rows ? 1 : n); i++) {
        shape.max_rows = q->max_rows ? q->max_rows : row_counts[i];
        for (int w = 0; w < q->n_weights; w++)
            for (int c = 0; c < q->n_caches; c++) {
                shape.weights = q->weights[w];
                shape.cache = q->caches[c];
                SL_TRY(add_shape(s, &shape));
            }
    }
    return SL_OK;
}

static sl_status add_shapes(search *s) {
    const sl_plan_problem *q = s->q;
    const int n_micro = (int)(sizeof micro_batches / sizeof micro_batches[0]);
    const int n_num = (int)(sizeof numbers / sizeof numbers[0]);
    for (int i = 0; i < (q->micro_batch ? 1 : n_micro); i++)
        for (int k = 0; k < (q->num_micro_batches ? 1 : n_num); k++) {
            sl_plan_shape shape = {
                .micro_batch = q->micro_batch ? q->micro_batch : micro_batches[i],
                .num_micro_batches = q->num_micro_batches ? q->num_micro_batches : numbers[k]};
            SL_TRY(add_rows(s, shape));
        }
    return SL_OK;
}

static int by_bound(const void *a, const void *b) {
    const tried *x = a, *y = b;
    if (x->bound_s != y->bound_s) return x->bound_s < y->bound_s ? -1 : 1;
    const long m = (long)x->shape.micro_batch * x->shape.num_micro_batches;
    const long n = (long)y->shape.micro_batch * y->shape.num_micro_batches;
    return m < n ? -1 : m > n;
}

/* ---- trying ---- */

static int is_quick_enough(search *s, const sl_cost *cost) {
    double *least = &s->found.least_request_s;
    if (*least == 0 || cost->request_s < *least) *least = cost->request_s;
    return s->q->max_request_s <= 0 || cost->request_s <= s->q->max_request_s;
}

static void keep(search *s, const sl_measured_plan *plan) {
    sl_measured_found *f = &s->found;
    if (!f->is_feasible || plan->cost.total_s < f->best.cost.total_s) {
        if (f->is_feasible && is_other(&f->best.shape, &plan->shape)) {
            f->second = f->best;
            f->has_second = 1;
        } else if (f->has_second && !is_other(&f->second.shape, &plan->shape)) {
            f->has_second = 0;
        }
        f->best = *plan;
        f->is_feasible = 1;
    } else if (is_other(&f->best.shape, &plan->shape) &&
               (!f->has_second || plan->cost.total_s < f->second.cost.total_s)) {
        f->second = *plan;
        f->has_second = 1;
    }
}

/* A little beyond the best: a runner-up is wanted, and programs are no bounds to the digit. */
static double worst_of_use(const sl_measured_found *f, double limit_s) {
    if (!f->is_feasible) return limit_s;
    const double near = 1.1 * f->best.cost.total_s;
    return f->has_second ? fmin(near, fmax(f->second.cost.total_s, 1.01 * f->best.cost.total_s))
                         : near;
}

static sl_status try_one(search *s, tried *t, int *better_out) {
    sl_measured_plan plan = {.pages_frac = s->q->pages_frac};
    double lp_s;
    int found;
    const double worst = worst_of_use(&s->found, s->limit_s);
    *better_out = 0;
    if (t->bound_s >= worst) return SL_OK;
    SL_TRY(sl_plan_exact_solve(&s->exact, &t->shape, s->uses_disk, &found, &lp_s));
    if (!found || lp_s >= worst) return SL_OK;
    SL_TRY(sl_plan_exact_round(&s->exact, &found, &plan.policy, &plan.cost, &plan.memory));
    if (!found) return SL_OK;
    s->n_fitting++;
    if (!is_quick_enough(s, &plan.cost)) return SL_OK;
    plan.shape = t->shape;
    t->total_s = plan.cost.total_s;
    *better_out = !s->found.is_feasible || plan.cost.total_s < s->found.best.cost.total_s;
    keep(s, &plan);
    return SL_OK;
}

static sl_status try_new(search *s, sl_plan_shape shape, int *better_out) {
    const sl_plan_problem *q = s->q;
    *better_out = 0;
    if (shape.micro_batch < 1 || shape.micro_batch > SL_PLAN_MAX_MICRO_BATCH ||
        shape.num_micro_batches < 1 || shape.num_micro_batches > SL_PLAN_MAX_NUM ||
        shape.max_rows < 16 || shape.max_rows > SL_PLAN_MAX_ROWS)
        return SL_OK;
    if (q->micro_batch) shape.micro_batch = q->micro_batch;
    if (q->num_micro_batches) shape.num_micro_batches = q->num_micro_batches;
    if (q->max_rows) shape.max_rows = q->max_rows;
    if (is_tried(s, &shape) || s->n == MAX_TRIED || !is_useful(q, &shape)) return SL_OK;
    SL_TRY(add_shape(s, &shape));
    return try_one(s, &s->tried[s->n - 1], better_out);
}

/* Steps to the shapes around the best one while they are faster. */
static sl_status climb(search *s) {
    static const int steps[][3] = {{1, 0, 0},  {-1, 0, 0}, {4, 0, 0},  {-4, 0, 0}, {0, 1, 0},
                                   {0, -1, 0}, {0, 0, 1},  {0, 0, -1}, {-2, 1, 0}, {2, -1, 0},
                                   {16, 0, 0}, {0, 2, 0},  {-8, 2, 0}};
    const int n_steps = (int)(sizeof steps / sizeof steps[0]);
    int better = 1;
    for (int round = 0; better && round < MAX_CLIMB; round++) {
        const sl_plan_shape from = s->found.best.shape;
        better = 0;
        for (int i = 0; i < n_steps; i++) {
            int one;
            sl_plan_shape shape = from;
            shape.micro_batch += steps[i][0];
            shape.num_micro_batches += steps[i][1];
            if (steps[i][2] > 0) shape.max_rows += shape.max_rows / 2;
            if (steps[i][2] < 0) shape.max_rows -= shape.max_rows / 3;
            SL_TRY(try_new(s, shape, &one));
            better |= one;
        }
    }
    return SL_OK;
}

/* Once more the smallest blocks, with programs that are sure to be solved. */
static sl_status try_surely(search *s) {
    enum { MOST = 64 };
    int better, n = 0;
    s->exact.method = SL_LP_AUTO;
    for (int i = 0; i < s->n && n < MOST; i++) {
        const sl_plan_shape *shape = &s->tried[i].shape;
        if (!s->q->micro_batch && shape->micro_batch > 2) continue;
        if (!s->q->num_micro_batches && shape->num_micro_batches > 1) continue;
        n++;
        SL_TRY(try_one(s, &s->tried[i], &better));
    }
    return SL_OK;
}

/* The best block again, with programs that are sure, and with a part on disk, which may let more of
 * the rest be where it is used. */
static sl_status polish(search *s) {
    int better;
    tried t = {.shape = s->found.best.shape, .total_s = INFINITY};
    s->exact.method = SL_LP_AUTO;
    SL_TRY(try_one(s, &t, &better));
    if (s->q->budget_bytes[SL_TIER_DISK] <= 0 || s->found.best.policy.disk_dir) return SL_OK;
    s->uses_disk = 1;
    return try_one(s, &t, &better);
}

static sl_status find_shortage(search *s) {
    const sl_plan_problem *q = s->q;
    sl_plan_shape small = {q->micro_batch ? q->micro_batch : 1,
                           q->num_micro_batches ? q->num_micro_batches : 1, q->max_rows,
                           q->weights[q->n_weights - 1], q->caches[q->n_caches - 1]};
    if (small.max_rows == 0) small.max_rows = small.micro_batch < 64 ? 64 : small.micro_batch;
    sl_measured_shortage *lacks = &s->found.shortage;
    SL_TRY(sl_shortage_measured(q, &small, lacks));
    double sum = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) sum += lacks->together_bytes[t];
    if (sum > 0) return SL_OK;
    /* Shares that fit are there, but not in whole sequences and pieces. */
    sl_policy policy;
    sl_cost cost;
    sl_footprint memory;
    double seconds;
    int found;
    SL_TRY(sl_plan_exact_solve(&s->exact, &small, 0, &found, &seconds));
    if (found) SL_TRY(sl_plan_exact_round(&s->exact, &found, &policy, &cost, &memory));
    for (int t = 0; t < SL_TIER_COUNT; t++)
        lacks->together_bytes[t] = lacks->alone_bytes[t] = s->exact.over_bytes[t];
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (lacks->alone_bytes[t] == 0) lacks->alone_bytes[t] = INFINITY;
    return SL_OK;
}

static sl_status run(search *s) {
    int better;
    SL_TRY(add_shapes(s));
    if (s->n == 0 && s->q->pages_frac > 0) return SL_OK;
    if (s->n == 0)
        return SL_FAIL(SL_ERR_ARG, "no block of %d x %d sequences and %d rows is of use",
                       s->q->micro_batch, s->q->num_micro_batches, s->q->max_rows);
    qsort(s->tried, (size_t)s->n, sizeof *s->tried, by_bound);
    for (int i = 0, n = s->n; i < n; i++) SL_TRY(try_one(s, &s->tried[i], &better));
    const int is_only_other = s->q->pages_frac > 0; /* there is a plan already */
    if (s->n_fitting == 0 && !is_only_other) SL_TRY(try_surely(s));
    if (s->found.is_feasible) SL_TRY(climb(s));
    if (s->found.is_feasible) SL_TRY(polish(s));
    if (s->found.is_feasible) SL_TRY(sl_blocks_choose(s->q, &s->found.best));
    if (s->found.has_second) SL_TRY(sl_blocks_choose(s->q, &s->found.second));
    if (!s->found.is_feasible && s->n_fitting == 0 && !is_only_other) SL_TRY(find_shortage(s));
    if (s->found.is_feasible || s->n_fitting == 0) s->found.least_request_s = 0;
    s->found.n_shapes = s->n;
    s->found.n_programs = s->exact.n_programs;
    s->found.n_measured = s->exact.n_measured;
    return SL_OK;
}

static sl_status check(const sl_plan_problem *q) {
    if (q->n_weights < 1 || q->n_caches < 1 || q->n_weights > SL_PROFILE_FORMATS ||
        q->n_caches > SL_PROFILE_FORMATS || q->n_ranks < 1 ||
        q->n_ranks > sl_source_config(q->source)->n_layers)
        return SL_FAIL(SL_ERR_ARG, "a plan for %d and %d precisions on %d ranks", q->n_weights,
                       q->n_caches, q->n_ranks);
    if (q->micro_batch < 0 || q->num_micro_batches < 0 || q->max_rows < 0 ||
        q->micro_batch > SL_PLAN_MAX_MICRO_BATCH || q->num_micro_batches > SL_PLAN_MAX_NUM ||
        q->max_rows > SL_PLAN_MAX_ROWS)
        return SL_FAIL(SL_ERR_ARG, "a plan for blocks of %d x %d sequences and %d rows",
                       q->micro_batch, q->num_micro_batches, q->max_rows);
    const int context = q->max_context ? q->max_context : sl_workload_context(q->workload);
    if (context > sl_source_config(q->source)->max_positions ||
        context < sl_workload_context(q->workload))
        return SL_FAIL(
            SL_ERR_ARG, "requests of %d tokens in a context of %d; the model has %d positions",
            sl_workload_context(q->workload), context, sl_source_config(q->source)->max_positions);
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (!(q->budget_bytes[t] >= 0) || !isfinite(q->budget_bytes[t]))
            return SL_FAIL(SL_ERR_ARG, "the %s budget is %g bytes", sl_tier_name((sl_tier_kind)t),
                           q->budget_bytes[t]);
    return SL_OK;
}

static sl_status search_split(const sl_plan_problem *problem, double limit_s,
                              sl_measured_found *out) {
    search *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    s->q = problem;
    s->limit_s = limit_s;
    s->tried = calloc(MAX_TRIED, sizeof *s->tried);
    sl_status st = s->tried ? sl_plan_exact_init(problem, &s->exact)
                            : SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    if (st == SL_OK) st = run(s);
    if (st == SL_OK) *out = s->found;
    free(s->tried);
    free(s);
    return st;
}

/* The engine splits the layers so, where it is not told otherwise. */
static sl_status split(const sl_plan_problem *q, int *layers) {
    int *first = calloc((size_t)q->n_ranks + 1, sizeof *first);
    if (!first) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    const sl_status st = sl_partition_by_cost(q->source, q->n_ranks, first);
    for (int r = 0; r < q->n_ranks && st == SL_OK; r++) layers[r] = first[r + 1] - first[r];
    free(first);
    return st;
}

/* Once more for sequences whose ages are spread, of which more fit on the device. */
static sl_status search_spread(const sl_plan_problem *problem, sl_measured_found *best) {
    static const double most_frac = 0.87, margin = 1.02;
    const int context =
        problem->max_context ? problem->max_context : sl_workload_context(problem->workload);
    const double frac = margin * sl_workload_pages_frac(problem->workload, context);
    if (!best->is_feasible || !problem->has_device || frac > most_frac ||
        problem->workload->n_prompts < SL_WORKLOAD_SPREAD_FROM * problem->n_ranks)
        return SL_OK;
    sl_workload workload = *problem->workload;
    sl_plan_problem q = *problem;
    workload.spread = 1;
    q.workload = &workload;
    q.pages_frac = frac;
    /* In the best one's precisions and number of micro-batches: ages change neither. */
    q.num_micro_batches = best->best.shape.num_micro_batches;
    q.n_weights = q.n_caches = 1;
    q.weights[0] = best->best.shape.weights;
    q.caches[0] = best->best.shape.cache;
    sl_measured_found *found = malloc(sizeof *found);
    if (!found) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    sl_status st = search_split(&q, best->best.cost.total_s, found);
    if (st == SL_OK && found->is_feasible && found->best.cost.total_s < best->best.cost.total_s) {
        found->second = best->best;
        found->has_second = is_other(&found->second.shape, &found->best.shape);
        found->n_shapes += best->n_shapes;
        found->n_programs += best->n_programs;
        found->n_measured += best->n_measured;
        *best = *found;
        /* What is left of the device's memory becomes pages, too. */
        st = sl_plan_measure(problem, &best->best.policy, 0, &best->best.memory);
        const double most = q.budget_bytes[SL_TIER_GPU];
        if ((double)best->best.memory.need_bytes[SL_TIER_GPU] > most)
            best->best.memory.need_bytes[SL_TIER_GPU] = (size_t)most;
    }
    free(found);
    return st;
}

static sl_status search_all(const sl_plan_problem *problem, sl_measured_found *out) {
    SL_TRY(search_split(problem, INFINITY, out));
    return search_spread(problem, out);
}

sl_status sl_search_measured(const sl_plan_problem *problem, sl_measured_found *out) {
    SL_TRY(check(problem));
    if (problem->layers_per_rank) return search_all(problem, out);
    sl_plan_problem q = *problem;
    int *layers = calloc((size_t)q.n_ranks, sizeof *layers);
    if (!layers) return SL_FAIL(SL_ERR_NOMEM, "plan: out of host memory");
    q.layers_per_rank = layers;
    sl_status st = split(&q, layers);
    if (st == SL_OK) st = search_all(&q, out);
    free(layers);
    return st;
}
