/* Unit tests of src/model/safetensors.c, checkpoint_shards.c and checkpoint_open.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "support/checkpoints.h"

/* A file of that header and `data_bytes` bytes that are floats 0, 1, 2, ... */
static void write_file(const char *path, const char *header, size_t data_bytes) {
    buffer b = {0};
    put_u64(&b, strlen(header));
    put_text(&b, header);
    for (size_t i = 0; i < data_bytes / 4; i++) put_f32(&b, (float)i);
    put_zeros(&b, data_bytes % 4);
    write_buffer(path, &b);
}

/* A file of one F32 tensor [2, 2]. */
static void write_tensor(const char *dir, const char *file, const char *name) {
    char path[4096], header[1024];
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", name);
    write_file(path_in(dir, file, path), header, 16);
}

static void write_text(const char *dir, const char *file, const char *text) {
    char path[4096];
    write_bytes(path_in(dir, file, path), text, strlen(text));
}

/* A folder of its own inside the group's. */
static const char *new_folder(void **state, const char *name, char *path) {
    path_in(*state, name, path);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

static void file_written_by_the_library_is_read(void **state) {
    (void)state;
    sl_checkpoint *ckpt =
        assert_opens(sl_safetensors_open, SL_TESTS_DIR "/golden/readers/written.safetensors");
    float y[24];
    assert_int_equal(sl_checkpoint_format(ckpt), SL_CHECKPOINT_SAFETENSORS);
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 4);
    read_tensor(ckpt, "f32", SL_DTYPE_F32, DIMS(3, 5), y);
    assert_ramp(y, 15, 1.0f, 0.25f);
    read_tensor(ckpt, "f16", SL_DTYPE_F16, DIMS(2, 3, 4), y);
    assert_ramp(y, 24, -2.0f, 0.25f);
    read_tensor(ckpt, "bf16", SL_DTYPE_BF16, DIMS(7), y);
    assert_ramp(y, 7, 0.0f, 0.5f);
    read_tensor(ckpt, "scalar", SL_DTYPE_F32, DIMS(1), y);
    assert_true(y[0] == 2.5f);
    assert_null(sl_checkpoint_find(ckpt, "integers")); /* checked, but no weight */
    assert_null(sl_gguf_find(ckpt, "general.architecture"));
    sl_checkpoint_close(ckpt);
}

static void order_of_names_and_spaces_behind_the_header_do_not_matter(void **state) {
    char path[4096];
    write_file(path_in(*state, "order.safetensors", path),
               "{\"z\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[24,32]},"
               "\"__metadata__\":{\"format\":\"pt\"},"
               "\"i\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]},"
               "\"caf\\u00e9\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[32,36]}}    ",
               36);
    sl_checkpoint *ckpt = assert_opens(sl_safetensors_open, path);
    float y[2];
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 2);
    read_tensor(ckpt, "z", SL_DTYPE_F32, DIMS(2), y);
    assert_ramp(y, 2, 6.0f, 1.0f);
    read_tensor(ckpt, "caf\xc3\xa9", SL_DTYPE_F32, DIMS(1, 1), y);
    assert_true(y[0] == 8.0f);
    assert_null(sl_checkpoint_find(ckpt, "__metadata__"));
    sl_checkpoint_close(ckpt);
}

