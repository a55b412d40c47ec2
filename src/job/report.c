#include "job/report.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/dtype.h"
#include "model/layout.h"

double sl_report_total_tps(const sl_report *report) {
    const double spent_s = report->pace.prefill_s + report->pace.decode_s;
    return spent_s > 0 ? (double)report->n_generated_tokens / spent_s : 0;
}

sl_status sl_report_gather(const sl_engine *engine, sl_transport *transport,
                           sl_engine_stats **out) {
    const int n = transport->rank == 0 ? transport->n_ranks : 1;
    sl_engine_stats mine, *all = calloc((size_t)n, sizeof *all);
    sl_engine_get_stats(engine, &mine);
    sl_status st =
        all ? SL_OK
            : SL_FAIL(SL_ERR_NOMEM, "report of %d ranks: out of host memory", transport->n_ranks);
    /* A rank without room for the answer must still take part, or the others would wait. */
    sl_status agreed = transport->ops->agree(transport, st);
    if (agreed == SL_OK)
        agreed = transport->ops->gather(transport, &mine, sizeof mine,
                                        transport->rank == 0 ? all : NULL);
    if (agreed != SL_OK || transport->rank != 0) {
        free(all);
        all = NULL;
    }
    if (agreed == SL_OK) *out = all;
    return agreed;
}

/* ---- for people ---- */

static size_t all_weights(const sl_engine_stats *rank) {
    size_t sum = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) sum += rank->weight_bytes[t];
    return sum;
}

/* A second line for a rank whose weights are not all in host memory. */
static void print_tiers(const sl_engine_stats *rank, FILE *stream) {
    char a[32], b[32], c[32];
    if (rank->gpu_budget_bytes == 0 && rank->weight_bytes[SL_TIER_DISK] == 0) return;
    fprintf(stream, "        weights: %s on the gpu, %s in host memory, %s on disk",
            sl_bytes_format(rank->weight_bytes[SL_TIER_GPU], a, sizeof a),
            sl_bytes_format(rank->weight_bytes[SL_TIER_CPU], b, sizeof b),
            sl_bytes_format(rank->weight_bytes[SL_TIER_DISK], c, sizeof c));
    if (rank->gpu_budget_bytes)
        fprintf(stream, "; gpu peak %s of %s; %s uploaded",
                sl_bytes_format(rank->gpu_peak_bytes, a, sizeof a),
                sl_bytes_format(rank->gpu_budget_bytes, b, sizeof b),
                sl_bytes_format(rank->uploaded_bytes, c, sizeof c));
    if (rank->disk_read_s > 0.0)
        fprintf(stream, "; %s read at %s/s", sl_bytes_format(rank->disk_read_bytes, a, sizeof a),
                sl_bytes_format((size_t)((double)rank->disk_read_bytes / rank->disk_read_s), b,
                                sizeof b));
    fputc('\n', stream);
}

/* The queues of a rank that computes on a device or streams from disk: what moved, how fast, and
 * which was busy longest, which is what binds. */
static void print_queues(const sl_engine_stats *rank, FILE *stream) {
    int busiest = SL_QUEUE_COMPUTE, n_used = 0;
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        n_used += rank->busy_s[q] > 0.0;
        if (rank->busy_s[q] > rank->busy_s[busiest]) busiest = q;
    }
    if (n_used < 2 || rank->sweep_s <= 0.0) return;
    fprintf(stream, "        queue            busy s  of time       moved        rate\n");
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        char bytes[32] = "", rate[40] = "";
        if (rank->busy_s[q] <= 0.0) continue;
        if (rank->moved_bytes[q]) {
            sl_bytes_format(rank->moved_bytes[q], bytes, sizeof bytes);
            snprintf(rate, sizeof rate, "%.2f GB/s",
                     (double)rank->moved_bytes[q] / rank->busy_s[q] * 1e-9);
        }
        fprintf(stream, "        %-14s %8.2f   %5.1f %%  %10s  %10s%s\n",
                sl_queue_name((sl_queue)q), rank->busy_s[q],
                100.0 * rank->busy_s[q] / rank->sweep_s, bytes, rate,
                q == busiest ? "  <- binds" : "");
    }
}

