/* The CUDA backend's memory, copies, events and bound rows. */
#include "gpu_fixture.h"
#include "store/tier.h"

static void pool_holds_the_budget_and_its_peak(void **state) {
    (void)state;
    sl_backend *be = gpu_open();
    const sl_device_ops *d = be->ops->device;
    const size_t budget = d->budget_bytes(be), used = d->used_bytes(be);
    assert_int_equal(budget, (size_t)1 << 30);
    assert_true(used > 0); /* the backend's own buffers count */
    void *first = gpu_alloc(be, budget / 4), *second = gpu_alloc(be, 1000), *third = NULL;
    assert_int_equal((uintptr_t)first % 256, 0);
    assert_int_equal((uintptr_t)second % 256, 0);
    const size_t peak = d->peak_bytes(be);
    assert_int_equal(peak, used + budget / 4 + 1024);
    assert_int_equal(d->take(be, budget, "far too much", &third), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "far too much"));
    d->put(be, first);
    assert_int_equal(d->used_bytes(be), used + 1024);
    assert_int_equal(d->peak_bytes(be), peak);
    assert_ptr_equal(gpu_alloc(be, budget / 8), first); /* the gap is used again */
    sl_backend_close(be);
}

static void overhead_is_what_the_backend_takes(void **state) {
    (void)state;
    const sl_cuda_options all[] = {{.memory_bytes = (size_t)1 << 30},
                                   {.memory_bytes = (size_t)1 << 30,
                                    .workspace_bytes = 1 << 20,
                                    .unpack_bytes = 5 << 20,
                                    .attend_bytes = 3 << 20,
                                    .max_rows = 77,
                                    .max_pages = 1001,
                                    .n_bound = 3}};
    for (int i = 0; i < 2; i++) {
        sl_backend *be = NULL;
        check_ok(sl_cuda_backend_open(&all[i], &be));
        assert_int_equal(be->ops->device->used_bytes(be), sl_cuda_overhead_bytes(&all[i]));
        sl_backend_close(be);
    }
}

static void budget_beyond_the_device_is_refused(void **state) {
    (void)state;
    sl_backend *be = NULL;
    const sl_cuda_options huge = {.memory_bytes = (size_t)1 << 50};
    assert_int_equal(sl_cuda_backend_open(&huge, &be), SL_ERR_NOMEM);
    const sl_cuda_options small = {.memory_bytes = 1 << 20};
    assert_int_equal(sl_cuda_backend_open(&small, &be), SL_ERR_NOMEM);
    const sl_cuda_options absent = {.memory_bytes = 1 << 30, .device = 4096};
    assert_int_equal(sl_cuda_backend_open(&absent, &be), SL_ERR_DEVICE);
    assert_null(be);
}

static void host_memory_near_the_device_is_pinned(void **state) {
    (void)state;
    sl_backend *be = gpu_open();
    const sl_device_ops *d = be->ops->device;
    const int node = d->numa_node(be);
    assert_in_range(node + 1, 0, 1024); /* -1 on hosts that do not say */
    sl_tier *tier = NULL;
    void *memory = NULL;
    check_ok(sl_tier_open_cpu(192 << 20, &tier));
    sl_tier_set_node(tier, node);
    check_ok(sl_tier_take_touched(tier, 160 << 20, "memory to pin", &memory));
    check_ok(d->pin(be, memory, 160 << 20));
    d->unpin(be, memory);
    sl_tier_close(tier);
    sl_backend_close(be);
}

/* Host -> device on one stream, a copy on the compute stream after it, device -> host after that:
 * only the events order them. */
