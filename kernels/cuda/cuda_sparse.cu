/* Sparse attention of decode rows: all keys, and of the values those with the largest weights. */
#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_kv.h"
#include "model/config.h"

enum { WARP = 32, N_WARPS = 8, THREADS = WARP * N_WARPS, LANE_DIMS = SL_MAX_HEAD_DIM / WARP };

typedef struct {
    __half *out;
    const __half *q;
    int ldq, n_heads, group, window, first_item, max_tokens;
    float scale, sparsity;
    float *scores; /* [items of the launch, max_tokens] */
    sl_cuda_pages pages;
    sl_cuda_rows rows;
} sparse_args;

static __device__ float element(const sparse_args &a, const unsigned char *head, int token, int d) {
    const unsigned char *row = head + (size_t)token * a.pages.row_bytes;
    if (a.pages.bits == 0) return __half2float(((const __half *)row)[d]);
    const unsigned char *pairs =
        head + (size_t)SL_PAGE_TOKENS * a.pages.row_bytes + (size_t)token * a.pages.n_groups * 4;
    return __half2float(sl_decode_one(row, pairs, a.pages.bits, d));
}

static __device__ const unsigned char *keys_of(const sparse_args &a, const sl_cuda_segment &s,
                                               int head, int p) {
    return a.pages.base + (size_t)a.rows.pages[s.page0 + p / SL_PAGE_TOKENS] * a.pages.page_bytes +
           (size_t)(head / a.group) * a.pages.head_bytes;
}

/* Every thread gets the result. */
static __device__ float block_max(float v) {
    __shared__ float part[N_WARPS];
    for (int d = WARP / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    __syncthreads();
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    for (int w = 0; w < N_WARPS; w++) v = fmaxf(v, part[w]);
    return v;
}

static __device__ float block_sum(float v) {
    __shared__ float part[N_WARPS];
    for (int d = WARP / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    __syncthreads();
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < N_WARPS; w++) sum += part[w];
    return sum;
}

/* An unsigned number that orders as the float does. */
static __device__ unsigned rank_of(float x) {
    const unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The rank of the `wanted`th largest of n scores; *above: how many are larger. */
static __device__ unsigned find_bound(const float *score, int n, int wanted, int *above) {
    unsigned bound = 0;
    for (int bit = 31; bit >= 0; bit--) {
        const unsigned trial = bound | 1u << bit;
        float count = 0.0f;
        for (int i = threadIdx.x; i < n; i += THREADS) count += rank_of(score[i]) >= trial;
        if ((int)block_sum(count) >= wanted) bound = trial;
    }
    float count = 0.0f;
    for (int i = threadIdx.x; i < n; i += THREADS) count += rank_of(score[i]) > bound;
    *above = (int)block_sum(count);
    return bound;
}

/* A block per decode row and query head. */
static __global__ void attend_sparse_kernel(sparse_args a) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, dim = a.pages.head_dim;
    const int item = a.first_item + blockIdx.x, head = item % a.n_heads;
    const sl_cuda_segment segment = a.rows.segment[item / a.n_heads];
    const int last = segment.position0;
    const int first = a.window > 0 ? max(0, last + 1 - a.window) : 0;
    const int n = last + 1 - first;
    const __half *q = a.q + (size_t)segment.row0 * a.ldq + (size_t)head * dim;
    float *score = a.scores + (size_t)blockIdx.x * a.max_tokens;
    __shared__ float sums[N_WARPS][SL_MAX_HEAD_DIM];
    __shared__ int last_tie;

    float top = -INFINITY;
    for (int i = warp; i < n; i += N_WARPS) {
        const unsigned char *keys = keys_of(a, segment, head, first + i);
        float dot = 0.0f;
        for (int d = lane; d < dim; d += WARP)
            dot += __half2float(q[d]) * element(a, keys, (first + i) % SL_PAGE_TOKENS, d);
        for (int d = WARP / 2; d > 0; d /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, d);
        if (lane == 0) score[i] = dot * a.scale;
        top = fmaxf(top, dot * a.scale);
    }
    top = block_max(top); /* also: all scores are written */
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += THREADS) sum += __expf(score[i] - top);
    sum = block_sum(sum);

    /* The newest is kept in any case; of the others the largest, of equal ones the lowest. */
    int kept = (int)ceilf(a.sparsity * n);
    kept = kept < 1 ? 1 : kept > n ? n : kept;
    int above = 0;
    unsigned bound = 0xffffffffu;
    if (threadIdx.x == 0) last_tie = -1;
    if (kept > 1) {
        bound = find_bound(score, n - 1, kept - 1, &above);
        if (threadIdx.x == 0) {
            int left = kept - 1 - above;
            for (int i = 0; i < n - 1 && left > 0; i++) {
                if (rank_of(score[i]) != bound) continue;
                last_tie = i;
                left--;
            }
        }
    }
    __syncthreads();

    float o[LANE_DIMS] = {};
    for (int i = warp; i < n; i += N_WARPS) {
        const unsigned rank = rank_of(score[i]);
        if (i < n - 1 && (kept == 1 || rank < bound || (rank == bound && i > last_tie))) continue;
        const float e = __expf(score[i] - top);
        const unsigned char *values = keys_of(a, segment, head, first + i) + a.pages.half_bytes;
#pragma unroll
        for (int k = 0; k < LANE_DIMS; k++) {
            const int d = k * WARP + lane;
            if (d < dim) o[k] += e * element(a, values, (first + i) % SL_PAGE_TOKENS, d);
        }
    }
#pragma unroll
    for (int k = 0; k < LANE_DIMS; k++)
        if (k * WARP + lane < dim) sums[warp][k * WARP + lane] = o[k];
    __syncthreads();
    for (int d = threadIdx.x; d < dim; d += THREADS) {
        float total = 0.0f;
        for (int w = 0; w < N_WARPS; w++) total += sums[w][d];
        a.out[((size_t)segment.row0 * a.n_heads + head) * dim + d] = __float2half_rn(total / sum);
    }
}

