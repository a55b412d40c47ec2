/* Products of packed weights with many rows, for Hopper: weights are decoded in registers, where
 * the warpgroup's product takes its left side from, and never unpacked to memory.
 *
 * Outputs are the rows of A, rows of x the columns of B.  A first kernel lays x out as the product
 * wants its B: by tiles of ROWS rows and 64 elements of k, swizzled, in memory one behind another.
 * The order of k is free within a chunk of 128, so it also puts every element where the thread
 * finds itself with the code that belongs to it: see arrange_kernel().
 *
 * A block has 128 outputs and ROWS rows of x and goes along k.  Its ninth warp has tiles of x
 * copied to a ring in shared memory; a tile is given back once both warpgroups are done with it.  A
 * thread of the other eight copies codes of its two outputs, some chunks ahead, to places that
 * nobody else reads, so that no one waits for others' weights.  While one pair of steps is
 * multiplied, the codes of the next are decoded.  Blocks that share weights are neighbours, so that
 * they find them in the L2 cache.  Where outputs alone do not fill the device and rows are few,
 * blocks share outputs by parts of k, and a last kernel adds the parts in order; how k is cut
 * depends on the matrix and the scratch alone. */
#include <stdint.h>

#include "cuda/cuda_check.h"
#include "cuda/cuda_groups.cuh"
#include "cuda/cuda_linear.h"
#include "cuda/cuda_product.cuh"
#include "cuda/hopper/cuda_wgmma.cuh"
#include "model/pack.h"

enum {
    WARP = 32,
    WARPGROUP = 4 * WARP,
    CONSUMERS = 2 * WARPGROUP,
    OUTPUTS = CONSUMERS / WARPGROUP * 64,
    CHUNK = 128, /* of k: four threads have 32 codes of a row each */
    DEPTH = 64,  /* of a tile of x: rows of 128 bytes */
    TILES = CHUNK / DEPTH,
    UNITS = CHUNK / 32, /* of two steps of 16, which are decoded at once */
    LD_SUMS = OUTPUTS + 4,
    ARRANGE_ROWS = 64, /* to a block, four threads each */
    MAX_ROWS = 256,
    MAX_BATCH = 1 << 20, /* rows: grids are small enough */
    ROWS_STEP = 64,      /* between the tiles' sizes */
    PROCESSORS = 132,    /* of an H100 or H200 */
    COST_OF_BLOCK = 32,  /* what a block takes besides its products, in rows */
    COST_OF_LEAST = 206, /* all of two blocks of ROWS_STEP that share a processor, or of one */
    LEAST_CHUNKS = 4,    /* of a part of k */
    ALIGN = 1024         /* of tiles */
};

typedef struct {
    sl_cuda_product out;
    const unsigned char *x; /* arranged: [tiles of rows, n_chunks, TILES, ROWS, DEPTH] halves */
    sl_cuda_matrix w;
    size_t code_bytes;
    int n;
    int n_chunks, n_splits, split_chunks; /* of k, CHUNK each */
    float *partial;                       /* [n_splits, n, w.n_rows] where n_splits > 1 */
} wgmma_args;

/* ---- x in the order of the product ---- */

/* Steps of a chunk are s = 0 to 7; in each, thread t of a product has columns 2t, 2t+1, 2t+8, 2t+9.
 * 4 bits: it decodes elements 32t to 32t+31 of the chunk, a word of eight in two steps.  Step s has
 * e, e+4, e+1 and e+5 of them, where e = 8 (s / 2) + 2 (s % 2).
 * 8 bits: it decodes elements 16t to 16t+15 of either half of the chunk, a word of four in a step.
 *
 * A thread here arranges what all t have in two steps of one row.  Grid: chunks, padded rows by 64.
 *   y  as wgmma_args.x, rows beyond n and elements beyond cols zero
 *   x  f16, [n, cols], dense */
