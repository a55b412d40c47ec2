#include "room.h"

#include <math.h>
#include <string.h>

#include "engine/sweep.h"
#include "store/kv_cache.h"

static sl_shares all_in(int tier) {
    sl_shares s = {{0}};
    s.frac[tier] = 1;
    return s;
}

sl_status sl_room_weights_make(const sl_plan_problem *q, sl_dtype dtype, sl_room_weights *out) {
    const sl_plan_shape small = {1, 1, 1, dtype, SL_DTYPE_F16};
    sl_policy p = sl_plan_policy(q, &small);
    sl_footprint m;
    p.weights = all_in(SL_TIER_CPU);
    SL_TRY(sl_plan_measure(q, &p, 0, &m));
    *out = (sl_room_weights){.matrix_bytes = (double)m.weight_bytes[SL_TIER_CPU]};
    if (q->has_device) {
        out->fixed_bytes[SL_TIER_GPU] = (double)m.weight_bytes[SL_TIER_GPU];
        out->loading_bytes = (double)m.loading_bytes;
    }
    /* Without a device embedding and head count as matrices: they are in host memory anyway. */
    if (!q->has_device) {
        SL_TRY(sl_plan_measure(q, &p, 1, &m));
        const int n = sl_plan_n_layers(q);
        const double one = (double)m.weight_bytes[SL_TIER_CPU];
        sl_footprint two = m;
        if (n > 1) SL_TRY(sl_plan_measure(q, &p, 2, &two));
        const double layer = n > 1 ? (double)two.weight_bytes[SL_TIER_CPU] - one : one;
        out->fixed_bytes[SL_TIER_CPU] = fmax(0, out->matrix_bytes - n * layer);
        out->matrix_bytes -= out->fixed_bytes[SL_TIER_CPU];
    }
    out->layer_bytes = out->matrix_bytes / sl_plan_n_layers(q);
    return SL_OK;
}

/* Buffers of the block when all of its cache and hidden states live in one tier each.  They do not
 * depend on the weights, nor, but for the last pages of sequences on disk, on the number of layers.
 */
static sl_status probe(const sl_plan_problem *q, const sl_plan_shape *shape, int cache, int hidden,
                       int on_host, sl_footprint *out) {
    sl_policy p = sl_plan_policy(q, shape);
    p.weights_dtype = SL_DTYPE_Q4G64;
    p.weights = all_in(SL_TIER_CPU);
    p.cache = all_in(cache);
    p.hidden = all_in(hidden);
    p.host_attends = on_host;
    return sl_plan_measure(q, &p, 1, out);
}

static double more(const sl_footprint *a, const sl_footprint *b, int tier) {
    return (double)a->buffer_bytes[tier] - (double)b->buffer_bytes[tier];
}

static void add_weights(const sl_plan_problem *q, const sl_room_weights *w, sl_room *r) {
    const int n = sl_plan_n_layers(q);
    const double ring = (n < SL_SWEEP_RING ? n : SL_SWEEP_RING) * w->layer_bytes;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        r->bytes[t][SL_COST_ONE] += w->fixed_bytes[t];
        r->bytes[t][SL_COST_WEIGHTS_GPU + t] += w->matrix_bytes;
    }
    r->bytes[SL_TIER_CPU][SL_COST_WEIGHTS_DISK] += ring;
    if (!q->has_device) return;
    r->bytes[SL_TIER_GPU][SL_COST_WEIGHTS_CPU] += ring;
    r->bytes[SL_TIER_GPU][SL_COST_WEIGHTS_DISK] += ring;
    r->loading[SL_COST_ONE] = w->loading_bytes;
    r->loading[SL_COST_WEIGHTS_CPU] = w->matrix_bytes;
    r->loading[SL_COST_WEIGHTS_GPU] = w->layer_bytes;
}

sl_status sl_room_make(const sl_plan_problem *q, const sl_plan_shape *shape,
                       const sl_room_weights *weights, sl_room_mode mode, sl_room *out) {
    const int fast = q->has_device ? SL_TIER_GPU : SL_TIER_CPU;
    const int hidden = mode.travels ? SL_TIER_CPU : fast;
    const int has_disk = q->budget_bytes[SL_TIER_DISK] > 0;
    const double layers = sl_plan_n_layers(q);
    sl_room r;
    sl_footprint here, host, disk;
    memset(&r, 0, sizeof r);
    add_weights(q, weights, &r);
    SL_TRY(probe(q, shape, fast, hidden, mode.on_host, &here));
    SL_TRY(probe(q, shape, SL_TIER_CPU, hidden, mode.on_host, &host));
    for (int t = 0; t < SL_TIER_COUNT; t++) r.bytes[t][SL_COST_ONE] += (double)here.buffer_bytes[t];
    const double seats = (double)shape->micro_batch * shape->num_micro_batches * q->n_ranks;
    const double page = (double)here.page_bytes, pages = here.context_pages * page * layers * seats;
    r.bytes[fast][SL_COST_CACHE_GPU] += q->pages_frac > 0 ? q->pages_frac * pages : pages;
    for (int v = SL_COST_CACHE_CPU_VISITS; v <= SL_COST_CACHE_CPU_ATTENDS; v++) {
        r.bytes[SL_TIER_CPU][v] += pages;
        for (int t = 0; t <= SL_TIER_CPU; t++) r.bytes[t][v] += more(&host, &here, t);
    }
    if (has_disk) SL_TRY(probe(q, shape, SL_TIER_DISK, hidden, mode.on_host, &disk));
    for (int v = SL_COST_CACHE_DISK_VISITS; has_disk && v <= SL_COST_CACHE_DISK_ATTENDS; v++) {
        const double tails = (double)disk.page_bytes * seats;
        r.bytes[SL_TIER_DISK][v] +=
            (double)disk.context_pages * (double)disk.page_bytes * layers * seats;
        for (int t = 0; t <= SL_TIER_CPU; t++) r.bytes[t][v] += more(&disk, &here, t);
        r.bytes[SL_TIER_CPU][v] += tails * (layers - 1);
    }
    if (mode.travels) { /* the probe has all of them in host memory: [one micro-batch's] * K */
        const double act = (double)sl_plan_act_bytes(q);
        const double one = (double)shape->max_rows * sl_source_config(q->source)->hidden * act;
        const double home = one * shape->num_micro_batches;
        r.bytes[SL_TIER_CPU][SL_COST_ONE] -= home;
        for (int t = 0; t < SL_TIER_COUNT; t++)
            r.bytes[t == SL_TIER_GPU ? fast : t][SL_COST_HIDDEN_GPU + t] += home;
        r.bytes[SL_TIER_CPU][SL_COST_HIDDEN_DISK] +=
            one * sl_sweep_places(shape->num_micro_batches, mode.on_host, 1);
    }
    *out = r;
    return SL_OK;
}
