/* The small operators of the CPU backend: against the reference, the same bits in every batch, and
 * no allocation once warm. */
#include "cpu_fixture.h"

#include "cpu/cpu_state.h"
#include "model/quant.h"

enum { N_ROWS = 300 }; /* enough that a team is woken */

static sl_backend *reference;

static int open_reference(void **state) {
    (void)state;
    reference = fixture_reference();
    return 0;
}

static int close_reference(void **state) {
    (void)state;
    sl_backend_close(reference);
    return 0;
}

static void norm_agrees_with_the_reference_in_every_batch(void **state) {
    (void)state;
    static const int widths[] = {1, 7, 64, 129, 576};
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        const int cols = widths[w];
        const size_t n = (size_t)N_ROWS * (size_t)cols;
        sl_rng rng = {.key = (uint64_t)cols};
        float *x = fixture_floats(&rng, n), *got = fixture_alloc(n * sizeof *got);
        float *want = fixture_alloc(n * sizeof *want);
        float *gain = fixture_floats(&rng, (size_t)cols),
              *bias = fixture_floats(&rng, (size_t)cols);
        for (size_t i = 0; i < n; i++) x[i] += 3.0f; /* a mean that is not small */
        for (int variant = 0; variant < 8; variant++) {
            const sl_norm_kind kind = variant & 1 ? SL_NORM_RMS : SL_NORM_LAYER;
            const float *g = variant & 2 ? gain : NULL, *b = variant & 4 ? bias : NULL;
            assert_int_equal(
                reference->ops->norm(reference, want, x, g, b, kind, 1e-5f, N_ROWS, cols), SL_OK);
            assert_int_equal(be->ops->norm(be, got, x, g, b, kind, 1e-5f, N_ROWS, cols), SL_OK);
            assert_close(got, want, n, 2e-6, 2e-6); /* a few roundings of values of about 1 */
            memcpy(want, x, n * sizeof *x);         /* in place, a row at a time */
            for (int r = 0; r < N_ROWS; r++) {
                float *row = want + (size_t)r * (size_t)cols;
                assert_int_equal(be->ops->norm(be, row, row, g, b, kind, 1e-5f, 1, cols), SL_OK);
            }
            assert_same_bits(want, got, n);
        }
        free(bias);
        free(gain);
        free(want);
        free(got);
        free(x);
    }
    sl_backend_close(be);
}

/* Positions below and above what the table of angles holds; frequencies that change between calls
 * as for a second model, in length and in value. */
static void rope_agrees_with_the_reference_in_every_batch(void **state) {
    (void)state;
    enum { HEADS = 3, LD = HEADS * 64 + 5 };
    static const int head_dims[] = {64, 64, 20, 2, 64};
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    for (size_t c = 0; c < sizeof head_dims / sizeof head_dims[0]; c++) {
        const int head_dim = head_dims[c];
        float freq[32];
        for (int i = 0; i < head_dim / 2; i++)
            freq[i] = powf(10000.0f + 90000.0f * (float)c, -2.0f * (float)i / (float)head_dim);
        sl_rng rng = {.key = c};
        int32_t position[N_ROWS];
        for (int r = 0; r < N_ROWS; r++)
            position[r] = (int32_t)sl_rng_below(&rng, r % 3 ? 4000 : 30000);
        const sl_rows rows = {.n_rows = N_ROWS, .position = position};
        float *x = fixture_floats(&rng, (size_t)N_ROWS * LD);
        float *want = fixture_alloc((size_t)N_ROWS * LD * sizeof *want);
        float *alone = fixture_alloc((size_t)N_ROWS * LD * sizeof *alone);
        memcpy(want, x, (size_t)N_ROWS * LD * sizeof *want);
        memcpy(alone, x, (size_t)N_ROWS * LD * sizeof *alone);
        for (int r = 0; r < N_ROWS; r++) {
            const sl_rows one = {.n_rows = 1, .position = &position[r]};
            assert_int_equal(be->ops->rope(be, alone + r * LD, LD, HEADS, head_dim, freq, &one),
                             SL_OK);
        }
        assert_int_equal(be->ops->rope(be, x, LD, HEADS, head_dim, freq, &rows), SL_OK);
        assert_same_bits(x, alone, (size_t)N_ROWS * LD);
        assert_int_equal(reference->ops->rope(reference, want, LD, HEADS, head_dim, freq, &rows),
                         SL_OK);
        assert_close(x, want, (size_t)N_ROWS * LD, 1e-6, 0); /* the angles are the same floats */
        free(alone);
        free(want);
        free(x);
    }
    sl_backend_close(be);
}

static const sl_activation activations[] = {SL_ACT_RELU, SL_ACT_GELU, SL_ACT_GELU_TANH,
                                            SL_ACT_SILU};

