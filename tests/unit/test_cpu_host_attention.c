/* Decode attention over host pages: against double precision over what the pages say, the bytes
 * that it appends, and the same bits for a row in every job and on any number of threads. */
#include "host_attention_fixture.h"

enum { N_RANDOM = 5 };

static const sl_dtype formats[] = {SL_DTYPE_F32, SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
static const sl_dtype acts[] = {SL_DTYPE_F32, SL_DTYPE_F16};

/* Groups of 1, 2, 3, 4, 7 and 8; sizes that fill vectors, end within one, and are odd. */
static const shape heads[] = {
    {.n_heads = 3, .n_kv_heads = 3, .head_dim = 128},
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 64},
    {.n_heads = 9, .n_kv_heads = 3, .head_dim = 64},
    {.n_heads = 8, .n_kv_heads = 2, .head_dim = 80},
    {.n_heads = 8, .n_kv_heads = 1, .head_dim = 128},
    {.n_heads = 5, .n_kv_heads = 5, .head_dim = 16},
    {.n_heads = 7, .n_kv_heads = 1, .head_dim = 96},
    {.n_heads = 4, .n_kv_heads = 4, .head_dim = 112},
    {.n_heads = 2, .n_kv_heads = 1, .head_dim = 33},
    {.n_heads = 6, .n_kv_heads = 2, .head_dim = 7},
    {.n_heads = 1, .n_kv_heads = 1, .head_dim = 512},
};
enum { N_HEADS = sizeof heads / sizeof heads[0] };

/* Lengths at the edges of pages and N_RANDOM others. */
static int ragged(sl_rng *rng, int n_tokens[MAX_ROWS]) {
    static const int edges[] = {1, 32, 33};
    int n = 0;
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) n_tokens[n++] = edges[i];
    for (int i = 0; i < N_RANDOM; i++)
        n_tokens[n++] = 1 + (int)sl_rng_below(rng, i == 0 ? 700 : 200);
    return n;
}

/* Every shape in every format, activations, instruction set; `of` gives window and sparsity. */
static void check_all(shape of, uint64_t key) {
    sl_rng rng = {.key = key};
    int n_tokens[MAX_ROWS];
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_host_attention *ha = host_open(fixture_simd[v], 2);
        if (!ha) continue;
        for (int i = 0; i < N_HEADS * 4 * 2; i++) {
            shape s = heads[i % N_HEADS];
            s.dtype = formats[i / N_HEADS % 4];
            s.act = acts[i / N_HEADS / 4];
            s.window = of.window;
            s.sparsity = of.sparsity;
            world w;
            const int n_rows = ragged(&rng, n_tokens);
            world_make(&s, n_tokens, n_rows, key + (uint64_t)i, &w);
            world_run(ha, &w);
            world_check(&w);
            world_free(&w);
        }
        sl_host_attention_close(ha);
    }
}

static void attention_over_ragged_rows_agrees_with_double_precision(void **state) {
    (void)state;
    check_all((shape){0}, 1000);
}

static void attention_within_a_window_agrees_with_double_precision(void **state) {
    (void)state;
    check_all((shape){.window = 45}, 2000);
}

static void sparse_attention_uses_the_largest_weights_values(void **state) {
    (void)state;
    check_all((shape){.sparsity = 0.1f}, 3000);
    check_all((shape){.sparsity = 0.5f, .window = 77}, 4000);
}

static void sparse_attention_of_everything_is_dense(void **state) {
    (void)state;
    check_all((shape){.sparsity = 1.0f}, 5000);
}

/* All keys are equal: the lowest positions and the newest token are used, and of the others nothing
 * is: their values are NaN. */
