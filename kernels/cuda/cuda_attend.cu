/* Attention: which kernel a row takes, and the plain one. */
#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_kv.h"
#include "model/config.h"

enum { WARP = 32, N_WARPS = 8, THREADS = WARP * N_WARPS, LANE_DIMS = SL_MAX_HEAD_DIM / WARP };

typedef struct {
    __half *out;
    const __half *q;
    int ldq, n_heads, group, window;
    float scale_log2;
    sl_cuda_pages pages;
    sl_cuda_rows rows;
} any_args;

static __device__ float element(const any_args &a, const unsigned char *head, int token, int d) {
    const unsigned char *row = head + (size_t)token * a.pages.row_bytes;
    if (a.pages.bits == 0) return __half2float(((const __half *)row)[d]);
    const unsigned char *pairs =
        head + (size_t)SL_PAGE_TOKENS * a.pages.row_bytes + (size_t)token * a.pages.n_groups * 4;
    return __half2float(sl_decode_one(row, pairs, a.pages.bits, d));
}

/* A warp per row and head, a key at a time: for heads that the others do not take. */
static __global__ void attend_any_kernel(any_args a) {
    const int lane = threadIdx.x % WARP, dim = a.pages.head_dim;
    const size_t item = (size_t)blockIdx.x * N_WARPS + threadIdx.x / WARP;
    if (item >= (size_t)a.rows.n_rows * a.n_heads) return;
    const int row = (int)(item / a.n_heads), head = (int)(item % a.n_heads);
    const sl_cuda_segment segment = a.rows.segment[a.rows.in_segment[row]];
    const int last = segment.position0 + row - segment.row0;
    const int first = a.window > 0 ? max(0, last + 1 - a.window) : 0;
    const __half *q = a.q + (size_t)row * a.ldq + (size_t)head * dim;

    float o[LANE_DIMS] = {}, top = -INFINITY, sum = 0.0f;
    for (int p = first; p <= last; p++) {
        const unsigned char *keys =
            a.pages.base +
            (size_t)a.rows.pages[segment.page0 + p / SL_PAGE_TOKENS] * a.pages.page_bytes +
            (size_t)(head / a.group) * a.pages.head_bytes;
        float dot = 0.0f;
        for (int d = lane; d < dim; d += WARP)
            dot += __half2float(q[d]) * element(a, keys, p % SL_PAGE_TOKENS, d);
        for (int d = WARP / 2; d > 0; d /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, d);
        const float s = dot * a.scale_log2, peak = fmaxf(top, s);
        const float shrink = exp2f(top - peak), e = exp2f(s - peak);
        top = peak;
        sum = sum * shrink + e;
#pragma unroll
        for (int i = 0; i < LANE_DIMS; i++) {
            const int d = i * WARP + lane;
            if (d < dim)
                o[i] = o[i] * shrink +
                       e * element(a, keys + a.pages.half_bytes, p % SL_PAGE_TOKENS, d);
        }
    }
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) {
        const int d = i * WARP + lane;
        if (d < dim) a.out[item * dim + d] = __float2half_rn(o[i] / sum);
    }
}

extern "C" sl_status sl_cuda_attend_any(void *out, const void *q, int ldq, int n_heads,
                                        const sl_cuda_pages *pages, float scale, int window,
                                        const sl_cuda_rows *rows, cudaStream_t stream) {
    if (rows->n_rows == 0) return SL_OK;
    any_args a = {};
    a.out = (__half *)out;
    a.q = (const __half *)q;
    a.ldq = ldq;
    a.n_heads = n_heads;
    a.group = n_heads / pages->n_kv_heads;
    a.window = window;
    a.scale_log2 = scale * 1.44269504f;
    a.pages = *pages;
    a.rows = *rows;
    const size_t n_items = (size_t)rows->n_rows * n_heads;
    attend_any_kernel<<<(unsigned)((n_items + N_WARPS - 1) / N_WARPS), THREADS, 0, stream>>>(a);
    return SL_CUDA(cudaGetLastError(), "launch attend");
}

extern "C" sl_status sl_cuda_attend(void *out, const void *q, int ldq, int n_heads,
                                    const sl_kv_view *cache, float scale, int window,
                                    float sparsity, const sl_cuda_rows *rows, void *scratch,
                                    size_t scratch_bytes, cudaStream_t stream) {
    SL_TRY(sl_cuda_check_cache("attend", cache));
    const sl_kv_format *f = &cache->format;
    if (n_heads < 1 || n_heads % f->n_kv_heads != 0)
        return SL_FAIL(SL_ERR_ARG, "attend: %d query heads over %d key heads", n_heads,
                       f->n_kv_heads);
    if (ldq < (int64_t)n_heads * f->head_dim)
        return SL_FAIL(SL_ERR_ARG, "attend: %d heads of %d in rows of %d", n_heads, f->head_dim,
                       ldq);
    if (!(scale > 0.0f)) return SL_FAIL(SL_ERR_ARG, "attend with a scale of %g", (double)scale);
    if (window < 0) return SL_FAIL(SL_ERR_ARG, "attend with a window of %d", window);
    const sl_cuda_pages pages = sl_cuda_pages_of(cache);
    const int n_decode = rows->n_decode, n_prefill = rows->n_segments - n_decode;
    const int any = f->head_dim % 8 != 0 || f->head_dim > 256 || (uintptr_t)cache->base % 16 != 0;
    if (any) /* decode rows that are to be sparse are then done again */
        SL_TRY(sl_cuda_attend_any(out, q, ldq, n_heads, &pages, scale, window, rows, stream));
    if (sparsity > 0.0f)
        SL_TRY(sl_cuda_attend_sparse(out, q, ldq, n_heads, &pages, scale, window, sparsity, rows,
                                     scratch, scratch_bytes, stream));
    else if (!any && (f->head_dim == 64 || f->head_dim == 128))
        SL_TRY(sl_cuda_attend_split(out, q, ldq, n_heads, &pages, scale, window, rows, scratch,
                                    scratch_bytes, stream));
    else if (!any)
        SL_TRY(sl_cuda_attend_tiled(out, q, ldq, n_heads, &pages, scale, window, rows, 0, n_decode,
                                    1, stream));
    if (any) return SL_OK;
    return sl_cuda_attend_tiled(out, q, ldq, n_heads, &pages, scale, window, rows, n_decode,
                                n_prefill, rows->max_prefill_rows, stream);
}
