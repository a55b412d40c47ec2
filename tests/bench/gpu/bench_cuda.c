/* bench_cuda - rates of the CUDA backend's matrix products and attention at the shapes of OPT, each
 * beside what the device's memory and tensor cores allow.
 *
 * Usage: bench_cuda [linear] [prefill] [decode] [few]     (none: the first three)
 *   few  packed products at the numbers of rows where unpacking begins to pay
 * Weights, queries and pages are random.  The median of some runs is printed; weights and pages are
 * larger than the caches together. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "cuda/cuda_backend.h"
#include "cuda/cuda_linear.h"

enum { RUNS = 15 };

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_cuda: %s\n", sl_error_message());
    exit(1);
}

static sl_backend *be;

static void *device_halves(size_t n, float scale) {
    enum { CHUNK = 1 << 20 };
    static sl_f16 half[CHUNK];
    void *memory;
    for (size_t i = 0; i < CHUNK; i++)
        half[i] = sl_f32_to_f16(scale * (float)(2.0 * sl_rng_unit(sl_rng_at(n, i)) - 1.0));
    check(be->ops->device->take(be, n * 2, "a benchmark", &memory));
    for (size_t done = 0; done < n; done += CHUNK) {
        const size_t count = n - done < CHUNK ? n - done : CHUNK;
        check(be->ops->device->copy(be, SL_STREAM_COMPUTE, (char *)memory + done * 2, half,
                                    count * 2));
    }
    check(be->ops->sync(be));
    return memory;
}

static void put(void *memory) {
    check(be->ops->device->drain(be));
    be->ops->device->put(be, memory);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of `work(run)`, by events around each run. */
static double median_s(void (*work)(void *, int), void *arg) {
    double seconds[RUNS];
    sl_event *from, *to;
    const sl_device_ops *d = be->ops->device;
    check(d->event_open(be, &from));
    check(d->event_open(be, &to));
    for (int i = -2; i < RUNS; i++) {
        check(d->record(be, SL_STREAM_COMPUTE, from));
        work(arg, i + 2);
        check(d->record(be, SL_STREAM_COMPUTE, to));
        check(d->drain(be));
        if (i >= 0) check(d->elapsed(be, from, to, &seconds[i]));
    }
    d->event_close(be, from);
    d->event_close(be, to);
    qsort(seconds, RUNS, sizeof *seconds, by_size);
    return seconds[RUNS / 2];
}

/* ---- matrix products ---- */

enum { MAX_COPIES = 64 };

typedef struct {
    sl_slab slab[MAX_COPIES];
    sl_weight weight[MAX_COPIES];
    int n_copies; /* so that together they exceed the L2 cache */
    void *x, *y;
    int n_rows;
} product;

static void multiply(void *arg, int run) {
    const product *p = arg;
    const sl_weight *w = &p->weight[run % p->n_copies];
    check(be->ops->linear(be, p->y, w->rows, p->x, w, NULL, p->n_rows, 0));
}

static void product_open(product *p, sl_dtype dtype, int rows, int cols) {
    size_t row_bytes;
    check(sl_dtype_row_bytes(dtype, cols, &row_bytes));
    const size_t bytes = (size_t)rows * row_bytes;
    p->n_copies = (int)(((size_t)256 << 20) / bytes) + 1;
    if (p->n_copies > MAX_COPIES) p->n_copies = MAX_COPIES;
    void *plain = device_halves((size_t)rows * (size_t)cols, 0.05f);
    for (int i = 0; i < p->n_copies; i++) {
        void *data;
        check(be->ops->device->take(be, bytes, "weights", &data));
        if (dtype == SL_DTYPE_F16)
            check(be->ops->device->copy(be, SL_STREAM_COMPUTE, data, plain, bytes));
        else
            check(sl_cuda_pack(data, plain, dtype, row_bytes, rows, cols, NULL));
        p->slab[i] = (sl_slab){dtype, 0, rows, cols, row_bytes, data};
        p->weight[i] = (sl_weight){rows, cols, 1, &p->slab[i]};
    }
    if (cudaDeviceSynchronize() != cudaSuccess) exit(1);
    put(plain);
}

static void product_close(product *p) {
    for (int i = 0; i < p->n_copies; i++) put((void *)(uintptr_t)p->slab[i].data);
}

static void bench_linear(const int *n_rows, int n) {
    static const struct {
        const char *name;
        int rows, cols;
    } shapes[] = {{"6.7B attn 4096x4096", 4096, 4096},
                  {"6.7B fc1 16384x4096", 16384, 4096},
                  {"6.7B fc2 4096x16384", 4096, 16384},
                  {"30B attn 7168x7168", 7168, 7168},
                  {"30B fc1 28672x7168", 28672, 7168}};
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    printf("%-22s %-6s %6s %10s %9s %9s\n", "linear", "dtype", "rows", "us", "GB/s", "TFLOP/s");
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int d = 0; d < 3; d++) {
            product p;
            product_open(&p, dtypes[d], shapes[s].rows, shapes[s].cols);
            for (int i = 0; i < n; i++) {
                p.n_rows = n_rows[i];
                p.x = device_halves((size_t)p.n_rows * (size_t)shapes[s].cols, 1.0f);
                p.y = device_halves((size_t)p.n_rows * (size_t)shapes[s].rows, 1.0f);
                const double t = median_s(multiply, &p);
                const double bytes = (double)shapes[s].rows * (double)p.slab[0].row_bytes +
                                     2.0 * p.n_rows * (shapes[s].rows + shapes[s].cols);
                const double flop = 2.0 * p.n_rows * shapes[s].rows * shapes[s].cols;
                printf("%-22s %-6s %6d %10.1f %9.0f %9.1f\n", shapes[s].name,
                       sl_dtype_name(dtypes[d]), p.n_rows, t * 1e6, bytes / t * 1e-9,
                       flop / t * 1e-12);
                put(p.y), put(p.x);
            }
            product_close(&p);
        }
}

