#include "cuda/cuda_pointwise.h"

#include <cuda_bf16.h>

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "model/pack.h"

/* 256 threads: enough warps to hide the latency of streaming reads at any occupancy. */
enum { THREADS = 256, MAX_GRID_Y = 65535 };

static unsigned blocks_for(size_t n, size_t per_block) {
    const size_t blocks = (n + per_block - 1) / per_block;
    return (unsigned)(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

/* ---- embedding ---- */

static __device__ float stored_element(const uint8_t *row, sl_dtype dtype, size_t code_bytes,
                                       int c) {
    if (dtype == SL_DTYPE_F16) return __half2float(((const __half *)row)[c]);
    if (dtype == SL_DTYPE_F32) return ((const float *)row)[c];
    if (dtype == SL_DTYPE_BF16) return __bfloat162float(((const __nv_bfloat16 *)row)[c]);
    return __half2float(sl_decode_one(row, row + code_bytes, dtype == SL_DTYPE_Q8G64 ? 8 : 4, c));
}

static __global__ void embed_kernel(__half *y, sl_cuda_table t, size_t code_bytes,
                                    const int32_t *id, int offset, int accumulate) {
    const int row = id[blockIdx.x] + offset - t.row0;
    if (row < 0 || row >= t.n_rows) return;
    const uint8_t *stored = (const uint8_t *)t.data + (size_t)row * t.row_bytes;
    __half *out = y + (size_t)blockIdx.x * t.cols;
    for (int c = threadIdx.x; c < t.cols; c += THREADS) {
        const float v = stored_element(stored, t.dtype, code_bytes, c);
        out[c] = __float2half_rn(accumulate ? __half2float(out[c]) + v : v);
    }
}

extern "C" sl_status sl_cuda_embed(void *y, const sl_cuda_table *table, const int32_t *id,
                                   int offset, int n_ids, int accumulate, cudaStream_t stream) {
    const int bits = sl_dtype_group_bits(table->dtype);
    if (n_ids < 0 || table->cols < 1)
        return SL_FAIL(SL_ERR_ARG, "embed on [%d, %d]", n_ids, table->cols);
    if (!bits && table->dtype != SL_DTYPE_F16 && table->dtype != SL_DTYPE_F32 &&
        table->dtype != SL_DTYPE_BF16)
        return SL_FAIL(SL_ERR_ARG, "embed from a table of %s, expected F16, F32, BF16 or groups",
                       sl_dtype_name(table->dtype));
    if (n_ids == 0) return SL_OK;
    const size_t code_bytes = bits ? sl_pack_code_bytes(table->dtype, (size_t)table->cols) : 0;
    embed_kernel<<<n_ids, THREADS, 0, stream>>>((__half *)y, *table, code_bytes, id, offset,
                                                accumulate);
    return SL_CUDA(cudaGetLastError(), "launch embed");
}

/* ---- gather: the index travels as a kernel argument, so no copy has to be ordered ---- */

enum { GATHER_ROWS = 512 };

typedef struct {
    int32_t row[GATHER_ROWS];
} gather_index;

static __global__ void gather_kernel(__half *y, const __half *x, gather_index index, int cols) {
    const __half *from = x + (size_t)index.row[blockIdx.x] * cols;
    __half *to = y + (size_t)blockIdx.x * cols;
    for (int c = threadIdx.x; c < cols; c += THREADS) to[c] = from[c];
}

extern "C" sl_status sl_cuda_gather(void *y, const void *x, const int32_t *index, int n, int cols,
                                    cudaStream_t stream) {
    if (n < 0 || cols < 1) return SL_FAIL(SL_ERR_ARG, "gather of [%d, %d]", n, cols);
    for (int i = 0; i < n; i++)
        if (index[i] < 0)
            return SL_FAIL(SL_ERR_ARG, "gather: entry %d asks for row %d", i, (int)index[i]);
    for (int done = 0; done < n; done += GATHER_ROWS) {
        const int count = n - done < GATHER_ROWS ? n - done : GATHER_ROWS;
        gather_index part;
        memcpy(part.row, index + done, (size_t)count * sizeof *index);
        gather_kernel<<<count, THREADS, 0, stream>>>((__half *)y + (size_t)done * cols,
                                                     (const __half *)x, part, cols);
    }
    return SL_CUDA(cudaGetLastError(), "launch gather");
}

/* ---- rotary positions ---- */

typedef struct {
    float inv[SL_MAX_HEAD_DIM / 2];
} rope_freq;

static __global__ void rope_kernel(__half *x, int ldx, int n_heads, int half_dim, rope_freq freq,
                                   const int32_t *position) {
    __half *row = x + (size_t)blockIdx.x * ldx;
    const float p = (float)position[blockIdx.x];
    for (int i = threadIdx.x; i < n_heads * half_dim; i += THREADS) {
        const int pair = i % half_dim;
        __half *a = row + i / half_dim * 2 * half_dim + pair, *b = a + half_dim;
        float s, c;
        sincosf(p * freq.inv[pair], &s, &c);
        const float va = __half2float(*a), vb = __half2float(*b);
        *a = __float2half_rn(va * c - vb * s);
        *b = __float2half_rn(vb * c + va * s);
    }
}

extern "C" sl_status sl_cuda_rope(void *x, int ldx, int n_heads, int head_dim,
                                  const float *inv_freq, const int32_t *position, int n_rows,
                                  cudaStream_t stream) {
    if (n_rows < 0 || n_heads < 1)
        return SL_FAIL(SL_ERR_ARG, "rope on %d rows of %d heads", n_rows, n_heads);
    if (head_dim < 2 || head_dim % 2 != 0 || head_dim > SL_MAX_HEAD_DIM)
        return SL_FAIL(SL_ERR_ARG, "rope on heads of %d, expected even and at most %d", head_dim,
                       SL_MAX_HEAD_DIM);
    if (ldx < (int64_t)n_heads * head_dim)
        return SL_FAIL(SL_ERR_ARG, "rope: %d heads of %d in rows of %d", n_heads, head_dim, ldx);
    if (n_rows == 0) return SL_OK;
    rope_freq freq;
    memcpy(freq.inv, inv_freq, (size_t)(head_dim / 2) * sizeof *inv_freq);
    rope_kernel<<<n_rows, THREADS, 0, stream>>>((__half *)x, ldx, n_heads, head_dim / 2, freq,
                                                position);
    return SL_CUDA(cudaGetLastError(), "launch rope");
}

/* ---- activations ---- */

template <int ACT> static __device__ float activation(float x) {
    switch (ACT) {
    case SL_ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* keeps NaN */
    case SL_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case SL_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    default:
        return x / (1.0f + expf(-x));
    }
}

template <int ACT>
static __global__ void activate_kernel(__half *y, const __half *g, const __half *u, int ld,
                                       int n_rows, int n_cols) {
    const int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= n_cols) return;
    for (int r = blockIdx.y; r < n_rows; r += gridDim.y) {
        const size_t in = (size_t)r * ld + c;
        float v = activation<ACT>(__half2float(g[in]));
        if (u) v *= __half2float(u[in]);
        y[(size_t)r * n_cols + c] = __float2half_rn(v);
    }
}

/* The common case: dense rows, so that the columns do not matter, two elements to a thread. */
template <int ACT>
static __global__ void activate_dense_kernel(__half2 *y, const __half2 *g, const __half2 *u,
                                             size_t n) {
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (size_t)gridDim.x * THREADS) {
        float2 v = __half22float2(g[i]);
        v.x = activation<ACT>(v.x);
        v.y = activation<ACT>(v.y);
        if (u) {
            const float2 w = __half22float2(u[i]);
            v.x *= w.x;
            v.y *= w.y;
        }
        y[i] = __float22half2_rn(v);
    }
}

