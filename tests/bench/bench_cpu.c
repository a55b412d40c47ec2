/* bench_cpu - rates of the CPU backend's matrix product and attention on SmolLM2-135M's shapes,
 * beside OpenBLAS's own float32 sgemm of the same shape with as many threads.
 *
 * Usage: bench_cpu [SECONDS_PER_POINT] [avx512|avx2|c] */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "cpu/cpu_backend.h"

enum { MAX_ROWS = 512, N_HEADS = 9, N_KV_HEADS = 3, HEAD_DIM = 64 };

static double seconds_per_point = 0.2;

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_cpu: %s\n", sl_error_message());
    exit(1);
}

static void *allocate(size_t bytes) {
    void *data = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) check(SL_FAIL(SL_ERR_NOMEM, "no %zu bytes", bytes));
    return data;
}

static float *random_floats(size_t n, uint64_t key) {
    float *data = allocate(n * sizeof *data);
    for (size_t i = 0; i < n; i++) data[i] = (float)sl_rng_unit(sl_rng_at(key, i)) - 0.5f;
    return data;
}

/* Best seconds of one call within the time given: what others do on the machine only adds. */
#define BEST_S(best, call)                                                                         \
    do {                                                                                           \
        call;                                                                                      \
        const double start_ = sl_clock_s();                                                        \
        best = 1e30;                                                                               \
        for (double t0_ = start_; t0_ - start_ < seconds_per_point;) {                             \
            call;                                                                                  \
            const double t1_ = sl_clock_s();                                                       \
            if (t1_ - t0_ < best) best = t1_ - t0_;                                                \
            t0_ = t1_;                                                                             \
        }                                                                                          \
    } while (0)

/* ---- linear ---- */

typedef struct {
    const char *name;
    int rows, cols;
} shape;

static void bench_linear(sl_backend *be, const shape *s) {
    static const sl_dtype dtypes[] = {SL_DTYPE_Q4_1,  SL_DTYPE_Q4G64, SL_DTYPE_Q8_0,
                                      SL_DTYPE_Q8G64, SL_DTYPE_F16,   SL_DTYPE_F32};
    static const int batch[] = {1, 8, 32, 128, 512};
    const size_t n_weights = (size_t)s->rows * (size_t)s->cols;
    float *x = random_floats((size_t)MAX_ROWS * (size_t)s->cols, 1);
    float *y = random_floats((size_t)MAX_ROWS * (size_t)s->rows, 2);
    float *plain = random_floats(n_weights, 3);
    for (size_t b = 0; b < sizeof batch / sizeof batch[0]; b++) {
        const int n = batch[b];
        const double flop = 2.0 * n * (double)n_weights;
        double sgemm_s;
        BEST_S(sgemm_s, cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, s->rows, s->cols,
                                    1.0f, x, s->cols, plain, s->cols, 0.0f, y, s->rows));
        printf("%-8s %5d x %-5d M %3d  sgemm %6.1f GFLOP/s", s->name, s->rows, s->cols, n,
               flop / sgemm_s * 1e-9);
        for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
            size_t row_bytes;
            check(sl_dtype_row_bytes(dtypes[d], s->cols, &row_bytes));
            unsigned char *data = allocate((size_t)s->rows * row_bytes);
            /* One byte everywhere: no format reads it as a NaN or a subnormal. */
            memset(data, 0x2a, (size_t)s->rows * row_bytes);
            const sl_slab slab = {.dtype = dtypes[d],
                                  .n_rows = s->rows,
                                  .cols = s->cols,
                                  .row_bytes = row_bytes,
                                  .data = data};
            const sl_weight w = {.rows = s->rows, .cols = s->cols, .n_slabs = 1, .slabs = &slab};
            double best_s;
            BEST_S(best_s, check(be->ops->linear(be, y, s->rows, x, &w, NULL, n, 0)));
            printf("  %s %6.1f (%.2f)", sl_dtype_name(dtypes[d]), flop / best_s * 1e-9,
                   sgemm_s / best_s);
            free(data);
        }
        printf("\n");
        fflush(stdout);
    }
    free(plain);
    free(y);
    free(x);
}

/* ---- attention ---- */

