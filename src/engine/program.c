#include "engine/program.h"

#include <math.h>
#include <stdlib.h>

#include "base/bytes.h"

/* Logits of at most this many bytes stand at a time: enough rows for a full-speed GEMM with any
 * vocabulary, little beside the weights. */
enum { LOGITS_BYTES = 32 << 20, LOGITS_MAX_ROWS = 256 };

enum { SL_PROGRAM_LANES = 4 };

struct sl_program {
    const sl_model_config *config;
    sl_backend *be;
    sl_tier *tier;
    int max_rows, logits_rows;
    int q_cols, kv_cols;
    float *inv_freq; /* [head_dim / 2] */
    float scale;     /* of attention scores */
    void *normed;    /* [max_rows, hidden] */
    /* Queries, keys and values of a row lie one behind another, [max_rows, ld], as one product
     * makes them; where heads are normed, which takes them densely, apart. */
    void *qkv, *keys, *values;
    void *q, *k, *v; /* their first rows */
    int is_joined, ld_q, ld_kv;
    void *attended[SL_PROGRAM_LANES]; /* [max_rows, q_cols] */
    void *outbox[SL_PROGRAM_LANES];   /* [host_rows, q_cols + 2 kv_cols] */
    int n_lanes;
    float sparsity;
    void *gate;      /* [max_rows, ffn] */
    void *up;        /* [max_rows, ffn], gated MLP only */
    void *embedded;  /* [max_rows, embed_dim], with project_in only */
    void *picked;    /* [logits_rows, hidden], head only */
    void *projected; /* [logits_rows, embed_dim], head with project_out only */
    void *logits;    /* [logits_rows, vocab] float32, head only */
};

static int has_projections(const sl_model_config *c) {
    return c->embed_dim != c->hidden;
}

static int logits_rows_for(const sl_program_options *o) {
    int n = LOGITS_BYTES / (4 * o->config->vocab);
    if (n > LOGITS_MAX_ROWS) n = LOGITS_MAX_ROWS;
    if (n > o->max_rows) n = o->max_rows;
    return n > 0 ? n : 1;
}

/* One working buffer: `rows` x `cols` activations, or none when rows is 0. */
typedef struct {
    void **where;
    int rows, cols;
    size_t elem_bytes;
    const char *what;
} buffer_plan;

enum { N_BUFFERS = 10 + 2 * SL_PROGRAM_LANES };

static void plan_buffers(const sl_program_options *o, sl_program *p, buffer_plan plan[N_BUFFERS]) {
    const sl_model_config *c = o->config;
    const size_t act = o->backend->ops->act_bytes;
    const int rows = o->max_rows, head = o->has_head ? logits_rows_for(o) : 0;
    const int proj = has_projections(c);
    const int q_cols = c->n_heads * c->head_dim, kv_cols = c->n_kv_heads * c->head_dim;
    const buffer_plan all[] = {
        {&p->normed, rows, c->hidden, act, "normed rows"},
        {&p->qkv, rows, c->qk_norm ? q_cols : q_cols + 2 * kv_cols, act, "queries"},
        {&p->keys, c->qk_norm ? rows : 0, kv_cols, act, "keys"},
        {&p->values, c->qk_norm ? rows : 0, kv_cols, act, "values"},
        {&p->gate, rows, c->ffn, act, "the MLP's rows"},
        {&p->up, c->gated_mlp ? rows : 0, c->ffn, act, "the gated MLP's rows"},
        {&p->embedded, proj ? rows : 0, c->embed_dim, act, "embedded rows"},
        {&p->picked, head, c->hidden, act, "rows for the head"},
        {&p->projected, proj ? head : 0, c->embed_dim, act, "projected rows"},
        {&p->logits, head, c->vocab, sizeof(float), "logits"},
    };
    const int n = (int)(sizeof all / sizeof all[0]);
    for (int i = 0; i < n; i++) plan[i] = all[i];
    for (int i = 0; i < SL_PROGRAM_LANES; i++) {
        const int used = i < o->n_lanes;
        plan[n + 2 * i] =
            (buffer_plan){&p->attended[i], used ? rows : 0, q_cols, act, "attention results"};
        plan[n + 2 * i + 1] = (buffer_plan){&p->outbox[i], used ? o->host_rows : 0,
                                            q_cols + 2 * kv_cols, act, "queries for the host"};
    }
}

