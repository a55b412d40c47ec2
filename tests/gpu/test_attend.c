/* Attention of the CUDA backend over shuffled pages of every format, against the CPU reference on
 * the same numbers; and the bits of a segment alone and among others. */
#include "gpu_fixture.h"

enum { MAX_SEQUENCES = 7, MAX_TOKENS = 1200, MAX_PAGES = MAX_TOKENS / SL_PAGE_TOKENS + 1 };

typedef struct {
    sl_dtype dtype;
    int n_heads, n_kv_heads, head_dim, window;
} shape;

typedef struct {
    int n_tokens;
    int first; /* tokens before it are in the cache, those from it on are rows */
    int32_t pages[MAX_PAGES];
    float *q, *k, *v; /* [n_tokens, heads * head_dim], f16 values */
} sequence;

typedef struct {
    shape s;
    int n_sequences, n_pages;
    sequence sequence[MAX_SEQUENCES];
    sl_kv_view gpu_cache, cpu_cache; /* in the shape's format; in float32 */
} world;

static float *half_floats(sl_rng *rng, size_t n, float scale) {
    float *x = fixture_floats(rng, n);
    for (size_t i = 0; i < n; i++) x[i] = sl_f16_to_f32(sl_f32_to_f16(x[i] * scale));
    return x;
}

