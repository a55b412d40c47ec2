/* Unit tests of src/model/stamp.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "model/stamp.h"
#include "support/files.h"

static uint64_t stamp_of(const char *model) {
    uint64_t stamp = 0;
    if (sl_model_stamp(model, &stamp) != SL_OK) fail_msg("%s", sl_error_message());
    return stamp;
}

/* A folder with a config and weights, of which byte `changed` is another. */
static const char *make_model(const char *dir, const char *name, size_t changed, char *folder) {
    enum { BYTES = 3 << 20 };
    char path[4096];
    unsigned char *weights = calloc(1, BYTES);
    assert_non_null(weights);
    weights[changed] = 1;
    path_in(dir, name, folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    write_bytes(path_in(folder, "config.json", path), "{}", 2);
    write_bytes(path_in(folder, "model.safetensors", path), weights, BYTES);
    free(weights);
    return folder;
}

static void stamp_of_a_copy_is_the_same(void **state) {
    char a[4096], b[4096], path[4096];
    make_model(*state, "a", 0, a);
    make_model(*state, "b", 0, b);
    assert_true(stamp_of(a) == stamp_of(b));
    write_bytes(path_in(b, "README.md", path), "x", 1);
    assert_true(stamp_of(a) == stamp_of(b));
    path_in(a, "model.safetensors", path);
    assert_true(stamp_of(path) != stamp_of(a));
}

static void stamp_of_other_contents_is_another(void **state) {
    char a[4096], b[4096], c[4096], path[4096];
    make_model(*state, "a", 0, a);
    make_model(*state, "b", 1 << 19, b);       /* read as a whole there */
    make_model(*state, "c", (3 << 20) - 1, c); /* the last byte of the last piece */
    const uint64_t first = stamp_of(a);
    assert_true(first != stamp_of(b));
    assert_true(first != stamp_of(c));
    assert_true(stamp_of(b) != stamp_of(c));
    write_bytes(path_in(a, "config.json", path), "[]", 2);
    assert_true(first != stamp_of(a));
    write_bytes(path_in(a, "config.json", path), "{}", 2);
    assert_true(first == stamp_of(a));
    write_bytes(path_in(a, "tokenizer.json", path), "{}", 2);
    assert_true(first != stamp_of(a));
}

static void stamp_of_a_dummy_is_that_of_its_config(void **state) {
    char path[4096], model[4200];
    assert_int_equal(stamp_of("dummy:opt-30b"), 0);
    write_bytes(path_in(*state, "config.json", path), "{}", 2);
    snprintf(model, sizeof model, "dummy:%s", path);
    assert_true(stamp_of(model) != 0);
    assert_true(stamp_of(model) == stamp_of(path));
}

static void stamp_of_a_missing_model_names_it(void **state) {
    uint64_t stamp = 5;
    (void)state;
    assert_int_equal(sl_model_stamp("/nonexistent/model", &stamp), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/nonexistent/model"));
    assert_int_equal(stamp, 5);
}

#define STAMP_TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        STAMP_TEST(stamp_of_a_copy_is_the_same),
        STAMP_TEST(stamp_of_other_contents_is_another),
        STAMP_TEST(stamp_of_a_dummy_is_that_of_its_config),
        cmocka_unit_test(stamp_of_a_missing_model_names_it),
    };
    return cmocka_run_group_tests_name("stamp", tests, NULL, NULL);
}