static void sparse_attention_of_equal_weights_takes_the_lowest_positions(void **state) {
    (void)state;
    static const int n_tokens[] = {100};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_host_attention *ha = host_open(fixture_simd[v], 1);
        if (!ha) continue;
        for (int i = 0; i < 4; i++) {
            const shape s = {.dtype = formats[i],
                             .act = SL_DTYPE_F32,
                             .n_heads = 2,
                             .n_kv_heads = 1,
                             .head_dim = 64,
                             .sparsity = 0.4f};
            world w;
            world_make(&s, n_tokens, 1, 6000, &w);
            float nan[64];
            for (int d = 0; d < 64; d++) nan[d] = NAN;
            for (int t = 0; t < 99; t++) {
                char *keys = keys_at(&w, &w.row[0], 0, t);
                sl_kv_put(&w.job.format, keys, t % SL_PAGE_TOKENS, w.k);
                if (t >= 39)
                    sl_kv_put(&w.job.format, keys + w.job.format.half_bytes, t % SL_PAGE_TOKENS,
                              nan);
            }
            world_run(ha, &w);
            for (int h = 0; h < 2; h++) {
                float want[64] = {0}, x[64];
                for (int t = 0; t < 100; t = t == 38 ? 99 : t + 1) {
                    sl_kv_get(&w.job.format, keys_at(&w, &w.row[0], 0, t) + w.job.format.half_bytes,
                              t % SL_PAGE_TOKENS, x);
                    for (int d = 0; d < 64; d++) want[d] += x[d] / 100.0f;
                }
                assert_close(w.got + h * 64, want, 64, 1e-5, 1e-5);
            }
            world_free(&w);
        }
        sl_host_attention_close(ha);
    }
}

/* The bytes of sl_kv_put(), and no other byte of any page changes. */
static void attention_appends_what_kv_put_would(void **state) {
    (void)state;
    sl_rng rng = {.key = 7000};
    int n_tokens[MAX_ROWS];
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_host_attention *ha = host_open(fixture_simd[v], 2);
        if (!ha) continue;
        for (int i = 0; i < N_HEADS * 4 * 2; i++) {
            shape s = heads[i % N_HEADS];
            s.dtype = formats[i / N_HEADS % 4];
            s.act = acts[i / N_HEADS / 4];
            world w;
            const int n_rows = ragged(&rng, n_tokens);
            world_make(&s, n_tokens, n_rows, 7000 + (uint64_t)i, &w);
            if (s.act == SL_DTYPE_F32) { /* beyond f16, not a number, and all alike */
                float *k = (float *)(uintptr_t)w.job.k, *value = (float *)(uintptr_t)w.job.v;
                const uint32_t odd_nan = 0xffc12345;
                k[0] = w.k[0] = 70000.0f;
                memcpy(&value[s.head_dim - 1], &odd_nan, sizeof odd_nan);
                memcpy(&w.v[s.head_dim - 1], &odd_nan, sizeof odd_nan);
                for (int d = 0; d < s.head_dim; d++)
                    value[w.job.ldkv + d] = w.v[w.job.ldkv + d] = 0.25f;
            } else {
                sl_f16 *value = (sl_f16 *)(uintptr_t)w.job.v;
                value[0] = 0xfe55;
                w.v[0] = sl_f16_to_f32(value[0]);
            }
            char *want = fixture_alloc(w.pool_bytes);
            memcpy(want, w.pool, w.pool_bytes);
            const sl_kv_format *f = &w.job.format;
            for (int r = 0; r < n_rows; r++) {
                for (int h = 0; h < s.n_kv_heads; h++) {
                    const int last = n_tokens[r] - 1, from = r * w.job.ldkv + h * s.head_dim;
                    char *at = want + (keys_at(&w, &w.row[r], h, last) - w.pool);
                    sl_kv_put(f, at, last % SL_PAGE_TOKENS, w.k + from);
                    sl_kv_put(f, at + f->half_bytes, last % SL_PAGE_TOKENS, w.v + from);
                }
            }
            world_run(ha, &w);
            assert_memory_equal(w.pool, want, w.pool_bytes);
            free(want);
            world_free(&w);
        }
        sl_host_attention_close(ha);
    }
}

