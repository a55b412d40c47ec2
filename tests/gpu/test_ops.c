/* The CUDA backend's operators on rows: against the CPU reference. */
#include "gpu_fixture.h"

#include "model/config.h"

/* One rounding to f16 at the end (2^-11) and float32 arithmetic before it. */
static const double ABS = 1e-6, REL = 0x1p-10;

typedef struct {
    sl_backend *gpu, *cpu;
} pair;

static int open_pair(void **state) {
    pair *p = malloc(sizeof *p);
    if (!p) return -1;
    *p = (pair){gpu_open(), fixture_reference()};
    *state = p;
    return 0;
}

static int close_pair(void **state) {
    pair *p = *state;
    sl_backend_close(p->gpu);
    sl_backend_close(p->cpu);
    free(p);
    return 0;
}

static void norm_agrees_with_the_reference(void **state) {
    const pair *p = *state;
    static const int cols[] = {1, 7, 64, 128, 511, 516, 576, 768, 4096, 7168, 12288, 16384, 16392};
    static const int n_rows[] = {1, 3, 70};
    sl_rng rng = {.key = 21};
    for (size_t c = 0; c < sizeof cols / sizeof cols[0]; c++)
        for (int r = 0; r < 3; r++)
            for (int variant = 0; variant < 6; variant++) {
                const size_t n = (size_t)(n_rows[r] * cols[c]);
                const sl_norm_kind kind = variant % 2 ? SL_NORM_RMS : SL_NORM_LAYER;
                float *x = fixture_floats(&rng, n), *gain = fixture_floats(&rng, (size_t)cols[c]);
                float *bias = fixture_floats(&rng, (size_t)cols[c]), *got = fixture_alloc(n * 4);
                for (size_t i = 0; i < n; i++) x[i] = x[i] * 3.0f + (float)(variant / 2);
                void *dx = gpu_put_half(p->gpu, x, n), *dy = gpu_poisoned(p->gpu, n * 2);
                float *dg = gpu_put(p->gpu, gain, (size_t)cols[c] * 4);
                float *db = gpu_put(p->gpu, bias, (size_t)cols[c] * 4);
                const int has_gain = variant < 4, has_bias = variant < 2;
                void *to = variant == 1 ? dx : dy; /* in place too */
                check_ok(p->gpu->ops->norm(p->gpu, to, dx, has_gain ? dg : NULL,
                                           has_bias ? db : NULL, kind, 1e-5f, n_rows[r], cols[c]));
                gpu_get_half(p->gpu, got, to, n);
                check_ok(p->cpu->ops->norm(p->cpu, x, x, has_gain ? gain : NULL,
                                           has_bias ? bias : NULL, kind, 1e-5f, n_rows[r],
                                           cols[c]));
                /* A mean of about 2 leaves 1e-6 of the sum in each difference. */
                assert_close(got, x, n, 1e-4, REL);
                gpu_free(p->gpu, db), gpu_free(p->gpu, dg);
                gpu_free(p->gpu, dy), gpu_free(p->gpu, dx);
                free(got), free(bias), free(gain), free(x);
            }
}

static void rope_agrees_with_the_reference(void **state) {
    const pair *p = *state;
    static const int head_dims[] = {2, 64, 80, 128, 512};
    sl_rng rng = {.key = 22};
    for (size_t h = 0; h < sizeof head_dims / sizeof head_dims[0]; h++) {
        enum { ROWS = 37, HEADS = 3 };
        const int dim = head_dims[h], ld = HEADS * dim + 5;
        float inv_freq[SL_MAX_HEAD_DIM / 2];
        int32_t position[ROWS];
        for (int i = 0; i < dim / 2; i++)
            inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)dim);
        for (int r = 0; r < ROWS; r++) position[r] = (int32_t)sl_rng_below(&rng, 4096);
        const size_t n = (size_t)(ROWS * ld);
        float *x = fixture_floats(&rng, n), *got = fixture_alloc(n * sizeof *got);
        void *dx = gpu_put_half(p->gpu, x, n);
        sl_rows rows = {.n_rows = ROWS, .position = position};
        check_ok(p->gpu->ops->bind_rows(p->gpu, 3, &rows));
        check_ok(p->gpu->ops->rope(p->gpu, dx, ld, HEADS, dim, inv_freq, &rows));
        gpu_get_half(p->gpu, got, dx, n);
        check_ok(p->cpu->ops->rope(p->cpu, x, ld, HEADS, dim, inv_freq, &rows));
        assert_close(got, x, n, ABS, REL); /* the columns behind the heads are left alone, too */
        gpu_free(p->gpu, dx);
        free(got), free(x);
    }
}

