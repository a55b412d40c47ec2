/* Attention of decode rows: one query against a long cache, bound by reading it once.
 *
 * A warp takes one page at a time, straight from device memory to registers in the page's own
 * format.  Keys are the rows of the tensor core's A, heads of a group (8 at most) the columns of B:
 *   scores^T [32 keys, 8 heads] = K [32, DIM] Q^T;   out^T [DIM, 8 heads] += V^T [DIM, 32] P^T
 * The order of dimensions within a product is free, so that a thread's share of a key or a value is
 * whatever it can load at once.  Four warps share the pages of a split; splits are merged by a
 * second kernel.  How a sequence is split depends on its length alone. */
#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_kv.h"
#include "cuda/cuda_mma.cuh"

/* 16 pages (512 tokens) to a split: the merge's traffic stays below 2 % of the pages'. */
enum { WARP = 32, N_WARPS = 4, THREADS = N_WARPS * WARP, HEADS = 8, SPLIT_PAGES = 16 };

typedef struct {
    __half *out;
    const __half *q;
    int ldq, n_heads;
    int group;       /* query heads of a key head */
    int head_blocks; /* blocks of HEADS that cover a group */
    int first;       /* decode segment */
    int window;
    int max_splits;
    float scale_log2;
    float *partial; /* [n_segments, n_heads, max_splits, head_dim + 2]: maximum, sum, sums of V */
    sl_cuda_pages pages;
    sl_cuda_rows rows;
} split_args;

static __host__ __device__ int splits_of(int n_pages) {
    return (n_pages + SPLIT_PAGES - 1) / SPLIT_PAGES;
}

/* 2 * N halves that follow each other, N: 1, 2, 4 or 8 words. */
template <int N>
static __device__ __forceinline__ void load_words(uint32_t w[N], const void *from, bool valid) {
    if (!valid) {
        for (int i = 0; i < N; i++) w[i] = 0;
    } else if (N == 1) {
        w[0] = __ldg((const unsigned int *)from);
    } else if (N == 2) {
        const uint2 v = __ldg((const uint2 *)from);
        w[0] = v.x, w[1] = v.y;
    } else {
        for (int i = 0; i < N; i += 4) {
            const uint4 v = __ldg((const uint4 *)from + i / 4);
            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        }
    }
}

/* N elements as N / 2 pairs from their raw words. */
template <int BITS, int N>
static __device__ __forceinline__ void decode_words(uint32_t out[N / 2], const uint32_t *raw,
                                                    uint32_t pair) {
    const __half2 p = sl_as_half2(pair), step = __low2half2(p), min = __high2half2(p);
    if (BITS == 0)
        for (int i = 0; i < N / 2; i++) out[i] = raw[i];
    else if (BITS == 4)
        for (int i = 0; i < N / 8; i++) sl_decode_q4x8(out + 4 * i, raw[i], step, min);
    else
        for (int i = 0; i < N / 4; i++) sl_decode_q8x4(out + 2 * i, raw[i], step, min);
}

/* The first dimension of the thread's u-th eight of a key. */
template <int BITS, int DIM> static __device__ __forceinline__ int key_dim(int u, int t) {
    if (BITS == 0) return 32 * u + 8 * t;                      /* 16 bytes, 4 threads together */
    if (BITS == 8) return 64 * (u / 2) + 16 * t + 8 * (u % 2); /* 16 bytes */
    return DIM / 4 * t + 8 * u;                                /* 16 bytes, 8 where DIM is 64 */
}

