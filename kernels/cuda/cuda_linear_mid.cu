/* Products of packed weights with more rows than one tile of the few, and too few to pay for
 * weights that are unpacked to memory first: each block decodes its tile of weights into shared
 * memory.
 *
 * Outputs are the rows of A, rows of x the columns of B.  A block has 128 outputs and ROWS rows of
 * x, and goes along k a group of 64 at a time; its eight warps have 32 outputs and half of the rows
 * each.  While a group is multiplied, the next one's codes, which are in registers by then, are
 * decoded a quarter after each step of 16, the codes of the one after that are loaded, and so are
 * its rows of x.  Blocks that share weights are neighbours, so that they find them in the L2 cache.
 * Where outputs alone do not fill the device, blocks share them by parts of k, and a second kernel
 * adds the parts in order; how k is cut depends on the matrix alone. */
#include <stdint.h>

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_linear.h"
#include "cuda/cuda_mma.cuh"
#include "cuda/cuda_product.cuh"
#include "model/pack.h"

enum {
    WARP = 32,
    WARPS_OUT = 4, /* along outputs */
    WARPS_X = 2,   /* along rows of x */
    THREADS = WARPS_OUT * WARPS_X * WARP,
    OUTPUTS = 128,
    M_TILES = OUTPUTS / WARPS_OUT / 16, /* of a warp */
    DEPTH = SL_GROUP_ELEMS,
    HALF = DEPTH / 2, /* of a group: what a thread decodes */
    LD = DEPTH + 8,   /* halves between rows: eight of them, 16 bytes each, meet no bank twice */
    LD_SUMS = OUTPUTS + 4,
    STAGES = 3, /* of x */
    QUARTERS = DEPTH / 16,
    WANTED_BLOCKS = 100, /* of a product's outputs and parts of k; rows of x give more */
    LEAST_STEPS = 16
};
static_assert(THREADS == 2 * OUTPUTS, "two threads decode a row of weights");
static_assert(HALF == QUARTERS * 8, "a quarter of a thread's share is eight elements");

typedef struct {
    sl_cuda_product out;
    const __half *x;
    sl_cuda_matrix w;
    size_t code_bytes;
    int n;
    int n_steps, n_splits, split_steps; /* of k, DEPTH each */
    float *partial;                     /* [n_splits, n, w.n_rows] where n_splits > 1 */
} mid_args;

/* A thread's codes: HALF elements of one row. */
template <int BITS> struct mid_codes {
    uint32_t word[BITS];
    uint32_t pair;
};

template <int BITS>
static __device__ __forceinline__ void load_codes(mid_codes<BITS> *c, const mid_args &a,
                                                  const uint8_t *row, int k0) {
    const int first = k0 + threadIdx.x % 2 * HALF;
#pragma unroll
    for (int i = 0; i < BITS; i += 4) { /* 16 bytes hold 128 / BITS elements */
        const int k = first + i / 4 * (128 / BITS);
        const uint4 v =
            k < a.w.cols ? sl_load_stream(row + (size_t)k * BITS / 8) : make_uint4(0, 0, 0, 0);
        c->word[i] = v.x, c->word[i + 1] = v.y, c->word[i + 2] = v.z, c->word[i + 3] = v.w;
    }
    c->pair = __ldg((const unsigned int *)(row + a.code_bytes) + k0 / DEPTH);
}

/* Eight elements, the `quarter`-th of the thread's share, to its row of the tile. */
template <int BITS>
static __device__ __forceinline__ void put_quarter(__half (*tile)[LD], const mid_codes<BITS> &c,
                                                   int quarter) {
    const __half2 p = sl_as_half2(c.pair), step = __low2half2(p), min = __high2half2(p);
    uint32_t v[4];
    if (BITS == 4) {
        sl_decode_q4x8(v, c.word[quarter], step, min);
    } else {
        sl_decode_q8x4(v, c.word[2 * quarter], step, min);
        sl_decode_q8x4(v + 2, c.word[2 * quarter + 1], step, min);
    }
    *(uint4 *)&tile[threadIdx.x / 2][threadIdx.x % 2 * HALF + quarter * 8] =
        make_uint4(v[0], v[1], v[2], v[3]);
}

/* Zeros beyond the rows and beyond k, where codes stand for anything finite. */
template <int ROWS>
static __device__ __forceinline__ void load_x(__half (*tile)[LD], const mid_args &a, int row0,
                                              int k0) {
#pragma unroll
    for (int i = 0; i < ROWS * DEPTH / 8 / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x, r = at / (DEPTH / 8), k = at % (DEPTH / 8) * 8;
        const bool valid = row0 + r < a.n && k0 + k < a.w.cols;
        sl_copy16(&tile[r][k], a.x + (valid ? (size_t)(row0 + r) * a.w.cols + k0 + k : 0), valid);
    }
}

