/* The oracle itself: the reference backend against numbers worked out by hand. */
#include "cpu_fixture.h"

static sl_backend *be;

static int open_backend(void **state) {
    (void)state;
    be = fixture_reference();
    return 0;
}

static int close_backend(void **state) {
    (void)state;
    sl_backend_close(be);
    return 0;
}

/* A float32 matrix of one slab; `slab` outlives the result. */
static sl_weight matrix(const float *data, int rows, int cols, sl_slab *slab) {
    *slab = (sl_slab){.dtype = SL_DTYPE_F32,
                      .n_rows = rows,
                      .cols = cols,
                      .row_bytes = (size_t)cols * sizeof *data,
                      .data = data};
    return (sl_weight){.rows = rows, .cols = cols, .n_slabs = 1, .slabs = slab};
}

static void backend_says_what_it_is(void **state) {
    (void)state;
    assert_string_equal(be->ops->name, "cpu");
    assert_int_equal(be->ops->act_bytes, sizeof(float));
    assert_string_equal(sl_cpu_backend_simd(be), "c");
    assert_int_equal(sl_cpu_backend_threads(be), 1);
    assert_int_equal(be->ops->sync(be), SL_OK);
}

static void open_with_bad_options_is_an_argument_error(void **state) {
    (void)state;
    sl_backend *const untouched = be;
    sl_backend *out = untouched;
    const sl_cpu_options negative = {.n_threads = -1};
    const sl_cpu_options unknown = {.simd = (sl_cpu_simd)99};
    assert_int_equal(sl_cpu_backend_open(&negative, &out), SL_ERR_ARG);
    assert_int_equal(sl_cpu_backend_open(&unknown, &out), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "99"));
    assert_int_equal(sl_cpu_backend_open(NULL, &out), SL_ERR_ARG);
    assert_ptr_equal(out, untouched);
    sl_backend_close(NULL);
}

static void open_takes_no_more_threads_than_processors(void **state) {
    (void)state;
    const sl_cpu_options automatic = {0}, many = {.n_threads = 100000}, one = {.n_threads = 1};
    sl_backend *a, *m, *o;
    assert_int_equal(sl_cpu_backend_open(&automatic, &a), SL_OK);
    assert_int_equal(sl_cpu_backend_open(&many, &m), SL_OK);
    assert_int_equal(sl_cpu_backend_open(&one, &o), SL_OK);
    assert_true(sl_cpu_backend_threads(a) >= 1);
    assert_int_equal(sl_cpu_backend_threads(m), sl_cpu_backend_threads(a));
    assert_int_equal(sl_cpu_backend_threads(o), 1);
    sl_backend_close(o);
    sl_backend_close(m);
    sl_backend_close(a);
}

static void embed_and_positions_add_table_rows(void **state) {
    (void)state;
    static const float table[] = {1, 2, 3, 4, 5, 6}, positions[] = {10, 20, 30, 40};
    static const int32_t token[] = {2, 0, 2}, position[] = {0, 1, 0};
    sl_slab token_slab, position_slab;
    const sl_weight tokens = matrix(table, 3, 2, &token_slab);
    const sl_weight places = matrix(positions, 2, 2, &position_slab);
    sl_rows rows = {.n_rows = 3, .token = token, .position = position};
    float y[6];
    assert_int_equal(be->ops->embed(be, y, &tokens, &rows), SL_OK);
    assert_same_bits(y, (const float[]){5, 6, 1, 2, 5, 6}, 6);
    assert_int_equal(be->ops->add_positions(be, y, &places, 0, &rows), SL_OK);
    assert_same_bits(y, (const float[]){15, 26, 31, 42, 15, 26}, 6);
    rows.n_rows = 1;
    assert_int_equal(be->ops->add_positions(be, y, &places, 1, &rows), SL_OK);
    assert_same_bits(y, (const float[]){45, 66}, 2);

    rows.n_rows = 2; /* position 1 + offset 1 is behind the table */
    assert_int_equal(be->ops->add_positions(be, y, &places, 1, &rows), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "row 1 asks for 2 of a table of 2"));
    rows.token = (const int32_t[]){0, 3};
    assert_int_equal(be->ops->embed(be, y, &tokens, &rows), SL_ERR_ARG);
    rows.token = (const int32_t[]){0, -1};
    assert_int_equal(be->ops->embed(be, y, &tokens, &rows), SL_ERR_ARG);
}

