/* cuda_choose.h - launcher of the CUDA sampler.
 *
 * The rules are those of engine/sampler.c; one block takes one row.  Probabilities relative to the
 * best token's are computed in double and added as integers of 2^-44, so that sums do not depend on
 * the order of threads; a token chosen differs from the host's only where the random number falls
 * within some 2^-26 of a boundary.
 * Layer: kernels/cuda.  May include: base.  Thread safety: as CUDA's.
 */
#ifndef SL_CUDA_CHOOSE_H
#define SL_CUDA_CHOOSE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SL_CUDA_MAX_TOP = 20, SL_CUDA_MAX_BAN = 16 };

/* What is asked of one row. */
typedef struct {
    float temperature; /* 0: greedy */
    int32_t top_k;     /* <= 0: off */
    float top_p, min_p;
    double unit;      /* the row's random number in [0, 1) */
    int32_t target;   /* >= 0: score it instead of choosing */
    int32_t n_top;    /* alternatives wanted, <= SL_CUDA_MAX_TOP */
    int32_t logprobs; /* 1: log-probabilities are wanted */
    int32_t n_ban;
    int32_t ban[SL_CUDA_MAX_BAN];
} sl_cuda_ask;

typedef struct {
    int32_t id;      /* -1: every token is banned */
    float logprob;   /* 0 unless wanted */
    int32_t bad;     /* -1; else the first logit that is NaN or +inf; -2: all are -inf */
    float bad_value; /* that logit */
    int32_t n_top;
    int32_t top_id[SL_CUDA_MAX_TOP];
    float top_logprob[SL_CUDA_MAX_TOP];
} sl_cuda_answer;

/* logits: device, float32, [n_rows, vocab], banned ones are overwritten; ask, answer: device,
 * [n_rows].  Work is queued on `stream`; the call does not wait.
 * Errors: SL_ERR_ARG, SL_ERR_DEVICE. */
sl_status sl_cuda_choose(float *logits, int n_rows, int vocab, const sl_cuda_ask *ask,
                         sl_cuda_answer *answer, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
