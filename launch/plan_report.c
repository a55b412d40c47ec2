#include "plan_report.h"

#include <math.h>
#include <stdarg.h>

#include "base/bytes.h"

#define GIB 1073741824.0

enum { N_LINKS = 5 }; /* times of a phase, in the order of sl_flexgen_time */

static const char *const link_names[N_LINKS] = {"cpu to gpu", "gpu to cpu", "disk to cpu",
                                                "cpu to disk", "compute"};
static const char *const link_keys[N_LINKS] = {"cpu_to_gpu", "gpu_to_cpu", "disk_to_cpu",
                                               "cpu_to_disk", "compute"};
static const char *const kind_names[] = {"weights", "cache", "hidden"};
static const char *const memory_names[] = {"GPU memory", "host memory", "disk space"};
static const char *const memory_options[] = {"--gpu-mem", "--cpu-mem", "--disk-mem"};
static const char *const phases[] = {"prefill", "decode"};

enum { PREFILL, DECODE, N_PHASES };

/* What a phase takes is the longest of these sums of links; -1: nothing more. */
typedef struct {
    int first, second;
} path;

enum { MAX_PATHS = 4 };
static const path paths[N_PHASES][MAX_PATHS] = {{{0, 2}, {1, 3}, {4, -1}, {-1, -1}},
                                                {{0, 1}, {0, 2}, {0, 3}, {0, 4}}};

static double path_s(const sl_flexgen_plan *plan, int phase, path way) {
    const double *t = plan->time_s + N_LINKS * phase;
    return way.first < 0 ? 0 : t[way.first] + (way.second < 0 ? 0 : t[way.second]);
}

/* Within a thousandth of the longest: the best placement often balances two. */
static int is_binding(const sl_flexgen_plan *plan, int phase, path way) {
    const double whole = phase == PREFILL ? plan->prefill_layer_s : plan->decode_layer_s;
    return way.first >= 0 && path_s(plan, phase, way) >= 0.999 * whole;
}

static double peak_bytes(const sl_flexgen_plan *plan, int tier, int phase) {
    if (tier == SL_TIER_DISK) return plan->peak_bytes[SL_FLEXGEN_DISK];
    return plan->peak_bytes[(tier == SL_TIER_GPU ? SL_FLEXGEN_GPU_P : SL_FLEXGEN_CPU_P) + phase];
}

static int is_full(const sl_plan_answer *a, int tier) {
    const double peak =
        fmax(peak_bytes(&a->found.best, tier, PREFILL), peak_bytes(&a->found.best, tier, DECODE));
    return peak >= 0.999 * a->problem.budget_bytes[tier];
}

/* Times that a phase's layer time is taken in a block. */
static double n_layers_computed(const sl_plan_answer *a, int phase) {
    return (double)a->problem.n_layers * (phase == PREFILL ? 1 : a->problem.gen_len - 1);
}

/* ---- for people ---- */

static void print_binding(const sl_flexgen_plan *plan, FILE *stream) {
    for (int phase = 0; phase < N_PHASES; phase++) {
        int n = 0;
        fprintf(stream, "%s%s by ", phase ? "; " : "bound        ", phases[phase]);
        for (int i = 0; i < MAX_PATHS; i++) {
            const path way = paths[phase][i];
            if (!is_binding(plan, phase, way)) continue;
            fprintf(stream, "%s%s", n++ ? " = " : "", link_names[way.first]);
            if (way.second >= 0) fprintf(stream, " + %s", link_names[way.second]);
        }
    }
    fputc('\n', stream);
}

static void print_times(const sl_plan_answer *a, FILE *stream) {
    const sl_flexgen_plan *plan = &a->found.best;
    fprintf(stream, "\nseconds       %10s %10s\n", phases[PREFILL], phases[DECODE]);
    for (int i = 0; i < N_LINKS; i++) {
        fprintf(stream, "  %-12s", link_names[i]);
        for (int p = 0; p < N_PHASES; p++)
            fprintf(stream, " %10.3f", n_layers_computed(a, p) * plan->time_s[N_LINKS * p + i]);
        fputc('\n', stream);
    }
    fprintf(stream, "  %-12s %10.3f %10.3f\n", "in all",
            n_layers_computed(a, PREFILL) * plan->prefill_layer_s,
            n_layers_computed(a, DECODE) * plan->decode_layer_s);
    print_binding(plan, stream);
}