template <int BITS, int DIM>
static __global__ void __launch_bounds__(THREADS) attend_split_kernel(split_args a) {
    enum {
        UNITS = DIM / 32, /* eights of a key that a thread has */
        KEY_WORDS = BITS ? DIM / 4 * BITS / 32 : DIM / 8,
        VALUE_DIMS = DIM / 8, /* dimensions of a value that a thread has */
        VALUE_WORDS = BITS ? VALUE_DIMS * BITS / 32 : VALUE_DIMS / 2,
        GROUPS = BITS ? DIM / SL_GROUP_ELEMS : 0,
        TILES = DIM / 16
    };
    __shared__ float s_top[N_WARPS][HEADS], s_sum[N_WARPS][HEADS];
    __shared__ float s_out[N_WARPS][HEADS][DIM + 1];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

    const sl_cuda_segment segment = a.rows.segment[a.first + blockIdx.y];
    const int n_tokens = segment.position0 + 1;
    const int n_pages = (n_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    const int n_splits = splits_of(n_pages), split = blockIdx.x;
    if (split >= n_splits) return;
    const int per_split = (n_pages + n_splits - 1) / n_splits;
    const int page_end = min(n_pages, (split + 1) * per_split);
    const int first_token = a.window > 0 ? max(0, n_tokens - a.window) : 0;
    const int kv_head = blockIdx.z / a.head_blocks, head0 = blockIdx.z % a.head_blocks * HEADS;
    const int n_heads = min((int)HEADS, a.group - head0);

    /* The queries in the order of the keys' dimensions; thread g has head g. */
    uint32_t q[UNITS][4];
    const __half *from =
        a.q + (size_t)segment.row0 * a.ldq + (size_t)(kv_head * a.group + head0 + g) * DIM;
    const bool wide = ((uintptr_t)a.q | (uintptr_t)a.ldq * 2) % 16 == 0;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const __half *at = from + key_dim<BITS, DIM>(u, t);
        if (wide)
            load_words<4>(q[u], at, g < n_heads);
        else
            for (int i = 0; i < 4; i++)
                q[u][i] = g < n_heads ? sl_as_bits(__halves2half2(at[2 * i], at[2 * i + 1])) : 0;
    }

    float o[TILES][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}; /* of heads 2t, 2t + 1 */

    for (int page = max(split * per_split, first_token / SL_PAGE_TOKENS) + warp; page < page_end;
         page += N_WARPS) {
        const int position0 = page * SL_PAGE_TOKENS;
        const unsigned char *keys =
            a.pages.base + (size_t)__ldg(a.rows.pages + segment.page0 + page) * a.pages.page_bytes +
            (size_t)kv_head * a.pages.head_bytes;
        const unsigned char *values = keys + a.pages.half_bytes;
        enum { ROW_BYTES = BITS ? DIM * BITS / 8 : DIM * 2, CODES = SL_PAGE_TOKENS * ROW_BYTES };

        /* Everything of the page is asked for before the first use.  Tokens beyond the sequence are
         * not read: the page's unwritten part may hold anything. */
        uint32_t key[4][KEY_WORDS], key_pair[4][GROUPS > 1 ? 2 : 1];
#pragma unroll
        for (int r = 0; r < 4; r++) { /* keys g, g + 8, g + 16, g + 24 */
            const int token = g + 8 * r;
            const bool valid = position0 + token < n_tokens;
            const unsigned char *row = keys + token * ROW_BYTES;
            if (BITS == 4) {
                load_words<KEY_WORDS>(key[r], row + t * KEY_WORDS * 4, valid);
            } else {
#pragma unroll
                for (int i = 0; i < KEY_WORDS; i += 4)
                    load_words<4>(key[r] + i, row + i * 16 + t * 16, valid);
            }
            if (BITS) {
                const uint32_t *pairs = (const uint32_t *)(keys + CODES) + token * GROUPS;
                if (BITS == 4) /* the thread's dimensions lie in one group */
                    key_pair[r][0] = valid ? __ldg(pairs + t * GROUPS / 4) : 0;
                else
                    load_words<(GROUPS > 1 ? 2 : 1)>(key_pair[r], pairs, valid);
            }
        }
        uint32_t value[2][4][VALUE_WORDS], value_pair[2][4];
#pragma unroll
        for (int r = 0; r < 8; r++) { /* tokens 2t, 2t + 1, 2t + 8, 2t + 9 of both halves */
            const int token = r / 4 * 16 + r % 4 / 2 * 8 + 2 * t + r % 2;
            const bool valid = position0 + token < n_tokens;
            load_words<VALUE_WORDS>(value[r / 4][r % 4],
                                    values + token * ROW_BYTES + g * VALUE_WORDS * 4, valid);
            if (BITS)
                value_pair[r / 4][r % 4] = valid ? __ldg((const uint32_t *)(values + CODES) +
                                                         token * GROUPS + g * GROUPS / 8)
                                                 : 0;
        }

        float s[2][4] = {};
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            uint32_t k[4][4];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const uint32_t pair = BITS == 8 && GROUPS > 1 ? key_pair[r][u / 2] : key_pair[r][0];
                decode_words<BITS, 8>(k[r], key[r] + (BITS ? u * BITS / 4 : u * 4),
                                      BITS ? pair : 0);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t first[4] = {k[2 * h][0], k[2 * h + 1][0], k[2 * h][1],
                                           k[2 * h + 1][1]};
                const uint32_t second[4] = {k[2 * h][2], k[2 * h + 1][2], k[2 * h][3],
                                            k[2 * h + 1][3]};
                sl_mma(s[h], first, q[u][0], q[u][1]);
                sl_mma(s[h], second, q[u][2], q[u][3]);
            }
        }

        /* s[h][i]: key 16h + g + 8 (i / 2), head 2t + i % 2 */
        float peak[2] = {top[0], top[1]};
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int p = position0 + 16 * h + g + i / 2 * 8;
                s[h][i] = p >= first_token && p < n_tokens ? s[h][i] * a.scale_log2 : -INFINITY;
                peak[i % 2] = fmaxf(peak[i % 2], s[h][i]);
            }
        float base[2], shrink[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            for (int d = 4; d < WARP; d *= 2)
                peak[j] = fmaxf(peak[j], __shfl_xor_sync(0xffffffffu, peak[j], d));
            base[j] = peak[j] == -INFINITY ? 0.0f : peak[j];
            shrink[j] = sl_exp2(top[j] - base[j]);
            top[j] = peak[j];
            sum[j] *= shrink[j];
        }
