/* Matrix products: which kernel a weight and a number of rows take. */
#include "base/bytes.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_linear.h"
#include "cuda/cuda_pointwise.h"
#include "cuda/cuda_state.h"

sl_status sl_cuda_check_weight(const char *op, const sl_weight *w) {
    if (!w || w->n_slabs < 1 || !w->slabs)
        return SL_FAIL(SL_ERR_ARG, "%s with an absent matrix", op);
    if (w->rows < 1 || w->cols < 1)
        return SL_FAIL(SL_ERR_ARG, "%s with a matrix of [%d, %d]", op, w->rows, w->cols);
    int next = 0;
    for (int s = 0; s < w->n_slabs; s++) {
        const sl_slab *slab = &w->slabs[s];
        const sl_dtype dtype = slab->dtype;
        size_t row_bytes;
        if (dtype != SL_DTYPE_F16 && dtype != SL_DTYPE_F32 && dtype != SL_DTYPE_BF16 &&
            !sl_dtype_group_bits(dtype))
            return SL_FAIL(SL_ERR_ARG, "%s: weights of %s are not for the GPU: pack them first", op,
                           sl_dtype_name(dtype));
        SL_TRY(sl_dtype_row_bytes(dtype, w->cols, &row_bytes));
        if (!slab->data || slab->cols != w->cols || slab->row0 != next || slab->n_rows < 1 ||
            slab->n_rows > w->rows - next || slab->row_bytes != row_bytes)
            return SL_FAIL(SL_ERR_ARG,
                           "%s: slab %d has rows [%d, +%d) of %d columns and %zu bytes, expected "
                           "from row %d, within %d, of %d columns and %zu bytes",
                           op, s, slab->row0, slab->n_rows, slab->cols, slab->row_bytes, next,
                           w->rows, w->cols, row_bytes);
        next += slab->n_rows;
    }
    if (next != w->rows)
        return SL_FAIL(SL_ERR_ARG, "%s: slabs hold %d rows of %d", op, next, w->rows);
    return SL_OK;
}

int sl_cuda_next_run(const sl_weight *w, int first, int *n_rows_out) {
    const sl_slab *slab = &w->slabs[first];
    int n_rows = slab->n_rows, next = first + 1;
    for (; next < w->n_slabs; next++) {
        const sl_slab *s = &w->slabs[next];
        const char *behind = (const char *)slab->data + (size_t)n_rows * slab->row_bytes;
        if (s->dtype != slab->dtype || (const char *)s->data != behind) break;
        n_rows += s->n_rows;
    }
    *n_rows_out = n_rows;
    return next;
}

/* A product with f16 weights: cuBLAS, or the plain kernel where that has no algorithm. */
static sl_status multiply_f16(sl_cuda *cuda, const sl_cuda_product *out, const void *x,
                              const sl_cuda_matrix *w, int n) {
    const cudaStream_t stream = sl_cuda_compute(cuda);
    const int fused = out->bias && !out->is_f32 && w->n_rows <= SL_CUDA_MAX_BIAS;
    const void *kept = fused ? sl_cuda_kept_bias(cuda, out->bias, w->n_rows) : NULL;
    const sl_cuda_gemm_task task = {.y = out->y,
                                    .ldy = out->ldy,
                                    .is_f32 = out->is_f32,
                                    .accumulate = out->accumulate,
                                    .x = x,
                                    .w = w->data,
                                    .ldw = w->cols,
                                    .bias = kept    ? kept
                                            : fused ? cuda->bias
                                                    : NULL,
                                    .n = n,
                                    .m = w->n_rows,
                                    .k = w->cols};
    int done = 0;
    if (fused && !kept)
        SL_TRY(sl_cuda_to_f16(cuda->bias, out->bias, SL_DTYPE_F32, (size_t)w->n_rows, stream));
    SL_TRY(sl_cuda_gemm_run(cuda->gemm, &task, stream, &done));
    if (!done) return sl_cuda_linear_any(out, x, w, n, stream);
    if (!out->bias || fused) return SL_OK;
    return sl_cuda_add_bias(out->y, out->ldy, out->is_f32, out->bias, n, w->n_rows, stream);
}

