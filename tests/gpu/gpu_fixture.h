/* gpu_fixture.h - what the tests of the CUDA backend share: the device, f16 rows in both memories,
 * and the CPU reference beside it. */
#ifndef SL_TESTS_GPU_FIXTURE_H
#define SL_TESTS_GPU_FIXTURE_H

#include <stdio.h>

#include "cuda/cuda_backend.h"
#include "unit/cpu_fixture.h"

/* A test's main begins with this: exit 77 says that the machine lacks what is tested. */
#define SKIP_WITHOUT_GPU()                                                                         \
    do {                                                                                           \
        if (sl_cuda_device_count() == 0) {                                                         \
            printf("skipped: there is no NVIDIA GPU\n");                                           \
            return 77;                                                                             \
        }                                                                                          \
    } while (0)

static inline void check_ok(sl_status st) {
    if (st != SL_OK) fail_msg("%s", sl_error_message());
}

static inline sl_backend *gpu_open(void) {
    const sl_cuda_options options = {.memory_bytes = (size_t)1 << 30, .unpack_bytes = 1 << 20};
    sl_backend *be = NULL;
    check_ok(sl_cuda_backend_open(&options, &be));
    return be;
}

static inline void *gpu_alloc(sl_backend *be, size_t bytes) {
    void *memory = NULL;
    check_ok(be->ops->device->take(be, bytes, "a test", &memory));
    return memory;
}

static inline void gpu_free(sl_backend *be, void *memory) {
    check_ok(be->ops->device->drain(be));
    be->ops->device->put(be, memory);
}

/* Copies through the compute stream and waits: tests need no overlap. */
static inline void gpu_copy(sl_backend *be, void *dst, const void *src, size_t bytes) {
    check_ok(be->ops->device->copy(be, SL_STREAM_COMPUTE, dst, src, bytes));
    check_ok(be->ops->sync(be));
}

static inline void *gpu_put(sl_backend *be, const void *src, size_t bytes) {
    void *memory = gpu_alloc(be, bytes);
    gpu_copy(be, memory, src, bytes);
    return memory;
}

/* Rounds the floats to f16 in place, so that the reference sees the same numbers, and uploads. */
static inline void *gpu_put_half(sl_backend *be, float *x, size_t n) {
    sl_f16 *half = fixture_alloc(n * sizeof *half);
    for (size_t i = 0; i < n; i++) {
        half[i] = sl_f32_to_f16(x[i]);
        x[i] = sl_f16_to_f32(half[i]);
    }
    void *memory = gpu_put(be, half, n * sizeof *half);
    free(half);
    return memory;
}

static inline void gpu_get_half(sl_backend *be, float *x, const void *memory, size_t n) {
    sl_f16 *half = fixture_alloc(n * sizeof *half);
    gpu_copy(be, half, memory, n * sizeof *half);
    for (size_t i = 0; i < n; i++) x[i] = sl_f16_to_f32(half[i]);
    free(half);
}

/* f16 memory that holds NaN: an element that an operator forgets is seen. */
static inline void *gpu_poisoned(sl_backend *be, size_t bytes) {
    void *host = fixture_alloc(bytes);
    memset(host, 0xff, bytes);
    void *memory = gpu_put(be, host, bytes);
    free(host);
    return memory;
}

/* A host matrix's twin on the device: slabs of the same rows, each in memory of its own where
 * `apart`, else one behind the other. */
typedef struct {
    sl_weight weight;
    sl_slab slab[3];
    void *memory[3];
} gpu_matrix;

static inline void gpu_matrix_make(sl_backend *be, const sl_weight *host, int apart,
                                   gpu_matrix *out) {
    *out = (gpu_matrix){.weight = *host};
    out->weight.slabs = out->slab;
    char *whole = NULL;
    if (!apart) {
        whole = gpu_alloc(be, (size_t)host->rows * host->slabs[0].row_bytes);
        out->memory[0] = whole;
    }
    for (int s = 0; s < host->n_slabs; s++) {
        const sl_slab *slab = &host->slabs[s];
        const size_t bytes = (size_t)slab->n_rows * slab->row_bytes;
        out->slab[s] = *slab;
        out->slab[s].data =
            apart ? gpu_alloc(be, bytes) : whole + (size_t)slab->row0 * slab->row_bytes;
        if (apart) out->memory[s] = (void *)(uintptr_t)out->slab[s].data;
        gpu_copy(be, (void *)(uintptr_t)out->slab[s].data, slab->data, bytes);
    }
}

static inline void gpu_matrix_free(sl_backend *be, gpu_matrix *m) {
    for (int s = 0; s < 3; s++) gpu_free(be, m->memory[s]);
}

#endif
