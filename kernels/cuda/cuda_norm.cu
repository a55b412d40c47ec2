#include "cuda/cuda_norm.h"

#include <cuda_fp16.h>

#include "cuda/cuda_check.h"

/* A block of 256 threads per row keeps 8 warps busy at hidden sizes >= 768; heads (64 to 256
 * columns) get a warp each, 8 rows to a block, since a block of 256 would mostly idle. */
enum { NORM_THREADS = 256, WARP = 32, N_WARPS = NORM_THREADS / WARP, WARP_COLS = 512 };

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
    else
        norm_rows_kernel<<<n_rows, NORM_THREADS, 0, stream>>>(to, from, gain, bias, subtract_mean,
                                                              eps, cols);
    return SL_CUDA(cudaGetLastError(), "launch norm");
}