/* n_sequences of n_rows each, at the end of a cache of n_tokens. */
static void bench_attention(sl_backend *be, sl_dtype dtype, int n_sequences, int n_tokens,
                            int n_rows) {
    enum { MAX_SEQUENCES = 32 };
    const int n_pages = n_tokens / SL_PAGE_TOKENS;
    sl_kv_view cache = {.format = sl_kv_format_make(dtype, N_KV_HEADS, HEAD_DIM)};
    const size_t bytes = (size_t)n_sequences * (size_t)n_pages * cache.format.page_bytes;
    cache.base = allocate(bytes);
    const size_t n_heads = bytes / cache.format.head_bytes;
    float *x = random_floats((size_t)SL_PAGE_TOKENS * HEAD_DIM, 4);
    for (size_t h = 0; h < n_heads; h++)
        for (int t = 0; t < SL_PAGE_TOKENS; t++)
            sl_kv_put(&cache.format, (char *)cache.base + h * cache.format.head_bytes, t,
                      x + (size_t)t * HEAD_DIM);
    free(x);
    int32_t *pages = allocate((size_t)(n_sequences * n_pages) * sizeof *pages);
    sl_segment segment[MAX_SEQUENCES];
    for (int s = 0; s < n_sequences; s++) {
        for (int p = 0; p < n_pages; p++) pages[s * n_pages + p] = p * n_sequences + s;
        segment[s] = (sl_segment){.row0 = s * n_rows,
                                  .n_rows = n_rows,
                                  .position0 = n_tokens - n_rows,
                                  .n_pages = n_pages,
                                  .pages = pages + s * n_pages};
    }
    const sl_rows rows = {
        .n_rows = n_sequences * n_rows, .n_segments = n_sequences, .segment = segment};
    const int ld = N_HEADS * HEAD_DIM;
    float *q = random_floats((size_t)rows.n_rows * (size_t)ld, 5);
    float *out = random_floats((size_t)rows.n_rows * (size_t)ld, 6);
    double best_s;
    BEST_S(best_s, check(be->ops->attend(be, out, q, ld, N_HEADS, &cache, 0.125f, 0, &rows)));
    const double pairs =
        (double)n_sequences * ((double)n_rows * (n_tokens - n_rows) + n_rows * (n_rows + 1) / 2.0);
    printf("attend %-5s  %2d sequences, %4d tokens, last %3d rows: %8.1f us  %6.1f GFLOP/s"
           "  pages %5.1f GB/s\n",
           sl_dtype_name(dtype), n_sequences, n_tokens, n_rows, best_s * 1e6,
           pairs * 4.0 * N_HEADS * HEAD_DIM / best_s * 1e-9, (double)bytes / best_s * 1e-9);
    fflush(stdout);
    free(out);
    free(q);
    free(pages);
    free(cache.base);
}

int main(int argc, char **argv) {
    static const shape shapes[] = {{"qkv", 192, 576},
                                   {"o", 576, 576},
                                   {"up", 1536, 576},
                                   {"down", 576, 1536},
                                   {"head", 49152, 576}};
    sl_cpu_options options = {0};
    if (argc > 1) seconds_per_point = atof(argv[1]);
    if (argc > 2) {
        options.simd = strcmp(argv[2], "avx512") == 0 ? SL_CPU_AVX512
                       : strcmp(argv[2], "avx2") == 0 ? SL_CPU_AVX2
                                                      : SL_CPU_PLAIN_C;
    }
    sl_backend *be;
    check(sl_cpu_backend_open(&options, &be));
    openblas_set_num_threads(sl_cpu_backend_threads(be));
    printf("%s kernels, %d threads; %s, %s\n", sl_cpu_backend_simd(be), sl_cpu_backend_threads(be),
           openblas_get_config(), openblas_get_corename());
    printf("in brackets: rate over sgemm's\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) bench_linear(be, &shapes[i]);
    static const sl_dtype pages[] = {SL_DTYPE_F16, SL_DTYPE_F32, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        const sl_dtype dtype = pages[i];
        bench_attention(be, dtype, 1, 512, 512);
        bench_attention(be, dtype, 1, 2048, 512);
        bench_attention(be, dtype, 32, 512, 1);
        bench_attention(be, dtype, 32, 2048, 1);
        bench_attention(be, dtype, 1, 2048, 1);
    }
    sl_backend_close(be);
    return 0;
}