/* How a rank of a pipeline spent its time; what is left is its own doing. */
static void print_pipeline(const sl_engine_stats *rank, FILE *stream) {
    const double percent = rank->run_s > 0.0 ? 100.0 / rank->run_s : 0.0;
    fprintf(
        stream,
        "        of %.2f s: computing %.1f %%, nothing to compute yet %.1f %%, waiting for other "
        "ranks %.1f %%, for the wire %.1f %%\n",
        rank->run_s, percent * rank->compute_s, percent * rank->start_s, percent * rank->bubble_s,
        percent * rank->exposed_wire_s);
}

static void print_rank(const sl_engine_stats *rank, int n_ranks, FILE *stream) {
    char weights[32], peak[32], budget[32], sent[32], received[32];
    fprintf(stream, "  %4d  %4d-%-4d %10s  %10s of %-10s %5d of %-6d %8.2f %8.2f %10s %10s\n",
            rank->rank, rank->first_layer, rank->last_layer - 1,
            sl_bytes_format(all_weights(rank), weights, sizeof weights),
            sl_bytes_format(rank->cpu_peak_bytes, peak, sizeof peak),
            sl_bytes_format(rank->cpu_budget_bytes, budget, sizeof budget), rank->pages_peak,
            rank->pages_total, rank->compute_s, rank->wire_wait_s,
            sl_bytes_format(rank->sent_bytes, sent, sizeof sent),
            sl_bytes_format(rank->received_bytes, received, sizeof received));
    print_tiers(rank, stream);
    print_queues(rank, stream);
    if (n_ranks > 1) print_pipeline(rank, stream);
}

static const char *weights_name(const sl_policy *policy) {
    return policy->weights_dtype == SL_DTYPE_AS_STORED ? "stored"
                                                       : sl_dtype_name(policy->weights_dtype);
}

void sl_report_print(const sl_report *report, FILE *stream) {
    const sl_pace *pace = &report->pace;
    const sl_policy *policy = report->policy;
    fprintf(stream, "%s: %s on %d rank%s, %s, %d thread%s on the first\n", report->program,
            report->model, report->n_ranks, report->n_ranks == 1 ? "" : "s", report->backend,
            report->n_threads, report->n_threads == 1 ? "" : "s");
    fprintf(stream,
            "policy: micro-batches of %d sequences, %d a block, %d blocks in flight, at most %d "
            "rows, context %d, %s weights, %s cache%s%s\n",
            policy->micro_batch, policy->num_micro_batches, policy->blocks_in_flight,
            policy->max_rows, policy->max_context, weights_name(policy),
            sl_dtype_name(policy->cache_dtype), policy->no_sharing ? ", no prefix sharing" : "",
            policy->two_phase ? ", two phases" : "");
    fprintf(stream, "requests  %10" PRIu64, report->n_requests);
    if (report->n_refused) fprintf(stream, "  (%" PRIu64 " refused)", report->n_refused);
    if (pace->n_shared_tokens)
        fprintf(stream,
                "\nprefix    %10" PRIu64 " of %" PRIu64
                " prompt tokens shared (%.1f %% prefix hits)",
                pace->n_shared_tokens, pace->n_admitted_tokens, 100 * sl_pace_hits_frac(pace));
    fprintf(stream, "\nprefill   %10" PRIu64 " tokens in %8.2f s  %10.1f tokens/s\n",
            pace->n_prefill_rows, pace->prefill_s, sl_pace_prefill_tps(pace));
    fprintf(stream, "decode    %10" PRIu64 " tokens in %8.2f s  %10.1f tokens/s",
            pace->n_pure_decode_rows, pace->decode_s, sl_pace_decode_tps(pace));
    if (pace->n_decode_rows > pace->n_pure_decode_rows)
        fprintf(stream, "  (%" PRIu64 " more beside prefill)",
                pace->n_decode_rows - pace->n_pure_decode_rows);
    fputc('\n', stream);
    fprintf(stream, "total     %10" PRIu64 " tokens in %8.2f s  %10.1f tokens/s generated\n",
            report->n_generated_tokens, pace->prefill_s + pace->decode_s,
            sl_report_total_tps(report));
    fprintf(stream, "time      %.2f s reading the model, %.2f s for the job\n", report->open_s,
            report->wall_s);
    fprintf(stream, "  rank  layers       weights     cpu peak of budget        pages peak    "
                    "compute s   wait s       sent   received\n");
    for (int r = 0; r < report->n_ranks; r++)
        print_rank(&report->ranks[r], report->n_ranks, stream);
    if (report->plan) sl_report_plan_print(report, stream);
    fflush(stream);
}