static __global__ void __launch_bounds__(4 * ARRANGE_ROWS)
    arrange_kernel(unsigned char *y, const __half *x, int n, int cols, int rows, int bits) {
    const int row = blockIdx.y * ARRANGE_ROWS + threadIdx.x / 4, pair = threadIdx.x % 4;
    const int chunk = blockIdx.x, n_chunks = gridDim.x;
    sl_let_next_begin();
    uint32_t v[4][4]; /* of thread t: eight elements */
#pragma unroll
    for (int t = 0; t < 4; t++) {
        const int k = chunk * CHUNK +
                      (bits == 4 ? 32 * t + 8 * pair : DEPTH * (pair / 2) + 16 * t + pair % 2 * 8);
        const uint4 from = row < n && k < cols ? __ldg((const uint4 *)(x + (size_t)row * cols + k))
                                               : make_uint4(0, 0, 0, 0);
        v[t][0] = from.x, v[t][1] = from.y, v[t][2] = from.z, v[t][3] = from.w;
    }
    const size_t tile = ((size_t)(row / rows) * n_chunks + chunk) * TILES + pair / 2;
    unsigned char *to = y + (tile * rows + row % rows) * (DEPTH * sizeof(__half));
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int second = 0; second < 2; second++) {
            uint32_t out[4];
#pragma unroll
            for (int t = 0; t < 4; t++)
                out[t] = bits == 4 ? __byte_perm(v[t][h], v[t][h + 2], second ? 0x7632 : 0x5410)
                                   : v[t][2 * h + second];
            const int piece = (pair % 2 * 2 + h) * 2 + second;
            *(uint4 *)(to + (piece ^ row % 8) * 16) = make_uint4(out[0], out[1], out[2], out[3]);
        }
}

/* ---- the product ---- */

/* A chunk's codes as they lie in shared memory: a place to each thread. */
template <int BITS> struct code_slot {
    uint4 codes[2][BITS / 4][CONSUMERS];
    uint32_t pairs[2][CONSUMERS][BITS / 4];
};

template <int BITS> struct chunk_codes { /* of a thread: two rows */
    uint32_t word[2][BITS];
    uint32_t pair[2][BITS / 4]; /* of one group in 4 bits, of two in 8 */
};

/* Shared memory, from an aligned address on. */
template <int BITS, int ROWS> struct layout {
    enum {
        TILE_BYTES = ROWS * DEPTH * 2,
        /* 256 rows of sums want more registers than nine warps have. */
        SHARED_REGISTERS = ROWS == 256,
        THREADS = CONSUMERS + (SHARED_REGISTERS ? WARPGROUP : WARP),
        STAGES = (ROWS == 64 ? 48 << 10 : 160 << 10) / TILE_BYTES,
        SLOTS = BITS == 4 ? 6 : 3,
        SLOTS_AT = STAGES * TILE_BYTES,
        BARRIERS_AT = SLOTS_AT + SLOTS * (int)sizeof(code_slot<BITS>),
        BYTES = BARRIERS_AT + 2 * STAGES * 8 + ALIGN
    };
    static_assert(ROWS * LD_SUMS * 4 <= SLOTS_AT, "sums go where tiles were");
    static_assert(TILE_BYTES % ALIGN == 0, "tiles are aligned");
};

/* Where a thread's next codes and pairs are. */
typedef struct {
    const uint8_t *codes[2], *pairs[2]; /* of its two rows */
    int k;                              /* of its first element */
} code_source;

template <int BITS>
static __device__ __forceinline__ code_source find_codes(const wgmma_args &a, int output, int chunk,
                                                         int t) {
    code_source from;
    const int share = t * (BITS == 4 ? 32 : 16);
    from.k = chunk * CHUNK + share;
#pragma unroll
    for (int r = 0; r < 2; r++) { /* outputs beyond the matrix repeat its last one */
        const uint8_t *row =
            (const uint8_t *)a.w.data + (size_t)min(output + r * 8, a.w.n_rows - 1) * a.w.row_bytes;
        from.codes[r] = row + (size_t)from.k * BITS / 8;
        from.pairs[r] = row + a.code_bytes + (size_t)chunk * (TILES * 4) +
                        (BITS == 4 ? share / SL_GROUP_ELEMS * 4 : 0);
    }
    return from;
}