static void world_make(sl_backend *gpu, const shape *s, const int (*tokens)[2], int n, world *w) {
    sl_rng rng = {.key = (uint64_t)(s->dtype * 1000 + s->head_dim * 7 + s->window)};
    *w = (world){.s = *s, .n_sequences = n};
    for (int i = 0; i < n; i++) w->n_pages += tokens[i][1] / SL_PAGE_TOKENS + 1;
    int32_t *order = fixture_alloc((size_t)w->n_pages * sizeof *order);
    for (int i = 0; i < w->n_pages; i++) order[i] = i;
    for (int i = w->n_pages - 1; i > 0; i--) {
        const int j = (int)sl_rng_below(&rng, (uint64_t)i + 1);
        const int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    w->gpu_cache.format = sl_kv_format_make(s->dtype, s->n_kv_heads, s->head_dim);
    w->gpu_cache.base = gpu_poisoned(gpu, (size_t)w->n_pages * w->gpu_cache.format.page_bytes);
    w->cpu_cache.format = sl_kv_format_make(SL_DTYPE_F32, s->n_kv_heads, s->head_dim);
    /* page_bytes of float32 is a multiple of 64 */
    w->cpu_cache.base = aligned_alloc(64, (size_t)w->n_pages * w->cpu_cache.format.page_bytes);
    assert_non_null(w->cpu_cache.base);
    for (int i = 0, page = 0; i < n; i++) {
        sequence *seq = &w->sequence[i];
        seq->first = tokens[i][0];
        seq->n_tokens = tokens[i][1];
        const int n_pages = seq->n_tokens / SL_PAGE_TOKENS + 1;
        memcpy(seq->pages, order + page, (size_t)n_pages * sizeof *order);
        page += n_pages;
        const size_t n_q = (size_t)(seq->n_tokens * s->n_heads * s->head_dim);
        const size_t n_kv = (size_t)(seq->n_tokens * s->n_kv_heads * s->head_dim);
        seq->q = half_floats(&rng, n_q, 6.0f); /* some scores dominate: the maximum moves */
        seq->k = half_floats(&rng, n_kv, 1.0f);
        seq->v = half_floats(&rng, n_kv, 1.0f);
    }
    free(order);
}

static void world_free(sl_backend *gpu, world *w) {
    for (int i = 0; i < w->n_sequences; i++)
        free(w->sequence[i].v), free(w->sequence[i].k), free(w->sequence[i].q);
    free(w->cpu_cache.base);
    gpu_free(gpu, w->gpu_cache.base);
}

/* Rows [from(i), to(i)) of every sequence as one micro-batch, and their vectors in one run. */
typedef struct {
    sl_rows rows;
    sl_segment segment[MAX_SEQUENCES];
    float *q, *k, *v;
    void *device_q, *device_k, *device_v;
    int kv_ld, q_ld;
} batch;

static void append_vectors(float *to, int ld, int row, const float *from, int width, int n) {
    for (int r = 0; r < n; r++)
        memcpy(to + (size_t)(row + r) * (size_t)ld, from + (size_t)r * (size_t)width,
               (size_t)width * sizeof *to);
}

/* only >= 0: that sequence alone; cached: the tokens before `first` instead of those from it. */
static void batch_make(sl_backend *gpu, const world *w, int only, int cached, batch *b) {
    const int q_width = w->s.n_heads * w->s.head_dim, kv_width = w->s.n_kv_heads * w->s.head_dim;
    *b = (batch){.kv_ld = kv_width + 8, .q_ld = q_width + 8};
    int n_rows = 0, n = 0;
    for (int i = 0; i < w->n_sequences; i++) {
        const sequence *seq = &w->sequence[i];
        const int from = cached ? 0 : seq->first, to = cached ? seq->first : seq->n_tokens;
        if (to == from || (only >= 0 && only != i)) continue;
        b->segment[n++] = (sl_segment){.row0 = n_rows,
                                       .n_rows = to - from,
                                       .position0 = from,
                                       .n_pages = (to - 1) / SL_PAGE_TOKENS + 1,
                                       .pages = seq->pages};
        n_rows += to - from;
    }
    const size_t n_q = (size_t)(n_rows * b->q_ld), n_kv = (size_t)(n_rows * b->kv_ld);
    b->q = fixture_alloc(n_q * 4), b->k = fixture_alloc(n_kv * 4), b->v = fixture_alloc(n_kv * 4);
    memset(b->q, 0, n_q * 4), memset(b->k, 0, n_kv * 4), memset(b->v, 0, n_kv * 4);
    n = 0;
    for (int i = 0; i < w->n_sequences; i++) {
        const sequence *seq = &w->sequence[i];
        const int from = cached ? 0 : seq->first, to = cached ? seq->first : seq->n_tokens;
        if (to == from || (only >= 0 && only != i)) continue;
        const int row = b->segment[n++].row0;
        append_vectors(b->q, b->q_ld, row, seq->q + (size_t)from * (size_t)q_width, q_width,
                       to - from);
        append_vectors(b->k, b->kv_ld, row, seq->k + (size_t)from * (size_t)kv_width, kv_width,
                       to - from);
        append_vectors(b->v, b->kv_ld, row, seq->v + (size_t)from * (size_t)kv_width, kv_width,
                       to - from);
    }
    b->rows = (sl_rows){.n_rows = n_rows, .n_segments = n, .segment = b->segment};
    if (n_rows == 0) return;
    b->device_q = gpu_put_half(gpu, b->q, n_q);
    b->device_k = gpu_put_half(gpu, b->k, n_kv);
    b->device_v = gpu_put_half(gpu, b->v, n_kv);
}

static void batch_free(sl_backend *gpu, batch *b) {
    gpu_free(gpu, b->device_v), gpu_free(gpu, b->device_k), gpu_free(gpu, b->device_q);
    free(b->v), free(b->k), free(b->q);
}

static void append(sl_backend *gpu, const world *w, const batch *b) {
    if (b->rows.n_rows > 0)
        check_ok(
            gpu->ops->kv_append(gpu, &w->gpu_cache, b->device_k, b->device_v, b->kv_ld, &b->rows));
}

/* Output of the batch's rows; poisoned before.  sparsity 0: dense. */
static float *attend_sparse(sl_backend *gpu, const world *w, const batch *b, float sparsity) {
    const size_t n = (size_t)(b->rows.n_rows * w->s.n_heads * w->s.head_dim);
    void *out = gpu_poisoned(gpu, n * 2);
    float *host = fixture_alloc(n * 4);
    const float scale = 1.0f / sqrtf((float)w->s.head_dim);
    if (sparsity > 0.0f)
        check_ok(gpu->ops->attend_sparse(gpu, out, b->device_q, b->q_ld, w->s.n_heads,
                                         &w->gpu_cache, scale, w->s.window, sparsity, &b->rows));
    else
        check_ok(gpu->ops->attend(gpu, out, b->device_q, b->q_ld, w->s.n_heads, &w->gpu_cache,
                                  scale, w->s.window, &b->rows));
    gpu_get_half(gpu, host, out, n);
    gpu_free(gpu, out);
    return host;
}

static float *attend(sl_backend *gpu, const world *w, const batch *b) {
    return attend_sparse(gpu, w, b, 0.0f);
}

/* What the pages hold against the reference packer, byte for byte; then as float32 for the CPU. */
static void read_pages(sl_backend *gpu, world *w) {
    const sl_kv_format *f = &w->gpu_cache.format, *plain = &w->cpu_cache.format;
    const size_t bytes = (size_t)w->n_pages * f->page_bytes;
    char *got = fixture_alloc(bytes), *want = fixture_alloc(bytes);
    float x[SL_MAX_HEAD_DIM];
    memset(want, 0xff, bytes); /* as the pages were before */
    gpu_copy(gpu, got, w->gpu_cache.base, bytes);
    for (int i = 0; i < w->n_sequences; i++)
        for (int t = 0; t < w->sequence[i].n_tokens; t++)
            for (int h = 0; h < 2 * f->n_kv_heads; h++) {
                const sequence *seq = &w->sequence[i];
                const size_t page = (size_t)seq->pages[t / SL_PAGE_TOKENS];
                const size_t at = page * f->page_bytes + (size_t)h * f->head_bytes;
                const float *from = h < f->n_kv_heads ? seq->k : seq->v;
                const int slot = t % SL_PAGE_TOKENS;
                from += (t * f->n_kv_heads + h % f->n_kv_heads) * f->head_dim;
                sl_kv_put(f, want + at, slot, from);
                sl_kv_get(f, got + at, slot, x);
                sl_kv_put(plain,
                          (char *)w->cpu_cache.base + page * plain->page_bytes +
                              (size_t)h * plain->head_bytes,
                          slot, x);
            }
    assert_memory_equal(got, want, bytes);
    free(want), free(got);
}

static const shape shapes[] = {
    {SL_DTYPE_F16, 4, 4, 128, 0},  {SL_DTYPE_Q8G64, 4, 4, 128, 0},  {SL_DTYPE_Q4G64, 4, 4, 128, 0},
    {SL_DTYPE_F16, 9, 3, 64, 0},   {SL_DTYPE_Q8G64, 9, 3, 64, 0},   {SL_DTYPE_Q4G64, 9, 3, 64, 0},
    {SL_DTYPE_F16, 8, 1, 128, 77}, {SL_DTYPE_Q4G64, 16, 1, 128, 0}, {SL_DTYPE_Q8G64, 22, 2, 64, 50},
    {SL_DTYPE_F16, 4, 4, 80, 0},   {SL_DTYPE_Q4G64, 4, 2, 80, 33},  {SL_DTYPE_Q8G64, 2, 2, 96, 0},
    {SL_DTYPE_F16, 2, 1, 256, 0},  {SL_DTYPE_Q4G64, 2, 1, 256, 5},  {SL_DTYPE_Q4G64, 3, 1, 33, 0},
    {SL_DTYPE_F16, 5, 5, 7, 64},   {SL_DTYPE_Q8G64, 2, 1, 512, 0},  {SL_DTYPE_F16, 100, 1, 8, 0},
    {SL_DTYPE_Q4G64, 2, 2, 64, 1}, {SL_DTYPE_F16, 3, 3, 32, 0},
};

/* {cached, all}: decode rows (one of them over three splits), whole prompts, chunks. */
static const int mix[MAX_SEQUENCES][2] = {{0, 1},     {32, 33},  {0, 130},    {63, 64},
                                          {200, 257}, {41, 100}, {1104, 1105}};

static void attend_of_ragged_segments_agrees_with_the_reference(void **state) {
    (void)state;
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        world w;
        batch before, b;
        world_make(gpu, &shapes[i], mix, MAX_SEQUENCES, &w);
        batch_make(gpu, &w, -1, 1, &before);
        batch_make(gpu, &w, -1, 0, &b);
        append(gpu, &w, &before);
        append(gpu, &w, &b);
        float *got = attend(gpu, &w, &b);
        read_pages(gpu, &w);
        const size_t n = (size_t)(b.rows.n_rows * w.s.n_heads * w.s.head_dim);
        float *want = fixture_alloc(n * 4);
        check_ok(cpu->ops->attend(cpu, want, b.q, b.q_ld, w.s.n_heads, &w.cpu_cache,
                                  1.0f / sqrtf((float)w.s.head_dim), w.s.window, &b.rows));
        /* Means of values below 1.  Packed pages are rounded to f16 once more (2^-12 on average, in
         * scores of up to 10 that is 2e-3 of a probability at worst), probabilities to f16. */
        assert_close(got, want, n, w.gpu_cache.format.dtype == SL_DTYPE_F16 ? 5e-4 : 1.5e-3, 2e-3);
        free(want), free(got);
        batch_free(gpu, &b), batch_free(gpu, &before);
        world_free(gpu, &w);
    }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

/* Where scores are nearly equal, rounding decides which values are taken: below 1.0 only pages
 * whose scores both compute from the same numbers are compared. */
static void sparse_attention_agrees_with_the_cpu(void **state) {
    (void)state;
    static const float shares[] = {1.0f, 0.5f, 0.1f, 1e-6f};
    sl_backend *gpu = gpu_open(), *cpu = NULL;
    const sl_cpu_options options = {.n_threads = 2};
    check_ok(sl_cpu_backend_open(&options, &cpu));
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        world w;
        batch before, b;
        world_make(gpu, &shapes[i], mix, MAX_SEQUENCES, &w);
        batch_make(gpu, &w, -1, 1, &before);
        batch_make(gpu, &w, -1, 0, &b);
        append(gpu, &w, &before);
        append(gpu, &w, &b);
        read_pages(gpu, &w);
        const int n_shares = shapes[i].dtype == SL_DTYPE_F16 ? 4 : 1;
        const size_t n = (size_t)(b.rows.n_rows * w.s.n_heads * w.s.head_dim);
        float *want = fixture_alloc(n * 4);
        for (int k = 0; k < n_shares; k++) {
            float *got = attend_sparse(gpu, &w, &b, shares[k]);
            check_ok(cpu->ops->attend_sparse(cpu, want, b.q, b.q_ld, w.s.n_heads, &w.cpu_cache,
                                             1.0f / sqrtf((float)w.s.head_dim), w.s.window,
                                             shares[k], &b.rows));
            assert_close(got, want, n, shapes[i].dtype == SL_DTYPE_F16 ? 5e-4 : 1.5e-3, 2e-3);
            free(got);
        }
        free(want);
        batch_free(gpu, &b), batch_free(gpu, &before);
        world_free(gpu, &w);
    }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

static void segment_has_the_same_bits_alone_and_among_others(void **state) {
    (void)state;
    sl_backend *gpu = gpu_open();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        world w;
        batch before, b;
        world_make(gpu, &shapes[i], mix, MAX_SEQUENCES, &w);
        batch_make(gpu, &w, -1, 1, &before);
        batch_make(gpu, &w, -1, 0, &b);
        append(gpu, &w, &before);
        append(gpu, &w, &b);
        check_ok(gpu->ops->bind_rows(gpu, 0, &b.rows));
        float *all = attend(gpu, &w, &b);
        const size_t width = (size_t)(w.s.n_heads * w.s.head_dim);
        for (int s = 0; s < w.n_sequences; s++) {
            batch one;
            batch_make(gpu, &w, s, 0, &one);
            check_ok(gpu->ops->bind_rows(gpu, 1, &one.rows));
            float *alone = attend(gpu, &w, &one);
            assert_same_bits(alone, all + (size_t)b.segment[s].row0 * width,
                             (size_t)one.rows.n_rows * width);
            free(alone);
            batch_free(gpu, &one);
        }
        free(all);
        batch_free(gpu, &b), batch_free(gpu, &before);
        world_free(gpu, &w);
    }
    sl_backend_close(gpu);
}