static bool is_aligned(const void *p, size_t align) {
    return (uintptr_t)p % align == 0;
}

template <int ACT>
static void launch_activate(void *y, const void *g, const void *u, int ld, int n_rows, int n_cols,
                            cudaStream_t stream) {
    const size_t n = (size_t)n_rows * n_cols;
    if (ld == n_cols && n % 2 == 0 && is_aligned(y, 4) && is_aligned(g, 4) && is_aligned(u, 4)) {
        activate_dense_kernel<ACT><<<blocks_for(n / 2, THREADS * 4), THREADS, 0, stream>>>(
            (__half2 *)y, (const __half2 *)g, (const __half2 *)u, n / 2);
        return;
    }
    const dim3 grid(blocks_for((size_t)n_cols, THREADS), n_rows < MAX_GRID_Y ? n_rows : MAX_GRID_Y);
    activate_kernel<ACT><<<grid, THREADS, 0, stream>>>((__half *)y, (const __half *)g,
                                                       (const __half *)u, ld, n_rows, n_cols);
}

extern "C" sl_status sl_cuda_activate(void *y, const void *g, const void *u, int ld,
                                      sl_activation act, int n_rows, int n_cols,
                                      cudaStream_t stream) {
    if (n_rows < 0 || n_cols < 1 || ld < n_cols)
        return SL_FAIL(SL_ERR_ARG, "activate on [%d, %d] in rows of %d", n_rows, n_cols, ld);
    if (n_rows == 0) return SL_OK;
    switch (act) {
    case SL_ACT_RELU:
        launch_activate<SL_ACT_RELU>(y, g, u, ld, n_rows, n_cols, stream);
        break;
    case SL_ACT_GELU:
        launch_activate<SL_ACT_GELU>(y, g, u, ld, n_rows, n_cols, stream);
        break;
    case SL_ACT_GELU_TANH:
        launch_activate<SL_ACT_GELU_TANH>(y, g, u, ld, n_rows, n_cols, stream);
        break;
    case SL_ACT_SILU:
        launch_activate<SL_ACT_SILU>(y, g, u, ld, n_rows, n_cols, stream);
        break;
    default:
        return SL_FAIL(SL_ERR_ARG, "activate with activation %d", (int)act);
    }
    return SL_CUDA(cudaGetLastError(), "launch activate");
}

