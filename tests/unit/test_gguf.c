/* Unit tests of src/model/gguf.c and gguf_meta.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/checkpoints.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put_string(buffer *b, const char *text) {
    put_u64(b, strlen(text));
    put_text(b, text);
}

static void put_key(buffer *b, const char *key, uint32_t type) {
    put_string(b, key);
    put_u32(b, type);
}

static void put_preamble(buffer *b, uint64_t n_tensors, uint64_t n_pairs) {
    put_text(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_pairs);
}

/* A tensor of two dimensions, fastest first. */
static void put_info(buffer *b, const char *name, uint64_t cols, uint64_t rows, uint32_t type,
                     uint64_t offset) {
    put_string(b, name);
    put_u32(b, 2);
    put_u64(b, cols);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static void put_ramp(buffer *b, int n, float start, float step) {
    for (int i = 0; i < n; i++) put_f32(b, start + step * (float)i);
}

/* Two tensors and nothing else: the honest file that the lies below start from. */
static buffer two_tensors(void) {
    buffer b = {0};
    put_preamble(&b, 2, 0);
    put_info(&b, "first", 3, 2, 0, 0);
    put_info(&b, "second", 2, 2, 0, 32);
    pad_to(&b, 32);
    put_ramp(&b, 6, 1.0f, 1.0f);
    pad_to(&b, 32);
    put_ramp(&b, 4, -1.0f, 0.5f);
    return b;
}

static void file_written_by_the_gguf_package_is_read(void **state) {
    (void)state;
    sl_checkpoint *ckpt = assert_opens(sl_gguf_open, SL_TESTS_DIR "/golden/readers/written.gguf");
    float y[128];
    assert_int_equal(sl_checkpoint_format(ckpt), SL_CHECKPOINT_GGUF);
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 3);
    read_tensor(ckpt, "f32", SL_DTYPE_F32, DIMS(3, 5), y);
    assert_ramp(y, 15, 1.0f, 0.25f);
    read_tensor(ckpt, "f16", SL_DTYPE_F16, DIMS(2, 3, 4), y);
    assert_ramp(y, 24, -2.0f, 0.25f);
    read_tensor(ckpt, "q8", SL_DTYPE_Q8_0, DIMS(2, 64), y);
    for (int i = 0; i < 128; i++) /* half a step of 1/127 */
        assert_float_equal(y[i], -1.0f + 2.0f * (float)i / 127.0f, 0.5f / 127.0f + 1e-4f);

    const sl_gguf_value *v = sl_gguf_find(ckpt, "general.architecture");
    assert_int_equal(v->kind, SL_GGUF_STRING);
    assert_string_equal(v->s, "llama");
    v = sl_gguf_find(ckpt, "llama.block_count");
    assert_int_equal(v->kind, SL_GGUF_INT);
    assert_int_equal(v->i, 3);
    v = sl_gguf_find(ckpt, "llama.attention.layer_norm_rms_epsilon");
    assert_int_equal(v->kind, SL_GGUF_FLOAT);
    assert_true(v->f == 0.5);
    v = sl_gguf_find(ckpt, "tokenizer.ggml.add_bos_token");
    assert_int_equal(v->kind, SL_GGUF_BOOL);
    assert_int_equal(v->i, 1);
    v = sl_gguf_find(ckpt, "tokenizer.ggml.tokens");
    assert_int_equal(v->kind, SL_GGUF_ARRAY);
    assert_int_equal(v->elem_kind, SL_GGUF_STRING);
    assert_int_equal(v->n, 4);
    assert_string_equal(v->strings[1], "\xc3\xa9");
    assert_int_equal(v->string_bytes[2], 0);
    assert_string_equal(v->strings[3], "\xc4\xa0word");
    v = sl_gguf_find(ckpt, "tokenizer.ggml.scores");
    assert_int_equal(v->elem_kind, SL_GGUF_FLOAT);
    assert_true(v->floats[0] == 0.5 && v->floats[1] == -1.0);
    v = sl_gguf_find(ckpt, "tokenizer.ggml.token_type");
    assert_int_equal(v->elem_kind, SL_GGUF_INT);
    assert_int_equal(v->ints[3], -4);
    assert_null(sl_gguf_find(ckpt, "tokenizer.ggml.merges"));
    assert_null(sl_checkpoint_find(ckpt, "f3"));
    sl_checkpoint_close(ckpt);
}

