/* cuda_linear.h - launchers of the matrix products that read packed weights.
 *
 * All buffers are on the device; work is queued on `stream`, and the calls do not wait.
 * Layer: kernels/cuda.  May include: base, model.  Thread safety: as CUDA's.
 * Errors of all: SL_ERR_ARG (shapes, dtypes), SL_ERR_DEVICE (launch refused).
 */
#ifndef SL_CUDA_LINEAR_H
#define SL_CUDA_LINEAR_H

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows up to which a product with packed weights may decode them in registers. */
enum { SL_CUDA_FEW_ROWS = 64 };

/* A product's weights: rows of one slab, or of several that lie one after another. */
typedef struct {
    const void *data;
    sl_dtype dtype; /* F16, Q8G64 or Q4G64 */
    size_t row_bytes;
    int n_rows; /* outputs */
    int cols;   /* inputs */
} sl_cuda_matrix;

/* Where a product goes. */
typedef struct {
    void *y;           /* [n, ldy], columns [0, n_rows of the matrix) written */
    int ldy;           /* elements */
    int is_f32;        /* y's elements: float32, else f16 */
    int accumulate;    /* y += */
    const float *bias; /* float32 [n_rows of the matrix], or NULL */
} sl_cuda_product;

/* y[r, c] = packed row r, element c as f16: the same values that the fused product uses.
 *   y  f16, [w->n_rows, w->cols], dense;  w: Q8G64 or Q4G64 */
sl_status sl_cuda_unpack(void *y, const sl_cuda_matrix *w, cudaStream_t stream);

/* Packs f16 rows as model/pack.h does, to the same bytes.  row_bytes: sl_dtype_row_bytes().
 *   row  packed, [n_rows, row_bytes];  x: f16, [n_rows, cols], dense */
sl_status sl_cuda_pack(void *row, const void *x, sl_dtype dtype, size_t row_bytes, int n_rows,
                       int cols, cudaStream_t stream);

/* 1 where the fused product takes these weights and rows. */
int sl_cuda_linear_few_takes(const sl_cuda_matrix *w, const void *x, int n);

/* y = x W^T, weights decoded in registers on their way to the tensor cores; every weight is read
 * once.  A row's bits do not depend on n within 1 to 16 and within 17 to 64 rows: two kernels, one
 * for bandwidth, one for reuse.
 *   x        f16, [n, w->cols], dense, n <= SL_CUDA_FEW_ROWS
 *   scratch  scratch_bytes: parts of sums, used until the queued work is done.  Narrow matrices run
 *            faster with 4 * SL_CUDA_FEW_ROWS * w->n_rows bytes for each of up to 48 parts; 0 is
 *            enough to be correct. */
sl_status sl_cuda_linear_few(const sl_cuda_product *out, const void *x, const sl_cuda_matrix *w,
                             int n, void *scratch, size_t scratch_bytes, cudaStream_t stream);

/* Rows up to which a product is better decoded tile by tile, into shared memory, than unpacked, and
 * rows up to which registers are faster than tiles.  H100, bench_products mid, OPT-6.7B's fc1 in 4
 * bits, in registers, by tiles, unpacked: 32 rows take 52, 76 and 116 us, 64 rows 89, 76 and 117,
 * 128 rows (tiles, unpacked) 85 and 120, 192 rows 171 and 124. */
enum { SL_CUDA_MID_ROWS = 128, SL_CUDA_TILE_LEAST_ROWS = 32 };

/* Once for a device, before the others: *can_out is 1 where it has the shared memory. */
sl_status sl_cuda_linear_mid_open(int device, int *can_out);

/* 1 where the product takes these weights, whatever the number of rows. */
int sl_cuda_linear_mid_takes(const sl_cuda_matrix *w, const void *x);

/* The same as sl_cuda_linear_few() for more rows: weights are read once for 64 or 128 of them.  A
 * row's bits do not depend on n up to SL_CUDA_MID_ROWS.
 *   x        f16, [n, w->cols], dense
 *   scratch  parts of sums: narrow matrices run faster with 4 * SL_CUDA_MID_ROWS * w->n_rows bytes
 *            for each of up to some; 0 is enough to be correct. */
sl_status sl_cuda_linear_mid(const sl_cuda_product *out, const void *x, const sl_cuda_matrix *w,
                             int n, void *scratch, size_t scratch_bytes, cudaStream_t stream);

/* Hopper: from how many rows on and up to how many a product decodes weights into the fragments of
 * the warpgroup's product, and rows up to which k is cut where outputs alone do not fill the
 * device. */
enum { SL_CUDA_WGMMA_LEAST_ROWS = 17, SL_CUDA_WGMMA_ROWS = 2048, SL_CUDA_WGMMA_CUT_ROWS = 256 };

/* Once for a device, before the others: *can_out is 1 where it is a Hopper and the program is built
 * for it. */
sl_status sl_cuda_linear_wgmma_open(int device, int *can_out);

/* 1 where the product takes these weights, whatever the number of rows. */
int sl_cuda_linear_wgmma_takes(const sl_cuda_matrix *w, const void *x, size_t scratch_bytes);

/* The same as sl_cuda_linear_mid() for any number of rows: weights are read from memory once for
 * all that run together, and decoded once for 64 to 256 rows.  A row's bits do not depend on n up
 * to SL_CUDA_WGMMA_CUT_ROWS, nor above that.
 *   x        f16, [n, w->cols], dense
 *   scratch  16-byte aligned: x in the product's order, cols * 2 bytes a row, cols padded to 128;
 *            as many rows are taken at a time as it holds, in steps of 64, and of 256 where there
 *            are as many.  Behind 256 rows of x, parts of sums: narrow matrices run faster with
 *            4 * SL_CUDA_WGMMA_CUT_ROWS * w->n_rows bytes for each of some. */
sl_status sl_cuda_linear_wgmma(const sl_cuda_product *out, const void *x, const sl_cuda_matrix *w,
                               int n, void *scratch, size_t scratch_bytes, cudaStream_t stream);

/* out = the sum of parts, in order.
 *   partial  float32, [n_splits, n, n_outputs] */
sl_status sl_cuda_add_parts(const sl_cuda_product *out, const float *partial, int n_splits, int n,
                            int n_outputs, cudaStream_t stream);

/* The same for any shape and dtype, a warp per element: for what neither the fused product nor
 * cuBLAS takes (rows of odd width or alignment). */
sl_status sl_cuda_linear_any(const sl_cuda_product *out, const void *x, const sl_cuda_matrix *w,
                             int n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
