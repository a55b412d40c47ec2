#include "sim/sim_backend.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "sim/sim_cost.h"
#include "sim/sim_device.h"
#include "sim/sim_disk.h"

/* Activations: f16 on a device, f32 without. */
enum { DEVICE_ACT_BYTES = 2, HOST_ACT_BYTES = 4 };

typedef struct {
    sl_backend base; /* first: both have the same address */
    sl_backend_ops ops;
    sl_sim *sim;
    int rank;
    const sl_sim_rates *rates;
    sl_sim_device *device; /* NULL: the host computes */
    int has_computed;      /* since rows were bound: the next ones begin a sweep */
} backend;

static backend *backend_of(sl_backend *be) {
    return (backend *)be;
}

sl_sim_device *sl_sim_device_of(const struct sl_backend *be) {
    return ((const backend *)be)->device;
}

static void backend_close(sl_backend *be) {
    backend *b = backend_of(be);
    sl_sim_device_close(b->device);
    free(b);
}

/* Waits until the queue is empty. */
static sl_status finish_queue(backend *b, int queue, const char *what) {
    sl_sim_mark mark;
    sl_sim_mark_init(&mark, b->rank, -1);
    SL_TRY(sl_sim_machine_mark(sl_sim_machine_of(b->sim, b->rank), queue, &mark));
    return sl_sim_wait_mark(b->sim, b->rank, &mark, what);
}

static sl_status backend_sync(sl_backend *be) {
    return finish_queue(backend_of(be), SL_STREAM_COMPUTE, "its operators");
}

/* Forming a block, sampling and the ends of queues take the host's time once a sweep. */
static sl_status bind_rows(sl_backend *be, int number, sl_rows *rows) {
    backend *b = backend_of(be);
    (void)number;
    rows->device = rows;
    if (!b->has_computed) return SL_OK;
    b->has_computed = 0;
    const sl_sim_load load = {.seconds = b->rates->sweep_s};
    SL_TRY(sl_sim_machine_work(sl_sim_machine_of(b->sim, b->rank), SL_SIM_HOST, &load));
    return finish_queue(b, SL_SIM_HOST, "its host");
}

/* ---- operators ---- */

static sl_status compute(sl_backend *be, double seconds) {
    backend *b = backend_of(be);
    const sl_sim_load load = {.seconds = seconds};
    b->has_computed = 1;
    return sl_sim_machine_work(sl_sim_machine_of(b->sim, b->rank), SL_STREAM_COMPUTE, &load);
}

/* An operator that reads and writes `n` arrays of [rows, cols] activations. */
static sl_status touch(sl_backend *be, int n, int rows, int cols) {
    const double bytes = (double)n * rows * cols * (double)be->ops->act_bytes;
    return compute(be, sl_sim_memory_s(backend_of(be)->rates, bytes));
}

static sl_status embed(sl_backend *be, void *y, const sl_weight *token_table, const sl_rows *rows) {
    (void)y;
    return touch(be, 2, rows->n_rows, token_table->cols);
}

static sl_status add_positions(sl_backend *be, void *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows) {
    (void)y, (void)position_offset;
    return touch(be, 3, rows->n_rows, pos_table->cols);
}

static sl_status norm(sl_backend *be, void *y, const void *x, const float *gain, const float *bias,
                      sl_norm_kind kind, float eps, int n_rows, int cols) {
    (void)y, (void)x, (void)gain, (void)bias, (void)kind, (void)eps;
    return touch(be, 2, n_rows, cols);
}

static sl_status linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                        const float *bias, int n_rows, int accumulate) {
    (void)y, (void)ldy, (void)x, (void)bias;
    const sl_sim_rates *rates = backend_of(be)->rates;
    double seconds;
    if (n_rows == 0) return SL_OK;
    SL_TRY(sl_sim_gemm_s(rates, w, n_rows, &seconds));
    return compute(be, seconds + (accumulate ? 0.5 * rates->layer_s : 0.0));
}

static sl_status logits(sl_backend *be, float *y, const void *x, const sl_weight *w, int n_rows) {
    (void)y, (void)x;
    double seconds;
    if (n_rows == 0) return SL_OK;
    SL_TRY(sl_sim_gemm_s(backend_of(be)->rates, w, n_rows, &seconds));
    return compute(be, seconds);
}

static sl_status rope(sl_backend *be, void *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows) {
    (void)x, (void)ldx, (void)inv_freq;
    return touch(be, 2, rows->n_rows, n_heads * head_dim);
}

static sl_status kv_append(sl_backend *be, const sl_kv_view *cache, const void *k, const void *v,
                           int ld, const sl_rows *rows) {
    (void)k, (void)v;
    const double act_bytes = 2.0 * rows->n_rows * ld * (double)be->ops->act_bytes;
    const double page_bytes = (double)cache->format.page_bytes / SL_PAGE_TOKENS * rows->n_rows;
    return compute(be, sl_sim_memory_s(backend_of(be)->rates, act_bytes + page_bytes));
}

static sl_status attend_share(sl_backend *be, int n_heads, const sl_kv_view *cache, int window,
                              double share, const sl_rows *rows) {
    double seconds;
    SL_TRY(sl_sim_attend_s(backend_of(be)->rates, &cache->format, n_heads * cache->format.head_dim,
                           window, share, rows, &seconds));
    return compute(be, seconds);
}

static sl_status attend(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows) {
    (void)out, (void)q, (void)ldq, (void)scale;
    return attend_share(be, n_heads, cache, window, 1.0, rows);
}