static void print_memory(const sl_plan_answer *a, FILE *stream) {
    char text[32];
    fprintf(stream, "\nmemory        %10s %10s %10s\n", phases[PREFILL], phases[DECODE], "budget");
    for (int tier = 0; tier < SL_TIER_COUNT; tier++) {
        fprintf(stream, "  %-12s", sl_tier_name((sl_tier_kind)tier));
        for (int p = 0; p < N_PHASES; p++) {
            const size_t bytes = (size_t)fmax(0, peak_bytes(&a->found.best, tier, p));
            fprintf(stream, " %10s", sl_bytes_format(bytes, text, sizeof text));
        }
        fprintf(stream, " %10s%s\n",
                sl_bytes_format((size_t)a->problem.budget_bytes[tier], text, sizeof text),
                is_full(a, tier) ? "  full" : "");
    }
}

void sl_plan_report_text(const sl_plan_answer *a, FILE *stream) {
    const sl_flexgen_problem *q = &a->problem;
    const sl_flexgen_plan *plan = &a->found.best;
    fprintf(stream, "model        %s: %d layers, width %d, MLP %d, %d heads\n", a->model,
            q->n_layers, q->hidden, q->ffn, q->n_heads);
    fprintf(stream, "cost model   flexgen with the published rates of a machine with an %s\n",
            q->machine->name);
    fprintf(stream, "job          prompts of %d tokens, %d generated%s\n", q->prompt_len,
            q->gen_len, q->compress_weights ? ", weights in 4 bits" : "");
    fprintf(stream, "block        %d x %d: --micro-batch %d --num-micro-batches %d\n",
            plan->micro_batch, plan->num_micro_batches, plan->micro_batch, plan->num_micro_batches);
    fprintf(stream, "predicted    %.6g s a block, %.6g tokens/s\n", plan->total_s,
            plan->tokens_per_s);
    fprintf(stream, "\nplacement     %10s %10s %10s\n", "gpu", "cpu", "disk");
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        fprintf(stream, "  %-12s", kind_names[k]);
        for (int t = 0; t < SL_TIER_COUNT; t++)
            fprintf(stream, " %8.2f %%", 100 * plan->share[k][t]);
        fputc('\n', stream);
    }
    print_times(a, stream);
    print_memory(a, stream);
}

/* ---- what is missing ---- */

/* A text that is cut where the room ends. */
typedef struct {
    char *buf;
    size_t room, used;
} text_buffer;

