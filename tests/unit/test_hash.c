/* Unit tests of src/base/hash.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/rng.h"

enum { LONGEST = 200 };

static void fill(unsigned char *dst, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) dst[i] = (unsigned char)sl_rng_at(3, i);
}

static void hash_sees_every_bit_of_every_length(void **state) {
    (void)state;
    unsigned char data[LONGEST];
    fill(data, sizeof data);
    for (size_t n = 1; n <= LONGEST; n++) {
        const uint64_t before = sl_hash(9, data, n);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            data[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_true(sl_hash(9, data, n) != before);
            data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
        assert_true(sl_hash(9, data, n) == before);
    }
}

static void hash_tells_lengths_seeds_and_orders_apart(void **state) {
    (void)state;
    const unsigned char zeros[LONGEST] = {0};
    unsigned char swapped[64], data[64];
    for (size_t n = 0; n < LONGEST; n++)
        assert_true(sl_hash(0, zeros, n) != sl_hash(0, zeros, n + 1));
    assert_true(sl_hash(0, zeros, 8) != sl_hash(1, zeros, 8));
    assert_true(sl_hash(0, NULL, 0) != sl_hash(1, NULL, 0));

    fill(data, sizeof data);
    for (size_t i = 0; i < 8; i++) { /* words of eight bytes, within a step and across two */
        for (size_t j = 0; j < i; j++) {
            memcpy(swapped, data, sizeof data);
            memcpy(swapped + 8 * i, data + 8 * j, 8);
            memcpy(swapped + 8 * j, data + 8 * i, 8);
            assert_true(sl_hash(0, swapped, 64) != sl_hash(0, data, 64));
        }
    }
}

static void hash_does_not_depend_on_alignment(void **state) {
    (void)state;
    unsigned char data[LONGEST], room[LONGEST + 8];
    fill(data, sizeof data);
    const uint64_t expected = sl_hash(5, data, LONGEST);
    for (size_t shift = 0; shift < 8; shift++) {
        memcpy(room + shift, data, LONGEST);
        assert_true(sl_hash(5, room + shift, LONGEST) == expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_sees_every_bit_of_every_length),
        cmocka_unit_test(hash_tells_lengths_seeds_and_orders_apart),
        cmocka_unit_test(hash_does_not_depend_on_alignment),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