static void activate_agrees_with_the_reference(void **state) {
    (void)state;
    enum { COLS = 157, LD = 2 * COLS };
    const size_t n = (size_t)N_ROWS * LD, n_out = (size_t)N_ROWS * COLS;
    sl_rng rng = {.key = 11};
    float *g = fixture_floats(&rng, n), *got = fixture_alloc(n * sizeof *got);
    float *want = fixture_alloc(n_out * sizeof *want);
    for (size_t i = 0; i < n; i++) g[i] *= i % 5 ? 8.0f : 120.0f; /* where exp() ends, too */
    g[3] = 0.0f;
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (int a = 0; a < 4; a++) {
            for (int gated = 0; gated < 2; gated++) {
                const float *u = gated ? g + COLS : NULL;
                assert_int_equal(reference->ops->activate(reference, want, g, u, LD, activations[a],
                                                          N_ROWS, COLS),
                                 SL_OK);
                assert_int_equal(be->ops->activate(be, got, g, u, LD, activations[a], N_ROWS, COLS),
                                 SL_OK);
                /* GELU's 1 + erf cancels for negative arguments: up to 6e-8 times 5 * 120. */
                assert_close(got, want, n_out, 5e-5, 2e-6);
                /* In place, rows closing up over the gap. */
                float *in_place = fixture_alloc(n * sizeof *in_place);
                memcpy(in_place, g, n * sizeof *g);
                assert_int_equal(be->ops->activate(be, in_place, in_place,
                                                   gated ? in_place + COLS : NULL, LD,
                                                   activations[a], N_ROWS, COLS),
                                 SL_OK);
                assert_same_bits(in_place, got, n_out);
                free(in_place);
            }
        }
        sl_backend_close(be);
    }
    free(want);
    free(got);
    free(g);
}

static void activate_keeps_not_a_number(void **state) {
    (void)state;
    float g[20], y[20];
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        sl_backend *be = fixture_open(fixture_simd[v], 0);
        if (!be) continue;
        for (int a = 0; a < 4; a++) {
            for (int i = 0; i < 20; i++) g[i] = i % 7 == 2 ? NAN : (float)i;
            assert_int_equal(be->ops->activate(be, y, g, NULL, 20, activations[a], 1, 20), SL_OK);
            for (int i = 0; i < 20; i++) assert_int_equal(isnan(y[i]) != 0, i % 7 == 2);
        }
        sl_backend_close(be);
    }
}

static void embed_reads_rows_of_every_dtype_and_slab(void **state) {
    (void)state;
    enum { ROWS = 101, COLS = 512 };
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    float *y = fixture_alloc((size_t)N_ROWS * COLS * sizeof *y);
    float *sum = fixture_alloc((size_t)N_ROWS * COLS * sizeof *sum);
    for (int dtype = 0; dtype < SL_DTYPE_COUNT; dtype++) {
        sl_rng rng = {.key = 20 + (uint64_t)dtype};
        fixture_matrix m;
        fixture_matrix_make(&rng, (sl_dtype)dtype, ROWS, COLS, 3, &m);
        int32_t token[N_ROWS], position[N_ROWS];
        for (int r = 0; r < N_ROWS; r++) {
            token[r] = r < ROWS ? r : (int32_t)sl_rng_below(&rng, ROWS);
            position[r] = (int32_t)sl_rng_below(&rng, ROWS - 2);
        }
        const sl_rows rows = {.n_rows = N_ROWS, .token = token, .position = position};
        assert_int_equal(be->ops->embed(be, y, &m.weight, &rows), SL_OK);
        memcpy(sum, y, (size_t)N_ROWS * COLS * sizeof *sum);
        assert_int_equal(be->ops->add_positions(be, sum, &m.weight, 2, &rows), SL_OK);
        for (int r = 0; r < N_ROWS; r++) {
            float embedded[COLS], placed[COLS];
            const size_t row_bytes = m.slab[0].row_bytes;
            sl_dequantize_row(embedded, m.data + (size_t)token[r] * row_bytes, (sl_dtype)dtype,
                              COLS);
            sl_dequantize_row(placed, m.data + (size_t)(position[r] + 2) * row_bytes,
                              (sl_dtype)dtype, COLS);
            for (int c = 0; c < COLS; c++) placed[c] = embedded[c] + placed[c];
            assert_same_bits(y + r * COLS, embedded, COLS);
            assert_same_bits(sum + r * COLS, placed, COLS);
        }
        fixture_matrix_free(&m);
    }
    free(sum);
    free(y);
    sl_backend_close(be);
}

