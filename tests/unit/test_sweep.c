/* Unit tests of src/engine/sweep.c and executor.c: no model, no device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/executor.h"
#include "engine/sweep.h"

static const sl_sweep_shape middle = {
    .first_layer = 3, .last_layer = 6, .is_first_rank = 0, .is_last_rank = 0, .n_micro_batches = 4};

static void sweep_dependencies_point_backwards_and_to_the_same_micro_batch(void **state) {
    (void)state;
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&middle, &s), SL_OK);
    assert_int_equal(s.n_tasks, 4 * (1 + 3 + 1));
    for (int i = 0; i < s.n_tasks; i++) {
        for (int d = 0; d < s.task[i].n_deps; d++) {
            assert_in_range(s.task[i].dep[d], 0, i - 1);
            assert_int_equal(s.task[s.task[i].dep[d]].micro_batch, s.task[i].micro_batch);
        }
        assert_int_equal(s.task[i].n_deps, s.task[i].kind != SL_TASK_RECEIVE);
    }
    sl_sweep_free(&s);
}

static void sweep_is_zig_zag_and_sends_as_soon_as_a_micro_batch_is_done(void **state) {
    (void)state;
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&middle, &s), SL_OK);
    int last_layer = 2, last_mb = 3;
    for (int i = 0; i < s.n_tasks; i++) {
        const sl_task *t = &s.task[i];
        if (t->kind == SL_TASK_SEND) {
            assert_int_equal(s.task[i - 1].kind, SL_TASK_LAYER);
            assert_int_equal(s.task[i - 1].layer, 5);
            assert_int_equal(s.task[i - 1].micro_batch, t->micro_batch);
        }
        if (t->kind != SL_TASK_LAYER) continue;
        /* all micro-batches of a layer, then the next layer */
        assert_int_equal(t->micro_batch, (last_mb + 1) % 4);
        assert_int_equal(t->layer, last_layer + (last_mb == 3));
        last_mb = t->micro_batch;
        last_layer = t->layer;
    }
    assert_int_equal(last_layer, 5);
    sl_sweep_free(&s);
}

static void sweep_of_a_single_rank_embeds_and_chooses(void **state) {
    (void)state;
    const sl_sweep_shape one = {0, 2, 1, 1, 2};
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&one, &s), SL_OK);
    int n[5] = {0};
    for (int i = 0; i < s.n_tasks; i++) n[s.task[i].kind]++;
    assert_int_equal(n[SL_TASK_EMBED], 2);
    assert_int_equal(n[SL_TASK_LAYER], 4);
    assert_int_equal(n[SL_TASK_HEAD], 2);
    assert_int_equal(n[SL_TASK_SEND] + n[SL_TASK_RECEIVE], 0);
    sl_sweep_free(&s);
}

static void sweep_of_nothing_is_an_argument_error(void **state) {
    (void)state;
    sl_sweep s = {0};
    const sl_sweep_shape empty = {2, 2, 1, 1, 1}, none = {0, 2, 1, 1, 0};
    assert_int_equal(sl_sweep_make(&empty, &s), SL_ERR_ARG);
    assert_int_equal(sl_sweep_make(&none, &s), SL_ERR_ARG);
}

/* A runner whose receives arrive after a random number of polls. */
typedef struct {
    const sl_sweep *sweep;
    int n_started, done[256], started[256];
    int polls_left[256];
    sl_rng rng;
    int n_running_receives, most_running_receives;
    int fail_at;
} fake;

static int number_of(const fake *f, const sl_task *t) {
    return (int)(t - f->sweep->task);
}

static sl_status fake_start(void *context, const sl_task *t, sl_ticket *ticket) {
    fake *f = context;
    const int i = number_of(f, t);
    if (i == f->fail_at) return SL_FAIL(SL_ERR_COMM, "task %d fails", i);
    for (int d = 0; d < t->n_deps; d++) assert_true(f->done[t->dep[d]]);
    for (int j = 0; j < i; j++)
        if (f->sweep->task[j].queue == t->queue) assert_true(f->started[j]);
    f->started[i] = 1;
    f->n_started++;
    *ticket = 0;
    if (t->kind == SL_TASK_RECEIVE) {
        *ticket = (sl_ticket)i + 1;
        f->polls_left[i] = (int)sl_rng_below(&f->rng, 20);
        if (++f->n_running_receives > f->most_running_receives)
            f->most_running_receives = f->n_running_receives;
        return SL_OK;
    }
    f->done[i] = 1;
    return SL_OK;
}

static sl_status fake_poll(void *context, const sl_task *t, sl_ticket ticket, int *done_out) {
    fake *f = context;
    const int i = number_of(f, t);
    assert_int_equal(ticket, i + 1);
    *done_out = f->polls_left[i]-- <= 0;
    if (*done_out) {
        f->done[i] = 1;
        f->n_running_receives--;
    }
    return SL_OK;
}

static sl_status fake_progress(void *context) {
    (void)context;
    return SL_OK;
}

static void executor_keeps_dependencies_and_queue_order(void **state) {
    (void)state;
    sl_executor *ex = NULL;
    assert_int_equal(sl_executor_open(&ex), SL_OK);
    for (int seed = 0; seed < 50; seed++) {
        sl_sweep s = {0};
        sl_sweep_shape shape = middle;
        shape.n_micro_batches = 1 + seed % 6;
        assert_int_equal(sl_sweep_make(&shape, &s), SL_OK);
        fake f = {.sweep = &s, .rng = {(uint64_t)seed, 0}, .fail_at = -1};
        const sl_task_runner runner = {&f, fake_start, fake_poll, fake_progress};
        double wait_s = -1;
        assert_int_equal(sl_executor_run(ex, &s, &runner, &wait_s), SL_OK);
        assert_int_equal(f.n_started, s.n_tasks);
        for (int i = 0; i < s.n_tasks; i++) assert_true(f.done[i]);
        /* all receives are posted ahead of use */
        assert_int_equal(f.most_running_receives, shape.n_micro_batches);
        assert_true(wait_s >= 0);
        sl_sweep_free(&s);
    }
    sl_executor_close(ex);
}

static void executor_passes_a_runners_failure_on(void **state) {
    (void)state;
    sl_executor *ex = NULL;
    assert_int_equal(sl_executor_open(&ex), SL_OK);
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&middle, &s), SL_OK);
    fake f = {.sweep = &s, .fail_at = 7};
    const sl_task_runner runner = {&f, fake_start, fake_poll, fake_progress};
    double wait_s;
    assert_int_equal(sl_executor_run(ex, &s, &runner, &wait_s), SL_ERR_COMM);
    assert_non_null(strstr(sl_error_message(), "task 7 fails"));
    sl_sweep_free(&s);
    sl_executor_close(ex);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sweep_dependencies_point_backwards_and_to_the_same_micro_batch),
        cmocka_unit_test(sweep_is_zig_zag_and_sends_as_soon_as_a_micro_batch_is_done),
        cmocka_unit_test(sweep_of_a_single_rank_embeds_and_chooses),
        cmocka_unit_test(sweep_of_nothing_is_an_argument_error),
        cmocka_unit_test(executor_keeps_dependencies_and_queue_order),
        cmocka_unit_test(executor_passes_a_runners_failure_on),
    };
    return cmocka_run_group_tests_name("sweep", tests, NULL, NULL);
}
