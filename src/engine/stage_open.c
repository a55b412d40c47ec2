#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/stage_impl.h"

static sl_status open_rows(const sl_stage *s, sl_stage_rows *m) {
    const size_t rows = (size_t)s->opt.max_rows;
    m->token = calloc(rows, sizeof *m->token);
    m->position = calloc(rows, sizeof *m->position);
    m->wanted = calloc(rows, sizeof *m->wanted);
    m->segment = calloc((size_t)s->opt.micro_batch, sizeof *m->segment);
    if (!m->token || !m->position || !m->wanted || !m->segment)
        return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a micro-batch of %zu rows", rows);
    return SL_OK;
}

/* Bytes of one micro-batch's hidden states, trailer included. */
static sl_status hidden_room(const sl_stage *s, size_t *out) {
    SL_TRY(sl_size_mul((size_t)s->opt.max_rows, sl_stage_row_bytes(s), out));
    return sl_size_add(*out, sizeof(sl_stage_trailer), out);
}

static sl_status open_hidden(sl_stage *s) {
    const size_t k = (size_t)s->opt.num_micro_batches;
    size_t bytes;
    SL_TRY(hidden_room(s, &bytes));
    for (int set = 0; set < SL_STAGE_SETS; set++) {
        s->hidden[set] = calloc(k, sizeof *s->hidden[set]);
        s->wire[set] = calloc(k, sizeof *s->wire[set]);
        s->sending[set] = calloc(k, sizeof *s->sending[set]);
        if (!s->hidden[set] || !s->wire[set] || !s->sending[set])
            return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu micro-batches", k);
        for (size_t i = 0; i < k; i++) {
            void *wire = NULL;
            SL_TRY(sl_tier_take(s->fast, bytes, "hidden states", &s->hidden[set][i]));
            s->wire[set][i] = s->hidden[set][i];
            if (!s->device) continue;
            s->wire[set][i] = NULL;
            if (s->opt.transport->n_ranks == 1) continue;
            SL_TRY(sl_tier_take_touched(s->cpu, bytes, "hidden states on the wire", &wire));
            const sl_status st = s->device->pin(s->opt.backend, wire, bytes);
            if (st != SL_OK) {
                sl_tier_put(s->cpu, wire);
                return st;
            }
            s->wire[set][i] = wire;
        }
    }
    return SL_OK;
}

/* What a slice's memory is divided among. */
typedef struct {
    size_t buffers;  /* working buffers and hidden states, in the tier that computes */
    size_t wire;     /* hidden states on the wire, in host memory beside a device */
    size_t per_page; /* one page in every layer */
    size_t context;  /* pages of one full context */
    size_t pages;    /* pages to make room for when weights are placed */
} memory_plan;

static sl_status plan_memory(const sl_stage *s, const sl_program_options *program,
                             memory_plan *plan) {
    size_t hidden;
    SL_TRY(sl_program_measure(program, &plan->buffers));
    SL_TRY(hidden_room(s, &hidden));
    SL_TRY(sl_size_mul(sl_align_up(hidden, 4096),
                       (size_t)(SL_STAGE_SETS * s->opt.num_micro_batches), &hidden));
    SL_TRY(sl_size_add(plan->buffers, hidden, &plan->buffers));
    plan->wire = s->device && s->opt.transport->n_ranks > 1 ? hidden : 0;
    const sl_kv_format f =
        sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads, s->config.head_dim);
    plan->per_page = f.page_bytes * (size_t)sl_stage_n_layers(s);
    plan->context = (size_t)sl_kv_pages_for(s->opt.max_context) * plan->per_page;
    /* All pages that could be wanted, where that takes a quarter of the budget at most. */
    plan->pages = plan->context * (size_t)s->opt.n_slots;
    const size_t quarter = sl_tier_budget_bytes(s->fast) / 4;
    if (plan->pages > quarter) plan->pages = quarter;
    if (plan->pages < plan->context) plan->pages = plan->context;
    return SL_OK;
}

/* Whether weights of this size fit beside the rest; *short_out: bytes that are missing. */
static int fits(const sl_stage *s, const memory_plan *plan, const sl_weights_size *w,
                sl_tier_kind *kind_out, size_t *short_out) {
    for (int t = SL_TIER_GPU; t <= SL_TIER_CPU; t++) {
        const sl_tier *tier = t == SL_TIER_GPU ? s->gpu : s->cpu;
        if (!tier) continue;
        size_t need = w->resident_bytes[t] + w->ring_bytes[t];
        need += tier == s->fast ? plan->buffers + plan->pages : plan->wire;
        if (t == SL_TIER_CPU) need += w->loading_bytes;
        if (need <= sl_tier_budget_bytes(tier)) continue;
        *kind_out = (sl_tier_kind)t;
        *short_out = need - sl_tier_budget_bytes(tier);
        return 0;
    }
    const size_t disk = w->resident_bytes[SL_TIER_DISK];
    if (disk == 0 || disk <= s->opt.disk_budget_bytes) return 1;
    *kind_out = SL_TIER_DISK;
    *short_out = disk - s->opt.disk_budget_bytes;
    return 0;
}

