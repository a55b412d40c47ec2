/* Unit tests of src/job/reader.c and writer.c: lines in, lines out. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "job/reader.h"
#include "job/writer.h"

static int make_file(void **state) {
    char *path = strdup("/tmp/sl-test-XXXXXX");
    const int fd = path ? mkstemp(path) : -1;
    if (fd < 0) return -1;
    close(fd);
    *state = path;
    return 0;
}

static int remove_file(void **state) {
    const int rc = unlink(*state);
    free(*state);
    return rc;
}

static void put_bytes(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void assert_line(sl_reader *reader, const char *line, uint64_t number) {
    sl_read read;
    assert_int_equal(sl_reader_next(reader, 1, &read), SL_OK);
    assert_int_equal(read.kind, SL_READ_LINE);
    assert_int_equal(read.n_bytes, strlen(line));
    assert_memory_equal(read.line, line, read.n_bytes);
    assert_int_equal(read.number, number);
}

static void assert_kind(sl_reader *reader, sl_read_kind kind) {
    sl_read read;
    assert_int_equal(sl_reader_next(reader, 0, &read), SL_OK);
    assert_int_equal(read.kind, kind);
}

static void reader_gives_every_line_and_the_last_without_newline(void **state) {
    sl_reader *reader;
    put_bytes(*state, "one\n\nthree\r\nlast", 16);
    assert_int_equal(sl_reader_open(*state, 0, &reader), SL_OK);
    assert_int_equal(sl_reader_count(reader, NULL), 3);
    assert_line(reader, "one", 1);
    assert_int_equal(sl_reader_count(reader, NULL), 2); /* what is in hand still counts */
    assert_line(reader, "", 2);
    assert_line(reader, "three\r", 3);
    assert_line(reader, "last", 4);
    assert_kind(reader, SL_READ_END);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
}

static void reader_of_an_empty_file_is_at_the_end(void **state) {
    sl_reader *reader;
    assert_int_equal(sl_reader_open(*state, 0, &reader), SL_OK);
    assert_int_equal(sl_reader_count(reader, NULL), 0);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
}

/* Longer than the buffer, so that the line is put together from several reads. */
static void reader_joins_a_long_line(void **state) {
    enum { N = 3000000 };
    char *bytes = malloc(N + 5);
    assert_non_null(bytes);
    for (int i = 0; i < N; i++) bytes[i] = (char)('a' + i % 26);
    memcpy(bytes + N, "\nend\n", 5);
    put_bytes(*state, bytes, N + 5);
    sl_reader *reader;
    sl_read read;
    assert_int_equal(sl_reader_open(*state, 0, &reader), SL_OK);
    assert_int_equal(sl_reader_next(reader, 1, &read), SL_OK);
    assert_int_equal(read.kind, SL_READ_LINE);
    assert_int_equal(read.n_bytes, N);
    assert_memory_equal(read.line, bytes, N);
    assert_line(reader, "end", 2);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
    free(bytes);
}

static void reader_skips_a_line_beyond_the_limit_and_goes_on(void **state) {
    char bytes[600];
    memset(bytes, 'x', sizeof bytes);
    memcpy(bytes, "ok\n", 3);
    memcpy(bytes + 500, "\nafter\n", 7);
    put_bytes(*state, bytes, 507);
    sl_reader *reader;
    sl_read read;
    assert_int_equal(sl_reader_open(*state, 100, &reader), SL_OK);
    assert_line(reader, "ok", 1);
    assert_int_equal(sl_reader_next(reader, 1, &read), SL_OK);
    assert_int_equal(read.kind, SL_READ_TOO_LONG);
    assert_int_equal(read.number, 2);
    assert_line(reader, "after", 3);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
}

static void reader_takes_a_line_of_exactly_the_limit(void **state) {
    sl_reader *reader;
    put_bytes(*state, "12345\n123456", 12);
    assert_int_equal(sl_reader_open(*state, 5, &reader), SL_OK);
    assert_line(reader, "12345", 1);
    assert_kind(reader, SL_READ_TOO_LONG);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
}

static void reader_of_a_pipe_does_not_wait_for_a_line(void **state) {
    (void)state;
    int ends[2];
    char path[64];
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    sl_reader *reader;
    assert_int_equal(sl_reader_open(path, 0, &reader), SL_OK);
    assert_int_equal(sl_reader_count(reader, NULL), -1);
    assert_kind(reader, SL_READ_NOTHING);
    assert_int_equal(write(ends[1], "par", 3), 3);
    assert_kind(reader, SL_READ_NOTHING);
    assert_int_equal(write(ends[1], "t\nrest", 6), 6);
    assert_line(reader, "part", 1);
    assert_kind(reader, SL_READ_NOTHING);
    close(ends[1]);
    assert_line(reader, "rest", 2);
    assert_kind(reader, SL_READ_END);
    sl_reader_close(reader);
    close(ends[0]);
}

