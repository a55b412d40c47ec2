#include "plan_problem.h"

#include <math.h>

sl_policy sl_plan_policy(const sl_plan_problem *q, const sl_plan_shape *shape) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = shape->micro_batch;
    p.num_micro_batches = shape->num_micro_batches;
    p.max_rows = shape->max_rows;
    p.blocks_in_flight = q->n_ranks;
    p.max_context = q->max_context ? q->max_context : sl_workload_context(q->workload);
    p.weights_dtype = shape->weights;
    p.cache_dtype = shape->cache;
    p.cpu_budget_bytes = (size_t)fmax(1, q->budget_bytes[SL_TIER_CPU]);
    p.disk_budget_bytes = (size_t)q->budget_bytes[SL_TIER_DISK];
    if (p.disk_budget_bytes) p.disk_dir = q->disk_dir ? q->disk_dir : ".";
    return p;
}

int sl_plan_n_layers(const sl_plan_problem *q) {
    int most = 0;
    for (int r = 0; q->layers_per_rank && r < q->n_ranks; r++)
        if (q->layers_per_rank[r] > most) most = q->layers_per_rank[r];
    if (most > 0) return most;
    return (sl_source_config(q->source)->n_layers + q->n_ranks - 1) / q->n_ranks;
}

size_t sl_plan_act_bytes(const sl_plan_problem *q) {
    return q->act_bytes ? q->act_bytes : q->has_device ? 2 : 4;
}

sl_cost_problem sl_plan_cost_problem(const sl_plan_problem *q) {
    return (sl_cost_problem){.config = sl_source_config(q->source),
                             .profile = q->profile,
                             .workload = q->workload,
                             .has_device = q->has_device,
                             .n_layers = sl_plan_n_layers(q),
                             .n_ranks = q->n_ranks,
                             .layers_per_rank = q->layers_per_rank,
                             .is_one_rank = q->is_one_rank,
                             .rank = q->rank};
}

static void take_most(size_t *most, const size_t *other) {
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (other[t] > most[t]) most[t] = other[t];
}

/* A rank's slice of n layers. */
static sl_status measure_slice(const sl_plan_problem *q, sl_footprint_options *o, int rank, int n,
                               int is_first, sl_footprint *out) {
    const int all = sl_source_config(q->source)->n_layers;
    sl_footprint one;
    o->rank = rank;
    const int is_inner = rank > 0 && rank < q->n_ranks - 1 && n < all;
    o->first_layer = rank == 0 ? 0 : is_inner ? 1 : all - n;
    o->last_layer = o->first_layer + n;
    SL_TRY(sl_footprint_of(o, &one));
    if (is_first) {
        *out = one;
        return SL_OK;
    }
    take_most(out->weight_bytes, one.weight_bytes);
    take_most(out->buffer_bytes, one.buffer_bytes);
    take_most(out->need_bytes, one.need_bytes);
    take_most(out->least_bytes, one.least_bytes);
    return SL_OK;
}

sl_status sl_plan_measure(const sl_plan_problem *q, const sl_policy *policy, int n_layers,
                          sl_footprint *out) {
    const int n = n_layers > 0 ? n_layers : sl_plan_n_layers(q), last = q->n_ranks - 1;
    const int is_split = n_layers == 0 && q->layers_per_rank;
    const size_t taken = q->has_device && q->backend_bytes ? q->backend_bytes(policy) : 0;
    sl_footprint_options o = {.source = q->source,
                              .policy = policy,
                              .n_ranks = q->n_ranks,
                              .attends_on_host = q->has_device && q->can_attend_on_host,
                              .act_bytes = sl_plan_act_bytes(q),
                              .gpu_bytes = q->has_device ? (size_t)q->budget_bytes[SL_TIER_GPU] : 0,
                              .backend_bytes = taken,
                              .gpu_pages_frac = q->pages_frac};
    if (q->has_device && o.gpu_bytes == 0) o.gpu_bytes = 1;
    if (q->is_one_rank) return measure_slice(q, &o, q->rank, n, 1, out);
    SL_TRY(measure_slice(q, &o, 0, is_split ? q->layers_per_rank[0] : n, 1, out));
    if (q->n_ranks == 1) return SL_OK;
    /* The first rank has the embedding, the last one the head. */
    SL_TRY(measure_slice(q, &o, last, is_split ? q->layers_per_rank[last] : n, 0, out));
    int middle = 0;
    for (int r = 1; is_split && r < last; r++)
        if (q->layers_per_rank[r] > middle) middle = q->layers_per_rank[r];
    return middle > 0 ? measure_slice(q, &o, 1, middle, 0, out) : SL_OK;
}