static void a_row_has_the_same_bits_alone_and_on_any_number_of_threads(void **state) {
    (void)state;
    static const int n_tokens[] = {130, 1, 257, 64, 40};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_host_attention *one = host_open(fixture_simd[v], 1);
        sl_host_attention *two = host_open(fixture_simd[v], 2);
        if (!one || !two) continue;
        for (int i = 0; i < 3 * 4 * N_HEADS; i++) {
            shape s = heads[i % N_HEADS];
            s.dtype = formats[i / N_HEADS % 4];
            s.act = SL_DTYPE_F32;
            s.sparsity = i / N_HEADS / 4 == 1 ? 0.2f : 0.0f;
            s.window = i / N_HEADS / 4 == 2 ? 50 : 0;
            world w;
            world_make(&s, n_tokens, 5, 8000, &w);
            world_run(one, &w);
            float *want = fixture_alloc(w.n_out * sizeof *want);
            memcpy(want, w.got, w.n_out * sizeof *want);
            world_run(two, &w); /* appends the same token again */
            assert_same_bits(w.got, want, w.n_out);
            const sl_host_job all = w.job;
            const size_t cols = (size_t)(s.n_heads * s.head_dim);
            for (int r = 0; r < 5; r++) {
                const size_t row = (size_t)r;
                w.job.n_rows = 1;
                w.job.row = all.row + r;
                w.job.q = (const float *)all.q + row * (size_t)all.ldq;
                w.job.k = (const float *)all.k + row * (size_t)all.ldkv;
                w.job.v = (const float *)all.v + row * (size_t)all.ldkv;
                world_run(r % 2 ? one : two, &w);
                assert_same_bits(w.got, want + row * cols, cols);
            }
            w.job = all;
            free(want);
            world_free(&w);
        }
        sl_host_attention_close(one);
        sl_host_attention_close(two);
    }
}

static void many_jobs_are_under_way_and_end_in_order(void **state) {
    (void)state;
    enum { N_JOBS = SL_HOST_JOBS, N_KEPT = 3 };
    static const int n_tokens[] = {600, 1, 333, 64, 200};
    const shape s = {.dtype = SL_DTYPE_Q4G64,
                     .act = SL_DTYPE_F16,
                     .n_heads = 8,
                     .n_kv_heads = 4,
                     .head_dim = 64};
    sl_host_attention *ha = host_open(SL_CPU_AUTO, 2);
    world w[N_KEPT];
    uint64_t ticket[N_JOBS];
    for (int i = 0; i < N_KEPT; i++) world_make(&s, n_tokens, 5, 9000 + (uint64_t)i, &w[i]);
    for (int i = 0; i < N_JOBS; i++)
        assert_int_equal(ha->ops->start(ha, &w[i % N_KEPT].job, &ticket[i]), SL_OK);
    /* Of jobs that end in order, one that is not done has none after it that is. */
    int was_done = 1;
    for (int i = N_JOBS - 1; i >= 0; i--) {
        int done;
        assert_int_equal(ha->ops->is_done(ha, ticket[i], &done, NULL, NULL), SL_OK);
        if (i < N_JOBS - 1 && was_done) assert_true(done);
        was_done = done;
    }
    double end_before = 0.0;
    for (int i = 0; i < N_JOBS; i++) {
        double start_s, end_s;
        int done;
        assert_int_equal(host_wait(ha, ticket[i]), SL_OK);
        assert_int_equal(ha->ops->is_done(ha, ticket[i], &done, &start_s, &end_s), SL_OK);
        assert_true(done && start_s >= end_before && end_s >= start_s);
        end_before = end_s;
    }
    for (int i = 0; i < N_KEPT; i++) {
        world_fetch(&w[i]);
        world_check(&w[i]);
    }
    sl_host_stats stats;
    ha->ops->get_stats(ha, &stats);
    const uint64_t token_bytes = 2 * 4 * (32 + 4); /* keys and values, heads, codes and a pair */
    assert_int_equal(stats.page_bytes_read,
                     (uint64_t)N_JOBS * (600 + 1 + 333 + 64 + 200) * token_bytes);
    assert_true(stats.busy_s > 0.0);

    /* The oldest ticket is forgotten once another job is started, and so many jobs need to be
     * started at once that one is too many. */
    uint64_t next;
    int done;
    assert_int_equal(ha->ops->start(ha, &w[0].job, &next), SL_OK);
    assert_int_equal(ha->ops->is_done(ha, ticket[0], &done, NULL, NULL), SL_ERR_ARG);
    assert_int_equal(ha->ops->is_done(ha, next + 1, &done, NULL, NULL), SL_ERR_ARG);
    assert_int_equal(ha->ops->is_done(ha, 0, &done, NULL, NULL), SL_ERR_ARG);
    sl_status st = SL_OK;
    for (int i = 0; i < 100000 && st == SL_OK; i++) st = ha->ops->start(ha, &w[0].job, &next);
    assert_int_equal(st, SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "64 jobs"));
    sl_host_attention_close(ha); /* waits for them */
    for (int i = 0; i < N_KEPT; i++) world_free(&w[i]);
}

