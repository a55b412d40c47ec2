/* Unit tests of src/base/parallel.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/parallel.h"

enum { N = 5000 };

typedef struct {
    unsigned char n_visits[N];
    int first_bad; /* items from here on fail; N: none */
} visits;

static sl_status visit(void *context, int item) {
    visits *v = context;
    v->n_visits[item]++;
    return item < v->first_bad ? SL_OK : SL_FAIL(SL_ERR_IO, "item %d is bad", item);
}

static void every_item_is_worked_on_once(void **state) {
    (void)state;
    for (int n_threads = 0; n_threads < 9; n_threads += 2) {
        for (int n = 0; n <= N; n = n ? n * 17 : 1) {
            visits v = {.first_bad = N};
            assert_int_equal(sl_parallel_for(n_threads, n, visit, &v), SL_OK);
            for (int i = 0; i < N; i++) assert_int_equal(v.n_visits[i], i < n);
        }
    }
}

static void a_failure_stops_the_loop_and_keeps_its_message(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads < 6; n_threads++) {
        visits v = {.first_bad = 100};
        assert_int_equal(sl_parallel_for(n_threads, N, visit, &v), SL_ERR_IO);
        /* Items are taken in order, so the first bad one is among those that ran. */
        assert_non_null(strstr(sl_error_message(), "item 100 is bad"));
        int n = 0;
        for (int i = 0; i < N; i++) n += v.n_visits[i];
        assert_in_range(n, 101, 101 + n_threads);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_worked_on_once),
        cmocka_unit_test(a_failure_stops_the_loop_and_keeps_its_message),
    };
    return cmocka_run_group_tests_name("parallel", tests, NULL, NULL);
}