/* Looks for the highest placement that fits beside the plan; *found_out = 0 when there is none. */
static sl_status search_shares(const sl_stage *s, const memory_plan *plan, sl_weights_options *w,
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
static sl_status choose_shares(const sl_stage *s, memory_plan *plan, sl_weights_options *w) {
    sl_tier_kind kind = SL_TIER_CPU;
    size_t missing = 0;
    int found;
    if (!s->device && !s->opt.disk_dir) { /* no choice; what is short is told where it is taken */
        w->shares.frac[SL_TIER_CPU] = 1.0;
        return SL_OK;
    }
    SL_TRY(search_shares(s, plan, w, &found, &kind, &missing));
    if (found) return SL_OK;
    plan->pages = plan->context;
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

static sl_status open_weights(sl_stage *s, const sl_source *source, memory_plan *plan) {
    sl_weights_options w = {.source = source,
                            .first = s->opt.first_layer,
                            .last = s->opt.last_layer,
                            .precision = s->opt.weights_dtype,
                            .shares = s->opt.weights,
                            .disk_dir = s->opt.disk_dir,
                            .disk_budget_bytes = s->opt.disk_budget_bytes,
                            .be = s->opt.backend,
                            .device = s->device};
    double sum = 0.0;
    for (int t = 0; t < SL_TIER_COUNT; t++) sum += w.shares.frac[t];
    if (sum == 0.0) SL_TRY(choose_shares(s, plan, &w));
    SL_TRY(sl_weights_open(&w, s->gpu, s->cpu, &s->weights));
    const int n_layers = sl_stage_n_layers(s);
    s->is_fetched = calloc((size_t)n_layers, 1);
    s->is_uploaded = calloc((size_t)n_layers, 1);
    if (!s->is_fetched || !s->is_uploaded)
        return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    for (int l = 0; l < n_layers; l++) {
        const int layer = s->opt.first_layer + l;
        s->is_fetched[l] = (unsigned char)sl_weights_is_on_disk(s->weights, layer);
        s->is_uploaded[l] = (unsigned char)sl_weights_is_uploaded_layer(s->weights, layer);
    }
    return SL_OK;
}

/* Pages per layer that the rest of the computing tier's budget holds. */
static sl_status count_pages(const sl_stage *s, const memory_plan *plan, int64_t *out) {
    const size_t budget = sl_tier_budget_bytes(s->fast), used = sl_tier_used_bytes(s->fast);
    const int64_t most = (int64_t)((budget - used) / plan->per_page);
    const int64_t one = sl_kv_pages_for(s->opt.max_context);
    const int64_t all = one * s->opt.n_slots;
    if (most < one) {
        char need[32], have[32], rest[32];
        return SL_FAIL(SL_ERR_NOMEM,
                       "a context of %d tokens needs %s of KV cache, but %s of the %s budget are "
                       "left beside %s of weights and buffers: lower the context or raise the "
                       "budget",
                       s->opt.max_context, sl_bytes_format(plan->context, need, sizeof need),
                       sl_bytes_format(budget - used, have, sizeof have),
                       sl_tier_name(sl_tier_get_kind(s->fast)),
                       sl_bytes_format(used, rest, sizeof rest));
    }
    *out = most < all ? most : all;
    return SL_OK;
}

static sl_status open_tiers(sl_stage *s) {
    SL_TRY(sl_tier_open_cpu(s->opt.cpu_budget_bytes, &s->cpu));
    if (s->device) {
        sl_tier_set_node(s->cpu, s->device->numa_node(s->opt.backend));
        SL_TRY(sl_tier_open_device(s->opt.backend, s->device, &s->gpu));
    }
    s->fast = s->device ? s->gpu : s->cpu;
    return SL_OK;
}

sl_status sl_stage_open(const sl_stage_options *o, sl_stage **out, int64_t *max_pages_out) {
    sl_status st = SL_OK;
    sl_stage *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    s->opt = *o;
    s->config = *sl_source_config(o->source);
    s->opt.source = NULL;
    s->device = o->backend->ops->device;
    s->is_first = sl_transport_is_first(o->transport);
    s->is_last = sl_transport_is_last(o->transport);
    SL_GO(open_tiers(s));
    const sl_program_options program = {&s->config, o->backend, s->fast, o->max_rows, s->is_last};
    memory_plan plan;
    SL_GO(plan_memory(s, &program, &plan));
    SL_GO(open_weights(s, o->source, &plan));
    SL_GO(sl_program_open(&program, &s->program));
    SL_GO(sl_slots_open(o->n_slots, o->max_context, s->is_last, &s->slots));
    SL_GO(sl_executor_open(&s->executor));
    s->mb = calloc((size_t)o->num_micro_batches, sizeof *s->mb);
    s->ask = calloc((size_t)o->max_rows, sizeof *s->ask);
    if (!s->mb || !s->ask) {
        st = SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
        goto fail;
    }
    for (int i = 0; i < o->num_micro_batches; i++) SL_GO(open_rows(s, &s->mb[i]));
    SL_GO(open_hidden(s));
    SL_GO(count_pages(s, &plan, max_pages_out));
    *out = s;
    return SL_OK;

fail:
    sl_stage_close(s);
    return st;
}

sl_status sl_stage_open_pages(sl_stage *s, int n_pages) {
    const sl_kv_options kv = {
        .format = sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads, s->config.head_dim),
        .n_layers = sl_stage_n_layers(s),
        .n_pages = n_pages,
        .n_slots = s->opt.n_slots,
        .max_context = s->opt.max_context};
    SL_TRY(sl_kv_open(&kv, s->fast, &s->kv));
    s->taken_at_start = sl_tier_n_taken(s->cpu) + (s->gpu ? sl_tier_n_taken(s->gpu) : 0);
    return SL_OK;
}

void sl_stage_close(sl_stage *s) {
    if (!s) return;
    if (s->device) (void)s->device->drain(s->opt.backend); /* nothing may use what goes now */
    for (int set = 0; set < SL_STAGE_SETS; set++) {
        for (int i = 0; s->hidden[set] && i < s->opt.num_micro_batches; i++) {
            if (s->device && s->wire[set] && s->wire[set][i]) {
                s->device->unpin(s->opt.backend, s->wire[set][i]);
                sl_tier_put(s->cpu, s->wire[set][i]);
            }
            sl_tier_put(s->fast, s->hidden[set][i]);
        }
        free(s->hidden[set]);
        free(s->wire[set]);
        free(s->sending[set]);
    }
    for (int i = 0; s->mb && i < s->opt.num_micro_batches; i++) {
        free(s->mb[i].token);
        free(s->mb[i].position);
        free(s->mb[i].wanted);
        free(s->mb[i].segment);
    }
    free(s->mb);
    free(s->ask);
    for (int i = 0; i < s->n_events; i++) s->device->event_close(s->opt.backend, s->event[i]);
    free(s->event);
    free(s->is_fetched);
    free(s->is_uploaded);
    sl_sweep_free(&s->sweep);
    sl_executor_close(s->executor);
    sl_slots_close(&s->slots);
    sl_kv_close(s->kv);
    sl_program_close(s->program);
    sl_weights_close(s->weights);
    sl_tier_close(s->gpu);
    sl_tier_close(s->cpu);
    free(s);
}

/* Host memory at its peak: what was taken, less the pages that no sequence has ever touched, which
 * the system has never had to give. */
static size_t cpu_peak_bytes(const sl_stage *s, size_t page_bytes) {
    const size_t peak = sl_tier_peak_bytes(s->cpu);
    if (!s->kv || s->fast != s->cpu) return peak;
    const size_t untouched = (size_t)(sl_kv_n_pages(s->kv) - sl_kv_peak(s->kv));
    return peak - untouched * page_bytes * (size_t)sl_stage_n_layers(s);
}

void sl_stage_get_stats(const sl_stage *s, sl_stage_stats *out) {
    const size_t page_bytes =
        sl_kv_format_make(s->opt.cache_dtype, s->config.n_kv_heads, s->config.head_dim).page_bytes;
    const sl_weights_size weights = sl_weights_bytes(s->weights);
    sl_disk_stats disk;
    sl_weights_disk_stats(s->weights, &disk);
    *out = (sl_stage_stats){.disk_read_bytes = disk.read_bytes,
                            .disk_read_s = disk.read_busy_s,
                            .uploaded_bytes = sl_weights_uploaded_bytes(s->weights),
                            .cpu_peak_bytes = cpu_peak_bytes(s, page_bytes),
                            .gpu_budget_bytes = s->gpu ? sl_tier_budget_bytes(s->gpu) : 0,
                            .gpu_peak_bytes = s->gpu ? s->device->peak_bytes(s->opt.backend) : 0,
                            .page_bytes = page_bytes,
                            .pages_total = s->kv ? sl_kv_n_pages(s->kv) : 0,
                            .pages_peak = s->kv ? sl_kv_peak(s->kv) : 0,
                            .pages_free = s->kv ? sl_kv_n_free(s->kv) : 0,
                            .compute_s = s->compute_s,
                            .wait_s = s->wait_s,
                            .sent_bytes = s->sent_bytes,
                            .received_bytes = s->received_bytes,
                            .n_steady_takes = sl_tier_n_taken(s->cpu) +
                                              (s->gpu ? sl_tier_n_taken(s->gpu) : 0) -
                                              s->taken_at_start};
    memcpy(out->weight_bytes, weights.resident_bytes, sizeof out->weight_bytes);
}
