/* cpu_fixture.h - what the tests of the CPU backend share: random data, weights in every stored
 * format, backends of every instruction set that this machine has. */
#ifndef SL_TESTS_CPU_FIXTURE_H
#define SL_TESTS_CPU_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/rng.h"
#include "cpu/cpu_backend.h"
#include "model/pack.h"

static inline void *fixture_alloc(size_t bytes) {
    void *data = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(data);
    return data;
}

/* Uniform in [-1, 1). */
static inline float fixture_uniform(sl_rng *rng) {
    return (float)(2.0 * sl_rng_unit(sl_rng_next(rng)) - 1.0);
}

static inline float *fixture_floats(sl_rng *rng, size_t n) {
    float *data = fixture_alloc(n * sizeof *data);
    for (size_t i = 0; i < n; i++) data[i] = fixture_uniform(rng);
    return data;
}

static inline sl_backend *fixture_reference(void) {
    const sl_cpu_options options = {.reference = 1};
    sl_backend *be = NULL;
    assert_int_equal(sl_cpu_backend_open(&options, &be), SL_OK);
    return be;
}

/* Opens a backend, or returns NULL where the processor lacks the instruction set. */
static inline sl_backend *fixture_open(sl_cpu_simd simd, int n_threads) {
    const sl_cpu_options options = {.simd = simd, .n_threads = n_threads};
    sl_backend *be = NULL;
    const sl_status st = sl_cpu_backend_open(&options, &be);
    const int may_lack = simd == SL_CPU_AVX2 || simd == SL_CPU_AVX512;
    if (!may_lack || st != SL_ERR_ARG) assert_int_equal(st, SL_OK);
    if (!be) print_message("not tested on this processor: %s\n", sl_error_message());
    return be;
}

static inline void put_half(unsigned char *at, float value) {
    const sl_f16 h = sl_f32_to_f16(value);
    memcpy(at, &h, sizeof h);
}

/* One stored row of values of about [-1, 1]: random codes under fixed-size steps. */
static inline void fixture_stored_row(sl_rng *rng, unsigned char *row, sl_dtype dtype, int cols) {
    if (sl_dtype_group_bits(dtype)) {
        float *values = fixture_floats(rng, (size_t)cols);
        sl_pack_row(row, values, dtype, cols);
        free(values);
        return;
    }
    const size_t block_bytes = sl_dtype_block_bytes(dtype);
    const int n_blocks = cols / sl_dtype_block_elems(dtype);
    for (int b = 0; b < n_blocks; b++, row += block_bytes) {
        for (size_t i = 0; i < block_bytes; i++) row[i] = (unsigned char)sl_rng_next(rng);
        const float u = 0.75f + 0.25f * fixture_uniform(rng); /* (0.5, 1) */
        const float value = fixture_uniform(rng);
        const sl_bf16 b16 = sl_f32_to_bf16(value);
        switch (dtype) {
        case SL_DTYPE_F32:
            memcpy(row, &value, sizeof value);
            break;
        case SL_DTYPE_F16:
            put_half(row, value);
            break;
        case SL_DTYPE_BF16:
            memcpy(row, &b16, sizeof b16);
            break;
        case SL_DTYPE_Q4_0:
            put_half(row, u / 8.0f);
            break;
        case SL_DTYPE_Q4_1:
            put_half(row, u / 8.0f);
            put_half(row + 2, -u);
            break;
        case SL_DTYPE_Q5_0:
            put_half(row, u / 16.0f);
            break;
        case SL_DTYPE_Q5_1:
            put_half(row, u / 16.0f);
            put_half(row + 2, -u);
            break;
        case SL_DTYPE_Q8_0:
            put_half(row, u / 128.0f);
            break;
        case SL_DTYPE_Q4_K:
        case SL_DTYPE_Q5_K: /* 6-bit scales and minimums of 4-bit and 5-bit codes */
            put_half(row, u / (dtype == SL_DTYPE_Q4_K ? 512.0f : 1024.0f));
            put_half(row + 2, u / 64.0f);
            break;
        case SL_DTYPE_Q6_K:
            put_half(row + 208, u / 4096.0f);
            break;
        case SL_DTYPE_Q8G64: /* done above */
        case SL_DTYPE_Q4G64:
        case SL_DTYPE_COUNT:
            fail();
        }
    }
}

typedef struct {
    sl_weight weight;
    sl_slab slab[3];
    unsigned char *data;
} fixture_matrix;

/* A random matrix in n_slabs (1 to 3) slabs, none of them a whole number of strips. */
static inline void fixture_matrix_make(sl_rng *rng, sl_dtype dtype, int rows, int cols, int n_slabs,
                                       fixture_matrix *out) {
    size_t row_bytes;
    assert_int_equal(sl_dtype_row_bytes(dtype, cols, &row_bytes), SL_OK);
    out->data = fixture_alloc((size_t)rows * row_bytes);
    for (int r = 0; r < rows; r++)
        fixture_stored_row(rng, out->data + (size_t)r * row_bytes, dtype, cols);
    int row0 = 0;
    for (int s = 0; s < n_slabs; s++) {
        const int end = s == n_slabs - 1 ? rows : (s + 1) * rows / n_slabs;
        out->slab[s] = (sl_slab){.dtype = dtype,
                                 .row0 = row0,
                                 .n_rows = end - row0,
                                 .cols = cols,
                                 .row_bytes = row_bytes,
                                 .data = out->data + (size_t)row0 * row_bytes};
        row0 = end;
    }
    out->weight = (sl_weight){.rows = rows, .cols = cols, .n_slabs = n_slabs, .slabs = out->slab};
}

static inline void fixture_matrix_free(fixture_matrix *matrix) {
    free(matrix->data);
}

/* Every got[i] within abs + rel * |want[i]|. */
static inline void assert_close(const float *got, const float *want, size_t n, double abs_tol,
                                double rel_tol) {
    for (size_t i = 0; i < n; i++) {
        const double bound = abs_tol + rel_tol * fabs((double)want[i]);
        if (!(fabs((double)got[i] - (double)want[i]) <= bound))
            fail_msg("element %zu of %zu: %.9g, expected %.9g within %.3g", i, n, (double)got[i],
                     (double)want[i], bound);
    }
}

static inline void assert_same_bits(const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("element %zu of %zu: %.9g is not bit for bit %.9g", i, n, (double)got[i],
                     (double)want[i]);
}

static const sl_cpu_simd fixture_simd[] = {SL_CPU_PLAIN_C, SL_CPU_AVX2, SL_CPU_AVX512};
enum { FIXTURE_N_SIMD = 3 };

#endif
