#include "cuda/cuda_linear.h"

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_mma.cuh"
#include "model/pack.h"

/* Eight warps share a tile of outputs and take turns along the row, 512 bytes of every row at a
 * time: enough loads in flight for device memory, and whole cache lines. */
enum { WARP = 32, N_WARPS = 8, THREADS = WARP * N_WARPS, TILE_ROWS = 16, TILE_COLS = 8 };

static __device__ void put_product(const sl_cuda_product &out, size_t row, int col, float v) {
    const size_t at = row * out.ldy + col;
    if (out.bias) v += out.bias[col];
    if (out.is_f32)
        ((float *)out.y)[at] = out.accumulate ? ((float *)out.y)[at] + v : v;
    else
        ((__half *)out.y)[at] =
            __float2half_rn(out.accumulate ? __half2float(((__half *)out.y)[at]) + v : v);
}

/* ---- fused product of few rows ----
 *
 * Outputs are the rows of A, rows of x the columns of B.  A thread's 16 bytes of codes are E
 * consecutive elements of one weight row; since k may be permuted at will, it takes the same E
 * elements of x, and step s of the tensor core works on elements 4s to 4s + 3 of every thread. */

template <int BITS> struct codes_of { /* of one thread and row: 16 bytes and their group */
    uint4 code;
    __half2 step, min;
};

template <int BITS>
static __device__ __forceinline__ void load_codes(codes_of<BITS> *c, const uint8_t *row,
                                                  size_t code_bytes, int k, bool valid) {
    if (valid) {
        c->code = __ldg((const uint4 *)(row + (size_t)k * BITS / 8));
        sl_load_pair(row + code_bytes + (size_t)(k / SL_GROUP_ELEMS) * 4, &c->step, &c->min);
    } else {
        c->code = make_uint4(0, 0, 0, 0);
        c->step = c->min = __float2half2_rn(0.0f);
    }
}

/* Elements 8u to 8u + 7 as four pairs. */
template <int BITS>
static __device__ __forceinline__ void decode8(uint32_t out[4], const codes_of<BITS> &c, int u) {
    const uint32_t word[4] = {c.code.x, c.code.y, c.code.z, c.code.w};
    if (BITS == 4) {
        sl_decode_q4x8(out, word[u], c.step, c.min);
    } else {
        sl_decode_q8x4(out, word[2 * u], c.step, c.min);
        sl_decode_q8x4(out + 2, word[2 * u + 1], c.step, c.min);
    }
}

