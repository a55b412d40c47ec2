#include "measure_gemm.h"

#include <stdlib.h>

#include "base/half.h"
#include "base/rng.h"
#include "measure_pages.h"
#include "model/pack.h"

/* Closer where kernels change: packed weights are decoded on the way up to 64 rows (CUDA), and
 * unpacked once above. */
static const int n_rows_at[] = {1, 4, 8, 16, 32, 64, 65, 128, 256, 512, 1024, 2048, 4096};
enum { N_AT = sizeof n_rows_at / sizeof n_rows_at[0] };

/* Copies of the matrix take turns, so that no cache holds the weights. */
enum { MOST_COPIES = 64, MATRIX_BYTES = 256 << 20, SAMPLE_ROWS = 64 };

typedef struct {
    sl_measure *m;
    int outputs, cols, most_rows;
    void *x, *y;  /* where the backend computes: [most_rows, cols], [most_rows, outputs] */
    void *sample; /* host: [SAMPLE_ROWS, cols] of the format at hand */
    void *weights;
    sl_slab slab[MOST_COPIES];
    sl_weight weight[MOST_COPIES];
    int n_copies, n_rows;
} gemm_bench;

static sl_status multiply(void *context, int run) {
    const gemm_bench *b = context;
    sl_backend *be = b->m->be;
    return be->ops->linear(be, b->y, b->outputs, b->x, &b->weight[run % b->n_copies], NULL,
                           b->n_rows, 0);
}

static sl_status add(void *context, int run) {
    const gemm_bench *b = context;
    (void)run;
    return b->m->be->ops->add(b->m->be, b->y, b->x, b->most_rows, b->cols);
}

/* Rows of near-normal size, in the format. */
static void make_sample(const gemm_bench *b, sl_dtype dtype, size_t row_bytes, float *row) {
    for (int r = 0; r < SAMPLE_ROWS; r++) {
        char *to = (char *)b->sample + (size_t)r * row_bytes;
        for (int c = 0; c < b->cols; c++)
            row[c] = 0.1f * (float)(sl_rng_unit(sl_rng_at((uint64_t)r, (uint64_t)c)) - 0.5);
        if (sl_dtype_group_bits(dtype)) {
            sl_pack_row(to, row, dtype, b->cols);
            continue;
        }
        for (int c = 0; c < b->cols; c++) ((sl_f16 *)(void *)to)[c] = sl_f32_to_f16(row[c]);
    }
}

/* Weights of a format in one run of memory, the sample over and over. */
static sl_status use_format(gemm_bench *b, sl_dtype dtype) {
    size_t row_bytes;
    SL_TRY(sl_dtype_row_bytes(dtype, b->cols, &row_bytes));
    float *row = malloc((size_t)b->cols * sizeof *row);
    if (!row) return SL_FAIL(SL_ERR_NOMEM, "a row of %d columns: out of host memory", b->cols);
    make_sample(b, dtype, row_bytes, row);
    free(row);

    const size_t bytes = (size_t)b->outputs * row_bytes, room = sl_measure_room(b->m) / 2;
    const size_t wanted = room < MATRIX_BYTES ? room : MATRIX_BYTES;
    b->n_copies = wanted / bytes < 1             ? 1
                  : wanted / bytes > MOST_COPIES ? MOST_COPIES
                                                 : (int)(wanted / bytes);
    SL_TRY(sl_measure_take(b->m, (size_t)b->n_copies * bytes, "weights", &b->weights));
    const size_t sample_bytes = SAMPLE_ROWS * row_bytes;
    for (size_t at = 0; at < (size_t)b->n_copies * bytes; at += sample_bytes)
        SL_TRY(sl_measure_upload(b->m, (char *)b->weights + at, b->sample, sample_bytes));
    for (int i = 0; i < b->n_copies; i++) {
        b->slab[i] = (sl_slab){.dtype = dtype,
                               .n_rows = b->outputs,
                               .cols = b->cols,
                               .row_bytes = row_bytes,
                               .data = (char *)b->weights + (size_t)i * bytes};
        b->weight[i] = (sl_weight){b->outputs, b->cols, 1, &b->slab[i]};
    }
    return SL_OK;
}

