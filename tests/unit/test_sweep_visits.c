/* Unit tests of src/engine/sweep.c: visits, attention on the host, and what may happen before what.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/sweep.h"

enum { MOST_TASKS = 2048 };

/* before[i] has bit j: task j is over before task i begins, by dependencies and in-order queues. */
static uint64_t before[MOST_TASKS][MOST_TASKS / 64];

static int is_before(int first, int then) {
    return first < 0 || (before[then][first / 64] >> (first % 64) & 1);
}

static int ends_in_order(sl_queue q) {
    return q != SL_QUEUE_DISK_READ && q != SL_QUEUE_DISK_WRITE && q != SL_QUEUE_WIRE_IN;
}

static void find_order(const sl_sweep *s) {
    int last[SL_QUEUE_COUNT];
    memset(last, -1, sizeof last);
    assert_true(s->n_tasks <= MOST_TASKS);
    for (int i = 0; i < s->n_tasks; i++) {
        const sl_task *t = &s->task[i];
        memset(before[i], 0, sizeof before[i]);
        for (int d = -1; d < t->n_deps; d++) {
            const int dep = d >= 0 ? t->dep[d] : ends_in_order(t->queue) ? last[t->queue] : -1;
            if (dep < 0) continue;
            assert_true(dep < i);
            before[i][dep / 64] |= (uint64_t)1 << (dep % 64);
            for (int w = 0; w < MOST_TASKS / 64; w++) before[i][w] |= before[dep][w];
        }
        last[t->queue] = i;
    }
}

static int find(const sl_sweep *s, sl_task_kind kind, int layer, int mb) {
    int found = -1;
    for (int i = 0; i < s->n_tasks; i++) {
        const sl_task *t = &s->task[i];
        if (t->kind != kind || t->layer != layer || t->micro_batch != mb) continue;
        assert_int_equal(found, -1); /* once only */
        found = i;
    }
    return found;
}

/* Everything that a micro-batch does in a layer comes in its order. */
static void check_item(const sl_sweep *s, const sl_sweep_shape *shape, int layer, int mb) {
    int bits = shape->visit ? shape->visit[mb] : 0;
    if (shape->hidden_travels) bits |= SL_VISIT_UPLOAD | SL_VISIT_STORE;
    const int fetch = find(s, SL_TASK_VISIT_FETCH, layer, mb);
    const int upload = find(s, SL_TASK_VISIT_UPLOAD, layer, mb);
    const int store = find(s, SL_TASK_VISIT_STORE, layer, mb);
    const int write = find(s, SL_TASK_VISIT_WRITE, layer, mb);
    const int whole = find(s, SL_TASK_LAYER, layer, mb);
    const int first = find(s, SL_TASK_BEFORE, layer, mb), last = find(s, SL_TASK_AFTER, layer, mb);
    const int ask = find(s, SL_TASK_ASK, layer, mb), attend = find(s, SL_TASK_ATTEND, layer, mb);
    const int answer = find(s, SL_TASK_ANSWER, layer, mb);
    assert_int_equal(fetch >= 0, (bits & SL_VISIT_FETCH) != 0);
    assert_int_equal(upload >= 0, (bits & SL_VISIT_UPLOAD) != 0);
    assert_int_equal(store >= 0, (bits & SL_VISIT_STORE) != 0);
    assert_int_equal(write >= 0, (bits & SL_VISIT_WRITE) != 0);
    assert_int_equal(attend >= 0, (bits & SL_VISIT_HOST) != 0);
    assert_int_equal(whole >= 0, attend < 0);
    const int begin = whole >= 0 ? whole : first, end = whole >= 0 ? whole : last;
    assert_true(begin >= 0 && end >= 0);
    assert_true(is_before(upload, begin));
    if (upload >= 0) assert_true(is_before(fetch, upload));
    if (attend >= 0) {
        assert_true(is_before(first, ask) && is_before(ask, attend) && is_before(attend, answer));
        assert_true(is_before(answer, last) && is_before(fetch, attend));
    } else {
        assert_true(is_before(fetch, begin));
    }
    if (store >= 0) assert_true(is_before(end, store));
    if (write >= 0) assert_true(is_before(store >= 0 ? store : end, write));
    if (write >= 0 && attend >= 0) assert_true(is_before(attend, write));
    if (layer == shape->first_layer) return;
    const int end_before = find(s, SL_TASK_LAYER, layer - 1, mb) >= 0
                               ? find(s, SL_TASK_LAYER, layer - 1, mb)
                               : find(s, SL_TASK_AFTER, layer - 1, mb);
    assert_true(is_before(end_before, begin));
    if (!shape->hidden_travels) return;
    assert_true(is_before(find(s, SL_TASK_VISIT_STORE, layer - 1, mb), upload));
    if (fetch >= 0) assert_true(is_before(find(s, SL_TASK_VISIT_WRITE, layer - 1, mb), fetch));
}

