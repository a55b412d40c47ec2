#include "cuda/cuda_pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void sl_cuda_pool_init(sl_cuda_pool *pool, size_t budget_bytes) {
    *pool = (sl_cuda_pool){.budget_bytes = budget_bytes & ~(size_t)(SL_CUDA_POOL_ALIGN - 1)};
}

void sl_cuda_pool_free(sl_cuda_pool *pool) {
    free(pool->part);
    *pool = (sl_cuda_pool){0};
}

/* The gap before part i (i == n: after the last one). */
static sl_cuda_part gap_before(const sl_cuda_pool *pool, size_t i) {
    const size_t from = i > 0 ? pool->part[i - 1].offset + pool->part[i - 1].bytes : 0;
    const size_t to = i < pool->n ? pool->part[i].offset : pool->budget_bytes;
    return (sl_cuda_part){from, to - from};
}

static sl_status grow(sl_cuda_pool *pool) {
    if (pool->n < pool->capacity) return SL_OK;
    const size_t capacity = pool->capacity ? 2 * pool->capacity : 64;
    sl_cuda_part *part = realloc(pool->part, capacity * sizeof *part);
    if (!part) return SL_FAIL(SL_ERR_NOMEM, "gpu pool: out of host memory");
    pool->part = part;
    pool->capacity = capacity;
    return SL_OK;
}

sl_status sl_cuda_pool_take(sl_cuda_pool *pool, size_t bytes, const char *what,
                            size_t *offset_out) {
    if (bytes == 0) return SL_FAIL(SL_ERR_ARG, "gpu pool: %s asks for zero bytes", what);
    size_t room;
    SL_TRY(sl_size_add(bytes, SL_CUDA_POOL_ALIGN - 1, &room));
    room &= ~(size_t)(SL_CUDA_POOL_ALIGN - 1);
    SL_TRY(grow(pool));
    size_t largest = 0;
    for (size_t i = 0; i <= pool->n; i++) {
        const sl_cuda_part gap = gap_before(pool, i);
        if (gap.bytes > largest) largest = gap.bytes;
        if (gap.bytes < room) continue;
        memmove(pool->part + i + 1, pool->part + i, (pool->n - i) * sizeof *pool->part);
        pool->part[i] = (sl_cuda_part){gap.offset, room};
        pool->n++;
        pool->n_taken++;
        pool->used_bytes += room;
        if (pool->used_bytes > pool->peak_bytes) pool->peak_bytes = pool->used_bytes;
        *offset_out = gap.offset;
        return SL_OK;
    }
    char want[32], used[32], budget[32], run[32];
    return SL_FAIL(SL_ERR_NOMEM,
                   "gpu pool: %s needs %s, but %s of the budget of %s are in use and the largest "
                   "free run is %s",
                   what, sl_bytes_format(room, want, sizeof want),
                   sl_bytes_format(pool->used_bytes, used, sizeof used),
                   sl_bytes_format(pool->budget_bytes, budget, sizeof budget),
                   sl_bytes_format(largest, run, sizeof run));
}

void sl_cuda_pool_put(sl_cuda_pool *pool, size_t offset) {
    for (size_t i = 0; i < pool->n; i++) {
        if (pool->part[i].offset != offset) continue;
        pool->used_bytes -= pool->part[i].bytes;
        memmove(pool->part + i, pool->part + i + 1, (pool->n - i - 1) * sizeof *pool->part);
        pool->n--;
        return;
    }
}
