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
    const sl_sweep_shape one = {
        .last_layer = 2, .is_first_rank = 1, .is_last_rank = 1, .n_micro_batches = 2};
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&one, &s), SL_OK);
    int n[SL_TASK_COUNT] = {0};
    for (int i = 0; i < s.n_tasks; i++) n[s.task[i].kind]++;
    assert_int_equal(n[SL_TASK_EMBED], 2);
    assert_int_equal(n[SL_TASK_LAYER], 4);
    assert_int_equal(n[SL_TASK_HEAD], 2);
    assert_int_equal(n[SL_TASK_SEND] + n[SL_TASK_RECEIVE], 0);
    sl_sweep_free(&s);
}

/* A ring as the weight store keeps it: a load takes the place of the load before the last. */
typedef struct {
    int layer[SL_SWEEP_RING], next, n_loads;
} fake_ring;

static int holds(const fake_ring *r, int layer) {
    return r->layer[0] == layer || r->layer[1] == layer;
}

/* Loads a layer; `user` is the layer whose use the task waits for, -1 for none. */
static void load(fake_ring *r, int layer, int user, int is_first_load_of_sweep) {
    if (holds(r, layer)) return;
    /* Whose place it takes must be done with: it is waited for, or was used in the sweep before. */
    if (r->layer[r->next] >= 0 && !is_first_load_of_sweep)
        assert_int_equal(user, r->layer[r->next]);
    r->layer[r->next] = layer;
    r->next = (r->next + 1) % SL_SWEEP_RING;
    r->n_loads++;
}

/* Plays sweep after sweep on both rings: a layer is computed only while it is in the ring that is
 * computed from, uploaded only while its disk pieces are in the host's, and no place is overwritten
 * while its layer is in use. */
static void play(const sl_sweep_shape *shape) {
    fake_ring host = {{-1, -1}, 0, 0}, device = {{-1, -1}, 0, 0};
    const unsigned char *computed = shape->has_device ? shape->is_uploaded : shape->is_fetched;
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(shape, &s), SL_OK);
    for (int sweep = 0; sweep < 3; sweep++) {
        int n_host = 0, n_device = 0, parts = 0;
        for (int i = 0; i < s.n_tasks; i++) {
            const sl_task *t = &s.task[i];
            const int l = t->layer - shape->first_layer;
            int user = -1, fetch = -1;
            for (int d = 0; d < t->n_deps; d++) {
                const sl_task *dep = &s.task[t->dep[d]];
                if (dep->kind == SL_TASK_FETCH)
                    fetch = dep->layer;
                else
                    user = dep->layer;
                if (dep->kind == SL_TASK_LAYER && t->kind != SL_TASK_LAYER && t->micro_batch < 0)
                    assert_int_equal(dep->micro_batch, shape->n_micro_batches - 1);
            }
            if (t->kind == SL_TASK_FETCH) {
                assert_true(shape->is_fetched[l]);
                load(&host, t->layer, user, n_host++ < SL_SWEEP_RING);
            }
            if (t->kind == SL_TASK_UPLOAD && t->part > 0) { /* goes on where the first began */
                assert_true(holds(&device, t->layer));
                assert_int_equal(s.task[i].part, parts);
                parts = (parts + 1) % t->n_parts;
            } else if (t->kind == SL_TASK_UPLOAD) {
                assert_true(shape->is_uploaded[l]);
                assert_int_equal(parts, 0);
                parts = 1 % t->n_parts;
                if (!holds(&device, t->layer) && shape->is_fetched[l])
                    assert_true(holds(&host, t->layer));
                assert_true(fetch < 0 || fetch == t->layer);
                load(&device, t->layer, user, n_device++ < SL_SWEEP_RING);
            }
            if (t->kind != SL_TASK_LAYER || !computed[l]) continue;
            assert_true(holds(shape->has_device ? &device : &host, t->layer));
            assert_int_equal(t->n_deps, 2);
            assert_int_equal(s.task[t->dep[1]].kind,
                             shape->has_device ? SL_TASK_UPLOAD : SL_TASK_FETCH);
            assert_int_equal(s.task[t->dep[1]].layer, t->layer);
        }
    }
    /* Each layer once a sweep, and the ring's worth ahead for the sweep to come. */
    int n = 0;
    for (int l = 0; l < shape->last_layer - shape->first_layer; l++) n += computed[l];
    assert_int_equal((shape->has_device ? &device : &host)->n_loads,
                     n > SL_SWEEP_RING ? 3 * n + SL_SWEEP_RING : n);
    sl_sweep_free(&s);
}

