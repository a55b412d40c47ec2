#include "cpu/cpu_ops.h"

#include <math.h>
#include <omp.h>
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

void sl_cpu_embed(sl_cpu *cpu, float *y, const sl_weight *token_table, const sl_rows *rows) {
    const int cols = token_table->cols;
    const int team = sl_cpu_team(cpu, (double)rows->n_rows * cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < rows->n_rows; r++) {
        sl_dtype dtype;
        const void *stored = row_of(token_table, rows->token[r], &dtype);
        sl_dequantize_row(y + (size_t)r * (size_t)cols, stored, dtype, cols);
    }
}

sl_status sl_cpu_add_positions(sl_cpu *cpu, float *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows) {
    const int cols = pos_table->cols;
    SL_TRY(sl_cpu_reserve_own(cpu, (size_t)cols * sizeof(float), "position rows"));
    const int team = sl_cpu_team(cpu, (double)rows->n_rows * cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < rows->n_rows; r++) {
        float *row = sl_cpu_own(cpu, omp_get_thread_num());
        float *yr = y + (size_t)r * (size_t)cols;
        sl_dtype dtype;
        const void *stored = row_of(pos_table, rows->position[r] + position_offset, &dtype);
        sl_dequantize_row(row, stored, dtype, cols);
        for (int c = 0; c < cols; c++) yr[c] += row[c];
    }
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

void sl_cpu_norm(sl_cpu *cpu, float *y, const float *x, const float *gain, const float *bias,
                 sl_norm_kind kind, float eps, int n_rows, int cols) {
    const int team = sl_cpu_team(cpu, (double)n_rows * cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < n_rows; r++) {
        const float *xr = x + (size_t)r * (size_t)cols;
        float *yr = y + (size_t)r * (size_t)cols;
        const double mean = kind == SL_NORM_LAYER ? row_mean(xr, cols) : 0.0;
        const double square = row_mean_square(xr, mean, cols);
        const float shift = (float)mean;
        const float scale = (float)(1.0 / sqrt(square + (double)eps));
        if (gain && bias) {
            for (int c = 0; c < cols; c++) yr[c] = (xr[c] - shift) * scale * gain[c] + bias[c];
        } else if (gain) {
            for (int c = 0; c < cols; c++) yr[c] = (xr[c] - shift) * scale * gain[c];
        } else {
            for (int c = 0; c < cols; c++) {
                const float v = (xr[c] - shift) * scale;
                yr[c] = bias ? v + bias[c] : v;
            }
        }
    }
}

/* Positions whose angles are kept: 8192 x 64 pairs are 4 MiB.  Later ones are computed anew. */
enum { ROPE_POSITIONS_MAX = 8192 };

/* cosine_sine: [head_dim/2] pairs */
static void rope_angles(float *cosine_sine, int position, const float *inv_freq, int half) {
    for (int i = 0; i < half; i++) {
        const float angle = (float)position * inv_freq[i]; /* rounded to float32, as in HF */
        cosine_sine[2 * i] = cosf(angle);
        cosine_sine[2 * i + 1] = sinf(angle);
    }
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
    float *table = cpu->rope_table.data;
#pragma omp parallel for num_threads(cpu->n_threads) schedule(static)
    for (int p = 0; p < room; p++)
        rope_angles(table + (size_t)p * 2 * (size_t)half, p, inv_freq, half);
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

sl_status sl_cpu_rope(sl_cpu *cpu, float *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows) {
    const int half = head_dim / 2;
    SL_TRY(rope_prepare(cpu, inv_freq, half, rows));
    const float *table = cpu->rope_table.data;
    const int n_table = cpu->rope_positions;
    const int team = sl_cpu_team(cpu, (double)rows->n_rows * n_heads * head_dim);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < rows->n_rows; r++) {
        float late[SL_MAX_HEAD_DIM];
        const float *angles = late;
        if (rows->position[r] < n_table)
            angles = table + (size_t)rows->position[r] * 2 * (size_t)half;
        else
            rope_angles(late, rows->position[r], inv_freq, half);
        for (int h = 0; h < n_heads; h++)
            rotate(x + (size_t)r * (size_t)ldx + (size_t)h * (size_t)head_dim, angles, half);
    }
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

void sl_cpu_activate(sl_cpu *cpu, float *y, const float *g, const float *u, int ld,
                     sl_activation act, int n_rows, int n_cols) {
    /* In place with gaps between the rows, a row's result lands on its predecessors' inputs, which
     * must have been read by then. */
    const int in_order = y == g && ld != n_cols;
    const int team = in_order ? 1 : sl_cpu_team(cpu, 4.0 * n_rows * n_cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < n_rows; r++) {
        const float *gr = g + (size_t)r * (size_t)ld;
        const float *ur = u ? u + (size_t)r * (size_t)ld : NULL;
        float *yr = y + (size_t)r * (size_t)n_cols;
        if (act == SL_ACT_SILU) {
            cpu->kernels->silu(yr, gr, ur, n_cols);
            continue;
        }
        for (int c = 0; c < n_cols; c++) {
            const float a = activation(act, gr[c]);
            yr[c] = ur ? a * ur[c] : a;
        }
    }
}

void sl_cpu_add(sl_cpu *cpu, float *y, const float *x, int n_rows, int cols) {
    const int team = sl_cpu_team(cpu, (double)n_rows * cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int r = 0; r < n_rows; r++) {
        float *yr = y + (size_t)r * (size_t)cols;
        const float *xr = x + (size_t)r * (size_t)cols;
        for (int c = 0; c < cols; c++) yr[c] += xr[c];
    }
}

void sl_cpu_gather(sl_cpu *cpu, float *y, const float *x, const int32_t *index, int n, int cols) {
    const int team = sl_cpu_team(cpu, (double)n * cols);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int i = 0; i < n; i++)
        memcpy(y + (size_t)i * (size_t)cols, x + (size_t)index[i] * (size_t)cols,
               (size_t)cols * sizeof *y);
}

sl_status sl_cpu_choose(sl_cpu *cpu, float *logits, int n_rows, int vocab, const sl_choice_ask *ask,
                        sl_choice *out) {
    SL_TRY(sl_cpu_reserve_own(cpu, sl_sampler_scratch_bytes(vocab), "the sampler"));
    sl_status first_status = SL_OK;
    int first_row = n_rows;
    char message[1024] = "";
    const int team = sl_cpu_team(cpu, 8.0 * n_rows * vocab);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int r = 0; r < n_rows; r++) {
        const sl_status st = sl_sampler_choose(logits + (size_t)r * (size_t)vocab, vocab, &ask[r],
                                               sl_cpu_own(cpu, omp_get_thread_num()), &out[r]);
        if (st == SL_OK) continue;
#pragma omp critical(sl_cpu_choose_failure)
        {
            if (r < first_row) {
                first_row = r;
                first_status = st;
                snprintf(message, sizeof message, "%s", sl_error_message());
            }
        }
    }
    /* The message lies with the thread that met it. */
    return first_status == SL_OK ? SL_OK : sl_fail_text(first_status, message);
}
