#include "cuda/cuda_norm.h"

#include <cuda_fp16.h>
#include <stdint.h>

#include "cuda/cuda_check.h"

/* Rows whose elements lie in eights are held in registers by a block of as many threads as they
 * have eights, up to MOST_THREADS: one trip to memory for the row, its gain and its bias together,
 * which is all that a few rows wait for.  Others go over the row three times, with 256 threads.
 * Heads (64 to 256 columns) get a warp each, 8 rows to a block, since a block would mostly idle. */
enum {
    NORM_THREADS = 256,
    WARP = 32,
    N_WARPS = NORM_THREADS / WARP,
    WARP_COLS = 512,
    EIGHT = 8,
    MOST_THREADS = 1024,
    MOST_EIGHTS = 2 /* of a thread */
};

static __device__ float warp_sum(float v) {
    for (int d = WARP / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

static __device__ float block_sum(float v) {
    __shared__ float part[N_WARPS];
    v = warp_sum(v);
    __syncthreads(); /* the last sum has been read by all */
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    float total = 0.0f;
    for (int w = 0; w < N_WARPS; w++) total += part[w];
    return total;
}

/* One row by `n_lanes` threads, of which this one is `lane`: a warp, or the whole block. */
template <bool WHOLE_BLOCK>
static __device__ void norm_row(__half *y, const __half *x, const float *gain, const float *bias,
                                bool subtract_mean, float eps, int cols, int lane) {
    const int n_lanes = WHOLE_BLOCK ? NORM_THREADS : WARP;
    float mean = 0.0f;
    if (subtract_mean) {
        for (int c = lane; c < cols; c += n_lanes) mean += __half2float(x[c]);
        mean = (WHOLE_BLOCK ? block_sum(mean) : warp_sum(mean)) / cols;
    }
    /* A second pass instead of E[x^2] - E[x]^2: that cancels badly when the mean is large, and the
     * row is in L1 by now. */
    float square = 0.0f;
    for (int c = lane; c < cols; c += n_lanes) {
        const float d = __half2float(x[c]) - mean;
        square += d * d;
    }
    square = WHOLE_BLOCK ? block_sum(square) : warp_sum(square);
    const float scale = 1.0f / sqrtf(square / cols + eps);
    for (int c = lane; c < cols; c += n_lanes) {
        float v = (__half2float(x[c]) - mean) * scale;
        if (gain) v *= gain[c];
        if (bias) v += bias[c];
        y[c] = __float2half_rn(v);
    }
}

static __global__ void norm_rows_kernel(__half *y, const __half *x, const float *gain,
                                        const float *bias, bool subtract_mean, float eps,
                                        int cols) {
    const size_t at = (size_t)blockIdx.x * cols;
    norm_row<true>(y + at, x + at, gain, bias, subtract_mean, eps, cols, threadIdx.x);
}

/* The sum over a block of whole warps, to all its threads. */
static __device__ float wide_sum(float v) {
    __shared__ float part[MOST_THREADS / WARP];
    const int lane = threadIdx.x % WARP, n_warps = blockDim.x / WARP;
    v = warp_sum(v);
    __syncthreads(); /* the last sum has been read by all */
    if (lane == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    return warp_sum(lane < n_warps ? part[lane] : 0.0f);
}

static __device__ void load_eight(float out[EIGHT], const float *from, float otherwise) {
    for (int i = 0; i < EIGHT; i++) out[i] = otherwise;
    if (!from) return;
    const float4 low = ((const float4 *)from)[0], high = ((const float4 *)from)[1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

/* EIGHTS of 8 columns to a thread: thread t has those numbered t, t + blockDim.x, ... */
template <int EIGHTS>
static __global__ void __launch_bounds__(MOST_THREADS)
    norm_wide_kernel(__half *y, const __half *x, const float *gain, const float *bias,
                     bool subtract_mean, float eps, int cols) {
    const size_t at = (size_t)blockIdx.x * cols;
    float v[EIGHTS][EIGHT], g[EIGHTS][EIGHT], b[EIGHTS][EIGHT];
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        const int c = (threadIdx.x + e * blockDim.x) * EIGHT;
        const bool within = c < cols;
        const uint4 raw = within ? *(const uint4 *)(x + at + c) : make_uint4(0, 0, 0, 0);
        if (EIGHTS == 1) {
            load_eight(g[e], within && gain ? gain + c : NULL, 1.0f);
            load_eight(b[e], within && bias ? bias + c : NULL, 0.0f);
        }
        const __half2 *pair = (const __half2 *)&raw;
#pragma unroll
        for (int i = 0; i < EIGHT / 2; i++) {
            const float2 two = __half22float2(pair[i]);
            v[e][2 * i] = two.x;
            v[e][2 * i + 1] = two.y;
            sum += two.x + two.y;
        }
    }
    const float mean = subtract_mean ? wide_sum(sum) / cols : 0.0f;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        if ((threadIdx.x + e * blockDim.x) * EIGHT >= cols) continue;
#pragma unroll
        for (int i = 0; i < EIGHT; i++) square += (v[e][i] - mean) * (v[e][i] - mean);
    }
    const float scale = 1.0f / sqrtf(wide_sum(square) / cols + eps);
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        const int c = (threadIdx.x + e * blockDim.x) * EIGHT;
        if (c >= cols) continue;
        if (EIGHTS > 1) { /* there are registers for the row alone */
            load_eight(g[e], gain ? gain + c : NULL, 1.0f);
            load_eight(b[e], bias ? bias + c : NULL, 0.0f);
        }
        uint4 raw;
        __half2 *pair = (__half2 *)&raw;
#pragma unroll
        for (int i = 0; i < EIGHT / 2; i++)
            pair[i] = __floats2half2_rn((v[e][2 * i] - mean) * scale * g[e][2 * i] + b[e][2 * i],
                                        (v[e][2 * i + 1] - mean) * scale * g[e][2 * i + 1] +
                                            b[e][2 * i + 1]);
        *(uint4 *)(y + at + c) = raw;
    }
}

static bool is_aligned(const void *p) {
    return (uintptr_t)p % sizeof(uint4) == 0;
}

/* Whether rows lie in eights that the wide kernel holds. */
static bool is_wide(const void *y, const void *x, const float *gain, const float *bias, int cols) {
    return cols % EIGHT == 0 && cols <= MOST_THREADS * MOST_EIGHTS * EIGHT && is_aligned(y) &&
           is_aligned(x) && is_aligned(gain) && is_aligned(bias);
}

static void launch_wide(__half *y, const __half *x, const float *gain, const float *bias,
                        bool subtract_mean, float eps, int n_rows, int cols, cudaStream_t stream) {
    const int eights = cols / EIGHT, each = eights > MOST_THREADS ? MOST_EIGHTS : 1;
    const int least = (eights + each - 1) / each, threads = (least + WARP - 1) / WARP * WARP;
    if (each == 1)
        norm_wide_kernel<1>
            <<<n_rows, threads, 0, stream>>>(y, x, gain, bias, subtract_mean, eps, cols);
    else
        norm_wide_kernel<MOST_EIGHTS>
            <<<n_rows, threads, 0, stream>>>(y, x, gain, bias, subtract_mean, eps, cols);
}

static __global__ void norm_heads_kernel(__half *y, const __half *x, const float *gain,
                                         const float *bias, bool subtract_mean, float eps,
                                         int n_rows, int cols) {
    const int row = blockIdx.x * N_WARPS + threadIdx.x / WARP;
    if (row >= n_rows) return;
    const size_t at = (size_t)row * cols;
    norm_row<false>(y + at, x + at, gain, bias, subtract_mean, eps, cols, threadIdx.x % WARP);
}

extern "C" sl_status sl_cuda_norm(void *y, const void *x, const float *gain, const float *bias,
                                  sl_norm_kind kind, float eps, int n_rows, int cols,
                                  cudaStream_t stream) {
    if (n_rows < 0 || cols < 1) return SL_FAIL(SL_ERR_ARG, "norm on [%d, %d]", n_rows, cols);
    if (kind != SL_NORM_LAYER && kind != SL_NORM_RMS)
        return SL_FAIL(SL_ERR_ARG, "norm of kind %d", (int)kind);
    if (!(eps >= 0.0f)) return SL_FAIL(SL_ERR_ARG, "norm with eps %g", (double)eps);
    if (n_rows == 0) return SL_OK;
    __half *to = (__half *)y;
    const __half *from = (const __half *)x;
    const bool subtract_mean = kind == SL_NORM_LAYER;
    if (cols <= WARP_COLS)
        norm_heads_kernel<<<(n_rows + N_WARPS - 1) / N_WARPS, NORM_THREADS, 0, stream>>>(
            to, from, gain, bias, subtract_mean, eps, n_rows, cols);
    else if (is_wide(y, x, gain, bias, cols))
        launch_wide(to, from, gain, bias, subtract_mean, eps, n_rows, cols, stream);
    else
        norm_rows_kernel<<<n_rows, NORM_THREADS, 0, stream>>>(to, from, gain, bias, subtract_mean,
                                                              eps, cols);
    return SL_CUDA(cudaGetLastError(), "launch norm");
}