/* ---- for programs ---- */

static void put_name(sl_json_text *out, const char *name) {
    if (out->n_bytes && out->data[out->n_bytes - 1] != '{') sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
}

static void put_int(sl_json_text *out, const char *name, uint64_t value) {
    put_name(out, name);
    sl_json_int(out, (int64_t)value);
}

static void put_real(sl_json_text *out, const char *name, double value) {
    put_name(out, name);
    sl_json_double(out, value);
}

static void put_text(sl_json_text *out, const char *name, const char *value) {
    put_name(out, name);
    sl_json_cstring(out, value);
}

/* As policy files have them; nothing where they were left to the engine. */
static void put_shares(sl_json_text *out, const char *name, const sl_shares *shares) {
    if (!sl_shares_are_set(shares)) return;
    put_name(out, name);
    sl_json_raw(out, "{");
    for (int t = 0; t < SL_TIER_COUNT; t++)
        put_real(out, sl_tier_name((sl_tier_kind)t), shares->frac[t]);
    sl_json_raw(out, "}");
}

static void put_policy(sl_json_text *out, const sl_policy *policy) {
    put_name(out, "policy");
    sl_json_raw(out, "{");
    put_int(out, "micro_batch", (uint64_t)policy->micro_batch);
    put_int(out, "num_micro_batches", (uint64_t)policy->num_micro_batches);
    put_int(out, "max_rows", (uint64_t)policy->max_rows);
    put_int(out, "blocks_in_flight", (uint64_t)policy->blocks_in_flight);
    put_int(out, "max_context", (uint64_t)policy->max_context);
    put_int(out, "prefix_sharing", !policy->no_sharing);
    put_int(out, "two_phase", policy->two_phase != 0);
    put_text(out, "weights", weights_name(policy));
    put_text(out, "cache", sl_dtype_name(policy->cache_dtype));
    put_shares(out, "weights_at", &policy->weights);
    put_shares(out, "cache_at", &policy->cache);
    put_shares(out, "hidden_at", &policy->hidden);
    put_real(out, "cpu_attention", policy->host_attends);
    sl_json_raw(out, "}");
}

static void put_queues(sl_json_text *out, const sl_engine_stats *rank,
                       const sl_report_links *links) {
    put_name(out, "queues");
    sl_json_raw(out, "{");
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        put_name(out, sl_queue_name((sl_queue)q));
        sl_json_raw(out, "{");
        put_real(out, "busy_s", rank->busy_s[q]);
        put_int(out, "bytes", rank->moved_bytes[q]);
        if (rank->moved_bytes[q] && rank->busy_s[q] > 0)
            put_real(out, "bytes_per_s", (double)rank->moved_bytes[q] / rank->busy_s[q]);
        if (links && links->bps[q] > 0) put_real(out, "measured_bytes_per_s", links->bps[q]);
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "}");
}

