/* Matrix products of the CUDA backend: every stored format and number of rows against the CPU
 * reference, and a row alone against the same row among others. */
#include "gpu_fixture.h"

#include <cuda_runtime_api.h>

#include "cuda/cuda_bias.h"
#include "cuda/cuda_linear.h"

typedef struct {
    sl_dtype dtype;
    int rows, cols, n_slabs;
} shape;

/* Products of values below 1.  Packed weights are rounded to f16 (2^-12 of each on average), which
 * over `cols` products adds like a random walk; six deviations never occur in these tests.  cuBLAS
 * rounds a sum to f16 before it adds a bias (below 1 here). */
static double abs_tol(const shape *s) {
    const int rounds = s->dtype != SL_DTYPE_F16;
    return 1e-4 + 0x1p-11 + (rounds ? 6.0 * 0.33 * 0x1p-12 * sqrt((double)s->cols) : 0.0);
}

static const double REL = 0x1p-10; /* one rounding to f16 */

static void compare(sl_backend *gpu, sl_backend *cpu, const shape *s, int n_rows, int variant) {
    sl_rng rng = {.key = (uint64_t)(s->dtype * 7919 + s->cols * 31 + n_rows)};
    fixture_matrix host;
    gpu_matrix device;
    fixture_matrix_make(&rng, s->dtype, s->rows, s->cols, s->n_slabs, &host);
    gpu_matrix_make(gpu, &host.weight, variant & 1, &device);
    const int has_bias = variant & 2, accumulate = (variant & 4) != 0;
    const int ldy = s->rows + (variant & 8 ? 6 : 0);
    const size_t n_x = (size_t)(n_rows * s->cols), n_y = (size_t)(n_rows * ldy);
    float *x = fixture_floats(&rng, n_x), *y = fixture_floats(&rng, n_y);
    float *bias = fixture_floats(&rng, (size_t)s->rows), *got = fixture_alloc(n_y * 4);
    for (int i = 0; i < s->rows; i++) bias[i] = sl_f16_to_f32(sl_f32_to_f16(bias[i]));
    void *dx = gpu_put_half(gpu, x, n_x), *dy = gpu_put_half(gpu, y, n_y);
    float *db = gpu_put(gpu, bias, (size_t)s->rows * 4);
    if (!accumulate) { /* NaN where a product belongs: every element has to be written */
        const size_t pitch = (size_t)ldy * 2, width = (size_t)s->rows * 2;
        assert_int_equal(cudaMemset2D(dy, pitch, 0xff, width, (size_t)n_rows), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    }
    check_ok(gpu->ops->linear(gpu, dy, ldy, dx, &device.weight, has_bias ? db : NULL, n_rows,
                              accumulate));
    gpu_get_half(gpu, got, dy, n_y);
    check_ok(
        cpu->ops->linear(cpu, y, ldy, x, &host.weight, has_bias ? bias : NULL, n_rows, accumulate));
    assert_close(got, y, n_y, abs_tol(s), REL); /* the gap between rows is unchanged, too */
    gpu_free(gpu, db), gpu_free(gpu, dy), gpu_free(gpu, dx);
    gpu_matrix_free(gpu, &device);
    free(got), free(bias), free(y), free(x);
    fixture_matrix_free(&host);
}

static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_BF16, SL_DTYPE_F32, SL_DTYPE_Q8G64,
                                  SL_DTYPE_Q4G64};