extern "C" sl_status sl_cuda_attend_sparse(void *out, const void *q, int ldq, int n_heads,
                                           const sl_cuda_pages *pages, float scale, int window,
                                           float sparsity, const sl_cuda_rows *rows, void *scratch,
                                           size_t scratch_bytes, cudaStream_t stream) {
    if (!(sparsity > 0.0f && sparsity <= 1.0f))
        return SL_FAIL(SL_ERR_ARG, "attend: a share of %g of the values", (double)sparsity);
    if (rows->n_decode == 0) return SL_OK;
    const size_t per_item = (size_t)rows->max_decode_tokens * sizeof(float);
    const size_t fit = scratch_bytes / per_item;
    if (fit == 0)
        return SL_FAIL(SL_ERR_ARG, "attend: %d scores in a scratch of %zu bytes",
                       rows->max_decode_tokens, scratch_bytes);
    sparse_args a = {};
    a.out = (__half *)out;
    a.q = (const __half *)q;
    a.ldq = ldq;
    a.n_heads = n_heads;
    a.group = n_heads / pages->n_kv_heads;
    a.window = window;
    a.max_tokens = rows->max_decode_tokens;
    a.scale = scale;
    a.sparsity = sparsity;
    a.scores = (float *)scratch;
    a.pages = *pages;
    a.rows = *rows;
    const size_t n_items = (size_t)rows->n_decode * n_heads;
    for (size_t first = 0; first < n_items; first += fit) {
        const size_t n = n_items - first < fit ? n_items - first : fit;
        a.first_item = (int)first;
        attend_sparse_kernel<<<(unsigned)n, THREADS, 0, stream>>>(a);
        SL_TRY(SL_CUDA(cudaGetLastError(), "launch attend_sparse"));
    }
    return SL_OK;
}
