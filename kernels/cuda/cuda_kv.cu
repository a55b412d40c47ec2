#include "cuda/cuda_kv.h"

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "model/config.h"

enum { WARP = 32, N_WARPS = 8, THREADS = WARP * N_WARPS };

extern "C" sl_status sl_cuda_check_cache(const char *op, const sl_kv_view *cache) {
    if (!cache || !cache->base) return SL_FAIL(SL_ERR_ARG, "%s without a cache", op);
    const sl_kv_format *f = &cache->format;
    if ((f->dtype != SL_DTYPE_F16 && !sl_dtype_group_bits(f->dtype)) || f->n_kv_heads < 1 ||
        f->head_dim < 1 || f->head_dim > SL_MAX_HEAD_DIM)
        return SL_FAIL(SL_ERR_ARG, "%s: a cache of %s with %d heads of %d", op,
                       sl_dtype_name(f->dtype), f->n_kv_heads, f->head_dim);
    const sl_kv_format made = sl_kv_format_make(f->dtype, f->n_kv_heads, f->head_dim);
    if (f->head_bytes != made.head_bytes || f->half_bytes != made.half_bytes ||
        f->page_bytes < made.page_bytes)
        return SL_FAIL(SL_ERR_ARG, "%s: a cache with pages of %zu bytes, expected at least %zu", op,
                       f->page_bytes, made.page_bytes);
    return SL_OK;
}

/* A warp writes one head's key or value of one row. */
static __global__ void kv_append_kernel(sl_cuda_pages pages, const __half *k, const __half *v,
                                        int ld, sl_cuda_rows rows) {
    const int lane = threadIdx.x % WARP;
    const size_t item = (size_t)blockIdx.x * N_WARPS + threadIdx.x / WARP;
    const int per_row = 2 * pages.n_kv_heads;
    if (item >= (size_t)rows.n_rows * per_row) return;
    const int row = (int)(item / per_row), at = (int)(item % per_row);
    const int is_value = at >= pages.n_kv_heads, head = at - is_value * pages.n_kv_heads;

    const sl_cuda_segment segment = rows.segment[rows.in_segment[row]];
    const int position = segment.position0 + row - segment.row0, token = position % SL_PAGE_TOKENS;
    unsigned char *base =
        pages.base +
        (size_t)rows.pages[segment.page0 + position / SL_PAGE_TOKENS] * pages.page_bytes +
        (is_value ? pages.half_bytes : 0) + (size_t)head * pages.head_bytes;
    const __half *x = (is_value ? v : k) + (size_t)row * ld + (size_t)head * pages.head_dim;
    unsigned char *codes = base + (size_t)token * pages.row_bytes;
    if (pages.bits == 0) {
        for (int d = lane; d < pages.head_dim; d += WARP) ((__half *)codes)[d] = x[d];
        return;
    }
    __half2 *pairs =
        (__half2 *)(base + (size_t)SL_PAGE_TOKENS * pages.row_bytes) + token * pages.n_groups;
    for (int g = 0; g < pages.n_groups; g++) {
        const int d = g * SL_GROUP_ELEMS;
        sl_pack_group_by_warp(codes + d * pages.bits / 8, pairs + g, x + d, pages.bits,
                              min(pages.head_dim - d, (int)SL_GROUP_ELEMS), lane);
    }
}

extern "C" sl_status sl_cuda_kv_append(const sl_kv_view *cache, const void *k, const void *v,
                                       int ld, const sl_cuda_rows *rows, cudaStream_t stream) {
    SL_TRY(sl_cuda_check_cache("kv_append", cache));
    const sl_kv_format *f = &cache->format;
    if (ld < (int64_t)f->n_kv_heads * f->head_dim)
        return SL_FAIL(SL_ERR_ARG, "kv_append: %d heads of %d in rows of %d", f->n_kv_heads,
                       f->head_dim, ld);
    if (rows->n_rows == 0) return SL_OK;
    const size_t n_items = (size_t)rows->n_rows * 2 * f->n_kv_heads;
    kv_append_kernel<<<(unsigned)((n_items + N_WARPS - 1) / N_WARPS), THREADS, 0, stream>>>(
        sl_cuda_pages_of(cache), (const __half *)k, (const __half *)v, ld, *rows);
    return SL_CUDA(cudaGetLastError(), "launch kv_append");
}
