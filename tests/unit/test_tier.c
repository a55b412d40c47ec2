/* Unit tests of src/store/tier.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/tier.h"

static void tier_refuses_what_exceeds_its_budget_and_names_it(void **state) {
    (void)state;
    sl_tier *tier = NULL;
    void *a = NULL, *b = (void *)0x1;
    assert_int_equal(sl_tier_open_cpu(64 << 10, &tier), SL_OK);
    assert_int_equal(sl_tier_take(tier, 40 << 10, "something", &a), SL_OK);
    assert_int_equal(sl_tier_take(tier, 25 << 10, "the second thing", &b), SL_ERR_NOMEM);
    assert_ptr_equal(b, (void *)0x1);
    assert_non_null(strstr(sl_error_message(), "the second thing"));
    assert_non_null(strstr(sl_error_message(), "64.00 KiB"));
    assert_int_equal(sl_tier_used_bytes(tier), 40 << 10);
    sl_tier_put(tier, a);
    assert_int_equal(sl_tier_used_bytes(tier), 0);
    assert_int_equal(sl_tier_take(tier, 64 << 10, "all", &b), SL_OK);
    assert_int_equal(sl_tier_peak_bytes(tier), 64 << 10);
    assert_int_equal(sl_tier_n_taken(tier), 2);
    sl_tier_close(tier);
}

static void tier_memory_is_zeroed_and_aligned(void **state) {
    (void)state;
    sl_tier *tier = NULL;
    void *p = NULL;
    assert_int_equal(sl_tier_open_cpu(1 << 20, &tier), SL_OK);
    assert_int_equal(sl_tier_take(tier, 10000, "bytes", &p), SL_OK);
    assert_int_equal((uintptr_t)p % 4096, 0);
    for (int i = 0; i < 10000; i++) assert_int_equal(((unsigned char *)p)[i], 0);
    assert_int_equal(sl_tier_take(tier, SIZE_MAX, "too much", &p), SL_ERR_NOMEM);
    assert_int_equal(sl_tier_take(tier, 0, "nothing", &p), SL_ERR_ARG);
    sl_tier_close(tier);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tier_refuses_what_exceeds_its_budget_and_names_it),
        cmocka_unit_test(tier_memory_is_zeroed_and_aligned),
    };
    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
