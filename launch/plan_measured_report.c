/* What `sluice plan` prints of the measured cost model's plan: tables, or one JSON object. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "plan_measured.h"
#include "policy_file.h"

#define GIB 1073741824.0

static const char *const phases[SL_N_PHASES] = {"prefill", "decode"};

static const char *precision_name(sl_dtype dtype) {
    return dtype == SL_DTYPE_AS_STORED ? "stored"
                                       : sl_profile_format_names[sl_profile_format(dtype)];
}

/* ---- for people ---- */

static void print_head(const sl_plan_measured_answer *a, FILE *stream) {
    const sl_plan_problem *q = a->problem;
    const sl_model_config *c = sl_source_config(q->source);
    const sl_measured_plan *best = &a->found->best;
    const sl_policy *p = &best->policy;
    const sl_workload_bin *kind = &q->workload->bin[0];
    const sl_cost *cost = &best->cost;
    fprintf(stream, "model        %s: %d layers, width %d, MLP %d, %d heads\n", a->model,
            c->n_layers, c->hidden, c->ffn, c->n_heads);
    fprintf(stream, "machine      %s%s%s\n", q->profile->name, q->has_device ? ", " : "",
            q->has_device ? q->profile->device : "");
    fprintf(stream, "job          %d prompts of %d tokens, %d generated\n", q->workload->n_prompts,
            kind->prompt_len, kind->gen_len);
    fprintf(stream,
            "block        %d x %d sequences, %d rows: --micro-batch %d "
            "--num-micro-batches %d --max-rows %d\n",
            p->micro_batch, p->num_micro_batches, p->max_rows, p->micro_batch, p->num_micro_batches,
            p->max_rows);
    if (q->n_ranks > 1)
        fprintf(stream, "             %d blocks in flight on %d ranks: --blocks-in-flight %d\n",
                p->blocks_in_flight, q->n_ranks, p->blocks_in_flight);
    fprintf(stream, "precision    --weights %s --cache %s\n", precision_name(p->weights_dtype),
            precision_name(p->cache_dtype));
    fprintf(stream, "predicted    %.1f tokens/s, at most %.1f if nothing waited\n",
            cost->tokens_per_s, cost->bound_tokens_per_s);
    fprintf(stream,
            "             prefill %.1f s (%.0f prompt tokens/s), decode %.1f s (%.1f "
            "tokens/s), a request %.1f s\n",
            cost->prefill_s, cost->prefill_tokens_per_s, cost->decode_s, cost->decode_tokens_per_s,
            cost->request_s);
}

static void print_shares(const char *name, const double *frac, const double *bytes, FILE *stream) {
    fprintf(stream, "  %-10s", name);
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (frac[t] > 0)
            fprintf(stream, " %6.1f %% %8.2f GiB", 100 * frac[t], bytes[t] / GIB);
        else
            fprintf(stream, " %21s", "-");
    }
    fputc('\n', stream);
}

static void print_placement(const sl_plan_measured_answer *a, FILE *stream) {
    const sl_plan_problem *q = a->problem;
    const sl_measured_plan *best = &a->found->best;
    const sl_policy *p = &best->policy;
    const int fast = q->has_device ? SL_TIER_GPU : SL_TIER_CPU;
    double weights[SL_TIER_COUNT], cache[SL_TIER_COUNT], hidden[SL_TIER_COUNT] = {0};
    sl_shares h = p->hidden;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        weights[t] = (double)best->memory.weight_bytes[t];
        cache[t] = (double)best->memory.all_pages_bytes[t];
    }
    if (!sl_shares_are_set(&h)) h.frac[fast] = 1;
    const double rows = (double)p->max_rows * p->num_micro_batches *
                        sl_source_config(q->source)->hidden * (double)sl_plan_act_bytes(q);
    for (int t = 0; t < SL_TIER_COUNT; t++) hidden[t] = h.frac[t] * rows;
    fprintf(stream, "\nplacement  %21s %21s %21s\n", "gpu", "cpu", "disk");
    print_shares("weights", p->weights.frac, weights, stream);
    print_shares("cache", p->cache.frac, cache, stream);
    print_shares("hidden", h.frac, hidden, stream);
    const double below = p->cache.frac[SL_TIER_CPU] + p->cache.frac[SL_TIER_DISK];
    if (q->has_device && below > 0)
        fprintf(stream,
                "  While decoding, the processors attend to %.0f %% of the sequences outside the "
                "GPU (--cpu-attention %.0f);\n  the pages of the others are copied to it.\n",
                100 * p->host_attends, 100 * p->host_attends);
}

