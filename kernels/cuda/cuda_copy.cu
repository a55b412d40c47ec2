#include "cuda/cuda_copy.h"

#include <stdint.h>

#include "cuda/cuda_check.h"

/* Few blocks fill the link: 16 bytes a thread, four in flight.  A product that comes while they run
 * has to do without their processors, and its launch waits behind their reads on the link. */
enum { THREADS = 256, IN_FLIGHT = 4, MOST_BLOCKS = 8 };

static __global__ void copy_kernel(uint4 *dst, const uint4 *src, size_t n, uint8_t *dst_tail,
                                   const uint8_t *src_tail, int n_tail) {
    const size_t first = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = first; i < n; i += IN_FLIGHT * stride) {
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++)
            if (i + k * stride < n) v[k] = src[i + k * stride];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++)
            if (i + k * stride < n) dst[i + k * stride] = v[k];
    }
    if (first < (size_t)n_tail) dst_tail[first] = src_tail[first];
}

/* The address by which the device reaches the memory. */
static sl_status device_address(const void *memory, char **out) {
    struct cudaPointerAttributes a;
    SL_TRY(SL_CUDA(cudaPointerGetAttributes(&a, memory), "look a copy's memory up"));
    if (!a.devicePointer)
        return SL_FAIL(SL_ERR_DEVICE, "a small copy from or to memory at %p, which is not pinned",
                       memory);
    *out = (char *)a.devicePointer;
    return SL_OK;
}

extern "C" sl_status sl_cuda_copy_small(void *dst, const void *src, size_t bytes,
                                        cudaStream_t stream) {
    char *to = NULL, *from = NULL;
    if (bytes == 0) return SL_OK;
    SL_TRY(device_address(dst, &to));
    SL_TRY(device_address(src, &from));
    const int wide = ((uintptr_t)to | (uintptr_t)from) % sizeof(uint4) == 0;
    if (!wide || bytes < sizeof(uint4))
        return SL_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream),
                       "queue a small copy");
    const size_t n = bytes / sizeof(uint4), at = n * sizeof(uint4);
    const size_t want = (n + (size_t)THREADS * IN_FLIGHT - 1) / ((size_t)THREADS * IN_FLIGHT);
    const unsigned blocks = want < MOST_BLOCKS ? (unsigned)want : MOST_BLOCKS;
    copy_kernel<<<blocks, THREADS, 0, stream>>>((uint4 *)to, (const uint4 *)from, n,
                                                (uint8_t *)to + at, (const uint8_t *)from + at,
                                                (int)(bytes - at));
    return SL_CUDA(cudaGetLastError(), "launch a small copy");
}
