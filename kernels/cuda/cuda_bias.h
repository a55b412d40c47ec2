/* cuda_bias.h - f16 copies of biases that stay as they are.
 *
 * cuBLAS adds a bias in the type of its output.  Biases are float32; one that is converted for each
 * product costs a few rows as much as a norm does, so those of weights that stay are converted
 * once.
 * Layer: kernels/cuda.  May include: src.  Thread safety: one thread per backend.
 */
#ifndef SL_CUDA_BIAS_H
#define SL_CUDA_BIAS_H

#include <stddef.h>
#include <stdint.h>

/* Elements of all copies: 2 MiB of f16.  A slice of f16 weights that fills a GPU of 16 GiB has one
 * element in 0.75 / hidden size of its bytes. */
enum { SL_CUDA_KEPT_BIASES = 1 << 20 };

/* float32 on the device, from[n], whose copy begins at element `first` of all copies. */
typedef struct {
    const float *from;
    int n;
    size_t first;
} sl_cuda_bias_run;

typedef struct {
    uint16_t *copy; /* device, f16 [SL_CUDA_KEPT_BIASES], of which the first `used` are taken */
    size_t used;
    sl_cuda_bias_run *run; /* [n_runs] of `room`, by address */
    int n_runs, room;
} sl_cuda_biases;

#endif