/* Zeros beyond k.  In 8 bits the second of two pairs is always there: pairs of a row are padded
 * with zeros to 16 bytes. */
template <int BITS>
static __device__ __forceinline__ void copy_codes(code_slot<BITS> *to, code_source *from,
                                                  int cols) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int i = 0; i < BITS / 4; i++)
            sl_copy_codes(&to->codes[r][i][threadIdx.x], from->codes[r] + i * DEPTH,
                          from->k + i * DEPTH < cols);
        sl_copy_pairs<BITS>(&to->pairs[r][threadIdx.x][0], from->pairs[r],
                            BITS == 8 || from->k < cols);
        from->codes[r] += CHUNK * BITS / 8;
        from->pairs[r] += TILES * 4;
    }
    from->k += CHUNK;
}

template <int BITS>
static __device__ __forceinline__ void take_codes(chunk_codes<BITS> *c,
                                                  const code_slot<BITS> *from) {
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int i = 0; i < BITS / 4; i++) {
            const uint4 v = from->codes[r][i][threadIdx.x];
            c->word[r][4 * i] = v.x, c->word[r][4 * i + 1] = v.y;
            c->word[r][4 * i + 2] = v.z, c->word[r][4 * i + 3] = v.w;
            c->pair[r][i] = from->pairs[r][threadIdx.x][i];
        }
}

/* Fragments of two steps. */
template <int BITS>
static __device__ __forceinline__ void decode_unit(uint32_t (&a)[2][4], const chunk_codes<BITS> &c,
                                                   int unit) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const __half2 p = sl_as_half2(c.pair[r][BITS == 4 ? 0 : unit / 2]);
        const __half2 step = __low2half2(p), min = __high2half2(p);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t v[2];
            if (BITS == 4)
                sl_decode_q4_apart(v, c.word[r][unit] >> 8 * h, step, min);
            else
                sl_decode_q8x4(v, c.word[r][2 * unit + h], step, min);
            a[h][r] = v[0], a[h][r + 2] = v[1];
        }
    }
}

