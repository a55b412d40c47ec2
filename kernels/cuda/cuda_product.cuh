/* cuda_product.cuh - device code that writes what a product gives.
 *
 * Layer: kernels/cuda.
 */
#ifndef SL_CUDA_PRODUCT_CUH
#define SL_CUDA_PRODUCT_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "cuda/cuda_groups.cuh"
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

/* Writes eight outputs of a row, as far as they exist.
 *   parts     NULL: to the product's y; else to a part of the sums, float32, [rows, n_outputs]
 *   output    a multiple of eight
 *   sums      16-byte aligned */
static __device__ __forceinline__ void sl_put_eight(const sl_cuda_product &out, float *parts,
                                                    int n_outputs, int row, int output,
                                                    const float *sums) {
    const float4 low4 = ((const float4 *)sums)[0], high4 = ((const float4 *)sums)[1];
    const float v[8] = {low4.x, low4.y, low4.z, low4.w, high4.x, high4.y, high4.z, high4.w};
    const bool whole = output + 8 <= n_outputs;
    if (parts) {
        float *to = parts + (size_t)row * n_outputs + output;
        if (whole && n_outputs % 4 == 0) {
            ((float4 *)to)[0] = low4;
            ((float4 *)to)[1] = high4;
            return;
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (output + i < n_outputs) to[i] = v[i];
        return;
    }
    __half *to = (__half *)out.y + (size_t)row * out.ldy + output;
    if (out.is_f32 || !whole || (uintptr_t)to % 16 != 0) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (output + i < n_outputs) sl_put_product(out, row, output + i, v[i]);
        return;
    }
    uint4 old = make_uint4(0, 0, 0, 0);
    if (out.accumulate) old = *(const uint4 *)to;
    const uint32_t before[4] = {old.x, old.y, old.z, old.w};
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = v[2 * i], high = v[2 * i + 1];
        if (out.bias) low += out.bias[output + 2 * i], high += out.bias[output + 2 * i + 1];
        if (out.accumulate) {
            const float2 y = __half22float2(sl_as_half2(before[i]));
            low += y.x, high += y.y;
        }
        pair[i] = sl_as_bits(__floats2half2_rn(low, high));
    }
    *(uint4 *)to = make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

#endif