static void streams_wait_for_events(void **state) {
    (void)state;
    enum { BYTES = 48 << 20 };
    sl_backend *be = gpu_open();
    const sl_device_ops *d = be->ops->device;
    unsigned char *host = aligned_alloc(4096, 2 * (size_t)BYTES);
    assert_non_null(host);
    for (size_t i = 0; i < BYTES; i++) host[i] = (unsigned char)(sl_rng_at(61, i / 8) >> i % 8 * 8);
    memset(host + BYTES, 0, BYTES);
    check_ok(d->pin(be, host, 2 * (size_t)BYTES));
    void *a = gpu_alloc(be, BYTES), *b = gpu_alloc(be, BYTES);
    sl_event *event[4];
    for (int i = 0; i < 4; i++) check_ok(d->event_open(be, &event[i]));
    check_ok(d->record(be, SL_STREAM_H2D, event[3]));
    check_ok(d->copy(be, SL_STREAM_H2D, a, host, BYTES));
    check_ok(d->record(be, SL_STREAM_H2D, event[0]));
    check_ok(d->wait(be, SL_STREAM_COMPUTE, event[0]));
    check_ok(d->copy(be, SL_STREAM_COMPUTE, b, a, BYTES));
    check_ok(d->record(be, SL_STREAM_COMPUTE, event[1]));
    check_ok(d->wait(be, SL_STREAM_D2H, event[1]));
    check_ok(d->copy(be, SL_STREAM_D2H, host + BYTES, b, BYTES));
    check_ok(d->record(be, SL_STREAM_D2H, event[2]));
    check_ok(d->drain(be));
    int done = 0;
    check_ok(d->is_done(be, event[2], &done));
    assert_true(done);
    assert_memory_equal(host, host + BYTES, BYTES);
    double seconds = 0.0;
    check_ok(d->elapsed(be, event[3], event[0], &seconds));
    assert_true(seconds > 0.0 && seconds < 10.0);
    for (int i = 0; i < 4; i++) d->event_close(be, event[i]);
    d->unpin(be, host);
    free(host);
    sl_backend_close(be);
}

/* What computation waits for is not stuck behind what is streamed. */
static void small_copies_pass_large_ones(void **state) {
    (void)state;
    enum { LARGE = 64 << 20, ROUNDS = 32 }; /* some 40 ms of copies */
    static const size_t sizes[] = {1, 15, 16, 17, 4099, 1 << 20};
    sl_backend *be = gpu_open();
    const sl_device_ops *d = be->ops->device;
    unsigned char *host = aligned_alloc(4096, LARGE), *small = aligned_alloc(4096, 4 << 20);
    memset(host, 3, LARGE);
    for (size_t i = 0; i < 4 << 20; i++) small[i] = (unsigned char)(i * 7 + i / 251);
    check_ok(d->pin(be, host, LARGE));
    check_ok(d->pin(be, small, 4 << 20));
    void *a = gpu_alloc(be, LARGE), *b = gpu_alloc(be, 2 << 20);
    sl_event *large, *answered, *asked;
    check_ok(d->event_open(be, &large));
    check_ok(d->event_open(be, &answered));
    check_ok(d->event_open(be, &asked));
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (int i = 0; i < ROUNDS; i++) check_ok(d->copy(be, SL_STREAM_H2D, a, host, LARGE));
        check_ok(d->record(be, SL_STREAM_H2D, large));
        memset(small + (2 << 20), 0, 2 << 20);
        check_ok(d->copy(be, SL_STREAM_ANSWER, b, small, sizes[s]));
        check_ok(d->record(be, SL_STREAM_ANSWER, answered));
        check_ok(d->wait(be, SL_STREAM_ASK, answered));
        check_ok(d->copy(be, SL_STREAM_ASK, small + (2 << 20), b, sizes[s]));
        check_ok(d->record(be, SL_STREAM_ASK, asked));
        int done = 0, all_done = 0;
        while (!done) check_ok(d->is_done(be, asked, &done));
        check_ok(d->is_done(be, large, &all_done));
        if (sizes[s] >= 16) assert_false(all_done); /* shorter ones go by the copy engine */
        assert_memory_equal(small + (2 << 20), small, sizes[s]);
        assert_int_equal(small[(2 << 20) + sizes[s]], 0);
        check_ok(d->drain(be));
    }
    int not_pinned = 0;
    assert_int_equal(d->copy(be, SL_STREAM_ANSWER, b, &not_pinned, 4), SL_ERR_DEVICE);
    d->event_close(be, large), d->event_close(be, answered), d->event_close(be, asked);
    d->unpin(be, small), d->unpin(be, host);
    free(small), free(host);
    sl_backend_close(be);
}