static sl_status plan_bytes(const buffer_plan *b, size_t *out) {
    SL_TRY(sl_size_mul((size_t)b->rows, (size_t)b->cols, out));
    return sl_size_mul(*out, b->elem_bytes, out);
}

sl_status sl_program_measure(const sl_program_options *options, size_t *bytes_out) {
    sl_program none;
    buffer_plan plan[N_BUFFERS];
    plan_buffers(options, &none, plan);
    size_t total = 0;
    for (int i = 0; i < N_BUFFERS; i++) {
        size_t bytes;
        SL_TRY(plan_bytes(&plan[i], &bytes));
        SL_TRY(sl_size_add(total, sl_align_up(bytes, 4096), &total));
    }
    *bytes_out = total;
    return SL_OK;
}

static void lay_out_projections(sl_program *p) {
    const size_t act = p->be->ops->act_bytes;
    p->is_joined = !p->config->qk_norm;
    p->ld_q = p->is_joined ? p->q_cols + 2 * p->kv_cols : p->q_cols;
    p->ld_kv = p->is_joined ? p->ld_q : p->kv_cols;
    p->q = p->qkv;
    p->k = p->is_joined ? (char *)p->qkv + (size_t)p->q_cols * act : p->keys;
    p->v = p->is_joined ? (char *)p->k + (size_t)p->kv_cols * act : p->values;
}

sl_status sl_program_open(const sl_program_options *o, sl_program **out) {
    const sl_model_config *c = o->config;
    if (o->max_rows < 1 || o->n_lanes < 1 || o->n_lanes > SL_PROGRAM_LANES || o->host_rows < 0)
        return SL_FAIL(SL_ERR_ARG, "micro-batches of %d rows in %d lanes, %d rows for the host",
                       o->max_rows, o->n_lanes, o->host_rows);
    sl_status st = SL_OK;
    sl_program *p = calloc(1, sizeof *p);
    if (!p) return SL_FAIL(SL_ERR_NOMEM, "program: out of host memory");
    p->config = c;
    p->be = o->backend;
    p->tier = o->tier;
    p->max_rows = o->max_rows;
    p->n_lanes = o->n_lanes;
    p->sparsity = o->sparsity;
    p->logits_rows = logits_rows_for(o);
    p->q_cols = c->n_heads * c->head_dim;
    p->kv_cols = c->n_kv_heads * c->head_dim;
    p->scale = 1.0f / sqrtf((float)c->head_dim);
    if (c->positions == SL_POSITIONS_ROPE) {
        p->inv_freq = calloc((size_t)c->head_dim / 2, sizeof *p->inv_freq);
        if (!p->inv_freq) {
            st = SL_FAIL(SL_ERR_NOMEM, "program: out of host memory");
            goto fail;
        }
        sl_rope_frequencies(c, p->inv_freq);
    }
    buffer_plan plan[N_BUFFERS];
    plan_buffers(o, p, plan);
    for (int i = 0; i < N_BUFFERS; i++) {
        size_t bytes;
        SL_GO(plan_bytes(&plan[i], &bytes));
        if (bytes) SL_GO(sl_tier_take(p->tier, bytes, plan[i].what, plan[i].where));
    }
    lay_out_projections(p);
    *out = p;
    return SL_OK;

fail:
    sl_program_close(p);
    return st;
}

void sl_program_close(sl_program *p) {
    if (!p) return;
    void *const all[] = {p->normed, p->qkv,      p->keys,   p->values,    p->gate,
                         p->up,     p->embedded, p->picked, p->projected, p->logits};
    for (int i = 0; i < SL_PROGRAM_LANES; i++) {
        sl_tier_put(p->tier, p->attended[i]);
        sl_tier_put(p->tier, p->outbox[i]);
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) sl_tier_put(p->tier, all[i]);
    free(p->inv_freq);
    free(p);
}

