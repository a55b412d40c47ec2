#include "cpu/cpu_ops.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/sampler.h"
#include "model/quant.h"

/* The stored bytes of row `row`; slabs are in row order and cover the matrix. */
static const void *row_of(const sl_weight *w, int row, sl_dtype *dtype_out) {
    int low = 0, high = w->n_slabs - 1;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        if (w->slabs[middle].row0 <= row)
            low = middle;
        else
            high = middle - 1;
    }
    const sl_slab *slab = &w->slabs[low];
    *dtype_out = slab->dtype;
    return (const char *)slab->data + (size_t)(row - slab->row0) * slab->row_bytes;
}

typedef struct {
    const sl_cpu *cpu;
    float *y;
    const sl_weight *table;
    const int32_t *id;
    int offset;
} table_rows;

static void embed_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const table_rows *t = context;
    const int cols = t->table->cols;
    for (int r = begin; r < end; r++) {
        sl_dtype dtype;
        const void *stored = row_of(t->table, t->id[r], &dtype);
        sl_dequantize_row(t->y + (size_t)r * (size_t)cols, stored, dtype, cols);
    }
}

void sl_cpu_embed(sl_cpu *cpu, float *y, const sl_weight *token_table, const sl_rows *rows) {
    table_rows t = {.cpu = cpu, .y = y, .table = token_table, .id = rows->token};
    sl_cpu_for_rows(cpu, (double)rows->n_rows * token_table->cols, rows->n_rows, embed_rows, &t);
}

static void add_position_rows(void *context, int begin, int end, int thread) {
    const table_rows *t = context;
    const int cols = t->table->cols;
    float *row = sl_cpu_own(t->cpu, thread);
    for (int r = begin; r < end; r++) {
        float *yr = t->y + (size_t)r * (size_t)cols;
        sl_dtype dtype;
        const void *stored = row_of(t->table, t->id[r] + t->offset, &dtype);
        sl_dequantize_row(row, stored, dtype, cols);
        for (int c = 0; c < cols; c++) yr[c] += row[c];
    }
}

sl_status sl_cpu_add_positions(sl_cpu *cpu, float *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows) {
    const int cols = pos_table->cols;
    SL_TRY(sl_cpu_reserve_own(cpu, (size_t)cols * sizeof(float), "position rows"));
    table_rows t = {
        .cpu = cpu, .y = y, .table = pos_table, .id = rows->position, .offset = position_offset};
    sl_cpu_for_rows(cpu, (double)rows->n_rows * cols, rows->n_rows, add_position_rows, &t);
    return SL_OK;
}

/* Eight partial sums in a fixed order: vectorised alike everywhere, and more exact than one. */
enum { LANES = 8 };

static double lanes_total(const double *lane) {
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

static double row_mean(const float *x, int cols) {
    double lane[LANES] = {0};
    int c = 0;
    for (; c + LANES <= cols; c += LANES)
        for (int i = 0; i < LANES; i++) lane[i] += x[c + i];
    for (; c < cols; c++) lane[0] += x[c];
    return lanes_total(lane) / cols;
}

static double row_mean_square(const float *x, double mean, int cols) {
    double lane[LANES] = {0};
    int c = 0;
    for (; c + LANES <= cols; c += LANES) {
        for (int i = 0; i < LANES; i++) {
            const double d = x[c + i] - mean;
            lane[i] += d * d;
        }
    }
    for (; c < cols; c++) lane[0] += (x[c] - mean) * (x[c] - mean);
    return lanes_total(lane) / cols;
}

typedef struct {
    float *y;
    const float *x, *gain, *bias;
    sl_norm_kind kind;
    float eps;
    int cols;
} norm_args;

static void norm_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const norm_args *n = context;
    const float *gain = n->gain, *bias = n->bias;
    const int cols = n->cols;
    for (int r = begin; r < end; r++) {
        const float *x = n->x + (size_t)r * (size_t)cols;
        float *y = n->y + (size_t)r * (size_t)cols;
        const double mean = n->kind == SL_NORM_LAYER ? row_mean(x, cols) : 0.0;
        const double square = row_mean_square(x, mean, cols);
        const float shift = (float)mean;
        const float scale = (float)(1.0 / sqrt(square + (double)n->eps));
        if (gain && bias) {
            for (int c = 0; c < cols; c++) y[c] = (x[c] - shift) * scale * gain[c] + bias[c];
        } else if (gain) {
            for (int c = 0; c < cols; c++) y[c] = (x[c] - shift) * scale * gain[c];
        } else {
            for (int c = 0; c < cols; c++) {
                const float v = (x[c] - shift) * scale;
                y[c] = bias ? v + bias[c] : v;
            }
        }
    }
}

