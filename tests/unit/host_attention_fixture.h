/* host_attention_fixture.h - rows with pages in host memory and a job over them, and what its
 * results are in double precision. */
#ifndef SL_TESTS_HOST_ATTENTION_FIXTURE_H
#define SL_TESTS_HOST_ATTENTION_FIXTURE_H

#include "cpu_fixture.h"

#include "base/clock.h"
#include "cpu/cpu_host_attention.h"
#include "model/config.h"

enum { MAX_ROWS = 8 };

typedef struct {
    sl_dtype dtype, act;
    int n_heads, n_kv_heads, head_dim;
    int window;
    float sparsity;
} shape;

/* Rows whose pages lie in random order; what is not a token is NaN. */
typedef struct {
    sl_host_job job;
    sl_host_row row[MAX_ROWS];
    void **page; /* of all rows */
    char *pool;  /* the pages */
    size_t pool_bytes;
    float *q, *k, *v; /* [n_rows, ld]: what the job's matrices say, in float32 */
    float *got;       /* [n_rows, n_heads * head_dim]: what the job has written, likewise */
    size_t n_out;
} world;

static inline size_t act_bytes(const world *w) {
    return w->job.act == SL_DTYPE_F16 ? sizeof(sl_f16) : sizeof(float);
}

static inline void *aligned_pool(size_t bytes) {
    void *pool = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(pool);
    return pool;
}

/* A matrix in the job's dtype from `x`, which becomes what the matrix says. */
static inline void *as_activations(sl_dtype act, float *x, size_t n) {
    if (act == SL_DTYPE_F32) {
        float *copy = fixture_alloc(n * sizeof *copy);
        memcpy(copy, x, n * sizeof *copy);
        return copy;
    }
    sl_f16 *half = fixture_alloc(n * sizeof *half);
    for (size_t i = 0; i < n; i++) {
        half[i] = sl_f32_to_f16(x[i]);
        x[i] = sl_f16_to_f32(half[i]);
    }
    return half;
}

/* Where a row's keys of one head at a position lie; values half_bytes behind. */
static inline char *keys_at(const world *w, const sl_host_row *row, int head, int position) {
    (void)w;
    return (char *)row->page[position / SL_PAGE_TOKENS] + (size_t)head * w->job.format.head_bytes;
}

