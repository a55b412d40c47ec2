/* Unit tests of src/base: bytes, dtype, half, rng, status, clock. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/status.h"

static void size_products_and_sums_that_overflow_are_errors(void **state) {
    (void)state;
    size_t out = 77;
    assert_int_equal(sl_size_mul(SIZE_MAX / 3, 3, &out), SL_OK);
    assert_true(out == SIZE_MAX / 3 * 3);
    assert_int_equal(sl_size_mul(0, SIZE_MAX, &out), SL_OK);
    assert_int_equal(out, 0);
    assert_int_equal(sl_size_add(SIZE_MAX - 1, 1, &out), SL_OK);
    assert_true(out == SIZE_MAX);
    out = 77;
    assert_int_equal(sl_size_mul(SIZE_MAX / 2 + 1, 2, &out), SL_ERR_NOMEM);
    assert_int_equal(sl_size_add(SIZE_MAX, 1, &out), SL_ERR_NOMEM);
    assert_int_equal(out, 77);
    assert_non_null(strstr(sl_error_message(), "18446744073709551615 + 1"));
}

static void align_up_gives_the_next_multiple(void **state) {
    (void)state;
    assert_int_equal(sl_align_up(0, 4096), 0);
    assert_int_equal(sl_align_up(1, 4096), 4096);
    assert_int_equal(sl_align_up(4096, 4096), 4096);
    assert_int_equal(sl_align_up(4097, 4096), 8192);
    assert_int_equal(sl_align_up(7, 1), 7);
}

static void sizes_are_parsed_with_their_units(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"1B", 1},
        {"1.5GiB", 3u << 29},
        {"16GiB", 16ull << 30},
        {"512MiB", 512u << 20},
        {"3 KiB", 3072},
        {"2T", 2ull << 40},
        {"7mib", 7u << 20},
        {"1e3", 1000},
        {"0.5k", 512},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        size_t out = 1;
        assert_int_equal(sl_bytes_parse(good[i].text, &out), SL_OK);
        assert_true(out == good[i].bytes);
    }
    static const char *const bad[] = {"",    "GiB",  "-1",    "1XB",       "1 GiB x", "nan",
                                      "inf", "1e30", "1e999", "99999999T", "16GiBs"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t out = 77;
        assert_int_equal(sl_bytes_parse(bad[i], &out), SL_ERR_ARG);
        assert_int_equal(out, 77);
        assert_non_null(strstr(sl_error_message(), bad[i]));
    }
}

static void sizes_are_shown_in_a_readable_unit(void **state) {
    (void)state;
    char buf[32];
    assert_string_equal(sl_bytes_format(0, buf, sizeof buf), "0 B");
    assert_string_equal(sl_bytes_format(1023, buf, sizeof buf), "1023 B");
    assert_string_equal(sl_bytes_format(5u << 28, buf, sizeof buf), "1.25 GiB");
    /* Whatever is shown can be parsed again, to the digits shown. */
    static const size_t sizes[] = {1, 1024, 1536, 123456789, 1ull << 40, 1ull << 50};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t back = 0;
        assert_int_equal(sl_bytes_parse(sl_bytes_format(sizes[i], buf, sizeof buf), &back), SL_OK);
        assert_true(fabs((double)back - (double)sizes[i]) <= 0.005 * (double)sizes[i]);
    }
}

