/* Unit tests of src/model/rope.c against HF transformers (tests/golden/rope). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "model/config.h"

static sl_model_config parse(const json_t *value, const char *where) {
    sl_model_config c;
    char *text = json_dumps(value, 0);
    assert_non_null(text);
    const sl_status st = sl_config_parse_json(text, strlen(text), where, &c);
    if (st != SL_OK) fail_msg("%s", sl_error_message());
    free(text);
    return c;
}

static void rope_frequencies_equal_those_of_hf(void **state) {
    (void)state;
    json_error_t error;
    json_t *golden = json_load_file(SL_TESTS_DIR "/golden/rope/rope.json", 0, &error);
    assert_non_null(golden);
    assert_true(json_array_size(golden) >= 10);
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *entry = json_array_get(golden, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        const json_t *expected = json_object_get(entry, "inv_freq");
        const sl_model_config c = parse(json_object_get(entry, "config"), name);
        assert_int_equal(json_array_size(expected), (size_t)c.head_dim / 2);
        float found[SL_MAX_HEAD_DIM / 2];
        sl_rope_frequencies(&c, found);
        for (int j = 0; j < c.head_dim / 2; j++) {
            const double want = json_number_value(json_array_get(expected, (size_t)j));
            /* Two roundings of float32: HF's vectorised power is off by one in the last place. */
            if (!(fabs((double)found[j] - want) <= 2.5e-7 * want))
                fail_msg("%s: frequency %d is %.9g, HF has %.9g", name, j, (double)found[j], want);
        }
    }
    json_decref(golden);
}

static void rope_divisors_divide_the_frequencies(void **state) {
    (void)state;
    sl_model_config c = {.head_dim = 8, .rope = {.theta = 10000.0f}};
    float plain[4], divided[4];
    sl_rope_frequencies(&c, plain);
    c.rope.n_divisors = 4;
    for (int i = 0; i < 4; i++) c.rope.divisor[i] = (float)(1 << i);
    sl_rope_frequencies(&c, divided);
    for (int i = 0; i < 4; i++) assert_true(divided[i] == plain[i] / (float)(1 << i));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_frequencies_equal_those_of_hf),
        cmocka_unit_test(rope_divisors_divide_the_frequencies),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
