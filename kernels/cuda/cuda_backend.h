/* cuda_backend.h - the backend that computes on an NVIDIA GPU of compute capability 7.5 or newer.
 *
 * Activations are f16, logits float32, sums float32.  Weights on the device are F16, Q8G64 or
 * Q4G64; F32 and BF16 ones work, but are rounded to f16 again for every product, so a loader does
 * that once instead; GGML's formats are refused.  Cache pages are F16, Q8G64 or Q4G64.  Vectors
 * (gains, biases) are float32. Layer: kernels.  May include: src.  Thread safety: one thread per
 * backend.
 */
#ifndef SL_CUDA_BACKEND_H
#define SL_CUDA_BACKEND_H

#include "engine/backend.h"

typedef struct {
    int device;             /* CUDA's number of the device */
    size_t memory_bytes;    /* budget: taken as one run at the start, nothing is taken later */
    size_t workspace_bytes; /* cuBLAS's own; 0: 32 MiB */
    size_t unpack_bytes;    /* packed weights as f16, for products of many rows; 0: 64 MiB */
    size_t attend_bytes;    /* partial results of decode attention; 0: 32 MiB */
    int max_rows;           /* rows of a micro-batch; 0: 4096 */
    int max_pages;          /* entries of a micro-batch's page lists; 0: 65536 */
    int n_bound;            /* numbers of bind_rows(); 0: 16 */
} sl_cuda_options;

/* Devices that this process sees; 0 where there is no driver. */
int sl_cuda_device_count(void);

/* Memory of a device that nobody uses now; starts CUDA there.  Errors: SL_ERR_DEVICE. */
sl_status sl_cuda_free_bytes(int device, size_t *out);

/* The buffer for unpacked weights that suits weights of this precision: where none are packed it is
 * next to nothing. */
size_t sl_cuda_unpack_bytes(sl_dtype weights);

/* What a backend with these options takes of its budget itself; the rest is the caller's.  Needs no
 * device. */
size_t sl_cuda_overhead_bytes(const sl_cuda_options *options);

/* What tells one kind of device from another, and what drives it. */
typedef struct {
    char name[64];       /* "NVIDIA H100 80GB HBM3" */
    char bus[16];        /* where it is plugged in: "0000:1b:00.0" */
    int driver, runtime; /* CUDA versions, 1000 * major + 10 * minor */
    int major, minor;    /* compute capability */
} sl_cuda_identity;

/* Errors: SL_ERR_DEVICE. */
sl_status sl_cuda_identify(int device, sl_cuda_identity *out);

/* Opens a device; close with sl_backend_close().  All buffers above are part of the budget; CUDA's
 * own context (some 300 to 500 MiB, kernels' code) is not.
 * Errors: SL_ERR_ARG, SL_ERR_NOMEM (the budget does not fit the device, or the buffers do not fit
 * the budget), SL_ERR_DEVICE (no such device, too old). */
sl_status sl_cuda_backend_open(const sl_cuda_options *options, sl_backend **out);

#endif
