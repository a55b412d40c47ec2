/* Packing weights to 4 bits with a search: what is lost against packing by range, and groups for
 * which there is nothing to search. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "model/pack.h"
#include "model/pack_search.h"
#include "model/quant.h"

static float uniform(sl_rng *rng) {
    return (float)(2.0 * sl_rng_unit(sl_rng_next(rng)) - 1.0);
}

/* Near enough to normal, as weights are; standard deviation 1. */
static float normal(sl_rng *rng) {
    float sum = 0.0f;
    for (int i = 0; i < 12; i++) sum += 0.5f * uniform(rng);
    return sum;
}

/* Groups as checkpoints have them, and odd ones. */
static void fill(sl_rng *rng, int kind, float *x, int n) {
    for (int i = 0; i < n; i++) {
        const float z = normal(rng);
        if (kind == 0)
            x[i] = 0.02f * z;
        else if (kind == 1)
            x[i] = i == n / 2 ? 1.0f : 0.02f * z; /* an outlier */
        else if (kind == 2)
            x[i] = (i < n / 2 ? 0.011f : 0.007f) * rintf(2.0f * z); /* quantised before */
        else if (kind == 3)
            x[i] = fabsf(z) * z * 100.0f; /* long tails */
        else if (kind == 4)
            x[i] = 5.0f + 0.01f * z; /* far from 0 */
        else if (kind == 5)
            x[i] = z * 3e-7f; /* a few subnormal steps of f16 */
        else if (kind == 6)
            x[i] = z * 1e4f;
        else if (kind == 7)
            x[i] = i % 2 ? 1.0f : -1.0f;
        else
            x[i] = i == 0 ? 1e-3f : 0.0f;
    }
}
enum { N_KINDS = 9, MAX_COLS = 400 };

typedef struct {
    uint8_t codes[SL_GROUP_ELEMS / 2];
    uint16_t pair[2];
} group;

static double error_of(const group *g, const float *x, int n) {
    float y[SL_GROUP_ELEMS];
    double sum = 0.0;
    sl_unpack_group(y, g->codes, g->pair, 4, n);
    for (int i = 0; i < n; i++) sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sum;
}

static void error_is_never_above_that_of_packing_by_range(void **state) {
    (void)state;
    sl_rng rng = {.key = 31};
    for (int kind = 0; kind < N_KINDS; kind++)
        for (int n = 1; n <= SL_GROUP_ELEMS; n++)
            for (int round = 0; round < 20; round++) {
                float x[SL_GROUP_ELEMS];
                group by_range = {0}, found = {0};
                fill(&rng, kind, x, n);
                sl_pack_group(by_range.codes, by_range.pair, x, 4, n);
                sl_pack_group_search(found.codes, found.pair, x, n);
                /* The two are compared in float32: its rounding, and that of the sum of 64. */
                const double bound = error_of(&by_range, x, n) * (1 + 1e-4);
                if (!(error_of(&found, x, n) <= bound))
                    fail_msg("kind %d, %d elements: squared error %.6g, by range %.6g", kind, n,
                             error_of(&found, x, n), bound);
            }
}

static void squared_error_is_clearly_below_that_of_packing_by_range(void **state) {
    (void)state;
    static const double bounds[4] = {0.9, 0.75, 0.65, 0.8}; /* measured: 0.86, 0.71, 0.60, 0.77 */
    sl_rng rng = {.key = 32};
    for (int kind = 0; kind < 4; kind++) {
        double by_range_sum = 0.0, found_sum = 0.0;
        for (int round = 0; round < 500; round++) {
            float x[SL_GROUP_ELEMS];
            group by_range, found;
            fill(&rng, kind, x, SL_GROUP_ELEMS);
            sl_pack_group(by_range.codes, by_range.pair, x, 4, SL_GROUP_ELEMS);
            sl_pack_group_search(found.codes, found.pair, x, SL_GROUP_ELEMS);
            by_range_sum += error_of(&by_range, x, SL_GROUP_ELEMS);
            found_sum += error_of(&found, x, SL_GROUP_ELEMS);
        }
        if (!(found_sum <= bounds[kind] * by_range_sum))
            fail_msg("kind %d: %.3f of the squared error by range", kind, found_sum / by_range_sum);
    }
}

