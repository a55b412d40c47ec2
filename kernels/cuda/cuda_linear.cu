#include "cuda/cuda_linear.h"

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_mma.cuh"
#include "cuda/cuda_product.cuh"
#include "model/pack.h"

enum { WARP = 32, N_WARPS = 8, THREADS = WARP * N_WARPS };

/* ---- fused product of few rows ----
 *
 * Outputs are the rows of A, rows of x the columns of B.  A thread decodes FEW_ELEMS consecutive
 * elements of one weight row; since the order of k is free, it takes the same elements of x, and a
 * step of the tensor core works on four of them from every thread.  The rows of x stand in shared
 * memory for all warps.  Where outputs alone do not fill the device, blocks share them by parts of
 * k, and a second kernel adds the parts in order; how k is cut depends on the matrix alone, so that
 * a row has the same bits in every batch. */

enum {
    FEW_WARPS = 4,
    FEW_THREADS = FEW_WARPS * WARP,
    FEW_M_TILES = 2, /* 16 outputs each, to a warp: they share every read of x */
    FEW_OUTPUTS = FEW_WARPS * FEW_M_TILES * 16,
    FEW_ELEMS = 32, /* of k, of one row, to a thread: 16 bytes of 4-bit codes */
    FEW_CHUNK = 4 * FEW_ELEMS,
    FEW_UNITS = FEW_ELEMS / 8,
    FEW_LD = FEW_CHUNK + 16, /* halves between rows of x; see few_order() */
    FEW_BLOCKS = 384,        /* that fill the largest devices */
    FEW_LEAST_CHUNKS = 4
};

/* Threads t and t + 2 would read the same banks of x; those with t >= 2 take their eights of
 * elements in the order 1, 0, 3, 2, and rows 32 bytes apart fill the rest. */
static __device__ __forceinline__ int few_order(int unit, int t) {
    return unit ^ (t >> 1);
}

template <int BITS> struct few_codes { /* of one thread and row */
    uint32_t word[BITS];
    uint32_t pair;
};

template <int BITS>
static __device__ __forceinline__ void load_codes(few_codes<BITS> *c, const uint8_t *row,
                                                  size_t code_bytes, int k, int cols, int t) {
    const bool swap = few_order(0, t) != 0; /* here, so that registers are not indexed later */
#pragma unroll
    for (int i = 0; i < BITS; i += 4) { /* 16 bytes hold 128 / BITS elements */
        const int at = k + i / 4 * (128 / BITS);
        const uint4 v =
            at < cols ? sl_load_stream(row + (size_t)at * BITS / 8) : make_uint4(0, 0, 0, 0);
        if (BITS == 4) {
            c->word[i] = swap ? v.y : v.x, c->word[i + 1] = swap ? v.x : v.y;
            c->word[i + 2] = swap ? v.w : v.z, c->word[i + 3] = swap ? v.z : v.w;
        } else {
            c->word[i] = swap ? v.z : v.x, c->word[i + 1] = swap ? v.w : v.y;
            c->word[i + 2] = swap ? v.x : v.z, c->word[i + 3] = swap ? v.y : v.w;
        }
    }
    c->pair = k < cols ? __ldg((const unsigned int *)(row + code_bytes) + k / SL_GROUP_ELEMS) : 0;
}

/* The thread's `unit`-th eight, in its own order, as four pairs. */
template <int BITS>
static __device__ __forceinline__ void decode_unit(uint32_t out[4], const few_codes<BITS> &c,
                                                   int unit) {
    const __half2 p = sl_as_half2(c.pair), step = __low2half2(p), min = __high2half2(p);
    if (BITS == 4) {
        sl_decode_q4x8(out, c.word[unit], step, min);
    } else {
        sl_decode_q8x4(out, c.word[2 * unit], step, min);
        sl_decode_q8x4(out + 2, c.word[2 * unit + 1], step, min);
    }
}

typedef struct {
    sl_cuda_product out;
    const __half *x;
    sl_cuda_matrix w;
    size_t code_bytes;
    int n;
    int n_splits, split_chunks; /* of k */
    float *partial;             /* [n_splits, n, w.n_rows] where n_splits > 1 */
} few_args;

