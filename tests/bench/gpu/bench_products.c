/* Matrix products of a prefill: by outputs that are multiplied at once, which shows how full waves
 * of tiles are, then of whole matrices in f16 and packed, by the size of the buffer that they are
 * unpacked into.
 *
 * Usage: bench_products [MIB...]   sizes of the buffer, default 32 64 128 256
 *        bench_products mid        4 bits with few to some thousand rows: as the backend does it,
 *                                  in Hopper's fragments (0 on others), by tiles, and unpacked into
 *                                  64 MiB first */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/cuda_backend.h"
#include "cuda/cuda_linear.h"
#include "engine/backend.h"
#include "model/pack.h"

enum { MAX_N = 4096, MAX_M = 28672, MAX_K = 28672, SCRATCH = 64 << 20 };

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_products: %s\n", sl_error_message());
    exit(1);
}

typedef struct {
    sl_backend *be;
    const sl_device_ops *op;
    void *x, *y, *w, *scratch;
    sl_event *from, *to;
} bench;

/* Bytes that are finite values of near-normal size in f16, and codes with steps in 4 bits. */
static void fill(bench *b, void *to, size_t bytes) {
    enum { PART = 64 << 20 };
    static uint64_t host[PART / 8];
    for (size_t i = 0; i < PART / 8; i++)
        host[i] = (sl_rng_at(3, i) & 0x8fff8fff8fff8fffu) | 0x2000200020002000u;
    check(b->op->pin(b->be, host, PART));
    for (size_t at = 0; at < bytes; at += PART)
        check(b->op->copy(b->be, SL_STREAM_H2D, (char *)to + at, host,
                          bytes - at < PART ? bytes - at : PART));
    check(b->op->drain(b->be));
    b->op->unpin(b->be, host);
}

static void bench_open(bench *b, size_t unpack_bytes) {
    const sl_cuda_options o = {
        .memory_bytes = (size_t)5 << 30, .unpack_bytes = unpack_bytes, .n_bound = 1};
    check(sl_cuda_backend_open(&o, &b->be));
    b->op = b->be->ops->device;
    const size_t x = (size_t)MAX_N * MAX_K * 2, w = (size_t)MAX_M * 12288 * 2;
    check(b->op->take(b->be, x, "x", &b->x));
    check(b->op->take(b->be, (size_t)MAX_N * MAX_M * 2, "y", &b->y));
    check(b->op->take(b->be, w, "w", &b->w));
    check(b->op->event_open(b->be, &b->from));
    check(b->op->event_open(b->be, &b->to));
    fill(b, b->x, x);
    fill(b, b->w, w);
}

static void bench_close(bench *b) {
    b->op->event_close(b->be, b->from);
    b->op->event_close(b->be, b->to);
    b->op->put(b->be, b->w);
    b->op->put(b->be, b->y);
    b->op->put(b->be, b->x);
    sl_backend_close(b->be);
}

/* TFLOP/s, the best of three batches. */
static double rate(bench *b, sl_dtype dtype, int n, int m, int k) {
    size_t row_bytes;
    double best = 0.0;
    check(sl_dtype_row_bytes(dtype, k, &row_bytes));
    const sl_slab slab = {
        .dtype = dtype, .n_rows = m, .cols = k, .row_bytes = row_bytes, .data = b->w};
    const sl_weight w = {m, k, 1, &slab};
    const double flop = 2.0 * n * m * k;
    const int runs = 1 + (int)(6e12 / flop);
    for (int round = 0; round < 4; round++) {
        double s;
        check(b->op->record(b->be, SL_STREAM_COMPUTE, b->from));
        for (int i = 0; i < runs; i++)
            check(b->be->ops->linear(b->be, b->y, m, b->x, &w, NULL, n, 0));
        check(b->op->record(b->be, SL_STREAM_COMPUTE, b->to));
        check(b->op->drain(b->be));
        check(b->op->elapsed(b->be, b->from, b->to, &s));
        if (round > 0 && flop * runs / s > best) best = flop * runs / s;
    }
    return best * 1e-12;
}

typedef sl_status multiply(bench *b, const sl_slab *slab, int n);

static sl_status as_it_is(bench *b, const sl_slab *slab, int n) {
    const sl_weight w = {slab->n_rows, slab->cols, 1, slab};
    return b->be->ops->linear(b->be, b->y, w.rows, b->x, &w, NULL, n, 0);
}

static sl_cuda_matrix part_of(const sl_slab *slab, int from, int count) {
    return (sl_cuda_matrix){(const char *)slab->data + (size_t)from * slab->row_bytes, slab->dtype,
                            slab->row_bytes, count, slab->cols};
}

static sl_status in_fragments(bench *b, const sl_slab *slab, int n) {
    const sl_cuda_product out = {b->y, slab->n_rows, 0, 0, NULL};
    const sl_cuda_matrix w = part_of(slab, 0, slab->n_rows);
    return sl_cuda_linear_wgmma(&out, b->x, &w, n, b->scratch, SCRATCH,
                                b->op->native_stream(b->be, SL_STREAM_COMPUTE));
}

static sl_status by_tiles(bench *b, const sl_slab *slab, int n) {
    const sl_cuda_product out = {b->y, slab->n_rows, 0, 0, NULL};
    const sl_cuda_matrix w = part_of(slab, 0, slab->n_rows);
    return sl_cuda_linear_mid(&out, b->x, &w, n, b->scratch, SCRATCH,
                              b->op->native_stream(b->be, SL_STREAM_COMPUTE));
}