/* One thread: tiles of x to the ring, each as soon as its place is free. */
template <int BITS, int ROWS>
static __device__ __forceinline__ void send_x(unsigned char *ring, uint64_t *full, uint64_t *empty,
                                              const unsigned char *x, int n_tiles) {
    enum { TILE_BYTES = layout<BITS, ROWS>::TILE_BYTES, STAGES = layout<BITS, ROWS>::STAGES };
    int stage = 0;
    unsigned parity = 0;
    sl_wait_for_before(); /* it arranges x */
    for (int i = 0; i < n_tiles; i++) {
        sl_barrier_wait(&empty[stage], parity ^ 1);
        sl_barrier_expect(&full[stage], TILE_BYTES);
        sl_bulk_copy(ring + stage * TILE_BYTES, x + (size_t)i * TILE_BYTES, TILE_BYTES,
                     &full[stage]);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
}

/* A block of 64 rows leaves room for another: registers and shared memory are for two. */
template <int BITS, int ROWS>
static __global__ void __launch_bounds__(layout<BITS, ROWS>::THREADS, ROWS == 64 ? 2 : 1)
    linear_wgmma_kernel(const wgmma_args a) {
    typedef layout<BITS, ROWS> L;
    enum { TILE_BYTES = L::TILE_BYTES, STAGES = L::STAGES, SLOTS = L::SLOTS };
    extern __shared__ unsigned char dynamic[];
    unsigned char *shared = dynamic + (-sl_shared_address(dynamic) & (ALIGN - 1));
    code_slot<BITS> *slots = (code_slot<BITS> *)(shared + L::SLOTS_AT);
    uint64_t *full = (uint64_t *)(shared + L::BARRIERS_AT), *empty = full + STAGES;
    /* The same for all lanes, and the compiler knows. */
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0);
    const int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int row0 = blockIdx.x * ROWS, output0 = blockIdx.y * OUTPUTS, split = blockIdx.z;
    const int first = split * a.split_chunks, last = min(first + a.split_chunks, a.n_chunks);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            sl_barrier_init(&full[i], 1);
            sl_barrier_init(&empty[i], CONSUMERS / WARP);
        }
        sl_barrier_init_end();
    }
    __syncthreads();
    if (warp >= CONSUMERS / WARP) {
        if (L::SHARED_REGISTERS) sl_give_registers<24>();
        const size_t tile = ((size_t)blockIdx.x * a.n_chunks + first) * TILES;
        if (threadIdx.x == CONSUMERS)
            send_x<BITS, ROWS>(shared, full, empty, a.x + tile * TILE_BYTES,
                               (last - first) * TILES);
        return;
    }
    if (L::SHARED_REGISTERS) sl_take_registers<240>(); /* 2 * 240 + 24 <= 3 * 168 */

    code_source from = find_codes<BITS>(a, output0 + warp * 16 + g, first, t);
    for (int s = 0; s < SLOTS - 1; s++) {
        if (first + s < last) copy_codes<BITS>(&slots[s], &from, a.w.cols);
        sl_copy_commit();
    }

    float acc[ROWS / 2] = {};
    uint32_t fragment[2][2][4]; /* of the unit at work and of the next */
    chunk_codes<BITS> codes, next;
    sl_copy_wait<SLOTS - 2>();
    take_codes<BITS>(&codes, &slots[0]);
    int stage = 0, slot = 0;
    unsigned parity = 0;
    int used = -1; /* stage of the tile before */
    for (int chunk = first; chunk < last; chunk++) {
        const int free_slot = slot == 0 ? SLOTS - 1 : slot - 1; /* of the chunk before */
        if (++slot == SLOTS) slot = 0;
#pragma unroll
        for (int unit = 0; unit < UNITS; unit++) {
            decode_unit<BITS>(fragment[unit % 2], codes, unit);
            if (unit % 2 == 0) sl_barrier_wait(&full[stage], parity);
            const uint64_t tile =
                sl_wgmma_tile(shared + stage * TILE_BYTES) + unit % 2 * (2 * SL_WGMMA_STEP);
            sl_wgmma_fence();
            sl_wgmma<ROWS>(acc, fragment[unit % 2][0], tile);
            sl_wgmma<ROWS>(acc, fragment[unit % 2][1], tile + SL_WGMMA_STEP);
            sl_wgmma_commit();
            if (unit == 1) {
                if (chunk + SLOTS - 1 < last) copy_codes<BITS>(&slots[free_slot], &from, a.w.cols);
                sl_copy_commit(); /* an empty group at the end, so that the count stays right */
            }
            if (unit == UNITS - 1) { /* behind the last chunk: anything, and unused */
                sl_copy_wait<SLOTS - 2>();
                take_codes<BITS>(&next, &slots[slot]);
            }
            sl_wgmma_wait<1>(); /* the unit before is done: so are its fragments and its tile */
            if (unit % 2 == 0) {
                if (used >= 0 && lane == 0) sl_barrier_arrive(&empty[used]);
                used = stage;
            } else if (++stage == STAGES) {
                stage = 0, parity ^= 1;
            }
        }
        codes = next;
    }
    sl_wgmma_wait<0>();
    sl_wgmma_done(acc);

    /* By way of shared memory, so that neighbouring threads write neighbouring outputs. */
    float(*sums)[LD_SUMS] = (float(*)[LD_SUMS])shared;
    sl_meet<CONSUMERS>(); /* all tiles have been used */
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++)
        sums[i / 4 * 8 + 2 * t + i % 2][warp * 16 + i / 2 % 2 * 8 + g] = acc[i];
    sl_meet<CONSUMERS>();
    float *parts = a.n_splits > 1 ? a.partial + (size_t)split * a.n * a.w.n_rows : NULL;
    for (int at = threadIdx.x; at < ROWS * OUTPUTS / 8; at += CONSUMERS) {
        const int r = at / (OUTPUTS / 8), output = at % (OUTPUTS / 8) * 8;
        if (row0 + r < a.n && output0 + output < a.w.n_rows)
            sl_put_eight(a.out, parts, a.w.n_rows, row0 + r, output0 + output, &sums[r][output]);
    }
}

/* ---- launching ---- */