template <int N_TILES>
static __device__ __forceinline__ void load_x(__half (*tile)[FEW_LD], const few_args &a, int k0) {
    for (int i = threadIdx.x; i < N_TILES * 8 * FEW_CHUNK / 8; i += FEW_THREADS) {
        const int r = i / (FEW_CHUNK / 8), k = i % (FEW_CHUNK / 8) * 8;
        const bool valid = r < a.n && k0 + k < a.w.cols;
        sl_copy16(&tile[r][k], a.x + (valid ? (size_t)r * a.w.cols + k0 + k : 0), valid);
    }
    sl_copy_commit();
}

template <int BITS, int N_TILES>
static __global__ void __launch_bounds__(FEW_THREADS) linear_few_kernel(few_args a) {
    __shared__ __align__(16) __half x_tile[2][N_TILES * 8][FEW_LD];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int output0 = (blockIdx.x * FEW_WARPS + warp) * FEW_M_TILES * 16;
    const int split = blockIdx.y;
    const int first = split * a.split_chunks;
    const int last = min(first + a.split_chunks, (a.w.cols + FEW_CHUNK - 1) / FEW_CHUNK);

    const uint8_t *row[FEW_M_TILES][2];
#pragma unroll
    for (int m = 0; m < FEW_M_TILES; m++)
        for (int h = 0; h < 2; h++) /* outputs beyond the matrix repeat its last one */
            row[m][h] = (const uint8_t *)a.w.data +
                        (size_t)min(output0 + m * 16 + h * 8 + g, a.w.n_rows - 1) * a.w.row_bytes;
    float acc[FEW_M_TILES][N_TILES][4] = {};
    few_codes<BITS> next[FEW_M_TILES][2];
    load_x<N_TILES>(x_tile[0], a, first * FEW_CHUNK);
#pragma unroll
    for (int m = 0; m < FEW_M_TILES; m++)
        for (int h = 0; h < 2; h++)
            load_codes<BITS>(&next[m][h], row[m][h], a.code_bytes,
                             first * FEW_CHUNK + t * FEW_ELEMS, a.w.cols, t);

    for (int chunk = first; chunk < last; chunk++) {
        const int stage = (chunk - first) & 1;
        sl_copy_wait<0>();
        __syncthreads(); /* this chunk of x is here, and the one before has been used */
        few_codes<BITS> now[FEW_M_TILES][2];
        if (chunk + 1 < last) load_x<N_TILES>(x_tile[stage ^ 1], a, (chunk + 1) * FEW_CHUNK);
#pragma unroll
        for (int m = 0; m < FEW_M_TILES; m++)
            for (int h = 0; h < 2; h++) {
                now[m][h] = next[m][h];
                if (chunk + 1 < last)
                    load_codes<BITS>(&next[m][h], row[m][h], a.code_bytes,
                                     (chunk + 1) * FEW_CHUNK + t * FEW_ELEMS, a.w.cols, t);
            }
#pragma unroll
        for (int u = 0; u < FEW_UNITS; u++) {
            uint32_t first_half[FEW_M_TILES][4], second_half[FEW_M_TILES][4];
#pragma unroll
            for (int m = 0; m < FEW_M_TILES; m++) {
                uint32_t upper[4], lower[4];
                decode_unit<BITS>(upper, now[m][0], u);
                decode_unit<BITS>(lower, now[m][1], u);
                first_half[m][0] = upper[0], first_half[m][1] = lower[0];
                first_half[m][2] = upper[1], first_half[m][3] = lower[1];
                second_half[m][0] = upper[2], second_half[m][1] = lower[2];
                second_half[m][2] = upper[3], second_half[m][3] = lower[3];
            }
            const int k = t * FEW_ELEMS + few_order(u, t) * 8;
#pragma unroll
            for (int j = 0; j < N_TILES; j++) {
                const uint4 b = *(const uint4 *)&x_tile[stage][j * 8 + g][k];
#pragma unroll
                for (int m = 0; m < FEW_M_TILES; m++) {
                    sl_mma(acc[m][j], first_half[m], b.x, b.y);
                    sl_mma(acc[m][j], second_half[m], b.z, b.w);
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < FEW_M_TILES; m++)
#pragma unroll
        for (int j = 0; j < N_TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int output = output0 + m * 16 + i / 2 * 8 + g;
                const int r = j * 8 + 2 * t + i % 2;
                if (output >= a.w.n_rows || r >= a.n) continue;
                if (a.n_splits == 1)
                    sl_put_product(a.out, r, output, acc[m][j][i]);
                else
                    a.partial[((size_t)split * a.n + r) * a.w.n_rows + output] = acc[m][j][i];
            }
}

static __global__ void add_parts_kernel(sl_cuda_product out, const float *partial, int n_splits,
                                        int n, int n_outputs) {
    const int output = blockIdx.x * THREADS + threadIdx.x, r = blockIdx.y;
    if (output >= n_outputs) return;
    float v = 0.0f;
    for (int s = 0; s < n_splits; s++) v += partial[((size_t)s * n + r) * n_outputs + output];
    sl_put_product(out, r, output, v);
}

extern "C" sl_status sl_cuda_add_parts(const sl_cuda_product *out, const float *partial,
                                       int n_splits, int n, int n_outputs, cudaStream_t stream) {
    const dim3 grid((n_outputs + THREADS - 1) / THREADS, n);
    add_parts_kernel<<<grid, THREADS, 0, stream>>>(*out, partial, n_splits, n, n_outputs);
    return SL_CUDA(cudaGetLastError(), "launch the sum of parts");
}

/* ---- fused product of very few rows ----
 *
 * One or two column tiles of x: warps of a block take turns along k, 512 bytes of every weight row
 * at a time, which is what device memory likes best, and x comes from the L1 cache. */

enum { VERY_FEW_ROWS = 16, VERY_FEW_OUTPUTS = 16 };

template <int BITS, int N_TILES>
static __global__ void __launch_bounds__(THREADS) linear_very_few_kernel(few_args a) {
    __shared__ float sums[N_WARPS][VERY_FEW_OUTPUTS][N_TILES * 8 + 1];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int output0 = blockIdx.x * VERY_FEW_OUTPUTS;
    const uint8_t *row[2];
    for (int h = 0; h < 2; h++) /* outputs beyond the matrix repeat its last one */
        row[h] = (const uint8_t *)a.w.data +
                 (size_t)min(output0 + h * 8 + g, a.w.n_rows - 1) * a.w.row_bytes;
    float acc[N_TILES][4] = {};
    few_codes<BITS> next[2];
    int k = warp * FEW_CHUNK + t * FEW_ELEMS;
    for (int h = 0; h < 2; h++) load_codes<BITS>(&next[h], row[h], a.code_bytes, k, a.w.cols, t);
    for (int k0 = warp * FEW_CHUNK; k0 < a.w.cols; k0 += N_WARPS * FEW_CHUNK) {
        few_codes<BITS> now[2];
        const int k_now = k;
        k += N_WARPS * FEW_CHUNK;
        for (int h = 0; h < 2; h++) {
            now[h] = next[h];
            load_codes<BITS>(&next[h], row[h], a.code_bytes, k, a.w.cols, t);
        }
#pragma unroll
        for (int u = 0; u < FEW_UNITS; u++) {
            const int at = k_now + few_order(u, t) * 8;
            uint4 b[N_TILES];
#pragma unroll
            for (int j = 0; j < N_TILES; j++)
                b[j] = j * 8 + g < a.n && at < a.w.cols
                           ? __ldg((const uint4 *)(a.x + (size_t)(j * 8 + g) * a.w.cols + at))
                           : make_uint4(0, 0, 0, 0);
            uint32_t upper[4], lower[4];
            decode_unit<BITS>(upper, now[0], u);
            decode_unit<BITS>(lower, now[1], u);
            const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]};
            const uint32_t second[4] = {upper[2], lower[2], upper[3], lower[3]};
#pragma unroll
            for (int j = 0; j < N_TILES; j++) {
                sl_mma(acc[j], first, b[j].x, b[j].y);
                sl_mma(acc[j], second, b[j].z, b[j].w);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < N_TILES; j++)
        for (int i = 0; i < 4; i++) sums[warp][i / 2 * 8 + g][j * 8 + 2 * t + i % 2] = acc[j][i];
    __syncthreads();
    /* Neighbouring threads write neighbouring outputs; the order of the sum is fixed. */
    const int output = threadIdx.x % VERY_FEW_OUTPUTS, r = threadIdx.x / VERY_FEW_OUTPUTS;
    if (r >= a.n || output0 + output >= a.w.n_rows) return;
    float v = 0.0f;
    for (int s = 0; s < N_WARPS; s++) v += sums[s][output][r];
    sl_put_product(a.out, r, output0 + output, v);
}

/* Parts of k: as many as fill the device, each of some chunks, and no more than the scratch has
 * room for at any number of rows. */
static void cut_depth(few_args *a, size_t scratch_bytes) {
    const int n_chunks = (a->w.cols + FEW_CHUNK - 1) / FEW_CHUNK;
    const int n_blocks = (a->w.n_rows + FEW_OUTPUTS - 1) / FEW_OUTPUTS;
    int n = (FEW_BLOCKS + n_blocks - 1) / n_blocks;
    if (n > n_chunks / FEW_LEAST_CHUNKS) n = n_chunks / FEW_LEAST_CHUNKS;
    const size_t room = scratch_bytes / ((size_t)SL_CUDA_FEW_ROWS * a->w.n_rows * sizeof(float));
    if ((size_t)n > room) n = (int)room;
    if (n < 1) n = 1;
    a->split_chunks = (n_chunks + n - 1) / n;
    a->n_splits = (n_chunks + a->split_chunks - 1) / a->split_chunks;
}

template <int BITS> static sl_status launch_few(const few_args &a, cudaStream_t stream) {
    if (a.n <= VERY_FEW_ROWS) { /* 16 x 16 threads write the results */
        const int n_blocks = (a.w.n_rows + VERY_FEW_OUTPUTS - 1) / VERY_FEW_OUTPUTS;
        if (a.n <= 8)
            linear_very_few_kernel<BITS, 1><<<n_blocks, THREADS, 0, stream>>>(a);
        else
            linear_very_few_kernel<BITS, 2><<<n_blocks, THREADS, 0, stream>>>(a);
        return SL_CUDA(cudaGetLastError(), "launch linear_few");
    }
    const dim3 grid((a.w.n_rows + FEW_OUTPUTS - 1) / FEW_OUTPUTS, a.n_splits);
    if (a.n <= 32)
        linear_few_kernel<BITS, 4><<<grid, FEW_THREADS, 0, stream>>>(a);
    else
        linear_few_kernel<BITS, 8><<<grid, FEW_THREADS, 0, stream>>>(a);
    SL_TRY(SL_CUDA(cudaGetLastError(), "launch linear_few"));
    return a.n_splits > 1
               ? sl_cuda_add_parts(&a.out, a.partial, a.n_splits, a.n, a.w.n_rows, stream)
               : SL_OK;
}

static sl_status check_matrix(const char *op, const sl_cuda_matrix *w, int n) {
    if (w->n_rows < 1 || w->cols < 1 || n < 0)
        return SL_FAIL(SL_ERR_ARG, "%s: [%d, %d] with %d rows", op, w->n_rows, w->cols, n);
    if (w->dtype != SL_DTYPE_F16 && !sl_dtype_group_bits(w->dtype))
        return SL_FAIL(SL_ERR_ARG, "%s: weights of %s, expected F16, Q8G64 or Q4G64", op,
                       sl_dtype_name(w->dtype));
    size_t row_bytes = 0;
    SL_TRY(sl_dtype_row_bytes(w->dtype, w->cols, &row_bytes));
    if (w->row_bytes < row_bytes)
        return SL_FAIL(SL_ERR_ARG, "%s: rows of %zu bytes, %d columns of %s take %zu", op,
                       w->row_bytes, w->cols, sl_dtype_name(w->dtype), row_bytes);
    return SL_OK;
}

extern "C" int sl_cuda_linear_few_takes(const sl_cuda_matrix *w, const void *x, int n) {
    return sl_dtype_group_bits(w->dtype) != 0 && n <= SL_CUDA_FEW_ROWS && w->cols % 8 == 0 &&
           w->row_bytes % 16 == 0 && (uintptr_t)w->data % 16 == 0 && (uintptr_t)x % 16 == 0;
}

extern "C" sl_status sl_cuda_linear_few(const sl_cuda_product *out, const void *x,
                                        const sl_cuda_matrix *w, int n, void *scratch,
                                        size_t scratch_bytes, cudaStream_t stream) {
    SL_TRY(check_matrix("linear_few", w, n));
    if (!sl_cuda_linear_few_takes(w, x, n))
        return SL_FAIL(SL_ERR_ARG, "linear_few: %d rows of %d columns of %s are not for it", n,
                       w->cols, sl_dtype_name(w->dtype));
    if (n == 0) return SL_OK;
    few_args a = {};
    a.out = *out;
    a.x = (const __half *)x;
    a.w = *w;
    a.code_bytes = sl_pack_code_bytes(w->dtype, (size_t)w->cols);
    a.n = n;
    a.partial = (float *)scratch;
    cut_depth(&a, scratch_bytes);
    return sl_dtype_group_bits(w->dtype) == 4 ? launch_few<4>(a, stream) : launch_few<8>(a, stream);
}

/* ---- product of anything ---- */

static __global__ void linear_any_kernel(sl_cuda_product out, const __half *x, sl_cuda_matrix w,
                                         int bits, size_t code_bytes) {
    const int col = blockIdx.x * N_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (col >= w.n_rows) return;
    const uint8_t *row = (const uint8_t *)w.data + (size_t)col * w.row_bytes;
    const __half *xr = x + (size_t)blockIdx.y * w.cols;
    float sum = 0.0f;
    for (int k = lane; k < w.cols; k += WARP) {
        const __half v =
            bits ? sl_decode_one(row, row + code_bytes, bits, k) : ((const __half *)row)[k];
        sum += __half2float(xr[k]) * __half2float(v);
    }
    for (int d = WARP / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0) sl_put_product(out, blockIdx.y, col, sum);
}

extern "C" sl_status sl_cuda_linear_any(const sl_cuda_product *out, const void *x,
                                        const sl_cuda_matrix *w, int n, cudaStream_t stream) {
    SL_TRY(check_matrix("linear_any", w, n));
    const int bits = sl_dtype_group_bits(w->dtype);
    const size_t code_bytes = bits ? sl_pack_code_bytes(w->dtype, (size_t)w->cols) : 0;
    enum { MAX_GRID_Y = 65535 };
    for (int done = 0; done < n; done += MAX_GRID_Y) {
        const int count = n - done < MAX_GRID_Y ? n - done : MAX_GRID_Y;
        const dim3 grid((w->n_rows + N_WARPS - 1) / N_WARPS, count);
        sl_cuda_product part = *out;
        part.y = (char *)out->y + (size_t)done * out->ldy * (out->is_f32 ? 4 : 2);
        linear_any_kernel<<<grid, THREADS, 0, stream>>>(
            part, (const __half *)x + (size_t)done * w->cols, *w, bits, code_bytes);
    }
    return SL_CUDA(cudaGetLastError(), "launch linear_any");
}

/* ---- packing and unpacking ---- */

/* Eight elements to a thread, 16 bytes stored at once. */
static __global__ void unpack8_kernel(uint4 *y, sl_cuda_matrix w, int bits, size_t code_bytes) {
    const int per_row = w.cols / 8;
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)w.n_rows * per_row) return;
    const int r = (int)(i / per_row), k = (int)(i % per_row) * 8;
    const uint8_t *row = (const uint8_t *)w.data + (size_t)r * w.row_bytes;
    __half2 step, min;
    sl_load_pair(row + code_bytes + (size_t)(k / SL_GROUP_ELEMS) * 4, &step, &min);
    uint32_t out[4];
    if (bits == 4) {
        sl_decode_q4x8(out, *(const uint32_t *)(row + k / 2), step, min);
    } else {
        const uint2 codes = *(const uint2 *)(row + k);
        sl_decode_q8x4(out, codes.x, step, min);
        sl_decode_q8x4(out + 2, codes.y, step, min);
    }
    y[i] = make_uint4(out[0], out[1], out[2], out[3]);
}

static __global__ void unpack_kernel(__half *y, sl_cuda_matrix w, int bits, size_t code_bytes) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (size_t)w.n_rows * w.cols) return;
    const uint8_t *row = (const uint8_t *)w.data + i / w.cols * w.row_bytes;
    y[i] = sl_decode_one(row, row + code_bytes, bits, (int)(i % w.cols));
}

