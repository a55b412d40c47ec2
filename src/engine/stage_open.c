#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/stage_impl.h"

static sl_status open_rows(const sl_stage *s, sl_stage_rows *m) {
    const size_t rows = (size_t)s->opt.max_rows, seats = (size_t)s->opt.micro_batch;
    m->token = calloc(rows, sizeof *m->token);
    m->position = calloc(rows, sizeof *m->position);
    m->wanted = calloc(rows, sizeof *m->wanted);
    m->segment = calloc(seats, sizeof *m->segment);
    m->visitor = calloc(seats, sizeof *m->visitor);
    if (!m->token || !m->position || !m->wanted || !m->segment || !m->visitor)
        return SL_FAIL(SL_ERR_NOMEM, "out of host memory for a micro-batch of %zu rows", rows);
    return SL_OK;
}

static sl_status open_turn(sl_stage *s, sl_stage_turn *t) {
    const int k = s->opt.num_micro_batches;
    t->mb = calloc((size_t)k, sizeof *t->mb);
    t->ask_room = s->opt.max_rows;
    t->ask = calloc((size_t)t->ask_room, sizeof *t->ask);
    if (!t->mb || !t->ask) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    for (int i = 0; i < k; i++) SL_TRY(open_rows(s, &t->mb[i]));
    return s->device ? s->device->event_open(s->opt.backend, &t->epoch) : SL_OK;
}

static void close_turn(sl_stage *s, sl_stage_turn *t) {
    for (int i = 0; t->mb && i < s->opt.num_micro_batches; i++) {
        sl_stage_rows *m = &t->mb[i];
        free(m->token);
        free(m->position);
        free(m->wanted);
        free(m->segment);
        free(m->visitor);
    }
    for (int i = 0; s->device && i < t->n_work; i++) {
        s->device->event_close(s->opt.backend, t->work[i].begin);
        s->device->event_close(s->opt.backend, t->work[i].end);
    }
    if (s->device) s->device->event_close(s->opt.backend, t->epoch);
    sl_sweep_free(&t->sweep);
    free(t->work);
    free(t->mb);
    free(t->ask);
}

static sl_status open_hidden(sl_stage *s) {
    const size_t k = (size_t)s->opt.num_micro_batches;
    const sl_pinned_from host = sl_stage_pinned(s);
    size_t bytes;
    SL_TRY(sl_stage_hidden_room(s, &bytes));
    for (int set = 0; set < s->n_sets; set++) {
        s->hidden[set] = calloc(k, sizeof *s->hidden[set]);
        s->wire[set] = calloc(k, sizeof *s->wire[set]);
        if (!s->hidden[set] || !s->wire[set])
            return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %zu micro-batches", k);
        for (size_t i = 0; i < k; i++) {
            void *wire = NULL;
            if (!s->travels)
                SL_TRY(sl_tier_take(s->fast, bytes, "hidden states", &s->hidden[set][i]));
            if (s->own_wire)
                SL_TRY(sl_pinned_take(&host, bytes, "hidden states on the wire", &wire));
            s->wire[set][i] = s->own_wire ? wire : s->hidden[set][i];
        }
    }
    if (!s->travels) return SL_OK;
    const sl_hidden_options o = sl_stage_hidden_options(s);
    return sl_hidden_open(&o, &s->hidden_store);
}

static sl_status open_lanes(sl_stage *s) {
    const sl_pinned_from host = sl_stage_pinned(s);
    const size_t rows = (size_t)s->host_rows;
    if (rows == 0) return SL_OK;
    s->lane = calloc((size_t)s->n_lanes, sizeof *s->lane);
    if (!s->lane) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    for (int i = 0; i < s->n_lanes; i++) {
        sl_stage_lane *l = &s->lane[i];
        void *memory = NULL;
        SL_TRY(sl_pinned_take(&host, sl_stage_lane_bytes(s, 0), "queries for the host", &memory));
        l->ask = memory;
        SL_TRY(sl_pinned_take(&host, sl_stage_lane_bytes(s, 1), "results of the host", &memory));
        l->answer = memory;
        l->row = calloc(rows, sizeof *l->row);
        l->page = calloc(rows * (size_t)sl_kv_pages_for(s->opt.max_context), sizeof *l->page);
        if (!l->row || !l->page) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    }
    return SL_OK;
}

static sl_status open_weights(sl_stage *s, const sl_source *source, sl_stage_plan *plan) {
    sl_weights_options w = sl_stage_weights_options(s, source);
    if (!sl_shares_are_set(&w.shares)) SL_TRY(sl_stage_choose_shares(s, plan, &w));
    SL_TRY(sl_weights_open(&w, s->gpu, s->cpu, &s->weights));
    const int n_layers = sl_stage_n_layers(s);
    s->is_fetched = calloc((size_t)n_layers, 1);
    s->is_uploaded = calloc((size_t)n_layers, 1);
    if (!s->is_fetched || !s->is_uploaded)
        return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    s->is_resident = !s->travels;
    for (int l = 0; l < n_layers; l++) {
        const int layer = s->opt.first_layer + l;
        s->is_fetched[l] = (unsigned char)sl_weights_is_on_disk(s->weights, layer);
        s->is_uploaded[l] = (unsigned char)sl_weights_is_uploaded_layer(s->weights, layer);
        if (s->is_fetched[l] || s->is_uploaded[l]) s->is_resident = 0;
    }
    return SL_OK;
}