/* A small scratch makes the decode rows go in several launches. */
static void attend_with_little_scratch_agrees(void **state) {
    (void)state;
    static const int tokens[5][2] = {{1100, 1101}, {700, 701}, {600, 601}, {900, 901}, {3, 4}};
    const shape s = {SL_DTYPE_Q4G64, 4, 4, 128, 0};
    float *out[2];
    size_t n = 0;
    for (int little = 0; little < 2; little++) {
        const sl_cuda_options options = {.memory_bytes = (size_t)1 << 30,
                                         .attend_bytes = little ? 3 * 4 * 130 * 4 : 0};
        sl_backend *gpu = NULL;
        check_ok(sl_cuda_backend_open(&options, &gpu));
        world w;
        batch before, b;
        world_make(gpu, &s, tokens, 5, &w);
        batch_make(gpu, &w, -1, 1, &before);
        batch_make(gpu, &w, -1, 0, &b);
        append(gpu, &w, &before);
        append(gpu, &w, &b);
        out[little] = attend(gpu, &w, &b);
        n = (size_t)(b.rows.n_rows * s.n_heads * s.head_dim);
        batch_free(gpu, &b), batch_free(gpu, &before);
        world_free(gpu, &w);
        sl_backend_close(gpu);
    }
    assert_same_bits(out[1], out[0], n);
    free(out[0]), free(out[1]);
}