static void a_failed_job_keeps_its_message_and_the_next_one_runs(void **state) {
    (void)state;
    static const int n_tokens[] = {100, 70};
    const shape s = {
        .dtype = SL_DTYPE_F16, .act = SL_DTYPE_F32, .n_heads = 2, .n_kv_heads = 2, .head_dim = 64};
    sl_host_attention *ha = host_open(SL_CPU_AUTO, 2);
    world w;
    world_make(&s, n_tokens, 2, 10000, &w);
    void *page[3] = {w.row[1].page[0], NULL, w.row[1].page[2]};
    sl_host_row broken[2] = {w.row[0], {.n_tokens = 70, .page = page}};
    sl_host_job job = w.job;
    job.row = broken;
    uint64_t first, second;
    assert_int_equal(ha->ops->start(ha, &job, &first), SL_OK);
    assert_int_equal(ha->ops->start(ha, &w.job, &second), SL_OK);
    assert_int_equal(host_wait(ha, second), SL_OK);
    for (int i = 0; i < 2; i++) { /* as often as one asks */
        (void)SL_FAIL(SL_ERR_IO, "something else");
        assert_int_equal(host_wait(ha, first), SL_ERR_ARG);
        assert_non_null(strstr(sl_error_message(), "page 1 of row 1 of 2"));
    }
    world_fetch(&w);
    world_check(&w);
    page[1] = (char *)w.row[1].page[1] + 2;
    assert_int_equal(ha->ops->start(ha, &job, &first), SL_OK);
    assert_int_equal(host_wait(ha, first), SL_ERR_ARG);
    page[0] = page[1] = NULL; /* a window of 6 does not reach them */
    job.window = 6;
    assert_int_equal(ha->ops->start(ha, &job, &first), SL_OK);
    assert_int_equal(host_wait(ha, first), SL_OK);
    sl_host_attention_close(ha);
    world_free(&w);
}

static sl_host_attention *refusing;

/* The job with one thing changed is refused with a message that has `text`. */
static void assert_refused(const sl_host_job *job, const char *text) {
    uint64_t ticket = 77;
    assert_int_equal(refusing->ops->start(refusing, job, &ticket), SL_ERR_ARG);
    if (!strstr(sl_error_message(), text)) fail_msg("%s: no \"%s\"", sl_error_message(), text);
    assert_int_equal(ticket, 77);
}

#define ASSERT_REFUSED(text, change)                                                               \
    do {                                                                                           \
        sl_host_job job = w.job;                                                                   \
        sl_host_row row = w.row[0];                                                                \
        job.row = &row;                                                                            \
        change;                                                                                    \
        assert_refused(&job, text);                                                                \
    } while (0)

