#include "engine/engine_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "engine/partition.h"
#include "engine/settle.h"
#include "store/kv_cache.h"

/* A number that differs where ranks would compute different models. */
static int64_t fingerprint(const sl_model_config *c, const sl_policy *p) {
    char text[768];
    snprintf(text, sizeof text,
             "%s %d %d %d %d %d %d %d %d %d %d %d %d %d %d %.9g %.9g | %d %d %d %d %d %d %d %zu | "
             "%.9g %.9g %.9g %.9g %.9g",
             c->arch, c->n_layers, c->hidden, c->embed_dim, c->n_heads, c->n_kv_heads, c->head_dim,
             c->ffn, c->vocab, c->max_positions, (int)c->norm, (int)c->norm_place,
             (int)c->positions, (int)c->act, c->tied_head, (double)c->norm_eps,
             (double)c->rope.theta, p->micro_batch, p->num_micro_batches, p->max_rows,
             p->blocks_in_flight, p->max_context, (int)p->cache_dtype, (int)p->weights_dtype,
             sizeof(sl_sampling), p->cache.frac[SL_TIER_GPU], p->cache.frac[SL_TIER_CPU],
             p->cache.frac[SL_TIER_DISK], p->host_attends, (double)p->sparsity);
    return (int64_t)(sl_rng_hash(text) >> 2);
}

static sl_status check_fingerprint(sl_engine *e, const sl_model_config *c) {
    const int64_t mine = fingerprint(c, &e->policy);
    int64_t range[2] = {mine, -mine};
    SL_TRY(e->transport->ops->min_i64(e->transport, range, 2));
    if (range[0] == mine && range[1] == -mine) return SL_OK;
    return SL_FAIL(SL_ERR_ARG, "the ranks were given different models, options or builds");
}

static sl_status split_layers(sl_engine *e, const sl_source *source) {
    const int n = e->transport->n_ranks;
    sl_status st = SL_OK;
    int *first = calloc((size_t)n + 1, sizeof *first);
    e->layers = calloc((size_t)n, sizeof *e->layers);
    if (!first || !e->layers) {
        st = SL_FAIL(SL_ERR_NOMEM, "engine: out of host memory");
        goto fail;
    }
    if (e->policy.layers_per_rank)
        SL_GO(sl_partition_explicit(source, n, e->policy.layers_per_rank, first));
    else
        SL_GO(sl_partition_by_cost(source, n, first));
    for (int r = 0; r < n; r++) e->layers[r] = first[r + 1] - first[r];
    e->policy.layers_per_rank = e->layers;
    e->first_layer = first[e->transport->rank];
    e->last_layer = first[e->transport->rank + 1];

fail:
    free(first);
    return st;
}

static sl_status open_local(sl_engine *e, const sl_source *source,
                            int64_t max_pages[SL_TIER_COUNT]) {
    SL_TRY(sl_settle_policy(&e->policy, sl_source_config(source), e->transport->n_ranks));
    SL_TRY(split_layers(e, source));
    const sl_policy *p = &e->policy;
    SL_TRY(sl_settle_seats(p, &e->seats));
    sl_stage_options stage = sl_settle_stage(p, e->seats);
    stage.source = source;
    stage.backend = e->backend;
    stage.transport = e->transport;
    stage.first_layer = e->first_layer;
    stage.last_layer = e->last_layer;
    stage.on_turn = sl_engine_look_ahead;
    stage.turn_user = e;
    e->is_prefill = calloc((size_t)p->blocks_in_flight, sizeof *e->is_prefill);
    if (!e->is_prefill) return SL_FAIL(SL_ERR_NOMEM, "engine: out of host memory");
    return sl_stage_open(&stage, &e->stage, max_pages);
}

static sl_status open_shared(sl_engine *e, const sl_model_config *c,
                             const int64_t max_pages[SL_TIER_COUNT], sl_token_callback on_token) {
    int n_pages[SL_TIER_COUNT];
    for (int t = 0; t < SL_TIER_COUNT; t++) n_pages[t] = (int)max_pages[t];
    SL_TRY(sl_stage_open_pages(e->stage, n_pages));
    if (!sl_transport_is_first(e->transport)) return SL_OK;
    const sl_policy *p = &e->policy;
    sl_scheduler_options sched = {.micro_batch = p->micro_batch,
                                  .num_micro_batches = p->num_micro_batches,
                                  .max_rows = p->max_rows,
                                  .n_block_slots = p->blocks_in_flight,
                                  .seats = e->seats,
                                  .max_context = p->max_context,
                                  .vocab = c->vocab,
                                  .on_token = on_token,
                                  .no_sharing = p->no_sharing,
                                  .two_phase = p->two_phase};
    memcpy(sched.n_pages, n_pages, sizeof sched.n_pages);
    return sl_scheduler_open(&sched, &e->sched);
}

sl_status sl_engine_open(const sl_source *source, sl_backend *backend, sl_transport *transport,
                         sl_policy *policy, sl_token_callback on_token, sl_engine **out) {
    sl_status st = SL_OK;
    sl_engine *e = calloc(1, sizeof *e);
    /* Every rank reaches the same collectives, whatever happened on its own. */
    if (e) {
        e->backend = backend;
        e->transport = transport;
        e->policy = *policy;
    }
    const sl_model_config *c = sl_source_config(source);
    int64_t max_pages[SL_TIER_COUNT] = {0};
    sl_pulse_set_busy(policy->pulse, sl_transport_is_first(transport));
    st = e ? open_local(e, source, max_pages) : SL_FAIL(SL_ERR_NOMEM, "engine: out of host memory");
    if (st != SL_OK && policy->on_failure)
        policy->on_failure(policy->failure_user, sl_error_message());
    st = transport->ops->agree(transport, st);
    if (st != SL_OK) goto fail;
    st = transport->ops->agree(transport, check_fingerprint(e, c));
    if (st != SL_OK) goto fail;
    SL_GO(transport->ops->min_i64(transport, max_pages, SL_TIER_COUNT));
    st = transport->ops->agree(transport, open_shared(e, c, max_pages, on_token));
    if (st != SL_OK) goto fail;
    *policy = e->policy;
    *out = e;
    sl_pulse_set_busy(policy->pulse, 0);
    return SL_OK;

fail:
    sl_pulse_set_busy(policy->pulse, 0);
    sl_engine_close(e);
    return st;
}

