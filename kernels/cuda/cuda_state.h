/* cuda_state.h - the state of a CUDA backend, shared by its parts.
 *
 * Layer: kernels/cuda.  May include: src.  Thread safety: one thread per backend.
 */
#ifndef SL_CUDA_STATE_H
#define SL_CUDA_STATE_H

#include <cuda_runtime_api.h>

#include "cuda/cuda_backend.h"
#include "cuda/cuda_bias.h"
#include "cuda/cuda_choose.h"
#include "cuda/cuda_gemm.h"
#include "cuda/cuda_pool.h"
#include "cuda/cuda_rows.h"

/* Rows of logits that one launch of the sampler takes; with those that are begun. */
enum { SL_CUDA_CHOOSE_ROWS = 256, SL_CUDA_ASKED_ROWS = SL_CUDA_CHOOSE_ROWS + SL_BEGUN_ROWS };

/* One micro-batch's rows: a pinned copy that is being filled or sent, and its image on the device,
 * which lie alike. */
typedef struct {
    sl_cuda_rows rows;
    void *host, *device;
    cudaEvent_t sent; /* behind the copy: the host's part may be filled again */
    int covered;      /* 1: segments cover all rows, so the cache's operators may run */
    int64_t least_token, most_token, most_position;
} sl_cuda_bound;

typedef struct {
    sl_backend base; /* first: sl_backend * and sl_cuda * are the same address */
    int device, n_processors;
    int has_mid;   /* sl_cuda_linear_mid_open() */
    int has_wgmma; /* sl_cuda_linear_wgmma_open() */
    int max_rows, max_pages, n_bound;
    size_t unpack_bytes, attend_bytes;
    cudaStream_t stream[SL_STREAM_COUNT];
    char *memory; /* the pool's run of device memory */
    sl_cuda_pool pool;
    sl_cuda_gemm *gemm;
    void *workspace; /* cuBLAS's */
    void *unpacked;  /* [unpack_bytes] */
    void *bias;      /* f16, [SL_CUDA_MAX_BIAS]: of one that is not kept */
    sl_cuda_biases biases;
    void *partial;        /* [attend_bytes] */
    sl_cuda_bound *bound; /* [n_bound + 1]: the last is for rows that nobody bound */
    /* Pinned, [SL_CUDA_ASKED_ROWS]: first those of a call that waits, then those that are begun, of
     * which [n_ended, n_begun) are due. */
    sl_cuda_ask *ask;
    sl_cuda_answer *answer;
    int n_begun, n_ended;
    sl_cuda_ask *device_ask;
    sl_cuda_answer *device_answer;
    float *logits_row; /* host, [logits_room]: a row that the host's sampler takes */
    void *logits_scratch;
    int logits_room;
} sl_cuda;

/* Outputs of a product whose bias goes through cuBLAS in f16; wider ones add it afterwards. */
enum { SL_CUDA_MAX_BIAS = 1 << 18 };

static inline sl_cuda *sl_cuda_of(sl_backend *be) {
    return (sl_cuda *)be;
}

static inline cudaStream_t sl_cuda_compute(const sl_cuda *cuda) {
    return cuda->stream[SL_STREAM_COMPUTE];
}

/* Takes from the pool.  Errors: SL_ERR_NOMEM. */
sl_status sl_cuda_take(sl_cuda *cuda, size_t bytes, const char *what, void **out);

/* cuda_device.c: the table of memory, copies and events. */
extern const sl_device_ops sl_cuda_device_ops;

/* cuda_bind.c */
size_t sl_cuda_bound_bytes(int max_rows, int max_pages); /* of one micro-batch's rows */
sl_status sl_cuda_open_bound(sl_cuda *cuda);
void sl_cuda_close_bound(sl_cuda *cuda);
sl_status sl_cuda_bind_rows(sl_backend *be, int number, sl_rows *rows);
/* The rows' copy on the device, made now if nobody did. */
sl_status sl_cuda_bound_rows(sl_cuda *cuda, const sl_rows *rows, const sl_cuda_bound **out);

/* cuda_bias.c: the backend's keep_bias and forget_biases.  What finds no room is not kept. */
sl_status sl_cuda_keep_bias(sl_backend *be, const float *bias, int n);
void sl_cuda_forget_biases(sl_backend *be);
/* The f16 copy of bias[n], on the device; NULL where it is not kept. */
const void *sl_cuda_kept_bias(const sl_cuda *cuda, const float *bias, int n);

/* cuda_product.c */
sl_status sl_cuda_op_linear(sl_backend *be, void *y, int ldy, const void *x, const sl_weight *w,
                            const float *bias, int n_rows, int accumulate);
sl_status sl_cuda_op_logits(sl_backend *be, float *y, const void *x, const sl_weight *w,
                            int n_rows);
/* The run of slabs that begins at slab `first` and lies in one piece: same dtype, each behind the
 * one before.  Returns the number of the next slab. */
int sl_cuda_next_run(const sl_weight *w, int first, int *n_rows_out);
/* Outputs of m to unpack and multiply at a time where the buffer holds `fit`: as many as leave the
 * processors' last wave of tiles fullest, for products of n rows.  In [1, min(m, fit)]. */
int sl_cuda_chunk_rows(int n, int m, int fit, int n_processors);
/* Errors: SL_ERR_ARG when slabs do not make up the matrix. */
sl_status sl_cuda_check_weight(const char *op, const sl_weight *w);

/* cuda_sample.c */
sl_status sl_cuda_op_choose(sl_backend *be, void *logits, int n_rows, int vocab,
                            const sl_choice_ask *ask, sl_choice *out);
sl_status sl_cuda_op_choose_begin(sl_backend *be, void *logits, int n_rows, int vocab,
                                  const sl_choice_ask *ask);
sl_status sl_cuda_op_choose_end(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                                sl_choice *out);

#endif
