/* The group formats of 8 and 4 bits: round trips of rows, and of keys and values in pages. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/rng.h"
#include "model/pack.h"
#include "model/quant.h"
#include "store/kv_format.h"

enum { MAX_COLS = 2048 };

static const sl_dtype dtypes[] = {SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};

static float uniform(sl_rng *rng) {
    return (float)(2.0 * sl_rng_unit(sl_rng_next(rng)) - 1.0);
}

/* Packs and unpacks, with guards behind the row. */
static void round_trip(const float *x, sl_dtype dtype, int cols, float *y) {
    size_t bytes;
    assert_int_equal(sl_dtype_row_bytes(dtype, cols, &bytes), SL_OK);
    assert_int_equal(bytes % 16, 0);
    unsigned char *row = malloc(bytes + 16);
    assert_non_null(row);
    memset(row, 0xa5, bytes + 16);
    sl_pack_row(row, x, dtype, cols);
    for (int i = 0; i < 16; i++) assert_int_equal(row[bytes + (size_t)i], 0xa5);
    sl_dequantize_row(y, row, dtype, cols);
    free(row);
}

/* Half a step, where the step is the span over the number of codes, rounded up in f16 from a
 * minimum that was rounded down: both roundings are 2^-10 of what they round at most. */
static double half_step(const float *x, int n, int bits) {
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    const double span = (double)high - low + fabs((double)low) * 0x1p-10 + 0x1p-24;
    return 0.5 * (span / ((1 << bits) - 1) * (1 + 0x1p-10) + 0x1p-24) * (1 + 1e-5);
}

static void check_bound(const float *x, const float *y, int cols, int bits) {
    for (int g = 0; g < cols; g += SL_GROUP_ELEMS) {
        const int n = cols - g < SL_GROUP_ELEMS ? cols - g : SL_GROUP_ELEMS;
        const double bound = half_step(x + g, n, bits);
        for (int i = g; i < g + n; i++)
            if (!(fabs((double)x[i] - y[i]) <= bound))
                fail_msg("element %d of %d: %.9g became %.9g, expected within %.3g", i, cols,
                         (double)x[i], (double)y[i], bound);
    }
}

static void row_of_any_width_returns_within_half_a_step(void **state) {
    (void)state;
    static const int widths[] = {1, 2, 3, 33, 63, 64, 65, 80, 127, 128, 576, 1001, MAX_COLS};
    static const float scales[] = {1e-6f, 1e-3f, 0.02f, 1.0f, 300.0f, 60000.0f};
    static const float offsets[] = {0.0f, 1.0f, -7.5f};
    float x[MAX_COLS], y[MAX_COLS];
    sl_rng rng = {.key = 11};
    for (int d = 0; d < 2; d++)
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
            for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++)
                for (int o = 0; o < 3; o++) {
                    for (int i = 0; i < widths[w]; i++)
                        x[i] = scales[s] * (uniform(&rng) + (scales[s] < 1000.0f ? offsets[o] : 0));
                    round_trip(x, dtypes[d], widths[w], y);
                    check_bound(x, y, widths[w], sl_dtype_group_bits(dtypes[d]));
                }
}

static void constant_rows_are_exact_where_f16_holds_them(void **state) {
    (void)state;
    static const float values[] = {0.0f,     -0.0f,     1.0f,     -3.25f,
                                   0x1p-24f, -0x1p-24f, 65504.0f, -65504.0f};
    float x[200], y[200];
    for (int d = 0; d < 2; d++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            for (int i = 0; i < 200; i++) x[i] = values[v];
            round_trip(x, dtypes[d], 200, y);
            for (int i = 0; i < 200; i++) assert_true(y[i] == values[v]);
        }
}

static void tiny_ranges_are_met_to_the_last_code(void **state) {
    (void)state;
    float x[64], y[64];
    for (int d = 0; d < 2; d++) {
        /* Two values one f16 subnormal apart: an inverse step would be 2^24, beyond f16. */
        for (int i = 0; i < 64; i++) x[i] = i % 2 ? 0x1p-24f : 0.0f;
        round_trip(x, dtypes[d], 64, y);
        for (int i = 0; i < 64; i++) assert_true(y[i] == x[i]);
        /* A constant that f16 does not hold: the codes make up for the rounded minimum. */
        for (int i = 0; i < 64; i++) x[i] = 1000.3f;
        round_trip(x, dtypes[d], 64, y);
        for (int i = 0; i < 64; i++) assert_true(fabsf(y[i] - 1000.3f) < 1e-3f);
    }
}

