#include "measure_gemm.h"

#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "measure_pages.h"
#include "model/pack.h"

/* Closer where kernels change: CUDA decodes packed weights in registers up to 16 and 32 rows, by
 * tiles of 64 up to 128, and unpacks them once above; Hopper has tiles of 64, 128, 192 and 256 from
 * 17 rows on.  Between numbers of rows that fill tiles a part of the last one is for nothing, which
 * sweeps of any number of rows pay. */
static const int rows_at[] = {1,   4,   8,   16,  17,  32,  33,   64,   65,  128,
                              129, 192, 256, 384, 512, 768, 1024, 2048, 4096};
/* Of the other sizes: every point takes a third of a second. */
static const int some_rows_at[] = {1,   4,   16,  17,  32,  33,  64,  65,
                                   128, 129, 192, 256, 384, 512, 2048};
enum {
    N_AT = sizeof rows_at / sizeof rows_at[0],
    N_SOME_AT = sizeof some_rows_at / sizeof some_rows_at[0]
};

/* Copies of the matrix take turns, so that no cache holds the weights. */
enum { MOST_COPIES = 64, MATRIX_BYTES = 256 << 20, SAMPLE_ROWS = 64 };

typedef struct {
    int outputs, cols, most_rows;
} product_shape;

typedef struct {
    sl_measure *m;
    const int *rows_at;
    int n_at, outputs, cols, most_rows;
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
    for (int i = 0; i < b->n_at && b->rows_at[i] <= b->most_rows; i++) {
        /* Larger products take about as many times longer; on slow machines that is too long, and
         * the rate has long ceased to rise. */
        if (i > 0 && s * b->rows_at[i] / b->n_rows > 4.0 * b->m->opt->sample_s) break;
        b->n_rows = b->rows_at[i];
        SL_TRY(sl_measure_time(b->m, multiply, b, &s));
        const double flop = 2.0 * b->n_rows * b->outputs * b->cols;
        SL_TRY(sl_curve_add(out, b->n_rows, sl_measure_round(flop / s)));
        sl_measure_point(b->m, f * b->n_at + i + 1, SL_PROFILE_FORMATS * b->n_at + 1);
        if (sl_measure_is_late(b->m)) break;
    }
    return SL_OK;
}

static sl_status measure_formats(gemm_bench *b, sl_curve *out) {
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        sl_status st = use_format(b, dtypes[f]);
        if (st == SL_OK) st = measure_rows(b, f, &out[f]);
        const sl_status waited = sl_measure_wait(b->m);
        sl_measure_put(b->m, b->weights);
        b->weights = NULL;
        SL_TRY(st);
        SL_TRY(waited);
    }
    return SL_OK;
}

static sl_status measure_memory(gemm_bench *b, sl_profile *p) {
    double s;
    SL_TRY(sl_measure_time(b->m, add, b, &s));
    /* y is read and written, x read. */
    const double bytes = 3.0 * b->most_rows * b->cols * (double)b->m->be->ops->act_bytes;
    p->memory_bps = sl_measure_round(bytes / s);
    return SL_OK;
}

static int fits(const sl_measure *m, const product_shape *shape) {
    const size_t act = m->be->ops->act_bytes, outputs = (size_t)shape->outputs;
    const size_t cols = (size_t)shape->cols, matrix = outputs * cols * sizeof(sl_f16);
    const size_t rows = (size_t)shape->most_rows * (outputs + cols) * act;
    /* The backend's own buffers for as many rows come out of host memory, too. */
    return 2 * (matrix + rows) <= sl_measure_room(m);
}

/* The largest matrix of a 4096-wide OPT. */
static const product_shape medium = {16384, 4096, 4096};

/* Where memory is scarce they shrink. */
static sl_status choose_shape(const sl_measure *m, product_shape *out) {
    static const product_shape smaller[] = {
        {4096, 4096, 4096}, {4096, 4096, 512}, {1024, 1024, 256}, {256, 256, 64}};
    enum { N_SMALLER = sizeof smaller / sizeof smaller[0] };
    if (m->device && fits(m, &medium)) {
        *out = medium;
        return SL_OK;
    }
    for (int i = 0; i < N_SMALLER; i++) {
        if (!fits(m, &smaller[i])) continue;
        *out = smaller[i];
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_NOMEM, "measuring products needs more than %zu bytes",
                   sl_measure_room(m));
}

static void close_bench(gemm_bench *b) {
    sl_measure_put(b->m, b->y);
    sl_measure_put(b->m, b->x);
    free(b->sample);
}

static sl_status open_bench(sl_measure *m, const product_shape *shape, gemm_bench *out) {
    sl_status st = SL_OK;
    gemm_bench b = {.m = m,
                    .rows_at = rows_at,
                    .n_at = N_AT,
                    .outputs = shape->outputs,
                    .cols = shape->cols,
                    .most_rows = shape->most_rows};
    const size_t act = m->be->ops->act_bytes;
    b.sample = malloc((size_t)SAMPLE_ROWS * (size_t)b.cols * sizeof(float));
    if (!b.sample) return SL_FAIL(SL_ERR_NOMEM, "sample weights: out of host memory");
    SL_GO(sl_measure_take(m, (size_t)b.most_rows * (size_t)b.cols * act, "rows", &b.x));
    SL_GO(sl_measure_take(m, (size_t)b.most_rows * (size_t)b.outputs * act, "rows", &b.y));
    SL_GO(sl_measure_fill_rows(m, b.x, b.most_rows, b.cols));
    *out = b;
    return SL_OK;

fail:
    close_bench(&b);
    return st;
}

sl_status sl_measure_gemm(sl_measure *m, sl_profile *profile) {
    product_shape shape;
    gemm_bench b;
    SL_TRY(choose_shape(m, &shape));
    SL_TRY(open_bench(m, &shape, &b));
    sl_status st = measure_formats(&b, profile->gemm_flops);
    /* y is of a sum, too: cols <= outputs */
    if (st == SL_OK) st = sl_measure_fill_rows(m, b.y, b.most_rows, b.cols);
    if (st == SL_OK) st = measure_memory(&b, profile);
    close_bench(&b);
    return st;
}

/* Where gemm_flops is of its shape, too.  A curve that ended early would tell less than none. */
static sl_status measure_size(sl_measure *m, const product_shape *shape, sl_curve *out) {
    sl_curve curves[SL_PROFILE_FORMATS] = {{0}};
    gemm_bench b;
    if (!m->device || !fits(m, &medium) || !fits(m, shape) || sl_measure_is_late(m)) return SL_OK;
    SL_TRY(open_bench(m, shape, &b));
    b.rows_at = some_rows_at;
    b.n_at = N_SOME_AT;
    const sl_status st = measure_formats(&b, curves);
    close_bench(&b);
    if (st == SL_OK && !sl_measure_is_late(m)) memcpy(out, curves, sizeof curves);
    return st;
}

sl_status sl_measure_gemm_small(sl_measure *m, sl_profile *profile) {
    enum { OUTPUTS = 4096 };
    static const product_shape small = {OUTPUTS, SL_PRODUCT_SMALL_ELEMS / OUTPUTS, 2048};
    return measure_size(m, &small, profile->gemm_small_flops);
}

sl_status sl_measure_gemm_large(sl_measure *m, sl_profile *profile) {
    enum { OUTPUTS = 28672 };
    static const product_shape large = {OUTPUTS, SL_PRODUCT_LARGE_ELEMS / OUTPUTS, 2048};
    return measure_size(m, &large, profile->gemm_large_flops);
}