static void formats_have_the_sizes_of_their_blocks(void **state) {
    (void)state;
    static const struct {
        sl_dtype dtype;
        const char *name;
        size_t bytes_of_256; /* 256 elements */
    } known[SL_DTYPE_COUNT] = {
        {SL_DTYPE_F32, "F32", 1024},
        {SL_DTYPE_F16, "F16", 512},
        {SL_DTYPE_BF16, "BF16", 512},
        {SL_DTYPE_Q4_0, "Q4_0", 8 * 18},
        {SL_DTYPE_Q4_1, "Q4_1", 8 * 20},
        {SL_DTYPE_Q5_0, "Q5_0", 8 * 22},
        {SL_DTYPE_Q5_1, "Q5_1", 8 * 24},
        {SL_DTYPE_Q8_0, "Q8_0", 8 * 34},
        {SL_DTYPE_Q4_K, "Q4_K", 144},
        {SL_DTYPE_Q5_K, "Q5_K", 176},
        {SL_DTYPE_Q6_K, "Q6_K", 210},
        {SL_DTYPE_Q8G64, "Q8G64", 256 + 4 * 4},
        {SL_DTYPE_Q4G64, "Q4G64", 128 + 4 * 4},
    };
    for (int i = 0; i < SL_DTYPE_COUNT; i++) {
        size_t bytes = 0;
        assert_string_equal(sl_dtype_name(known[i].dtype), known[i].name);
        assert_int_equal(sl_dtype_row_bytes(known[i].dtype, 256, &bytes), SL_OK);
        assert_int_equal(bytes, known[i].bytes_of_256);
        assert_int_equal(256 % sl_dtype_block_elems(known[i].dtype), 0);
        assert_int_equal(sl_dtype_row_bytes(known[i].dtype, 0, &bytes), SL_OK);
        assert_int_equal(bytes, 0);
    }
}

static void rows_that_no_format_can_hold_are_refused(void **state) {
    (void)state;
    size_t bytes = 77;
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q4_0, 33, &bytes), SL_ERR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "33"));
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_Q6_K, 128, &bytes), SL_ERR_FORMAT);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_F32, -1, &bytes), SL_ERR_FORMAT);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_F32, INT64_MAX, &bytes), SL_ERR_NOMEM);
    assert_int_equal(sl_dtype_row_bytes(SL_DTYPE_COUNT, 32, &bytes), SL_ERR_FORMAT);
    assert_int_equal(sl_dtype_row_bytes((sl_dtype)-1, 32, &bytes), SL_ERR_FORMAT);
    assert_int_equal(bytes, 77);
    assert_string_equal(sl_dtype_name(SL_DTYPE_COUNT), "?");
}

/* The value of an f16 by its definition. */
static double f16_value(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double sign = h & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void every_f16_is_converted_exactly_and_back(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = sl_f16_to_f32((sl_f16)h);
        const double expected = f16_value((uint16_t)h);
        if (isnan(expected)) {
            assert_true(isnan(f));
            const sl_f16 back = sl_f32_to_f16(f);
            assert_true(isnan(f16_value(back)));
            assert_int_equal(back & 0x8000, h & 0x8000);
            continue;
        }
        assert_true((double)f == expected);
        assert_int_equal(signbit(f) != 0, h >> 15);
        assert_int_equal(sl_f32_to_f16(f), h);
    }
}

/* Between any two neighbours: the middle goes to the even one, what is a bit beside it to the
 * nearer.  65520 is the middle between the largest f16 and what would be the next: infinity. */
static void rounding_to_f16_is_to_nearest_even_everywhere(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const double low = f16_value((uint16_t)h);
        const double high = h + 1 == 0x7c00 ? 65536.0 : f16_value((uint16_t)(h + 1));
        const float middle = (float)((low + high) / 2); /* exact: one bit more than an f16 */
        for (uint32_t sign = 0; sign < 2; sign++) {
            const uint32_t s = sign << 31, s16 = sign << 15, even = h % 2 ? h + 1 : h;
            assert_int_equal(sl_f32_to_f16(float_of(bits_of(middle) | s)), even | s16);
            assert_int_equal(sl_f32_to_f16(float_of((bits_of(middle) - 1) | s)), h | s16);
            assert_int_equal(sl_f32_to_f16(float_of((bits_of(middle) + 1) | s)), (h + 1) | s16);
        }
    }
    assert_int_equal(sl_f32_to_f16(65536.0f), 0x7c00);
    assert_int_equal(sl_f32_to_f16(-3e38f), 0xfc00);
    assert_int_equal(sl_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(sl_f32_to_f16(0x1p-149f), 0);
    assert_int_equal(sl_f32_to_f16(-0x1p-149f), 0x8000);
}

