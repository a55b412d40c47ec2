/* Attention of the CPU backend over shuffled pages: against the reference, and the same bits for a
 * row in every batch and every cut of a prompt into chunks. */
#include "cpu_fixture.h"

enum { MAX_TOKENS = 320, MAX_SEQUENCES = 6, MAX_PAGES = MAX_TOKENS / SL_PAGE_TOKENS };

typedef struct {
    sl_dtype dtype;
    int n_heads, n_kv_heads, head_dim;
    int window;
} shape;

typedef struct {
    int n_tokens;
    int32_t pages[MAX_PAGES];
    float *q, *k, *v; /* [n_tokens, heads * head_dim] */
} sequence;

/* Sequences whose keys and values lie in pages in random order; what is not a token is NaN. */
typedef struct {
    shape s;
    int n_sequences;
    sequence sequence[MAX_SEQUENCES];
    sl_kv_view cache;
} world;

static float scale_of(const shape *s) {
    return 1.0f / sqrtf((float)s->head_dim);
}

/* Rows [first, last) of one sequence as a micro-batch of one segment. */
static sl_rows rows_of(const sequence *seq, int first, int last, sl_segment *segment) {
    *segment = (sl_segment){.row0 = 0,
                            .n_rows = last - first,
                            .position0 = first,
                            .n_pages = (last + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS,
                            .pages = seq->pages};
    return (sl_rows){.n_rows = last - first, .n_segments = 1, .segment = segment};
}

static void append(sl_backend *be, const world *w, const sequence *seq, int first, int last) {
    sl_segment segment;
    const sl_rows rows = rows_of(seq, first, last, &segment);
    const int ld = w->s.n_kv_heads * w->s.head_dim;
    assert_int_equal(
        be->ops->kv_append(be, &w->cache, seq->k + first * ld, seq->v + first * ld, ld, &rows),
        SL_OK);
}

static void attend(sl_backend *be, const world *w, const sequence *seq, int first, int last,
                   float *out) {
    sl_segment segment;
    const sl_rows rows = rows_of(seq, first, last, &segment);
    const int ld = w->s.n_heads * w->s.head_dim;
    assert_int_equal(be->ops->attend(be, out, seq->q + first * ld, ld, w->s.n_heads, &w->cache,
                                     scale_of(&w->s), w->s.window, &rows),
                     SL_OK);
}

static void world_make(const shape *s, const int *n_tokens, int n_sequences, world *out) {
    sl_rng rng = {.key = (uint64_t)s->head_dim * 100 + (uint64_t)s->window};
    const int n_pages = n_sequences * MAX_PAGES;
    *out = (world){.s = *s, .n_sequences = n_sequences};
    out->cache.format = sl_kv_format_make(s->dtype, s->n_kv_heads, s->head_dim);
    const size_t bytes = (size_t)n_pages * out->cache.format.page_bytes;
    out->cache.base = fixture_alloc(bytes);
    memset(out->cache.base, 0xff, bytes); /* a NaN in every format */

    int32_t order[MAX_SEQUENCES * MAX_PAGES];
    for (int i = 0; i < n_pages; i++) order[i] = i;
    for (int i = n_pages - 1; i > 0; i--) {
        const int j = (int)sl_rng_below(&rng, (uint64_t)i + 1);
        const int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < n_sequences; i++) {
        sequence *seq = &out->sequence[i];
        const size_t n = (size_t)n_tokens[i];
        seq->n_tokens = n_tokens[i];
        memcpy(seq->pages, order + i * MAX_PAGES, sizeof seq->pages);
        seq->q = fixture_floats(&rng, n * (size_t)(s->n_heads * s->head_dim));
        seq->k = fixture_floats(&rng, n * (size_t)(s->n_kv_heads * s->head_dim));
        seq->v = fixture_floats(&rng, n * (size_t)(s->n_kv_heads * s->head_dim));
        /* Some scores dominate, so that the running maximum moves and old sums shrink. */
        for (size_t j = 0; j < n * (size_t)(s->n_heads * s->head_dim); j++) seq->q[j] *= 6.0f;
    }
}

static void world_free(world *w) {
    for (int i = 0; i < w->n_sequences; i++) {
        free(w->sequence[i].v);
        free(w->sequence[i].k);
        free(w->sequence[i].q);
    }
    free(w->cache.base);
}

/* One micro-batch: the tokens [first[i], n_tokens) of every sequence, in order. */
typedef struct {
    sl_rows rows;
    sl_segment segment[MAX_SEQUENCES];
    float *q, *k, *v;
} batch;

static void batch_make(const world *w, const int *first, batch *out) {
    const int q_ld = w->s.n_heads * w->s.head_dim, kv_ld = w->s.n_kv_heads * w->s.head_dim;
    *out = (batch){.q = fixture_alloc((size_t)MAX_SEQUENCES * MAX_TOKENS * q_ld * sizeof(float)),
                   .k = fixture_alloc((size_t)MAX_SEQUENCES * MAX_TOKENS * kv_ld * sizeof(float)),
                   .v = fixture_alloc((size_t)MAX_SEQUENCES * MAX_TOKENS * kv_ld * sizeof(float))};
    int row = 0;
    for (int i = 0; i < w->n_sequences; i++) {
        const sequence *seq = &w->sequence[i];
        const int n = seq->n_tokens - first[i];
        (void)rows_of(seq, first[i], seq->n_tokens, &out->segment[i]);
        out->segment[i].row0 = row;
        memcpy(out->q + row * q_ld, seq->q + first[i] * q_ld, (size_t)(n * q_ld) * sizeof(float));
        memcpy(out->k + row * kv_ld, seq->k + first[i] * kv_ld,
               (size_t)(n * kv_ld) * sizeof(float));
        memcpy(out->v + row * kv_ld, seq->v + first[i] * kv_ld,
               (size_t)(n * kv_ld) * sizeof(float));
        row += n;
    }
    out->rows = (sl_rows){.n_rows = row, .n_segments = w->n_sequences, .segment = out->segment};
}

static void batch_free(batch *b) {
    free(b->v);
    free(b->k);
    free(b->q);
}

static void batch_attend(sl_backend *be, const world *w, const batch *b, float *out) {
    const int ld = w->s.n_heads * w->s.head_dim;
    assert_int_equal(be->ops->attend(be, out, b->q, ld, w->s.n_heads, &w->cache, scale_of(&w->s),
                                     w->s.window, &b->rows),
                     SL_OK);
}

static const shape shapes[] = {
    {SL_DTYPE_F16, 9, 3, 64, 0},    {SL_DTYPE_F32, 9, 3, 64, 0},    {SL_DTYPE_F16, 3, 3, 64, 40},
    {SL_DTYPE_F32, 4, 4, 128, 33},  {SL_DTYPE_F16, 8, 1, 128, 0},   {SL_DTYPE_F16, 4, 2, 80, 5},
    {SL_DTYPE_F32, 4, 2, 20, 1},    {SL_DTYPE_F16, 3, 1, 33, 0},    {SL_DTYPE_F32, 5, 5, 7, 64},
    {SL_DTYPE_F16, 2, 1, 512, 0},   {SL_DTYPE_F16, 128, 1, 8, 0},   {SL_DTYPE_Q8G64, 9, 3, 64, 0},
    {SL_DTYPE_Q4G64, 9, 3, 64, 0},  {SL_DTYPE_Q8G64, 4, 2, 80, 5},  {SL_DTYPE_Q4G64, 4, 2, 80, 0},
    {SL_DTYPE_Q8G64, 4, 4, 96, 33}, {SL_DTYPE_Q4G64, 4, 4, 96, 40}, {SL_DTYPE_Q8G64, 8, 1, 128, 0},
    {SL_DTYPE_Q4G64, 8, 1, 128, 1}, {SL_DTYPE_Q8G64, 3, 1, 33, 0},  {SL_DTYPE_Q4G64, 3, 1, 33, 0},
    {SL_DTYPE_Q8G64, 5, 5, 7, 64},  {SL_DTYPE_Q4G64, 5, 5, 7, 0},   {SL_DTYPE_Q8G64, 2, 1, 512, 0},
    {SL_DTYPE_Q4G64, 2, 2, 65, 0},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static void attend_of_ragged_segments_agrees_with_the_reference(void **state) {
    (void)state;
    static const int n_tokens[MAX_SEQUENCES] = {1, 33, 130, 64, 257, 100};
    static const int first[MAX_SEQUENCES] = {0, 32, 0, 63, 200, 41}; /* decode, prefill, chunks */
    sl_backend *reference = fixture_reference();
    for (int i = 0; i < N_SHAPES; i++) {
        world w;
        world_make(&shapes[i], n_tokens, MAX_SEQUENCES, &w);
        batch b;
        batch_make(&w, first, &b);
        for (int s = 0; s < MAX_SEQUENCES; s++)
            if (first[s] > 0) append(reference, &w, &w.sequence[s], 0, first[s]);
        const int ld = w.s.n_kv_heads * w.s.head_dim;
        assert_int_equal(reference->ops->kv_append(reference, &w.cache, b.k, b.v, ld, &b.rows),
                         SL_OK);
        const size_t n_out = (size_t)(b.rows.n_rows * w.s.n_heads * w.s.head_dim);
        float *want = fixture_alloc(n_out * sizeof *want);
        float *got = fixture_alloc(n_out * sizeof *got);
        batch_attend(reference, &w, &b, want);
        for (int v = 0; v < FIXTURE_N_SIMD; v++) {
            sl_backend *be = fixture_open(fixture_simd[v], 0);
            if (!be) continue;
            batch_attend(be, &w, &b, got);
            /* float32 scores of up to some 30 carry 2e-6 into exp(); means of values below 1. */
            assert_close(got, want, n_out, 1e-5, 1e-4);
            sl_backend_close(be);
        }
        free(got);
        free(want);
        batch_free(&b);
        world_free(&w);
    }
    sl_backend_close(reference);
}

static void attend_has_the_same_bits_in_chunks_of_any_size(void **state) {
    (void)state;
    static const int n_tokens[] = {150};
    static const int chunks[] = {150, 1, 7, 32, 100};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (int i = 0; i < N_SHAPES; i++) {
            const size_t row = (size_t)(shapes[i].n_heads * shapes[i].head_dim);
            float *whole = fixture_alloc(150 * row * sizeof *whole);
            float *pieces = fixture_alloc(150 * row * sizeof *pieces);
            for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
                float *out = c == 0 ? whole : pieces;
                world w; /* the same numbers each time */
                world_make(&shapes[i], n_tokens, 1, &w);
                for (int t = 0; t < 150; t += chunks[c]) {
                    const int end = t + chunks[c] < 150 ? t + chunks[c] : 150;
                    append(be, &w, &w.sequence[0], t, end);
                    attend(be, &w, &w.sequence[0], t, end, out + (size_t)t * row);
                }
                if (c > 0) assert_same_bits(pieces, whole, 150 * row);
                world_free(&w);
            }
            free(pieces);
            free(whole);
        }
        sl_backend_close(be);
    }
}