static void add(text_buffer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(text_buffer *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(t->buf + t->used, t->room - t->used, format, args);
    va_end(args);
    if (n > 0) t->used = t->used + (size_t)n < t->room ? t->used + (size_t)n : t->room - 1;
}

/* Tiers below this are not worth a word. */
static const double smallest_bytes = 1;

/* Where several tiers together are another way than one alone. */
static int is_way_together(const sl_flexgen_shortage *s) {
    int n = 0;
    for (int tier = 0; tier < SL_TIER_COUNT; tier++) n += s->together_bytes[tier] > smallest_bytes;
    return n > 1;
}

static void add_lacking(text_buffer *t, const sl_plan_answer *a) {
    const sl_flexgen_shortage *s = &a->shortage;
    const double *budget = a->problem.budget_bytes;
    int n = 0;
    for (int tier = 0; tier < SL_TIER_COUNT; tier++) {
        if (isinf(s->alone_bytes[tier])) continue;
        const sl_flexgen_peak peak = s->alone_peak[tier];
        const int phase = peak == SL_FLEXGEN_GPU_P || peak == SL_FLEXGEN_CPU_P ? PREFILL : DECODE;
        add(t, "%s%s lacks %.2f GiB%s%s (needs %.2f of %.2f GiB)", n++ ? ", or " : "",
            memory_names[tier], s->alone_bytes[tier] / GIB, tier == SL_TIER_DISK ? "" : " in ",
            tier == SL_TIER_DISK ? "" : phases[phase], (budget[tier] + s->alone_bytes[tier]) / GIB,
            budget[tier] / GIB);
    }
    if (!is_way_together(s)) return;
    const char *join = n ? ", or " : "";
    for (int tier = 0; tier < SL_TIER_COUNT; tier++) {
        if (s->together_bytes[tier] <= smallest_bytes) continue;
        add(t, "%s%s lacks %.2f of %.2f GiB", join, memory_names[tier],
            s->together_bytes[tier] / GIB, (budget[tier] + s->together_bytes[tier]) / GIB);
        join = " and ";
    }
}

/* Rounded up, with a little room for the solver's own rounding. */
static void add_size(text_buffer *t, const sl_plan_answer *a, const char *join, int tier,
                     double lacking_bytes) {
    const double bytes = (a->problem.budget_bytes[tier] + lacking_bytes) / a->alpha;
    add(t, "%s%s %.2fGiB", join, memory_options[tier], ceil(bytes / GIB * 100 * (1 + 1e-6)) / 100);
}

static void add_remedies(text_buffer *t, const sl_plan_answer *a) {
    const sl_flexgen_shortage *s = &a->shortage;
    const char *join = "";
    for (int tier = 0; tier < SL_TIER_COUNT; tier++) {
        if (isinf(s->alone_bytes[tier])) continue;
        add_size(t, a, join, tier, s->alone_bytes[tier]);
        join = ", or ";
    }
    for (int tier = 0; tier < SL_TIER_COUNT && is_way_together(s); tier++) {
        if (s->together_bytes[tier] <= smallest_bytes) continue;
        add_size(t, a, join, tier, s->together_bytes[tier]);
        join = " and ";
    }
    if (s->micro_batch)
        add(t, ", or --micro-batch %d --num-micro-batches %d", s->micro_batch,
            s->num_micro_batches);
    if (s->fits_when_free) add(t, ", or shares that are not given");
}

const char *sl_plan_report_shortage(const sl_plan_answer *a, char *buf, size_t buf_bytes) {
    const sl_flexgen_plan *plan = &a->found.best;
    text_buffer t = {buf, buf_bytes, 0};
    add(&t, "%s does not fit, %sin blocks of %d x %d with %g of the memory: ", a->model,
        a->is_shape_set ? "" : "not even ", plan->micro_batch, plan->num_micro_batches, a->alpha);
    add_lacking(&t, a);
    add(&t, ". What would help: ");
    add_remedies(&t, a);
    return buf;
}

/* ---- for programs ---- */

static void put_key(sl_json_text *out, int n_before, const char *name) {
    if (n_before) sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
}

static void put_int(sl_json_text *out, const char *name, int64_t value) {
    put_key(out, 1, name);
    sl_json_int(out, value);
}

static void put_double(sl_json_text *out, const char *name, double value) {
    put_key(out, 1, name);
    sl_json_double(out, value);
}

static void put_shares(sl_json_text *out, const sl_flexgen_plan *plan) {
    for (int k = 0; k < SL_FLEXGEN_N_KINDS; k++) {
        put_key(out, 1, kind_names[k]);
        sl_json_raw(out, "{");
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            put_key(out, t, sl_tier_name((sl_tier_kind)t));
            sl_json_double(out, plan->share[k][t]);
        }
        sl_json_raw(out, "}");
    }
}

static void put_times(sl_json_text *out, const sl_plan_answer *a) {
    const sl_flexgen_plan *plan = &a->found.best;
    put_double(out, "prefill_s", n_layers_computed(a, PREFILL) * plan->prefill_layer_s);
    put_double(out, "decode_s", n_layers_computed(a, DECODE) * plan->decode_layer_s);
    put_key(out, 1, "terms_s");
    sl_json_raw(out, "{");
    for (int p = 0; p < N_PHASES; p++) {
        put_key(out, p, phases[p]);
        sl_json_raw(out, "{");
        for (int i = 0; i < N_LINKS; i++) {
            put_key(out, i, link_keys[i]);
            sl_json_double(out, n_layers_computed(a, p) * plan->time_s[N_LINKS * p + i]);
        }
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "}");
}