int sl_cuda_chunk_rows(int n, int m, int fit, int n_processors) {
    /* Outputs of a tile, whatever its form, for n rows: tiles are 128 by 256. */
    enum { TILE = 128 };
    if (m <= fit) return m;
    if (fit <= TILE) return fit;
    const int64_t high = (n + TILE - 1) / TILE;
    const int most = fit / TILE * TILE;
    int best = most;
    int64_t best_waves = INT64_MAX;
    for (int count = most; count >= TILE && 2 * count > most; count -= TILE) {
        const int64_t tiles = high * (count / TILE), rest = m % count;
        const int64_t rest_tiles = high * ((rest + TILE - 1) / TILE), at_once = 2 * n_processors;
        const int64_t waves =
            m / count * ((tiles + at_once - 1) / at_once) + (rest_tiles + at_once - 1) / at_once;
        if (waves >= best_waves) continue;
        best_waves = waves;
        best = count;
    }
    return best;
}

/* Writes outputs [first, first + count) of w as f16, [count, cols]. */
static sl_status unpack_outputs(sl_cuda *cuda, const sl_weight *w, int first, int count,
                                size_t row_bytes) {
    for (int s = 0, next; s < w->n_slabs; s = next) {
        const sl_slab *slab = &w->slabs[s];
        int rows;
        next = sl_cuda_next_run(w, s, &rows);
        const int from = first > slab->row0 ? first : slab->row0;
        const int to = first + count < slab->row0 + rows ? first + count : slab->row0 + rows;
        if (from >= to) continue;
        char *at = (char *)cuda->unpacked + (size_t)(from - first) * row_bytes;
        const sl_cuda_matrix packed = {(const char *)slab->data +
                                           (size_t)(from - slab->row0) * slab->row_bytes,
                                       slab->dtype, slab->row_bytes, to - from, w->cols};
        if (sl_dtype_group_bits(slab->dtype))
            SL_TRY(sl_cuda_unpack(at, &packed, sl_cuda_compute(cuda)));
        else
            SL_TRY(sl_cuda_to_f16(at, packed.data, slab->dtype,
                                  (size_t)(to - from) * (size_t)w->cols, sl_cuda_compute(cuda)));
    }
    return SL_OK;
}

/* Makes as many outputs f16 at a time as the buffer holds, from however many slabs they lie in, and
 * multiplies with those. */
static sl_status multiply_unpacked(sl_cuda *cuda, const sl_cuda_product *out, const void *x,
                                   const sl_weight *w, int n) {
    size_t row_bytes;
    SL_TRY(sl_dtype_row_bytes(SL_DTYPE_F16, w->cols, &row_bytes));
    const size_t fit = cuda->unpack_bytes / row_bytes;
    if (fit == 0)
        return SL_FAIL(SL_ERR_ARG, "linear: a row of %zu bytes in a buffer of %zu", row_bytes,
                       cuda->unpack_bytes);
    /* Whole tiles of outputs: the parts of y stay aligned, or cuBLAS gets eight times slower. */
    const int step = sl_cuda_chunk_rows(n, w->rows, fit < (size_t)w->rows ? (int)fit : w->rows,
                                        cuda->n_processors);
    for (int r = 0; r < w->rows; r += step) {
        const int count = w->rows - r < step ? w->rows - r : step;
        const sl_cuda_matrix plain = {cuda->unpacked, SL_DTYPE_F16, row_bytes, count, w->cols};
        sl_cuda_product part = *out;
        part.y = (char *)out->y + (size_t)r * (out->is_f32 ? sizeof(float) : sizeof(uint16_t));
        part.bias = out->bias ? out->bias + r : NULL;
        SL_TRY(unpack_outputs(cuda, w, r, count, row_bytes));
        SL_TRY(multiply_f16(cuda, &part, x, &plain, n));
    }
    return SL_OK;
}

/* How a product of packed weights gets them. */
typedef enum { IN_REGISTERS, IN_FRAGMENTS, IN_TILES, UNPACKED } decoding;

static decoding choose_decoding(const sl_cuda *cuda, const sl_cuda_matrix *w, const void *x,
                                int n) {
    if (cuda->has_wgmma && n >= SL_CUDA_WGMMA_LEAST_ROWS && n <= SL_CUDA_WGMMA_ROWS &&
        sl_cuda_linear_wgmma_takes(w, x, cuda->unpack_bytes))
        return IN_FRAGMENTS;
    const int has_tiles = cuda->has_mid && sl_cuda_linear_mid_takes(w, x);
    if (sl_cuda_linear_few_takes(w, x, n) && (n <= SL_CUDA_TILE_LEAST_ROWS || !has_tiles))
        return IN_REGISTERS;
    return has_tiles && n <= SL_CUDA_MID_ROWS ? IN_TILES : UNPACKED;
}

