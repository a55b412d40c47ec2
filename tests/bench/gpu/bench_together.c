/* What weight streaming, attention on the host and attention on the device lose by sharing the
 * machine: each alone, then in pairs, then all at once, and the host memory's traffic beside what
 * its threads can read.
 *
 * Copies run in pieces of 16 MiB from a gibibyte of pinned memory, the host attends to pinned pages
 * of one layer of OPT-30B, the device to pages of its own.
 *
 * Usage: bench_together [THREADS [SECONDS]]   threads of host attention (0: all but one) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "cpu/cpu_host_attention.h"
#include "cuda/cuda_backend.h"
#include "engine/backend.h"
#include "store/pinned.h"
#include "store/tier.h"

enum {
    ROWS = 32,
    TOKENS = 544,
    PAGES = TOKENS / SL_PAGE_TOKENS, /* of a row */
    HEADS = 56,
    HEAD_DIM = 128,
    COLS = HEADS * HEAD_DIM,
    PIECE = 16 << 20,
    COPY_BYTES = 1 << 30,
    IN_FLIGHT = 4, /* of each kind: enough to keep a queue busy */
    N_KINDS = 3
};
static const size_t host_page_bytes = (size_t)3 << 30;

enum { H2D = 1, HOST = 2, DEVICE = 4 };

static double seconds = 1.5;
static int n_threads;

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_together: %s\n", sl_error_message());
    exit(1);
}

typedef struct {
    sl_backend *be;
    const sl_device_ops *op;
    sl_host_attention *ha;
    sl_pinned_from from;
    char *copy_host, *copy_device;
    char *host_pages; /* pinned */
    size_t n_jobs;    /* jobs' worth of host pages */
    sl_kv_view device_cache;
    void *device_q, *device_out, *host_vectors;
    sl_rows rows;
    sl_segment segment[ROWS];
    int32_t pages[ROWS * PAGES];
    void *row_page[IN_FLIGHT][ROWS * PAGES];
    sl_host_row row[IN_FLIGHT][ROWS];
    uint64_t ticket[IN_FLIGHT];
    sl_event *event[2][IN_FLIGHT];
} bench;

/* Finite in every format: f16 elements, or codes with steps and minima, of 0.008 to 0.12. */
static void fill(char *to, size_t bytes) {
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        const uint64_t x = (sl_rng_at(7, i) & 0x0f0f0f0f0f0f0f0fu) | 0x2020202020202020u;
        memcpy(to + i, &x, 8);
    }
}

static void open_parts(bench *b, sl_tier **cpu) {
    const sl_cuda_options cuda = {
        .memory_bytes = (size_t)6 << 30, .max_rows = ROWS, .n_bound = SL_BOUND_PER_BATCH};
    const sl_cpu_host_options host = {.n_threads = n_threads};
    check(sl_cuda_backend_open(&cuda, &b->be));
    b->op = b->be->ops->device;
    check(sl_cpu_host_attention_open(&host, &b->ha));
    check(sl_tier_open_cpu((size_t)6 << 30, cpu));
    b->from = (sl_pinned_from){*cpu, b->be, b->op, NULL};
    void *memory = NULL;
    check(sl_pinned_take(&b->from, COPY_BYTES, "copies", &memory));
    fill(b->copy_host = memory, COPY_BYTES);
    check(b->op->take(b->be, COPY_BYTES, "copies", &memory));
    b->copy_device = memory;
    check(sl_pinned_take(&b->from, host_page_bytes, "pages", &memory));
    fill(b->host_pages = memory, host_page_bytes);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < IN_FLIGHT; i++) check(b->op->event_open(b->be, &b->event[k][i]));
}