void sl_cpu_norm(sl_cpu *cpu, float *y, const float *x, const float *gain, const float *bias,
                 sl_norm_kind kind, float eps, int n_rows, int cols) {
    norm_args n = {
        .y = y, .x = x, .gain = gain, .bias = bias, .kind = kind, .eps = eps, .cols = cols};
    sl_cpu_for_rows(cpu, (double)n_rows * cols, n_rows, norm_rows, &n);
}

/* Positions whose angles are kept: 8192 x 64 pairs are 4 MiB.  Later ones are computed anew. */
enum { ROPE_POSITIONS_MAX = 8192 };

typedef struct {
    float *x;
    int ldx, n_heads, half;
    const float *freq;  /* [half] */
    const float *table; /* [n_table, half] pairs of cosine and sine */
    int n_table;
    const int32_t *position;
} rope_args;

/* cosine_sine: [half] pairs */
static void rope_angles(float *cosine_sine, int position, const float *inv_freq, int half) {
    for (int i = 0; i < half; i++) {
        const float angle = (float)position * inv_freq[i]; /* rounded to float32, as in HF */
        cosine_sine[2 * i] = cosf(angle);
        cosine_sine[2 * i + 1] = sinf(angle);
    }
}

static void fill_angles(void *context, int begin, int end, int thread) {
    (void)thread;
    const rope_args *a = context;
    float *table = a->x;
    for (int p = begin; p < end; p++)
        rope_angles(table + (size_t)p * 2 * (size_t)a->half, p, a->freq, a->half);
}

/* Makes the table cover the rows' positions below ROPE_POSITIONS_MAX.  Every layer of every sweep
 * asks for the same angles, and a cosine costs more than the rotation it serves. */
static sl_status rope_prepare(sl_cpu *cpu, const float *inv_freq, int half, const sl_rows *rows) {
    const size_t freq_bytes = (size_t)half * sizeof *inv_freq;
    if (cpu->rope_half != half || memcmp(cpu->rope_freq.data, inv_freq, freq_bytes) != 0) {
        cpu->rope_half = 0;
        cpu->rope_positions = 0;
        SL_TRY(sl_cpu_reserve(&cpu->rope_freq, freq_bytes, "rotary frequencies"));
        memcpy(cpu->rope_freq.data, inv_freq, freq_bytes);
        cpu->rope_half = half;
    }
    int n = 0;
    for (int r = 0; r < rows->n_rows; r++)
        if (rows->position[r] >= n) n = rows->position[r] + 1;
    if (n > ROPE_POSITIONS_MAX) n = ROPE_POSITIONS_MAX;
    if (n <= cpu->rope_positions) return SL_OK;

    int room = 256;
    while (room < n) room *= 2;
    cpu->rope_positions = 0;
    SL_TRY(sl_cpu_reserve(&cpu->rope_table, (size_t)room * 2 * freq_bytes, "rotary angles"));
    rope_args a = {.x = cpu->rope_table.data, .half = half, .freq = inv_freq};
    sl_cpu_for_rows(cpu, 64.0 * room * half, room, fill_angles, &a);
    cpu->rope_positions = room;
    return SL_OK;
}

static void rotate(float *head, const float *cosine_sine, int half) {
    for (int i = 0; i < half; i++) {
        const float c = cosine_sine[2 * i], s = cosine_sine[2 * i + 1];
        const float a = head[i], b = head[i + half];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

static void rope_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const rope_args *a = context;
    for (int r = begin; r < end; r++) {
        float late[SL_MAX_HEAD_DIM];
        const float *angles = late;
        if (a->position[r] < a->n_table)
            angles = a->table + (size_t)a->position[r] * 2 * (size_t)a->half;
        else
            rope_angles(late, a->position[r], a->freq, a->half);
        float *head = a->x + (size_t)r * (size_t)a->ldx;
        for (int h = 0; h < a->n_heads; h++, head += 2 * a->half) rotate(head, angles, a->half);
    }
}

sl_status sl_cpu_rope(sl_cpu *cpu, float *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows) {
    SL_TRY(rope_prepare(cpu, inv_freq, head_dim / 2, rows));
    rope_args a = {.x = x,
                   .ldx = ldx,
                   .n_heads = n_heads,
                   .half = head_dim / 2,
                   .freq = inv_freq,
                   .table = cpu->rope_table.data,
                   .n_table = cpu->rope_positions,
                   .position = rows->position};
    sl_cpu_for_rows(cpu, (double)rows->n_rows * n_heads * head_dim, rows->n_rows, rope_rows, &a);
    return SL_OK;
}

static float activation(sl_activation act, float x) {
    switch (act) {
    case SL_ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* keeps NaN */
    case SL_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * (float)M_SQRT1_2));
    case SL_ACT_GELU_TANH: {
        const float root = (float)(M_2_SQRTPI * M_SQRT1_2); /* sqrt(2/pi) */
        return 0.5f * x * (1.0f + tanhf(root * (x + 0.044715f * x * x * x)));
    }
    case SL_ACT_SILU:
        break; /* has a vector kernel */
    }
    return x / (1.0f + expf(-x));
}

