/* Unit tests of src/model/dummy.c: seeded random weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/half.h"
#include "model/source.h"

static sl_source *must_open(const char *model) {
    sl_source *s = NULL;
    if (sl_source_open(model, 7, &s) != SL_OK) fail_msg("%s: %s", model, sl_error_message());
    return s;
}

/* Dummy weights. */

static void dummy_weights_do_not_depend_on_the_range_read(void **state) {
    (void)state;
    /* Five columns: rows begin at every phase of the four elements of a draw. */
    sl_model_config c;
    assert_int_equal(sl_config_named("opt-125m", &c), SL_OK);
    c.n_layers = 2;
    c.hidden = 36;
    c.n_heads = c.n_kv_heads = 4;
    c.head_dim = 9;
    c.ffn = 7;
    c.embed_dim = 5;
    c.vocab = 100;
    sl_source *s = NULL;
    assert_int_equal(sl_source_open_dummy(&c, "small", 7, &s), SL_OK);
    uint16_t all[100 * 5], part[100 * 5];
    assert_int_equal(
        sl_source_read_rows(s, SL_LAYER_EMBED, SL_ROLE_TOKEN_EMBED, 0, 100, all, sizeof all),
        SL_OK);
    for (int begin = 0; begin < 100; begin += 3) {
        for (int n = 1; begin + n <= 100; n += 7) {
            const size_t bytes = (size_t)n * 5 * sizeof *all;
            assert_int_equal(
                sl_source_read_rows(s, SL_LAYER_EMBED, SL_ROLE_TOKEN_EMBED, begin, n, part, bytes),
                SL_OK);
            assert_memory_equal(part, all + begin * 5, bytes);
        }
    }
    /* The tied head is the embedding. */
    assert_int_equal(sl_source_read_rows(s, 2, SL_ROLE_HEAD, 0, 100, part, sizeof part), SL_OK);
    assert_memory_equal(part, all, sizeof all);
    sl_source_close(s);
}

static void read_q(uint64_t seed, int layer, sl_role role, uint16_t *out, size_t bytes) {
    sl_source *s = NULL;
    assert_int_equal(sl_source_open("dummy:opt-125m", seed, &s), SL_OK);
    assert_int_equal(
        sl_source_read_rows(s, layer, role, 0, (int64_t)(bytes / (768 * 2)), out, bytes), SL_OK);
    sl_source_close(s);
}

static void dummy_weights_differ_by_seed_layer_and_role_only(void **state) {
    (void)state;
    uint16_t a[4 * 768], b[4 * 768];
    read_q(1, 0, SL_ROLE_Q, a, sizeof a);
    read_q(1, 0, SL_ROLE_Q, b, sizeof b);
    assert_memory_equal(a, b, sizeof a);
    read_q(2, 0, SL_ROLE_Q, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    read_q(1, 1, SL_ROLE_Q, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    read_q(1, 0, SL_ROLE_K, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void dummy_weights_have_the_promised_spread(void **state) {
    (void)state;
    static const struct {
        sl_role role;
        int rows, cols;
        double deviation;
    } cases[] = {
        {SL_ROLE_Q, 768, 768, 0.0360844},      /* 1/sqrt(768) */
        {SL_ROLE_DOWN, 768, 3072, 0.00368285}, /* 1/sqrt(3072 * 2 * 12) */
    };
    sl_source *s = must_open("dummy:opt-125m");
    for (size_t i = 0; i < 2; i++) {
        const size_t n = (size_t)cases[i].rows * (size_t)cases[i].cols;
        uint16_t *data = malloc(n * sizeof *data);
        assert_non_null(data);
        assert_int_equal(
            sl_source_read_rows(s, 0, cases[i].role, 0, cases[i].rows, data, n * sizeof *data),
            SL_OK);
        double sum = 0, squares = 0;
        for (size_t j = 0; j < n; j++) {
            const double x = (double)sl_f16_to_f32(data[j]);
            sum += x;
            squares += x * x;
        }
        free(data);
        /* n is above half a million: deviations of 1/sqrt(n) are below 0.0014. */
        const double deviation = sqrt(squares / (double)n);
        assert_true(fabs(sum / (double)n) < 0.007 * cases[i].deviation);
        assert_true(fabs(deviation / cases[i].deviation - 1) < 0.01);
    }
    float gain[768];
    assert_int_equal(sl_source_read_vector(s, 0, SL_ROLE_ATTN_NORM_GAIN, gain, 768), SL_OK);
    for (int i = 0; i < 768; i++) assert_true(fabsf(gain[i] - 1) < 0.5f);
    assert_true(gain[0] != gain[1]);
    sl_source_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dummy_weights_do_not_depend_on_the_range_read),
        cmocka_unit_test(dummy_weights_differ_by_seed_layer_and_role_only),
        cmocka_unit_test(dummy_weights_have_the_promised_spread),
    };
    return cmocka_run_group_tests_name("dummy", tests, NULL, NULL);
}