static void put_rank(sl_json_text *out, const sl_report *report, int r) {
    const sl_engine_stats *rank = &report->ranks[r];
    sl_json_raw(out, "{");
    put_int(out, "rank", (uint64_t)rank->rank);
    put_int(out, "first_layer", (uint64_t)rank->first_layer);
    put_int(out, "end_layer", (uint64_t)rank->last_layer);
    put_int(out, "weight_bytes", all_weights(rank));
    put_int(out, "weight_bytes_gpu", rank->weight_bytes[SL_TIER_GPU]);
    put_int(out, "weight_bytes_cpu", rank->weight_bytes[SL_TIER_CPU]);
    put_int(out, "weight_bytes_disk", rank->weight_bytes[SL_TIER_DISK]);
    put_int(out, "gpu_budget_bytes", rank->gpu_budget_bytes);
    put_int(out, "gpu_peak_bytes", rank->gpu_peak_bytes);
    put_int(out, "uploaded_bytes", rank->uploaded_bytes);
    put_int(out, "disk_budget_bytes", rank->disk_budget_bytes);
    put_int(out, "disk_peak_bytes", rank->disk_peak_bytes);
    put_int(out, "disk_read_bytes", rank->disk_read_bytes);
    put_real(out, "disk_read_s", rank->disk_read_s);
    put_int(out, "cpu_budget_bytes", rank->cpu_budget_bytes);
    put_int(out, "cpu_peak_bytes", rank->cpu_peak_bytes);
    put_int(out, "pages_total", (uint64_t)rank->pages_total);
    put_int(out, "pages_peak", (uint64_t)rank->pages_peak);
    put_int(out, "pages_gpu", (uint64_t)rank->home_pages[SL_TIER_GPU]);
    put_int(out, "pages_cpu", (uint64_t)rank->home_pages[SL_TIER_CPU]);
    put_int(out, "pages_disk", (uint64_t)rank->home_pages[SL_TIER_DISK]);
    put_int(out, "page_bytes", rank->page_bytes);
    put_int(out, "n_blocks", rank->n_blocks);
    put_int(out, "n_prefill_rows", rank->n_prefill_rows);
    put_int(out, "n_decode_rows", rank->n_decode_rows);
    put_real(out, "compute_s", rank->compute_s);
    put_real(out, "wire_wait_s", rank->wire_wait_s);
    put_real(out, "run_s", rank->run_s);
    put_real(out, "start_s", rank->start_s);
    put_real(out, "bubble_s", rank->bubble_s);
    put_real(out, "exposed_wire_s", rank->exposed_wire_s);
    put_real(out, "wire_exposed_frac",
             rank->run_s > 0.0 ? rank->exposed_wire_s / rank->run_s : 0.0);
    put_real(out, "prefill_s", rank->prefill_s);
    put_real(out, "decode_s", rank->decode_s);
    put_int(out, "sent_bytes", rank->sent_bytes);
    put_int(out, "received_bytes", rank->received_bytes);
    put_int(out, "n_steady_allocs", rank->n_steady_allocs);
    put_int(out, "n_drains", rank->n_drains);
    put_real(out, "sweep_s", rank->sweep_s);
    put_queues(out, rank, report->links ? &report->links[r] : NULL);
    if (report->has_series && report->timeline) {
        put_name(out, "timeline");
        sl_report_timeline_json(report, r, out);
    }
    sl_json_raw(out, "}");
}

sl_status sl_report_json(const sl_report *report, sl_json_text *out) {
    const sl_pace *pace = &report->pace;
    sl_json_raw(out, "{");
    put_text(out, "program", report->program);
    put_text(out, "model", report->model);
    put_text(out, "backend", report->backend);
    put_text(out, "transport", report->transport);
    put_int(out, "n_ranks", (uint64_t)report->n_ranks);
    put_int(out, "n_threads", (uint64_t)report->n_threads);
    put_policy(out, report->policy);
    put_int(out, "n_requests", report->n_requests);
    put_int(out, "n_refused", report->n_refused);
    if (report->prompt_len) {
        put_int(out, "prompt_len", (uint64_t)report->prompt_len);
        put_int(out, "gen_len", (uint64_t)report->gen_len);
    }
    put_int(out, "n_prompt_tokens", report->n_prompt_tokens);
    put_int(out, "n_generated_tokens", report->n_generated_tokens);
    put_real(out, "open_s", report->open_s);
    put_real(out, "wall_s", report->wall_s);
    put_real(out, "prefill_s", pace->prefill_s);
    put_real(out, "decode_s", pace->decode_s);
    put_int(out, "n_prefill_rows", pace->n_prefill_rows);
    put_int(out, "n_decode_rows", pace->n_decode_rows);
    put_int(out, "n_pure_decode_rows", pace->n_pure_decode_rows);
    put_int(out, "n_admitted_tokens", pace->n_admitted_tokens);
    put_int(out, "n_shared_tokens", pace->n_shared_tokens);
    put_real(out, "prefix_hits_frac", sl_pace_hits_frac(pace));
    put_real(out, "prefill_tokens_per_s", sl_pace_prefill_tps(pace));
    put_real(out, "decode_tokens_per_s", sl_pace_decode_tps(pace));
    put_real(out, "total_tokens_per_s", sl_report_total_tps(report));
    if (report->plan) {
        put_name(out, "plan");
        sl_report_plan_json(report, out);
    }
    if (report->has_series) {
        put_name(out, "history");
        sl_report_history_json(report, out);
    }
    put_name(out, "ranks");
    sl_json_raw(out, "[");
    for (int r = 0; r < report->n_ranks; r++) {
        if (r) sl_json_raw(out, ", ");
        put_rank(out, report, r);
    }
    sl_json_raw(out, "]}");
    return sl_json_status(out);
}