typedef struct {
    const sl_cpu_kernels *kernels;
    float *y;
    const float *g, *u;
    int ld, n_cols;
    sl_activation act;
} activate_args;

static void activate_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const activate_args *a = context;
    for (int r = begin; r < end; r++) {
        const float *g = a->g + (size_t)r * (size_t)a->ld;
        const float *u = a->u ? a->u + (size_t)r * (size_t)a->ld : NULL;
        float *y = a->y + (size_t)r * (size_t)a->n_cols;
        if (a->act == SL_ACT_SILU) {
            a->kernels->silu(y, g, u, a->n_cols);
            continue;
        }
        for (int c = 0; c < a->n_cols; c++) {
            const float v = activation(a->act, g[c]);
            y[c] = u ? v * u[c] : v;
        }
    }
}

void sl_cpu_activate(sl_cpu *cpu, float *y, const float *g, const float *u, int ld,
                     sl_activation act, int n_rows, int n_cols) {
    activate_args a = {
        .kernels = cpu->kernels, .y = y, .g = g, .u = u, .ld = ld, .n_cols = n_cols, .act = act};
    /* In place with gaps between the rows, a row's result lands on its predecessors' inputs, which
     * must have been read by then. */
    if (y == g && ld != n_cols)
        activate_rows(&a, 0, n_rows, 0);
    else
        sl_cpu_for_rows(cpu, 4.0 * n_rows * n_cols, n_rows, activate_rows, &a);
}

typedef struct {
    float *y;
    const float *x;
    const int32_t *index;
    int cols;
} row_args;

static void add_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const row_args *a = context;
    const size_t last = (size_t)end * (size_t)a->cols;
    float *y = a->y;
    const float *x = a->x;
    for (size_t i = (size_t)begin * (size_t)a->cols; i < last; i++) y[i] += x[i];
}

void sl_cpu_add(sl_cpu *cpu, float *y, const float *x, int n_rows, int cols) {
    row_args a = {.y = y, .x = x, .cols = cols};
    sl_cpu_for_rows(cpu, (double)n_rows * cols, n_rows, add_rows, &a);
}

static void gather_rows(void *context, int begin, int end, int thread) {
    (void)thread;
    const row_args *a = context;
    const size_t cols = (size_t)a->cols;
    for (int i = begin; i < end; i++)
        memcpy(a->y + (size_t)i * cols, a->x + (size_t)a->index[i] * cols, cols * sizeof *a->y);
}

void sl_cpu_gather(sl_cpu *cpu, float *y, const float *x, const int32_t *index, int n, int cols) {
    row_args a = {.y = y, .x = x, .index = index, .cols = cols};
    sl_cpu_for_rows(cpu, (double)n * cols, n, gather_rows, &a);
}

typedef struct {
    const sl_cpu *cpu;
    float *logits;
    int vocab;
    const sl_choice_ask *ask;
    sl_choice *out;
    pthread_mutex_t lock; /* of what follows */
    int failed_row;
    sl_status status;
    char message[1024];
} choose_args;

static void choose_row(void *context, int row, int thread) {
    choose_args *a = context;
    const sl_status st = sl_sampler_choose(a->logits + (size_t)row * (size_t)a->vocab, a->vocab,
                                           &a->ask[row], sl_cpu_own(a->cpu, thread), &a->out[row]);
    if (st == SL_OK) return;
    pthread_mutex_lock(&a->lock);
    if (a->status == SL_OK || row < a->failed_row) {
        a->failed_row = row;
        a->status = st;
        /* The message lies with the thread that met it. */
        snprintf(a->message, sizeof a->message, "%s", sl_error_message());
    }
    pthread_mutex_unlock(&a->lock);
}

sl_status sl_cpu_choose(sl_cpu *cpu, float *logits, int n_rows, int vocab, const sl_choice_ask *ask,
                        sl_choice *out) {
    SL_TRY(sl_cpu_reserve_own(cpu, sl_sampler_scratch_bytes(vocab), "the sampler"));
    choose_args a = {.cpu = cpu,
                     .logits = logits,
                     .vocab = vocab,
                     .ask = ask,
                     .out = out,
                     .lock = PTHREAD_MUTEX_INITIALIZER};
    sl_cpu_team_run(cpu->team, n_rows, choose_row, &a);
    pthread_mutex_destroy(&a.lock);
    return a.status == SL_OK ? SL_OK : sl_fail_text(a.status, a.message);
}
