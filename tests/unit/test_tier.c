/* Unit tests of src/store/tier.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/cpu_backend.h"
#include "engine/backend.h"
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

static size_t resident_pages(void *memory, size_t n_pages) {
    unsigned char is_there[64];
    size_t n = 0;
    assert_in_range(n_pages, 1, sizeof is_there);
    assert_int_equal(mincore(memory, n_pages * 4096, is_there), 0);
    for (size_t i = 0; i < n_pages; i++) n += is_there[i] & 1;
    return n;
}

static void touched_memory_is_there_and_counts_like_the_other(void **state) {
    (void)state;
    sl_tier *tier = NULL;
    void *lazy = NULL, *touched = NULL, *over = NULL;
    assert_int_equal(sl_tier_open_cpu(256 << 10, &tier), SL_OK);
    sl_tier_set_node(tier, 0); /* advice: no harm wherever the test runs */
    assert_int_equal(sl_tier_take(tier, 100000, "some", &lazy), SL_OK);
    assert_int_equal(sl_tier_take_touched(tier, 100000, "some to pin", &touched), SL_OK);
    assert_int_equal(resident_pages(lazy, 25), 0);
    assert_int_equal(resident_pages(touched, 25), 25);
    for (int i = 0; i < 100000; i++) assert_int_equal(((unsigned char *)touched)[i], 0);
    assert_int_equal(sl_tier_used_bytes(tier), 50 * 4096);
    assert_int_equal(sl_tier_n_taken(tier), 2);
    assert_int_equal(sl_tier_take_touched(tier, 60000, "more to pin", &over), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "more to pin needs 60.00 KiB"));
    assert_int_equal(sl_tier_take_touched(tier, 0, "nothing", &over), SL_ERR_ARG);
    assert_null(over);
    sl_tier_put(tier, touched);
    assert_int_equal(sl_tier_used_bytes(tier), 25 * 4096);
    assert_int_equal(sl_tier_peak_bytes(tier), 50 * 4096);
    sl_tier_set_node(tier, -1);
    sl_tier_close(tier);
}

static void a_device_tier_gives_touched_memory_of_its_own(void **state) {
    (void)state;
    const sl_cpu_options options = {.n_threads = 1, .device_bytes = 1 << 20};
    sl_backend *be = NULL;
    sl_tier *tier = NULL;
    void *memory = NULL;
    assert_int_equal(sl_cpu_backend_open(&options, &be), SL_OK);
    assert_int_equal(be->ops->device->numa_node(be), -1); /* a stand-in hangs on no socket */
    assert_int_equal(sl_tier_open_device(be, be->ops->device, &tier), SL_OK);
    sl_tier_set_node(tier, 0); /* host memory only */
    assert_int_equal(sl_tier_take_touched(tier, 1000, "some", &memory), SL_OK);
    assert_in_range(be->ops->device->used_bytes(be), 1000, 4096);
    sl_tier_put(tier, memory);
    assert_int_equal(be->ops->device->used_bytes(be), 0);
    sl_tier_close(tier);
    sl_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tier_refuses_what_exceeds_its_budget_and_names_it),
        cmocka_unit_test(tier_memory_is_zeroed_and_aligned),
        cmocka_unit_test(touched_memory_is_there_and_counts_like_the_other),
        cmocka_unit_test(a_device_tier_gives_touched_memory_of_its_own),
    };
    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
