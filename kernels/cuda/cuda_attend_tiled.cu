/* Attention of prefill chunks: tiles of queries against tiles of keys on the tensor cores. */
#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_kv.h"
#include "cuda/cuda_mma.cuh"

enum { WARP = 32, PAD = 8 /* halves between rows: ldmatrix without bank conflicts */ };

/* 64 queries by 64 keys fill the tensor cores while three tiles of 128-wide heads (52 KiB) still
 * fit Turing's 64 KiB; wider heads take half of both. */
template <int DIM> struct tile_of {
    enum {
        WARPS = DIM <= 128 ? 4 : 2,
        THREADS = WARPS * WARP,
        QUERIES = WARPS * 16,
        KEYS = DIM <= 128 ? 64 : 32,
        LD = DIM + PAD,
        BYTES = (QUERIES + 2 * KEYS) * LD * 2,
        BLOCKS = DIM <= 64    ? 4
                 : DIM <= 128 ? 3
                              : 1 /* on a multiprocessor, by their registers */
    };
};

typedef struct {
    __half *out;
    const __half *q;
    int ldq, n_heads;
    int group;       /* query heads of a key head */
    int tile_heads;  /* of them in a tile */
    int head_blocks; /* tiles that cover a group */
    int tile_tokens; /* queries / tile_heads */
    int first;       /* segment */
    int window;
    float scale_log2; /* of the scores, for exp2 */
    sl_cuda_pages pages;
    sl_cuda_rows rows;
} tiled_args;

/* How the threads of a block share a tile of keys: each keeps to eight dimensions and walks over
 * the tokens of each page. */
