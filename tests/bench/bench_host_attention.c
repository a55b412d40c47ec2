/* bench_host_attention - rates of decode attention over host pages: one layer of OPT-30B's shape by
 * default, pages scattered in memory that no cache holds, beside plain reading of the same memory.
 *
 * Usage: bench_host_attention [NAME=VALUE]...
 *   rows=64 tokens=544 heads=56 kv_heads=56 head_dim=128 sparsity=0 act=f16|f32
 *   threads=1,2,16 (0: all)  formats=f16,q8,q4,f32  simd=avx512|avx2|c  gib=2  seconds=2 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/rng.h"
#include "cpu/cpu_host_attention.h"
#include "cpu/cpu_team.h"

static int rows = 64, tokens = 544, heads = 56, kv_heads = 56, head_dim = 128, gib = 2;
static double sparsity, seconds = 2.0;
static const char *act_name = "f16", *simd_name = "", *threads_list = "0",
                  *formats_list = "f16,q8,q4";

static void check(sl_status st) {
    if (st == SL_OK) return;
    fprintf(stderr, "bench_host_attention: %s\n", sl_error_message());
    exit(1);
}

static void *allocate(size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    const size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    const size_t room = (bytes + align - 1) / align * align;
    void *data = aligned_alloc(align, room);
    if (!data) check(SL_FAIL(SL_ERR_NOMEM, "no %zu bytes", bytes));
    if (align == HUGE_PAGE) (void)madvise(data, room, MADV_HUGEPAGE); /* as pinned pools are */
    memset(data, 0, room);
    return data;
}

/* The pages of all jobs, in random order. */
typedef struct {
    sl_kv_format format;
    char *base;
    size_t n_pages;
    void **page;
} pool;