/* ---- attention ---- */

typedef struct {
    sl_kv_view cache;
    sl_rows rows;
    sl_segment *segment;
    int32_t *pages;
    void *q, *out;
    int n_heads;
} attention;

static void attend(void *arg, int run) {
    const attention *a = arg;
    (void)run;
    const int ld = a->n_heads * a->cache.format.head_dim;
    check(be->ops->attend(be, a->out, a->q, ld, a->n_heads, &a->cache, 0.088f, 0, &a->rows));
}

/* n sequences of which `rows` tokens at position `first` are computed. */
static void attention_open(attention *a, sl_dtype dtype, int n_heads, int n_kv_heads, int head_dim,
                           int n, int first, int rows) {
    const int per = (first + rows + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS, n_pages = n * per;
    *a = (attention){.n_heads = n_heads};
    a->cache.format = sl_kv_format_make(dtype, n_kv_heads, head_dim);
    /* Halves of random bits: codes and steps of packed pages are random then, too. */
    a->cache.base = device_halves((size_t)n_pages * a->cache.format.page_bytes / 2, 1.0f);
    a->q = device_halves((size_t)(n * rows) * (size_t)(n_heads * head_dim), 1.0f);
    a->out = device_halves((size_t)(n * rows) * (size_t)(n_heads * head_dim), 1.0f);
    a->segment = calloc((size_t)n, sizeof *a->segment);
    a->pages = calloc((size_t)n_pages, sizeof *a->pages);
    if (!a->segment || !a->pages) exit(1);
    for (int i = 0; i < n_pages; i++) a->pages[i] = i % n * per + i / n; /* not in a row */
    for (int i = 0; i < n; i++)
        a->segment[i] = (sl_segment){i * rows, rows, first, per, a->pages + i * per};
    a->rows = (sl_rows){.n_rows = n * rows, .n_segments = n, .segment = a->segment};
    check(be->ops->bind_rows(be, 0, &a->rows));
}

static void attention_close(attention *a) {
    put(a->cache.base), put(a->q), put(a->out);
    free(a->segment), free(a->pages);
}

static const sl_dtype cache_dtypes[] = {SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

static const struct {
    const char *name;
    int n_heads, n_kv_heads, head_dim;
} models[] = {{"6.7B 32x128", 32, 32, 128},
              {"30B 56x128", 56, 56, 128},
              {"llama 32/8x128", 32, 8, 128},
              {"1.3B 32x64", 32, 32, 64}};

static void bench_decode(void) {
    printf("%-16s %-6s %6s %8s %10s %9s\n", "decode", "dtype", "rows", "context", "us", "GB/s");
    for (int m = 0; m < 4; m++)
        for (int d = 0; d < 3; d++)
            for (int long_context = 0; long_context < 2; long_context++) {
                const int n = 64, context = long_context ? 2047 : 527;
                attention a;
                attention_open(&a, cache_dtypes[d], models[m].n_heads, models[m].n_kv_heads,
                               models[m].head_dim, n, context, 1);
                const double t = median_s(attend, &a);
                const double bytes =
                    (double)n * (context + 1) / SL_PAGE_TOKENS * (double)a.cache.format.page_bytes;
                printf("%-16s %-6s %6d %8d %10.1f %9.0f\n", models[m].name,
                       sl_dtype_name(cache_dtypes[d]), n, context + 1, t * 1e6, bytes / t * 1e-9);
                attention_close(&a);
            }
}

static void bench_prefill(void) {
    printf("%-16s %-6s %6s %8s %10s %9s\n", "prefill", "dtype", "seqs", "tokens", "us", "TFLOP/s");
    for (int m = 0; m < 4; m++)
        for (int d = 0; d < 3; d++)
            for (int long_prompt = 0; long_prompt < 2; long_prompt++) {
                const int n = long_prompt ? 2 : 8, tokens = long_prompt ? 2048 : 512;
                attention a;
                attention_open(&a, cache_dtypes[d], models[m].n_heads, models[m].n_kv_heads,
                               models[m].head_dim, n, 0, tokens);
                const double t = median_s(attend, &a);
                /* Scores and values, each a multiply and an add, of half of all pairs. */
                const double flop = 4.0 * n * models[m].n_heads * models[m].head_dim * 0.5 *
                                    tokens * (tokens + 1.0);
                printf("%-16s %-6s %6d %8d %10.1f %9.1f\n", models[m].name,
                       sl_dtype_name(cache_dtypes[d]), n, tokens, t * 1e6, flop / t * 1e-12);
                attention_close(&a);
            }
}

static int is_asked(int argc, char **argv, const char *what, int by_default) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], what) == 0) return 1;
    return argc == 1 && by_default;
}

int main(int argc, char **argv) {
    static const int n_rows[] = {1, 16, 64, 512, 4096}, few[] = {1, 8, 16, 32, 64, 65};
    const sl_cuda_options options = {.memory_bytes = (size_t)14 << 30};
    check(sl_cuda_backend_open(&options, &be));
    if (is_asked(argc, argv, "linear", 1)) bench_linear(n_rows, 5);
    if (is_asked(argc, argv, "few", 0)) bench_linear(few, 6);
    if (is_asked(argc, argv, "prefill", 1)) bench_prefill();
    if (is_asked(argc, argv, "decode", 1)) bench_decode();
    sl_backend_close(be);
    return 0;
}