static void put_binding(sl_json_text *out, const sl_plan_answer *a) {
    put_key(out, 1, "bound_by");
    sl_json_raw(out, "{");
    for (int p = 0; p < N_PHASES; p++) {
        int n = 0;
        put_key(out, p, phases[p]);
        sl_json_raw(out, "[");
        for (int i = 0; i < MAX_PATHS; i++) {
            const path way = paths[p][i];
            if (!is_binding(&a->found.best, p, way)) continue;
            sl_json_raw(out, n++ ? ", \"" : "\"");
            sl_json_raw(out, link_keys[way.first]);
            if (way.second >= 0) sl_json_raw(out, "+");
            if (way.second >= 0) sl_json_raw(out, link_keys[way.second]);
            sl_json_raw(out, "\"");
        }
        sl_json_raw(out, "]");
    }
    put_key(out, 1, "memory");
    sl_json_raw(out, "[");
    int n = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (!is_full(a, t)) continue;
        if (n++) sl_json_raw(out, ", ");
        sl_json_cstring(out, sl_tier_name((sl_tier_kind)t));
    }
    sl_json_raw(out, "]}");
}

static void put_memory(sl_json_text *out, const sl_plan_answer *a) {
    put_key(out, 1, "memory");
    sl_json_raw(out, "{");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        put_key(out, t, sl_tier_name((sl_tier_kind)t));
        sl_json_raw(out, "{\"prefill_bytes\": ");
        sl_json_int(out, (int64_t)peak_bytes(&a->found.best, t, PREFILL));
        put_int(out, "decode_bytes", (int64_t)peak_bytes(&a->found.best, t, DECODE));
        put_int(out, "budget_bytes", (int64_t)a->problem.budget_bytes[t]);
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "}");
}

static void put_shortage(sl_json_text *out, const sl_plan_answer *a) {
    char reason[768];
    const sl_flexgen_shortage *s = &a->shortage;
    put_key(out, 1, "reason");
    sl_json_cstring(out, sl_plan_report_shortage(a, reason, sizeof reason));
    sl_json_raw(out, ", \"short_bytes\": {\"alone\": {");
    int n = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (isinf(s->alone_bytes[t])) continue;
        put_key(out, n++, sl_tier_name((sl_tier_kind)t));
        sl_json_int(out, (int64_t)ceil(s->alone_bytes[t]));
    }
    sl_json_raw(out, "}, \"together\": {");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        put_key(out, t, sl_tier_name((sl_tier_kind)t));
        sl_json_int(out, (int64_t)ceil(s->together_bytes[t]));
    }
    sl_json_raw(out, "}}");
}

sl_status sl_plan_report_json(const sl_plan_answer *a, sl_json_text *out) {
    const sl_flexgen_plan *plan = &a->found.best;
    sl_json_raw(out, "{\"cost_model\": \"flexgen\", \"model\": ");
    sl_json_cstring(out, a->model);
    sl_json_raw(out, ", \"machine\": ");
    sl_json_cstring(out, a->problem.machine->name);
    sl_json_raw(out, plan->is_feasible ? ", \"feasible\": true" : ", \"feasible\": false");
    put_int(out, "prompt_len", a->problem.prompt_len);
    put_int(out, "gen_len", a->problem.gen_len);
    put_int(out, "micro_batch", plan->micro_batch);
    put_int(out, "num_micro_batches", plan->num_micro_batches);
    if (plan->is_feasible) {
        put_double(out, "seconds", plan->total_s);
        put_double(out, "objective", plan->objective_s);
        put_double(out, "tokens_per_s", plan->tokens_per_s);
        put_shares(out, plan);
        put_times(out, a);
        put_binding(out, a);
        put_memory(out, a);
    } else {
        sl_json_raw(out, ", \"seconds\": null, \"objective\": null, \"tokens_per_s\": null, "
                         "\"weights\": null, \"cache\": null, \"hidden\": null");
        put_shortage(out, a);
    }
    put_int(out, "n_programs", a->found.n_programs);
    sl_json_raw(out, "}");
    return sl_json_status(out);
}