static void reader_of_a_missing_file_or_a_folder_is_an_io_error(void **state) {
    (void)state;
    sl_reader *const untouched = (sl_reader *)(uintptr_t)1;
    sl_reader *reader = untouched;
    assert_int_equal(sl_reader_open("/nonexistent/in.jsonl", 0, &reader), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/nonexistent/in.jsonl"));
    assert_int_equal(sl_reader_open("/tmp", 0, &reader), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "folder"));
    assert_ptr_equal(reader, untouched);
}

static size_t file_size(const char *path) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    const long size = ftell(f);
    fclose(f);
    return (size_t)size;
}

static void reader_hashes_what_it_counts(void **state) {
    sl_reader *reader;
    uint64_t hash[3] = {0};
    const char *const texts[] = {"one\ntwo\n", "one\ntwo\n", "one\ntwu\n"};
    for (int i = 0; i < 3; i++) {
        put_bytes(*state, texts[i], 8);
        assert_int_equal(sl_reader_open(*state, 0, &reader), SL_OK);
        assert_int_equal(sl_reader_count(reader, &hash[i]), 2);
        sl_reader_close(reader);
    }
    assert_int_equal(hash[0], hash[1]);
    assert_true(hash[0] != hash[2]);
}

static void writer_cuts_the_file_only_when_started(void **state) {
    sl_writer *writer;
    put_bytes(*state, "old\ntorn", 8);
    assert_int_equal(sl_writer_open(*state, &writer), SL_OK);
    assert_true(sl_writer_is_file(writer));
    assert_false(sl_writer_is_new(writer));
    assert_int_equal(sl_writer_bytes(writer), 8);
    assert_int_equal(file_size(*state), 8);
    assert_int_equal(sl_writer_start(writer, 4), SL_OK);
    assert_int_equal(file_size(*state), 4);
    assert_int_equal(sl_writer_put(writer, "a\n", 2), SL_OK);
    assert_int_equal(file_size(*state), 6); /* there at once, without a close */
    assert_int_equal(sl_writer_put(writer, "bc\n", 3), SL_OK);
    assert_int_equal(sl_writer_sync(writer), SL_OK);
    sl_writer_close(writer);
    assert_int_equal(file_size(*state), 9);
}

static void writer_waits_for_another_and_gives_up(void **state) {
    sl_writer *first, *const untouched = (sl_writer *)(uintptr_t)1, *second = untouched;
    assert_int_equal(sl_writer_open(*state, &first), SL_OK);
    assert_int_equal(sl_writer_open(*state, &second), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "another run"));
    assert_ptr_equal(second, untouched);
    sl_writer_close(first);
    assert_int_equal(sl_writer_open(*state, &second), SL_OK);
    sl_writer_close(second);
}

/* A limit on the size of files stands for a full disk: part of the line fits. */
static void writer_cuts_off_a_line_that_does_not_fit(void **state) {
    sl_writer *writer;
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 8;
    put_bytes(*state, "old\n", 4);
    assert_int_equal(sl_writer_open(*state, &writer), SL_OK);
    assert_int_equal(sl_writer_start(writer, 4), SL_OK);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const sl_status st = sl_writer_put(writer, "too long\n", 9);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "write"));
    assert_int_equal(file_size(*state), 4);
    sl_writer_close(writer);
}

static void writer_reports_a_full_disk(void **state) {
    (void)state;
    sl_writer *writer;
    if (access("/dev/full", W_OK) != 0) skip();
    assert_int_equal(sl_writer_open("/dev/full", &writer), SL_OK);
    assert_false(sl_writer_is_file(writer));
    assert_int_equal(sl_writer_start(writer, 0), SL_OK);
    assert_int_equal(sl_writer_put(writer, "a\n", 2), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/dev/full"));
    sl_writer_close(writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reader_gives_every_line_and_the_last_without_newline,
                                        make_file, remove_file),
        cmocka_unit_test_setup_teardown(reader_of_an_empty_file_is_at_the_end, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(reader_joins_a_long_line, make_file, remove_file),
        cmocka_unit_test_setup_teardown(reader_skips_a_line_beyond_the_limit_and_goes_on, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(reader_takes_a_line_of_exactly_the_limit, make_file,
                                        remove_file),
        cmocka_unit_test(reader_of_a_pipe_does_not_wait_for_a_line),
        cmocka_unit_test(reader_of_a_missing_file_or_a_folder_is_an_io_error),
        cmocka_unit_test_setup_teardown(reader_hashes_what_it_counts, make_file, remove_file),
        cmocka_unit_test_setup_teardown(writer_waits_for_another_and_gives_up, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(writer_cuts_off_a_line_that_does_not_fit, make_file,
                                        remove_file),
        cmocka_unit_test_setup_teardown(writer_cuts_the_file_only_when_started, make_file,
                                        remove_file),
        cmocka_unit_test(writer_reports_a_full_disk),
    };
    return cmocka_run_group_tests_name("reader", tests, NULL, NULL);
}