static void embed_finds_rows_in_tables_of_every_dtype(void **state) {
    const pair *p = *state;
    static const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_F32, SL_DTYPE_BF16, SL_DTYPE_Q8G64,
                                      SL_DTYPE_Q4G64};
    enum { ROWS = 50, VOCAB = 301, POSITIONS = 77, OFFSET = 2 };
    static const int cols[] = {33, 64, 576, 4096};
    sl_rng rng = {.key = 23};
    for (int d = 0; d < 5; d++)
        for (int c = 0; c < 4; c++)
            for (int apart = 0; apart < 2; apart++) {
                fixture_matrix tokens, positions;
                gpu_matrix on_gpu, positions_on_gpu;
                fixture_matrix_make(&rng, dtypes[d], VOCAB, cols[c], 3, &tokens);
                fixture_matrix_make(&rng, dtypes[d], POSITIONS, cols[c], 2, &positions);
                gpu_matrix_make(p->gpu, &tokens.weight, apart, &on_gpu);
                gpu_matrix_make(p->gpu, &positions.weight, apart, &positions_on_gpu);
                int32_t token[ROWS], position[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    token[r] = (int32_t)sl_rng_below(&rng, VOCAB);
                    position[r] = (int32_t)sl_rng_below(&rng, POSITIONS - OFFSET);
                }
                token[0] = 0, token[1] = VOCAB - 1;
                sl_rows rows = {.n_rows = ROWS, .token = token, .position = position};
                const size_t n = (size_t)(ROWS * cols[c]);
                float *want = fixture_alloc(n * 4), *got = fixture_alloc(n * 4);
                void *dy = gpu_poisoned(p->gpu, n * 2);
                check_ok(p->gpu->ops->embed(p->gpu, dy, &on_gpu.weight, &rows));
                check_ok(p->gpu->ops->add_positions(p->gpu, dy, &positions_on_gpu.weight, OFFSET,
                                                    &rows));
                gpu_get_half(p->gpu, got, dy, n);
                check_ok(p->cpu->ops->embed(p->cpu, want, &tokens.weight, &rows));
                check_ok(
                    p->cpu->ops->add_positions(p->cpu, want, &positions.weight, OFFSET, &rows));
                /* Values below 1 are rounded to f16 three times: both tables', and the sum. */
                assert_close(got, want, n, 1.5 * 0x1p-11, REL);

                token[7] = VOCAB;
                assert_int_equal(p->gpu->ops->embed(p->gpu, dy, &on_gpu.weight, &rows), SL_ERR_ARG);
                gpu_free(p->gpu, dy);
                free(got), free(want);
                gpu_matrix_free(p->gpu, &positions_on_gpu), gpu_matrix_free(p->gpu, &on_gpu);
                fixture_matrix_free(&positions), fixture_matrix_free(&tokens);
            }
}