/* One step of 16 along k. */
template <int N_TILES>
static __device__ __forceinline__ void multiply(float (*acc)[N_TILES][4], const __half (*w)[LD],
                                                const __half (*x)[LD], int k, int lane) {
    uint32_t a[M_TILES][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++) sl_ldmatrix(a[m], &w[m * 16 + lane % 16][k + lane / 16 * 8]);
#pragma unroll
    for (int j = 0; j < N_TILES; j += 2) {
        uint32_t b[4];
        sl_ldmatrix(b, &x[j * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            sl_mma(acc[m][j], a[m], b[0], b[1]);
            sl_mma(acc[m][j + 1], a[m], b[2], b[3]);
        }
    }
}

template <int ROWS> static constexpr int shared_bytes() {
    const int tiles = (2 * OUTPUTS + STAGES * ROWS) * LD * (int)sizeof(__half);
    const int sums = ROWS * LD_SUMS * (int)sizeof(float);
    return tiles > sums ? tiles : sums;
}

template <int BITS, int ROWS>
static __global__ void __launch_bounds__(THREADS, 2) linear_mid_kernel(mid_args a) {
    enum { N_TILES = ROWS / WARPS_X / 8 };
    extern __shared__ __align__(16) unsigned char shared[];
    __half(*w_tile)[OUTPUTS][LD] = (__half(*)[OUTPUTS][LD])shared;
    __half(*x_tile)[ROWS][LD] = (__half(*)[ROWS][LD])(shared + 2 * sizeof *w_tile);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_out = warp % WARPS_OUT * M_TILES * 16, warp_x = warp / WARPS_OUT * N_TILES * 8;
    const int row0 = blockIdx.x * ROWS, output0 = blockIdx.y * OUTPUTS, split = blockIdx.z;
    const int first = split * a.split_steps, last = min(first + a.split_steps, a.n_steps);
    /* Outputs beyond the matrix repeat its last one. */
    const uint8_t *row =
        (const uint8_t *)a.w.data +
        (size_t)min(output0 + (int)threadIdx.x / 2, a.w.n_rows - 1) * a.w.row_bytes;

    float acc[M_TILES][N_TILES][4] = {};
    mid_codes<BITS> now, next;
    load_codes<BITS>(&now, a, row, first * DEPTH);
    for (int s = 0; s < STAGES - 1; s++) {
        if (first + s < last) load_x<ROWS>(x_tile[s], a, row0, (first + s) * DEPTH);
        sl_copy_commit();
    }
#pragma unroll
    for (int q = 0; q < QUARTERS; q++) put_quarter<BITS>(w_tile[0], now, q);
    if (first + 1 < last) load_codes<BITS>(&now, a, row, (first + 1) * DEPTH);

    int stage = 0;
    for (int s = first; s < last; s++) {
        const int buffer = (s - first) & 1, free_stage = stage == 0 ? STAGES - 1 : stage - 1;
        sl_copy_wait<STAGES - 2>();
        __syncthreads(); /* this group is here, and the one before has been used */
        if (s + 2 < last) {
            load_x<ROWS>(x_tile[free_stage], a, row0, (s + 2) * DEPTH);
            load_codes<BITS>(&next, a, row, (s + 2) * DEPTH);
        }
        sl_copy_commit(); /* an empty group at the end, so that the count stays right */
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            multiply<N_TILES>(acc, &w_tile[buffer][warp_out], &x_tile[stage][warp_x], q * 16, lane);
            if (s + 1 < last) put_quarter<BITS>(w_tile[buffer ^ 1], now, q);
        }
        now = next;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }

    /* By way of shared memory, so that neighbouring threads write neighbouring outputs. */
    float(*sums)[LD_SUMS] = (float(*)[LD_SUMS])shared;
    sl_copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int j = 0; j < N_TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sums[warp_x + j * 8 + lane % 4 * 2 + i % 2]
                    [warp_out + m * 16 + i / 2 * 8 + lane / 4] = acc[m][j][i];
    __syncthreads();
    float *parts = a.n_splits > 1 ? a.partial + (size_t)split * a.n * a.w.n_rows : NULL;
    for (int at = threadIdx.x; at < ROWS * OUTPUTS / 8; at += THREADS) {
        const int r = at / (OUTPUTS / 8), output = at % (OUTPUTS / 8) * 8;
        if (row0 + r < a.n && output0 + output < a.w.n_rows)
            sl_put_eight(a.out, parts, a.w.n_rows, row0 + r, output0 + output, &sums[r][output]);
    }
}

