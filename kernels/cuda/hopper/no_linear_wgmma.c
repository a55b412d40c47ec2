/* Stands for cuda_linear_wgmma.cu where the program is built for no Hopper device. */
#include "cuda/cuda_linear.h"

sl_status sl_cuda_linear_wgmma_open(int device, int *can_out) {
    (void)device;
    *can_out = 0;
    return SL_OK;
}

int sl_cuda_linear_wgmma_takes(const sl_cuda_matrix *w, const void *x, size_t scratch_bytes) {
    (void)w, (void)x, (void)scratch_bytes;
    return 0;
}

sl_status sl_cuda_linear_wgmma(const sl_cuda_product *out, const void *x, const sl_cuda_matrix *w,
                               int n, void *scratch, size_t scratch_bytes, cudaStream_t stream) {
    (void)out, (void)x, (void)w, (void)scratch, (void)scratch_bytes, (void)stream;
    return SL_FAIL(SL_ERR_ARG, "linear_wgmma: %d rows, and this program has none", n);
}