static void make_device_pages(bench *b, sl_kv_format format) {
    const size_t bytes = ROWS * PAGES * format.page_bytes;
    const size_t vectors = (size_t)ROWS * COLS * 2;
    b->device_cache.format = format;
    check(b->op->take(b->be, bytes, "pages", &b->device_cache.base));
    check(b->op->take(b->be, vectors, "queries", &b->device_q));
    check(b->op->take(b->be, vectors, "results", &b->device_out));
    check(b->op->copy(b->be, SL_STREAM_H2D, b->device_cache.base, b->host_pages, bytes));
    check(b->op->copy(b->be, SL_STREAM_H2D, b->device_q, b->copy_host, vectors));
    check(b->op->drain(b->be));
    for (int r = 0; r < ROWS; r++) {
        for (int p = 0; p < PAGES; p++) b->pages[r * PAGES + p] = r * PAGES + p;
        b->segment[r] = (sl_segment){.row0 = r,
                                     .n_rows = 1,
                                     .position0 = TOKENS - 1,
                                     .n_pages = PAGES,
                                     .pages = b->pages + (size_t)r * PAGES};
    }
    static int32_t token[ROWS], position[ROWS];
    for (int r = 0; r < ROWS; r++) position[r] = TOKENS - 1;
    b->rows = (sl_rows){.n_rows = ROWS,
                        .token = token,
                        .position = position,
                        .n_segments = ROWS,
                        .segment = b->segment};
    check(b->be->ops->bind_rows(b->be, 0, &b->rows));
    b->n_jobs = host_page_bytes / bytes;
}

static void free_device_pages(bench *b) {
    b->op->put(b->be, b->device_cache.base);
    b->op->put(b->be, b->device_q);
    b->op->put(b->be, b->device_out);
}

static void start_host(bench *b, int slot, size_t number) {
    const sl_kv_format *f = &b->device_cache.format;
    const char *vectors = b->copy_host;
    const size_t first = number % b->n_jobs * ROWS * PAGES;
    for (int i = 0; i < ROWS * PAGES; i++)
        b->row_page[slot][i] = b->host_pages + (first + (size_t)i) * f->page_bytes;
    for (int r = 0; r < ROWS; r++)
        b->row[slot][r] =
            (sl_host_row){.n_tokens = TOKENS, .page = b->row_page[slot] + (size_t)r * PAGES};
    const sl_host_job job = {.format = *f,
                             .act = SL_DTYPE_F16,
                             .n_heads = HEADS,
                             .scale = 0.1f,
                             .n_rows = ROWS,
                             .row = b->row[slot],
                             .q = vectors,
                             .ldq = COLS,
                             .k = vectors,
                             .v = vectors,
                             .ldkv = COLS,
                             .out = (char *)b->host_vectors + (size_t)slot * ROWS * COLS * 2,
                             .ldo = COLS};
    check(b->ha->ops->start(b->ha, &job, &b->ticket[slot]));
}

static void start_one(bench *b, int kind, int slot, size_t number) {
    if (kind == 1) {
        start_host(b, slot, number);
        return;
    }
    if (kind == 0) {
        const size_t at = number * PIECE % COPY_BYTES;
        check(b->op->copy(b->be, SL_STREAM_H2D, b->copy_device + at, b->copy_host + at, PIECE));
        check(b->op->record(b->be, SL_STREAM_H2D, b->event[0][slot]));
        return;
    }
    check(b->be->ops->attend(b->be, b->device_out, b->device_q, COLS, HEADS, &b->device_cache, 0.1f,
                             0, &b->rows));
    check(b->op->record(b->be, SL_STREAM_COMPUTE, b->event[1][slot]));
}

static int is_done(bench *b, int kind, int slot) {
    int done = 0;
    check(kind == 1 ? b->ha->ops->is_done(b->ha, b->ticket[slot], &done, NULL, NULL)
                    : b->op->is_done(b->be, b->event[kind / 2][slot], &done));
    return done;
}