void sl_engine_close(sl_engine *e) {
    if (!e) return;
    sl_scheduler_close(e->sched);
    sl_stage_close(e->stage);
    sl_block_free(&e->block);
    sl_block_free(&e->next);
    sl_block_result_free(&e->result);
    sl_buffer_free(&e->out);
    free(e->is_prefill);
    free(e->layers);
    free(e->seats);
    free(e);
}

static sl_status first_rank_only(const sl_engine *e, const char *what) {
    return e->sched ? SL_OK
                    : SL_FAIL(SL_ERR_ARG, "%s on rank %d: only the first rank takes requests", what,
                              e->transport->rank);
}

sl_status sl_engine_submit(sl_engine *e, const sl_engine_request *request, uint64_t *id_out) {
    SL_TRY(first_rank_only(e, "submit"));
    if (e->finishing || e->stopped)
        return SL_FAIL(SL_ERR_ARG, "a request after the engine was told to finish");
    return sl_scheduler_submit(e->sched, request, id_out);
}

void sl_engine_cancel(sl_engine *e, uint64_t id) {
    if (e->sched) sl_scheduler_cancel(e->sched, id);
}

int sl_engine_n_queued(const sl_engine *e) {
    return e->sched ? sl_scheduler_n_queued(e->sched) : 0;
}
int sl_engine_n_running(const sl_engine *e) {
    return e->sched ? sl_scheduler_n_running(e->sched) : 0;
}
int sl_engine_n_seats(const sl_engine *e) {
    return e->policy.micro_batch * e->policy.num_micro_batches * e->policy.blocks_in_flight;
}

void sl_engine_finish(sl_engine *e) {
    e->finishing = 1;
}

void sl_engine_stop(sl_engine *e) {
    e->finishing = 1;
    if (e->sched) sl_scheduler_drop_all(e->sched);
}

sl_status sl_engine_take(sl_engine *e, const sl_engine_result **out) {
    SL_TRY(first_rank_only(e, "take"));
    *out = sl_scheduler_take(e->sched);
    return SL_OK;
}

void sl_engine_release(sl_engine *e, const sl_engine_result *result) {
    if (e->sched) sl_scheduler_release(e->sched, result);
}

void sl_engine_get_stats(const sl_engine *e, sl_engine_stats *out) {
    sl_stage_stats s;
    sl_stage_get_stats(e->stage, &s);
    *out =
        (sl_engine_stats){.rank = e->transport->rank,
                          .first_layer = e->first_layer,
                          .last_layer = e->last_layer,
                          .cpu_budget_bytes = e->policy.cpu_budget_bytes,
                          .cpu_peak_bytes = s.cpu_peak_bytes,
                          .gpu_budget_bytes = s.gpu_budget_bytes,
                          .gpu_peak_bytes = s.gpu_peak_bytes,
                          .disk_budget_bytes = e->policy.disk_dir ? e->policy.disk_budget_bytes : 0,
                          .disk_read_bytes = s.disk_read_bytes,
                          .disk_read_s = s.disk_read_s,
                          .uploaded_bytes = s.uploaded_bytes,
                          .pages_total = s.pages_total,
                          .pages_peak = s.pages_peak,
                          .pages_free = s.pages_free,
                          .disk_peak_bytes = s.disk_peak_bytes,
                          .page_bytes = s.page_bytes,
                          .sweep_s = s.sweep_s,
                          .run_s = s.run_s,
                          .start_s = s.start_s,
                          .bubble_s = s.bubble_s,
                          .exposed_wire_s = s.exposed_s,
                          .n_drains = s.n_drains,
                          .n_blocks = e->n_blocks,
                          .n_prefill_rows = e->sched ? sl_scheduler_prefill_rows(e->sched) : 0,
                          .n_decode_rows = e->sched ? sl_scheduler_decode_rows(e->sched) : 0,
                          .compute_s = s.compute_s,
                          .wire_wait_s = s.wait_s + e->wait_s,
                          .sent_bytes = s.sent_bytes + e->sent_bytes,
                          .received_bytes = s.received_bytes + e->received_bytes,
                          .prefill_s = e->prefill_s,
                          .decode_s = e->decode_s,
                          .n_steady_allocs = s.n_steady_takes};
    if (e->sched) {
        out->n_admitted_tokens = sl_scheduler_admitted_tokens(e->sched);
        out->n_shared_tokens = sl_scheduler_shared_tokens(e->sched);
        out->pages_idle = sl_scheduler_n_idle_pages(e->sched);
    }
    memcpy(out->weight_bytes, s.weight_bytes, sizeof out->weight_bytes);
    memcpy(out->home_pages, s.home_pages, sizeof out->home_pages);
    memcpy(out->busy_s, s.busy_s, sizeof out->busy_s);
    memcpy(out->moved_bytes, s.moved_bytes, sizeof out->moved_bytes);
}

const sl_policy *sl_engine_policy(const sl_engine *e) {
    return &e->policy;
}