static void add_and_gather_agree_with_plain_loops(void **state) {
    (void)state;
    enum { COLS = 131 };
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    sl_rng rng = {.key = 30};
    const size_t n = (size_t)N_ROWS * COLS;
    float *x = fixture_floats(&rng, n), *y = fixture_floats(&rng, n), *z = fixture_floats(&rng, n);
    int32_t index[N_ROWS];
    for (int i = 0; i < N_ROWS; i++) index[i] = (int32_t)sl_rng_below(&rng, N_ROWS);
    assert_int_equal(be->ops->gather(be, z, x, index, N_ROWS, COLS), SL_OK);
    for (int i = 0; i < N_ROWS; i++) assert_same_bits(z + i * COLS, x + index[i] * COLS, COLS);
    for (size_t i = 0; i < n; i++) z[i] = y[i] + x[i];
    assert_int_equal(be->ops->add(be, y, x, N_ROWS, COLS), SL_OK);
    assert_same_bits(y, z, n);
    free(z);
    free(y);
    free(x);
    sl_backend_close(be);
}

static sl_sampling sampling_of(int row) {
    return (sl_sampling){.temperature = row % 2 ? 0.8f : 0.0f,
                         .top_p = 1.0f,
                         .repetition_penalty = 1.0f,
                         .key = (uint64_t)row,
                         .n_logprobs = 3};
}

static void choose_gives_each_row_what_it_gets_alone(void **state) {
    (void)state;
    enum { VOCAB = 3000, ROWS = 40 };
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    sl_rng rng = {.key = 40};
    float *logits = fixture_floats(&rng, (size_t)ROWS * VOCAB);
    float *copy = fixture_alloc((size_t)ROWS * VOCAB * sizeof *copy);
    memcpy(copy, logits, (size_t)ROWS * VOCAB * sizeof *copy);
    sl_sampling sampling[ROWS];
    sl_choice_ask ask[ROWS];
    sl_choice got[ROWS], want;
    for (int r = 0; r < ROWS; r++) {
        sampling[r] = sampling_of(r);
        ask[r] =
            (sl_choice_ask){.sampling = &sampling[r], .target = r % 5 == 4 ? r : -1, .step = r % 7};
    }
    assert_int_equal(be->ops->choose(be, logits, ROWS, VOCAB, ask, got), SL_OK);
    void *scratch = fixture_alloc(sl_sampler_scratch_bytes(VOCAB));
    for (int r = 0; r < ROWS; r++) {
        assert_int_equal(sl_sampler_choose(copy + r * VOCAB, VOCAB, &ask[r], scratch, &want),
                         SL_OK);
        assert_int_equal(got[r].id, want.id);
        assert_int_equal(got[r].n_top, want.n_top);
        assert_same_bits(&got[r].logprob, &want.logprob, 1);
        for (int i = 0; i < want.n_top; i++) assert_int_equal(got[r].top[i].id, want.top[i].id);
    }
    free(scratch);
    free(copy);
    free(logits);
    sl_backend_close(be);
}

/* A stand-in for a device chooses in two parts, several of them under way. */
static void choices_that_are_begun_end_in_order(void **state) {
    (void)state;
    enum { VOCAB = 300, ROWS = 40, FIRST = 15 };
    const sl_cpu_options options = {.n_threads = 2, .device_bytes = 1 << 20};
    sl_backend *be = NULL;
    sl_rng rng = {.key = 42};
    float *logits = fixture_floats(&rng, (size_t)ROWS * VOCAB);
    float *copy = fixture_alloc((size_t)ROWS * VOCAB * sizeof *copy);
    memcpy(copy, logits, (size_t)ROWS * VOCAB * sizeof *copy);
    sl_sampling sampling[ROWS];
    sl_choice_ask ask[ROWS];
    sl_choice got[ROWS], want[ROWS];
    for (int r = 0; r < ROWS; r++) {
        sampling[r] = sampling_of(r);
        ask[r] = (sl_choice_ask){.sampling = &sampling[r], .target = -1, .step = r % 7};
    }
    assert_int_equal(sl_cpu_backend_open(&options, &be), SL_OK);
    const sl_backend_ops *op = be->ops;
    assert_int_equal(op->choose_begin(be, logits, FIRST, VOCAB, ask), SL_OK);
    assert_int_equal(op->choose_begin(be, logits + FIRST * VOCAB, ROWS - FIRST, VOCAB, ask + FIRST),
                     SL_OK);
    assert_int_equal(op->choose_end(be, FIRST, VOCAB, ask, got), SL_OK);
    assert_int_equal(op->choose_end(be, ROWS, VOCAB, ask, got), SL_ERR_ARG);
    assert_int_equal(op->choose_end(be, ROWS - FIRST, VOCAB, ask + FIRST, got + FIRST), SL_OK);
    assert_int_equal(op->choose_end(be, 1, VOCAB, ask, got), SL_ERR_ARG);
    assert_int_equal(op->choose(be, copy, ROWS, VOCAB, ask, want), SL_OK);
    for (int r = 0; r < ROWS; r++) assert_int_equal(got[r].id, want[r].id);
    free(copy);
    free(logits);
    sl_backend_close(be);
}