static void bound_rows_outlive_the_arrays_they_came_from(void **state) {
    (void)state;
    enum { VOCAB = 50, COLS = 64, ROWS = 20 };
    sl_backend *be = gpu_open();
    sl_rng rng = {.key = 62};
    fixture_matrix table;
    gpu_matrix on_gpu;
    fixture_matrix_make(&rng, SL_DTYPE_F16, VOCAB, COLS, 1, &table);
    gpu_matrix_make(be, &table.weight, 0, &on_gpu);
    float *want = fixture_alloc(VOCAB * COLS * 4), *got = fixture_alloc(ROWS * COLS * 4);
    gpu_get_half(be, want, on_gpu.slab[0].data, VOCAB * COLS);
    int32_t token[ROWS], kept[4][ROWS];
    sl_rows rows[4];
    for (int b = 0; b < 4; b++) { /* all bound before any is used; number 1 twice */
        for (int r = 0; r < ROWS; r++) kept[b][r] = token[r] = (int32_t)sl_rng_below(&rng, VOCAB);
        rows[b] = (sl_rows){.n_rows = ROWS, .token = token};
        check_ok(be->ops->bind_rows(be, b == 3 ? 1 : b, &rows[b]));
        memset(token, 0xff, sizeof token);
    }
    void *dy = gpu_poisoned(be, ROWS * COLS * 2);
    for (int b = 0; b < 4; b++) {
        if (b == 1) continue; /* replaced */
        check_ok(be->ops->embed(be, dy, &on_gpu.weight, &rows[b]));
        gpu_get_half(be, got, dy, ROWS * COLS);
        for (int r = 0; r < ROWS; r++)
            assert_same_bits(got + r * COLS, want + kept[b][r] * COLS, COLS);
    }
    free(got), free(want);
    fixture_matrix_free(&table);
    sl_backend_close(be);
}

static void rows_that_do_not_fit_are_refused(void **state) {
    (void)state;
    const sl_cuda_options options = {
        .memory_bytes = (size_t)1 << 29, .max_rows = 8, .max_pages = 4, .n_bound = 2};
    sl_backend *be = NULL;
    check_ok(sl_cuda_backend_open(&options, &be));
    static const int32_t pages[8] = {5, 6, 7, 8, 9, 10, 11, -1};
    sl_segment segment = {.n_rows = 8, .n_pages = 1, .pages = pages};
    sl_rows rows = {.n_rows = 8, .n_segments = 1, .segment = &segment};
    check_ok(be->ops->bind_rows(be, 0, &rows));
    assert_int_equal(be->ops->bind_rows(be, 2, &rows), SL_ERR_ARG);
    rows.n_rows = 9, segment.n_rows = 9;
    assert_int_equal(be->ops->bind_rows(be, 0, &rows), SL_ERR_ARG);
    rows.n_rows = 8, segment.n_rows = 7; /* a row without a segment */
    assert_int_equal(be->ops->bind_rows(be, 0, &rows), SL_ERR_ARG);
    segment.n_rows = 8, segment.position0 = 25; /* 33 positions in one page */
    assert_int_equal(be->ops->bind_rows(be, 0, &rows), SL_ERR_ARG);
    segment.n_pages = 5; /* more page numbers than the backend was opened for */
    assert_int_equal(be->ops->bind_rows(be, 0, &rows), SL_ERR_ARG);
    segment.position0 = 0, segment.n_pages = 1, segment.pages = pages + 7;
    assert_int_equal(be->ops->bind_rows(be, 0, &rows), SL_ERR_ARG);
    sl_backend_close(be);
}

int main(void) {
    SKIP_WITHOUT_GPU();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_holds_the_budget_and_its_peak),
        cmocka_unit_test(overhead_is_what_the_backend_takes),
        cmocka_unit_test(budget_beyond_the_device_is_refused),
        cmocka_unit_test(host_memory_near_the_device_is_pinned),
        cmocka_unit_test(streams_wait_for_events),
        cmocka_unit_test(small_copies_pass_large_ones),
        cmocka_unit_test(bound_rows_outlive_the_arrays_they_came_from),
        cmocka_unit_test(rows_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests_name("gpu device", tests, NULL, NULL);
}