template <int BITS, int M_TILES, int N_TILES>
static __global__ void __launch_bounds__(THREADS)
    linear_few_kernel(sl_cuda_product out, const __half *x, sl_cuda_matrix w, size_t code_bytes,
                      int n) {
    enum { E = 128 / BITS, UNITS = E / 8, CHUNK = 4 * E };
    __shared__ float sums[N_WARPS][M_TILES * TILE_ROWS][N_TILES * TILE_COLS + 1];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row0 = blockIdx.x * M_TILES * TILE_ROWS;

    const uint8_t *row[M_TILES][2];
    for (int m = 0; m < M_TILES; m++)
        for (int h = 0; h < 2; h++) { /* rows beyond the matrix repeat its last one */
            const int r = min(row0 + m * TILE_ROWS + h * 8 + g, w.n_rows - 1);
            row[m][h] = (const uint8_t *)w.data + (size_t)r * w.row_bytes;
        }
    float acc[M_TILES][N_TILES][4] = {};
    codes_of<BITS> next[M_TILES][2];
    int k = warp * CHUNK + t * E;
    for (int m = 0; m < M_TILES; m++)
        for (int h = 0; h < 2; h++) load_codes(&next[m][h], row[m][h], code_bytes, k, k < w.cols);

    for (int k0 = warp * CHUNK; k0 < w.cols; k0 += N_WARPS * CHUNK) {
        codes_of<BITS> now[M_TILES][2];
        const int k_now = k;
        k += N_WARPS * CHUNK;
        for (int m = 0; m < M_TILES; m++)
            for (int h = 0; h < 2; h++) {
                now[m][h] = next[m][h];
                load_codes(&next[m][h], row[m][h], code_bytes, k, k < w.cols);
            }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            uint4 b[N_TILES];
            for (int j = 0; j < N_TILES; j++) {
                const int r = j * TILE_COLS + g, at = k_now + 8 * u;
                b[j] = r < n && at < w.cols ? __ldg((const uint4 *)(x + (size_t)r * w.cols + at))
                                            : make_uint4(0, 0, 0, 0);
            }
            for (int m = 0; m < M_TILES; m++) {
                uint32_t upper[4], lower[4];
                decode8<BITS>(upper, now[m][0], u);
                decode8<BITS>(lower, now[m][1], u);
                const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]};
                const uint32_t second[4] = {upper[2], lower[2], upper[3], lower[3]};
                for (int j = 0; j < N_TILES; j++) {
                    sl_mma(acc[m][j], first, b[j].x, b[j].y);
                    sl_mma(acc[m][j], second, b[j].z, b[j].w);
                }
            }
        }
    }
    for (int m = 0; m < M_TILES; m++)
        for (int j = 0; j < N_TILES; j++)
            for (int i = 0; i < 4; i++)
                sums[warp][m * TILE_ROWS + i / 2 * 8 + g][j * TILE_COLS + 2 * t + i % 2] =
                    acc[m][j][i];
    __syncthreads();
    /* Neighbouring threads write neighbouring outputs; the order of the sum is fixed. */
    for (int i = threadIdx.x; i < M_TILES * TILE_ROWS * N_TILES * TILE_COLS; i += THREADS) {
        const int r = i % (M_TILES * TILE_ROWS), j = i / (M_TILES * TILE_ROWS);
        if (j >= n || row0 + r >= w.n_rows) continue;
        float v = 0.0f;
        for (int s = 0; s < N_WARPS; s++) v += sums[s][r][j];
        put_product(out, j, row0 + r, v);
    }
}

template <int BITS, int M_TILES, int N_TILES>
static void launch_few(const sl_cuda_product &out, const void *x, const sl_cuda_matrix &w, int n,
                       cudaStream_t stream) {
    const int per_block = M_TILES * TILE_ROWS;
    linear_few_kernel<BITS, M_TILES, N_TILES>
        <<<(w.n_rows + per_block - 1) / per_block, THREADS, 0, stream>>>(
            out, (const __half *)x, w, sl_pack_code_bytes(w.dtype, (size_t)w.cols), n);
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
                                        const sl_cuda_matrix *w, int n, cudaStream_t stream) {
    SL_TRY(check_matrix("linear_few", w, n));
    if (!sl_cuda_linear_few_takes(w, x, n))
        return SL_FAIL(SL_ERR_ARG, "linear_few: %d rows of %d columns of %s are not for it", n,
                       w->cols, sl_dtype_name(w->dtype));
    if (n == 0) return SL_OK;
    const int bits = sl_dtype_group_bits(w->dtype);
    if (n <= 8)
        bits == 4 ? launch_few<4, 1, 1>(*out, x, *w, n, stream)
                  : launch_few<8, 1, 1>(*out, x, *w, n, stream);
    else if (n <= 16)
        bits == 4 ? launch_few<4, 2, 2>(*out, x, *w, n, stream)
                  : launch_few<8, 2, 2>(*out, x, *w, n, stream);
    else
        bits == 4 ? launch_few<4, 2, 4>(*out, x, *w, n, stream)
                  : launch_few<8, 2, 4>(*out, x, *w, n, stream);
    return SL_CUDA(cudaGetLastError(), "launch linear_few");
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
    if (lane == 0) put_product(out, blockIdx.y, col, sum);
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