/* Writes one value of every type under the name of its type. */
static void put_all_types(buffer *b) {
    put_key(b, "u8", U8), put_u8(b, 255);
    put_key(b, "i8", I8), put_u8(b, 0x80);
    put_key(b, "u16", U16), put_u16(b, 65535);
    put_key(b, "i16", I16), put_u16(b, 0x8000);
    put_key(b, "u32", U32), put_u32(b, UINT32_MAX);
    put_key(b, "i32", I32), put_u32(b, 0x80000000u);
    put_key(b, "f32", F32), put_f32(b, 0.1f);
    put_key(b, "bool", BOOL), put_u8(b, 1);
    put_key(b, "string", STRING), put_u64(b, 3), put(b, "a\0b", 3);
    put_key(b, "u64", U64), put_u64(b, INT64_MAX);
    put_key(b, "i64", I64), put_u64(b, (uint64_t)INT64_MIN);
    put_key(b, "f64", F64), put_number(b, 0x3fb999999999999au, 8); /* 0.1 */
    put_key(b, "bools", ARRAY), put_u32(b, BOOL), put_u64(b, 3), put(b, "\1\0\1", 3);
    put_key(b, "none", ARRAY), put_u32(b, STRING), put_u64(b, 0);
    put_key(b, "u64s", ARRAY), put_u32(b, U64), put_u64(b, 1), put_u64(b, 7);
}

static void assert_int_value(const sl_checkpoint *ckpt, const char *key, int64_t expected) {
    const sl_gguf_value *v = sl_gguf_find(ckpt, key);
    assert_non_null(v);
    assert_int_equal(v->kind, SL_GGUF_INT);
    assert_true(v->i == expected);
}

static void metadata_of_every_type_is_read_in_version_2_too(void **state) {
    char path[4096];
    for (unsigned version = 2; version <= 3; version++) {
        buffer b = {0};
        put_text(&b, "GGUF");
        put_u32(&b, version);
        put_u64(&b, 1);
        put_u64(&b, 15);
        put_all_types(&b);
        put_info(&b, "w", 2, 1, 0, 0);
        pad_to(&b, 32);
        put_ramp(&b, 2, 0.0f, 1.0f);
        write_buffer(path_in(*state, "types.gguf", path), &b);
        sl_checkpoint *ckpt = assert_opens(sl_gguf_open, path);
        assert_int_value(ckpt, "u8", 255);
        assert_int_value(ckpt, "i8", -128);
        assert_int_value(ckpt, "u16", 65535);
        assert_int_value(ckpt, "i16", -32768);
        assert_int_value(ckpt, "u32", UINT32_MAX);
        assert_int_value(ckpt, "i32", INT32_MIN);
        assert_int_value(ckpt, "u64", INT64_MAX);
        assert_int_value(ckpt, "i64", INT64_MIN);
        assert_true(sl_gguf_find(ckpt, "f32")->f == (double)0.1f);
        assert_true(sl_gguf_find(ckpt, "f64")->f == 0.1);
        const sl_gguf_value *v = sl_gguf_find(ckpt, "string");
        assert_int_equal(v->s_bytes, 3);
        assert_memory_equal(v->s, "a\0b", 4);
        v = sl_gguf_find(ckpt, "bools");
        assert_int_equal(v->elem_kind, SL_GGUF_BOOL);
        assert_true(v->n == 3 && v->ints[0] == 1 && v->ints[1] == 0 && v->ints[2] == 1);
        assert_int_equal(sl_gguf_find(ckpt, "none")->n, 0);
        assert_int_equal(sl_gguf_find(ckpt, "u64s")->ints[0], 7);
        sl_checkpoint_close(ckpt);
    }
}

