/* cuda_wgmma.cuh - what only Hopper has (sm_90a): products of a warpgroup, barriers in shared
 * memory that count bytes, and copies of whole runs of bytes that arrive at them.
 *
 * Fragments of wgmma.m64nNk16: warp w of a warpgroup has rows 16w to 16w + 15 of A and D, and lane
 * = 4g + t of it rows g and g + 8 of those.  A: a[0] row g, a[1] row g + 8, columns 2t, 2t+1; a[2]
 * and a[3] the same rows, columns 2t+8, 2t+9.  D: d[4j], d[4j+1] row g, columns 8j + 2t, 8j + 2t +
 * 1; d[4j+2], d[4j+3] row g + 8.  B lies in shared memory, [N][64] halves: column r of B in the 128
 * bytes at r * 128, its 16-byte piece c at place c ^ (r % 8).
 * Layer: kernels/cuda/hopper.  Source: PTX ISA, asynchronous warpgroup level matrix instructions.
 */
#ifndef SL_CUDA_WGMMA_CUH
#define SL_CUDA_WGMMA_CUH

#include <stdint.h>

#include "cuda/cuda_mma.cuh"

/* ---- barriers and copies ---- */

static __device__ __forceinline__ void sl_barrier_init(uint64_t *barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sl_shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

/* Behind the thread's last sl_barrier_init(), before the block's threads meet. */
static __device__ __forceinline__ void sl_barrier_init_end(void) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void sl_barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sl_shared_address(barrier))
                 : "memory");
}

/* Arrives, and the phase ends only when so many bytes have been copied as well. */
static __device__ __forceinline__ void sl_barrier_expect(uint64_t *barrier, unsigned bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sl_shared_address(barrier)),
        "r"(bytes)
        : "memory");
}

/* Waits until the phase of this parity has ended; that before the first counts as one of parity 1.
 */
static __device__ __forceinline__ void sl_barrier_wait(uint64_t *barrier, unsigned parity) {
    const uint32_t at = sl_shared_address(barrier);
    uint32_t done;
    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
    } while (!done);
}

/* Queues a copy that the barrier expects: both addresses and bytes are multiples of 16. */
static __device__ __forceinline__ void sl_bulk_copy(void *shared, const void *global,
                                                    unsigned bytes, uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                 "%2, [%3];" ::"r"(sl_shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(sl_shared_address(barrier))
                 : "memory");
}

/* Copies as sl_copy16() does: codes, whose neighbours the same thread wants next, and their pairs.
 */
static __device__ __forceinline__ void sl_copy_codes(void *shared, const void *global, bool valid) {
    asm volatile(
        "cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(sl_shared_address(shared)),
        "l"(global), "r"(valid ? 16 : 0)
        : "memory");
}

template <int BYTES> /* 4 or 8 */
static __device__ __forceinline__ void sl_copy_pairs(void *shared, const void *global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(sl_shared_address(shared)),
                 "l"(global), "n"(BYTES), "r"(valid ? BYTES : 0)
                 : "memory");
}

/* The first THREADS threads of the block meet. */
template <int THREADS> static __device__ __forceinline__ void sl_meet(void) {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
}

/* All threads of a warpgroup go on with this number of registers, a multiple of eight. */
template <int COUNT> static __device__ __forceinline__ void sl_take_registers(void) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> static __device__ __forceinline__ void sl_give_registers(void) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* The next kernel of the stream may begin as soon as every block of this one has said so, where it
 * was launched for that. */
static __device__ __forceinline__ void sl_let_next_begin(void) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* Until the kernel before has ended, and what it wrote is seen. */
static __device__ __forceinline__ void sl_wait_for_before(void) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* ---- products ---- */

/* Where a tile of B lies: 1024-byte aligned, eight rows of 128 bytes after another, swizzled.  A
 * step of 16 along k adds SL_WGMMA_STEP. */
enum { SL_WGMMA_STEP = 32 >> 4 };

static __device__ __forceinline__ uint64_t sl_wgmma_tile(const void *tile) {
    return (uint64_t)(sl_shared_address(tile) >> 4 & 0x3fff) | (uint64_t)1 << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* Registers that ordinary instructions wrote may be used by products from here on. */
static __device__ __forceinline__ void sl_wgmma_fence(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void sl_wgmma_commit(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most N of the groups that were committed are at work. */
template <int N> static __device__ __forceinline__ void sl_wgmma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Behind a wait for all: the compiler may not use sums before it. */
template <int COUNT> static __device__ __forceinline__ void sl_wgmma_done(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* The instruction's operands: names of sums by 32, and the sums themselves. */
#define SL_NAMES_0                                                                                 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"                                        \
    ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SL_NAMES_1                                                                                 \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                             \
    ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SL_NAMES_2                                                                                 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"                             \
    ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SL_NAMES_3                                                                                 \
    ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"                 \
    ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SL_SUMS_4(i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SL_SUMS_16(i) SL_SUMS_4(i), SL_SUMS_4(i + 4), SL_SUMS_4(i + 8), SL_SUMS_4(i + 12)
#define SL_SUMS_32(i) SL_SUMS_16(i), SL_SUMS_16(i + 16)
#define SL_WGMMA(n, names, inputs)                                                                 \
    "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                     \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, " inputs                   \
    ", p, 1, 1, 0;\n}"

/* d += A B, f16 in, float32 sums: A [64, 16] in registers, which stay as they are until the group
 * is done; B [16, ROWS] at a place that sl_wgmma_tile() gave. */
template <int ROWS>
static __device__ __forceinline__ void sl_wgmma(float (&d)[ROWS / 2], const uint32_t (&a)[4],
                                                uint64_t b) {
    static_assert(ROWS == 64 || ROWS == 128 || ROWS == 192 || ROWS == 256, "no such product");
    if constexpr (ROWS == 64)
        asm volatile(SL_WGMMA("64", SL_NAMES_0, "{%32,%33,%34,%35}, %36")
                     : SL_SUMS_32(0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else if constexpr (ROWS == 128)
        asm volatile(SL_WGMMA("128", SL_NAMES_0 SL_NAMES_1, "{%64,%65,%66,%67}, %68")
                     : SL_SUMS_32(0), SL_SUMS_32(32)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else if constexpr (ROWS == 192)
        asm volatile(SL_WGMMA("192", SL_NAMES_0 SL_NAMES_1 SL_NAMES_2, "{%96,%97,%98,%99}, %100")
                     : SL_SUMS_32(0), SL_SUMS_32(32), SL_SUMS_32(64)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile(SL_WGMMA("256", SL_NAMES_0 SL_NAMES_1 SL_NAMES_2 SL_NAMES_3,
                              "{%128,%129,%130,%131}, %132")
                     : SL_SUMS_32(0), SL_SUMS_32(32), SL_SUMS_32(64), SL_SUMS_32(96)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef SL_WGMMA
#undef SL_SUMS_32
#undef SL_SUMS_16
#undef SL_SUMS_4
#undef SL_NAMES_3
#undef SL_NAMES_2
#undef SL_NAMES_1
#undef SL_NAMES_0

#endif