static void attend_has_the_same_bits_alone_and_among_others(void **state) {
    (void)state;
    static const int n_tokens[MAX_SEQUENCES] = {40, 33, 130, 64, 257, 100};
    static const int first[MAX_SEQUENCES] = {39, 32, 0, 63, 200, 41};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            sl_backend *be = fixture_open(fixture_simd[v], n_threads);
            if (!be) continue;
            for (int i = 0; i < N_SHAPES; i++) {
                world w;
                world_make(&shapes[i], n_tokens, MAX_SEQUENCES, &w);
                batch b;
                batch_make(&w, first, &b);
                for (int s = 0; s < MAX_SEQUENCES; s++)
                    append(be, &w, &w.sequence[s], 0, n_tokens[s]);
                const size_t row = (size_t)(w.s.n_heads * w.s.head_dim);
                const size_t n_out = (size_t)b.rows.n_rows * row;
                float *among = fixture_alloc(n_out * sizeof *among);
                float *alone = fixture_alloc(n_out * sizeof *alone);
                batch_attend(be, &w, &b, among);
                for (int s = 0; s < MAX_SEQUENCES; s++)
                    attend(be, &w, &w.sequence[s], first[s], n_tokens[s],
                           alone + (size_t)b.segment[s].row0 * row);
                assert_same_bits(among, alone, n_out);
                free(alone);
                free(among);
                batch_free(&b);
                world_free(&w);
            }
            sl_backend_close(be);
        }
    }
}