static void norm_of_a_row_has_mean_zero_and_variance_one(void **state) {
    (void)state;
    static const float x[] = {1, 2, 3, 4}; /* mean 2.5, variance 1.25, mean square 7.5 */
    static const float gain[] = {1, 2, 1, 1}, bias[] = {0, 0, 0, 7};
    float y[4];
    assert_int_equal(be->ops->norm(be, y, x, NULL, NULL, SL_NORM_LAYER, 0.0f, 1, 4), SL_OK);
    const float s = 1.0f / sqrtf(1.25f);
    assert_close(y, (const float[]){-1.5f * s, -0.5f * s, 0.5f * s, 1.5f * s}, 4, 1e-6, 0);
    assert_int_equal(be->ops->norm(be, y, x, gain, bias, SL_NORM_RMS, 1.0f, 1, 4), SL_OK);
    const float t = 1.0f / sqrtf(8.5f);
    assert_close(y, (const float[]){t, 4 * t, 3 * t, 4 * t + 7}, 4, 1e-6, 0);
    assert_int_equal(be->ops->norm(be, y, x, NULL, NULL, SL_NORM_RMS, NAN, 1, 4), SL_ERR_ARG);
    assert_int_equal(be->ops->norm(be, y, NULL, NULL, NULL, SL_NORM_RMS, 0, 1, 4), SL_ERR_ARG);
}

static void linear_multiplies_by_the_transposed_matrix(void **state) {
    (void)state;
    static const float w[] = {1, 2, 3, 4, 5, 6}; /* [2, 3] */
    static const float x[] = {1, 0, -1, 2, 1, 0}, bias[] = {100, 200};
    sl_slab slab;
    const sl_weight weight = matrix(w, 2, 3, &slab);
    float y[] = {0, 0, -7, 0, 0, -7}; /* rows of 3, the last column not ours */
    assert_int_equal(be->ops->linear(be, y, 3, x, &weight, NULL, 2, 0), SL_OK);
    assert_same_bits(y, (const float[]){-2, -2, -7, 4, 13, -7}, 6);
    assert_int_equal(be->ops->linear(be, y, 3, x, &weight, bias, 2, 1), SL_OK);
    assert_same_bits(y, (const float[]){96, 196, -7, 108, 226, -7}, 6);
}

static void rope_turns_each_pair_by_its_angle(void **state) {
    (void)state;
    static const float freq[] = {1.0f, 0.25f};
    static const int32_t position[] = {0, 3};
    const sl_rows rows = {.n_rows = 2, .position = position};
    /* Two heads of 4 and a column that is no head; pairs are (0, 2) and (1, 3). */
    float x[] = {1, 2, 3, 4, 5, 6, 7, 8, -1, 1, 1, 0, 0, 0, 0, 1, 2, -1};
    assert_int_equal(be->ops->rope(be, x, 9, 2, 4, freq, &rows), SL_OK);
    const float c3 = cosf(3.0f), s3 = sinf(3.0f), c = cosf(0.75f), s = sinf(0.75f);
    const float want[] = {1, 2, 3, 4, 5, 6, 7, 8, -1, c3, c, s3, s, -s3, -2 * s, c3, 2 * c, -1};
    assert_close(x, want, 18, 1e-6, 0);
    assert_int_equal(be->ops->rope(be, x, 7, 2, 4, freq, &rows), SL_ERR_ARG);
    assert_int_equal(be->ops->rope(be, x, 9, 2, 3, freq, &rows), SL_ERR_ARG);
    assert_int_equal(be->ops->rope(be, x, 9, 2, 4, NULL, &rows), SL_ERR_ARG);
}

/* One kv head of 2 for two query heads, three tokens over two pages that lie in reverse order.
 * Keys differ by what makes the softmax weights simple fractions. */