/* A bar as long as the queue is busy during the sweep. */
static void print_bar(double frac, FILE *stream) {
    enum { WIDTH = 24 };
    const int n = (int)(fmin(fmax(frac, 0), 1) * WIDTH + 0.5);
    char bar[WIDTH + 1];
    memset(bar, '#', WIDTH);
    bar[n] = '\0';
    fprintf(stream, " %-*s", WIDTH, bar);
}

static void print_times(const sl_plan_measured_answer *a, FILE *stream) {
    const sl_cost *cost = &a->found->best.cost;
    fprintf(stream, "\nseconds         ");
    for (int p = 0; p < SL_N_PHASES; p++) {
        char head[64];
        snprintf(head, sizeof head, "%s, each of %.0f sweeps", phases[p], cost->phase[p].n_sweeps);
        fprintf(stream, p ? "  %s" : "  %-32s", head);
    }
    fputc('\n', stream);
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        if (cost->phase[0].queue_s[q] <= 0 && cost->phase[1].queue_s[q] <= 0) continue;
        fprintf(stream, "  %-14s", sl_cost_queue_name((sl_cost_queue)q));
        for (int p = 0; p < SL_N_PHASES; p++) {
            const sl_cost_phase *f = &cost->phase[p];
            fprintf(stream, " %8.4f", f->queue_s[q]);
            print_bar(f->sweep_s > 0 ? f->queue_s[q] / f->sweep_s : 0, stream);
        }
        fputc('\n', stream);
    }
    fprintf(stream, "  %-14s", "in all");
    for (int p = 0; p < SL_N_PHASES; p++)
        fprintf(stream, " %8.4f %-24s", cost->phase[p].sweep_s, "");
    fprintf(stream, "\nbound        ");
    for (int p = 0, n = 0; p < SL_N_PHASES; p++) {
        const sl_cost_phase *f = &cost->phase[p];
        if (f->n_sweeps <= 0) continue;
        fprintf(stream, "%s%s by %s (%.0f %% of the time)", n++ ? ", " : "", phases[p],
                sl_cost_queue_name(f->longest), 100 * f->queue_s[f->longest] / f->sweep_s);
    }
    fputc('\n', stream);
}

static void print_memory(const sl_plan_measured_answer *a, FILE *stream) {
    const sl_footprint *m = &a->found->best.memory;
    fprintf(stream, "\nmemory, GiB %10s %10s %10s %10s %10s %10s\n", "weights", "rings", "buffers",
            "pages", "in all", "budget");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (a->problem->budget_bytes[t] <= 0) continue;
        fprintf(stream, "  %-9s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n",
                sl_tier_name((sl_tier_kind)t), (double)m->weight_bytes[t] / GIB,
                (double)m->ring_bytes[t] / GIB, (double)m->buffer_bytes[t] / GIB,
                (double)m->all_pages_bytes[t] / GIB, (double)m->need_bytes[t] / GIB,
                a->problem->budget_bytes[t] / GIB);
    }
}

/* Where the runner-up loses most. */
static int worse_phase(const sl_cost *best, const sl_cost *second) {
    return second->prefill_s - best->prefill_s > second->decode_s - best->decode_s
               ? SL_PHASE_PREFILL
               : SL_PHASE_DECODE;
}

static void print_second(const sl_plan_measured_answer *a, FILE *stream) {
    const sl_measured_found *f = a->found;
    if (!f->has_second) return;
    const sl_measured_plan *s = &f->second;
    const int phase = worse_phase(&f->best.cost, &s->cost);
    fprintf(stream,
            "\nrunner-up    %d x %d, %d rows, weights %s, cache %s: %.1f tokens/s, %.1f %% slower, "
            "%s bound by %s\n",
            s->shape.micro_batch, s->shape.num_micro_batches, s->shape.max_rows,
            precision_name(s->shape.weights), precision_name(s->shape.cache), s->cost.tokens_per_s,
            100 * (s->cost.total_s / f->best.cost.total_s - 1), phases[phase],
            sl_cost_queue_name(s->cost.phase[phase].longest));
}

void sl_plan_measured_text(const sl_plan_measured_answer *a, FILE *stream) {
    print_head(a, stream);
    print_placement(a, stream);
    print_times(a, stream);
    print_memory(a, stream);
    print_second(a, stream);
}

/* ---- for programs ---- */

static void put_key(sl_json_text *out, const char *name) {
    sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
}

static void put_double(sl_json_text *out, const char *name, double value) {
    put_key(out, name);
    sl_json_double(out, value);
}

static void put_int(sl_json_text *out, const char *name, int64_t value) {
    put_key(out, name);
    sl_json_int(out, value);
}

