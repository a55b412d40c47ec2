#include "engine/footprint.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/settle.h"
#include "engine/stage_impl.h"
#include "store/host_memory.h"

/* A backend that is asked for sizes only. */
typedef struct {
    sl_backend base;
    sl_backend_ops ops;
    size_t budget_bytes, used_bytes;
} paper_backend;

static size_t paper_budget(const struct sl_backend *be) {
    return ((const paper_backend *)(const void *)be)->budget_bytes;
}

static size_t paper_used(const struct sl_backend *be) {
    return ((const paper_backend *)(const void *)be)->used_bytes;
}

static const sl_device_ops paper_device = {.budget_bytes = paper_budget, .used_bytes = paper_used};

/* A stage as far as planning goes: tiers from which nothing is taken. */
typedef struct {
    paper_backend backend;
    sl_transport transport;
    sl_host_attention host_attention; /* nobody calls it */
    sl_policy policy;
    sl_seat *seats;
    sl_stage stage;
} paper;

static sl_status open_paper(const sl_footprint_options *o, paper *p) {
    p->policy = *o->policy;
    p->policy.host_attention = o->attends_on_host ? &p->host_attention : NULL;
    p->backend.ops = (sl_backend_ops){
        .name = "paper", .act_bytes = o->act_bytes, .device = o->gpu_bytes ? &paper_device : NULL};
    p->backend.base.ops = &p->backend.ops;
    p->backend.budget_bytes = o->gpu_bytes;
    p->backend.used_bytes = o->backend_bytes;
    p->transport = (sl_transport){.rank = o->rank, .n_ranks = o->n_ranks};
    SL_TRY(sl_settle_policy(&p->policy, sl_source_config(o->source), o->n_ranks));
    SL_TRY(sl_settle_seats(&p->policy, &p->seats));
    sl_stage *s = &p->stage;
    s->opt = sl_settle_stage(&p->policy, p->seats);
    s->opt.backend = &p->backend.base;
    s->opt.transport = &p->transport;
    s->opt.first_layer = o->first_layer;
    s->opt.last_layer = o->last_layer;
    s->config = *sl_source_config(o->source);
    s->device = p->backend.ops.device;
    s->is_first = sl_transport_is_first(&p->transport);
    s->is_last = sl_transport_is_last(&p->transport);
    SL_TRY(sl_tier_open_cpu(s->opt.cpu_budget_bytes, &s->cpu));
    if (s->device) SL_TRY(sl_tier_open_device(s->opt.backend, s->device, &s->gpu));
    s->fast = s->device ? s->gpu : s->cpu;
    return sl_stage_settle(s);
}

static void close_paper(paper *p) {
    sl_tier_close(p->stage.gpu);
    sl_tier_close(p->stage.cpu);
    free(p->stage.home);
    free(p->seats);
    free(p);
}

/* Peak of each tier with so many bytes of pages. */
static void peaks(const sl_stage *s, const sl_stage_plan *plan, const sl_weights_size *w,
                  const size_t pages[SL_TIER_COUNT], size_t out[SL_TIER_COUNT]) {
    sl_stage_planned(s, plan, w, out);
    for (int t = 0; t < SL_TIER_COUNT; t++)
        out[t] = sl_align_up(out[t], SL_HOST_PAGE) + sl_align_up(pages[t], SL_HOST_PAGE);
    out[SL_TIER_CPU] = sl_stage_loading_peak(w, out[SL_TIER_CPU]);
}

static sl_status measure(const sl_footprint_options *o, const sl_stage *s, sl_footprint *out) {
    sl_footprint m;
    memset(&m, 0, sizeof m);
    sl_stage_plan plan;
    sl_weights_size size;
    SL_TRY(sl_stage_plan_memory(s, &plan));
    sl_weights_options w = sl_stage_weights_options(s, o->source);
    if (!sl_shares_are_set(&w.shares)) SL_TRY(sl_stage_choose_shares(s, &plan, &w));
    SL_TRY(sl_weights_measure(&w, &size));
    m.weights = w.shares;
    m.loading_bytes = size.loading_bytes;
    m.page_bytes = plan.per_page;
    m.context_pages = sl_kv_pages_for(s->opt.max_context);
    size_t planned[SL_TIER_COUNT], one[SL_TIER_COUNT];
    sl_stage_planned(s, &plan, &size, planned);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        m.weight_bytes[t] = size.resident_bytes[t];
        m.ring_bytes[t] = size.ring_bytes[t];
        m.buffer_bytes[t] = planned[t] - size.resident_bytes[t] - size.ring_bytes[t];
        m.n_seats[t] = plan.n_slots[t];
        SL_TRY(sl_size_mul(plan.context, (size_t)plan.n_slots[t], &m.all_pages_bytes[t]));
        one[t] = plan.n_slots[t] > 0 ? plan.context : 0;
    }
    size_t pages[SL_TIER_COUNT];
    memcpy(pages, m.all_pages_bytes, sizeof pages);
    if (o->gpu_pages_frac > 0 && s->device) {
        const double part = o->gpu_pages_frac * (double)pages[SL_TIER_GPU];
        pages[SL_TIER_GPU] = part > (double)one[SL_TIER_GPU] ? (size_t)part : one[SL_TIER_GPU];
    }
    peaks(s, &plan, &size, pages, m.need_bytes);
    peaks(s, &plan, &size, one, m.least_bytes);
    *out = m;
    return SL_OK;
}

sl_status sl_footprint_of(const sl_footprint_options *o, sl_footprint *out) {
    if (o->rank < 0 || o->rank >= o->n_ranks || o->act_bytes == 0)
        return SL_FAIL(SL_ERR_ARG, "footprint: rank %d of %d, activations of %zu bytes", o->rank,
                       o->n_ranks, o->act_bytes);
    paper *p = calloc(1, sizeof *p);
    if (!p) return SL_FAIL(SL_ERR_NOMEM, "footprint: out of host memory");
    sl_status st = open_paper(o, p);
    if (st == SL_OK) st = measure(o, &p->stage, out);
    close_paper(p);
    return st;
}