extern "C" sl_status sl_cuda_unpack(void *y, const sl_cuda_matrix *w, cudaStream_t stream) {
    SL_TRY(check_matrix("unpack", w, 0));
    const int bits = sl_dtype_group_bits(w->dtype);
    if (!bits) return SL_FAIL(SL_ERR_ARG, "unpack of %s", sl_dtype_name(w->dtype));
    const size_t code_bytes = sl_pack_code_bytes(w->dtype, (size_t)w->cols);
    const size_t n = (size_t)w->n_rows * w->cols;
    const bool wide = w->cols % 8 == 0 && (uintptr_t)y % 16 == 0 && (uintptr_t)w->data % 8 == 0 &&
                      w->row_bytes % 8 == 0;
    const size_t n_threads = wide ? n / 8 : n, blocks = (n_threads + THREADS - 1) / THREADS;
    if (blocks > 0x7fffffff)
        return SL_FAIL(SL_ERR_ARG, "unpack of [%d, %d] at once", w->n_rows, w->cols);
    if (wide)
        unpack8_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>((uint4 *)y, *w, bits, code_bytes);
    else
        unpack_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>((__half *)y, *w, bits, code_bytes);
    return SL_CUDA(cudaGetLastError(), "launch unpack");
}

/* A warp per group of a row; the row's padding is cleared by its last group's warp. */
static __global__ void pack_kernel(uint8_t *packed, const __half *x, int bits, size_t row_bytes,
                                   size_t code_bytes, int n_groups, int cols) {
    const int group = blockIdx.x * N_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (group >= n_groups) return;
    uint8_t *row = packed + (size_t)blockIdx.y * row_bytes;
    const int k = group * SL_GROUP_ELEMS;
    sl_pack_group_by_warp(row + (size_t)k * bits / 8, (__half2 *)(row + code_bytes) + group,
                          x + (size_t)blockIdx.y * cols + k, bits,
                          min(cols - k, (int)SL_GROUP_ELEMS), lane);
    if (group != n_groups - 1) return;
    for (size_t i = ((size_t)cols * bits + 7) / 8 + lane; i < code_bytes; i += WARP) row[i] = 0;
    for (size_t i = code_bytes + (size_t)n_groups * 4 + lane; i < row_bytes; i += WARP) row[i] = 0;
}

extern "C" sl_status sl_cuda_pack(void *row, const void *x, sl_dtype dtype, size_t row_bytes,
                                  int n_rows, int cols, cudaStream_t stream) {
    const sl_cuda_matrix w = {row, dtype, row_bytes, n_rows, cols};
    SL_TRY(check_matrix("pack", &w, 0));
    const int bits = sl_dtype_group_bits(dtype);
    if (!bits) return SL_FAIL(SL_ERR_ARG, "pack to %s", sl_dtype_name(dtype));
    const int n_groups = sl_pack_groups(cols);
    enum { MAX_GRID_Y = 65535 };
    for (int done = 0; done < n_rows; done += MAX_GRID_Y) {
        const int count = n_rows - done < MAX_GRID_Y ? n_rows - done : MAX_GRID_Y;
        const dim3 grid((n_groups + N_WARPS - 1) / N_WARPS, count);
        pack_kernel<<<grid, THREADS, 0, stream>>>(
            (uint8_t *)row + (size_t)done * row_bytes, (const __half *)x + (size_t)done * cols,
            bits, row_bytes, sl_pack_code_bytes(dtype, (size_t)cols), n_groups, cols);
    }
    return SL_CUDA(cudaGetLastError(), "launch pack");
}