/* Nobody takes a place before its last guest is gone. */
static void check_places(const sl_sweep *s, const sl_sweep_shape *shape) {
    for (int i = 0; i < s->n_tasks; i++) {
        const sl_task *t = &s->task[i];
        assert_true(t->place < shape->n_places);
        const int fills = t->kind == SL_TASK_VISIT_FETCH || t->kind == SL_TASK_VISIT_UPLOAD ||
                          (t->kind == SL_TASK_EMBED && shape->hidden_travels);
        if (!fills) continue;
        assert_true(t->place >= 0);
        for (int j = 0; j < i; j++) {
            const sl_task *u = &s->task[j];
            const int same = (u->layer == t->layer && u->micro_batch == t->micro_batch);
            if (u->place == t->place && !same) assert_true(is_before(j, i));
        }
    }
}

/* A layer's weights are there when it is computed, and are not overwritten before it is over. */
static void check_weights(const sl_sweep *s, const sl_sweep_shape *shape) {
    int held[2] = {-1, -1}, next = 0;
    for (int i = 0; i < s->n_tasks; i++) {
        const sl_task *t = &s->task[i];
        if (t->kind == SL_TASK_UPLOAD && t->part == 0) {
            for (int j = 0; j < s->n_tasks && held[next] >= 0; j++) {
                const sl_task *u = &s->task[j];
                if (u->layer == held[next] && u->queue == SL_QUEUE_COMPUTE)
                    assert_true(is_before(j, i));
            }
            held[next] = t->layer;
            next = !next;
        }
        if (t->kind != SL_TASK_LAYER && t->kind != SL_TASK_BEFORE && t->kind != SL_TASK_AFTER)
            continue;
        if (!shape->is_uploaded || !shape->is_uploaded[t->layer - shape->first_layer]) continue;
        assert_true(held[0] == t->layer || held[1] == t->layer);
        for (int j = 0; j < i; j++)
            if (s->task[j].kind == SL_TASK_UPLOAD && s->task[j].layer == t->layer)
                assert_true(is_before(j, i));
    }
}

