/* The matrix product of the CPU backend: every stored format against the reference, and the same
 * bits for a row in every company. */
#include "cpu_fixture.h"

enum { MAX_ROWS = 70 };

typedef struct {
    sl_dtype dtype;
    int rows, cols, n_slabs;
} shape;

/* y = x W^T (+ y) (+ bias) by `be`, y starting as `before`. */
static void product(sl_backend *be, float *y, int ldy, const float *before, const float *x,
                    const sl_weight *w, const float *bias, int n_rows, int accumulate) {
    memcpy(y, before, (size_t)n_rows * (size_t)ldy * sizeof *y);
    assert_int_equal(be->ops->linear(be, y, ldy, x, w, bias, n_rows, accumulate), SL_OK);
}

static void compare_with_reference(sl_backend *be, sl_backend *reference, const shape *s,
                                   int n_rows) {
    sl_rng rng = {.key = (uint64_t)s->dtype * 1000 + (uint64_t)s->cols};
    fixture_matrix m;
    fixture_matrix_make(&rng, s->dtype, s->rows, s->cols, s->n_slabs, &m);
    const int ldy = s->rows + 3;
    const size_t n_out = (size_t)n_rows * (size_t)ldy;
    float *x = fixture_floats(&rng, (size_t)n_rows * (size_t)s->cols);
    float *before = fixture_floats(&rng, n_out);
    float *bias = fixture_floats(&rng, (size_t)s->rows);
    float *got = fixture_alloc(n_out * sizeof *got);
    float *want = fixture_alloc(n_out * sizeof *want);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            const float *b = with_bias ? bias : NULL;
            product(be, got, ldy, before, x, &m.weight, b, n_rows, accumulate);
            product(reference, want, ldy, before, x, &m.weight, b, n_rows, accumulate);
            /* Sums of up to 1024 products below 1 in float32: partial sums of some 20, rounded to
             * 2^-20 each, errors adding up as a random walk. */
            assert_close(got, want, n_out, 1e-4, 1e-5);
            for (int r = 0; r < n_rows; r++) /* the gap between rows is left alone */
                assert_same_bits(got + r * ldy + s->rows, before + r * ldy + s->rows, 3);
        }
    }
    free(want);
    free(got);
    free(bias);
    free(before);
    free(x);
    fixture_matrix_free(&m);
}

static void linear_of_every_dtype_agrees_with_the_reference(void **state) {
    (void)state;
    sl_backend *reference = fixture_reference();
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (int dtype = 0; dtype < SL_DTYPE_COUNT; dtype++) {
            for (int n_slabs = 1; n_slabs <= 3; n_slabs += 2) {
                const shape s = {(sl_dtype)dtype, 70, 768, n_slabs};
                compare_with_reference(be, reference, &s, 1);
                compare_with_reference(be, reference, &s, 17);
            }
        }
        sl_backend_close(be);
    }
    sl_backend_close(reference);
}

/* Column counts that end within a panel, within a vector, and within four elements. */
static void linear_of_odd_shapes_agrees_with_the_reference(void **state) {
    (void)state;
    static const shape shapes[] = {
        {SL_DTYPE_F32, 1, 1, 1},      {SL_DTYPE_F32, 31, 37, 1},   {SL_DTYPE_F32, 65, 259, 2},
        {SL_DTYPE_F16, 33, 7, 1},     {SL_DTYPE_F16, 40, 273, 3},  {SL_DTYPE_F16, 16, 1023, 1},
        {SL_DTYPE_BF16, 17, 45, 1},   {SL_DTYPE_BF16, 50, 300, 2}, {SL_DTYPE_Q4_0, 31, 32, 1},
        {SL_DTYPE_Q4_1, 15, 288, 1},  {SL_DTYPE_Q4_1, 97, 576, 2}, {SL_DTYPE_Q8_0, 47, 64, 2},
        {SL_DTYPE_Q8_0, 9, 352, 1},   {SL_DTYPE_Q5_0, 33, 96, 1},  {SL_DTYPE_Q6_K, 34, 512, 1},
        {SL_DTYPE_Q8G64, 1, 1, 1},    {SL_DTYPE_Q8G64, 33, 79, 2}, {SL_DTYPE_Q8G64, 47, 259, 3},
        {SL_DTYPE_Q8G64, 70, 64, 1},  {SL_DTYPE_Q4G64, 1, 1, 1},   {SL_DTYPE_Q4G64, 33, 79, 2},
        {SL_DTYPE_Q4G64, 47, 259, 3}, {SL_DTYPE_Q4G64, 31, 96, 1}, {SL_DTYPE_Q4G64, 15, 511, 2},
    };
    sl_backend *reference = fixture_reference();
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            for (int n_rows = 1; n_rows <= 45; n_rows += 11)
                compare_with_reference(be, reference, &shapes[i], n_rows);
        sl_backend_close(be);
    }
    sl_backend_close(reference);
}