static void streamed_layers_are_in_the_rings_when_they_are_needed(void **state) {
    (void)state;
    enum { LAYERS = 7 };
    for (int mask = 0; mask < 1 << LAYERS; mask++) {
        for (int sub = mask;; sub = (sub - 1) & mask) { /* layers with pieces on disk */
            unsigned char uploaded[LAYERS], fetched[LAYERS];
            for (int l = 0; l < LAYERS; l++) {
                uploaded[l] = (mask >> l) & 1;
                fetched[l] = (sub >> l) & 1;
            }
            const sl_sweep_shape device = {.first_layer = 10,
                                           .last_layer = 10 + LAYERS,
                                           .is_first_rank = mask & 1,
                                           .is_last_rank = sub & 1,
                                           .n_micro_batches = 1 + mask % 3,
                                           .is_fetched = fetched,
                                           .is_uploaded = uploaded,
                                           .has_device = 1};
            play(&device);
            if (sub == mask) {
                sl_sweep_shape host = device;
                host.is_last_rank = host.has_device = 0;
                host.is_uploaded = NULL;
                play(&host);
            }
            if (sub == 0) break;
        }
    }
}

static void a_device_lowers_hidden_states_before_they_are_sent(void **state) {
    (void)state;
    sl_sweep_shape shape = middle;
    shape.has_device = 1;
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&shape, &s), SL_OK);
    int n = 0;
    for (int i = 0; i < s.n_tasks; i++) {
        if (s.task[i].kind != SL_TASK_SEND) continue;
        assert_int_equal(s.task[s.task[i].dep[0]].kind, SL_TASK_LOWER);
        n++;
    }
    assert_int_equal(n, shape.n_micro_batches);
    sl_sweep_free(&s);
}

static void sweep_of_nothing_is_an_argument_error(void **state) {
    (void)state;
    sl_sweep s = {0};
    const sl_sweep_shape empty = {.first_layer = 2, .last_layer = 2, .n_micro_batches = 1},
                         none = {.last_layer = 2};
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
        const sl_task_runner runner = {&f, fake_start, fake_poll, NULL, fake_progress};
        double wait_s = -1;
        assert_int_equal(sl_executor_run(ex, &s, &runner, seed % 2, &wait_s), SL_OK);
        assert_int_equal(f.n_started, s.n_tasks);
        for (int i = 0; i < s.n_tasks; i++) assert_true(f.done[i]);
        /* all receives are posted ahead of use, unless one thing is done at a time */
        assert_int_equal(f.most_running_receives, seed % 2 ? 1 : shape.n_micro_batches);
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
    const sl_task_runner runner = {&f, fake_start, fake_poll, NULL, fake_progress};
    double wait_s;
    assert_int_equal(sl_executor_run(ex, &s, &runner, 0, &wait_s), SL_ERR_COMM);
    assert_non_null(strstr(sl_error_message(), "task 7 fails"));
    sl_sweep_free(&s);
    sl_executor_close(ex);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sweep_dependencies_point_backwards_and_to_the_same_micro_batch),
        cmocka_unit_test(sweep_is_zig_zag_and_sends_as_soon_as_a_micro_batch_is_done),
        cmocka_unit_test(sweep_of_a_single_rank_embeds_and_chooses),
        cmocka_unit_test(streamed_layers_are_in_the_rings_when_they_are_needed),
        cmocka_unit_test(a_device_lowers_hidden_states_before_they_are_sent),
        cmocka_unit_test(sweep_of_nothing_is_an_argument_error),
        cmocka_unit_test(executor_keeps_dependencies_and_queue_order),
        cmocka_unit_test(executor_passes_a_runners_failure_on),
    };
    return cmocka_run_group_tests_name("sweep", tests, NULL, NULL);
}
