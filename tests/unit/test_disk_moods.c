/* Unit tests of src/store/disk.c on an engine that answers as healthy disks seldom do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "disk_fixture.h"

/* Keeps what it was given, and answers in another order, in parts, and with errors. */
typedef struct {
    int fd, depth, n;
    sl_disk_request *held[SL_DISK_DEPTH];
    sl_rng rng;
} moody;

static int moody_error; /* an errno that every answer gives, 0 for the usual moods */

static sl_status moody_open(int fd, int depth, int is_direct, void **out) {
    moody *m = calloc(1, sizeof *m);
    (void)is_direct;
    assert_non_null(m);
    assert_int_equal(depth, SL_DISK_DEPTH);
    *m = (moody){.fd = fd, .depth = depth, .rng = {.key = 8}};
    *out = m;
    return SL_OK;
}

static void moody_close(void *engine) {
    assert_int_equal(((moody *)engine)->n, 0);
    free(engine);
}

static void moody_submit(void *engine, sl_disk_request *r) {
    moody *m = engine;
    assert_true(m->n < m->depth);
    assert_int_equal(r->offset % PAGE, 0);
    assert_int_equal(r->bytes % PAGE, 0);
    assert_int_equal((uintptr_t)r->buf % PAGE, 0);
    assert_in_range(r->bytes, PAGE, REQUEST);
    m->held[m->n++] = r;
}

static void moody_flush(void *engine) {
    (void)engine;
}

static sl_disk_request *moody_reap(void *engine, int wait) {
    moody *m = engine;
    if (m->n == 0 || (!wait && sl_rng_below(&m->rng, 4) == 0)) return NULL;
    const int at = (int)sl_rng_below(&m->rng, (uint64_t)m->n);
    sl_disk_request *r = m->held[at];
    m->held[at] = m->held[--m->n];
    const uint64_t mood = sl_rng_below(&m->rng, 4);
    if (moody_error || mood == 0) {
        const int usual = sl_rng_below(&m->rng, 2) == 0 ? EINTR : EAGAIN;
        r->result = moody_error ? -moody_error : -usual;
        return r;
    }
    size_t bytes = r->bytes;
    if (mood == 1 && bytes > PAGE) bytes = PAGE + sl_rng_below(&m->rng, bytes - PAGE);
    r->result = r->is_write ? pwrite(m->fd, r->buf, bytes, (off_t)r->offset)
                            : pread(m->fd, r->buf, bytes, (off_t)r->offset);
    return r;
}

static const sl_disk_engine_ops moody_engine = {
    .name = "moody",
    .open = moody_open,
    .close = moody_close,
    .submit = moody_submit,
    .flush = moody_flush,
    .reap = moody_reap,
};

static void disk_goes_on_after_short_results_and_interruptions(void **state) {
    enum { N = 160 }; /* pages and more: some transfers wait for requests */
    sl_disk *disk = open_scratch(*state, 8 * REQUEST);
    unsigned char *memory = take_aligned(8 * REQUEST), *found = take_aligned(8 * REQUEST);
    sl_disk_ticket ticket[N];
    sl_disk_stats s;
    assert_int_equal(sl_disk_replace_engine(disk, &moody_engine), SL_OK);
    assert_string_equal(sl_disk_engine(disk), "moody");
    fill(memory, 8 * REQUEST, 2);
    memset(found, 0, 8 * REQUEST);
    must_write(disk, 0, 5 * REQUEST + 3 * PAGE, memory);
    must_write(disk, 5 * REQUEST + 3 * PAGE, 3 * REQUEST - 3 * PAGE,
               memory + 5 * REQUEST + 3 * PAGE);
    const size_t run = 8 * (size_t)REQUEST / N / PAGE * PAGE;
    for (size_t i = 0; i < N; i++)
        assert_int_equal(sl_disk_read(disk, i * run, run, found + i * run, &ticket[i]), SL_OK);
    for (size_t i = 0; i < N; i++) must_wait(disk, ticket[i]);
    assert_memory_equal(found, memory, N * run);
    sl_disk_get_stats(disk, &s);
    assert_int_equal(s.written_bytes, 8 * REQUEST);
    assert_int_equal(s.read_bytes, N * run);
    sl_disk_close(disk);
    free(found);
    free(memory);
}

static void disk_reports_errors_of_the_device_and_endless_interruptions(void **state) {
    static const int errors[] = {EIO, EAGAIN, EINTR, ENOSPC};
    const fixture *f = *state;
    sl_disk *disk = open_scratch(f, 4 * REQUEST);
    unsigned char *memory = take_aligned(4 * REQUEST);
    sl_disk_ticket ticket[2];
    int done = 4;
    memset(memory, 1, 4 * REQUEST);
    assert_int_equal(sl_disk_replace_engine(disk, &moody_engine), SL_OK);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        moody_error = errors[i];
        assert_int_equal(sl_disk_write(disk, PAGE, 2 * REQUEST, memory, &ticket[0]), SL_OK);
        assert_int_equal(sl_disk_read(disk, 3 * REQUEST, PAGE, memory + 3 * REQUEST, &ticket[1]),
                         SL_OK);
        assert_int_equal(sl_disk_wait(disk, ticket[0]), SL_ERR_IO);
        assert_message(FRAGMENTS("write to", f->dir, "2097152 bytes at offset 4096",
                                 strerror(errors[i]), "1048576 bytes at 4096"));
        sl_status st;
        do st = sl_disk_test(disk, ticket[1], &done);
        while (st == SL_OK && !done);
        assert_int_equal(st, SL_ERR_IO);
        assert_message(
            FRAGMENTS("read from", f->dir, "4096 bytes at offset 3145728", strerror(errors[i])));
        moody_error = 0;
    }
    must_write(disk, 0, 4 * REQUEST, memory);
    sl_disk_close(disk);
    free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON(threads, disk_goes_on_after_short_results_and_interruptions),
        ON(threads, disk_reports_errors_of_the_device_and_endless_interruptions),
    };
    return cmocka_run_group_tests_name("disk_moods", tests, NULL, NULL);
}