static void linear_of_every_dtype_agrees_with_the_reference(void **state) {
    (void)state;
    static const int n_rows[] = {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 150, 257, 384, 400};
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (int d = 0; d < 5; d++)
        for (size_t r = 0; r < sizeof n_rows / sizeof n_rows[0]; r++) {
            const shape s = {dtypes[d], 203, 768, 3};
            compare(gpu, cpu, &s, n_rows[r], (int)r % 16);
            compare(gpu, cpu, &s, n_rows[r], 15 - (int)r % 16);
        }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

/* Widths that end within a group, a thread's share and a vector; matrices above the buffer for
 * unpacked weights (1 MiB here); fewer outputs than a tile. */
static void linear_of_odd_shapes_agrees_with_the_reference(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 64},     {5, 8},     {16, 1},    {33, 33},
                                    {40, 72},    {17, 200},  {64, 1000}, {130, 1031},
                                    {300, 4096}, {50, 6152}, {1100, 520}};
    static const int n_rows[] = {1, 3, 20, 40, 70, 130};
    enum { N_ROWS = sizeof n_rows / sizeof n_rows[0] };
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (int d = 0; d < 5; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            for (int r = 0; r < N_ROWS; r++) {
                const shape s = {dtypes[d], shapes[i][0], shapes[i][1], 1};
                compare(gpu, cpu, &s, n_rows[r], r * 5 % 16);
            }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

/* Rows at and beside the ends of every size of tile; outputs that end within a tile, in slabs apart
 * and behind one another; k cut or not; as few rows at a time as the scratch of 1 MiB holds. */
static void linear_of_packed_weights_and_many_rows_agrees_with_the_reference(void **state) {
    (void)state;
    static const int n_rows[] = {33,  63,  64,  65,  100, 128, 129, 192,
                                 200, 255, 256, 257, 300, 513, 1000};
    static const shape shapes[] = {{.rows = 203, .cols = 264, .n_slabs = 3},
                                   {.rows = 128, .cols = 1096, .n_slabs = 1},
                                   {.rows = 77, .cols = 72, .n_slabs = 2}};
    enum { N_ROWS = sizeof n_rows / sizeof n_rows[0], N_SHAPES = sizeof shapes / sizeof shapes[0] };
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (int d = 3; d < 5; d++)
        for (int i = 0; i < N_SHAPES; i++)
            for (int r = 0; r < N_ROWS; r++) {
                shape s = shapes[i];
                s.dtype = dtypes[d];
                compare(gpu, cpu, &s, n_rows[r], (r + 5 * i) % 16);
            }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

/* So many outputs that a tile of x is as large as the rows want it, whatever the number of
 * processors, and k so long that tiles and codes take their places in turn. */
static void linear_of_packed_weights_and_many_outputs_agrees_with_the_reference(void **state) {
    (void)state;
    static const int rows_and_cols[][2] = {{64, 328},   {65, 1096}, {129, 328},
                                           {200, 1096}, {256, 72},  {400, 328}};
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (int d = 3; d < 5; d++)
        for (int i = 0; i < 6; i++) {
            const shape s = {dtypes[d], 16803, rows_and_cols[i][1], 1};
            compare(gpu, cpu, &s, rows_and_cols[i][0], i * 5 % 16);
        }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

static void logits_are_float32(void **state) {
    (void)state;
    sl_backend *gpu = gpu_open(), *cpu = fixture_reference();
    for (int d = 0; d < 5; d++)
        for (int n_rows = 1; n_rows < 300; n_rows += n_rows < 100 ? 33 : 90) {
            const shape s = {dtypes[d], 1003, 256, 2};
            sl_rng rng = {.key = 31};
            fixture_matrix host;
            gpu_matrix device;
            fixture_matrix_make(&rng, s.dtype, s.rows, s.cols, s.n_slabs, &host);
            gpu_matrix_make(gpu, &host.weight, 1, &device);
            const size_t n_y = (size_t)(n_rows * s.rows), n_x = (size_t)(n_rows * s.cols);
            float *x = fixture_floats(&rng, n_x), *want = fixture_alloc(n_y * 4);
            float *got = fixture_alloc(n_y * 4);
            void *dx = gpu_put_half(gpu, x, n_x), *dy = gpu_poisoned(gpu, n_y * 4);
            check_ok(gpu->ops->logits(gpu, dy, dx, &device.weight, n_rows));
            gpu_copy(gpu, got, dy, n_y * 4);
            check_ok(cpu->ops->logits(cpu, want, x, &host.weight, n_rows));
            /* f16 weights: float32 sums of 256 products and no rounding to f16. */
            assert_close(got, want, n_y, s.dtype == SL_DTYPE_F16 ? 2e-5 : abs_tol(&s), 1e-6);
            gpu_free(gpu, dy), gpu_free(gpu, dx);
            gpu_matrix_free(gpu, &device);
            free(got), free(want), free(x);
            fixture_matrix_free(&host);
        }
    sl_backend_close(cpu);
    sl_backend_close(gpu);
}

/* A row of a product with packed weights has the same bits alone and among up to 15 others; for
 * more rows another kernel sums in another order, and with f16 weights cuBLAS picks its own. */
static void row_does_not_depend_on_the_others(void **state) {
    (void)state;
    enum { ROWS = 200, COLS = 1024, OUT = 96 };
    sl_backend *gpu = gpu_open();
    for (int d = 0; d < 5; d++) {
        sl_rng rng = {.key = 32};
        fixture_matrix host;
        gpu_matrix device;
        fixture_matrix_make(&rng, dtypes[d], OUT, COLS, 1, &host);
        gpu_matrix_make(gpu, &host.weight, 0, &device);
        float *x = fixture_floats(&rng, ROWS * COLS), *alone = fixture_alloc(OUT * 4);
        float *among = fixture_alloc(ROWS * OUT * 4);
        char *dx = gpu_put_half(gpu, x, ROWS * COLS);
        void *dy = gpu_poisoned(gpu, ROWS * OUT * 2);
        for (int n = 2; n <= ROWS; n = n < 16 ? n + 7 : n + 31) {
            check_ok(gpu->ops->linear(gpu, dy, OUT, dx, &device.weight, NULL, n, 0));
            gpu_get_half(gpu, among, dy, (size_t)(n * OUT));
            for (int r = 0; r < n; r += 3) {
                check_ok(gpu->ops->linear(gpu, dy, OUT, dx + (size_t)r * COLS * 2, &device.weight,
                                          NULL, 1, 0));
                gpu_get_half(gpu, alone, dy, OUT);
                if (sl_dtype_group_bits(dtypes[d]) && n <= 16)
                    assert_same_bits(alone, among + r * OUT, OUT);
                else /* float32 sums of 1024 products in another order, then f16 */
                    assert_close(alone, among + r * OUT, OUT, 1e-4, 2 * REL);
            }
        }
        gpu_free(gpu, dy), gpu_free(gpu, dx);
        free(among), free(alone), free(x);
        gpu_matrix_free(gpu, &device);
        fixture_matrix_free(&host);
    }
    sl_backend_close(gpu);
}

/* A kept bias is what it was when it was kept, whatever its memory holds since; forgotten, it is
 * read again.  Two that lie behind one another serve as one. */
static void kept_bias_is_used_until_it_is_forgotten(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 256, OUT = 192, FIRST = 64 };
    sl_backend *gpu = gpu_open();
    const sl_backend_ops *ops = gpu->ops;
    sl_rng rng = {.key = 33};
    fixture_matrix host;
    gpu_matrix device;
    fixture_matrix_make(&rng, SL_DTYPE_F16, OUT, COLS, 3, &host);
    gpu_matrix_make(gpu, &host.weight, 0, &device);
    float *x = fixture_floats(&rng, ROWS * COLS), *bias = fixture_floats(&rng, OUT);
    float *other = fixture_floats(&rng, OUT);
    float *want = fixture_alloc(ROWS * OUT * 4), *got = fixture_alloc(ROWS * OUT * 4);
    void *dx = gpu_put_half(gpu, x, ROWS * COLS), *dy = gpu_poisoned(gpu, ROWS * OUT * 2);
    float *db = gpu_put(gpu, bias, OUT * 4);

    check_ok(ops->linear(gpu, dy, OUT, dx, &device.weight, db, ROWS, 0));
    gpu_get_half(gpu, want, dy, ROWS * OUT);
    check_ok(ops->keep_bias(gpu, db, SL_CUDA_KEPT_BIASES + 1)); /* no room: nothing is read */
    check_ok(ops->keep_bias(gpu, db, FIRST));
    check_ok(ops->keep_bias(gpu, db + FIRST, OUT - FIRST));
    check_ok(ops->sync(gpu));
    assert_int_equal(cudaMemcpy(db, other, OUT * 4, cudaMemcpyHostToDevice), cudaSuccess);
    check_ok(ops->linear(gpu, dy, OUT, dx, &device.weight, db, ROWS, 0));
    gpu_get_half(gpu, got, dy, ROWS * OUT);
    assert_same_bits(got, want, ROWS * OUT);

    ops->forget_biases(gpu);
    check_ok(ops->linear(gpu, dy, OUT, dx, &device.weight, db, ROWS, 0));
    gpu_get_half(gpu, got, dy, ROWS * OUT);
    for (int i = 0; i < ROWS * OUT; i++) want[i] += other[i % OUT] - bias[i % OUT];
    assert_close(got, want, ROWS * OUT, 0x1p-9, 2 * REL); /* four roundings of values about 1 */

    gpu_free(gpu, db), gpu_free(gpu, dy), gpu_free(gpu, dx);
    free(got), free(want), free(other), free(bias), free(x);
    gpu_matrix_free(gpu, &device);
    fixture_matrix_free(&host);
    sl_backend_close(gpu);
}

static void packing_on_the_gpu_gives_the_bytes_of_the_reference(void **state) {
    (void)state;
    static const int widths[] = {1, 33, 64, 65, 80, 576, 1001, 4096};
    static const float scales[] = {1e-6f, 0.02f, 1.0f, 60000.0f};
    enum { ROWS = 9 };
    sl_backend *gpu = gpu_open();
    sl_rng rng = {.key = 33};
    for (int d = 3; d < 5; d++)
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
            for (int s = 0; s < 4; s++) {
                const int cols = widths[w];
                const size_t n = (size_t)(ROWS * cols);
                size_t row_bytes;
                check_ok(sl_dtype_row_bytes(dtypes[d], cols, &row_bytes));
                float *x = fixture_floats(&rng, n), *got = fixture_alloc(n * 4);
                float *want = fixture_alloc((size_t)cols * 4);
                for (size_t i = 0; i < n; i++) x[i] = scales[s] * (x[i] + (s == 2 ? 3.0f : 0.0f));
                for (int i = 0; i < cols && i < 64; i++) x[i] = 0.25f; /* a constant group */
                if (cols > 70) x[cols + 66] = INFINITY;
                void *dx = gpu_put_half(gpu, x, n);
                void *packed = gpu_poisoned(gpu, ROWS * row_bytes), *dy = gpu_poisoned(gpu, n * 2);
                unsigned char *bytes = fixture_alloc(ROWS * row_bytes);
                unsigned char *row = fixture_alloc(row_bytes);
                const sl_cuda_matrix m = {packed, dtypes[d], row_bytes, ROWS, cols};
                check_ok(sl_cuda_pack(packed, dx, dtypes[d], row_bytes, ROWS, cols, NULL));
                check_ok(sl_cuda_unpack(dy, &m, NULL));
                assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
                gpu_copy(gpu, bytes, packed, ROWS * row_bytes);
                gpu_get_half(gpu, got, dy, n);
                for (int r = 0; r < ROWS; r++) {
                    sl_pack_row(row, x + r * cols, dtypes[d], cols);
                    if (r != 1 || cols <= 70) /* NaN's payload may differ */
                        assert_memory_equal(bytes + (size_t)r * row_bytes, row, row_bytes);
                    sl_unpack_row(want, row, dtypes[d], cols);
                    for (int i = 0; i < cols; i++)
                        assert_true(isnan(want[i]) ? isnan(got[r * cols + i])
                                                   : fabs((double)got[r * cols + i] - want[i]) <=
                                                         fabs((double)want[i]) * 0x1p-10 + 0x1p-24);
                }
                free(row), free(bytes);
                gpu_free(gpu, dy), gpu_free(gpu, packed), gpu_free(gpu, dx);
                free(want), free(got), free(x);
            }
    sl_backend_close(gpu);
}

int main(void) {
    SKIP_WITHOUT_GPU();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_of_every_dtype_agrees_with_the_reference),
        cmocka_unit_test(linear_of_odd_shapes_agrees_with_the_reference),
        cmocka_unit_test(linear_of_packed_weights_and_many_rows_agrees_with_the_reference),
        cmocka_unit_test(linear_of_packed_weights_and_many_outputs_agrees_with_the_reference),
        cmocka_unit_test(kept_bias_is_used_until_it_is_forgotten),
        cmocka_unit_test(logits_are_float32),
        cmocka_unit_test(row_does_not_depend_on_the_others),
        cmocka_unit_test(packing_on_the_gpu_gives_the_bytes_of_the_reference),
    };
    return cmocka_run_group_tests_name("gpu linear", tests, NULL, NULL);
}
