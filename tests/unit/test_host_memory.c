/* Unit tests of src/store/host_memory.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "store/host_memory.h"

static const size_t MIB = 1 << 20;

/* Pages of the run that the system has given. */
static size_t resident_pages(void *memory, size_t bytes) {
    const size_t n_pages = bytes / SL_HOST_PAGE;
    unsigned char *is_there = calloc(n_pages, 1);
    size_t n = 0;
    assert_non_null(is_there);
    assert_int_equal(mincore(memory, bytes, is_there), 0);
    for (size_t i = 0; i < n_pages; i++) n += is_there[i] & 1;
    free(is_there);
    return n;
}

static void assert_zeroed(const unsigned char *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) assert_int_equal(memory[i], 0);
    assert_int_equal(memory[bytes - 1], 0);
}

static void mapped_memory_is_not_resident_until_touched(void **state) {
    (void)state;
    /* A page, odd numbers of them, one more than a huge page, and several of the chunks that one
     * thread touches, with a rest. */
    const size_t sizes[] = {4096, 7 * 4096, 2 * MIB + 4096, 130 * MIB + 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int n_threads = 0; n_threads < 4; n_threads += 3) {
            void *memory = NULL;
            const size_t bytes = sizes[i];
            assert_int_equal(sl_host_memory_map(bytes, NULL, "a test", &memory), SL_OK);
            assert_int_equal(resident_pages(memory, bytes), 0);
            sl_host_memory_touch(memory, bytes, n_threads);
            assert_int_equal(resident_pages(memory, bytes), bytes / SL_HOST_PAGE);
            assert_zeroed(memory, bytes);
            memset(memory, 0xff, bytes); /* all of it is ours */
            sl_host_memory_unmap(memory, bytes);
        }
    }
}

static void memory_with_room_for_a_huge_page_begins_where_one_may(void **state) {
    (void)state;
    void *memory[8];
    for (int i = 0; i < 8; i++) {
        const size_t bytes = 2 * MIB + (size_t)i * 4096;
        assert_int_equal(sl_host_memory_map(bytes, NULL, "a test", &memory[i]), SL_OK);
        assert_int_equal((uintptr_t)memory[i] % SL_HOST_HUGE_PAGE, 0);
        memset(memory[i], i + 1, bytes);
    }
    for (int i = 0; i < 8; i++) {
        const size_t bytes = 2 * MIB + (size_t)i * 4096;
        assert_int_equal(((unsigned char *)memory[i])[bytes - 1], i + 1); /* nothing overlaps */
        sl_host_memory_unmap(memory[i], bytes);
    }
}

static void sizes_that_are_no_pages_are_refused_by_number(void **state) {
    (void)state;
    void *const untouched = (void *)(uintptr_t)0x1;
    void *memory = untouched;
    assert_int_equal(sl_host_memory_map(0, NULL, "nothing", &memory), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "0 bytes for nothing"));
    assert_int_equal(sl_host_memory_map(5000, NULL, "a piece", &memory), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "5000 bytes for a piece"));
    assert_ptr_equal(memory, untouched);
}

static void what_cannot_be_mapped_is_told_with_its_size(void **state) {
    (void)state;
    void *const untouched = (void *)(uintptr_t)0x1;
    void *memory = untouched;
    const size_t huge = (size_t)1 << 60, most = SIZE_MAX & ~(size_t)4095;
    assert_int_equal(sl_host_memory_map(huge, NULL, "the moon", &memory), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "map 1152921504606846976 bytes"));
    assert_non_null(strstr(sl_error_message(), "the moon: Cannot allocate memory"));
    assert_int_equal(sl_host_memory_map(most, NULL, "the sun", &memory), SL_ERR_NOMEM);
    assert_ptr_equal(memory, untouched);
    sl_host_memory_unmap(NULL, 4096);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mapped_memory_is_not_resident_until_touched),
        cmocka_unit_test(memory_with_room_for_a_huge_page_begins_where_one_may),
        cmocka_unit_test(sizes_that_are_no_pages_are_refused_by_number),
        cmocka_unit_test(what_cannot_be_mapped_is_told_with_its_size),
    };
    return cmocka_run_group_tests_name("host_memory", tests, NULL, NULL);
}