static void huge_values_are_clamped_and_nothing_overflows(void **state) {
    (void)state;
    float x[64], y[64];
    for (int d = 0; d < 2; d++) {
        const float top = (float)((1 << sl_dtype_group_bits(dtypes[d])) - 1);
        for (int i = 0; i < 64; i++) x[i] = i % 2 ? 3e38f : -3e38f;
        round_trip(x, dtypes[d], 64, y);
        for (int i = 0; i < 64; i++)
            assert_true(y[i] == (i % 2 ? top * 65504.0f - 65504.0f : -65504.0f));
        for (int i = 0; i < 64; i++) x[i] = 2e5f; /* above the largest minimum */
        round_trip(x, dtypes[d], 64, y);
        for (int i = 0; i < 64; i++) assert_true(fabsf(y[i] - 2e5f) < 2e5f * 0x1p-9f);
    }
}

static void values_that_are_not_finite_spoil_their_group_alone(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float x[192], y[192];
    for (int d = 0; d < 2; d++)
        for (int b = 0; b < 3; b++) {
            for (int i = 0; i < 192; i++) x[i] = (float)(i % 16);
            x[70] = bad[b];
            round_trip(x, dtypes[d], 192, y);
            for (int i = 0; i < 192; i++)
                assert_true(i / 64 == 1 ? isnan(y[i]) : fabsf(y[i] - x[i]) < 0.1f);
        }
}

static void codes_lie_where_the_format_says(void **state) {
    (void)state;
    float x[66];
    unsigned char row[64 + 32 + 16];
    for (int i = 0; i < 66; i++) x[i] = (float)(i % 16);
    x[64] = 2.0f, x[65] = 17.0f; /* a second group: step 1, min 2 */
    sl_pack_row(row, x, SL_DTYPE_Q4G64, 66);
    assert_int_equal(row[0], 0x10);
    assert_int_equal(row[1], 0x32);
    assert_int_equal(row[32], 0xf0);
    for (int i = 33; i < 48; i++) assert_int_equal(row[i], 0);
    static const unsigned char pairs[16] = {0x00, 0x3c, 0x00, 0x00, 0x00, 0x3c, 0x00, 0x40};
    assert_memory_equal(row + 48, pairs, 16);
}

static void pages_of_every_format_return_their_tokens(void **state) {
    (void)state;
    static const sl_dtype formats[] = {SL_DTYPE_F32, SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    static const int head_dims[] = {7, 33, 64, 80, 96, 128, 256};
    float x[SL_PAGE_TOKENS][256], y[256];
    sl_rng rng = {.key = 12};
    for (int d = 0; d < 4; d++)
        for (size_t h = 0; h < sizeof head_dims / sizeof head_dims[0]; h++) {
            const int dim = head_dims[h], bits = sl_dtype_group_bits(formats[d]);
            const sl_kv_format f = sl_kv_format_make(formats[d], 2, dim);
            assert_int_equal(f.page_bytes, 4 * f.head_bytes);
            unsigned char *head = malloc(f.head_bytes + 16);
            assert_non_null(head);
            memset(head, 0xa5, f.head_bytes + 16);
            for (int t = SL_PAGE_TOKENS; t-- > 0;) { /* any order: tokens do not touch each other */
                for (int i = 0; i < dim; i++) x[t][i] = uniform(&rng);
                sl_kv_put(&f, head, t, x[t]);
            }
            for (int i = 0; i < 16; i++) assert_int_equal(head[f.head_bytes + (size_t)i], 0xa5);
            for (int t = 0; t < SL_PAGE_TOKENS; t++) {
                sl_kv_get(&f, head, t, y);
                if (bits) check_bound(x[t], y, dim, bits);
                for (int i = 0; i < dim && formats[d] == SL_DTYPE_F32; i++)
                    assert_true(y[i] == x[t][i]);
                for (int i = 0; i < dim && formats[d] == SL_DTYPE_F16; i++)
                    assert_true(fabsf(y[i] - x[t][i]) <= 0x1p-12f);
            }
            free(head);
        }
}

static void row_bytes_that_overflow_are_refused(void **state) {
    (void)state;
    size_t bytes;
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q4G64, 4096, &bytes), SL_OK);
    assert_int_equal(bytes, 2048 + 256);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q8G64, 80, &bytes), SL_OK);
    assert_int_equal(bytes, 80 + 16);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q8G64, INT64_MAX, &bytes), SL_ERR_NOMEM);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q8G64, -1, &bytes), SL_ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_of_any_width_returns_within_half_a_step),
        cmocka_unit_test(constant_rows_are_exact_where_f16_holds_them),
        cmocka_unit_test(tiny_ranges_are_met_to_the_last_code),
        cmocka_unit_test(huge_values_are_clamped_and_nothing_overflows),
        cmocka_unit_test(values_that_are_not_finite_spoil_their_group_alone),
        cmocka_unit_test(codes_lie_where_the_format_says),
        cmocka_unit_test(pages_of_every_format_return_their_tokens),
        cmocka_unit_test(row_bytes_that_overflow_are_refused),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