sl_status sl_program_embed(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                           void *hidden) {
    const sl_model_config *c = p->config;
    const sl_backend_ops *op = p->be->ops;
    const int n = rows->n_rows;
    if (has_projections(c)) {
        SL_TRY(op->embed(p->be, p->embedded, &w->matrix[SL_ROLE_TOKEN_EMBED], rows));
        SL_TRY(op->linear(p->be, hidden, c->hidden, p->embedded, &w->matrix[SL_ROLE_PROJECT_IN],
                          NULL, n, 0));
    } else {
        SL_TRY(op->embed(p->be, hidden, &w->matrix[SL_ROLE_TOKEN_EMBED], rows));
    }
    if (c->positions == SL_POSITIONS_LEARNED)
        SL_TRY(op->add_positions(p->be, hidden, &w->matrix[SL_ROLE_POS_EMBED], c->position_offset,
                                 rows));
    return SL_OK;
}

static sl_status norm(sl_program *p, void *y, const void *x, const sl_layer_weights *w,
                      sl_role gain, sl_role bias, int n_rows) {
    const sl_model_config *c = p->config;
    return p->be->ops->norm(p->be, y, x, w->vector[gain], w->vector[bias], c->norm, c->norm_eps,
                            n_rows, c->hidden);
}

/* Row `row` of a buffer of rows of `cols` activations. */
static void *at_row(const sl_program *p, void *base, int row, int cols) {
    return (char *)base + (size_t)row * (size_t)cols * p->be->ops->act_bytes;
}

/* Queries, keys and values of the rows, normed and rotated as the model wants.  x: [n, hidden]. */
static sl_status project(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                         const void *x) {
    const sl_model_config *c = p->config;
    const sl_backend_ops *op = p->be->ops;
    const int n = rows->n_rows, ld_q = p->ld_q, ld_kv = p->ld_kv;
    if (p->is_joined && w->qkv.n_slabs > 0) {
        SL_TRY(op->linear(p->be, p->q, ld_q, x, &w->qkv, w->vector[SL_ROLE_Q_BIAS], n, 0));
    } else {
        SL_TRY(op->linear(p->be, p->q, ld_q, x, &w->matrix[SL_ROLE_Q], w->vector[SL_ROLE_Q_BIAS], n,
                          0));
        SL_TRY(op->linear(p->be, p->k, ld_kv, x, &w->matrix[SL_ROLE_K], w->vector[SL_ROLE_K_BIAS],
                          n, 0));
        SL_TRY(op->linear(p->be, p->v, ld_kv, x, &w->matrix[SL_ROLE_V], w->vector[SL_ROLE_V_BIAS],
                          n, 0));
    }
    if (c->qk_norm) { /* every head is a row of its own */
        SL_TRY(op->norm(p->be, p->q, p->q, w->vector[SL_ROLE_Q_NORM_GAIN], NULL, SL_NORM_RMS,
                        c->norm_eps, n * c->n_heads, c->head_dim));
        SL_TRY(op->norm(p->be, p->k, p->k, w->vector[SL_ROLE_K_NORM_GAIN], NULL, SL_NORM_RMS,
                        c->norm_eps, n * c->n_kv_heads, c->head_dim));
    }
    if (c->positions == SL_POSITIONS_ROPE) {
        SL_TRY(op->rope(p->be, p->q, ld_q, c->n_heads, c->head_dim, p->inv_freq, rows));
        SL_TRY(op->rope(p->be, p->k, ld_kv, c->n_kv_heads, c->head_dim, p->inv_freq, rows));
    }
    return SL_OK;
}