template <int DIM> struct share_of {
    enum {
        EIGHTS = DIM / 8,
        TOKENS_AT_ONCE = tile_of<DIM>::THREADS / EIGHTS,
        PER_PAGE = (SL_PAGE_TOKENS + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE,
        PAGES = tile_of<DIM>::KEYS / SL_PAGE_TOKENS
    };
};

/* f16 keys or values [position0, position0 + KEYS) of one head, copied asynchronously; zeros from
 * `end` on. */
template <int DIM>
static __device__ __forceinline__ void copy_tile(__half *tile, const tiled_args &a,
                                                 const int32_t *pages, size_t in_page,
                                                 int position0, int end) {
    typedef tile_of<DIM> T;
    typedef share_of<DIM> S;
    const int d = threadIdx.x % S::EIGHTS * 8, token0 = threadIdx.x / S::EIGHTS;
    if (token0 >= S::TOKENS_AT_ONCE) return; /* 96 dimensions leave 8 threads over */
#pragma unroll
    for (int page = 0; page < S::PAGES; page++) {
        const int first = position0 + page * SL_PAGE_TOKENS;
        const unsigned char *head = a.pages.base;
        if (first < end)
            head += (size_t)__ldg(pages + first / SL_PAGE_TOKENS) * a.pages.page_bytes + in_page;
#pragma unroll
        for (int j = 0; j < S::PER_PAGE; j++) {
            const int token = token0 + j * S::TOKENS_AT_ONCE;
            if (SL_PAGE_TOKENS % S::TOKENS_AT_ONCE != 0 && token >= SL_PAGE_TOKENS) break;
            const bool valid = d < a.pages.head_dim && first + token < end;
            sl_copy16(tile + (page * SL_PAGE_TOKENS + token) * T::LD + d,
                      head + (valid ? token * a.pages.row_bytes + d * 2 : 0), valid);
        }
    }
}

/* A thread's part of a packed tile, as it stands in the pages. */
template <int DIM> struct raw_tile {
    uint32_t code[share_of<DIM>::PAGES * share_of<DIM>::PER_PAGE][2]; /* 4-bit codes take one */
    uint32_t pair[share_of<DIM>::PAGES * share_of<DIM>::PER_PAGE];
};

/* Asks for the part; what is not there is zero, which decodes to zero.  The kernel does something
 * else before it uses it. */
template <int DIM>
static __device__ __forceinline__ void fetch_tile(raw_tile<DIM> *raw, const tiled_args &a,
                                                  const int32_t *pages, size_t in_page,
                                                  int position0, int end) {
    typedef share_of<DIM> S;
    const int d = threadIdx.x % S::EIGHTS * 8, token0 = threadIdx.x / S::EIGHTS;
#pragma unroll
    for (int page = 0; page < S::PAGES; page++) {
        const int first = position0 + page * SL_PAGE_TOKENS;
        const unsigned char *head = a.pages.base;
        if (first < end)
            head += (size_t)__ldg(pages + first / SL_PAGE_TOKENS) * a.pages.page_bytes + in_page;
        const unsigned int *pairs =
            (const unsigned int *)(head + SL_PAGE_TOKENS * a.pages.row_bytes);
#pragma unroll
        for (int j = 0; j < S::PER_PAGE; j++) {
            const int token = token0 + j * S::TOKENS_AT_ONCE, i = page * S::PER_PAGE + j;
            const bool valid =
                token < SL_PAGE_TOKENS && d < a.pages.head_dim && first + token < end;
            raw->code[i][0] = raw->code[i][1] = raw->pair[i] = 0;
            if (!valid) continue;
            const unsigned char *row = head + token * a.pages.row_bytes;
            raw->pair[i] = __ldg(pairs + token * a.pages.n_groups + d / SL_GROUP_ELEMS);
            if (a.pages.bits == 4) {
                raw->code[i][0] = __ldg((const unsigned int *)(row + d / 2));
            } else {
                const uint2 v = __ldg((const uint2 *)(row + d));
                raw->code[i][0] = v.x, raw->code[i][1] = v.y;
            }
        }
    }
}

/* Puts the part into the tile as f16. */
template <int DIM>
static __device__ __forceinline__ void store_tile(__half *tile, const raw_tile<DIM> &raw,
                                                  int bits) {
    typedef tile_of<DIM> T;
    typedef share_of<DIM> S;
    const int d = threadIdx.x % S::EIGHTS * 8, token0 = threadIdx.x / S::EIGHTS;
    if (token0 >= S::TOKENS_AT_ONCE) return;
#pragma unroll
    for (int i = 0; i < S::PAGES * S::PER_PAGE; i++) {
        const int token = token0 + i % S::PER_PAGE * S::TOKENS_AT_ONCE;
        if (SL_PAGE_TOKENS % S::TOKENS_AT_ONCE != 0 && token >= SL_PAGE_TOKENS) continue;
        const __half2 p = sl_as_half2(raw.pair[i]), step = __low2half2(p), min = __high2half2(p);
        uint32_t out[4];
        if (bits == 4) {
            sl_decode_q4x8(out, raw.code[i][0], step, min);
        } else {
            sl_decode_q8x4(out, raw.code[i][0], step, min);
            sl_decode_q8x4(out + 2, raw.code[i][1], step, min);
        }
        *(uint4 *)(tile + (i / S::PER_PAGE * SL_PAGE_TOKENS + token) * T::LD + d) =
            make_uint4(out[0], out[1], out[2], out[3]);
    }
}

static __device__ __forceinline__ int warp_min(int v) {
    for (int d = WARP / 2; d > 0; d /= 2) v = min(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

/* The tile's queries; rows that stand for none are zero. */
template <int DIM>
static __device__ void load_queries(__half *tile, const tiled_args &a,
                                    const sl_cuda_segment &segment, int token0, int kv_head,
                                    int head0) {
    typedef tile_of<DIM> T;
    const int head_dim = a.pages.head_dim;
    for (int i = threadIdx.x; i < T::QUERIES * DIM / 2; i += T::THREADS) {
        const int r = i / (DIM / 2), d = i % (DIM / 2) * 2;
        const int token = token0 + r / a.tile_heads, head = head0 + r % a.tile_heads;
        __half2 v = __float2half2_rn(0.0f);
        if (r < a.tile_tokens * a.tile_heads && token < segment.n_rows && head < a.group &&
            d < head_dim) {
            const __half *from = a.q + (size_t)(segment.row0 + token) * a.ldq +
                                 (size_t)(kv_head * a.group + head) * head_dim + d;
            v = __halves2half2(from[0], from[1]);
        }
        *(__half2 *)(tile + r * T::LD + d) = v;
    }
}

template <int DIM, bool PACKED>
static __global__ void __launch_bounds__(tile_of<DIM>::THREADS,
                                         tile_of<DIM>::BLOCKS - (PACKED && DIM <= 128))
    attend_tiled_kernel(tiled_args a) {
    typedef tile_of<DIM> T;
    enum { KEY_TILES = T::KEYS / 8, DIM_TILES = DIM / 8 };
    extern __shared__ __align__(16) __half shared[];
    __half *q_tile = shared, *k_tile = q_tile + T::QUERIES * T::LD,
           *v_tile = k_tile + T::KEYS * T::LD;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

    /* Later tiles see more keys: start them first. */
    const int token0 = (int)(gridDim.x - 1 - blockIdx.x) * a.tile_tokens;
    const sl_cuda_segment segment = a.rows.segment[a.first + blockIdx.y];
    if (token0 >= segment.n_rows) return;
    const int kv_head = blockIdx.z / a.head_blocks;
    const int head0 = blockIdx.z % a.head_blocks * a.tile_heads;
    const int n_tokens = min(a.tile_tokens, segment.n_rows - token0);
    const int32_t *pages = a.rows.pages + segment.page0;
    const int first_position = segment.position0 + token0;
    const int end = first_position + n_tokens; /* keys that the tile sees */
    /* Tiles of keys begin at multiples of KEYS whatever the chunk, for the sake of equal bits. */
    const int begin = a.window > 0 ? max(0, first_position + 1 - a.window) / T::KEYS * T::KEYS : 0;
    const size_t in_page = (size_t)kv_head * a.pages.head_bytes;

    raw_tile<DIM> raw; /* packed pages pass through registers, f16 ones do not */
    if (PACKED) {
        fetch_tile<DIM>(&raw, a, pages, in_page, begin, end);
        store_tile<DIM>(k_tile, raw, a.pages.bits);
    } else {
        copy_tile<DIM>(k_tile, a, pages, in_page, begin, end);
        sl_copy_commit();
    }
    load_queries<DIM>(q_tile, a, segment, token0, kv_head, head0);

    int position[2]; /* of the thread's two rows; -1: no row, sees nothing */
    for (int h = 0; h < 2; h++) {
        const int r = warp * 16 + h * 8 + g, token = r / a.tile_heads;
        position[h] = r < a.tile_tokens * a.tile_heads && token < n_tokens &&
                              head0 + r % a.tile_heads < a.group
                          ? first_position + token
                          : -1;
    }
    /* A tile of keys that every row of the warp sees needs no mask; -1 makes the mask stay. */
    const int least_position = warp_min(min(position[0], position[1])), most_position = end - 1;
    float o[DIM_TILES][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};

    for (int at = begin; at < end; at += T::KEYS) {
        sl_copy_wait<0>();
        __syncthreads(); /* keys are here, and the last values have been used */
        if (PACKED) {
            fetch_tile<DIM>(&raw, a, pages, in_page + a.pages.half_bytes, at, end);
        } else {
            copy_tile<DIM>(v_tile, a, pages, in_page + a.pages.half_bytes, at, end);
            sl_copy_commit();
        }

        float s[KEY_TILES][4] = {};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t qa[4];
            sl_ldmatrix(qa, q_tile + (warp * 16 + lane % 16) * T::LD + d + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < KEY_TILES; n += 2) {
                uint32_t kb[4];
                sl_ldmatrix(kb, k_tile + (n * 8 + lane / 16 * 8 + lane % 8) * T::LD + d +
                                    lane / 8 % 2 * 8);
                sl_mma(s[n], qa, kb[0], kb[1]);
                sl_mma(s[n + 1], qa, kb[2], kb[3]);
            }
        }
        __syncthreads(); /* all warps have used the keys */
        const bool more = at + T::KEYS < end;
        if (PACKED) {
            store_tile<DIM>(v_tile, raw, a.pages.bits);
            if (more) fetch_tile<DIM>(&raw, a, pages, in_page, at + T::KEYS, end);
        } else {
            if (more) copy_tile<DIM>(k_tile, a, pages, in_page, at + T::KEYS, end);
            sl_copy_commit();
        }

        float peak[2] = {top[0], top[1]};
        const bool all_seen =
            at + T::KEYS - 1 <= least_position && (a.window == 0 || at > most_position - a.window);
        if (!all_seen) {
#pragma unroll
            for (int n = 0; n < KEY_TILES; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int key = at + n * 8 + 2 * t + i % 2, p = position[i / 2];
                    if (key > p || (a.window > 0 && key <= p - a.window)) s[n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) peak[i / 2] = fmaxf(peak[i / 2], s[n][i]);
        float base[2], shrink[2];
        for (int h = 0; h < 2; h++) {
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(0xffffffffu, peak[h], 1));
            peak[h] = fmaxf(peak[h], __shfl_xor_sync(0xffffffffu, peak[h], 2));
            base[h] = peak[h] == -INFINITY ? 0.0f : peak[h] * a.scale_log2; /* none seen so far */
            shrink[h] = sl_exp2(top[h] * a.scale_log2 - base[h]);
            top[h] = peak[h];
            sum[h] *= shrink[h];
        }
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[n][i] = sl_exp2(s[n][i] * a.scale_log2 - base[i / 2]);
                sum[i / 2] += s[n][i];
            }
#pragma unroll
        for (int n = 0; n < DIM_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];

        sl_copy_wait<1>(); /* the values; the next keys may be on their way */
        __syncthreads();
#pragma unroll
        for (int n = 0; n < KEY_TILES; n += 2) {
            uint32_t pa[4];
            pa[0] = sl_as_bits(__floats2half2_rn(s[n][0], s[n][1]));
            pa[1] = sl_as_bits(__floats2half2_rn(s[n][2], s[n][3]));
            pa[2] = sl_as_bits(__floats2half2_rn(s[n + 1][0], s[n + 1][1]));
            pa[3] = sl_as_bits(__floats2half2_rn(s[n + 1][2], s[n + 1][3]));
#pragma unroll
            for (int d = 0; d < DIM_TILES; d += 2) {
                uint32_t vb[4];
                sl_ldmatrix_trans(vb, v_tile + (n * 8 + lane / 8 % 2 * 8 + lane % 8) * T::LD +
                                          d * 8 + lane / 16 * 8);
                sl_mma(o[d], pa, vb[0], vb[1]);
                sl_mma(o[d + 1], pa, vb[2], vb[3]);
            }
        }
        if (PACKED && more) store_tile<DIM>(k_tile, raw, a.pages.bits);
    }

    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
        if (position[h] < 0) continue;
        const int r = warp * 16 + h * 8 + g, head_dim = a.pages.head_dim;
        const int row = segment.row0 + token0 + r / a.tile_heads;
        const int head = kv_head * a.group + head0 + r % a.tile_heads;
        __half *to = a.out + ((size_t)row * a.n_heads + head) * head_dim;
        const float scale = 1.0f / sum[h];
#pragma unroll
        for (int n = 0; n < DIM_TILES; n++) {
            const int d = n * 8 + 2 * t;
            if (d >= head_dim) continue;
            to[d] = __float2half_rn(o[n][2 * h] * scale);
            to[d + 1] = __float2half_rn(o[n][2 * h + 1] * scale);
        }
    }
}

template <int DIM, bool PACKED>
static sl_status launch_kernel(tiled_args *a, int n, int max_rows, cudaStream_t stream) {
    typedef tile_of<DIM> T;
    SL_TRY(SL_CUDA(cudaFuncSetAttribute(attend_tiled_kernel<DIM, PACKED>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, T::BYTES),
                   "shared memory of attend"));
    enum { MAX_GRID_Y = 65535 };
    const int first = a->first;
    for (int done = 0; done < n; done += MAX_GRID_Y) {
        a->first = first + done;
        const dim3 grid((max_rows + a->tile_tokens - 1) / a->tile_tokens,
                        n - done < MAX_GRID_Y ? n - done : MAX_GRID_Y,
                        a->pages.n_kv_heads * a->head_blocks);
        attend_tiled_kernel<DIM, PACKED><<<grid, T::THREADS, T::BYTES, stream>>>(*a);
    }
    return SL_CUDA(cudaGetLastError(), "launch attend");
}

template <int DIM>
static sl_status launch(tiled_args *a, int n, int max_rows, cudaStream_t stream) {
    typedef tile_of<DIM> T;
    a->tile_heads = a->group < T::QUERIES ? a->group : (int)T::QUERIES;
    a->head_blocks = (a->group + a->tile_heads - 1) / a->tile_heads;
    a->tile_tokens = T::QUERIES / a->tile_heads;
    return a->pages.bits == 0 ? launch_kernel<DIM, false>(a, n, max_rows, stream)
                              : launch_kernel<DIM, true>(a, n, max_rows, stream);
}

extern "C" sl_status sl_cuda_attend_tiled(void *out, const void *q, int ldq, int n_heads,
                                          const sl_cuda_pages *pages, float scale, int window,
                                          const sl_cuda_rows *rows, int first, int n, int max_rows,
                                          cudaStream_t stream) {
    if (pages->head_dim % 8 != 0 || pages->head_dim > 256)
        return SL_FAIL(SL_ERR_ARG, "attend_tiled: heads of %d, expected multiples of 8 up to 256",
                       pages->head_dim);
    if (n == 0) return SL_OK;
    tiled_args a = {};
    a.out = (__half *)out;
    a.q = (const __half *)q;
    a.ldq = ldq;
    a.n_heads = n_heads;
    a.group = n_heads / pages->n_kv_heads;
    a.first = first;
    a.window = window;
    a.scale_log2 = scale * 1.44269504f;
    a.pages = *pages;
    a.rows = *rows;
    if (pages->head_dim <= 64) return launch<64>(&a, n, max_rows, stream);
    if (pages->head_dim <= 96) return launch<96>(&a, n, max_rows, stream);
    if (pages->head_dim <= 128) return launch<128>(&a, n, max_rows, stream);
    return launch<256>(&a, n, max_rows, stream);
}
