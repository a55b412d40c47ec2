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
    const sl_cuda_gemm_task task = {.y = out->y,
                                    .ldy = out->ldy,
                                    .is_f32 = out->is_f32,
                                    .accumulate = out->accumulate,
                                    .x = x,
                                    .w = w->data,
                                    .ldw = w->cols,
                                    .bias = fused ? cuda->bias : NULL,
                                    .n = n,
                                    .m = w->n_rows,
                                    .k = w->cols};
    int done = 0;
    if (fused)
        SL_TRY(sl_cuda_to_f16(cuda->bias, out->bias, SL_DTYPE_F32, (size_t)w->n_rows, stream));
    SL_TRY(sl_cuda_gemm_run(cuda->gemm, &task, stream, &done));
    if (!done) return sl_cuda_linear_any(out, x, w, n, stream);
    if (!out->bias || fused) return SL_OK;
    return sl_cuda_add_bias(out->y, out->ldy, out->is_f32, out->bias, n, w->n_rows, stream);
}

/* Makes as many rows f16 at a time as the buffer holds, and multiplies with those. */
static sl_status multiply_unpacked(sl_cuda *cuda, const sl_cuda_product *out, const void *x,
                                   const sl_cuda_matrix *w, int n) {
    const cudaStream_t stream = sl_cuda_compute(cuda);
    size_t row_bytes;
    SL_TRY(sl_dtype_row_bytes(SL_DTYPE_F16, w->cols, &row_bytes));
    /* Whole tiles of outputs: the parts of y stay aligned, or cuBLAS gets eight times slower. */
    enum { TILE = 128 };
    size_t fit = cuda->unpack_bytes / row_bytes;
    if (fit > TILE) fit -= fit % TILE;
    if (fit == 0)
        return SL_FAIL(SL_ERR_ARG, "linear: a row of %zu bytes in a buffer of %zu", row_bytes,
                       cuda->unpack_bytes);
    for (int r = 0; r < w->n_rows;) {
        const int left = w->n_rows - r, count = (size_t)left < fit ? left : (int)fit;
        const sl_cuda_matrix packed = {(const char *)w->data + (size_t)r * w->row_bytes, w->dtype,
                                       w->row_bytes, count, w->cols};
        const sl_cuda_matrix plain = {cuda->unpacked, SL_DTYPE_F16, row_bytes, count, w->cols};
        sl_cuda_product part = *out;
        part.y = (char *)out->y + (size_t)r * (out->is_f32 ? sizeof(float) : sizeof(uint16_t));
        part.bias = out->bias ? out->bias + r : NULL;
        if (sl_dtype_group_bits(w->dtype))
            SL_TRY(sl_cuda_unpack(cuda->unpacked, &packed, stream));
        else
            SL_TRY(sl_cuda_to_f16(cuda->unpacked, packed.data, w->dtype,
                                  (size_t)count * (size_t)w->cols, stream));
        SL_TRY(multiply_f16(cuda, &part, x, &plain, n));
        r += count;
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
    for (int s = 0, next; s < w->n_slabs; s = next) {
        const sl_slab *slab = &w->slabs[s];
        int count;
        next = sl_cuda_next_run(w, s, &count);
        const sl_cuda_matrix matrix = {slab->data, slab->dtype, slab->row_bytes, count, w->cols};
        const size_t offset = (size_t)slab->row0 * (is_f32 ? sizeof(float) : sizeof(uint16_t));
        const sl_cuda_product out = {(char *)y + offset, ldy, is_f32, accumulate,
                                     bias ? bias + slab->row0 : NULL};
        if (slab->dtype == SL_DTYPE_F16)
            SL_TRY(multiply_f16(cuda, &out, x, &matrix, n_rows));
        else if (sl_cuda_linear_few_takes(&matrix, x, n_rows))
            SL_TRY(sl_cuda_linear_few(&out, x, &matrix, n_rows, cuda->unpacked, cuda->unpack_bytes,
                                      sl_cuda_compute(cuda)));
        else
            SL_TRY(multiply_unpacked(cuda, &out, x, &matrix, n_rows));
    }
    return SL_OK;
}

sl_status sl_cuda_op_linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                            const float *bias, int n_rows, int accumulate) {
    return multiply(sl_cuda_of(be), "linear", y, ldy, 0, x, w, bias, n_rows, accumulate);
}

sl_status sl_cuda_op_logits(sl_backend *be, float *y, const void *x, const sl_weight *w,
                            int n_rows) {
    return multiply(sl_cuda_of(be), "logits", y, w ? w->rows : 0, 1, x, w, NULL, n_rows, 0);
}
