/* Unit tests of src/engine/block.c: headers that were damaged on their way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/block.h"
#include "store/kv_cache.h"

enum { VOCAB = 1000, MAX_CONTEXT = 256 };

static void block_messages_cut_short_or_changed_are_refused_or_harmless(void **state) {
    (void)state;
    const sl_block_limits limits = {8, 4, 16, VOCAB, MAX_CONTEXT, 4};
    const sl_logit_bias bias[3] = {{1, 2.f}, {3, 4.f}, {5, 6.f}};
    sl_block b = {0}, copy = {0};
    sl_buffer message = {0};
    int32_t *token;
    sl_block_reset(&b, SL_BLOCK_WORK, 5);
    const sl_block_op op = {
        .kind = SL_OP_ADMIT, .slot = 3, .sampling = {.n_bias = 3, .bias = bias}};
    assert_int_equal(sl_block_add_op(&b, &op), SL_OK);
    assert_int_equal(sl_block_add_micro_batch(&b), SL_OK);
    const sl_block_segment seg = {.slot = 3, .n_rows = 4, .next = -1, .want_last = 1};
    assert_int_equal(sl_block_add_segment(&b, &seg, &token), SL_OK);
    for (int i = 0; i < 4; i++) token[i] = i;
    assert_int_equal(sl_block_write(&b, &message), SL_OK);
    assert_int_equal(sl_block_read(message.data, message.n, &limits, &copy), SL_OK);
    assert_int_equal(copy.op[0].sampling.n_bias, 3);
    assert_true(copy.op[0].sampling.bias[2].bias == 6.f);
    for (size_t n = 0; n < message.n; n++) {
        unsigned char *part = malloc(n ? n : 1); /* exact size, so that ASan sees any overrun */
        memcpy(part, message.data, n);
        assert_int_equal(sl_block_read(part, n, &limits, &copy), SL_ERR_COMM);
        free(part);
    }
    sl_rng rng = {3, 0};
    for (int i = 0; i < 20000; i++) {
        unsigned char *part = malloc(message.n);
        memcpy(part, message.data, message.n);
        part[sl_rng_below(&rng, message.n)] = (unsigned char)sl_rng_next(&rng);
        (void)sl_block_read(part, message.n, &limits, &copy);
        free(part);
    }
    sl_block_free(&b);
    sl_block_free(&copy);
    sl_buffer_free(&message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_messages_cut_short_or_changed_are_refused_or_harmless),
    };
    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
