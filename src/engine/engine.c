#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/block.h"
#include "engine/executor.h"
#include "engine/partition.h"
#include "engine/scheduler.h"
#include "engine/settle.h"
#include "engine/stage.h"
#include "store/kv_cache.h"

struct sl_engine {
    sl_backend *backend;
    sl_transport *transport;
    sl_policy policy;
    int *layers;    /* [n_ranks], owned; policy.layers_per_rank */
    sl_seat *seats; /* [seats of all blocks] */
    int first_layer, last_layer;
    sl_stage *stage;
    sl_scheduler *sched; /* first rank only */
    sl_block block;
    sl_block next; /* read ahead while `block` is computed; not on the first rank */
    int has_next;
    sl_block_result result;
    sl_buffer out;          /* header or result being sent */
    sl_ticket sending;      /* of `out` */
    int started;            /* the first step has been taken */
    int finishing, stopped; /* no more requests; STOP has been sent or seen */
    int waits_for_prefill;  /* blocks in flight that hold prompt rows */
    uint8_t *is_prefill;    /* [blocks_in_flight] ring over block numbers */
    uint64_t n_blocks;
    double prefill_s, decode_s, wait_s;
    uint64_t sent_bytes, received_bytes;
};

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

static sl_status look_ahead(void *user);

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
    stage.on_turn = look_ahead;
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
    return SL_OK;

fail:
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

/* Sends the block's header to the next rank, if there is one.  `out` is reused, so the message
 * before has to be gone. */
static sl_status send_out(sl_engine *e, int to, sl_channel channel) {
    e->sent_bytes += e->out.n;
    return e->transport->ops->send(e->transport, to, channel, e->out.data, e->out.n, &e->sending);
}

static sl_status wait_sent(sl_engine *e) {
    if (e->sending == 0) return SL_OK;
    const sl_ticket ticket = e->sending;
    e->sending = 0;
    return e->transport->ops->wait(e->transport, ticket);
}

static sl_status send_header(sl_engine *e, const sl_block *block) {
    if (sl_transport_is_last(e->transport)) return SL_OK;
    SL_TRY(wait_sent(e));
    SL_TRY(sl_block_write(block, &e->out));
    return send_out(e, e->transport->rank + 1, SL_CHANNEL_HEADER);
}

/* Waits for a message, while hidden states go on to the next rank. */
static sl_status wait_message(sl_engine *e, int from, sl_channel channel, void **data_out,
                              size_t *bytes_out) {
    sl_transport *t = e->transport;
    double pause_s = 0.0;
    while (sl_stage_is_handing_on(e->stage)) {
        SL_TRY(t->ops->recv_message(t, from, channel, 0, data_out, bytes_out));
        if (*data_out) return SL_OK;
        SL_TRY(sl_stage_progress(e->stage));
        sl_executor_pause(&pause_s);
    }
    return t->ops->recv_message(t, from, channel, 1, data_out, bytes_out);
}

/* Waits for (or looks for) the oldest block's result and takes it in. */
static sl_status take_result(sl_engine *e, int wait, int *taken_out) {
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    const double t0 = sl_clock_s();
    if (wait)
        SL_TRY(wait_message(e, t->n_ranks - 1, SL_CHANNEL_RESULT, &data, &bytes));
    else
        SL_TRY(t->ops->recv_message(t, t->n_ranks - 1, SL_CHANNEL_RESULT, 0, &data, &bytes));
    e->wait_s += sl_clock_s() - t0;
    if (wait) sl_stage_waited(e->stage);
    *taken_out = data != NULL;
    if (!data) return SL_OK;
    e->received_bytes += bytes;
    const sl_status st = sl_block_result_read(data, bytes, &e->result);
    free(data);
    if (st != SL_OK) return st;
    e->waits_for_prefill -= e->is_prefill[e->result.number % (uint64_t)e->policy.blocks_in_flight];
    return sl_scheduler_absorb(e->sched, &e->result);
}

/* Ends the pipeline: blocks in flight come back, then STOP travels to the last rank. */
static sl_status stop_pipeline(sl_engine *e, sl_status why) {
    char message[SL_BLOCK_MESSAGE_BYTES];
    snprintf(message, sizeof message, "%s", why == SL_OK ? "" : sl_error_message());
    sl_transport *t = e->transport;
    e->stopped = 1;
    while (t->n_ranks > 1 && sl_scheduler_n_in_flight(e->sched) > 0) {
        void *data = NULL;
        size_t bytes = 0;
        SL_TRY(wait_message(e, t->n_ranks - 1, SL_CHANNEL_RESULT, &data, &bytes));
        const sl_status read = sl_block_result_read(data, bytes, &e->result);
        free(data);
        if (read != SL_OK) return read;
        sl_scheduler_skip(e->sched);
    }
    sl_block_reset(&e->block, SL_BLOCK_STOP, e->n_blocks);
    e->block.status = why;
    memcpy(e->block.message, message, sizeof message);
    SL_TRY(send_header(e, &e->block));
    SL_TRY(wait_sent(e));
    SL_TRY(sl_stage_finish(e->stage));
    return why == SL_OK ? SL_OK : sl_fail_text(why, message);
}