/* Biases never leave the tier that computes. */
static sl_status keep_biases(sl_stage *s) {
    static const struct {
        sl_role bias, matrix;
    } all[] = {{SL_ROLE_Q_BIAS, SL_ROLE_Q},       {SL_ROLE_K_BIAS, SL_ROLE_K},
               {SL_ROLE_V_BIAS, SL_ROLE_V},       {SL_ROLE_O_BIAS, SL_ROLE_O},
               {SL_ROLE_GATE_BIAS, SL_ROLE_GATE}, {SL_ROLE_UP_BIAS, SL_ROLE_UP},
               {SL_ROLE_DOWN_BIAS, SL_ROLE_DOWN}};
    const sl_backend_ops *ops = s->opt.backend->ops;
    for (int l = s->opt.first_layer; ops->keep_bias && l < s->opt.last_layer; l++) {
        const sl_layer_weights *w = sl_weights_layer(s->weights, l);
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            const float *bias = w->vector[all[i].bias];
            if (bias) SL_TRY(ops->keep_bias(s->opt.backend, bias, w->matrix[all[i].matrix].rows));
        }
    }
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

static sl_status open_visits(sl_stage *s) {
    const sl_kv_visits_options o = sl_stage_visits_options(s);
    return o.most_visitors > 0 ? sl_kv_visits_open(&o, &s->visits) : SL_OK;
}

sl_status sl_stage_open(const sl_stage_options *o, sl_stage **out,
                        int64_t max_pages_out[SL_TIER_COUNT]) {
    sl_status st = SL_OK;
    sl_stage *s = calloc(1, sizeof *s);
    if (!s) return SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
    s->opt = *o;
    s->config = *sl_source_config(o->source);
    s->opt.source = NULL;
    s->device = o->backend->ops->device;
    if (s->device) sl_clock_sleep_finely();
    s->is_first = sl_transport_is_first(o->transport);
    s->is_last = sl_transport_is_last(o->transport);
    sl_stage_plan plan;
    SL_GO(open_tiers(s));
    SL_GO(sl_stage_settle(s));
    SL_GO(sl_stage_plan_memory(s, &plan));
    SL_GO(open_weights(s, o->source, &plan));
    SL_GO(keep_biases(s));
    const sl_program_options program = sl_stage_program_options(s);
    SL_GO(sl_program_open(&program, &s->program));
    SL_GO(sl_slots_open(o->n_slots, o->max_context, s->is_last, &s->slots));
    SL_GO(sl_executor_open(&s->executor));
    s->visit = calloc((size_t)o->num_micro_batches, 1);
    if (!s->visit) {
        st = SL_FAIL(SL_ERR_NOMEM, "stage: out of host memory");
        goto fail;
    }
    for (int set = 0; set < s->n_sets; set++) SL_GO(open_turn(s, &s->turn[set]));
    SL_GO(open_hidden(s));
    SL_GO(sl_stage_wire_open(s));
    SL_GO(open_lanes(s));
    SL_GO(open_visits(s));
    size_t used[SL_TIER_COUNT];
    sl_stage_used(s, &plan, used);
    SL_GO(sl_stage_count_pages(s, &plan, used, max_pages_out));
    *out = s;
    return SL_OK;

fail:
    sl_stage_close(s);
    return st;
}

sl_status sl_stage_open_pages(sl_stage *s, const int n_pages[SL_TIER_COUNT]) {
    sl_kv_options kv = {.format = s->format,
                        .n_layers = sl_stage_n_layers(s),
                        .n_slots = s->opt.n_slots,
                        .max_context = s->opt.max_context,
                        .home = s->home,
                        .gpu = s->gpu,
                        .host = sl_stage_pinned(s),
                        .disk_dir = s->opt.disk_dir};
    memcpy(kv.n_pages, n_pages, sizeof kv.n_pages);
    if (!s->device) {
        kv.n_pages[SL_TIER_CPU] += kv.n_pages[SL_TIER_GPU];
        kv.n_pages[SL_TIER_GPU] = 0;
    }
    SL_TRY(sl_kv_open(&kv, &s->kv));
    SL_TRY(sl_slots_open_kept(&s->slots, sl_kv_n_kept_max(s->kv)));
    s->taken_at_start = sl_tier_n_taken(s->cpu) + (s->gpu ? sl_tier_n_taken(s->gpu) : 0);
    return sl_stage_rehearse(s);
}

