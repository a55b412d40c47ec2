/* Unit tests of src/engine/loopback.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/transport.h"

static int open_loopback(void **state) {
    sl_transport *t = NULL;
    if (sl_transport_open_loopback(&t) != SL_OK) return -1;
    *state = t;
    return 0;
}

static int close_loopback(void **state) {
    sl_transport_close(*state);
    return 0;
}

static void one_rank_is_first_and_last(void **state) {
    const sl_transport *t = *state;
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->n_ranks, 1);
    assert_true(sl_transport_is_first(t));
    assert_true(sl_transport_is_last(t));
    assert_string_equal(t->ops->name, "loopback");
}

static void collectives_give_back_their_input(void **state) {
    sl_transport *t = *state;
    int64_t values[] = {5, -3, INT64_MAX};
    const int64_t before[] = {5, -3, INT64_MAX};
    int64_t gathered[3] = {0};
    assert_int_equal(t->ops->min_i64(t, values, 3), SL_OK);
    assert_memory_equal(values, before, sizeof values);
    assert_int_equal(t->ops->broadcast(t, 0, values, sizeof values), SL_OK);
    assert_memory_equal(values, before, sizeof values);
    assert_int_equal(t->ops->gather(t, values, sizeof values, gathered), SL_OK);
    assert_memory_equal(gathered, before, sizeof values);
    assert_int_equal(t->ops->gather(t, NULL, 0, NULL), SL_OK);
}

static void agree_keeps_status_and_message(void **state) {
    sl_transport *t = *state;
    assert_int_equal(t->ops->agree(t, SL_OK), SL_OK);
    const sl_status st = sl_fail_text(SL_ERR_NOMEM, "budget of 3 bytes");
    assert_int_equal(t->ops->agree(t, st), SL_ERR_NOMEM);
    assert_string_equal(sl_error_message(), "budget of 3 bytes");
}

static void messages_to_anyone_are_errors(void **state) {
    sl_transport *t = *state;
    char buf[4] = "abc";
    void *message = buf;
    size_t bytes = 77;
    sl_ticket ticket = 5;
    assert_int_equal(t->ops->send(t, 0, SL_CHANNEL_HEADER, buf, 3, &ticket), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "send to rank 0"));
    assert_int_equal(t->ops->recv(t, 1, SL_CHANNEL_HIDDEN, buf, 3, &ticket), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "receive from rank 1"));
    assert_int_equal(t->ops->recv_message(t, 0, SL_CHANNEL_RESULT, 0, &message, &bytes),
                     SL_ERR_ARG);
    assert_int_equal(t->ops->broadcast(t, 1, buf, 3), SL_ERR_ARG);
    assert_int_equal(t->ops->min_i64(t, NULL, -1), SL_ERR_ARG);
    assert_int_equal(ticket, 5); /* outputs are written on success only */
    assert_ptr_equal(message, buf);
    assert_int_equal(bytes, 77);
}

static void ticket_zero_is_done_and_others_are_unknown(void **state) {
    sl_transport *t = *state;
    int done = 0;
    assert_int_equal(t->ops->test(t, 0, &done), SL_OK);
    assert_int_equal(done, 1);
    assert_int_equal(t->ops->wait(t, 0), SL_OK);
    done = 3;
    assert_int_equal(t->ops->test(t, 1, &done), SL_ERR_ARG);
    assert_int_equal(t->ops->wait(t, 1), SL_ERR_ARG);
    assert_int_equal(done, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_rank_is_first_and_last, open_loopback, close_loopback),
        cmocka_unit_test_setup_teardown(collectives_give_back_their_input, open_loopback,
                                        close_loopback),
        cmocka_unit_test_setup_teardown(agree_keeps_status_and_message, open_loopback,
                                        close_loopback),
        cmocka_unit_test_setup_teardown(messages_to_anyone_are_errors, open_loopback,
                                        close_loopback),
        cmocka_unit_test_setup_teardown(ticket_zero_is_done_and_others_are_unknown, open_loopback,
                                        close_loopback),
    };
    return cmocka_run_group_tests_name("loopback", tests, NULL, NULL);
}