/* The page that holds token `token` of a sequence, in a pool. */
static char *page_of(char *pool, const world *w, const sequence *seq, int token) {
    return pool + (size_t)seq->pages[token / SL_PAGE_TOKENS] * w->cache.format.page_bytes;
}

/* Every variant stores the bytes of sl_kv_put() and touches no other. */
static void kv_append_writes_each_token_where_its_page_says(void **state) {
    (void)state;
    static const int n_tokens[MAX_SEQUENCES] = {1, 33, 130, 64, 257, 100};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (int i = 0; i < N_SHAPES; i++) {
            world w;
            world_make(&shapes[i], n_tokens, MAX_SEQUENCES, &w);
            const sl_kv_format *f = &w.cache.format;
            const size_t pool_bytes = (size_t)(MAX_SEQUENCES * MAX_PAGES) * f->page_bytes;
            char *want = fixture_alloc(pool_bytes);
            memcpy(want, w.cache.base, pool_bytes);
            for (int s = 0; s < MAX_SEQUENCES; s++) {
                const sequence *seq = &w.sequence[s];
                seq->k[0] = 70000.0f; /* beyond f16: infinity, or clamped in a group */
                if (s == 1) seq->v[f->head_dim - 1] = NAN;
                if (s == 2) memset(seq->v, 0, (size_t)f->head_dim * sizeof *seq->v);
                append(be, &w, seq, 0, seq->n_tokens);
                for (int t = 0; t < seq->n_tokens; t++) {
                    for (int h = 0; h < f->n_kv_heads; h++) {
                        char *head = page_of(want, &w, seq, t) + (size_t)h * f->head_bytes;
                        const int from = (t * f->n_kv_heads + h) * f->head_dim;
                        sl_kv_put(f, head, t % SL_PAGE_TOKENS, seq->k + from);
                        sl_kv_put(f, head + f->half_bytes, t % SL_PAGE_TOKENS, seq->v + from);
                    }
                }
            }
            assert_memory_equal(w.cache.base, want, pool_bytes);
            free(want);
            world_free(&w);
        }
        sl_backend_close(be);
    }
}

