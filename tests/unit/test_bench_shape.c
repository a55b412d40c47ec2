/* Unit tests of launch/bench_shape.c: lengths, what prompts have in common, files of scenarios. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bench_shape.c"
#include "support/files.h"

enum { N = 600, LONGEST = 64, VOCAB = 1000 };

static void lengths_have_their_mean_and_prompts_their_beginning(void **state) {
    (void)state;
    static int32_t ids[N][LONGEST];
    const sl_bench_shape s = {.prompt_len = LONGEST,
                              .gen_len = 20,
                              .mean_prompt = 40,
                              .mean_gen = 8,
                              .n_prompts = N,
                              .common_frac = 0.5,
                              .n_groups = 3};
    int sum = 0, sum_gen = 0, least = LONGEST, most = 0;
    assert_int_equal(sl_bench_shape_check(&s), SL_OK);
    for (int i = 0; i < N; i++) {
        const int n = sl_bench_prompt(&s, 7, VOCAB, i, ids[i]), gen = sl_bench_gen(&s, 7, i);
        sum += n;
        sum_gen += gen;
        least = n < least ? n : least;
        most = n > most ? n : most;
        assert_in_range(gen, 1, 20);
        if (i >= 3) {
            assert_memory_equal(ids[i], ids[i - 3], 20 * sizeof ids[0][0]);
            assert_memory_not_equal(ids[i], ids[i - 1], 20 * sizeof ids[0][0]);
        }
        if (i > 0) assert_int_not_equal(ids[i][20], ids[i - 1][20]);
    }
    assert_in_range(least, 21, 25);
    assert_in_range(most, 55, LONGEST);
    assert_in_range(sum, 39 * N, 41 * N);
    assert_in_range(sum_gen, 7 * N, 9 * N);
    sl_bench_shape padded = s;
    sl_bench_shape_pad(&padded);
    assert_int_equal(sl_bench_prompt(&padded, 7, VOCAB, 5, ids[0]), LONGEST);
    assert_int_equal(sl_bench_gen(&padded, 7, 5), 20);
    (void)sl_bench_prompt(&padded, 7, VOCAB, 8, ids[1]);
    assert_memory_not_equal(ids[0], ids[1], 8 * sizeof ids[0][0]);
}

static void bad_shapes_are_refused(void **state) {
    (void)state;
    sl_bench_shape s = {.prompt_len = 10, .gen_len = 5, .mean_prompt = 11, .n_groups = 1};
    assert_int_equal(sl_bench_shape_check(&s), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "11"));
    s = (sl_bench_shape){.prompt_len = 10, .gen_len = 5, .common_frac = 1, .n_groups = 1};
    assert_int_equal(sl_bench_shape_check(&s), SL_ERR_ARG);
    s = (sl_bench_shape){
        .prompt_len = 10, .gen_len = 5, .common_frac = .5, .ragged = 1, .n_groups = 1};
    assert_int_equal(sl_bench_shape_check(&s), SL_ERR_ARG);
}

static void scenarios_come_from_a_file(void **state) {
    sl_bench_shape shape[SL_BENCH_SHAPES];
    char path[512];
    int n = 0;
    assert_int_equal(sl_bench_shapes_read(SL_TESTS_DIR "/bench/helm7.json", NULL, 10, shape, &n),
                     SL_OK);
    assert_int_equal(n, 7);
    assert_int_equal(sl_bench_shapes_read(SL_TESTS_DIR "/bench/helm7.json", "xsum", 10, shape, &n),
                     SL_OK);
    assert_int_equal(n, 1);
    assert_int_equal(shape[0].n_prompts, 157);
    assert_int_equal(shape[0].prompt_len, 1984);
    assert_int_equal(shape[0].n_groups, 3);
    assert_int_equal(sl_bench_shapes_read(SL_TESTS_DIR "/bench/helm7.json", "ysum", 10, shape, &n),
                     SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "ysum"));
    static const char *const bad[] = {"", "[]", "{\"scenarios\": 3}", "{\"scenarios\": [{}]}",
                                      "{\"scenarios\": [{\"name\": \"a\", \"padded_prompt\": 0, "
                                      "\"gen\": 1, \"sequences\": 1, \"mean_prompt\": 1, "
                                      "\"mean_gen\": 1, \"shared_prefix_frac\": 0}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        path_in(*state, "bad.json", path);
        write_bytes(path, bad[i], strlen(bad[i]));
        assert_int_equal(sl_bench_shapes_read(path, NULL, 1, shape, &n), SL_ERR_FORMAT);
        assert_non_null(strstr(sl_error_message(), "bad.json"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_have_their_mean_and_prompts_their_beginning),
        cmocka_unit_test(bad_shapes_are_refused),
        cmocka_unit_test(scenarios_come_from_a_file),
    };
    return cmocka_run_group_tests_name("bench_shape", tests, make_dir, remove_dir);
}