static sl_status unpacked(bench *b, const sl_slab *slab, int n) {
    const int step = SCRATCH / 2 / slab->cols / 128 * 128;
    for (int r = 0; r < slab->n_rows; r += step) {
        const int count = slab->n_rows - r < step ? slab->n_rows - r : step;
        const sl_cuda_matrix w = part_of(slab, r, count);
        const sl_slab plain = {.dtype = SL_DTYPE_F16,
                               .n_rows = count,
                               .cols = slab->cols,
                               .row_bytes = (size_t)slab->cols * 2,
                               .data = b->scratch};
        const sl_weight whole = {count, slab->cols, 1, &plain};
        SL_TRY(sl_cuda_unpack(b->scratch, &w, b->op->native_stream(b->be, SL_STREAM_COMPUTE)));
        SL_TRY(b->be->ops->linear(b->be, (char *)b->y + (size_t)r * 2, slab->n_rows, b->x, &whole,
                                  NULL, n, 0));
    }
    return SL_OK;
}

/* Microseconds, the best of three batches; copies of the matrix take turns, as layers do. */
static double time_of(bench *b, multiply *how, int n, int m, int k) {
    size_t row_bytes;
    double best = 1e9;
    check(sl_dtype_row_bytes(SL_DTYPE_Q4G64, k, &row_bytes));
    const size_t bytes = (size_t)m * row_bytes;
    const int copies = (int)((size_t)MAX_M * 12288 * 2 / bytes), runs = 30;
    for (int round = 0; round < 4; round++) {
        double s;
        check(b->op->record(b->be, SL_STREAM_COMPUTE, b->from));
        for (int i = 0; i < runs; i++) {
            const sl_slab slab = {.dtype = SL_DTYPE_Q4G64,
                                  .n_rows = m,
                                  .cols = k,
                                  .row_bytes = row_bytes,
                                  .data = (char *)b->w + (size_t)(i % copies) * bytes};
            check(how(b, &slab, n));
        }
        check(b->op->record(b->be, SL_STREAM_COMPUTE, b->to));
        check(b->op->drain(b->be));
        check(b->op->elapsed(b->be, b->from, b->to, &s));
        if (round > 0 && s / runs < best) best = s / runs;
    }
    return best * 1e6;
}

static void mid(void) {
    static const int shapes[][2] = {{4096, 4096}, {16384, 4096}, {4096, 16384},
                                    {7168, 7168}, {28672, 7168}, {7168, 28672}};
    static const int rows[] = {24,  32,  48,  64,  65,  96,  128,  160,  192, 224,
                               256, 320, 384, 448, 512, 768, 1024, 2048, 4096};
    bench b;
    int has_wgmma;
    bench_open(&b, (size_t)64 << 20);
    check(sl_cuda_linear_wgmma_open(0, &has_wgmma));
    check(b.op->take(b.be, SCRATCH, "scratch", &b.scratch));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int m = shapes[i][0], k = shapes[i][1];
        printf(
            "%d outputs, %d inputs, 4 bits: rows, us and TFLOP/s as it is, in fragments, by tiles, "
            "unpacked\n",
            m, k);
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
            multiply *const how[] = {as_it_is, has_wgmma ? in_fragments : NULL, by_tiles, unpacked};
            printf("%5d", rows[r]);
            for (int h = 0; h < 4; h++) {
                const double us = how[h] ? time_of(&b, how[h], rows[r], m, k) : 0.0;
                printf("  %8.1f %5.0f", us, how[h] ? 2e-6 * rows[r] * m * k / us : 0.0);
            }
            printf("\n");
        }
    }
    b.op->put(b.be, b.scratch);
    bench_close(&b);
}

static void by_outputs(void) {
    static const int shapes[][2] = {{2048, 7168}, {4096, 4096}, {2048, 12288}, {1024, 7168}};
    bench b;
    bench_open(&b, (size_t)64 << 20);
    printf("f16, TFLOP/s by outputs\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        printf("%d rows, %d inputs:", shapes[i][0], shapes[i][1]);
        for (int m = 1024; m <= 8192; m += m < 5120 ? 256 : 1024)
            printf(" %d:%.0f", m, rate(&b, SL_DTYPE_F16, shapes[i][0], m, shapes[i][1]));
        printf("\n");
    }
    bench_close(&b);
}

static void whole(size_t unpack_bytes) {
    static const int shapes[][2] = {{4096, 4096},  {16384, 4096}, {4096, 16384}, {7168, 7168},
                                    {28672, 7168}, {7168, 28672}, {12288, 12288}};
    static const int rows[] = {512, 1024, 2048, 4096};
    bench b;
    bench_open(&b, unpack_bytes);
    printf("unpacked into %zu MiB: TFLOP/s of f16 / q4 for 512, 1024, 2048 and 4096 rows\n",
           unpack_bytes >> 20);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        printf("%5d outputs, %5d inputs:", shapes[i][0], shapes[i][1]);
        for (int r = 0; r < 4; r++)
            printf("  %4.0f /%4.0f", rate(&b, SL_DTYPE_F16, rows[r], shapes[i][0], shapes[i][1]),
                   rate(&b, SL_DTYPE_Q4G64, rows[r], shapes[i][0], shapes[i][1]));
        printf("\n");
    }
    bench_close(&b);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "mid") == 0) {
        mid();
        return 0;
    }
    if (argc > 1) {
        for (int i = 1; i < argc; i++) whole((size_t)atoi(argv[i]) << 20);
        return 0;
    }
    by_outputs();
    for (size_t mib = 32; mib <= 256; mib *= 2) whole(mib << 20);
    return 0;
}
