/* Unit tests of src/store/disk.c: every engine on a file of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_fixture.h"

/* Cuts the file into runs of 1 page to 2.5 MiB, and reads and writes them all at once, in a
 * shuffled order, several times over; `expected` is what the file should hold. */
static void disk_keeps_many_random_transfers_apart(void **state) {
    enum { FILE_PAGES = 6144, MAX_RUNS = 512, ROUNDS = 6 };
    const size_t bytes = (size_t)FILE_PAGES * PAGE;
    sl_disk *disk = open_scratch(*state, bytes);
    unsigned char *expected = take_aligned(bytes), *memory = take_aligned(bytes);
    sl_rng rng = {.key = 11};
    int n_slots = 0;
    memset(expected, 0, bytes); /* a reserved file reads as zeros */
    for (int round = 0; round < ROUNDS; round++) {
        size_t first[MAX_RUNS], n_pages[MAX_RUNS];
        int is_write[MAX_RUNS], n = 0;
        sl_disk_ticket ticket[MAX_RUNS];
        for (size_t page = 0; page < FILE_PAGES && n < MAX_RUNS; n++) {
            const size_t longest = sl_rng_below(&rng, 8) == 0 ? 640 : 12;
            const size_t left = FILE_PAGES - page;
            first[n] = page;
            n_pages[n] = 1 + sl_rng_below(&rng, longest < left ? longest : left);
            is_write[n] = sl_rng_below(&rng, 2) == 0;
            page += n_pages[n];
        }
        for (int i = n - 1; i > 0; i--) { /* shuffle the runs; is_write is random anyway */
            const int j = (int)sl_rng_below(&rng, (uint64_t)i + 1);
            const size_t a = first[i], b = n_pages[i];
            first[i] = first[j], n_pages[i] = n_pages[j];
            first[j] = a, n_pages[j] = b;
        }
        for (int i = 0; i < n; i++) {
            const size_t offset = first[i] * PAGE, run = n_pages[i] * PAGE;
            if (is_write[i]) {
                fill(memory + offset, run, sl_rng_next(&rng));
                memcpy(expected + offset, memory + offset, run);
                assert_int_equal(sl_disk_write(disk, offset, run, memory + offset, &ticket[i]),
                                 SL_OK);
            } else {
                memset(memory + offset, 0xee, run);
                assert_int_equal(sl_disk_read(disk, offset, run, memory + offset, &ticket[i]),
                                 SL_OK);
            }
        }
        for (int i = 0; i < n; i++) { /* some are polled, some waited for, in another order */
            const int at = (i * 7) % n, other = n % 7 == 0 ? i : at;
            int done = sl_rng_below(&rng, 2) == 0;
            if (done) must_wait(disk, ticket[other]);
            while (!done) {
                assert_int_equal(sl_disk_test(disk, ticket[other], &done), SL_OK);
                if (!done) usleep(50);
            }
        }
        for (int i = 0; i < n; i++)
            assert_memory_equal(memory + first[i] * PAGE, expected + first[i] * PAGE,
                                n_pages[i] * PAGE);
        if (round == 0) n_slots = sl_disk_n_slots(disk);
    }
    assert_true(n_slots > 0 && n_slots <= MAX_RUNS);
    must_read(disk, 0, bytes, memory); /* one transfer of the whole file */
    assert_memory_equal(memory, expected, bytes);
    sl_disk_close(disk);
    free(memory);
    free(expected);
}