static void page_copy_makes_an_equal_page_and_touches_no_other(void **state) {
    (void)state;
    static const int n_tokens[] = {300};
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    for (int i = 0; i < N_SHAPES; i++) {
        world w;
        world_make(&shapes[i], n_tokens, 1, &w);
        append(be, &w, &w.sequence[0], 0, 300);
        const size_t bytes = w.cache.format.page_bytes;
        char *base = w.cache.base;
        char *before = fixture_alloc(MAX_PAGES * bytes);
        memcpy(before, base, MAX_PAGES * bytes);
        assert_int_equal(be->ops->page_copy(be, &w.cache, 2, 7), SL_OK);
        assert_memory_equal(base + 7 * bytes, before + 2 * bytes, bytes);
        memcpy(before + 7 * bytes, before + 2 * bytes, bytes);
        assert_memory_equal(base, before, MAX_PAGES * bytes);
        assert_int_equal(be->ops->page_copy(be, &w.cache, -1, 7), SL_ERR_ARG);
        free(before);
        world_free(&w);
    }
    sl_backend_close(be);
}

static void attend_with_bad_arguments_names_them(void **state) {
    (void)state;
    static const int n_tokens[] = {64};
    world w;
    world_make(&shapes[0], n_tokens, 1, &w);
    sl_backend *be = fixture_open(SL_CPU_AUTO, 1);
    const sequence *seq = &w.sequence[0];
    append(be, &w, seq, 0, 64);
    float out[9 * 64];
    sl_segment segment;
    const sl_rows rows = rows_of(seq, 63, 64, &segment);
    const sl_backend_ops *ops = be->ops;
    assert_int_equal(ops->attend(be, out, seq->q, 576, 8, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "8 query heads over 3"));
    assert_int_equal(ops->attend(be, out, seq->q, 575, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, -1, &rows), SL_ERR_ARG);
    assert_int_equal(ops->attend(be, out, NULL, 576, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    segment.n_pages = 1;
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "1 pages do not hold"));
    segment.n_pages = 2;
    segment.row0 = 1;
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    segment.row0 = 0;
    w.cache.format.page_bytes--;
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    w.cache.format.page_bytes++;
    w.cache.format.dtype = SL_DTYPE_Q8_0; /* no format of pages */
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, 0, &rows), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "a cache of Q8_0"));
    w.cache.format.dtype = w.s.dtype;
    assert_int_equal(ops->attend(be, out, seq->q, 576, 9, &w.cache, 1.0f, 0, &rows), SL_OK);
    sl_backend_close(be);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_of_ragged_segments_agrees_with_the_reference),
        cmocka_unit_test(attend_has_the_same_bits_in_chunks_of_any_size),
        cmocka_unit_test(attend_has_the_same_bits_alone_and_among_others),
        cmocka_unit_test(kv_append_writes_each_token_where_its_page_says),
        cmocka_unit_test(page_copy_makes_an_equal_page_and_touches_no_other),
        cmocka_unit_test(attend_with_bad_arguments_names_them),
    };
    return cmocka_run_group_tests_name("cpu_attention", tests, NULL, NULL);
}