/* Codes that an f16 step and minimum meet exactly stay exact. */
static void values_on_sixteen_levels_return_exactly(void **state) {
    (void)state;
    float x[SL_GROUP_ELEMS], y[SL_GROUP_ELEMS];
    for (int n = 16; n <= SL_GROUP_ELEMS; n += 7) {
        group g;
        for (int i = 0; i < n; i++) x[i] = -3.0f + 0.25f * (float)(i * 5 % 16);
        sl_pack_group_search(g.codes, g.pair, x, n);
        sl_unpack_group(y, g.codes, g.pair, 4, n);
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
    }
}

static void groups_without_a_choice_are_packed_by_range(void **state) {
    (void)state;
    static const float levels[][2] = {{0.0f, 0.0f},     {-0.0f, -0.0f},     {1.0f, 1.0f},
                                      {2e5f, 2e5f},     {-3e38f, 3e38f},    {-1e30f, -1e30f},
                                      {0.0f, 0x1p-24f}, {65504.0f, -1e6f},  {NAN, 1.0f},
                                      {INFINITY, 1.0f}, {-INFINITY, -1.0f}, {1e-30f, 2e-30f}};
    for (size_t k = 0; k < sizeof levels / sizeof levels[0]; k++)
        for (int n = 1; n <= SL_GROUP_ELEMS; n += 21) {
            float x[SL_GROUP_ELEMS];
            group want = {0}, got;
            memset(&got, 0xa5, sizeof got);
            memset(got.codes + (n + 1) / 2, 0, sizeof got.codes - (size_t)(n + 1) / 2);
            for (int i = 0; i < n; i++) x[i] = levels[k][i % 2];
            sl_pack_group(want.codes, want.pair, x, 4, n);
            sl_pack_group_search(got.codes, got.pair, x, n);
            assert_memory_equal(&got, &want, sizeof got);
        }
}

static void rows_have_the_format_of_every_packer(void **state) {
    (void)state;
    static const int widths[] = {1, 2, 63, 64, 65, 80, 128, 130, MAX_COLS};
    sl_rng rng = {.key = 33};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
        const int cols = widths[w];
        float x[MAX_COLS], y[MAX_COLS];
        unsigned char row[MAX_COLS];
        size_t bytes;
        memset(row, 0xa5, sizeof row);
        assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q4G64, cols, &bytes), SL_OK);
        fill(&rng, 0, x, cols);
        sl_pack_row_search(row, x, cols);
        for (size_t i = bytes; i < sizeof row; i++) assert_int_equal(row[i], 0xa5);
        sl_dequantize_row(y, row, SL_DTYPE_Q4G64, cols);
        for (int i0 = 0; i0 < cols; i0 += SL_GROUP_ELEMS) {
            const int n = cols - i0 < SL_GROUP_ELEMS ? cols - i0 : SL_GROUP_ELEMS;
            float expected[SL_GROUP_ELEMS];
            group g;
            sl_pack_group_search(g.codes, g.pair, x + i0, n);
            sl_unpack_group(expected, g.codes, g.pair, 4, n);
            assert_memory_equal(y + i0, expected, (size_t)n * sizeof *y);
        }
        /* Padding: behind the codes and behind the pairs. */
        const size_t code_bytes = sl_pack_code_bytes(SL_DTYPE_Q4G64, (size_t)cols);
        for (size_t i = (size_t)(cols + 1) / 2; i < code_bytes; i++) assert_int_equal(row[i], 0);
        for (size_t i = code_bytes + (size_t)sl_pack_groups(cols) * 4; i < bytes; i++)
            assert_int_equal(row[i], 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_never_above_that_of_packing_by_range),
        cmocka_unit_test(squared_error_is_clearly_below_that_of_packing_by_range),
        cmocka_unit_test(values_on_sixteen_levels_return_exactly),
        cmocka_unit_test(groups_without_a_choice_are_packed_by_range),
        cmocka_unit_test(rows_have_the_format_of_every_packer),
    };
    return cmocka_run_group_tests_name("pack_search", tests, NULL, NULL);
}