#pragma unroll
        for (int m = 0; m < TILES; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[m][i] *= shrink[i % 2];

#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t p[2]; /* probabilities, turned round: keys along the thread's pair */
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float x = sl_exp2(s[h][2 * i] - base[0]),
                            y = sl_exp2(s[h][2 * i + 1] - base[1]);
                sum[0] += x;
                sum[1] += y;
                asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
                    : "=r"(p[i])
                    : "r"(sl_as_bits(__floats2half2_rn(x, y))));
            }
            uint32_t v[4][TILES];
#pragma unroll
            for (int r = 0; r < 4; r++)
                decode_words<BITS, VALUE_DIMS>(v[r], value[h][r], BITS ? value_pair[h][r] : 0);
#pragma unroll
            for (int m = 0; m < TILES; m++) { /* rows g, g + 8: dimensions 2m, 2m + 1 of thread g */
                const uint32_t va[4] = {
                    __byte_perm(v[0][m], v[1][m], 0x5410), __byte_perm(v[0][m], v[1][m], 0x7632),
                    __byte_perm(v[2][m], v[3][m], 0x5410), __byte_perm(v[2][m], v[3][m], 0x7632)};
                sl_mma(o[m], va, p[0], p[1]);
            }
        }
    }

#pragma unroll
    for (int j = 0; j < 2; j++) {
        for (int d = 4; d < WARP; d *= 2) sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], d);
        if (g == 0) {
            s_top[warp][2 * t + j] = top[j];
            s_sum[warp][2 * t + j] = sum[j];
        }
        if (2 * t + j < n_heads)
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                s_out[warp][2 * t + j][g * VALUE_DIMS + 2 * m] = o[m][j];
                s_out[warp][2 * t + j][g * VALUE_DIMS + 2 * m + 1] = o[m][2 + j];
            }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_heads * DIM; i += THREADS) {
        const int h = i / DIM, d = i % DIM, head = kv_head * a.group + head0 + h;
        float peak = -INFINITY, total = 0.0f, v = 0.0f;
        for (int w = 0; w < N_WARPS; w++) peak = fmaxf(peak, s_top[w][h]);
        const float base = peak == -INFINITY ? 0.0f : peak;
        for (int w = 0; w < N_WARPS; w++) {
            const float share = sl_exp2(s_top[w][h] - base);
            total += share * s_sum[w][h];
            v += share * s_out[w][h][d];
        }
        if (n_splits == 1) {
            a.out[((size_t)segment.row0 * a.n_heads + head) * DIM + d] = __float2half_rn(v / total);
            continue;
        }
        float *to = a.partial +
                    (((size_t)blockIdx.y * a.n_heads + head) * a.max_splits + split) * (DIM + 2);
        if (d == 0) {
            to[0] = peak;
            to[1] = total;
        }
        to[2 + d] = v;
    }
}

