#include "planner.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/backend.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif

#define GIB 1073741824.0

const char *const sl_planner_precisions[] = {"auto", "f16", "q8", "q4", NULL};
const char *const sl_planner_qualities[] = {"f16", "q8", "q4", NULL};
static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

/* As sl_setup opens the device. */
static size_t backend_bytes(const sl_policy *policy) {
    const int n_bound = SL_BOUND_PER_BATCH * policy->num_micro_batches;
#ifdef SL_CUDA
    const sl_cuda_options options = {.unpack_bytes = sl_cuda_unpack_bytes(policy->weights_dtype),
                                     .max_rows = policy->max_rows,
                                     .n_bound = n_bound};
    return sl_cuda_overhead_bytes(&options);
#else
    /* What the CUDA backend takes, within a MiB; this program has none. */
    const size_t unpack_mib = sl_dtype_group_bits(policy->weights_dtype) ? 64 : 1;
    return ((67 + unpack_mib) << 20) +
           (size_t)(n_bound + 1) * ((size_t)policy->max_rows * 28 + (256 << 10));
#endif
}

/* The stand-in of a device takes nothing itself. */
static size_t no_bytes(const sl_policy *policy) {
    (void)policy;
    return 0;
}

static int fill_precisions(int wanted, int quality, sl_dtype *out) {
    if (wanted > 0) {
        out[0] = dtypes[wanted - 1];
        return 1;
    }
    for (int i = 0; i <= quality; i++) out[i] = dtypes[i];
    return quality + 1;
}

sl_plan_problem sl_planner_problem(const sl_planner_ask *a) {
    const double has[SL_TIER_COUNT] = {a->profile->gpu_bytes, a->profile->cpu_bytes,
                                       a->profile->disk_bytes};
    sl_plan_problem q = {.source = a->source,
                         .profile = a->profile,
                         .workload = a->workload,
                         .has_device = a->has_device,
                         .act_bytes = a->act_bytes,
                         .n_ranks = a->n_ranks,
                         .disk_dir = a->disk_dir,
                         .can_attend_on_host = 1,
                         .backend_bytes = a->act_bytes == 4 ? no_bytes : backend_bytes,
                         .micro_batch = a->micro_batch,
                         .num_micro_batches = a->num_micro_batches,
                         .max_rows = a->max_rows,
                         .max_context = a->max_context,
                         .max_request_s = a->max_request_s};
    for (int t = 0; t < SL_TIER_COUNT; t++)
        q.budget_bytes[t] = a->cap_bytes[t] ? (double)a->cap_bytes[t] : has[t];
    if (!a->has_device) q.budget_bytes[SL_TIER_GPU] = 0;
    if (!a->uses_disk) q.budget_bytes[SL_TIER_DISK] = 0;
    q.n_weights = fill_precisions(a->weights, a->quality, q.weights);
    q.n_caches = fill_precisions(a->cache, a->quality, q.caches);
    if (a->keeps_stored) {
        q.n_weights = 1;
        q.weights[0] = SL_DTYPE_AS_STORED;
    }
    return q;
}

/* ---- why not ---- */

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

/* Shortages below this are rounding. */
static int is_short(double bytes) {
    return bytes > 1 && !isinf(bytes);
}

static int n_together(const sl_measured_shortage *s) {
    int n = 0;
    for (int t = 0; t < SL_TIER_COUNT; t++) n += is_short(s->together_bytes[t]);
    return n;
}

/* "1.20 GiB", "3.25 MiB"; with the space, or as options take it.  up: no less than it is. */
static void add_bytes(text_buffer *t, double bytes, const char *space, int up) {
    static const double mib = 1048576.0;
    const int is_large = bytes >= 0.1 * GIB;
    const double n = bytes / (is_large ? GIB : mib) * 100;
    add(t, "%.2f%s%s", (up ? ceil(n) : n) / 100, space, is_large ? "GiB" : "MiB");
}

/* "the gpu memory lacks 1.20 GiB (needs 17.20 of 16.00 GiB)" and what would give it. */
static void add_lacking(text_buffer *t, const sl_plan_problem *q, const sl_measured_shortage *s) {
    static const char *const names[] = {"GPU memory", "host memory", "disk space"};
    int n = 0;
    for (int i = 0; i < SL_TIER_COUNT; i++) {
        if (!is_short(s->alone_bytes[i])) continue;
        add(t, "%s%s lacks ", n++ ? ", or " : "", names[i]);
        add_bytes(t, s->alone_bytes[i], " ", 0);
        add(t, " (");
        add_bytes(t, s->alone_bytes[i] + q->budget_bytes[i], " ", 0);
        add(t, " of ");
        add_bytes(t, q->budget_bytes[i], " ", 0);
        add(t, ")");
    }
    for (int i = 0; i < SL_TIER_COUNT && (n == 0 || n_together(s) > 1); i++) {
        if (!is_short(s->together_bytes[i])) continue;
        add(t, "%s%s lacks ", n++ ? ", and " : "", names[i]);
        add_bytes(t, s->together_bytes[i], " ", 0);
    }
}

/* Of the tiers that help alone, the one that needs least. */
static void add_help(text_buffer *t, const sl_plan_problem *q, const sl_measured_shortage *s) {
    static const char *const options[] = {"--gpu-mem", "--cpu-mem", "--disk-mem"};
    int best = -1, n = 0;
    for (int i = 0; i < SL_TIER_COUNT; i++)
        if (is_short(s->alone_bytes[i]) && (best < 0 || s->alone_bytes[i] < s->alone_bytes[best]))
            best = i;
    add(t, ". What would help: ");
    if (best >= 0) {
        add(t, "%s ", options[best]);
        add_bytes(t, s->alone_bytes[best] + q->budget_bytes[best], "", 1);
        n++;
    }
    for (int i = 0; i < SL_TIER_COUNT && best < 0; i++) {
        if (!is_short(s->together_bytes[i])) continue;
        add(t, "%s%s ", n++ ? " and " : "", options[i]);
        add_bytes(t, s->together_bytes[i] + q->budget_bytes[i], "", 1);
    }
    if (s->fits_in_4_bits) add(t, "%sweights and cache in 4 bits", n++ ? ", or " : "");
    add(t, "%sa shorter context", n ? ", or " : "");
}

const char *sl_planner_refusal(const sl_plan_problem *q, const sl_measured_found *f, char *buf,
                               size_t buf_bytes) {
    const sl_measured_shortage *s = &f->shortage;
    text_buffer t = {buf, buf_bytes, 0};
    if (f->least_request_s > 0) {
        add(&t, "no block answers a request within %g s; the quickest that was found takes %.3g s",
            q->max_request_s, f->least_request_s);
        return buf;
    }
    add(&t, "%s does not fit, %sin blocks of %d x %d with %d rows: ", sl_source_path(q->source),
        q->micro_batch ? "" : "not even ", s->shape.micro_batch, s->shape.num_micro_batches,
        s->shape.max_rows);
    add_lacking(&t, q, s);
    add_help(&t, q, s);
    return buf;
}

sl_status sl_search_default(const sl_planner_ask *ask, sl_policy *out) {
    const sl_plan_problem q = sl_planner_problem(ask);
    sl_measured_found found;
    SL_TRY(sl_search_measured(&q, &found));
    if (!found.is_feasible) {
        char reason[768];
        return SL_FAIL(SL_ERR_INFEASIBLE, "%s",
                       sl_planner_refusal(&q, &found, reason, sizeof reason));
    }
    *out = found.best.policy;
    return SL_OK;
}