static void put_phase(sl_json_text *out, const sl_cost_phase *f) {
    sl_json_raw(out, "{\"sweeps\": ");
    sl_json_double(out, f->n_sweeps);
    put_double(out, "sweep_s", f->sweep_s);
    put_double(out, "prefill_rows", f->prefill_rows);
    put_double(out, "decode_rows", f->decode_rows);
    put_key(out, "bound_by");
    sl_json_cstring(out, sl_cost_queue_name(f->longest));
    put_key(out, "queues_s");
    for (int q = 0; q < SL_COST_N_QUEUES; q++) {
        sl_json_raw(out, q ? ", " : "{");
        sl_json_cstring(out, sl_cost_queue_name((sl_cost_queue)q));
        sl_json_raw(out, ": ");
        sl_json_double(out, f->queue_s[q]);
    }
    sl_json_raw(out, "}}");
}

static void put_memory(sl_json_text *out, const sl_plan_problem *q, const sl_footprint *m) {
    put_key(out, "memory");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        sl_json_raw(out, t ? ", " : "{");
        sl_json_cstring(out, sl_tier_name((sl_tier_kind)t));
        sl_json_raw(out, ": {\"peak_bytes\": ");
        sl_json_int(out, (int64_t)m->need_bytes[t]);
        put_int(out, "budget_bytes", (int64_t)q->budget_bytes[t]);
        put_int(out, "weight_bytes", (int64_t)m->weight_bytes[t]);
        put_int(out, "page_bytes", (int64_t)m->all_pages_bytes[t]);
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "}");
}

static void put_plan(sl_json_text *out, const sl_plan_measured_answer *a,
                     const sl_measured_plan *plan) {
    const sl_cost *c = &plan->cost;
    sl_json_raw(out, "{\"tokens_per_s\": ");
    sl_json_double(out, c->tokens_per_s);
    put_double(out, "bound_tokens_per_s", c->bound_tokens_per_s);
    put_double(out, "seconds", c->total_s);
    put_double(out, "prefill_s", c->prefill_s);
    put_double(out, "decode_s", c->decode_s);
    put_double(out, "prefill_tokens_per_s", c->prefill_tokens_per_s);
    put_double(out, "decode_tokens_per_s", c->decode_tokens_per_s);
    put_double(out, "request_s", c->request_s);
    put_key(out, "policy");
    sl_policy_print(&plan->policy, NULL, NULL, out);
    for (int p = 0; p < SL_N_PHASES; p++) {
        put_key(out, phases[p]);
        put_phase(out, &c->phase[p]);
    }
    put_memory(out, a->problem, &plan->memory);
    sl_json_raw(out, "}");
}

static void put_shortage(sl_json_text *out, const sl_plan_measured_answer *a) {
    char reason[768];
    const sl_measured_shortage *s = &a->found->shortage;
    put_key(out, "reason");
    sl_json_cstring(out, sl_planner_refusal(a->problem, a->found, reason, sizeof reason));
    put_key(out, "short_bytes");
    int n = 0;
    sl_json_raw(out, "{");
    for (int t = 0; t < SL_TIER_COUNT && a->found->least_request_s <= 0; t++) {
        if (isinf(s->alone_bytes[t])) continue;
        if (n++) sl_json_raw(out, ", ");
        sl_json_cstring(out, sl_tier_name((sl_tier_kind)t));
        sl_json_raw(out, ": ");
        sl_json_int(out, (int64_t)ceil(s->alone_bytes[t]));
    }
    sl_json_raw(out, "}");
}

/* Line breaks of the parts become blanks: programs read a line. */
static void one_line(sl_json_text *text) {
    for (size_t i = 0; text->data && i < text->n_bytes; i++)
        if (text->data[i] == '\n') text->data[i] = ' ';
}

sl_status sl_plan_measured_json(const sl_plan_measured_answer *a, sl_json_text *out) {
    const sl_measured_found *f = a->found;
    const sl_workload *w = a->problem->workload;
    sl_json_raw(out, "{\"cost_model\": \"measured\", \"model\": ");
    sl_json_cstring(out, a->model);
    put_key(out, "machine");
    sl_json_cstring(out, a->problem->profile->name);
    put_int(out, "n_prompts", w->n_prompts);
    put_int(out, "prompt_len", w->bin[0].prompt_len);
    put_int(out, "gen_len", w->bin[0].gen_len);
    sl_json_raw(out, f->is_feasible ? ", \"feasible\": true" : ", \"feasible\": false");
    if (f->is_feasible) {
        put_key(out, "best");
        put_plan(out, a, &f->best);
    } else {
        put_shortage(out, a);
    }
    if (f->has_second) {
        put_key(out, "second");
        put_plan(out, a, &f->second);
    }
    put_int(out, "n_blocks", f->n_shapes);
    put_int(out, "n_programs", f->n_programs);
    sl_json_raw(out, "}");
    one_line(out);
    return sl_json_status(out);
}