/* One block per decode row and head, a thread per dimension. */
static __global__ void merge_splits_kernel(split_args a) {
    const sl_cuda_segment segment = a.rows.segment[a.first + blockIdx.y];
    const int n_pages = segment.position0 / SL_PAGE_TOKENS + 1, n_splits = splits_of(n_pages);
    if (n_splits == 1) return; /* written by the split itself */
    const int dim = a.pages.head_dim, head = blockIdx.x, d = threadIdx.x;
    const float *from =
        a.partial + ((size_t)blockIdx.y * a.n_heads + head) * a.max_splits * (dim + 2);
    float peak = -INFINITY, total = 0.0f, v = 0.0f;
    for (int s = 0; s < n_splits; s++) peak = fmaxf(peak, from[s * (dim + 2)]);
    for (int s = 0; s < n_splits; s++) {
        const float share = sl_exp2(from[s * (dim + 2)] - peak);
        total += share * from[s * (dim + 2) + 1];
        v += share * from[s * (dim + 2) + 2 + d];
    }
    a.out[((size_t)segment.row0 * a.n_heads + head) * dim + d] = __float2half_rn(v / total);
}

extern "C" size_t sl_cuda_attend_scratch(int max_tokens, int n_heads, int head_dim) {
    const int n_splits = splits_of((max_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS);
    return n_splits <= 1 ? 0 : (size_t)n_splits * n_heads * ((size_t)head_dim + 2) * sizeof(float);
}

template <int BITS> static void launch_split(const split_args *a, dim3 grid, cudaStream_t stream) {
    if (a->pages.head_dim == 64)
        attend_split_kernel<BITS, 64><<<grid, THREADS, 0, stream>>>(*a);
    else
        attend_split_kernel<BITS, 128><<<grid, THREADS, 0, stream>>>(*a);
}

extern "C" sl_status sl_cuda_attend_split(void *out, const void *q, int ldq, int n_heads,
                                          const sl_cuda_pages *pages, float scale, int window,
                                          const sl_cuda_rows *rows, void *scratch,
                                          size_t scratch_bytes, cudaStream_t stream) {
    if (pages->head_dim != 64 && pages->head_dim != 128)
        return SL_FAIL(SL_ERR_ARG, "attend_split: heads of %d, expected 64 or 128",
                       pages->head_dim);
    if (rows->n_decode == 0) return SL_OK;
    split_args a = {};
    a.out = (__half *)out;
    a.q = (const __half *)q;
    a.ldq = ldq;
    a.n_heads = n_heads;
    a.group = n_heads / pages->n_kv_heads;
    a.head_blocks = (a.group + HEADS - 1) / HEADS;
    a.window = window;
    a.max_splits = splits_of((rows->max_decode_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS);
    a.scale_log2 = scale * 1.44269504f;
    a.partial = (float *)scratch;
    a.pages = *pages;
    a.rows = *rows;
    const size_t per_row =
        sl_cuda_attend_scratch(rows->max_decode_tokens, n_heads, pages->head_dim);
    if (per_row > scratch_bytes)
        return SL_FAIL(SL_ERR_ARG, "attend_split: %zu bytes of scratch, %d tokens need %zu",
                       scratch_bytes, rows->max_decode_tokens, per_row);
    enum { MAX_GRID_Y = 65535 };
    const size_t fit = per_row ? scratch_bytes / per_row : (size_t)MAX_GRID_Y;
    const int at_once = fit < MAX_GRID_Y ? (int)fit : MAX_GRID_Y;
    for (int done = 0; done < rows->n_decode; done += at_once) {
        const int n = rows->n_decode - done < at_once ? rows->n_decode - done : at_once;
        a.first = done;
        const dim3 grid(a.max_splits, n, pages->n_kv_heads * a.head_blocks);
        if (pages->bits == 0)
            launch_split<0>(&a, grid, stream);
        else if (pages->bits == 8)
            launch_split<8>(&a, grid, stream);
        else
            launch_split<4>(&a, grid, stream);
        if (a.max_splits > 1)
            merge_splits_kernel<<<dim3(n_heads, n), pages->head_dim, 0, stream>>>(a);
    }
    return SL_CUDA(cudaGetLastError(), "launch attend");
}
