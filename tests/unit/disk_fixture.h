/* disk_fixture.h - what the tests of disk objects share: a folder and an engine for each test.
 * Included after cmocka.h; failures end the test.
 */
#ifndef SL_TESTS_DISK_FIXTURE_H
#define SL_TESTS_DISK_FIXTURE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "store/disk_impl.h"
#include "support/files.h"

enum { PAGE = SL_DISK_ALIGN, REQUEST = SL_DISK_REQUEST_BYTES };

static const char *const engine_names[SL_DISK_N_MODES] = {
    [SL_DISK_URING_DIRECT] = "io_uring, O_DIRECT",
    [SL_DISK_URING] = "io_uring, page cache",
    [SL_DISK_THREADS_DIRECT] = "threads, O_DIRECT",
    [SL_DISK_THREADS] = "threads, page cache",
};

/* What a test of one engine is given. */
typedef struct {
    char *dir;
    sl_disk_mode mode;
} fixture;

static inline int setup(void **state, sl_disk_mode mode) {
    fixture *f = calloc(1, sizeof *f);
    void *dir = NULL;
    if (!f || make_dir(&dir) != 0) return -1;
    f->dir = dir;
    f->mode = mode;
    *state = f;
    return 0;
}
static inline int setup_uring_direct(void **state) {
    return setup(state, SL_DISK_URING_DIRECT);
}
static inline int setup_uring(void **state) {
    return setup(state, SL_DISK_URING);
}
static inline int setup_threads_direct(void **state) {
    return setup(state, SL_DISK_THREADS_DIRECT);
}
static inline int setup_threads(void **state) {
    return setup(state, SL_DISK_THREADS);
}
static inline int setup_auto(void **state) {
    return setup(state, SL_DISK_AUTO);
}

static inline int teardown(void **state) {
    fixture *f = *state;
    void *dir = f->dir;
    const int rc = remove_dir(&dir);
    free(f);
    return rc;
}

/* An engine that the system lacks is skipped by name; the plain threads are always there. */
static inline void must_be_there(const fixture *f, sl_status st) {
    if (st == SL_OK) return;
    if (f->mode == SL_DISK_THREADS || f->mode == SL_DISK_AUTO) fail_msg("%s", sl_error_message());
    print_message("skipped: no %s here: %s\n", engine_names[f->mode], sl_error_message());
    skip();
}

static inline sl_disk *open_scratch(const fixture *f, size_t bytes) {
    sl_disk *disk = NULL;
    must_be_there(f, sl_disk_open_scratch_as(f->dir, bytes, f->mode, &disk));
    if (f->mode != SL_DISK_AUTO) assert_string_equal(sl_disk_engine(disk), engine_names[f->mode]);
    return disk;
}

static inline sl_disk *open_read(const fixture *f, const char *path) {
    sl_disk *disk = NULL;
    must_be_there(f, sl_disk_open_read_as(path, f->mode, &disk));
    return disk;
}

static inline unsigned char *take_aligned(size_t bytes) {
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, PAGE, bytes), 0);
    return memory;
}

static inline void fill(unsigned char *dst, size_t bytes, uint64_t key) {
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t v = sl_rng_at(key, i);
        memcpy(dst + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

static inline void must_wait(sl_disk *disk, sl_disk_ticket ticket) {
    if (sl_disk_wait(disk, ticket) != SL_OK) fail_msg("%s", sl_error_message());
}

static inline void must_read(sl_disk *disk, size_t offset, size_t bytes, void *buf) {
    sl_disk_ticket ticket = 0;
    assert_int_equal(sl_disk_read(disk, offset, bytes, buf, &ticket), SL_OK);
    assert_int_not_equal(ticket, 0);
    must_wait(disk, ticket);
}

static inline void must_write(sl_disk *disk, size_t offset, size_t bytes, const void *buf) {
    sl_disk_ticket ticket = 0;
    assert_int_equal(sl_disk_write(disk, offset, bytes, buf, &ticket), SL_OK);
    must_wait(disk, ticket);
}

static inline void assert_message(const char *const *fragments) {
    for (; *fragments; fragments++)
        if (!strstr(sl_error_message(), *fragments))
            fail_msg("\"%s\" is not in \"%s\"", *fragments, sl_error_message());
}
#define FRAGMENTS(...)                                                                             \
    (const char *const[]) {                                                                        \
        __VA_ARGS__, NULL                                                                          \
    }

/* A file of `bytes` with fill(key 1), closed. */
static inline void write_file(const char *path, size_t bytes) {
    unsigned char *data = malloc(bytes);
    assert_non_null(data);
    fill(data, bytes, 1);
    write_bytes(path, data, bytes);
    free(data);
}

#define ON(engine, test)                                                                           \
    { #test " (" #engine ")", test, setup_##engine, teardown, NULL }
#define ON_ALL(test)                                                                               \
    ON(uring_direct, test), ON(uring, test), ON(threads_direct, test), ON(threads, test)

#endif
