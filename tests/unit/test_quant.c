/* Unit tests of src/model/quant.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "support/files.h"

#include "model/quant.h"

/* A record of golden/readers/quant.bin: blocks, and the values the gguf package gives them. */
typedef struct {
    sl_dtype dtype;
    uint32_t n;
    size_t bytes;
    const unsigned char *blocks, *values;
} record;

static sl_dtype dtype_named(const char *name) {
    for (int d = 0; d < SL_DTYPE_COUNT; d++)
        if (strcmp(sl_dtype_name((sl_dtype)d), name) == 0) return (sl_dtype)d;
    fail_msg("no dtype is called %s", name);
    return SL_DTYPE_COUNT;
}

static record next_record(const buffer *file, size_t *pos) {
    record r = {0};
    char name[9] = {0};
    uint32_t bytes;
    assert_true(file->bytes - *pos >= 16);
    memcpy(name, file->at + *pos, 8);
    memcpy(&r.n, file->at + *pos + 8, 4);
    memcpy(&bytes, file->at + *pos + 12, 4);
    r.dtype = dtype_named(name);
    r.bytes = bytes;
    r.blocks = file->at + *pos + 16;
    r.values = r.blocks + bytes;
    *pos += 16 + bytes + 4 * (size_t)r.n;
    assert_true(*pos <= file->bytes);
    return r;
}

/* Equal to the last bit: no element is rounded more than once, by either of the two. */
static void blocks_of_every_format_equal_the_gguf_package(void **state) {
    (void)state;
    buffer file = read_whole(SL_TESTS_DIR "/golden/readers/quant.bin");
    size_t pos = 0;
    unsigned seen = 0;
    while (pos < file.bytes) {
        const record r = next_record(&file, &pos);
        size_t row_bytes = 0;
        assert_int_equal(sl_dtype_row_bytes(r.dtype, r.n, &row_bytes), SL_OK);
        assert_int_equal(row_bytes, r.bytes);
        float *y = malloc(4 * (size_t)r.n);
        assert_non_null(y);
        sl_dequantize_row(y, r.blocks, r.dtype, r.n);
        for (uint32_t i = 0; i < r.n; i++) {
            float expected;
            memcpy(&expected, r.values + 4 * (size_t)i, 4);
            if (y[i] != expected)
                fail_msg("%s, element %u: %.9g, expected %.9g", sl_dtype_name(r.dtype), i,
                         (double)y[i], (double)expected);
        }
        free(y);
        seen |= 1u << r.dtype;
    }
    free(file.at);
    /* Every quantised format was there. */
    for (int d = SL_DTYPE_Q4_0; d <= SL_DTYPE_Q6_K; d++) assert_true(seen >> d & 1);
}

static void a_row_may_be_unaligned_and_cut_at_any_block(void **state) {
    (void)state;
    buffer file = read_whole(SL_TESTS_DIR "/golden/readers/quant.bin");
    size_t pos = 0;
    while (pos < file.bytes) {
        const record r = next_record(&file, &pos);
        const int elems = sl_dtype_block_elems(r.dtype);
        const size_t block = sl_dtype_block_bytes(r.dtype);
        unsigned char *moved = malloc(block + 1);
        float y[257];
        assert_non_null(moved);
        memcpy(moved + 1, r.blocks + block, block);
        y[elems] = -77.0f;
        sl_dequantize_row(y, moved + 1, r.dtype, elems);
        assert_memory_equal(y, r.values + 4 * (size_t)elems, 4 * (size_t)elems);
        assert_true(y[elems] == -77.0f); /* nothing is written behind the row */
        sl_dequantize_row(y, moved + 1, r.dtype, 0);
        assert_memory_equal(y, r.values + 4 * (size_t)elems, 4 * (size_t)elems);
        free(moved);
    }
    free(file.at);
}

static void plain_formats_are_converted_element_by_element(void **state) {
    (void)state;
    const float values[] = {0.0f, -1.5f, 65504.0f, 0x1p-24f, -0.0f, 3.0f};
    unsigned char x[4 * 6 + 1];
    float y[6];
    memcpy(x + 1, values, sizeof values);
    sl_dequantize_row(y, x + 1, SL_DTYPE_F32, 6);
    assert_memory_equal(y, values, sizeof values);

    for (int i = 0; i < 6; i++) {
        const sl_f16 h = sl_f32_to_f16(values[i]);
        memcpy(x + 1 + 2 * i, &h, 2);
    }
    sl_dequantize_row(y, x + 1, SL_DTYPE_F16, 6);
    assert_memory_equal(y, values, sizeof values);

    for (int i = 0; i < 6; i++) {
        const sl_bf16 h = sl_f32_to_bf16(values[i]);
        memcpy(x + 1 + 2 * i, &h, 2);
    }
    sl_dequantize_row(y, x + 1, SL_DTYPE_BF16, 6);
    for (int i = 0; i < 6; i++)
        assert_true(y[i] == (i == 2 ? 65536.0f : values[i])); /* 65504 has 11 bits, bf16 has 8 */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_every_format_equal_the_gguf_package),
        cmocka_unit_test(a_row_may_be_unaligned_and_cut_at_any_block),
        cmocka_unit_test(plain_formats_are_converted_element_by_element),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