static inline void world_make(const shape *s, const int *n_tokens, int n_rows, uint64_t key,
                              world *w) {
    sl_rng rng = {.key = key};
    const int q_cols = s->n_heads * s->head_dim, kv_cols = s->n_kv_heads * s->head_dim;
    int n_pages = 0;
    for (int r = 0; r < n_rows; r++) n_pages += (n_tokens[r] + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    *w = (world){.job = {.format = sl_kv_format_make(s->dtype, s->n_kv_heads, s->head_dim),
                         .act = s->act,
                         .n_heads = s->n_heads,
                         .scale = 1.0f / sqrtf((float)s->head_dim),
                         .window = s->window,
                         .sparsity = s->sparsity,
                         .n_rows = n_rows,
                         .ldq = q_cols + 3,
                         .ldkv = kv_cols + 5,
                         .ldo = q_cols + 1}};
    const sl_kv_format *f = &w->job.format;
    const size_t page_room = (f->page_bytes + 63) / 64 * 64;
    w->pool_bytes = (size_t)n_pages * page_room;
    w->pool = aligned_pool(w->pool_bytes);
    memset(w->pool, 0xff, w->pool_bytes); /* a NaN in every format */
    w->page = fixture_alloc((size_t)n_pages * sizeof *w->page);
    for (int i = 0; i < n_pages; i++) w->page[i] = w->pool + (size_t)i * page_room;
    for (int i = n_pages - 1; i > 0; i--) {
        const int j = (int)sl_rng_below(&rng, (uint64_t)i + 1);
        void *t = w->page[i];
        w->page[i] = w->page[j];
        w->page[j] = t;
    }
    void *const *next = w->page;
    for (int r = 0; r < n_rows; r++) {
        w->row[r] = (sl_host_row){.n_tokens = n_tokens[r], .page = next};
        next += (n_tokens[r] + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
        for (int t = 0; t < n_tokens[r] - 1; t++) {
            for (int h = 0; h < s->n_kv_heads; h++) {
                float x[2][SL_MAX_HEAD_DIM];
                for (int i = 0; i < 2 * s->head_dim; i++)
                    x[i / s->head_dim][i % s->head_dim] = fixture_uniform(&rng);
                char *keys = keys_at(w, &w->row[r], h, t);
                sl_kv_put(f, keys, t % SL_PAGE_TOKENS, x[0]);
                sl_kv_put(f, keys + f->half_bytes, t % SL_PAGE_TOKENS, x[1]);
            }
        }
    }
    const size_t n_q = (size_t)n_rows * (size_t)w->job.ldq;
    const size_t n_kv = (size_t)n_rows * (size_t)w->job.ldkv;
    w->q = fixture_floats(&rng, n_q);
    w->k = fixture_floats(&rng, n_kv);
    w->v = fixture_floats(&rng, n_kv);
    /* Some scores dominate, so that the running maximum moves and old sums shrink. */
    for (size_t i = 0; i < n_q; i++) w->q[i] *= 6.0f;
    w->job.row = w->row;
    w->job.q = as_activations(s->act, w->q, n_q);
    w->job.k = as_activations(s->act, w->k, n_kv);
    w->job.v = as_activations(s->act, w->v, n_kv);
    const size_t out_bytes = (size_t)n_rows * (size_t)w->job.ldo * act_bytes(w);
    w->job.out = fixture_alloc(out_bytes);
    memset(w->job.out, 0xff, out_bytes);
    w->n_out = (size_t)n_rows * (size_t)q_cols;
    w->got = fixture_alloc(w->n_out * sizeof *w->got);
}

static inline void world_free(world *w) {
    free(w->got);
    free(w->job.out);
    free((void *)(uintptr_t)w->job.v);
    free((void *)(uintptr_t)w->job.k);
    free((void *)(uintptr_t)w->job.q);
    free(w->v);
    free(w->k);
    free(w->q);
    free(w->page);
    free(w->pool);
}

/* NULL where the processor lacks the instruction set. */
static inline sl_host_attention *host_open(sl_cpu_simd simd, int n_threads) {
    const sl_cpu_host_options options = {.simd = simd, .n_threads = n_threads};
    sl_host_attention *ha = NULL;
    const sl_status st = sl_cpu_host_attention_open(&options, &ha);
    const int may_lack = simd == SL_CPU_AVX2 || simd == SL_CPU_AVX512;
    if (!may_lack || st != SL_ERR_ARG) assert_int_equal(st, SL_OK);
    if (!ha) print_message("not tested on this processor: %s\n", sl_error_message());
    return ha;
}

static inline sl_status host_wait(sl_host_attention *ha, uint64_t ticket) {
    for (int done = 0;;) {
        const sl_status st = ha->ops->is_done(ha, ticket, &done, NULL, NULL);
        if (st != SL_OK || done) return st;
        sl_clock_sleep(20e-6); /* the threads may need this processor */
    }
}

/* w->got from the job's results; what is between the rows must be as it was. */
static inline void world_fetch(world *w) {
    const int cols = w->job.n_heads * w->job.format.head_dim;
    for (int r = 0; r < w->job.n_rows; r++) {
        for (int c = 0; c < w->job.ldo; c++) {
            const char *at = (const char *)w->job.out +
                             ((size_t)r * (size_t)w->job.ldo + (size_t)c) * act_bytes(w);
            float x;
            if (w->job.act == SL_DTYPE_F32) {
                memcpy(&x, at, sizeof x);
            } else {
                sl_f16 half;
                memcpy(&half, at, sizeof half);
                x = sl_f16_to_f32(half);
            }
            if (c < cols)
                w->got[(size_t)r * (size_t)cols + (size_t)c] = x;
            else
                assert_true(isnan(x));
        }
    }
}

static inline void world_run(sl_host_attention *ha, world *w) {
    uint64_t ticket;
    assert_int_equal(ha->ops->start(ha, &w->job, &ticket), SL_OK);
    assert_int_equal(host_wait(ha, ticket), SL_OK);
    world_fetch(w);
}

typedef struct {
    double weight;
    int position;
} ranked;

/* Heavier first, then lower positions; the newest, whose weight is marked infinite, before all. */
static int by_weight(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->weight > y->weight ? -1 : x->weight < y->weight ? 1 : x->position - y->position;
}

/* want: one query head's result, [head_dim], over the pages as they are now.  Returns how much of a
 * difference rounding may make beside the usual: the weight on the edge of what is kept, where
 * another one is so near that rounding decides. */
static inline double reference_head(const world *w, int r, int head, float *want) {
    const sl_kv_format *f = &w->job.format;
    const sl_host_row *row = &w->row[r];
    const int head_dim = f->head_dim, last = row->n_tokens;
    const int first = w->job.window > 0 && last > w->job.window ? last - w->job.window : 0;
    const int n = last - first, kv_head = head / (w->job.n_heads / f->n_kv_heads);
    const float *q = w->q + (size_t)r * (size_t)w->job.ldq + (size_t)head * (size_t)head_dim;
    ranked *weight = fixture_alloc((size_t)n * sizeof *weight);
    double max = -INFINITY, sum = 0.0, mean[SL_MAX_HEAD_DIM] = {0}, edge = 0.0;
    float x[SL_MAX_HEAD_DIM];
    for (int p = first; p < last; p++) {
        sl_kv_get(f, keys_at(w, row, kv_head, p), p % SL_PAGE_TOKENS, x);
        double dot = 0.0;
        for (int d = 0; d < head_dim; d++) dot += (double)q[d] * x[d];
        weight[p - first] = (ranked){.weight = dot * (double)w->job.scale, .position = p};
        max = fmax(max, weight[p - first].weight);
    }
    for (int i = 0; i < n; i++) {
        weight[i].weight = exp(weight[i].weight - max);
        sum += weight[i].weight;
    }
    int kept = n;
    if (w->job.sparsity > 0.0f) {
        kept = (int)ceilf(w->job.sparsity * (float)n);
        const double newest = weight[n - 1].weight;
        weight[n - 1].weight = INFINITY;
        qsort(weight, (size_t)n, sizeof *weight, by_weight);
        weight[0].weight = newest;
        if (kept > 1 && kept < n && weight[kept - 1].weight < weight[kept].weight * (1.0 + 1e-4))
            edge = weight[kept - 1].weight / sum;
    }
    for (int i = 0; i < kept; i++) {
        const int p = weight[i].position;
        sl_kv_get(f, keys_at(w, row, kv_head, p) + f->half_bytes, p % SL_PAGE_TOKENS, x);
        for (int d = 0; d < head_dim; d++) mean[d] += weight[i].weight / sum * x[d];
    }
    for (int d = 0; d < head_dim; d++) want[d] = (float)mean[d];
    free(weight);
    return 2.0 * edge;
}

/* w->got against the reference. */
static inline void world_check(const world *w) {
    const int head_dim = w->job.format.head_dim;
    float want[SL_MAX_HEAD_DIM];
    for (int r = 0; r < w->job.n_rows; r++) {
        for (int h = 0; h < w->job.n_heads; h++) {
            const double edge = reference_head(w, r, h, want);
            /* float32 scores of up to some 30 carry 2e-6 into exp(); means of values below 1.  A
             * result in f16 is rounded by half of 2^-10 of itself besides. */
            const double rel = w->job.act == SL_DTYPE_F16 ? 6e-4 : 1e-4;
            assert_close(w->got +
                             ((size_t)r * (size_t)w->job.n_heads + (size_t)h) * (size_t)head_dim,
                         want, (size_t)head_dim, 1e-5 + edge, rel);
        }
    }
}

#endif