/* All keys are read, and of the values a share. */
static sl_status attend_sparse(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows) {
    (void)out, (void)q, (void)ldq, (void)scale;
    return attend_share(be, n_heads, cache, window, 0.5 * (1.0 + (double)sparsity), rows);
}

static sl_status activate(sl_backend *be, void *y, const void *g, const void *u, int ld,
                          sl_activation act, int n_rows, int n_cols) {
    (void)y, (void)g, (void)ld, (void)act;
    return touch(be, u ? 3 : 2, n_rows, n_cols);
}

static sl_status add(sl_backend *be, void *y, const void *x, int n_rows, int cols) {
    (void)y, (void)x;
    return touch(be, 3, n_rows, cols);
}

static sl_status gather(sl_backend *be, void *y, const void *x, const int32_t *index, int n,
                        int cols) {
    (void)y, (void)x, (void)index;
    return touch(be, 2, n, cols);
}

/* ---- tokens ---- */

static int is_banned(const sl_sampling *s, int32_t id) {
    for (int i = 0; i < s->n_ban; i++)
        if (s->ban[i] == id) return 1;
    return 0;
}

/* Any token of the upper half, where no vocabulary has its ends of text, so that generations run to
 * their full length. */
static void choose_row(const sl_choice_ask *ask, int vocab, sl_choice *out) {
    const sl_sampling *s = ask->sampling;
    const uint64_t half = (uint64_t)vocab / 2, n = (uint64_t)vocab - half;
    const uint64_t random = sl_rng_at(s->key, (uint64_t)ask->step);
    *out = (sl_choice){.id = ask->target};
    for (uint64_t i = 0; ask->target < 0 && i < n; i++) {
        out->id = (int32_t)(half + (random + i) % n);
        if (!is_banned(s, out->id)) break;
    }
    if (s->n_logprobs < 0 && ask->target < 0) return;
    out->logprob = -logf((float)vocab);
    for (; out->n_top < s->n_logprobs && out->n_top < vocab; out->n_top++)
        out->top[out->n_top] = (sl_logprob){(out->id + out->n_top) % vocab, out->logprob};
}

static sl_status choose(sl_backend *be, void *logits_rows, int n_rows, int vocab,
                        const sl_choice_ask *ask, sl_choice *out) {
    const double bytes = (double)n_rows * vocab * (double)sizeof(float);
    (void)logits_rows;
    SL_TRY(compute(be, sl_sim_memory_s(backend_of(be)->rates, bytes)));
    for (int r = 0; r < n_rows; r++) choose_row(&ask[r], vocab, &out[r]);
    return backend_sync(be);
}

static sl_status choose_begin(sl_backend *be, void *logits_rows, int n_rows, int vocab,
                              const sl_choice_ask *ask) {
    (void)logits_rows, (void)ask;
    return compute(
        be, sl_sim_memory_s(backend_of(be)->rates, (double)n_rows * vocab * (double)sizeof(float)));
}

static sl_status choose_end(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                            sl_choice *out) {
    (void)be;
    for (int r = 0; r < n_rows; r++) choose_row(&ask[r], vocab, &out[r]);
    return SL_OK;
}

static sl_status page_copy(sl_backend *be, const sl_kv_view *cache, int32_t from, int32_t to) {
    (void)from, (void)to;
    const double bytes = 2.0 * (double)cache->format.page_bytes;
    return compute(be, sl_sim_memory_s(backend_of(be)->rates, bytes));
}

/* ---- the table ---- */

static sl_status open_disk(struct sl_backend *be, const char *name, size_t bytes, sl_disk **out) {
    const backend *b = backend_of(be);
    return sl_sim_disk_open(b->sim, b->rank, name, bytes, out);
}

static const sl_hollow_ops hollow_ops = {.open_disk = open_disk};

static const sl_backend_ops sim_ops = {
    .name = "sim",
    .hollow = &hollow_ops,
    .close = backend_close,
    .bind_rows = bind_rows,
    .sync = backend_sync,
    .embed = embed,
    .add_positions = add_positions,
    .norm = norm,
    .linear = linear,
    .logits = logits,
    .rope = rope,
    .kv_append = kv_append,
    .attend = attend,
    .attend_sparse = attend_sparse,
    .activate = activate,
    .add = add,
    .gather = gather,
    .choose = choose,
    .page_copy = page_copy,
};

sl_status sl_sim_backend_open(sl_sim *sim, int rank, const sl_sim_backend_options *options,
                              sl_backend **out) {
    const sl_sim_rates *rates = sl_sim_machine_rates(sl_sim_machine_of(sim, rank));
    const size_t device_bytes =
        options->device_bytes ? options->device_bytes : (size_t)rates->gpu_bytes;
    if (options->device_bytes && rates->gpu_bytes == 0.0)
        return SL_FAIL(SL_ERR_ARG, "%zu bytes of a gpu, but the simulated machine has none",
                       device_bytes);
    backend *b = calloc(1, sizeof *b);
    if (!b) return SL_FAIL(SL_ERR_NOMEM, "simulated backend: out of host memory");
    b->ops = sim_ops;
    b->base.ops = &b->ops;
    b->sim = sim;
    b->rank = rank;
    b->rates = rates;
    b->ops.act_bytes = device_bytes ? DEVICE_ACT_BYTES : HOST_ACT_BYTES;
    if (device_bytes) {
        const sl_status st = sl_sim_device_open(sim, rank, device_bytes, &b->device);
        if (st != SL_OK) {
            free(b);
            return st;
        }
        b->ops.device = &sl_sim_device_ops;
        b->ops.choose_begin = choose_begin;
        b->ops.choose_end = choose_end;
    }
    *out = &b->base;
    return SL_OK;
}