static void tensors_are_found_and_read_at_their_offsets(void **state) {
    char path[4096];
    buffer b = two_tensors();
    write_buffer(path_in(*state, "two.gguf", path), &b);
    sl_checkpoint *ckpt = assert_opens(sl_gguf_open, path);
    float y[6];
    const sl_tensor *first = read_tensor(ckpt, "first", SL_DTYPE_F32, DIMS(2, 3), y);
    assert_ramp(y, 6, 1.0f, 1.0f);
    assert_string_equal(first->file, path);
    assert_int_equal(first->bytes, 24);
    read_tensor(ckpt, "second", SL_DTYPE_F32, DIMS(2, 2), y);
    assert_ramp(y, 4, -1.0f, 0.5f);
    assert_string_equal(sl_checkpoint_path(ckpt), path);
    assert_ptr_equal(sl_checkpoint_tensor(ckpt, 0), first);
    assert_null(sl_checkpoint_tensor(ckpt, 2));
    sl_checkpoint_close(ckpt);
}

static void reading_rows_checks_its_arguments(void **state) {
    char path[4096];
    buffer b = two_tensors();
    write_buffer(path_in(*state, "two.gguf", path), &b);
    sl_checkpoint *ckpt = assert_opens(sl_gguf_open, path);
    const sl_tensor *t = sl_checkpoint_find(ckpt, "first"), copy = *t;
    float y[6] = {0};
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 1, 1, y, 12), SL_OK);
    assert_ramp(y, 3, 4.0f, 1.0f);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 2, 0, y, 0), SL_OK);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, -1, 1, y, 12), SL_ERR_ARG);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 1, 2, y, 24), SL_ERR_ARG);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 1, INT64_MAX, y, 12), SL_ERR_ARG);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 0, 1, y, 11), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "first"));
    assert_int_equal(sl_checkpoint_read_rows(ckpt, &copy, 0, 1, y, 12), SL_ERR_ARG);
    sl_checkpoint_close(ckpt);
}

static void reading_a_file_that_shrank_names_tensor_and_place(void **state) {
    char path[4096];
    buffer b = two_tensors();
    const size_t bytes = b.bytes;
    write_buffer(path_in(*state, "two.gguf", path), &b);
    sl_checkpoint *ckpt = assert_opens(sl_gguf_open, path);
    float y[4];
    assert_int_equal(truncate(path, (off_t)bytes - 4), 0);
    const sl_tensor *t = sl_checkpoint_find(ckpt, "second");
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 0, 1, y, 8), SL_OK);
    assert_int_equal(sl_checkpoint_read_rows(ckpt, t, 0, 2, y, 16), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), path));
    assert_non_null(strstr(sl_error_message(), "second"));
    assert_non_null(strstr(sl_error_message(), "ended after 12"));
    sl_checkpoint_close(ckpt);
}

static void every_truncation_is_refused(void **state) {
    char path[4096];
    buffer b = two_tensors();
    path_in(*state, "cut.gguf", path);
    for (size_t n = 0; n < b.bytes; n++) {
        write_bytes(path, b.at, n);
        assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path));
    }
    free(b.at);
}

static void lies_in_the_preamble_are_refused(void **state) {
    char path[4096];
    path_in(*state, "lie.gguf", path);
    const struct {
        uint32_t version;
        uint64_t n_tensors, n_pairs;
        const char *says;
    } lies[] = {
        {1, 0, 0, "version 1"},
        {4, 0, 0, "version 4"},
        {0x03000000u, 0, 0, "big-endian"},
        {3, UINT64_MAX, 0, "18446744073709551615"},
        {3, 0, UINT64_MAX, "18446744073709551615"},
        {3, 1000, 0, "table of tensors: claims 1000 items"},
        {3, 0, 1000, "claims 1000 items"},
        {3, 0, 0, "no tensor"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        buffer b = {0};
        put_text(&b, "GGUF");
        put_u32(&b, lies[i].version);
        put_u64(&b, lies[i].n_tensors);
        put_u64(&b, lies[i].n_pairs);
        put_zeros(&b, 64);
        write_buffer(path, &b);
        assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path, lies[i].says));
    }
    write_bytes(path, "GGUX\3\0\0\0", 8);
    assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "GGUX"));
}