static void start_with_bad_arguments_names_them(void **state) {
    (void)state;
    static const int n_tokens[] = {40};
    const shape s = {.dtype = SL_DTYPE_Q8G64,
                     .act = SL_DTYPE_F32,
                     .n_heads = 6,
                     .n_kv_heads = 3,
                     .head_dim = 64};
    refusing = host_open(SL_CPU_AUTO, 1);
    world w;
    world_make(&s, n_tokens, 1, 11000, &w);
    ASSERT_REFUSED("7 query heads over 3", job.n_heads = 7);
    ASSERT_REFUSED("0 query heads", job.n_heads = 0);
    ASSERT_REFUSED("6 heads of 64 in rows of 383", job.ldq = 383);
    ASSERT_REFUSED("results in 383", job.ldo = 383);
    ASSERT_REFUSED("3 key heads of 64 in rows of 191", job.ldkv = 191);
    ASSERT_REFUSED("activations in BF16", job.act = SL_DTYPE_BF16);
    ASSERT_REFUSED("pages of Q8_0", job.format.dtype = SL_DTYPE_Q8_0);
    ASSERT_REFUSED("heads of 513", job.format.head_dim = 513);
    ASSERT_REFUSED("expected", job.format.page_bytes--);
    ASSERT_REFUSED("times 0", job.scale = 0.0f);
    ASSERT_REFUSED("times nan", job.scale = NAN);
    ASSERT_REFUSED("window of -1", job.window = -1);
    ASSERT_REFUSED("sparsity 1.5", job.sparsity = 1.5f);
    ASSERT_REFUSED("sparsity nan", job.sparsity = NAN);
    ASSERT_REFUSED("-2 rows", job.n_rows = -2);
    ASSERT_REFUSED("1 rows, of which something is null", job.k = NULL);
    ASSERT_REFUSED("row 0 has 0 tokens", row.n_tokens = 0);
    ASSERT_REFUSED("row 0 has 40 tokens", row.page = NULL);
    uint64_t ticket;
    assert_int_equal(refusing->ops->start(refusing, NULL, &ticket), SL_ERR_ARG);
    sl_host_job none = w.job;
    none.n_rows = 0;
    none.row = NULL;
    assert_int_equal(refusing->ops->start(refusing, &none, &ticket), SL_OK);
    assert_int_equal(host_wait(refusing, ticket), SL_OK);
    sl_host_attention_close(refusing);
    world_free(&w);
}

static void open_with_bad_options_names_them(void **state) {
    (void)state;
    sl_host_attention *ha = NULL;
    sl_cpu_host_options options = {.n_threads = -1};
    assert_int_equal(sl_cpu_host_attention_open(&options, &ha), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "-1 threads"));
    options = (sl_cpu_host_options){.simd = (sl_cpu_simd)9};
    assert_int_equal(sl_cpu_host_attention_open(&options, &ha), SL_ERR_ARG);
    assert_int_equal(sl_cpu_host_attention_open(NULL, &ha), SL_ERR_ARG);
    assert_null(ha);
    sl_host_attention_close(NULL);
    options = (sl_cpu_host_options){.n_threads = 1};
    assert_int_equal(sl_cpu_host_attention_open(&options, &ha), SL_OK);
    assert_int_equal(sl_cpu_host_attention_threads(ha), 1);
    print_message("kernels: %s\n", sl_cpu_host_attention_simd(ha));
    sl_host_attention_close(ha); /* no job has been started */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_over_ragged_rows_agrees_with_double_precision),
        cmocka_unit_test(attention_within_a_window_agrees_with_double_precision),
        cmocka_unit_test(sparse_attention_uses_the_largest_weights_values),
        cmocka_unit_test(sparse_attention_of_everything_is_dense),
        cmocka_unit_test(sparse_attention_of_equal_weights_takes_the_lowest_positions),
        cmocka_unit_test(attention_appends_what_kv_put_would),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_on_any_number_of_threads),
        cmocka_unit_test(many_jobs_are_under_way_and_end_in_order),
        cmocka_unit_test(a_failed_job_keeps_its_message_and_the_next_one_runs),
        cmocka_unit_test(start_with_bad_arguments_names_them),
        cmocka_unit_test(open_with_bad_options_names_them),
    };
    return cmocka_run_group_tests_name("cpu_host_attention", tests, NULL, NULL);
}