static void every_order_is_kept_for_random_shapes(void **state) {
    (void)state;
    sl_rng rng = {5, 0};
    sl_sweep s = {0};
    for (int round = 0; round < 600; round++) {
        unsigned char visit[8], streamed[8];
        sl_sweep_shape shape = {.first_layer = (int)sl_rng_below(&rng, 3),
                                .is_first_rank = (int)sl_rng_below(&rng, 2),
                                .is_last_rank = (int)sl_rng_below(&rng, 2),
                                .n_micro_batches = 1 + (int)sl_rng_below(&rng, 6),
                                .is_uploaded = streamed,
                                .has_device = 1,
                                .visit = visit,
                                .hidden_travels = sl_rng_below(&rng, 3) == 0};
        const int n_layers = 1 + (int)sl_rng_below(&rng, 6), on_host = (int)sl_rng_below(&rng, 2);
        shape.last_layer = shape.first_layer + n_layers;
        for (int l = 0; l < n_layers; l++) streamed[l] = sl_rng_below(&rng, 4) > 0;
        for (int m = 0; m < shape.n_micro_batches; m++) {
            visit[m] = (unsigned char)sl_rng_below(&rng, 32);
            if (!on_host) visit[m] &= (unsigned char)~SL_VISIT_HOST;
            if (visit[m] & SL_VISIT_STORE) visit[m] |= SL_VISIT_UPLOAD;
            if (visit[m] & SL_VISIT_WRITE) visit[m] |= SL_VISIT_FETCH;
        }
        shape.n_places = sl_sweep_places(shape.n_micro_batches, on_host, shape.hidden_travels);
        assert_int_equal(sl_sweep_make(&shape, &s), SL_OK);
        find_order(&s);
        for (int l = shape.first_layer; l < shape.last_layer; l++)
            for (int m = 0; m < shape.n_micro_batches; m++) check_item(&s, &shape, l, m);
        check_places(&s, &shape);
        check_weights(&s, &shape);
    }
    sl_sweep_free(&s);
}

static void the_device_computes_others_while_the_host_attends(void **state) {
    (void)state;
    const unsigned char visit[4] = {SL_VISIT_HOST, SL_VISIT_HOST, SL_VISIT_HOST, SL_VISIT_HOST};
    const sl_sweep_shape shape = {.last_layer = 3,
                                  .is_first_rank = 1,
                                  .is_last_rank = 1,
                                  .n_micro_batches = 4,
                                  .has_device = 1,
                                  .visit = visit,
                                  .n_places = 1};
    sl_sweep s = {0};
    int n_begun = 0, n_ended = 0;
    assert_int_equal(sl_sweep_lag(4, 1, 0), 2);
    assert_int_equal(sl_sweep_lag(1, 1, 0), 0);
    assert_int_equal(sl_sweep_lag(4, 0, 0), 0);
    assert_int_equal(sl_sweep_make(&shape, &s), SL_OK);
    for (int i = 0; i < s.n_tasks; i++) {
        n_begun += s.task[i].kind == SL_TASK_BEFORE;
        n_ended += s.task[i].kind == SL_TASK_AFTER;
        assert_in_range(n_begun - n_ended, 0, 3);
        if (s.task[i].kind == SL_TASK_AFTER && n_begun < 12)
            assert_int_equal(n_begun - n_ended, 2); /* two others have been begun meanwhile */
    }
    assert_int_equal(n_ended, 12);
    sl_sweep_free(&s);
}

static void weights_come_in_parts_between_the_micro_batches(void **state) {
    (void)state;
    const unsigned char streamed[6] = {1, 1, 1, 1, 1, 1};
    const sl_sweep_shape shape = {.last_layer = 6,
                                  .is_first_rank = 1,
                                  .is_last_rank = 1,
                                  .n_micro_batches = 4,
                                  .has_device = 1,
                                  .is_uploaded = streamed};
    sl_sweep s = {0};
    assert_int_equal(sl_sweep_make(&shape, &s), SL_OK);
    for (int i = 0; i < s.n_tasks; i++) {
        const sl_task *t = &s.task[i];
        if (t->kind != SL_TASK_UPLOAD || t->n_parts == 1) continue;
        assert_int_equal(t->n_parts, 4);
        /* Layer l + 2 begins with the last micro-batch of layer l. */
        const sl_task *u = &s.task[i - 1];
        if (u->kind == SL_TASK_LAYER) assert_int_equal((u->micro_batch + 1) % 4, t->part);
    }
    sl_sweep_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_is_kept_for_random_shapes),
        cmocka_unit_test(the_device_computes_others_while_the_host_attends),
        cmocka_unit_test(weights_come_in_parts_between_the_micro_batches),
    };
    return cmocka_run_group_tests_name("sweep_visits", tests, NULL, NULL);
}