static sl_status measure_rows(gemm_bench *b, int f, sl_curve *out) {
    double s = 0.0;
    for (int i = 0; i < N_AT && n_rows_at[i] <= b->most_rows; i++) {
        /* Larger products take about as many times longer; on slow machines that is too long, and
         * the rate has long ceased to rise. */
        if (i > 0 && s * n_rows_at[i] / b->n_rows > 4.0 * b->m->opt->sample_s) break;
        b->n_rows = n_rows_at[i];
        SL_TRY(sl_measure_time(b->m, multiply, b, &s));
        const double flop = 2.0 * b->n_rows * b->outputs * b->cols;
        SL_TRY(sl_curve_add(out, b->n_rows, sl_measure_round(flop / s)));
        sl_measure_point(b->m, f * N_AT + i + 1, SL_PROFILE_FORMATS * N_AT + 1);
        if (sl_measure_is_late(b->m)) break;
    }
    return SL_OK;
}

static sl_status measure_formats(gemm_bench *b, sl_profile *p) {
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    double s;
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        sl_status st = use_format(b, dtypes[f]);
        if (st == SL_OK) st = measure_rows(b, f, &p->gemm_flops[f]);
        const sl_status waited = sl_measure_wait(b->m);
        sl_measure_put(b->m, b->weights);
        b->weights = NULL;
        SL_TRY(st);
        SL_TRY(waited);
    }
    SL_TRY(sl_measure_time(b->m, add, b, &s));
    /* y is read and written, x read. */
    const double bytes = 3.0 * b->most_rows * b->cols * (double)b->m->be->ops->act_bytes;
    p->memory_bps = sl_measure_round(bytes / s);
    return SL_OK;
}

/* [16384, 4096] is the largest matrix of a 4096-wide OPT.  Where memory is scarce they shrink. */
static sl_status choose_shape(gemm_bench *b) {
    static const struct {
        int outputs, cols, most_rows;
    } shapes[] = {{16384, 4096, 4096},
                  {4096, 4096, 4096},
                  {4096, 4096, 512},
                  {1024, 1024, 256},
                  {256, 256, 64}};
    const size_t act = b->m->be->ops->act_bytes, room = sl_measure_room(b->m);
    enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };
    for (int i = b->m->device ? 0 : 1; i < N_SHAPES; i++) {
        b->outputs = shapes[i].outputs;
        b->cols = shapes[i].cols;
        b->most_rows = shapes[i].most_rows;
        const size_t matrix = (size_t)b->outputs * (size_t)b->cols * sizeof(sl_f16);
        const size_t rows = (size_t)b->most_rows * (size_t)(b->outputs + b->cols) * act;
        /* The backend's own buffers for as many rows come out of host memory, too. */
        if (2 * (matrix + rows) <= room) return SL_OK;
    }
    return SL_FAIL(SL_ERR_NOMEM, "measuring products needs more than %zu bytes", room);
}

sl_status sl_measure_gemm(sl_measure *m, sl_profile *profile) {
    gemm_bench b = {.m = m};
    sl_status st = SL_OK;
    SL_TRY(choose_shape(&b));
    const size_t act = m->be->ops->act_bytes;
    b.sample = malloc((size_t)SAMPLE_ROWS * (size_t)b.cols * sizeof(float));
    if (!b.sample) return SL_FAIL(SL_ERR_NOMEM, "sample weights: out of host memory");
    SL_GO(sl_measure_take(m, (size_t)b.most_rows * (size_t)b.cols * act, "rows", &b.x));
    SL_GO(sl_measure_take(m, (size_t)b.most_rows * (size_t)b.outputs * act, "rows", &b.y));
    SL_GO(sl_measure_fill_rows(m, b.x, b.most_rows, b.cols));
    SL_GO(sl_measure_fill_rows(m, b.y, b.most_rows, b.cols)); /* of a sum, too: cols <= outputs */
    SL_GO(measure_formats(&b, profile));

fail:
    sl_measure_put(m, b.y);
    sl_measure_put(m, b.x);
    free(b.sample);
    return st;
}
