/* How a stage's budgets are divided among weights, buffers, places of visits and pages. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/stage_impl.h"

sl_status sl_stage_settle(sl_stage *s) {
    const sl_stage_options *o = &s->opt;
    int on_disk = 0, elsewhere = 0;
    s->home = calloc((size_t)o->n_slots, 1);
    if (!s->home) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    for (int i = 0; i < o->n_slots; i++) {
        s->home[i] = o->seats[i].home;
        if (!s->device && s->home[i] == SL_TIER_GPU) s->home[i] = SL_TIER_CPU;
        on_disk |= s->home[i] == SL_TIER_DISK;
        elsewhere |= s->home[i] != sl_tier_get_kind(s->fast);
    }
    if (on_disk && !o->disk_dir)
        return SL_FAIL(SL_ERR_ARG, "sequences are to live on disk, but no folder is given");
    for (int from = 0; s->device && o->host_attention && from < o->n_slots;
         from += o->micro_batch) {
        int n = 0;
        for (int i = from; i < from + o->micro_batch && i < o->n_slots; i++)
            n += o->seats[i].on_host;
        if (n > s->host_rows) s->host_rows = n;
    }
    s->format = sl_kv_format_make(o->cache_dtype, s->config.n_kv_heads, s->config.head_dim);
    if (on_disk) s->format.page_bytes = sl_align_up(s->format.page_bytes, SL_DISK_ALIGN);
    s->travels = sl_hidden_travels(&o->hidden, s->device != NULL);
    const int on_host = s->host_rows > 0;
    s->n_lanes = 1 + sl_sweep_lag(o->num_micro_batches, on_host, s->travels);
    s->n_places =
        elsewhere || s->travels ? sl_sweep_places(o->num_micro_batches, on_host, s->travels) : 1;
    s->n_sets = o->transport->n_ranks > 1 ? SL_STAGE_SETS : 1;
    s->direct = o->transport->n_ranks > 1 && s->device && !s->travels && o->transport->ops &&
                o->transport->ops->send_device && s->device->native_stream;
    s->own_wire = o->transport->n_ranks > 1 && !s->direct && (s->device || s->travels);
    return SL_OK;
}

sl_status sl_stage_hidden_room(const sl_stage *s, size_t *out) {
    return sl_size_mul((size_t)s->opt.max_rows, sl_stage_row_bytes(s), out);
}

sl_weights_options sl_stage_weights_options(const sl_stage *s, const sl_source *source) {
    return (sl_weights_options){.source = source,
                                .first = s->opt.first_layer,
                                .last = s->opt.last_layer,
                                .precision = s->opt.weights_dtype,
                                .shares = s->opt.weights,
                                .disk_dir = s->opt.disk_dir,
                                .disk_budget_bytes = s->opt.disk_budget_bytes,
                                .be = s->opt.backend,
                                .device = s->device,
                                .hollow = s->opt.backend->ops->hollow,
                                .pulse = s->opt.pulse};
}

sl_program_options sl_stage_program_options(const sl_stage *s) {
    return (sl_program_options){.config = &s->config,
                                .backend = s->opt.backend,
                                .tier = s->fast,
                                .max_rows = s->opt.max_rows,
                                .has_head = s->is_last,
                                .n_lanes = s->n_lanes,
                                .host_rows = s->host_rows,
                                .sparsity = s->opt.sparsity};
}

/* Most sequences of a micro-batch for which `wanted` says so. */
static int most_in_a_batch(const sl_stage *s, int (*wanted)(const sl_stage *s, int slot)) {
    int most = 0;
    for (int from = 0; from < s->opt.n_slots; from += s->opt.micro_batch) {
        int n = 0;
        for (int i = from; i < from + s->opt.micro_batch && i < s->opt.n_slots; i++)
            n += wanted(s, i) != 0;
        if (n > most) most = n;
    }
    return most;
}

static int lives_elsewhere(const sl_stage *s, int slot) {
    return s->home[slot] != sl_tier_get_kind(s->fast);
}

static int lives_on_disk(const sl_stage *s, int slot) {
    return s->home[slot] == SL_TIER_DISK;
}

