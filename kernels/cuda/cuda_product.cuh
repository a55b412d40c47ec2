/* cuda_product.cuh - device code that writes what a product gives.
 *
 * Layer: kernels/cuda.
 */
#ifndef SL_CUDA_PRODUCT_CUH
#define SL_CUDA_PRODUCT_CUH

#include <cuda_fp16.h>

#include "cuda/cuda_linear.h"

/* Adds the bias and what y holds, where the product asks for it, and rounds once. */
static __device__ __forceinline__ void sl_put_product(const sl_cuda_product &out, size_t row,
                                                      int col, float v) {
    const size_t at = row * out.ldy + col;
    if (out.bias) v += out.bias[col];
    if (out.is_f32)
        ((float *)out.y)[at] = out.accumulate ? ((float *)out.y)[at] + v : v;
    else
        ((__half *)out.y)[at] =
            __float2half_rn(out.accumulate ? __half2float(((__half *)out.y)[at]) + v : v);
}

#endif