static void activations_agree_with_the_reference(void **state) {
    const pair *p = *state;
    static const sl_activation acts[] = {SL_ACT_RELU, SL_ACT_GELU, SL_ACT_GELU_TANH, SL_ACT_SILU};
    static const struct {
        int n_rows, n_cols, ld;
    } shapes[] = {{1, 1, 1}, {3, 33, 40}, {70, 1536, 1536}, {5, 7, 7}, {19, 256, 512}};
    sl_rng rng = {.key = 24};
    for (int a = 0; a < 4; a++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (int gated = 0; gated < 2; gated++) {
                const int rows = shapes[s].n_rows, cols = shapes[s].n_cols, ld = shapes[s].ld;
                const size_t n_in = (size_t)(rows * ld), n_out = (size_t)(rows * cols);
                float *g = fixture_floats(&rng, n_in), *u = fixture_floats(&rng, n_in);
                float *want = fixture_alloc(n_out * 4), *got = fixture_alloc(n_out * 4);
                for (size_t i = 0; i < n_in; i++) g[i] *= 8.0f;
                void *dg = gpu_put_half(p->gpu, g, n_in), *du = gpu_put_half(p->gpu, u, n_in);
                void *dy = ld == cols ? dg : gpu_poisoned(p->gpu, n_out * 2);
                check_ok(p->gpu->ops->activate(p->gpu, dy, dg, gated ? du : NULL, ld, acts[a], rows,
                                               cols));
                gpu_get_half(p->gpu, got, dy, n_out);
                check_ok(p->cpu->ops->activate(p->cpu, want, g, gated ? u : NULL, ld, acts[a], rows,
                                               cols));
                /* 1 + erf and 1 + tanh near -1 leave 1e-7 of x. */
                assert_close(got, want, n_out, 2e-6, REL);
                if (dy != dg) gpu_free(p->gpu, dy);
                gpu_free(p->gpu, du), gpu_free(p->gpu, dg);
                free(got), free(want), free(u), free(g);
            }
}

static void add_and_gather_agree_with_the_reference(void **state) {
    const pair *p = *state;
    enum { ROWS = 600, COLS = 97, PICKED = 1100 }; /* more than one launch takes */
    sl_rng rng = {.key = 25};
    const size_t n = (size_t)ROWS * COLS, n_picked = (size_t)PICKED * COLS;
    float *x = fixture_floats(&rng, n), *y = fixture_floats(&rng, n), *got = fixture_alloc(n * 4);
    float *picked = fixture_alloc(n_picked * 4), *got_picked = fixture_alloc(n_picked * 4);
    int32_t *index = fixture_alloc(PICKED * sizeof *index);
    for (int i = 0; i < PICKED; i++) index[i] = (int32_t)sl_rng_below(&rng, ROWS);
    void *dx = gpu_put_half(p->gpu, x, n), *dy = gpu_put_half(p->gpu, y, n);
    void *dp = gpu_poisoned(p->gpu, n_picked * 2);
    check_ok(p->gpu->ops->gather(p->gpu, dp, dx, index, PICKED, COLS));
    check_ok(p->gpu->ops->add(p->gpu, dy, dx, ROWS, COLS));
    memset(index, 0xff, PICKED * sizeof *index); /* it was read before the call returned */
    gpu_get_half(p->gpu, got_picked, dp, n_picked);
    gpu_get_half(p->gpu, got, dy, n);
    check_ok(p->cpu->ops->add(p->cpu, y, x, ROWS, COLS));
    assert_close(got, y, n, ABS, REL);
    rng = (sl_rng){.key = 25, .counter = 2 * n};
    for (int i = 0; i < PICKED; i++) index[i] = (int32_t)sl_rng_below(&rng, ROWS);
    check_ok(p->cpu->ops->gather(p->cpu, picked, x, index, PICKED, COLS));
    assert_same_bits(got_picked, picked, n_picked);
    index[5] = -1;
    assert_int_equal(p->gpu->ops->gather(p->gpu, dp, dx, index, PICKED, COLS), SL_ERR_ARG);
    gpu_free(p->gpu, dp), gpu_free(p->gpu, dy), gpu_free(p->gpu, dx);
    free(index), free(got_picked), free(picked), free(got), free(y), free(x);
}

int main(void) {
    SKIP_WITHOUT_GPU();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_agrees_with_the_reference),
        cmocka_unit_test(rope_agrees_with_the_reference),
        cmocka_unit_test(embed_finds_rows_in_tables_of_every_dtype),
        cmocka_unit_test(activations_agree_with_the_reference),
        cmocka_unit_test(add_and_gather_agree_with_the_reference),
    };
    return cmocka_run_group_tests_name("gpu ops", tests, open_pair, close_pair);
}