/* ---- launching ---- */

/* Parts of k: as many as give enough blocks, each of some steps, and no more than the scratch has
 * room for at any number of rows. */
static void cut_depth(mid_args *a, size_t scratch_bytes) {
    const int n_blocks = (a->w.n_rows + OUTPUTS - 1) / OUTPUTS;
    int n = (WANTED_BLOCKS + n_blocks - 1) / n_blocks;
    if (n > a->n_steps / LEAST_STEPS) n = a->n_steps / LEAST_STEPS;
    const int rows = a->n > SL_CUDA_MID_ROWS ? a->n : SL_CUDA_MID_ROWS;
    const size_t room = scratch_bytes / ((size_t)rows * a->w.n_rows * sizeof(float));
    if ((size_t)n > room) n = (int)room;
    if (n < 1) n = 1;
    a->split_steps = (a->n_steps + n - 1) / n;
    a->n_splits = (a->n_steps + a->split_steps - 1) / a->split_steps;
}

template <int BITS, int ROWS> static sl_status launch(const mid_args &a, cudaStream_t stream) {
    const dim3 grid((a.n + ROWS - 1) / ROWS, (a.w.n_rows + OUTPUTS - 1) / OUTPUTS, a.n_splits);
    linear_mid_kernel<BITS, ROWS><<<grid, THREADS, shared_bytes<ROWS>(), stream>>>(a);
    SL_TRY(SL_CUDA(cudaGetLastError(), "launch linear_mid"));
    return a.n_splits > 1
               ? sl_cuda_add_parts(&a.out, a.partial, a.n_splits, a.n, a.w.n_rows, stream)
               : SL_OK;
}

/* Tiles of 64 rows where those of 128 would compute more rows that are not there. */
template <int BITS> static sl_status launch_rows(const mid_args &a, cudaStream_t stream) {
    return (a.n + 63) / 64 < 2 * ((a.n + 127) / 128) ? launch<BITS, 64>(a, stream)
                                                     : launch<BITS, 128>(a, stream);
}

template <int BITS, int ROWS> static sl_status allow_shared(void) {
    return SL_CUDA(cudaFuncSetAttribute(linear_mid_kernel<BITS, ROWS>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        shared_bytes<ROWS>()),
                   "allow shared memory");
}

extern "C" sl_status sl_cuda_linear_mid_open(int device, int *can_out) {
    int most = 0;
    *can_out = 0;
    SL_TRY(SL_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                   "ask for shared memory"));
    if (most < shared_bytes<64>() || most < shared_bytes<128>()) return SL_OK;
    SL_TRY((allow_shared<4, 64>()));
    SL_TRY((allow_shared<4, 128>()));
    SL_TRY((allow_shared<8, 64>()));
    SL_TRY((allow_shared<8, 128>()));
    *can_out = 1;
    return SL_OK;
}

extern "C" int sl_cuda_linear_mid_takes(const sl_cuda_matrix *w, const void *x) {
    return sl_dtype_group_bits(w->dtype) != 0 && w->cols % 8 == 0 && w->row_bytes % 16 == 0 &&
           (uintptr_t)w->data % 16 == 0 && (uintptr_t)x % 16 == 0;
}

extern "C" sl_status sl_cuda_linear_mid(const sl_cuda_product *out, const void *x,
                                        const sl_cuda_matrix *w, int n, void *scratch,
                                        size_t scratch_bytes, cudaStream_t stream) {
    if (!sl_cuda_linear_mid_takes(w, x) || w->n_rows < 1 || w->cols < 1 || n < 0)
        return SL_FAIL(SL_ERR_ARG, "linear_mid: %d rows with [%d, %d] of %s are not for it", n,
                       w->n_rows, w->cols, sl_dtype_name(w->dtype));
    if (n == 0) return SL_OK;
    mid_args a = {};
    a.out = *out;
    a.x = (const __half *)x;
    a.w = *w;
    a.code_bytes = sl_pack_code_bytes(w->dtype, (size_t)w->cols);
    a.n = n;
    a.n_steps = (w->cols + DEPTH - 1) / DEPTH;
    a.partial = (float *)scratch;
    cut_depth(&a, scratch_bytes);
    return sl_dtype_group_bits(w->dtype) == 4 ? launch_rows<4>(a, stream)
                                              : launch_rows<8>(a, stream);
}
