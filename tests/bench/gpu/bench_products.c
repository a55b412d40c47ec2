/* Matrix products of a prefill: by outputs that are multiplied at once, which shows how full waves
 * of tiles are, then of whole matrices in f16 and packed, by the size of the buffer that they are
 * unpacked into.
 *
 * Usage: bench_products [MIB...]   sizes of the buffer, default 32 64 128 256 */
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "cuda/cuda_backend.h"
#include "engine/backend.h"
#include "model/pack.h"

enum { MAX_N = 4096, MAX_M = 28672, MAX_K = 28672 };

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_products: %s\n", sl_error_message());
    exit(1);
}

typedef struct {
    sl_backend *be;
    const sl_device_ops *op;
    void *x, *y, *w;
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
    if (argc > 1) {
        for (int i = 1; i < argc; i++) whole((size_t)atoi(argv[i]) << 20);
        return 0;
    }
    by_outputs();
    for (size_t mib = 32; mib <= 256; mib *= 2) whole(mib << 20);
    return 0;
}