/* More transfers than requests may be under way, and one longer than all requests together. */
static void disk_queues_beyond_its_depth_without_new_slots(void **state) {
    enum { N = 3 * SL_DISK_DEPTH };
    sl_disk *disk = open_scratch(*state, (size_t)N * PAGE);
    unsigned char *memory = take_aligned((size_t)N * PAGE);
    sl_disk_ticket ticket[N];
    int n_slots = 0;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            memset(memory + i * PAGE, (int)(i % 251), PAGE);
            assert_int_equal(sl_disk_write(disk, i * PAGE, PAGE, memory + i * PAGE, &ticket[i]),
                             SL_OK);
        }
        for (size_t i = N; i-- > 0;) must_wait(disk, ticket[i]);
        memset(memory, 0xff, (size_t)N * PAGE);
        for (size_t i = 0; i < N; i++)
            assert_int_equal(sl_disk_read(disk, i * PAGE, PAGE, memory + i * PAGE, &ticket[i]),
                             SL_OK);
        for (size_t i = 0; i < N; i++) {
            must_wait(disk, ticket[i]);
            assert_int_equal(memory[i * PAGE], i % 251);
            assert_int_equal(memory[i * PAGE + PAGE - 1], i % 251);
        }
        if (round == 0) n_slots = sl_disk_n_slots(disk);
        assert_int_equal(sl_disk_n_slots(disk), n_slots);
    }
    sl_disk_close(disk);
    free(memory);
}