/* ---- sums and conversions ---- */

static __global__ void add_kernel(__half *y, const __half *x, size_t n) {
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (size_t)gridDim.x * THREADS)
        y[i] = __float2half_rn(__half2float(y[i]) + __half2float(x[i]));
}

extern "C" sl_status sl_cuda_add(void *y, const void *x, size_t n, cudaStream_t stream) {
    if (n == 0) return SL_OK;
    add_kernel<<<blocks_for(n, THREADS * 4), THREADS, 0, stream>>>((__half *)y, (const __half *)x,
                                                                   n);
    return SL_CUDA(cudaGetLastError(), "launch add");
}

static __global__ void f32_to_f16_kernel(__half *y, const float *x, size_t n) {
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (size_t)gridDim.x * THREADS)
        y[i] = __float2half_rn(x[i]);
}

static __global__ void bf16_to_f16_kernel(__half *y, const __nv_bfloat16 *x, size_t n) {
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (size_t)gridDim.x * THREADS)
        y[i] = __float2half_rn(__bfloat162float(x[i]));
}

extern "C" sl_status sl_cuda_to_f16(void *y, const void *x, sl_dtype dtype, size_t n,
                                    cudaStream_t stream) {
    if (dtype != SL_DTYPE_F32 && dtype != SL_DTYPE_BF16)
        return SL_FAIL(SL_ERR_ARG, "to_f16 of %s, expected F32 or BF16", sl_dtype_name(dtype));
    if (n == 0) return SL_OK;
    const unsigned blocks = blocks_for(n, THREADS * 4);
    if (dtype == SL_DTYPE_F32)
        f32_to_f16_kernel<<<blocks, THREADS, 0, stream>>>((__half *)y, (const float *)x, n);
    else
        bf16_to_f16_kernel<<<blocks, THREADS, 0, stream>>>((__half *)y, (const __nv_bfloat16 *)x,
                                                           n);
    return SL_CUDA(cudaGetLastError(), "launch to_f16");
}

static __global__ void add_bias_kernel(void *y, int ldy, int is_f32, const float *bias, int n_rows,
                                       int cols) {
    const int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols) return;
    for (int r = blockIdx.y; r < n_rows; r += gridDim.y) {
        const size_t at = (size_t)r * ldy + c;
        if (is_f32)
            ((float *)y)[at] += bias[c];
        else
            ((__half *)y)[at] = __float2half_rn(__half2float(((__half *)y)[at]) + bias[c]);
    }
}

extern "C" sl_status sl_cuda_add_bias(void *y, int ldy, int is_f32, const float *bias, int n_rows,
                                      int cols, cudaStream_t stream) {
    if (n_rows < 0 || cols < 1 || ldy < cols)
        return SL_FAIL(SL_ERR_ARG, "add_bias on [%d, %d] in rows of %d", n_rows, cols, ldy);
    if (n_rows == 0) return SL_OK;
    const dim3 grid(blocks_for((size_t)cols, THREADS), n_rows < MAX_GRID_Y ? n_rows : MAX_GRID_Y);
    add_bias_kernel<<<grid, THREADS, 0, stream>>>(y, ldy, is_f32, bias, n_rows, cols);
    return SL_CUDA(cudaGetLastError(), "launch add_bias");
}