static void pool_make(sl_dtype dtype, pool *out) {
    *out = (pool){.format = sl_kv_format_make(dtype, kv_heads, head_dim)};
    const sl_kv_format *f = &out->format;
    const size_t per_job = (size_t)rows * (size_t)((tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS);
    const size_t least = ((size_t)gib << 30) / f->page_bytes;
    out->n_pages = (least + per_job - 1) / per_job * per_job; /* whole jobs */
    if (out->n_pages < per_job) out->n_pages = per_job;
    out->base = allocate(out->n_pages * f->page_bytes);
    out->page = allocate(out->n_pages * sizeof *out->page);
    for (int t = 0; t < SL_PAGE_TOKENS; t++) {
        float x[512];
        for (int d = 0; d < head_dim; d++)
            x[d] = (float)sl_rng_unit(sl_rng_at(1, (uint64_t)(t * head_dim + d))) - 0.5f;
        sl_kv_put(f, out->base, t, x);
    }
    for (size_t at = f->head_bytes; at < out->n_pages * f->page_bytes; at += f->head_bytes)
        memcpy(out->base + at, out->base, f->head_bytes);
    sl_rng rng = {.key = 2};
    for (size_t i = 0; i < out->n_pages; i++) out->page[i] = out->base + i * f->page_bytes;
    for (size_t i = out->n_pages - 1; i > 0; i--) {
        const size_t j = (size_t)sl_rng_below(&rng, i + 1);
        void *t = out->page[i];
        out->page[i] = out->page[j];
        out->page[j] = t;
    }
}

static void pool_free(pool *p) {
    free(p->page);
    free(p->base);
}

typedef struct {
    const pool *pool;
    uint64_t sum[256]; /* of a thread */
} reading;

static void read_page(void *context, int item, int thread) {
    reading *r = context;
    const uint64_t *at = r->pool->page[item];
    uint64_t sum = 0;
    for (size_t i = 0; i < r->pool->format.page_bytes / sizeof *at; i++) sum += at[i];
    r->sum[thread] += sum;
}

/* GB/s of threads that only read. */
static double read_rate(const pool *p, int n_threads) {
    sl_cpu_team *team = NULL;
    check(sl_cpu_team_open(n_threads, &team));
    static reading r;
    r = (reading){.pool = p};
    const double start = sl_clock_s();
    double n = 0.0;
    do {
        sl_cpu_team_run(team, (int)p->n_pages, read_page, &r);
        n++;
    } while (sl_clock_s() - start < 0.5);
    const double rate =
        n * (double)p->n_pages * (double)p->format.page_bytes / (sl_clock_s() - start) * 1e-9;
    sl_cpu_team_close(team);
    volatile uint64_t sink = r.sum[0];
    (void)sink;
    return rate;
}

static void bench(const pool *p, int n_threads) {
    const sl_cpu_simd simd = strcmp(simd_name, "avx512") == 0 ? SL_CPU_AVX512
                             : strcmp(simd_name, "avx2") == 0 ? SL_CPU_AVX2
                             : strcmp(simd_name, "c") == 0    ? SL_CPU_PLAIN_C
                                                              : SL_CPU_AUTO;
    const sl_cpu_host_options options = {.n_threads = n_threads, .simd = simd};
    sl_host_attention *ha = NULL;
    check(sl_cpu_host_attention_open(&options, &ha));
    n_threads = sl_cpu_host_attention_threads(ha);
    const int pages = (tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    const size_t act_bytes = strcmp(act_name, "f32") == 0 ? 4 : 2;
    const size_t q_cols = (size_t)heads * (size_t)head_dim;
    const size_t kv_cols = (size_t)kv_heads * (size_t)head_dim;
    sl_host_row *row = allocate((size_t)rows * sizeof *row);
    sl_host_job job = {.format = p->format,
                       .act = act_bytes == 4 ? SL_DTYPE_F32 : SL_DTYPE_F16,
                       .n_heads = heads,
                       .scale = 0.1f,
                       .sparsity = (float)sparsity,
                       .n_rows = rows,
                       .row = row,
                       .q = allocate((size_t)rows * q_cols * act_bytes),
                       .ldq = (int)q_cols,
                       .k = allocate((size_t)rows * kv_cols * act_bytes),
                       .v = allocate((size_t)rows * kv_cols * act_bytes),
                       .ldkv = (int)kv_cols,
                       .out = allocate((size_t)rows * q_cols * act_bytes),
                       .ldo = (int)q_cols};
    /* 0x2a2a is 0.05 in f16, and no odd number in f32 either. */
    memset((void *)(uintptr_t)job.q, 0x2a, (size_t)rows * q_cols * act_bytes);

    const size_t per_job = (size_t)rows * (size_t)pages;
    double best_s = 1e30, busy_s = 0.0, elems = 0.0;
    sl_host_stats stats = {0};
    size_t at = 0;
    const double begin = sl_clock_s();
    for (int n = 0; n < 3 || sl_clock_s() - begin < seconds; n++) {
        for (int r = 0; r < rows; r++)
            row[r] = (sl_host_row){.n_tokens = tokens, .page = p->page + at + (size_t)(r * pages)};
        at = at + 2 * per_job <= p->n_pages ? at + per_job : 0;
        uint64_t ticket;
        double start_s = 0.0, end_s = 0.0;
        check(ha->ops->start(ha, &job, &ticket));
        for (int done = 0; !done; sl_clock_sleep(50e-6))
            check(ha->ops->is_done(ha, ticket, &done, &start_s, &end_s));
        if (end_s - start_s < best_s) best_s = end_s - start_s;
        elems += 2.0 * rows * tokens * (double)kv_cols;
    }
    ha->ops->get_stats(ha, &stats);
    busy_s = stats.busy_s;
    const double job_elems = 2.0 * rows * tokens * (double)kv_cols;
    const double job_bytes = (double)stats.page_bytes_read * job_elems / elems;
    printf("%-6s %-6s threads %2d  job %8.3f ms  mean %6.1f GB/s %6.1f Gelem/s  best %6.1f GB/s "
           "%6.1f Gelem/s  (reading: %.1f GB/s)\n",
           sl_dtype_name(p->format.dtype), sl_cpu_host_attention_simd(ha), n_threads,
           busy_s * job_elems / elems * 1e3, (double)stats.page_bytes_read / busy_s * 1e-9,
           elems / busy_s * 1e-9, job_bytes / best_s * 1e-9, job_elems / best_s * 1e-9,
           read_rate(p, n_threads));
    fflush(stdout);
    sl_host_attention_close(ha);
    free(job.out);
    free((void *)(uintptr_t)job.v);
    free((void *)(uintptr_t)job.k);
    free((void *)(uintptr_t)job.q);
    free(row);
}

/* Whether `argument` is NAME=..., and what follows. */
static const char *value_of(const char *argument, const char *name) {
    const size_t n = strlen(name);
    return strncmp(argument, name, n) == 0 && argument[n] == '=' ? argument + n + 1 : NULL;
}

static void take(const char *argument) {
    static const struct {
        const char *name;
        int *number;
        double *real;
        const char **text;
    } options[] = {
        {"rows", &rows, NULL, NULL},
        {"tokens", &tokens, NULL, NULL},
        {"heads", &heads, NULL, NULL},
        {"kv_heads", &kv_heads, NULL, NULL},
        {"head_dim", &head_dim, NULL, NULL},
        {"gib", &gib, NULL, NULL},
        {"sparsity", NULL, &sparsity, NULL},
        {"seconds", NULL, &seconds, NULL},
        {"act", NULL, NULL, &act_name},
        {"simd", NULL, NULL, &simd_name},
        {"threads", NULL, NULL, &threads_list},
        {"formats", NULL, NULL, &formats_list},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const char *value = value_of(argument, options[i].name);
        if (!value) continue;
        if (options[i].number) *options[i].number = atoi(value);
        if (options[i].real) *options[i].real = atof(value);
        if (options[i].text) *options[i].text = value;
        return;
    }
    check(SL_FAIL(SL_ERR_ARG, "unknown argument %s", argument));
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) take(argv[i]);
    if (rows < 1 || tokens < 1 || kv_heads < 1 || head_dim < 1 || head_dim > 512)
        check(SL_FAIL(SL_ERR_ARG, "%d rows of %d tokens, %d heads of %d", rows, tokens, kv_heads,
                      head_dim));
    static const struct {
        const char *name;
        sl_dtype dtype;
    } formats[] = {{"f32", SL_DTYPE_F32},
                   {"f16", SL_DTYPE_F16},
                   {"q8", SL_DTYPE_Q8G64},
                   {"q4", SL_DTYPE_Q4G64}};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (!strstr(formats_list, formats[i].name)) continue;
        pool p;
        pool_make(formats[i].dtype, &p);
        for (const char *at = threads_list; at; at = strchr(at, ',')) {
            if (*at == ',') at++;
            bench(&p, atoi(at));
        }
        pool_free(&p);
    }
    return 0;
}