sl_kv_visits_options sl_stage_visits_options(const sl_stage *s) {
    return (sl_kv_visits_options){.n_layers = sl_stage_n_layers(s),
                                  .n_micro_batches = s->opt.num_micro_batches,
                                  .n_places = s->n_places,
                                  .most_visitors = most_in_a_batch(s, lives_elsewhere),
                                  .most_on_disk = most_in_a_batch(s, lives_on_disk),
                                  .pages_per_slot = sl_kv_pages_for(s->opt.max_context),
                                  .format = s->format,
                                  .gpu = s->gpu,
                                  .host = sl_stage_pinned(s)};
}

sl_hidden_options sl_stage_hidden_options(const sl_stage *s) {
    return (sl_hidden_options){.shares = s->opt.hidden,
                               .max_rows = s->opt.max_rows,
                               .row_bytes = sl_stage_row_bytes(s),
                               .n_micro_batches = s->opt.num_micro_batches,
                               .n_places = s->n_places,
                               .gpu = s->gpu,
                               .host = sl_stage_pinned(s),
                               .disk_dir = s->opt.disk_dir};
}

size_t sl_stage_lane_bytes(const sl_stage *s, int answer) {
    const size_t q = (size_t)s->config.n_heads * (size_t)s->config.head_dim;
    const size_t kv = (size_t)s->config.n_kv_heads * (size_t)s->config.head_dim;
    return (size_t)s->host_rows * (answer ? q : q + 2 * kv) * s->opt.backend->ops->act_bytes;
}

/* Hidden states where they are computed, and on the wire. */
static sl_status plan_hidden(const sl_stage *s, sl_stage_plan *plan) {
    size_t all, part[SL_TIER_COUNT] = {0};
    SL_TRY(sl_stage_hidden_room(s, &all));
    SL_TRY(
        sl_size_mul(sl_align_up(all, 4096), (size_t)(s->n_sets * s->opt.num_micro_batches), &all));
    if (s->travels) {
        const sl_hidden_options o = sl_stage_hidden_options(s);
        SL_TRY(sl_hidden_measure(&o, part));
    } else {
        part[sl_tier_get_kind(s->fast)] = all;
    }
    if (s->own_wire) SL_TRY(sl_size_add(part[SL_TIER_CPU], all, &part[SL_TIER_CPU]));
    plan->disk_bytes = part[SL_TIER_DISK];
    plan->host_bytes = part[SL_TIER_CPU];
    plan->fast_bytes = part[SL_TIER_GPU];
    return SL_OK;
}

/* All pages that could be wanted, where that takes a part of the budget at most. */
static size_t wished_pages(const sl_stage *s, const sl_stage_plan *plan, int t) {
    const size_t all = plan->context * (size_t)plan->n_slots[t];
    size_t most = all;
    if (t == (int)sl_tier_get_kind(s->fast))
        most = sl_tier_budget_bytes(s->fast) / 4;
    else
        most = (t == SL_TIER_CPU ? sl_tier_budget_bytes(s->cpu) : s->opt.disk_budget_bytes) / 2;
    size_t pages = all < most ? all : most;
    if (pages < plan->context) pages = plan->context;
    return plan->n_slots[t] > 0 ? pages : 0;
}

sl_status sl_stage_plan_memory(const sl_stage *s, sl_stage_plan *plan) {
    memset(plan, 0, sizeof *plan);
    size_t program, places[SL_TIER_COUNT] = {0};
    const sl_program_options options = sl_stage_program_options(s);
    SL_TRY(sl_program_measure(&options, &program));
    SL_TRY(plan_hidden(s, plan));
    if (s->device) plan->backend_bytes = s->device->used_bytes(s->opt.backend);
    const sl_kv_visits_options visits = sl_stage_visits_options(s);
    if (visits.most_visitors > 0) SL_TRY(sl_kv_visits_measure(&visits, places));
    plan->fast_bytes += program + places[SL_TIER_GPU];
    const size_t lanes = (size_t)s->n_lanes * (sl_align_up(sl_stage_lane_bytes(s, 0), 4096) +
                                               sl_align_up(sl_stage_lane_bytes(s, 1), 4096));
    plan->host_bytes += places[SL_TIER_CPU] + lanes;
    for (int i = 0; i < s->opt.n_slots; i++) plan->n_slots[s->home[i]]++;
    plan->per_page = s->format.page_bytes * (size_t)sl_stage_n_layers(s);
    plan->context = (size_t)sl_kv_pages_for(s->opt.max_context) * plan->per_page;
    plan->tails = (size_t)plan->n_slots[SL_TIER_DISK] * plan->per_page;
    for (int t = 0; t < SL_TIER_COUNT; t++) plan->pages[t] = wished_pages(s, plan, t);
    return SL_OK;
}