static void lies_in_the_header_are_refused(void **state) {
    char path[4096];
    path_in(*state, "lie.safetensors", path);
#define W(fields)             "{\"w\":{" fields "}}"
#define SHAPE(shape, offsets) W("\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets)
    static const struct {
        const char *header, *what, *found;
    } lies[] = {
        {"{}", "tensors end at byte 10", "byte 26"},
        {"[]", "header", "object"},
        {"", "header", "JSON"},
        {"{\"w\":", "header", "JSON"},
        {"{\"w\":1}", "\"w\"", "dtype"},
        {W("\"shape\":[4],\"data_offsets\":[0,16]"), "\"w\"", "no dtype"},
        {W("\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]"), "\"w\"", "\"F64\""},
        {W("\"dtype\":\"F8_E4M3\",\"shape\":[16],\"data_offsets\":[0,16]"), "\"w\"", "F8_E4M3"},
        {W("\"dtype\":7,\"shape\":[4],\"data_offsets\":[0,16]"), "\"w\"", "no dtype"},
        {SHAPE("4", "[0,16]"), "\"w\"", "shape is no list"},
        {SHAPE("[1,1,1,1,4]", "[0,16]"), "\"w\"", "at most 4"},
        {SHAPE("[4.0]", "[0,16]"), "\"w\"", "dimension 0"},
        {SHAPE("[4,0]", "[0,0]"), "\"w\"", "dimension 1 is 0"},
        {SHAPE("[-4]", "[0,16]"), "\"w\"", "-4"},
        {SHAPE("[4294967296,4294967296]", "[0,16]"), "\"w\"", "overflow"},
        {SHAPE("[2305843009213693951,3]", "[0,16]"), "\"w\"", "overflow"},
        {SHAPE("[99999999999999999999]", "[0,16]"), "header", "integer"},
        {SHAPE("[5]", "[0,16]"), "\"w\" has 16 bytes", "needs 20"},
        {SHAPE("[4]", "[0,20]"), "\"w\"", "[0, 20]"},
        {SHAPE("[4]", "[-16,0]"), "\"w\"", "[-16, 0]"},
        {SHAPE("[4]", "[16,0]"), "\"w\"", "[16, 0]"},
        {SHAPE("[4]", "[0]"), "\"w\"", "data_offsets"},
        {SHAPE("[4]", "[0,16,16]"), "\"w\"", "data_offsets"},
        {SHAPE("[4]", "\"0,16\""), "\"w\"", "data_offsets"},
        {SHAPE("[3]", "[0,12]"), "tensors end at byte", "the file at byte"},
        {SHAPE("[3]", "[4,16]"), "\"w\" begins at byte", "the \"header\" ends"},
        {W("\"dtype\":\"F32\",\"dtype\":\"F16\""), "header", "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
         "header", "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}}",
         "\"b\" begins", "tensor \"a\" ends"},
        {"{\"a\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
         "\"b\" begins", "tensor \"a\" ends"},
        {"{\"i\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}}", "no tensor",
         "weights"},
        {"{\"__metadata__\":[]}", "__metadata__", "no object"},
        {"{\"__metadata__\":{\"k\":1}}", "__metadata__", "\"k\""},
        {"{\"caf\xe9\":{}}", "header", "byte 0xe9"},
        {"{\"a\\u0000b\":{}}", "header", "NUL"},
        {"{\"a\\nb\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "a?b", "control"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "name", "0 bytes"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        write_file(path, lies[i].header, 16);
        assert_refused(sl_safetensors_open, path, SL_ERR_FORMAT,
                       FRAGMENTS(path, lies[i].what, lies[i].found));
    }
}

static void lies_about_the_headers_size_are_refused(void **state) {
    char path[4096];
    path_in(*state, "lie.safetensors", path);
    static const struct {
        uint64_t claimed;
        const char *found;
    } lies[] = {{33, "33"},
                {100000001, "100000001"},
                {UINT64_MAX, "18446744073709551615"},
                {UINT64_MAX - 7, "18446744073709551608"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        buffer b = {0};
        put_u64(&b, lies[i].claimed);
        put_zeros(&b, 32);
        write_buffer(path, &b);
        assert_refused(sl_safetensors_open, path, SL_ERR_FORMAT,
                       FRAGMENTS(path, "header", lies[i].found));
    }
    for (size_t n = 0; n < 8; n++) {
        write_bytes(path, "\2\0\0\0\0\0\0\0{}", n);
        assert_refused(sl_safetensors_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "at least 8"));
    }
}

static void deep_nesting_and_long_names_are_refused(void **state) {
    char path[4096], name[512];
    path_in(*state, "lie.safetensors", path);
    const size_t depth = 100000;
    char *deep = malloc(depth + 6);
    assert_non_null(deep);
    memcpy(deep, "{\"w\":", 5);
    memset(deep + 5, '[', depth);
    deep[depth + 5] = '\0';
    write_file(path, deep, 16);
    free(deep);
    assert_refused(sl_safetensors_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "depth"));

    memset(name, 'n', 257);
    name[257] = '\0';
    write_tensor(*state, "lie.safetensors", name);
    assert_refused(sl_safetensors_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "257"));
    name[256] = '\0';
    write_tensor(*state, "lie.safetensors", name);
    sl_checkpoint_close(assert_opens(sl_safetensors_open, path));
}

#define INDEX(map) "{\"metadata\":{\"total_size\":32},\"weight_map\":" map "}"

static void shards_are_read_through_their_index(void **state) {
    char dir[4096], path[4096];
    new_folder(state, "shards", dir);
    write_tensor(dir, "model-00001-of-00002.safetensors", "a");
    write_tensor(dir, "model-00002-of-00002.safetensors", "b");
    write_text(dir, "model.safetensors.index.json",
               INDEX("{\"b\":\"model-00002-of-00002.safetensors\","
                     "\"a\":\"model-00001-of-00002.safetensors\"}"));
    sl_checkpoint *ckpt = assert_opens(sl_checkpoint_open, dir);
    float y[4];
    assert_int_equal(sl_checkpoint_format(ckpt), SL_CHECKPOINT_SAFETENSORS);
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 2);
    const sl_tensor *b = read_tensor(ckpt, "b", SL_DTYPE_F32, DIMS(2, 2), y);
    assert_ramp(y, 4, 0.0f, 1.0f);
    assert_string_equal(b->file, path_in(dir, "model-00002-of-00002.safetensors", path));
    read_tensor(ckpt, "a", SL_DTYPE_F32, DIMS(2, 2), y);
    sl_checkpoint_close(ckpt);

    /* One file beside them is preferred, as HF does. */
    write_tensor(dir, "model.safetensors", "single");
    ckpt = assert_opens(sl_checkpoint_open, dir);
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 1);
    assert_non_null(sl_checkpoint_find(ckpt, "single"));
    sl_checkpoint_close(ckpt);
}