/* Units done per second of each kind, all kinds of `kinds` kept busy. */
static void measure(bench *b, int kinds, double rate[N_KINDS]) {
    size_t started[N_KINDS] = {0}, done[N_KINDS] = {0}, before[N_KINDS] = {0};
    double begin = sl_clock_s(), warm = 0.0, now;
    while ((now = sl_clock_s()) - begin < seconds + 0.3) {
        if (warm == 0.0 && now - begin > 0.3) {
            warm = now;
            memcpy(before, done, sizeof before);
        }
        for (int k = 0; k < N_KINDS; k++) {
            if (!(kinds & 1 << k)) continue;
            while (done[k] < started[k] && is_done(b, k, (int)(done[k] % IN_FLIGHT))) done[k]++;
            while (started[k] - done[k] < IN_FLIGHT) {
                start_one(b, k, (int)(started[k] % IN_FLIGHT), started[k]);
                started[k]++;
            }
        }
    }
    for (int k = 0; k < N_KINDS; k++) {
        rate[k] = (double)(done[k] - before[k]) / (now - warm);
        for (; done[k] < started[k]; done[k]++)
            while (!is_done(b, k, (int)(done[k] % IN_FLIGHT))) sl_clock_sleep(1e-4);
    }
}

static void bench_format(bench *b, sl_dtype dtype) {
    static const int sets[] = {
        H2D, HOST, DEVICE, H2D | HOST, HOST | DEVICE, H2D | DEVICE, H2D | HOST | DEVICE};
    double alone[N_KINDS] = {0};
    make_device_pages(b, sl_kv_format_make(dtype, HEADS, HEAD_DIM));
    const double job_gb = ROWS * PAGES * (double)b->device_cache.format.page_bytes * 1e-9;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        double rate[N_KINDS], worst = 1.0;
        measure(b, sets[i], rate);
        for (int k = 0; k < N_KINDS; k++) {
            if (sets[i] == 1 << k) alone[k] = rate[k];
            if (sets[i] & 1 << k && rate[k] / alone[k] < worst) worst = rate[k] / alone[k];
        }
        printf("%-6s", sl_dtype_name(dtype));
        static const char *const names[] = {"h2d", "host", "device"};
        for (int k = 0; k < N_KINDS; k++) {
            const double gb = rate[k] * (k == 0 ? PIECE * 1e-9 : job_gb);
            if (sets[i] & 1 << k)
                printf("  %6s %7.1f GB/s (%3.0f %%)", names[k], gb, 100.0 * rate[k] / alone[k]);
            else
                printf("  %6s %7s      %7s", names[k], "-", "");
        }
        printf("  from host memory %6.1f GB/s, slowest at %3.0f %%\n",
               rate[0] * PIECE * 1e-9 + rate[1] * job_gb, 100.0 * worst);
        fflush(stdout);
    }
    free_device_pages(b);
}

int main(int argc, char **argv) {
    static bench b;
    sl_tier *cpu = NULL;
    if (argc > 1) n_threads = atoi(argv[1]);
    if (argc > 2) seconds = atof(argv[2]);
    open_parts(&b, &cpu);
    check(sl_pinned_take(&b.from, (size_t)IN_FLIGHT * ROWS * COLS * 2, "results", &b.host_vectors));
    printf("host attention: %s, %d threads\n", sl_cpu_host_attention_simd(b.ha),
           sl_cpu_host_attention_threads(b.ha));
    bench_format(&b, SL_DTYPE_F16);
    bench_format(&b, SL_DTYPE_Q8G64);
    bench_format(&b, SL_DTYPE_Q4G64);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < IN_FLIGHT; i++) b.op->event_close(b.be, b.event[k][i]);
    sl_pinned_put(&b.from, b.host_vectors);
    sl_pinned_put(&b.from, b.host_pages);
    sl_pinned_put(&b.from, b.copy_host);
    b.op->put(b.be, b.copy_device);
    sl_host_attention_close(b.ha);
    sl_tier_close(cpu);
    sl_backend_close(b.be);
    return 0;
}