/* The part's queries, keys and values, where the host gets them from. */
static sl_status post(sl_program *p, const sl_program_part *part, int lane) {
    const sl_device_ops *device = p->be->ops->device;
    const size_t act = p->be->ops->act_bytes, n = (size_t)part->rows->n_rows;
    const void *const from[] = {at_row(p, p->q, part->row0, p->ld_q),
                                at_row(p, p->k, part->row0, p->ld_kv),
                                at_row(p, p->v, part->row0, p->ld_kv)};
    const size_t cols[] = {(size_t)p->ld_q, (size_t)p->ld_kv, (size_t)p->ld_kv};
    char *to = p->outbox[lane];
    for (int i = 0; i < (p->is_joined ? 1 : 3); i++) {
        SL_TRY(device->copy(p->be, SL_STREAM_COMPUTE, to, from[i], n * cols[i] * act));
        to += n * cols[i] * act;
    }
    return SL_OK;
}

/* Keys and values of a part go to its pages; then its rows attend. */
static sl_status attend(sl_program *p, const sl_program_part *part, int lane) {
    const sl_model_config *c = p->config;
    const sl_backend_ops *op = p->be->ops;
    const int r = part->row0;
    void *out = at_row(p, p->attended[lane], r, p->q_cols), *q = at_row(p, p->q, r, p->ld_q);
    SL_TRY(op->kv_append(p->be, &part->cache, at_row(p, p->k, r, p->ld_kv),
                         at_row(p, p->v, r, p->ld_kv), p->ld_kv, part->rows));
    if (p->sparsity > 0.0f)
        return op->attend_sparse(p->be, out, q, p->ld_q, c->n_heads, &part->cache, p->scale,
                                 c->sliding_window, p->sparsity, part->rows);
    return op->attend(p->be, out, q, p->ld_q, c->n_heads, &part->cache, p->scale, c->sliding_window,
                      part->rows);
}

/* hidden += MLP(x); x: [n, hidden], not hidden itself. */
static sl_status mlp(sl_program *p, const sl_layer_weights *w, int n, const void *x, void *hidden) {
    const sl_model_config *c = p->config;
    const sl_backend_ops *op = p->be->ops;
    if (c->gated_mlp) {
        SL_TRY(op->linear(p->be, p->gate, c->ffn, x, &w->matrix[SL_ROLE_GATE],
                          w->vector[SL_ROLE_GATE_BIAS], n, 0));
        SL_TRY(op->linear(p->be, p->up, c->ffn, x, &w->matrix[SL_ROLE_UP],
                          w->vector[SL_ROLE_UP_BIAS], n, 0));
        SL_TRY(op->activate(p->be, p->gate, p->gate, p->up, c->ffn, c->act, n, c->ffn));
    } else {
        SL_TRY(op->linear(p->be, p->gate, c->ffn, x, &w->matrix[SL_ROLE_UP],
                          w->vector[SL_ROLE_UP_BIAS], n, 0));
        SL_TRY(op->activate(p->be, p->gate, p->gate, NULL, c->ffn, c->act, n, c->ffn));
    }
    return op->linear(p->be, hidden, c->hidden, p->gate, &w->matrix[SL_ROLE_DOWN],
                      w->vector[SL_ROLE_DOWN_BIAS], n, 1);
}

sl_status sl_program_before(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                            const sl_program_part *parts, int n_parts, int lane, void *hidden) {
    const int pre = p->config->norm_place == SL_NORM_PRE;
    if (pre)
        SL_TRY(norm(p, p->normed, hidden, w, SL_ROLE_ATTN_NORM_GAIN, SL_ROLE_ATTN_NORM_BIAS,
                    rows->n_rows));
    SL_TRY(project(p, w, rows, pre ? p->normed : hidden));
    for (int i = 0; i < n_parts; i++)
        SL_TRY(parts[i].cache.base ? attend(p, &parts[i], lane) : post(p, &parts[i], lane));
    return SL_OK;
}