/* Bytes of a row of x, arranged. */
static size_t arranged_bytes(int cols) {
    return (size_t)(cols + CHUNK - 1) / CHUNK * CHUNK * sizeof(__half);
}

/* Parts of k: as many as still run at once, each of some chunks, where the scratch has room for
 * them and for x at any number of rows that is cut. */
static void cut_depth(wgmma_args *a, size_t scratch_bytes) {
    enum { ROWS = SL_CUDA_WGMMA_CUT_ROWS };
    const size_t x_bytes = ROWS * arranged_bytes(a->w.cols);
    int n = PROCESSORS / ((a->w.n_rows + OUTPUTS - 1) / OUTPUTS);
    if (n > a->n_chunks / LEAST_CHUNKS) n = a->n_chunks / LEAST_CHUNKS;
    const size_t part_bytes = (size_t)ROWS * a->w.n_rows * sizeof(float);
    const size_t room = scratch_bytes > x_bytes ? (scratch_bytes - x_bytes) / part_bytes : 0;
    if ((size_t)n > room) n = (int)room;
    if (n < 1 || a->n > ROWS) n = 1;
    a->split_chunks = (a->n_chunks + n - 1) / n;
    a->n_splits = (a->n_chunks + a->split_chunks - 1) / a->split_chunks;
}

/* The tiles' rows that take least time: blocks that run at once, by what each has to do.  The bits
 * of a row do not depend on them.
 *   fit  rows that the scratch holds, at least ROWS_STEP and at least n in whole steps */
static int choose_rows(const wgmma_args *a, int fit) {
    const int64_t n_blocks = (int64_t)((a->w.n_rows + OUTPUTS - 1) / OUTPUTS) * a->n_splits;
    int64_t least = INT64_MAX;
    int best = ROWS_STEP;
    for (int rows = ROWS_STEP; rows <= MAX_ROWS; rows += ROWS_STEP) {
        const int64_t n_tiles = (a->n + rows - 1) / rows;
        const int64_t at_once = rows == ROWS_STEP ? 2 * PROCESSORS : PROCESSORS;
        const int64_t waves = (n_tiles * n_blocks + at_once - 1) / at_once;
        const int64_t cost = waves * (rows == ROWS_STEP ? COST_OF_LEAST : rows + COST_OF_BLOCK);
        if (n_tiles * rows > fit || cost > least) continue;
        least = cost;
        best = rows;
    }
    return best;
}

template <int BITS, int ROWS>
static sl_status launch(const wgmma_args &a, const __half *x, unsigned char *arranged,
                        cudaStream_t stream) {
    const int n_tiles = (a.n + ROWS - 1) / ROWS;
    const dim3 pieces(a.n_chunks, n_tiles * (ROWS / ARRANGE_ROWS));
    arrange_kernel<<<pieces, 4 * ARRANGE_ROWS, 0, stream>>>(arranged, x, a.n, a.w.cols, ROWS, BITS);
    SL_TRY(SL_CUDA(cudaGetLastError(), "launch the arrangement of x"));
    const dim3 grid(n_tiles, (a.w.n_rows + OUTPUTS - 1) / OUTPUTS, a.n_splits);
    /* It begins while x is arranged, and waits for that where it needs it: barriers and first codes
     * are there by then.  All that was queued before x's arrangement has ended. */
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(layout<BITS, ROWS>::THREADS);
    config.dynamicSmemBytes = layout<BITS, ROWS>::BYTES;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    SL_TRY(SL_CUDA(cudaLaunchKernelEx(&config, linear_wgmma_kernel<BITS, ROWS>, a),
                   "launch linear_wgmma"));
    return a.n_splits > 1
               ? sl_cuda_add_parts(&a.out, a.partial, a.n_splits, a.n, a.w.n_rows, stream)
               : SL_OK;
}

template <int BITS>
static sl_status launch_rows(const wgmma_args &a, const __half *x, unsigned char *arranged,
                             int rows, cudaStream_t stream) {
    switch (rows) {
    case 64:
        return launch<BITS, 64>(a, x, arranged, stream);
    case 128:
        return launch<BITS, 128>(a, x, arranged, stream);
    case 192:
        return launch<BITS, 192>(a, x, arranged, stream);
    default:
        return launch<BITS, 256>(a, x, arranged, stream);
    }
}

