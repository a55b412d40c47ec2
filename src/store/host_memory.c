#include "store/host_memory.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/parallel.h"

/* What one thread touches at a time: a whole number of huge pages, so that no two threads wait for
 * the zeroing of the same one; much longer than starting a thread takes, and short enough that the
 * last ones end together. */
static const size_t CHUNK_BYTES = (size_t)64 << 20;

static void *map_pages(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Not every kernel begins a mapping where a huge page may begin; what lies before and behind the
 * aligned run is given back. */
static void *map_aligned(size_t bytes) {
    size_t room;
    if (bytes < SL_HOST_HUGE_PAGE || sl_size_add(bytes, SL_HOST_HUGE_PAGE, &room) != SL_OK)
        return map_pages(bytes);
    char *memory = map_pages(room);
    if (!memory) return map_pages(bytes);
    const size_t before = -(uintptr_t)memory % SL_HOST_HUGE_PAGE;
    if (before) (void)munmap(memory, before);
    (void)munmap(memory + before + bytes, SL_HOST_HUGE_PAGE - before);
    return memory + before;
}

sl_status sl_host_memory_map(size_t bytes, sl_numa *numa, const char *what, void **out) {
    if (bytes == 0 || bytes % SL_HOST_PAGE)
        return SL_FAIL(SL_ERR_ARG, "host memory: %zu bytes for %s are no whole number of pages",
                       bytes, what);
    void *memory = map_aligned(bytes);
    if (!memory)
        return SL_FAIL(SL_ERR_NOMEM, "map %zu bytes of host memory for %s: %s", bytes, what,
                       strerror(errno));
    /* Weights and pages are read in long runs; fewer TLB misses. Advice only. */
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    (void)sl_numa_bind(numa, memory, bytes);
    *out = memory;
    return SL_OK;
}

typedef struct {
    char *memory;
    size_t bytes;
} touching;

static sl_status touch_chunk(void *context, int chunk) {
    const touching *t = context;
    const size_t first = (size_t)chunk * CHUNK_BYTES;
    const size_t end = t->bytes - first < CHUNK_BYTES ? t->bytes : first + CHUNK_BYTES;
    /* A read would map the page of zeros that all processes share. */
    for (size_t at = first; at < end; at += SL_HOST_PAGE) *(volatile char *)(t->memory + at) = 0;
    return SL_OK;
}

void sl_host_memory_touch(void *memory, size_t bytes, int n_threads) {
    touching t = {memory, bytes};
    const size_t n_chunks = bytes / CHUNK_BYTES + (bytes % CHUNK_BYTES > 0);
    (void)sl_parallel_for(n_threads, (int)n_chunks, touch_chunk, &t); /* no chunk fails */
}

void sl_host_memory_unmap(void *memory, size_t bytes) {
    if (memory) (void)munmap(memory, bytes);
}