/* `pairs` is `n` metadata pairs; a plausible tensor follows. */
static void assert_pairs_refused(const char *path, buffer pairs, unsigned n, const char *what,
                                 const char *found) {
    buffer b = {0};
    put_preamble(&b, 1, n);
    put(&b, pairs.at, pairs.bytes);
    put_info(&b, "w", 2, 1, 0, 0);
    pad_to(&b, 32);
    put_zeros(&b, 64);
    free(pairs.at);
    write_buffer(path, &b);
    assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path, what, found));
}

static void lies_in_metadata_are_refused_by_key(void **state) {
    char path[4096];
    buffer b = {0};
    path_in(*state, "lie.gguf", path);
    put_key(&b, "k", 13), put_zeros(&b, 8);
    assert_pairs_refused(path, b, 1, "\"k\"", "type 13");
    b = (buffer){0}, put_key(&b, "k", BOOL), put_u8(&b, 2);
    assert_pairs_refused(path, b, 1, "\"k\"", "bool is 2");
    b = (buffer){0}, put_key(&b, "k", U64), put_u64(&b, (uint64_t)INT64_MAX + 1);
    assert_pairs_refused(path, b, 1, "\"k\"", "9223372036854775808");
    b = (buffer){0}, put_key(&b, "k", STRING), put_u64(&b, 5000);
    assert_pairs_refused(path, b, 1, "\"k\"", "5000");
    b = (buffer){0}, put_key(&b, "k", STRING), put_u64(&b, UINT64_MAX);
    assert_pairs_refused(path, b, 1, "\"k\"", "18446744073709551615");
    b = (buffer){0}, put_key(&b, "k", STRING), put_string(&b, "caf\xe9");
    assert_pairs_refused(path, b, 1, "\"k\"", "caf?");
    b = (buffer){0}, put_key(&b, "k", ARRAY), put_u32(&b, ARRAY), put_u64(&b, 1);
    assert_pairs_refused(path, b, 1, "\"k\"", "array of type 9");
    b = (buffer){0}, put_key(&b, "k", ARRAY), put_u32(&b, U8), put_u64(&b, 5000);
    assert_pairs_refused(path, b, 1, "\"k\"", "claims 5000 items");
    b = (buffer){0}, put_key(&b, "k", ARRAY), put_u32(&b, F64), put_u64(&b, UINT64_MAX / 8 + 2);
    assert_pairs_refused(path, b, 1, "\"k\"", "claims 2305843009213693953 items");
    b = (buffer){0}, put_key(&b, "k", ARRAY), put_u32(&b, STRING), put_u64(&b, 2);
    put_string(&b, "fine"), put_string(&b, "\xed\xa0\x80");
    assert_pairs_refused(path, b, 1, "\"k\"", "UTF-8");
    b = (buffer){0}, put_key(&b, "same", U8), put_u8(&b, 1), put_key(&b, "same", U8), put_u8(&b, 1);
    assert_pairs_refused(path, b, 2, "\"same\"", "twice");
    b = (buffer){0}, put_key(&b, "", U8), put_u8(&b, 1);
    assert_pairs_refused(path, b, 1, "key 0", "text");
    b = (buffer){0}, put_u64(&b, 70000), put_zeros(&b, 70000), put_u32(&b, U8), put_u8(&b, 1);
    assert_pairs_refused(path, b, 1, "key 0", "70000");
    b = (buffer){0}, put_key(&b, "general.alignment", U32), put_u32(&b, 24);
    assert_pairs_refused(path, b, 1, "general.alignment", "24");
    b = (buffer){0}, put_key(&b, "general.alignment", STRING), put_string(&b, "32");
    assert_pairs_refused(path, b, 1, "general.alignment", "is 0");
}

static void assert_info_refused(const char *path, buffer info, const char *what,
                                const char *found) {
    buffer b = {0};
    put_preamble(&b, 1, 0);
    put(&b, info.at, info.bytes);
    pad_to(&b, 32);
    put_zeros(&b, 256);
    free(info.at);
    write_buffer(path, &b);
    assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path, what, found));
}

static buffer info_of(const char *name, uint64_t cols, uint64_t rows, uint32_t type,
                      uint64_t offset) {
    buffer b = {0};
    put_info(&b, name, cols, rows, type, offset);
    return b;
}