static void index_that_disagrees_with_its_shards_is_refused(void **state) {
    char dir[4096];
    new_folder(state, "disagree", dir);
    write_tensor(dir, "one.safetensors", "a");
    write_tensor(dir, "two.safetensors", "b");
    static const struct {
        const char *index;
        sl_status status;
        const char *what, *found;
    } lies[] = {
        {INDEX("{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}"), SL_ERR_FORMAT, "\"a\"",
         "two.safetensors, found in"},
        {INDEX("{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}"), SL_ERR_FORMAT,
         "lacks tensor \"b\"", "two.safetensors"},
        {INDEX("{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}"), SL_ERR_FORMAT, "\"c\"",
         "not found there"},
        {INDEX("{\"a\":\"none.safetensors\"}"), SL_ERR_IO, "none.safetensors", "No such file"},
        {INDEX("{\"a\":\"../disagree/one.safetensors\"}"), SL_ERR_FORMAT, "\"a\"", "../disagree"},
        {INDEX("{\"a\":\"..\"}"), SL_ERR_FORMAT, "\"a\"", "\"..\""},
        {INDEX("{\"a\":\"\"}"), SL_ERR_FORMAT, "\"a\"", "\"\""},
        {INDEX("{\"a\":1}"), SL_ERR_FORMAT, "\"a\"", "no text"},
        {INDEX("{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}"), SL_ERR_FORMAT, "index",
         "duplicate"},
        {INDEX("{}"), SL_ERR_FORMAT, "index.json", "weight_map"},
        {INDEX("[]"), SL_ERR_FORMAT, "index.json", "weight_map"},
        {"{}", SL_ERR_FORMAT, "index.json", "weight_map"},
        {"[]", SL_ERR_FORMAT, "index.json", "object"},
        {"{", SL_ERR_FORMAT, "index.json", "JSON"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        write_text(dir, "model.safetensors.index.json", lies[i].index);
        assert_refused(sl_safetensors_open, dir, lies[i].status,
                       FRAGMENTS(dir, lies[i].what, lies[i].found));
    }
}

static void format_is_told_by_contents(void **state) {
    char dir[4096], path[4096];
    sl_checkpoint *ckpt;
    new_folder(state, "told", dir);
    assert_refused(sl_checkpoint_open, dir, SL_ERR_FORMAT, FRAGMENTS(dir, "none of them"));
    assert_refused(sl_safetensors_open, dir, SL_ERR_IO, FRAGMENTS(dir, "neither"));

    static const struct {
        const char *golden, *name;
        sl_checkpoint_kind kind;
    } files[] = {{"written.safetensors", "a.weights", SL_CHECKPOINT_SAFETENSORS},
                 {"written.gguf", "b.weights", SL_CHECKPOINT_GGUF},
                 {"state.bin", "c.weights", SL_CHECKPOINT_TORCH},
                 {"state.bin", "pytorch_model.bin", SL_CHECKPOINT_TORCH},
                 {"written.safetensors", "model.safetensors", SL_CHECKPOINT_SAFETENSORS}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        path_in(SL_TESTS_DIR "/golden/readers", files[i].golden, path);
        buffer b = read_whole(path);
        write_buffer(path_in(dir, files[i].name, path), &b);
        ckpt = assert_opens(sl_checkpoint_open, path);
        assert_int_equal(sl_checkpoint_format(ckpt), files[i].kind);
        sl_checkpoint_close(ckpt);
        if (i < 3) continue;
        /* The last two as a folder: safetensors come first when both are there. */
        ckpt = assert_opens(sl_checkpoint_open, dir);
        assert_int_equal(sl_checkpoint_format(ckpt), files[i].kind);
        sl_checkpoint_close(ckpt);
    }
    write_text(dir, "d.weights", "nothing of the kind");
    assert_refused(sl_checkpoint_open, path_in(dir, "d.weights", path), SL_ERR_FORMAT,
                   FRAGMENTS(path, "neither"));
    assert_refused(sl_checkpoint_open, path_in(dir, "missing", path), SL_ERR_IO,
                   FRAGMENTS(path, "No such file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_written_by_the_library_is_read),
        cmocka_unit_test(order_of_names_and_spaces_behind_the_header_do_not_matter),
        cmocka_unit_test(lies_in_the_header_are_refused),
        cmocka_unit_test(lies_about_the_headers_size_are_refused),
        cmocka_unit_test(deep_nesting_and_long_names_are_refused),
        cmocka_unit_test(shards_are_read_through_their_index),
        cmocka_unit_test(index_that_disagrees_with_its_shards_is_refused),
        cmocka_unit_test(format_is_told_by_contents),
    };
    return cmocka_run_group_tests_name("safetensors", tests, make_dir, remove_dir);
}