static void page_copy_copies_one_page(void **state) {
    (void)state;
    sl_backend *gpu = gpu_open();
    const sl_kv_format f = sl_kv_format_make(SL_DTYPE_Q4G64, 3, 64);
    unsigned char *host = fixture_alloc(4 * f.page_bytes), *got = fixture_alloc(4 * f.page_bytes);
    for (size_t i = 0; i < 4 * f.page_bytes; i++) host[i] = (unsigned char)sl_rng_at(41, i);
    const sl_kv_view cache = {f, gpu_put(gpu, host, 4 * f.page_bytes)};
    check_ok(gpu->ops->page_copy(gpu, &cache, 3, 1));
    gpu_copy(gpu, got, cache.base, 4 * f.page_bytes);
    memcpy(host + f.page_bytes, host + 3 * f.page_bytes, f.page_bytes);
    assert_memory_equal(got, host, 4 * f.page_bytes);
    assert_int_equal(gpu->ops->page_copy(gpu, &cache, 2, 2), SL_ERR_ARG);
    gpu_free(gpu, cache.base);
    free(got), free(host);
    sl_backend_close(gpu);
}

int main(void) {
    SKIP_WITHOUT_GPU();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_of_ragged_segments_agrees_with_the_reference),
        cmocka_unit_test(sparse_attention_agrees_with_the_cpu),
        cmocka_unit_test(segment_has_the_same_bits_alone_and_among_others),
        cmocka_unit_test(attend_with_little_scratch_agrees),
        cmocka_unit_test(page_copy_copies_one_page),
    };
    return cmocka_run_group_tests_name("gpu attend", tests, NULL, NULL);
}