static void check_invariance(sl_backend *be, const shape *s) {
    sl_rng rng = {.key = 77 + (uint64_t)s->cols};
    fixture_matrix m;
    fixture_matrix_make(&rng, s->dtype, s->rows, s->cols, s->n_slabs, &m);
    const size_t n_out = (size_t)MAX_ROWS * (size_t)s->rows;
    float *x = fixture_floats(&rng, (size_t)MAX_ROWS * (size_t)s->cols);
    float *before = fixture_floats(&rng, n_out);
    float *bias = fixture_floats(&rng, (size_t)s->rows);
    float *alone = fixture_alloc(n_out * sizeof *alone);
    float *among = fixture_alloc(n_out * sizeof *among);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        for (int r = 0; r < MAX_ROWS; r++)
            product(be, alone + (size_t)r * (size_t)s->rows, s->rows,
                    before + (size_t)r * (size_t)s->rows, x + (size_t)r * (size_t)s->cols,
                    &m.weight, bias, 1, accumulate);
        for (int n_rows = 2; n_rows <= MAX_ROWS; n_rows++) {
            /* Its last rows, so that a row meets every place in a tile. */
            const size_t r0 = (size_t)(MAX_ROWS - n_rows);
            product(be, among, s->rows, before + r0 * (size_t)s->rows, x + r0 * (size_t)s->cols,
                    &m.weight, bias, n_rows, accumulate);
            assert_same_bits(among, alone + r0 * (size_t)s->rows, (size_t)n_rows * (size_t)s->rows);
        }
    }
    free(among);
    free(alone);
    free(bias);
    free(before);
    free(x);
    fixture_matrix_free(&m);
}

static void linear_of_a_row_has_the_same_bits_in_every_batch(void **state) {
    (void)state;
    static const shape shapes[] = {
        {SL_DTYPE_F32, 48, 32, 1},    {SL_DTYPE_F16, 70, 64, 2},    {SL_DTYPE_BF16, 33, 300, 1},
        {SL_DTYPE_Q4_1, 70, 576, 2},  {SL_DTYPE_Q8_0, 70, 64, 1},   {SL_DTYPE_Q6_K, 40, 512, 1},
        {SL_DTYPE_Q8G64, 70, 300, 2}, {SL_DTYPE_Q4G64, 70, 576, 2}, {SL_DTYPE_Q4G64, 33, 83, 1},
    };
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            sl_backend *be = fixture_open(fixture_simd[v], n_threads);
            if (!be) continue;
            for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
                check_invariance(be, &shapes[i]);
            sl_backend_close(be);
        }
    }
}

static void linear_has_the_same_bits_with_one_and_two_threads(void **state) {
    (void)state;
    enum { ROWS = 200, COLS = 576, N = 40 };
    sl_rng rng = {.key = 5};
    fixture_matrix m;
    fixture_matrix_make(&rng, SL_DTYPE_Q4_1, ROWS, COLS, 3, &m);
    float *x = fixture_floats(&rng, N * COLS);
    float *y[2];
    for (int i = 0; i < 2; i++) {
        sl_backend *be = fixture_open(SL_CPU_AUTO, i + 1);
        y[i] = fixture_alloc(N * ROWS * sizeof *y[i]);
        assert_int_equal(be->ops->linear(be, y[i], ROWS, x, &m.weight, NULL, N, 0), SL_OK);
        sl_backend_close(be);
    }
    assert_same_bits(y[1], y[0], N * ROWS);
    free(y[1]);
    free(y[0]);
    free(x);
    fixture_matrix_free(&m);
}

/* A NaN in one row reaches all outputs of that row and of no other. */
static void linear_keeps_a_nan_within_its_row(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 64, N = 16 };
    sl_rng rng = {.key = 6};
    fixture_matrix m;
    fixture_matrix_make(&rng, SL_DTYPE_F16, ROWS, COLS, 1, &m);
    float *x = fixture_floats(&rng, N * COLS);
    float *y = fixture_alloc(N * ROWS * sizeof *y);
    x[5 * COLS + 63] = NAN;
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        assert_int_equal(be->ops->linear(be, y, ROWS, x, &m.weight, NULL, N, 0), SL_OK);
        for (int i = 0; i < N * ROWS; i++) assert_int_equal(isnan(y[i]) != 0, i / ROWS == 5);
        sl_backend_close(be);
    }
    free(y);
    free(x);
    fixture_matrix_free(&m);
}

static void linear_with_bad_arguments_names_them(void **state) {
    (void)state;
    sl_rng rng = {.key = 7};
    fixture_matrix m;
    fixture_matrix_make(&rng, SL_DTYPE_Q8_0, 70, 64, 3, &m);
    float x[64] = {0}, y[70];
    sl_backend *be = fixture_open(SL_CPU_AUTO, 1);
    assert_int_equal(be->ops->linear(be, y, 69, x, &m.weight, NULL, 1, 0), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "70 outputs in rows of 69"));
    assert_int_equal(be->ops->linear(be, y, 70, x, &m.weight, NULL, -1, 0), SL_ERR_ARG);
    assert_int_equal(be->ops->linear(be, NULL, 70, x, &m.weight, NULL, 1, 0), SL_ERR_ARG);
    assert_int_equal(be->ops->linear(be, y, 70, x, NULL, NULL, 1, 0), SL_ERR_ARG);
    m.slab[1].row0++;
    assert_int_equal(be->ops->linear(be, y, 70, x, &m.weight, NULL, 1, 0), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "slab 1"));
    m.slab[1].row0--;
    m.weight.n_slabs = 2;
    assert_int_equal(be->ops->linear(be, y, 70, x, &m.weight, NULL, 1, 0), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "46 rows of 70"));
    m.weight.n_slabs = 3;
    assert_int_equal(be->ops->linear(be, NULL, 70, NULL, &m.weight, NULL, 0, 0), SL_OK);
    sl_backend_close(be);
    fixture_matrix_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_of_every_dtype_agrees_with_the_reference),
        cmocka_unit_test(linear_of_odd_shapes_agrees_with_the_reference),
        cmocka_unit_test(linear_of_a_row_has_the_same_bits_in_every_batch),
        cmocka_unit_test(linear_has_the_same_bits_with_one_and_two_threads),
        cmocka_unit_test(linear_keeps_a_nan_within_its_row),
        cmocka_unit_test(linear_with_bad_arguments_names_them),
    };
    return cmocka_run_group_tests_name("cpu_linear", tests, NULL, NULL);
}