static void close_hidden(sl_stage *s) {
    const sl_pinned_from host = sl_stage_pinned(s);
    for (int set = 0; set < SL_STAGE_SETS; set++) {
        for (int i = 0; s->hidden[set] && i < s->opt.num_micro_batches; i++) {
            if (s->own_wire && s->wire[set]) sl_pinned_put(&host, s->wire[set][i]);
            sl_tier_put(s->fast, s->hidden[set][i]);
        }
        free(s->hidden[set]);
        free(s->wire[set]);
    }
    for (int i = 0; s->lane && i < s->n_lanes; i++) {
        sl_pinned_put(&host, s->lane[i].ask);
        sl_pinned_put(&host, s->lane[i].answer);
        free(s->lane[i].row);
        free(s->lane[i].page);
    }
    free(s->lane);
    sl_hidden_close(s->hidden_store);
}

void sl_stage_close(sl_stage *s) {
    if (!s) return;
    /* Nothing may use what goes now. */
    if (s->direct && s->opt.transport->ops->cut_device && sl_stage_has_wire_work(s))
        s->opt.transport->ops->cut_device(s->opt.transport);
    if (s->device) (void)s->device->drain(s->opt.backend);
    if (s->weights && s->opt.backend->ops->forget_biases)
        s->opt.backend->ops->forget_biases(s->opt.backend);
    sl_stage_wire_close(s);
    close_hidden(s);
    for (int set = 0; set < SL_STAGE_SETS; set++) close_turn(s, &s->turn[set]);
    free(s->visit);
    free(s->is_fetched);
    free(s->is_uploaded);
    sl_executor_close(s->executor);
    sl_slots_close(&s->slots);
    sl_kv_visits_close(s->visits);
    sl_kv_close(s->kv);
    sl_program_close(s->program);
    sl_weights_close(s->weights);
    free(s->home);
    sl_tier_close(s->gpu);
    sl_tier_close(s->cpu);
    free(s);
}

/* Host memory at its peak: what was taken, less the pages that no sequence has ever touched, which
 * the system has never had to give. */
static size_t cpu_peak_bytes(const sl_stage *s) {
    const size_t peak = sl_tier_peak_bytes(s->cpu);
    if (!s->kv || s->device) return peak;
    const int untouched = sl_kv_n_pages(s->kv, SL_TIER_CPU) - sl_kv_peak(s->kv, SL_TIER_CPU);
    return peak - (size_t)untouched * s->format.page_bytes * (size_t)sl_stage_n_layers(s);
}

static void count_pages_in_use(const sl_stage *s, sl_stage_stats *out) {
    for (int t = 0; s->kv && t < SL_TIER_COUNT; t++) {
        out->home_pages[t] = sl_kv_n_pages(s->kv, (sl_tier_kind)t);
        out->pages_total += sl_kv_n_pages(s->kv, (sl_tier_kind)t);
        out->pages_peak += sl_kv_peak(s->kv, (sl_tier_kind)t);
        out->pages_free += sl_kv_n_free(s->kv, (sl_tier_kind)t);
    }
}

void sl_stage_get_stats(const sl_stage *s, sl_stage_stats *out) {
    const sl_weights_size weights = sl_weights_bytes(s->weights);
    sl_disk_stats disk;
    sl_weights_disk_stats(s->weights, &disk);
    *out = (sl_stage_stats){
        .disk_read_bytes = disk.read_bytes,
        .disk_read_s = disk.read_busy_s,
        .uploaded_bytes = sl_weights_uploaded_bytes(s->weights),
        .cpu_peak_bytes = cpu_peak_bytes(s),
        .gpu_budget_bytes = s->gpu ? s->device->budget_bytes(s->opt.backend) : 0,
        .gpu_peak_bytes = s->gpu ? s->device->peak_bytes(s->opt.backend) : 0,
        .page_bytes = s->format.page_bytes,
        .compute_s = s->busy_s[SL_QUEUE_COMPUTE],
        .wait_s = s->wait_s,
        .sweep_s = s->sweep_s,
        .run_s = s->started_s > 0.0 ? (s->ended_s > 0.0 ? s->ended_s : sl_clock_s()) - s->started_s
                                    : 0.0,
        .start_s = s->start_s,
        .bubble_s = s->bubble_s,
        .exposed_s = s->exposed_s,
        .sent_bytes = s->sent_bytes,
        .received_bytes = s->received_bytes,
        .n_drains = s->n_drains,
        .n_steady_takes =
            sl_tier_n_taken(s->cpu) + (s->gpu ? sl_tier_n_taken(s->gpu) : 0) - s->taken_at_start};
    count_pages_in_use(s, out);
    memcpy(out->weight_bytes, weights.resident_bytes, sizeof out->weight_bytes);
    memcpy(out->busy_s, s->busy_s, sizeof out->busy_s);
    memcpy(out->moved_bytes, s->moved_bytes, sizeof out->moved_bytes);
    out->disk_peak_bytes = weights.resident_bytes[SL_TIER_DISK] + weights.table_bytes;
    if (s->kv)
        out->disk_peak_bytes += (size_t)sl_kv_n_pages(s->kv, SL_TIER_DISK) * s->format.page_bytes *
                                (size_t)sl_stage_n_layers(s);
    size_t hidden[SL_TIER_COUNT];
    const sl_hidden_options o = sl_stage_hidden_options(s);
    if (s->travels && sl_hidden_measure(&o, hidden) == SL_OK)
        out->disk_peak_bytes += hidden[SL_TIER_DISK];
}