static void choose_with_failing_rows_reports_the_first(void **state) {
    (void)state;
    enum { VOCAB = 3000, ROWS = 40 };
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    sl_rng rng = {.key = 41};
    float *logits = fixture_floats(&rng, (size_t)ROWS * VOCAB);
    logits[7 * VOCAB + 5] = NAN;
    sl_sampling good = sampling_of(0);
    sl_choice_ask ask[ROWS];
    sl_choice out[ROWS];
    for (int r = 0; r < ROWS; r++) ask[r] = (sl_choice_ask){.sampling = &good, .target = -1};
    ask[31].target = VOCAB + 100; /* another failure, later */
    (void)sl_fail_text(SL_ERR_ARG, "");
    assert_int_equal(be->ops->choose(be, logits, ROWS, VOCAB, ask, out), SL_ERR_DEVICE);
    assert_true(strlen(sl_error_message()) > 0); /* came over from the thread that met it */
    assert_int_equal(be->ops->choose(be, logits, 1, VOCAB, ask, NULL), SL_ERR_ARG);
    free(logits);
    sl_backend_close(be);
}

static void steady_state_keeps_its_scratch(void **state) {
    (void)state;
    enum { ROWS = 96, COLS = 576, N = 64 };
    sl_backend *be = fixture_open(SL_CPU_AUTO, 0);
    const sl_cpu *cpu = (const sl_cpu *)be;
    sl_rng rng = {.key = 50};
    fixture_matrix m;
    fixture_matrix_make(&rng, SL_DTYPE_Q4_K, ROWS, 512, 1, &m);
    float *x = fixture_floats(&rng, (size_t)N * COLS), *y = fixture_floats(&rng, (size_t)N * COLS);
    float freq[8] = {1.0f};
    int32_t position[N], pages[2] = {0, 1};
    for (int r = 0; r < N; r++) position[r] = r;
    const sl_segment segment = {.n_rows = N, .n_pages = 2, .pages = pages};
    const sl_rows rows = {.n_rows = N, .position = position, .n_segments = 1, .segment = &segment};
    sl_kv_view cache = {.format = sl_kv_format_make(SL_DTYPE_F16, 2, 16)};
    cache.base = fixture_alloc(2 * cache.format.page_bytes);
    const sl_sampling greedy = sampling_of(0);
    sl_choice_ask ask[N];
    sl_choice out[N];
    for (int r = 0; r < N; r++) ask[r] = (sl_choice_ask){.sampling = &greedy, .target = -1};
    const void *kept[4] = {0};
    for (int round = 0; round < 3; round++) {
        const int n = round == 2 ? N / 2 : N; /* smaller calls do not shrink it */
        sl_segment part = segment;
        sl_rows part_rows = rows;
        part.n_rows = part_rows.n_rows = n;
        part_rows.segment = &part;
        assert_int_equal(be->ops->linear(be, y, COLS, x, &m.weight, NULL, n, 0), SL_OK);
        assert_int_equal(be->ops->rope(be, x, COLS, 2, 16, freq, &part_rows), SL_OK);
        assert_int_equal(be->ops->kv_append(be, &cache, x, x, COLS, &part_rows), SL_OK);
        assert_int_equal(be->ops->attend(be, y, x, COLS, 4, &cache, 0.25f, 0, &part_rows), SL_OK);
        assert_int_equal(be->ops->choose(be, y, n, COLS, ask, out), SL_OK);
        const void *now[4] = {cpu->shared.data, cpu->own.data, cpu->rope_table.data,
                              cpu->rope_freq.data};
        if (round > 0) assert_memory_equal(now, kept, sizeof kept);
        memcpy(kept, now, sizeof kept);
    }
    free(cache.base);
    free(y);
    free(x);
    fixture_matrix_free(&m);
    sl_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_agrees_with_the_reference_in_every_batch),
        cmocka_unit_test(rope_agrees_with_the_reference_in_every_batch),
        cmocka_unit_test(activate_agrees_with_the_reference),
        cmocka_unit_test(activate_keeps_not_a_number),
        cmocka_unit_test(embed_reads_rows_of_every_dtype_and_slab),
        cmocka_unit_test(add_and_gather_agree_with_plain_loops),
        cmocka_unit_test(choose_gives_each_row_what_it_gets_alone),
        cmocka_unit_test(choices_that_are_begun_end_in_order),
        cmocka_unit_test(choose_with_failing_rows_reports_the_first),
        cmocka_unit_test(steady_state_keeps_its_scratch),
    };
    return cmocka_run_group_tests_name("cpu_ops", tests, open_reference, close_reference);
}