static void disk_refuses_what_is_not_aligned_or_not_in_the_file(void **state) {
    sl_disk *disk = open_scratch(*state, 4 * PAGE);
    unsigned char *memory = take_aligned(8 * PAGE);
    sl_disk_ticket ticket = 77;
    assert_int_equal(sl_disk_read(disk, 512, PAGE, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS("offset 512", "4096 bytes", "multiples of 4096"));
    assert_int_equal(sl_disk_read(disk, 0, PAGE - 1, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS("4095 bytes"));
    assert_int_equal(sl_disk_write(disk, 0, PAGE, memory + 64, &ticket), SL_ERR_ARG);
    assert_int_equal(sl_disk_read(disk, 4 * PAGE, PAGE, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS("read from", "4096 bytes at offset 16384", "16384"));
    assert_int_equal(sl_disk_write(disk, PAGE, 4 * PAGE, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS("write to", "16384 bytes at offset 4096", "16384"));
    assert_int_equal(sl_disk_read(disk, 8 * PAGE, 0, memory, &ticket), SL_ERR_ARG);
    assert_int_equal(sl_disk_read(disk, PAGE, SIZE_MAX - PAGE + 1, memory, &ticket), SL_ERR_ARG);
    assert_int_equal(ticket, 77);
    must_read(disk, 4 * PAGE, 0, memory); /* nothing, at the end: done at once */
    sl_disk_close(disk);
    free(memory);
}

static void disk_tickets_are_good_for_one_answer(void **state) {
    sl_disk *disk = open_scratch(*state, 4 * PAGE);
    unsigned char *memory = take_aligned(PAGE);
    sl_disk_ticket old = 0, ticket = 0;
    int done = 5;
    assert_int_equal(sl_disk_wait(disk, 1), SL_ERR_ARG); /* before there was any */
    assert_int_equal(sl_disk_read(disk, 0, PAGE, memory, &old), SL_OK);
    must_wait(disk, old);
    assert_int_equal(sl_disk_wait(disk, old), SL_ERR_ARG);
    assert_int_equal(sl_disk_read(disk, 0, PAGE, memory, &ticket), SL_OK);
    assert_true(ticket != old); /* though it may use the same slot */
    assert_int_equal(sl_disk_test(disk, old, &done), SL_ERR_ARG);
    assert_int_equal(sl_disk_test(disk, 0, &done), SL_ERR_ARG);
    assert_int_equal(sl_disk_test(disk, UINT64_MAX, &done), SL_ERR_ARG);
    assert_int_equal(done, 5);
    must_wait(disk, ticket);
    sl_disk_close(disk);
    free(memory);
}

/* The file shrinks after it was opened: within a page, and on the boundary of a request. */
static void disk_reports_a_truncated_file_with_the_numbers(void **state) {
    static const struct {
        size_t left;
        const char *fragment;
    } cases[] = {{REQUEST + 2 * PAGE + 100, "8292 of 1048576 bytes at 1048576"},
                 {2 * REQUEST, "0 of 4096 bytes at 2097152"},
                 {PAGE, "4096 of 1048576 bytes at 0"},
                 {0, "0 of 1048576 bytes at 0"}};
    const fixture *f = *state;
    char path[4096], now[32];
    path_in(f->dir, "weights", path);
    unsigned char *memory = take_aligned(3 * REQUEST), *whole = take_aligned(3 * REQUEST);
    fill(whole, 3 * REQUEST, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(path, 3 * REQUEST);
        sl_disk *disk = open_read(f, path);
        sl_disk_ticket bad = 0, good = 0;
        int done = 0;
        assert_int_equal(truncate(path, (off_t)cases[i].left), 0);
        assert_int_equal(sl_disk_read(disk, 0, 2 * REQUEST + PAGE, memory, &bad), SL_OK);
        if (i % 2 == 0) {
            assert_int_equal(sl_disk_wait(disk, bad), SL_ERR_IO);
        } else {
            sl_status st;
            do st = sl_disk_test(disk, bad, &done);
            while (st == SL_OK && !done);
            assert_int_equal(st, SL_ERR_IO);
            assert_int_equal(done, 0);
        }
        snprintf(now, sizeof now, "has %zu now", cases[i].left);
        assert_message(FRAGMENTS(path, "2101248 bytes at offset 0", cases[i].fragment,
                                 "had 3145728 bytes", now));
        if (cases[i].left >= PAGE) { /* the disk object is as good as before */
            assert_int_equal(sl_disk_read(disk, 0, PAGE, memory, &good), SL_OK);
            must_wait(disk, good);
            assert_memory_equal(memory, whole, PAGE);
        }
        sl_disk_close(disk);
    }
    free(whole);
    free(memory);
}

/* A transfer of more requests than fit fails in its first part: the rest is given up. */
static void disk_gives_up_the_rest_of_a_failed_transfer(void **state) {
    const fixture *f = *state;
    const size_t bytes = (size_t)(SL_DISK_DEPTH + 40) * REQUEST;
    char path[4096];
    path_in(f->dir, "sparse", path);
    write_file(path, REQUEST);
    assert_int_equal(truncate(path, (off_t)bytes), 0);
    sl_disk *disk = open_read(f, path);
    assert_int_equal(truncate(path, REQUEST / 2), 0);
    unsigned char *memory = take_aligned(bytes), *page = take_aligned(PAGE);
    sl_disk_ticket bad = 0, good = 0;
    assert_int_equal(sl_disk_read(disk, 0, bytes, memory, &bad), SL_OK);
    assert_int_equal(sl_disk_read(disk, PAGE, PAGE, page, &good), SL_OK); /* queued behind */
    assert_int_equal(sl_disk_wait(disk, bad), SL_ERR_IO);
    assert_message(FRAGMENTS(path, "524288 of 1048576 bytes at 0"));
    must_wait(disk, good);
    assert_memory_equal(page, memory + PAGE, PAGE);

    /* Closing while such a transfer is under way, and another waits. */
    assert_int_equal(sl_disk_read(disk, 0, bytes, memory, &bad), SL_OK);
    assert_int_equal(sl_disk_read(disk, PAGE, PAGE, page, &good), SL_OK);
    sl_disk_close(disk);
    free(page);
    free(memory);
}

/* The process may not write beyond 1 MiB and two pages: a write comes up short, then fails. */
static void disk_reports_a_write_that_does_not_fit(void **state) {
    const fixture *f = *state;
    sl_disk *disk = open_scratch(f, 4 * REQUEST);
    unsigned char *memory = take_aligned(2 * REQUEST), *found = take_aligned(2 * REQUEST);
    fill(memory, 2 * REQUEST, 5);
    struct rlimit before, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = REQUEST + 2 * PAGE;
    void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    sl_disk_ticket ticket = 0;
    sl_status st = sl_disk_write(disk, 0, 2 * REQUEST, memory, &ticket);
    if (st == SL_OK) st = sl_disk_wait(disk, ticket);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, SL_ERR_IO);
    assert_message(FRAGMENTS("write to", f->dir, "2097152 bytes at offset 0", strerror(EFBIG)));
    must_read(disk, 0, REQUEST + 2 * PAGE, found); /* the part that fitted */
    assert_memory_equal(found, memory, REQUEST + 2 * PAGE);
    must_write(disk, 0, 2 * REQUEST, memory);
    must_read(disk, 0, 2 * REQUEST, found);
    assert_memory_equal(found, memory, 2 * REQUEST);
    sl_disk_close(disk);
    free(found);
    free(memory);
}

static void disk_scratch_is_nameless_from_the_start(void **state) {
    const fixture *f = *state;
    sl_disk *disk = open_scratch(f, 5000); /* rounded up */
    unsigned char *memory = take_aligned(2 * PAGE);
    DIR *dir = opendir(f->dir);
    assert_non_null(dir);
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
        assert_int_equal(e->d_name[0], '.');
    closedir(dir);
    memset(memory, 3, 2 * PAGE);
    must_write(disk, 0, 2 * PAGE, memory);
    sl_disk_close(disk);
    assert_int_equal(rmdir(f->dir), 0); /* empty */
    assert_int_equal(mkdir(f->dir, 0700), 0);
    free(memory);
}

static void disk_counts_bytes_and_busy_time(void **state) {
    sl_disk *disk = open_scratch(*state, 4 * REQUEST);
    unsigned char *memory = take_aligned(4 * REQUEST);
    memset(memory, 1, 4 * REQUEST);
    sl_disk_stats s;
    sl_disk_get_stats(disk, &s);
    assert_true(s.read_bytes == 0 && s.written_bytes == 0);
    assert_true(s.read_busy_s <= 0.0 && s.write_busy_s <= 0.0);
    must_write(disk, 0, 3 * REQUEST, memory);
    must_write(disk, 3 * REQUEST, REQUEST, memory);
    must_read(disk, REQUEST, REQUEST + PAGE, memory);
    sl_disk_get_stats(disk, &s);
    assert_int_equal(s.written_bytes, 4 * REQUEST);
    assert_int_equal(s.read_bytes, REQUEST + PAGE);
    assert_true(s.write_busy_s > 0.0 && s.read_busy_s > 0.0);
    const double busy_s = s.read_busy_s;
    sl_disk_get_stats(disk, &s); /* nothing is under way: the clock stands */
    assert_true(s.read_busy_s <= busy_s);
    sl_disk_close(disk);
    free(memory);
}

/* Opening. */

static void disk_open_names_what_cannot_be_opened(void **state) {
    const fixture *f = *state;
    sl_disk *const untouched = (sl_disk *)(uintptr_t)0x1;
    sl_disk *disk = untouched;
    char path[4096];
    path_in(f->dir, "missing", path);
    assert_int_equal(sl_disk_open_read(path, &disk), SL_ERR_IO);
    assert_message(FRAGMENTS(path, strerror(ENOENT)));
    assert_int_equal(sl_disk_open_read(f->dir, &disk), SL_ERR_IO);
    assert_message(FRAGMENTS(f->dir, "not a regular file"));
    assert_int_equal(sl_disk_open_scratch(path, PAGE, &disk), SL_ERR_IO);
    assert_message(FRAGMENTS(path, strerror(ENOENT)));
    assert_int_equal(sl_disk_open_scratch(f->dir, 0, &disk), SL_ERR_ARG);
    assert_int_equal(sl_disk_open_scratch(f->dir, SIZE_MAX - 5, &disk), SL_ERR_ARG);
    assert_int_equal(sl_disk_open_scratch(f->dir, SIZE_MAX - PAGE, &disk), SL_ERR_IO);
    /* An eighth of an exabyte: larger than any disk, whatever the file system calls that. */
    assert_int_equal(sl_disk_open_scratch(f->dir, (size_t)1 << 57, &disk), SL_ERR_IO);
    assert_message(FRAGMENTS("144115188075855872 bytes", f->dir, "free"));
    assert_ptr_equal(disk, untouched);
    sl_disk_close(NULL);
}

static void disk_opened_for_reading_is_not_written(void **state) {
    const fixture *f = *state;
    char path[4096];
    path_in(f->dir, "weights", path);
    write_file(path, 2 * PAGE + 100); /* its odd end is out of reach */
    sl_disk *disk = NULL;
    sl_disk_ticket ticket = 0;
    unsigned char *memory = take_aligned(3 * PAGE), *expected = take_aligned(3 * PAGE);
    fill(expected, 2 * PAGE, 1);
    assert_int_equal(sl_disk_open_read(path, &disk), SL_OK);
    assert_int_equal(sl_disk_write(disk, 0, PAGE, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS(path, "opened for reading"));
    assert_int_equal(sl_disk_read(disk, 0, 3 * PAGE, memory, &ticket), SL_ERR_ARG);
    assert_message(FRAGMENTS("has 8292"));
    must_read(disk, 0, 2 * PAGE, memory);
    assert_memory_equal(memory, expected, 2 * PAGE);
    sl_disk_close(disk);
    free(expected);
    free(memory);
}

static void disk_without_a_ring_falls_back_to_threads(void **state) {
    const fixture *f = *state;
    char path[4096];
    path_in(f->dir, "weights", path);
    write_file(path, PAGE);
    /* The file gets the last descriptor, the ring gets none. */
    struct rlimit before, low;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    const int next = dup(0);
    assert_true(next > 0);
    close(next);
    low = before;
    low.rlim_cur = (rlim_t)next + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    sl_disk *disk = NULL;
    const sl_status st = sl_disk_open_read(path, &disk);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(st, SL_OK);
    assert_non_null(strstr(sl_disk_engine(disk), "threads, "));
    unsigned char *memory = take_aligned(PAGE);
    must_read(disk, 0, PAGE, memory);
    sl_disk_close(disk);
    free(memory);
}

static void disk_without_o_direct_goes_through_the_page_cache(void **state) {
    (void)state;
    sl_disk *disk = NULL; /* procfs refuses O_DIRECT */
    assert_int_equal(sl_disk_open_read("/proc/version", &disk), SL_OK);
    assert_non_null(strstr(sl_disk_engine(disk), ", page cache"));
    sl_disk_close(disk);
    assert_int_equal(sl_disk_open_read_as("/proc/version", SL_DISK_URING_DIRECT, &disk), SL_ERR_IO);
    assert_message(FRAGMENTS("/proc/version", "O_DIRECT"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_ALL(disk_keeps_many_random_transfers_apart),
        ON_ALL(disk_queues_beyond_its_depth_without_new_slots),
        ON_ALL(disk_refuses_what_is_not_aligned_or_not_in_the_file),
        ON_ALL(disk_tickets_are_good_for_one_answer),
        ON_ALL(disk_reports_a_truncated_file_with_the_numbers),
        ON_ALL(disk_gives_up_the_rest_of_a_failed_transfer),
        ON_ALL(disk_reports_a_write_that_does_not_fit),
        ON_ALL(disk_scratch_is_nameless_from_the_start),
        ON_ALL(disk_counts_bytes_and_busy_time),
        ON(auto, disk_keeps_many_random_transfers_apart),
        ON(auto, disk_open_names_what_cannot_be_opened),
        ON(auto, disk_opened_for_reading_is_not_written),
        ON(auto, disk_without_a_ring_falls_back_to_threads),
        ON(auto, disk_without_o_direct_goes_through_the_page_cache),
    };
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