static void lies_about_a_tensor_are_refused_by_name(void **state) {
    char path[4096], name[300];
    path_in(*state, "lie.gguf", path);
    assert_info_refused(path, info_of("w", 256, 1, 10, 0), "\"w\"", "type 10");
    assert_info_refused(path, info_of("w", 2, 1, UINT32_MAX, 0), "\"w\"", "type 4294967295");
    assert_info_refused(path, info_of("w", 0, 1, 0, 0), "\"w\"", "dimension 0 is 0");
    assert_info_refused(path, info_of("w", 2, UINT64_MAX, 0, 0), "\"w\"", "18446744073709551615");
    assert_info_refused(path, info_of("w", 1u << 31, 1ull << 33, 0, 0), "\"w\"", "overflow");
    assert_info_refused(path, info_of("w", 1u << 31, 1ull << 31, 0, 0), "\"w\"", "overflow");
    assert_info_refused(path, info_of("w", 48, 1, 2, 0), "\"w\"", "rows of 48");
    assert_info_refused(path, info_of("w", 128, 1, 12, 0), "\"w\"", "Q4_K's block of 256");
    assert_info_refused(path, info_of("w", 8, 9, 0, 0), "\"w\"", "288 bytes");
    assert_info_refused(path, info_of("w", 2, 1, 0, 8), "\"w\"", "offset 8");
    assert_info_refused(path, info_of("w", 2, 1, 0, 256), "\"w\"", "8 bytes");
    assert_info_refused(path, info_of("w", 2, 1, 0, UINT64_MAX - 31), "\"w\"",
                        "18446744073709551584");
    assert_info_refused(path, info_of("", 2, 1, 0, 0), "name", "0 bytes");
    assert_info_refused(path, info_of("a\nb", 2, 1, 0, 0), "a?b", "control");
    assert_info_refused(path, info_of("\xff", 2, 1, 0, 0), "\"?\"", "UTF-8");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_info_refused(path, info_of(name, 2, 1, 0, 0), "tensor 0", "299");

    buffer b = {0};
    put_string(&b, "w"), put_u32(&b, 5), put_zeros(&b, 40);
    assert_info_refused(path, b, "\"w\"", "5 dimensions");
    b = (buffer){0}, put_string(&b, "w"), put_u32(&b, 0), put_zeros(&b, 12);
    assert_info_refused(path, b, "\"w\"", "0 dimensions");
}

static void tensors_of_one_name_or_one_place_are_refused(void **state) {
    char path[4096];
    const struct {
        const char *name;
        uint64_t offset;
        const char *says;
    } lies[] = {{"first", 64, "\"first\" is found twice"},
                {"second", 32, "\"second\" begins at byte"},
                {"second", 0, "begins at byte"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        buffer b = {0};
        put_preamble(&b, 2, 0);
        put_info(&b, "first", 4, 4, 0, 0);
        put_info(&b, lies[i].name, 2, 2, 0, lies[i].offset);
        pad_to(&b, 32);
        put_zeros(&b, 96);
        write_buffer(path_in(*state, "lie.gguf", path), &b);
        assert_refused(sl_gguf_open, path, SL_ERR_FORMAT, FRAGMENTS(path, lies[i].says));
    }
}

static void what_is_no_file_is_an_io_error(void **state) {
    char path[4096];
    assert_refused(sl_gguf_open, path_in(*state, "none.gguf", path), SL_ERR_IO, FRAGMENTS(path));
    assert_refused(sl_gguf_open, *state, SL_ERR_IO, FRAGMENTS(*state, "folder"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_written_by_the_gguf_package_is_read),
        cmocka_unit_test(metadata_of_every_type_is_read_in_version_2_too),
        cmocka_unit_test(tensors_are_found_and_read_at_their_offsets),
        cmocka_unit_test(reading_rows_checks_its_arguments),
        cmocka_unit_test(reading_a_file_that_shrank_names_tensor_and_place),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(lies_in_the_preamble_are_refused),
        cmocka_unit_test(lies_in_metadata_are_refused_by_key),
        cmocka_unit_test(lies_about_a_tensor_are_refused_by_name),
        cmocka_unit_test(tensors_of_one_name_or_one_place_are_refused),
        cmocka_unit_test(what_is_no_file_is_an_io_error),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_dir, remove_dir);
}
