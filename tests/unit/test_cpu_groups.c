/* The group formats in the CPU backend's inner kernels: every instruction set gives the bits of
 * model/pack.c, for rows and pages of every width, and reads and writes nothing else. */
#include "cpu/cpu_kernels.h"
#include "cpu_fixture.h"

enum { MAX_ELEMS = 300 };

static const sl_dtype dtypes[] = {SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

static const sl_cpu_kernels *variant(int v) {
    return v == 0   ? sl_cpu_kernels_plain()
           : v == 1 ? sl_cpu_kernels_avx2()
                    : sl_cpu_kernels_avx512();
}

/* Groups of all kinds: even spreads, one outlier, tiny and huge ranges, zeros of both signs,
 * constants, values that f16 does not reach, and values that are no numbers. */
static void fill(sl_rng *rng, int kind, float *x, int n) {
    static const float size[] = {1.0f, 1e-6f, 3e4f, 1e30f, 6e-8f, 3e38f};
    for (int i = 0; i < n; i++) {
        const float u = fixture_uniform(rng);
        if (kind < 6)
            x[i] = u * size[kind];
        else if (kind == 6)
            x[i] = u < 0.0f ? -0.0f : 0.0f;
        else if (kind == 7)
            x[i] = u < 0.0f ? 0.0f : u;
        else if (kind == 8)
            x[i] = u < 0.0f ? -0.0f : -u;
        else if (kind == 9)
            x[i] = -1e5f;
        else
            x[i] = 0.37f;
    }
    if (kind == 11) x[sl_rng_below(rng, (uint64_t)n)] = 100.0f;
    if (kind == 12) x[sl_rng_below(rng, (uint64_t)n)] = NAN;
    if (kind == 13) x[sl_rng_below(rng, (uint64_t)n)] = -INFINITY;
}
enum { N_KINDS = 14 };

static void pack_group_gives_the_bytes_of_the_reference(void **state) {
    (void)state;
    sl_rng rng = {.key = 1};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        const sl_cpu_kernels *kernels = variant(v);
        if (!kernels) continue;
        for (int n = 1; n <= SL_GROUP_ELEMS; n++) {
            for (int round = 0; round < 4 * N_KINDS; round++) {
                float *x = fixture_alloc((size_t)n * sizeof *x); /* its end is the heap's */
                fill(&rng, round % N_KINDS, x, n);
                for (int bits = 4; bits <= 8; bits += 4) {
                    uint8_t got[SL_GROUP_ELEMS + 8], want[SL_GROUP_ELEMS + 8];
                    uint16_t got_pair[2], want_pair[2];
                    memset(got, 0xa5, sizeof got); /* what lies behind is left alone */
                    memset(want, 0xa5, sizeof want);
                    kernels->pack_group(got, got_pair, x, bits, n);
                    sl_pack_group(want, want_pair, x, bits, n);
                    assert_memory_equal(got_pair, want_pair, sizeof got_pair);
                    assert_memory_equal(got, want, sizeof got);
                }
                free(x);
            }
        }
    }
}

static void the_sign_of_a_zero_does_not_show_in_the_bytes(void **state) {
    (void)state;
    static const float zeros[2][4] = {{0.0f, -0.0f, 0.0f, 1.0f}, {-0.0f, 0.0f, 0.0f, 1.0f}};
    static const float none[2][4] = {{0.0f, -0.0f, 0.0f, 0.0f}, {-0.0f, 0.0f, 0.0f, -0.0f}};
    for (int bits = 4; bits <= 8; bits += 4) {
        uint8_t codes[4][4];
        uint16_t pair[4][2];
        for (int i = 0; i < 2; i++) {
            sl_pack_group(codes[i], pair[i], zeros[i], bits, 4);
            sl_pack_group(codes[2 + i], pair[2 + i], none[i], bits, 4);
        }
        assert_memory_equal(pair[0], pair[1], sizeof pair[0]);
        assert_memory_equal(codes[0], codes[1], (size_t)(4 * bits / 8));
        assert_int_equal(pair[2][0] | pair[2][1] | pair[3][0] | pair[3][1], 0);
    }
}

