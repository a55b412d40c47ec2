#include "cuda/cuda_gemm.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_check.h"

/* What an algorithm depends on. */
typedef struct {
    int n, m, k, ldy, ldw;
    int is_f32, accumulate, has_bias;
    uint32_t align_x, align_w, align_y, align_bias;
} shape;

/* Slots of the memory of algorithms; a shape that meets another in its slot replaces it.  A sweep
 * has some ten shapes; ragged prefill adds a few for each new count of rows. */
enum { N_SLOTS = 1024 };

typedef struct {
    shape key;
    int state; /* 0: empty, 1: algorithm, -1: cuBLASLt has none */
    cublasLtMatmulAlgo_t algo;
} slot;

struct sl_cuda_gemm {
    cublasLtHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    slot slots[N_SLOTS];
};

/* The objects that describe one product to cuBLASLt. */
typedef struct {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulPreference_t preference;
} descriptors;

sl_status sl_cuda_gemm_open(void *workspace, size_t workspace_bytes, sl_cuda_gemm **out) {
    sl_cuda_gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm) return SL_FAIL(SL_ERR_NOMEM, "gemm: out of host memory");
    gemm->workspace = workspace;
    gemm->workspace_bytes = workspace_bytes;
    const sl_status st = SL_CUBLAS(cublasLtCreate(&gemm->handle), "start cuBLASLt");
    if (st != SL_OK) {
        free(gemm);
        return st;
    }
    *out = gemm;
    return SL_OK;
}

void sl_cuda_gemm_close(sl_cuda_gemm *gemm) {
    if (!gemm) return;
    cublasLtDestroy(gemm->handle);
    free(gemm);
}

/* Largest power of two up to 256 that divides the address. */
static uint32_t alignment_of(const void *p) {
    const uintptr_t low = (uintptr_t)p & -(uintptr_t)p;
    return low == 0 || low > 256 ? 256 : (uint32_t)low;
}

static void free_descriptors(descriptors *d) {
    if (d->preference) cublasLtMatmulPreferenceDestroy(d->preference);
    if (d->y) cublasLtMatrixLayoutDestroy(d->y);
    if (d->x) cublasLtMatrixLayoutDestroy(d->x);
    if (d->w) cublasLtMatrixLayoutDestroy(d->w);
    if (d->op) cublasLtMatmulDescDestroy(d->op);
}

#define SET(call) SL_GO(SL_CUBLAS(call, "describe a matrix product"))

/* Row-major [n, m] = [n, k] [m, k]^T is column-major m x n = (k x m)^T (k x n). */
static sl_status make_descriptors(const sl_cuda_gemm_task *t, descriptors *d) {
    sl_status st = SL_OK;
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const cudaDataType_t type_y = t->is_f32 ? CUDA_R_32F : CUDA_R_16F;
    SET(cublasLtMatmulDescCreate(&d->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET(cublasLtMatmulDescSetAttribute(d->op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                       sizeof transpose));
    if (t->bias) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        SET(cublasLtMatmulDescSetAttribute(d->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue));
        SET(cublasLtMatmulDescSetAttribute(d->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &t->bias,
                                           sizeof t->bias));
    }
    SET(cublasLtMatrixLayoutCreate(&d->w, CUDA_R_16F, (uint64_t)t->k, (uint64_t)t->m, t->ldw));
    SET(cublasLtMatrixLayoutCreate(&d->x, CUDA_R_16F, (uint64_t)t->k, (uint64_t)t->n, t->k));
    SET(cublasLtMatrixLayoutCreate(&d->y, type_y, (uint64_t)t->m, (uint64_t)t->n, t->ldy));
fail:
    return st;
}

static sl_status ask_algorithm(sl_cuda_gemm *gemm, const shape *key, descriptors *d, slot *s) {
    sl_status st = SL_OK;
    SET(cublasLtMatmulPreferenceCreate(&d->preference));
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t value;
    } set[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->align_w},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->align_x},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->align_y},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->align_y},
        /* A sum that is split is put together in float32, never in the output's f16. */
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}};
    SET(cublasLtMatmulPreferenceSetAttribute(d->preference,
                                             CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &gemm->workspace_bytes, sizeof gemm->workspace_bytes));
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++)
        SET(cublasLtMatmulPreferenceSetAttribute(d->preference, set[i].what, &set[i].value,
                                                 sizeof set[i].value));
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;
    const cublasStatus_t got = cublasLtMatmulAlgoGetHeuristic(
        gemm->handle, d->op, d->w, d->x, d->y, d->y, d->preference, 1, &found, &n_found);
    if (got != CUBLAS_STATUS_NOT_SUPPORTED && got != CUBLAS_STATUS_INVALID_VALUE) SET(got);
    memset(s, 0, sizeof *s);
    s->key = *key;
    s->state = got == CUBLAS_STATUS_SUCCESS && n_found > 0 ? 1 : -1;
    if (s->state == 1) s->algo = found.algo;
fail:
    return st;
}

static slot *slot_of(sl_cuda_gemm *gemm, const shape *key) {
    uint64_t h = 0xcbf29ce484222325u;
    const unsigned char *byte = (const unsigned char *)key;
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ byte[i]) * 0x100000001b3u;
    return &gemm->slots[(h ^ h >> 32) % N_SLOTS];
}

sl_status sl_cuda_gemm_run(sl_cuda_gemm *gemm, const sl_cuda_gemm_task *t, cudaStream_t stream,
                           int *done) {
    shape key;
    memset(&key, 0, sizeof key); /* compared and hashed as bytes */
    key.n = t->n, key.m = t->m, key.k = t->k, key.ldy = t->ldy, key.ldw = t->ldw;
    key.is_f32 = t->is_f32, key.accumulate = t->accumulate, key.has_bias = t->bias != NULL;
    key.align_x = alignment_of(t->x), key.align_w = alignment_of(t->w);
    key.align_y = alignment_of(t->y), key.align_bias = alignment_of(t->bias);

    sl_status st = SL_OK;
    descriptors d = {0};
    const float one = 1.0f, beta = t->accumulate ? 1.0f : 0.0f;
    slot *s = slot_of(gemm, &key);
    SL_GO(make_descriptors(t, &d));
    if (s->state == 0 || memcmp(&s->key, &key, sizeof key) != 0)
        SL_GO(ask_algorithm(gemm, &key, &d, s));
    if (s->state == 1)
        SL_GO(SL_CUBLAS(cublasLtMatmul(gemm->handle, d.op, &one, t->w, d.w, t->x, d.x, &beta, t->y,
                                       d.y, t->y, d.y, &s->algo, gemm->workspace,
                                       gemm->workspace_bytes, stream),
                        "multiply matrices"));
    *done = s->state == 1;
fail:
    free_descriptors(&d);
    return st;
}