/* Whether all of w is to be unpacked before it multiplies n rows. */
static int wants_unpacking(const sl_cuda *cuda, const sl_weight *w, const void *x, int n) {
    for (int s = 0, next; s < w->n_slabs; s = next) {
        const sl_slab *slab = &w->slabs[s];
        int count;
        next = sl_cuda_next_run(w, s, &count);
        const sl_cuda_matrix matrix = {slab->data, slab->dtype, slab->row_bytes, count, w->cols};
        if (slab->dtype == SL_DTYPE_F16 || choose_decoding(cuda, &matrix, x, n) != UNPACKED)
            return 0;
    }
    return 1;
}

/* Each run of slabs by itself. */
static sl_status multiply_runs(sl_cuda *cuda, const sl_cuda_product *whole, const void *x,
                               const sl_weight *w, int n) {
    for (int s = 0, next; s < w->n_slabs; s = next) {
        const sl_slab *slab = &w->slabs[s];
        int count;
        next = sl_cuda_next_run(w, s, &count);
        const sl_cuda_matrix matrix = {slab->data, slab->dtype, slab->row_bytes, count, w->cols};
        sl_cuda_product out = *whole;
        out.y = (char *)whole->y +
                (size_t)slab->row0 * (whole->is_f32 ? sizeof(float) : sizeof(uint16_t));
        out.bias = whole->bias ? whole->bias + slab->row0 : NULL;
        if (slab->dtype == SL_DTYPE_F16) {
            SL_TRY(multiply_f16(cuda, &out, x, &matrix, n));
            continue;
        }
        const decoding how = choose_decoding(cuda, &matrix, x, n);
        if (how == IN_REGISTERS) {
            SL_TRY(sl_cuda_linear_few(&out, x, &matrix, n, cuda->unpacked, cuda->unpack_bytes,
                                      sl_cuda_compute(cuda)));
        } else if (how == IN_FRAGMENTS) {
            SL_TRY(sl_cuda_linear_wgmma(&out, x, &matrix, n, cuda->unpacked, cuda->unpack_bytes,
                                        sl_cuda_compute(cuda)));
        } else if (how == IN_TILES) {
            SL_TRY(sl_cuda_linear_mid(&out, x, &matrix, n, cuda->unpacked, cuda->unpack_bytes,
                                      sl_cuda_compute(cuda)));
        } else {
            sl_slab alone = *slab;
            alone.row0 = 0, alone.n_rows = count;
            const sl_weight part = {count, w->cols, 1, &alone};
            SL_TRY(multiply_unpacked(cuda, &out, x, &part, n));
        }
    }
    return SL_OK;
}

static sl_status multiply(sl_cuda *cuda, const char *op, void *y, int ldy, int is_f32,
                          const void *x, const sl_weight *w, const float *bias, int n_rows,
                          int accumulate) {
    SL_TRY(sl_cuda_check_weight(op, w));
    if (n_rows < 0 || ldy < w->rows)
        return SL_FAIL(SL_ERR_ARG, "%s: %d rows of %d outputs in rows of %d", op, n_rows, w->rows,
                       ldy);
    if (n_rows > 0 && (!y || !x)) return SL_FAIL(SL_ERR_ARG, "%s on a null buffer", op);
    if (n_rows == 0) return SL_OK;
    const sl_cuda_product out = {y, ldy, is_f32, accumulate, bias};
    return wants_unpacking(cuda, w, x, n_rows) ? multiply_unpacked(cuda, &out, x, w, n_rows)
                                               : multiply_runs(cuda, &out, x, w, n_rows);
}

sl_status sl_cuda_op_linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                            const float *bias, int n_rows, int accumulate) {
    return multiply(sl_cuda_of(be), "linear", y, ldy, 0, x, w, bias, n_rows, accumulate);
}

sl_status sl_cuda_op_logits(sl_backend *be, float *y, const void *x, const sl_weight *w,
                            int n_rows) {
    return multiply(sl_cuda_of(be), "logits", y, w ? w->rows : 0, 1, x, w, NULL, n_rows, 0);
}