/* Rows as a weight has them: in one block of exactly their size, which the sanitizer guards. */
static void expanded_rows_have_the_bits_of_the_reference(void **state) {
    (void)state;
    static const int widths[] = {1,  2,  15, 16,  17,  31,  33,  63,  64,  65,
                                 79, 80, 96, 127, 128, 200, 255, 256, 257, 300};
    static const int row_counts[] = {1, 7, 8, 9, 16, 17, 31, 32};
    float *panel = aligned_alloc(64, SL_PANEL_DEPTH * SL_STRIP * sizeof *panel);
    assert_non_null(panel);
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        const sl_cpu_kernels *kernels = variant(v);
        if (!kernels) continue;
        for (size_t i = 0; i < 2 * sizeof widths / sizeof widths[0]; i++) {
            const sl_dtype dtype = dtypes[i % 2];
            const int cols = widths[i / 2];
            for (size_t r = 0; r < sizeof row_counts / sizeof row_counts[0]; r++) {
                const int n_rows = row_counts[r];
                sl_rng rng = {.key = i * 100 + r};
                fixture_matrix m;
                fixture_matrix_make(&rng, dtype, n_rows, cols, 1, &m);
                const size_t row_bytes = m.slab[0].row_bytes;
                const sl_cpu_group_rows rows = {.codes = m.data,
                                                .code_stride = row_bytes,
                                                .pairs = m.data +
                                                         sl_pack_code_bytes(dtype, (size_t)cols),
                                                .pair_stride = row_bytes,
                                                .bits = sl_dtype_group_bits(dtype)};
                for (int k0 = 0; k0 < cols; k0 += SL_PANEL_DEPTH) {
                    const int n_k = cols - k0 < SL_PANEL_DEPTH ? cols - k0 : SL_PANEL_DEPTH;
                    for (int k = 0; k < SL_PANEL_DEPTH * SL_STRIP; k++) panel[k] = -7.0f;
                    kernels->expand_groups(panel, &rows, n_rows, k0, n_k);
                    for (int n = 0; n < n_rows; n++) {
                        float y[MAX_ELEMS];
                        sl_unpack_row(y, m.data + (size_t)n * row_bytes, dtype, cols);
                        for (int k = 0; k < n_k; k++)
                            assert_same_bits(&panel[k * SL_STRIP + n], &y[k0 + k], 1);
                    }
                    for (int k = n_k * SL_STRIP; k < SL_PANEL_DEPTH * SL_STRIP; k++)
                        assert_true(panel[k] == -7.0f);
                }
                fixture_matrix_free(&m);
            }
        }
    }
    free(panel);
}

/* Keys as a panel and values as panels, of a page of exactly its size. */
static void expanded_pages_have_the_bits_of_the_reference(void **state) {
    (void)state;
    static const int head_dims[] = {1, 7, 16, 20, 31, 32, 33, 48, 64, 65, 80, 96, 112, 128, 256};
    static const int counts[] = {1, 15, 16, 17, 31, 32};
    for (int v = 0; v < FIXTURE_N_SIMD; v++) {
        const sl_cpu_kernels *kernels = variant(v);
        if (!kernels) continue;
        for (size_t i = 0; i < 2 * sizeof head_dims / sizeof head_dims[0]; i++) {
            const int head_dim = head_dims[i / 2];
            const sl_kv_format f = sl_kv_format_make(dtypes[i % 2], 1, head_dim);
            const int padded = (head_dim + SL_STRIP - 1) / SL_STRIP * SL_STRIP;
            sl_rng rng = {.key = i};
            for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
                const int n_valid = counts[c];
                uint8_t *head = fixture_alloc(f.head_bytes);
                memset(head, 0xff, f.head_bytes);
                for (int t = 0; t < n_valid; t++) {
                    float *x = fixture_floats(&rng, (size_t)head_dim);
                    sl_kv_put(&f, head, t, x);
                    free(x);
                }
                const size_t row_bytes = sl_kv_row_bytes(&f);
                const sl_cpu_group_rows rows = {.codes = head,
                                                .code_stride = row_bytes,
                                                .pairs = head + SL_PAGE_TOKENS * row_bytes,
                                                .pair_stride = (size_t)sl_kv_groups(&f) * 4,
                                                .bits = sl_dtype_group_bits(f.dtype)};
                float *keys = aligned_alloc(64, (size_t)head_dim * SL_STRIP * sizeof *keys);
                float *values = aligned_alloc(64, (size_t)padded * SL_STRIP * sizeof *values);
                assert_non_null(keys);
                assert_non_null(values);
                kernels->expand_groups(keys, &rows, n_valid, 0, head_dim);
                kernels->group_values(values, &rows, head_dim, n_valid);
                for (int t = 0; t < SL_STRIP; t++) {
                    float y[MAX_ELEMS] = {0};
                    if (t < n_valid) sl_kv_get(&f, head, t, y);
                    for (int d = 0; d < padded; d++) {
                        const int strip = d / SL_STRIP * SL_STRIP * SL_STRIP;
                        assert_same_bits(&values[strip + t * SL_STRIP + d % SL_STRIP], &y[d], 1);
                        if (t < n_valid && d < head_dim)
                            assert_same_bits(&keys[d * SL_STRIP + t], &y[d], 1);
                    }
                }
                free(values);
                free(keys);
                free(head);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pack_group_gives_the_bytes_of_the_reference),
        cmocka_unit_test(the_sign_of_a_zero_does_not_show_in_the_bytes),
        cmocka_unit_test(expanded_rows_have_the_bits_of_the_reference),
        cmocka_unit_test(expanded_pages_have_the_bits_of_the_reference),
    };
    return cmocka_run_group_tests_name("cpu_groups", tests, NULL, NULL);
}