static void attend_weighs_values_by_softmax(void **state) {
    (void)state;
    enum { TOKENS = SL_PAGE_TOKENS + 2 };
    const sl_kv_format format = sl_kv_format_make(SL_DTYPE_F32, 1, 2);
    float *base = fixture_alloc(2 * format.page_bytes);
    const sl_kv_view cache = {.format = format, .base = base};
    float k[TOKENS][2] = {{0}}, v[TOKENS][2] = {{0}}, q[TOKENS][4] = {{0}}, out[TOKENS][4];
    for (int t = 0; t < TOKENS; t++) {
        v[t][0] = (float)t;
        v[t][1] = 1.0f;
        k[t][0] = -100.0f; /* of no weight beside the last two */
        q[t][0] = 1.0f;
        q[t][2] = 2.0f;
    }
    k[TOKENS - 2][0] = 0.0f;
    k[TOKENS - 1][0] = logf(3.0f); /* head 0: weights 1/4 and 3/4; head 1: 1/10 and 9/10 */
    static const int32_t pages[] = {1, 0};
    const sl_segment segment = {.n_rows = TOKENS, .n_pages = 2, .pages = pages};
    const sl_rows rows = {.n_rows = TOKENS, .n_segments = 1, .segment = &segment};
    assert_int_equal(be->ops->kv_append(be, &cache, k, v, 2, &rows), SL_OK);
    assert_int_equal(be->ops->attend(be, out, q, 4, 2, &cache, 1.0f, 0, &rows), SL_OK);
    const float last = TOKENS - 1;
    assert_close(out[TOKENS - 1], (const float[]){last - 0.25f, 1, last - 0.1f, 1}, 4, 1e-5, 0);
    assert_close(out[0], (const float[]){0, 1, 0, 1}, 4, 1e-6, 0);
    assert_close(out[4], (const float[]){2, 1, 2, 1}, 4, 1e-6, 0); /* equal keys: the mean */
    /* A window of 2 at token 4 leaves tokens 3 and 4; of 1, the token itself. */
    assert_int_equal(be->ops->attend(be, out, q, 4, 2, &cache, 1.0f, 2, &rows), SL_OK);
    assert_close(out[4], (const float[]){3.5f, 1, 3.5f, 1}, 4, 1e-6, 0);
    assert_int_equal(be->ops->attend(be, out, q, 4, 2, &cache, 1.0f, 1, &rows), SL_OK);
    for (int t = 0; t < TOKENS; t++) assert_true(out[t][0] == (float)t);
    free(base);
}

static void activate_takes_the_published_values(void **state) {
    (void)state;
    static const float g[] = {1, -2}, u[] = {2, 3};
    float y[2];
    const sl_backend_ops *ops = be->ops;
    assert_int_equal(ops->activate(be, y, g, u, 2, SL_ACT_RELU, 1, 2), SL_OK);
    assert_close(y, (const float[]){2, 0}, 2, 0, 0);
    assert_int_equal(ops->activate(be, y, g, NULL, 2, SL_ACT_GELU, 1, 2), SL_OK);
    assert_close(y, (const float[]){0.8413447f, -0.0455003f}, 2, 1e-6, 0);
    assert_int_equal(ops->activate(be, y, g, NULL, 2, SL_ACT_GELU_TANH, 1, 2), SL_OK);
    assert_close(y, (const float[]){0.8411920f, -0.0454023f}, 2, 1e-6, 0);
    assert_int_equal(ops->activate(be, y, g, u, 2, SL_ACT_SILU, 1, 2), SL_OK);
    assert_close(y, (const float[]){1.4621172f, -0.7152175f}, 2, 1e-6, 0);
    assert_int_equal(ops->activate(be, y, g, u, 2, (sl_activation)9, 1, 2), SL_ERR_ARG);
    assert_int_equal(ops->activate(be, y, g, u, 1, SL_ACT_SILU, 1, 2), SL_ERR_ARG);
}

static void add_and_gather_move_whole_rows(void **state) {
    (void)state;
    float y[] = {1, 2, 3, 4};
    static const float x[] = {10, 20, 30, 40};
    assert_int_equal(be->ops->add(be, y, x, 2, 2), SL_OK);
    assert_same_bits(y, (const float[]){11, 22, 33, 44}, 4);
    static const int32_t index[] = {1, 0, 1};
    float z[6];
    assert_int_equal(be->ops->gather(be, z, y, index, 3, 2), SL_OK);
    assert_same_bits(z, (const float[]){33, 44, 11, 22, 33, 44}, 6);
    assert_int_equal(be->ops->gather(be, z, y, (const int32_t[]){-1}, 1, 2), SL_ERR_ARG);
    assert_int_equal(be->ops->gather(be, NULL, NULL, NULL, 0, 2), SL_OK);
    assert_int_equal(be->ops->add(be, y, NULL, 1, 2), SL_ERR_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backend_says_what_it_is),
        cmocka_unit_test(open_with_bad_options_is_an_argument_error),
        cmocka_unit_test(open_takes_no_more_threads_than_processors),
        cmocka_unit_test(embed_and_positions_add_table_rows),
        cmocka_unit_test(norm_of_a_row_has_mean_zero_and_variance_one),
        cmocka_unit_test(linear_multiplies_by_the_transposed_matrix),
        cmocka_unit_test(rope_turns_each_pair_by_its_angle),
        cmocka_unit_test(attend_weighs_values_by_softmax),
        cmocka_unit_test(activate_takes_the_published_values),
        cmocka_unit_test(add_and_gather_move_whole_rows),
    };
    return cmocka_run_group_tests_name("cpu_reference", tests, open_backend, close_backend);
}