static void rounding_to_bf16_is_to_nearest_even_everywhere(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = sl_bf16_to_f32((sl_bf16)h);
        assert_int_equal(bits_of(f), h << 16);
        if (isnan(f)) {
            assert_true(isnan(sl_bf16_to_f32(sl_f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(sl_f32_to_bf16(f), h);
        if (isinf(f)) continue;
        assert_int_equal(sl_f32_to_bf16(float_of(h << 16 | 0x7fffu)), h);
        assert_int_equal(sl_f32_to_bf16(float_of(h << 16 | 0x8000u)), h + h % 2);
        assert_int_equal(sl_f32_to_bf16(float_of(h << 16 | 0x8001u)), h + 1);
    }
    /* A NaN whose mark is in the lower half only must not become infinity. */
    assert_true(isnan(sl_bf16_to_f32(sl_f32_to_bf16(float_of(0x7f800001u)))));
    assert_true(isnan(sl_bf16_to_f32(sl_f32_to_bf16(float_of(0xffffffffu)))));
}

/* Values from an implementation of the same formula in Python. */
static void random_numbers_are_the_documented_function(void **state) {
    (void)state;
    assert_true(sl_rng_at(0, 0) == 0xf5dd724ff3b8a536u);
    assert_true(sl_rng_at(0, 1) == 0x7c6ede0099d1dac1u);
    assert_true(sl_rng_at(1, 0) == 0x6b00d4b59469b24cu);
    assert_true(sl_rng_at(UINT64_MAX, UINT64_MAX) == 0x4b583a64d527b723u);
    assert_true(sl_rng_at(0x123456789abcdefu, 42) == 0x450c6b5d4e568b9u);
    sl_rng rng = {.key = 9, .counter = 5};
    assert_true(sl_rng_next(&rng) == sl_rng_at(9, 5));
    assert_true(sl_rng_next(&rng) == sl_rng_at(9, 6));
}

static void random_numbers_keep_to_their_range_and_fill_it(void **state) {
    (void)state;
    enum { DRAWS = 70000, SIDES = 7 };
    sl_rng rng = {.key = 1234, .counter = 0};
    int seen[SIDES] = {0};
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        const uint64_t k = sl_rng_below(&rng, SIDES);
        assert_in_range(k, 0, SIDES - 1);
        seen[k]++;
        const double u = sl_rng_unit(sl_rng_next(&rng));
        assert_true(u >= 0.0 && u < 1.0);
        sum += u;
    }
    /* Five standard deviations: 92.6 for a count, 0.0011 for the mean. */
    for (int k = 0; k < SIDES; k++)
        assert_in_range(seen[k], DRAWS / SIDES - 463, DRAWS / SIDES + 463);
    assert_true(fabs(sum / DRAWS - 0.5) < 0.0055);
    assert_true(sl_rng_unit(UINT64_MAX) < 1.0);
    assert_true(sl_rng_unit(0) == 0.0);
    assert_int_equal(sl_rng_below(&rng, 1), 0);
}

/* The published test vectors of FNV-1a, 64 bits. */
static void hash_of_a_text_is_fnv_1a(void **state) {
    (void)state;
    assert_true(sl_rng_hash("") == 0xcbf29ce484222325u);
    assert_true(sl_rng_hash("a") == 0xaf63dc4c8601ec8cu);
    assert_true(sl_rng_hash("foobar") == 0x85944171f73967e8u);
}

static void failure_records_its_message_and_place(void **state) {
    (void)state;
    assert_int_equal(SL_FAIL(SL_ERR_IO, "read %s: %d of %d", "x.bin", 3, 7), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "read x.bin: 3 of 7 (test_base.c:"));
    /* The old message may be part of the new one. */
    assert_int_equal(SL_FAIL(SL_ERR_COMM, "rank 2: %s", sl_error_message()), SL_ERR_COMM);
    assert_memory_equal(sl_error_message(), "rank 2: read x.bin: 3 of 7 (test_base.c:", 40);
    assert_int_equal(sl_fail_text(SL_ERR_NOMEM, "as it was"), SL_ERR_NOMEM);
    assert_string_equal(sl_error_message(), "as it was");
}

static void long_message_is_cut(void **state) {
    (void)state;
    char text[4000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(SL_FAIL(SL_ERR_ARG, "%s", text), SL_ERR_ARG);
    assert_in_range(strlen(sl_error_message()), 1000, 1023);
    assert_int_equal(sl_fail_text(SL_ERR_ARG, text), SL_ERR_ARG);
    assert_in_range(strlen(sl_error_message()), 1000, 1023);
}

static void *fail_elsewhere(void *arg) {
    *(int *)arg = strlen(sl_error_message()) == 0 && sl_fail_text(SL_ERR_IO, "other") == SL_ERR_IO;
    return NULL;
}

static void messages_of_threads_are_apart(void **state) {
    (void)state;
    pthread_t thread;
    int was_empty = 0;
    sl_fail_text(SL_ERR_ARG, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &was_empty), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(was_empty, 1);
    assert_string_equal(sl_error_message(), "mine");
}

static sl_status try_it(sl_status st, int *reached) {
    SL_TRY(st);
    *reached = 1;
    return SL_OK;
}

static sl_status go_on(sl_status first, int *cleaned) {
    sl_status st = SL_OK;
    SL_GO(first);
    return SL_OK;
fail:
    *cleaned = 1;
    return st;
}

static void try_and_go_pass_the_status_up(void **state) {
    (void)state;
    int reached = 0, cleaned = 0;
    assert_int_equal(try_it(SL_ERR_IO, &reached), SL_ERR_IO);
    assert_int_equal(reached, 0);
    assert_int_equal(try_it(SL_OK, &reached), SL_OK);
    assert_int_equal(reached, 1);
    assert_int_equal(go_on(SL_OK, &cleaned), SL_OK);
    assert_int_equal(cleaned, 0);
    assert_int_equal(go_on(SL_ERR_FORMAT, &cleaned), SL_ERR_FORMAT);
    assert_int_equal(cleaned, 1);
}

static void every_status_has_a_name_of_its_own(void **state) {
    (void)state;
    for (int a = SL_OK; a <= SL_ERR_STOPPED; a++) {
        assert_string_not_equal(sl_status_name((sl_status)a), "unknown status");
        for (int b = SL_OK; b < a; b++)
            assert_string_not_equal(sl_status_name((sl_status)a), sl_status_name((sl_status)b));
    }
    assert_string_equal(sl_status_name((sl_status)99), "unknown status");
}

static void clock_never_goes_back(void **state) {
    (void)state;
    double last = sl_clock_s();
    for (int i = 0; i < 1000; i++) {
        const double now = sl_clock_s();
        assert_true(now >= last);
        last = now;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_products_and_sums_that_overflow_are_errors),
        cmocka_unit_test(align_up_gives_the_next_multiple),
        cmocka_unit_test(sizes_are_parsed_with_their_units),
        cmocka_unit_test(sizes_are_shown_in_a_readable_unit),
        cmocka_unit_test(formats_have_the_sizes_of_their_blocks),
        cmocka_unit_test(rows_that_no_format_can_hold_are_refused),
        cmocka_unit_test(every_f16_is_converted_exactly_and_back),
        cmocka_unit_test(rounding_to_f16_is_to_nearest_even_everywhere),
        cmocka_unit_test(rounding_to_bf16_is_to_nearest_even_everywhere),
        cmocka_unit_test(random_numbers_are_the_documented_function),
        cmocka_unit_test(random_numbers_keep_to_their_range_and_fill_it),
        cmocka_unit_test(hash_of_a_text_is_fnv_1a),
        cmocka_unit_test(failure_records_its_message_and_place),
        cmocka_unit_test(long_message_is_cut),
        cmocka_unit_test(messages_of_threads_are_apart),
        cmocka_unit_test(try_and_go_pass_the_status_up),
        cmocka_unit_test(every_status_has_a_name_of_its_own),
        cmocka_unit_test(clock_never_goes_back),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