/* Of all that sl_stage_planned() and sl_stage_used() count: a device's tier has what the backend
 * left. */
static size_t budget_of(const sl_stage *s, const sl_stage_plan *plan, int t) {
    if (t == SL_TIER_DISK) return s->opt.disk_budget_bytes;
    if (t == SL_TIER_CPU) return sl_tier_budget_bytes(s->cpu);
    return sl_tier_budget_bytes(s->gpu) + plan->backend_bytes;
}

void sl_stage_planned(const sl_stage *s, const sl_stage_plan *plan, const sl_weights_size *w,
                      size_t out[SL_TIER_COUNT]) {
    for (int t = 0; t < SL_TIER_COUNT; t++) out[t] = w->resident_bytes[t] + w->ring_bytes[t];
    out[SL_TIER_GPU] += plan->backend_bytes;
    out[sl_tier_get_kind(s->fast)] += plan->fast_bytes;
    out[SL_TIER_CPU] += plan->host_bytes + plan->tails;
    out[SL_TIER_DISK] += w->table_bytes + plan->disk_bytes;
}

size_t sl_stage_loading_peak(const sl_weights_size *w, size_t in_the_end) {
    const size_t loading = w->resident_bytes[SL_TIER_CPU] + w->loading_bytes;
    return loading > in_the_end ? loading : in_the_end;
}

/* Whether weights of this size fit beside the rest; *short_out: bytes that are missing. */
static int fits(const sl_stage *s, const sl_stage_plan *plan, const sl_weights_size *w,
                sl_tier_kind *kind_out, size_t *short_out) {
    size_t need[SL_TIER_COUNT];
    sl_stage_planned(s, plan, w, need);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        need[t] += plan->pages[t];
        if (t == SL_TIER_CPU) need[t] = sl_stage_loading_peak(w, need[t]);
        if (need[t] == 0 || (t == SL_TIER_GPU && !s->gpu)) continue;
        if (need[t] <= budget_of(s, plan, t)) continue;
        *kind_out = (sl_tier_kind)t;
        *short_out = need[t] - budget_of(s, plan, t);
        return 0;
    }
    return 1;
}

/* Looks for the highest placement that fits beside the plan; *found_out = 0 when there is none. */
static sl_status search_shares(const sl_stage *s, const sl_stage_plan *plan, sl_weights_options *w,
                               int *found_out, sl_tier_kind *kind_out, size_t *short_out) {
    enum { STEPS = 64 };
    const int has_disk = s->opt.disk_dir != NULL;
    *found_out = 0;
    /* With a device: `lower` 64ths leave the gpu, of which `disk` go on to disk. */
    for (int lower = 0; lower <= (s->device ? STEPS : 0); lower++) {
        const int most = has_disk ? (s->device ? lower : STEPS) : 0;
        for (int disk = 0; disk <= most; disk++) {
            sl_weights_size size;
            w->shares = (sl_shares){{0}};
            w->shares.frac[SL_TIER_DISK] = (double)disk / STEPS;
            w->shares.frac[SL_TIER_GPU] = s->device ? (double)(STEPS - lower) / STEPS : 0.0;
            w->shares.frac[SL_TIER_CPU] =
                1.0 - w->shares.frac[SL_TIER_GPU] - w->shares.frac[SL_TIER_DISK];
            SL_TRY(sl_weights_measure(w, &size));
            *found_out = fits(s, plan, &size, kind_out, short_out);
            if (*found_out) return SL_OK;
            /* More on disk helps only when host memory is what is short. */
            if (*kind_out != SL_TIER_CPU) break;
        }
    }
    return SL_OK;
}