template <int BITS, int ROWS> static sl_status allow_shared(void) {
    return SL_CUDA(cudaFuncSetAttribute(linear_wgmma_kernel<BITS, ROWS>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        layout<BITS, ROWS>::BYTES),
                   "allow shared memory");
}

template <int BITS> static sl_status allow_shared_all(void) {
    SL_TRY((allow_shared<BITS, 64>()));
    SL_TRY((allow_shared<BITS, 128>()));
    SL_TRY((allow_shared<BITS, 192>()));
    return allow_shared<BITS, 256>();
}

extern "C" sl_status sl_cuda_linear_wgmma_open(int device, int *can_out) {
    int major = 0, minor = 0;
    *can_out = 0;
    SL_TRY(SL_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                   "ask for the compute capability"));
    SL_TRY(SL_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                   "ask for the compute capability"));
    if (major != 9 || minor != 0) return SL_OK; /* wgmma is of this generation alone */
    SL_TRY(allow_shared_all<4>());
    SL_TRY(allow_shared_all<8>());
    *can_out = 1;
    return SL_OK;
}

extern "C" int sl_cuda_linear_wgmma_takes(const sl_cuda_matrix *w, const void *x,
                                          size_t scratch_bytes) {
    return sl_dtype_group_bits(w->dtype) != 0 && w->cols % 8 == 0 && w->row_bytes % 16 == 0 &&
           (uintptr_t)w->data % 16 == 0 && (uintptr_t)x % 16 == 0 &&
           scratch_bytes / arranged_bytes(w->cols) >= ROWS_STEP;
}

extern "C" sl_status sl_cuda_linear_wgmma(const sl_cuda_product *out, const void *x,
                                          const sl_cuda_matrix *w, int n, void *scratch,
                                          size_t scratch_bytes, cudaStream_t stream) {
    if (w->n_rows < 1 || w->cols < 1 || n < 0 || (uintptr_t)scratch % 16 != 0 ||
        !sl_cuda_linear_wgmma_takes(w, x, scratch_bytes))
        return SL_FAIL(SL_ERR_ARG,
                       "linear_wgmma: %d rows with [%d, %d] of %s and %zu bytes are not for it", n,
                       w->n_rows, w->cols, sl_dtype_name(w->dtype), scratch_bytes);
    if (n == 0) return SL_OK;
    wgmma_args a = {};
    a.out = *out;
    a.x = (const unsigned char *)scratch;
    a.w = *w;
    a.code_bytes = sl_pack_code_bytes(w->dtype, (size_t)w->cols);
    a.n = n;
    a.n_chunks = (w->cols + CHUNK - 1) / CHUNK;
    cut_depth(&a, scratch_bytes);
    a.partial = (float *)((char *)scratch + SL_CUDA_WGMMA_CUT_ROWS * arranged_bytes(w->cols));

    /* As many rows at a time as the scratch holds, whole tiles. */
    const size_t room = scratch_bytes / arranged_bytes(w->cols);
    int fit = room < MAX_BATCH ? (int)room : MAX_BATCH;
    fit -= fit % (fit < MAX_ROWS ? ROWS_STEP : MAX_ROWS);
    if (a.n_splits > 1) fit = SL_CUDA_WGMMA_CUT_ROWS; /* parts of sums follow */
    for (int done = 0; done < n; done += fit) {
        const __half *from = (const __half *)x + (size_t)done * w->cols;
        a.n = n - done < fit ? n - done : fit;
        a.out.y = (char *)out->y + (size_t)done * out->ldy * (out->is_f32 ? 4 : sizeof(__half));
        const int rows = choose_rows(&a, fit);
        SL_TRY(sl_dtype_group_bits(w->dtype) == 4
                   ? launch_rows<4>(a, from, (unsigned char *)scratch, rows, stream)
                   : launch_rows<8>(a, from, (unsigned char *)scratch, rows, stream));
    }
    return SL_OK;
}
