/* How far rounding alone moves the tokens of the models that placements are tried with: attention's
 * results, off by half a bit of float16 at random, with what follows in float16.  It says what a
 * comparison of placements on a device that computes in float16 can ask for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/rng.h"
#include "cpu/cpu_backend.h"
#include "support/placements.h"

enum { N_SEEDS = 16 };
static const float half_a_bit = 1.0f / 4096.0f;

static const sl_backend_ops *exact;
static uint64_t seed; /* 0: round to float16 only */
static uint64_t n_drawn;

static void round_results(float *x, size_t n, float noise) {
    for (size_t i = 0; i < n; i++) {
        const float u = seed ? (float)sl_rng_unit(sl_rng_at(seed, n_drawn++)) * 2.0f - 1.0f : 0.0f;
        x[i] = sl_f16_to_f32(sl_f32_to_f16(x[i] * (1.0f + noise * u)));
    }
}

static sl_status attend(sl_backend *be, void *out, const void *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows) {
    SL_TRY(exact->attend(be, out, q, ldq, n_heads, cache, scale, window, rows));
    const size_t cols = (size_t)n_heads * (size_t)cache->format.head_dim;
    round_results(out, cols * (size_t)rows->n_rows, half_a_bit);
    return SL_OK;
}

static sl_status norm(sl_backend *be, void *y, const void *x, const float *gain, const float *bias,
                      sl_norm_kind kind, float eps, int n_rows, int cols) {
    SL_TRY(exact->norm(be, y, x, gain, bias, kind, eps, n_rows, cols));
    round_results(y, (size_t)n_rows * (size_t)cols, 0.0f);
    return SL_OK;
}

static sl_status open_rounding(sl_backend **be, sl_host_attention **host) {
    static sl_backend_ops ops;
    const sl_cpu_options cpu = {.n_threads = 1};
    *host = NULL;
    SL_TRY(sl_cpu_backend_open(&cpu, be));
    exact = (*be)->ops;
    ops = *exact;
    ops.attend = attend;
    ops.norm = norm;
    (*be)->ops = &ops;
    n_drawn = 0;
    return SL_OK;
}

static const placement_parts rounding = {.open = open_rounding};

static void run(const char *model, const sl_dtype *precision, placement_outcome *out) {
    const placement alone = placement_all_in_one(0);
    if (placement_run(model, &alone, precision[0], precision[1], NULL, &rounding, 0, out) != SL_OK)
        fail_msg("%s: %s", model, sl_error_message());
}

static void rounding_stays_within_the_tolerance_and_is_not_far_below_it(void **state) {
    (void)state;
    static const char *const models[] = {"opt", "llama-gqa", "qwen2"};
    for (int d = 0; d < N_PLACEMENT_PRECISIONS; d++) {
        const sl_dtype *precision = placement_precisions[d];
        placement_drift drift = {0};
        for (int m = 0; m < 3; m++) {
            placement_outcome expected, found;
            seed = 0;
            run(models[m], precision, &expected);
            for (uint64_t s = 1; s <= N_SEEDS; s++) {
                if (s % SL_TEST_STEP != 1 % SL_TEST_STEP) continue;
                seed = s;
                run(models[m], precision, &found);
                assert_true(placement_compare(models[m], &found, &expected,
                                              placement_tolerance(precision[1]), &drift) > 0);
            }
        }
        char text[120];
        printf("weights %s, cache %s: %s\n", sl_dtype_name(precision[0]),
               sl_dtype_name(precision[1]), placement_drift_text(&drift, text, sizeof text));
        assert_true(drift.largest > placement_tolerance(precision[1]) / 6);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_stays_within_the_tolerance_and_is_not_far_below_it),
    };
    return cmocka_run_group_tests_name("rounding", tests, NULL, NULL);
}