/* Places the weights as high as they fit: what the computing tier does not hold goes to host
 * memory, what that does not hold to disk.  Pages give way before weights do, down to one full
 * context. */
sl_status sl_stage_choose_shares(const sl_stage *s, sl_stage_plan *plan, sl_weights_options *w) {
    sl_tier_kind kind = SL_TIER_CPU;
    size_t missing = 0;
    int found;
    if (!s->device && !s->opt.disk_dir) { /* no choice; what is short is told where it is taken */
        w->shares.frac[SL_TIER_CPU] = 1.0;
        return SL_OK;
    }
    SL_TRY(search_shares(s, plan, w, &found, &kind, &missing));
    if (found) return SL_OK;
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (plan->n_slots[t] > 0) plan->pages[t] = plan->context;
    SL_TRY(search_shares(s, plan, w, &found, &kind, &missing));
    if (found) return SL_OK;
    char want[32];
    return SL_FAIL(SL_ERR_NOMEM,
                   "layers %d to %d do not fit: with as much as possible placed lower, the %s "
                   "budget is short of %s for weights, buffers and one context of %d tokens%s",
                   s->opt.first_layer, s->opt.last_layer - 1, sl_tier_name(kind),
                   sl_bytes_format(missing, want, sizeof want), s->opt.max_context,
                   s->opt.disk_dir ? "" : "; a disk folder would take weights");
}

void sl_stage_used(const sl_stage *s, const sl_stage_plan *plan, size_t out[SL_TIER_COUNT]) {
    const sl_weights_size w = sl_weights_bytes(s->weights);
    out[SL_TIER_GPU] = s->gpu ? sl_tier_used_bytes(s->gpu) + plan->backend_bytes : 0;
    out[SL_TIER_CPU] = sl_tier_used_bytes(s->cpu) + plan->tails;
    out[SL_TIER_DISK] = w.resident_bytes[SL_TIER_DISK] + w.table_bytes + plan->disk_bytes;
}

sl_status sl_stage_count_pages(const sl_stage *s, const sl_stage_plan *plan,
                               const size_t used[SL_TIER_COUNT], int64_t out[SL_TIER_COUNT]) {
    const int64_t one = sl_kv_pages_for(s->opt.max_context);
    int64_t here[SL_TIER_COUNT] = {0};
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (plan->n_slots[t] == 0) continue;
        const size_t budget = budget_of(s, plan, t), room = budget > used[t] ? budget - used[t] : 0;
        const int64_t most = (int64_t)(room / plan->per_page), all = one * plan->n_slots[t];
        if (most < one) {
            char need[32], have[32], whole[32], rest[32];
            return SL_FAIL(
                SL_ERR_NOMEM,
                "a context of %d tokens needs %s of KV cache, but %s of the %s budget of "
                "%s are left beside %s of weights and buffers: lower the context or raise "
                "the budget",
                s->opt.max_context, sl_bytes_format(plan->context, need, sizeof need),
                sl_bytes_format(room, have, sizeof have), sl_tier_name((sl_tier_kind)t),
                sl_bytes_format(budget, whole, sizeof whole),
                sl_bytes_format(used[t], rest, sizeof rest));
        }
        here[t] = most < all ? most : all;
    }
    /* The seats' homes: without a device those of gpu and cpu share host memory. */
    int64_t n_gpu = 0;
    for (int i = 0; i < s->opt.n_slots; i++) n_gpu += s->opt.seats[i].home == SL_TIER_GPU;
    memcpy(out, here, sizeof here);
    if (s->device || n_gpu == 0) return SL_OK;
    out[SL_TIER_GPU] = here[SL_TIER_CPU] * n_gpu / plan->n_slots[SL_TIER_CPU];
    out[SL_TIER_CPU] = here[SL_TIER_CPU] - out[SL_TIER_GPU];
    for (int t = SL_TIER_GPU; t <= SL_TIER_CPU; t++)
        if (out[t] > 0 && out[t] < one && here[SL_TIER_CPU] >= 2 * one) {
            const int other = t == SL_TIER_GPU ? SL_TIER_CPU : SL_TIER_GPU;
            out[other] -= one - out[t];
            out[t] = one;
        }
    return SL_OK;
}