sl_status sl_program_after(sl_program *p, const sl_layer_weights *w, int n, int lane,
                           void *hidden) {
    const sl_model_config *c = p->config;
    SL_TRY(p->be->ops->linear(p->be, hidden, c->hidden, p->attended[lane], &w->matrix[SL_ROLE_O],
                              w->vector[SL_ROLE_O_BIAS], n, 1));
    if (c->norm_place != SL_NORM_PRE) {
        SL_TRY(norm(p, hidden, hidden, w, SL_ROLE_ATTN_NORM_GAIN, SL_ROLE_ATTN_NORM_BIAS, n));
        SL_TRY(mlp(p, w, n, hidden, hidden));
        return norm(p, hidden, hidden, w, SL_ROLE_MLP_NORM_GAIN, SL_ROLE_MLP_NORM_BIAS, n);
    }
    SL_TRY(norm(p, p->normed, hidden, w, SL_ROLE_MLP_NORM_GAIN, SL_ROLE_MLP_NORM_BIAS, n));
    return mlp(p, w, n, p->normed, hidden);
}

void *sl_program_outbox(const sl_program *p, int lane) {
    return p->outbox[lane];
}
sl_program_outbox_shape sl_program_outbox_of(const sl_program *p, int n) {
    const size_t q = (size_t)p->q_cols, kv = (size_t)p->kv_cols, rows = (size_t)n;
    return (sl_program_outbox_shape){.k = p->is_joined ? q : rows * q,
                                     .v = p->is_joined ? q + kv : rows * (q + kv),
                                     .ldq = p->ld_q,
                                     .ldkv = p->ld_kv};
}
void *sl_program_inbox(const sl_program *p, int lane, int row0) {
    return at_row(p, p->attended[lane], row0, p->q_cols);
}
int sl_program_q_cols(const sl_program *p) {
    return p->q_cols;
}
int sl_program_kv_cols(const sl_program *p) {
    return p->kv_cols;
}
float sl_program_scale(const sl_program *p) {
    return p->scale;
}

/* Logits of wanted rows [from, from + n). */
static sl_status compute_logits(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                                const void *hidden, int from, int n) {
    const sl_model_config *c = p->config;
    const sl_backend_ops *op = p->be->ops;
    const void *x = p->picked;
    SL_TRY(op->gather(p->be, p->picked, hidden, rows->wanted + from, n, c->hidden));
    if (c->final_norm)
        SL_TRY(
            norm(p, p->picked, p->picked, w, SL_ROLE_FINAL_NORM_GAIN, SL_ROLE_FINAL_NORM_BIAS, n));
    if (has_projections(c)) {
        SL_TRY(op->linear(p->be, p->projected, c->embed_dim, p->picked,
                          &w->matrix[SL_ROLE_PROJECT_OUT], NULL, n, 0));
        x = p->projected;
    }
    return op->logits(p->be, p->logits, x, &w->matrix[SL_ROLE_HEAD], n);
}

sl_status sl_program_head(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                          const void *hidden, const sl_choice_ask *ask, sl_choice *out) {
    for (int i = 0; i < rows->n_wanted; i += p->logits_rows) {
        const int left = rows->n_wanted - i;
        const int n = left < p->logits_rows ? left : p->logits_rows;
        SL_TRY(compute_logits(p, w, rows, hidden, i, n));
        SL_TRY(p->be->ops->choose(p->be, p->logits, n, p->config->vocab, ask + i, out + i));
    }
    return SL_OK;
}

int sl_program_can_begin_head(const sl_program *p, int n_wanted) {
    return p->be->ops->choose_begin != NULL && n_wanted <= p->logits_rows;
}

sl_status sl_program_begin_head(sl_program *p, const sl_layer_weights *w, const sl_rows *rows,
                                const void *hidden, const sl_choice_ask *ask) {
    const int n = rows->n_wanted;
    if (n == 0) return SL_OK;
    SL_TRY(compute_logits(p, w, rows, hidden, 0, n));
    return p->be->ops->choose_begin(p->be, p->logits, n, p->config->vocab, ask);
}

sl_status sl_program_end_head(sl_program *p, int n, const sl_choice_ask *ask, sl_choice *out) {
    return n > 0 ? p->be->ops->choose_end(p->be, n, p->config->vocab, ask, out) : SL_OK;
}