/* Forms one block and computes this rank's part of it. */
static sl_status run_next(sl_engine *e, int *formed_out) {
    int has_prefill;
    SL_TRY(sl_scheduler_form(e->sched, &e->block, formed_out, &has_prefill));
    if (!*formed_out) return SL_OK;
    e->is_prefill[e->block.number % (uint64_t)e->policy.blocks_in_flight] = (uint8_t)has_prefill;
    e->waits_for_prefill += has_prefill;
    e->n_blocks++;
    SL_TRY(send_header(e, &e->block));
    SL_TRY(sl_stage_run(e->stage, &e->block, &e->result));
    if (e->transport->n_ranks > 1) return SL_OK;
    e->waits_for_prefill -= has_prefill;
    return sl_scheduler_absorb(e->sched, &e->result);
}

static sl_status step_first(sl_engine *e, int *done_out) {
    if (e->stopped) {
        *done_out = 1;
        return SL_OK;
    }
    const double t0 = sl_clock_s();
    const int had_prefill = e->waits_for_prefill;
    const uint64_t blocks_before = e->n_blocks;
    sl_status st = SL_OK;
    int taken = 1, formed = 0;
    while (st == SL_OK && taken && e->transport->n_ranks > 1 &&
           sl_scheduler_n_in_flight(e->sched) > 0)
        st = take_result(e, 0, &taken);
    if (st == SL_OK) st = run_next(e, &formed);
    if (st == SL_OK && !formed && sl_scheduler_n_in_flight(e->sched) > 0)
        st = take_result(e, 1, &taken);
    const int has_prefill = e->n_blocks > blocks_before &&
                            e->is_prefill[(e->n_blocks - 1) % (uint64_t)e->policy.blocks_in_flight];
    const double elapsed = sl_clock_s() - t0;
    *(had_prefill || has_prefill ? &e->prefill_s : &e->decode_s) += elapsed;
    if (st != SL_OK) return stop_pipeline(e, st);

    if (e->finishing && sl_scheduler_n_queued(e->sched) == 0 &&
        sl_scheduler_n_running(e->sched) == 0 && sl_scheduler_n_in_flight(e->sched) == 0) {
        SL_TRY(stop_pipeline(e, SL_OK));
        *done_out = 1;
    }
    return SL_OK;
}

/* Reads the next block's header and passes it on.  *data is freed. */
static sl_status take_header(sl_engine *e, void *data, size_t bytes) {
    const sl_block_limits limits = sl_stage_limits(e->stage);
    e->received_bytes += bytes;
    const sl_status st = sl_block_read(data, bytes, &limits, &e->next);
    free(data);
    if (st != SL_OK) return st;
    e->has_next = 1;
    return send_header(e, &e->next);
}

/* While a block is computed.  What this rank has sent is looked after: large messages need both
 * sides, and the receiver may be waiting for this one.  Has the next header come, so may its hidden
 * states. */
static sl_status look_ahead(void *user) {
    sl_engine *e = user;
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    int has_sent = 1;
    if (e->sending != 0) SL_TRY(t->ops->test(t, e->sending, &has_sent));
    if (!has_sent) return SL_OK; /* and `out` is in use */
    e->sending = 0;
    if (e->sched || e->has_next) return SL_OK;
    SL_TRY(t->ops->recv_message(t, t->rank - 1, SL_CHANNEL_HEADER, 0, &data, &bytes));
    if (!data) return SL_OK;
    SL_TRY(take_header(e, data, bytes));
    if (e->next.kind == SL_BLOCK_WORK) sl_stage_expect(e->stage, &e->next);
    return SL_OK;
}

static sl_status next_header(sl_engine *e) {
    sl_transport *t = e->transport;
    void *data = NULL;
    size_t bytes = 0;
    const double t0 = sl_clock_s();
    SL_TRY(wait_message(e, t->rank - 1, SL_CHANNEL_HEADER, &data, &bytes));
    e->wait_s += sl_clock_s() - t0;
    sl_stage_waited(e->stage);
    return take_header(e, data, bytes);
}

static sl_status step_other(sl_engine *e, int *done_out) {
    sl_transport *t = e->transport;
    if (!e->has_next) SL_TRY(next_header(e));
    const sl_block block = e->block;
    e->block = e->next;
    e->next = block; /* its arrays are used again */
    e->has_next = 0;
    if (e->block.kind == SL_BLOCK_STOP) {
        e->stopped = 1;
        SL_TRY(wait_sent(e));
        SL_TRY(sl_stage_finish(e->stage));
        *done_out = 1;
        return e->block.status == SL_OK ? SL_OK : sl_fail_text(e->block.status, e->block.message);
    }
    e->n_blocks++;
    SL_TRY(sl_stage_run(e->stage, &e->block, &e->result));
    if (!sl_transport_is_last(t)) return SL_OK;
    SL_TRY(wait_sent(e));
    SL_TRY(sl_block_result_write(&e->result, &e->out));
    return send_out(e, 0, SL_CHANNEL_RESULT);
}

sl_status sl_engine_step(sl_engine *e, int *done_out) {
    *done_out = 0;
    if (!e->started) sl_stage_start(e->stage);
    e->started = 1;
    if (e->sched) return step_first(e, done_out);
    if (e->stopped) {
        *done_out = 1;
        return SL_OK;
    }
    return step_other(e, done_out);
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
