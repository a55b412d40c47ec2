/* Unit tests of src/store/packed_write.c: failures, deaths and company while a file is made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packed_fixture.h"

static void packed_file_in_no_folder_is_an_io_error(void **state) {
    model m;
    char path[4096];
    open_dummy(&m, small, 3, 0);
    path_in(*state, "missing", path);
    must_refuse(path, &m, SIZE_MAX, SL_ERR_IO, FRAGMENTS(path, strerror(ENOENT)));
    close_model(&m);
}

static void packed_file_that_does_not_fit_leaves_nothing(void **state) {
    model m;
    struct rlimit before, low;
    open_dummy(&m, small, 3, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = 3 * PAGE;
    void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    sl_packed_file *file;
    const sl_status st = sl_packed_open(*state, &m.wanted, SIZE_MAX, NULL, &file);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, SL_ERR_IO);
    assert_message(FRAGMENTS("reserve", *state, strerror(EFBIG), "free"));
    assert_int_equal(count_files(*state, ""), 0);
    sl_packed_close(must_open(*state, &m, 1));
    close_model(&m);
}

/* The checkpoint ends early, when part of the packed file has been written. */
static void packed_file_from_a_broken_checkpoint_leaves_nothing(void **state) {
    char models[4096], file[4096];
    struct stat info;
    tiny_file f = {0};
    model m;
    path_in(*state, "model", models);
    assert_int_equal(mkdir(models, 0700), 0);
    fill_llama(&f);
    /* The last tensor's first row is still there: the key's samples do not see what is missing. */
    write_folder(models, &f);
    path_in(models, "model.safetensors", file);
    assert_int_equal(stat(file, &info), 0);
    open_model(&m, models);
    assert_int_equal(truncate(file, info.st_size - 64), 0);
    must_refuse(*state, &m, SIZE_MAX, SL_ERR_IO, FRAGMENTS(file, "lm_head.weight"));
    assert_int_equal(count_files(*state, ".packed"), 0);
    close_model(&m);
    tiny_free(&f);
}

/* A child that makes the file; it returns in the parent only. */
static pid_t start_maker(const char *dir, const model *m) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sl_packed_file *file = NULL;
        int status = 1;
        if (sl_packed_open(dir, &m->wanted, SIZE_MAX, NULL, &file) == SL_OK &&
            sl_packed_verify(file) == SL_OK)
            status = 0;
        sl_packed_close(file);
        _exit(status);
    }
    return child;
}

static int status_of(pid_t child) {
    int status = -1;
    while (waitpid(child, &status, 0) < 0) assert_int_equal(errno, EINTR);
    return status;
}

/* The child dies of a signal as soon as it has created its temporary file. */
static void packed_file_of_a_dead_maker_is_removed(void **state) {
    model m;
    struct rlimit before, low;
    open_dummy(&m, small, 3, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = PAGE;
    void (*const handler)(int) = signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    const int status = status_of(start_maker(*state, &m));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(count_files(*state, ".packed"), 1);
    assert_int_equal(count_files(*state, ".packed.tmp."), 1);

    /* One of another key is not ours to judge. */
    char other[4096];
    write_bytes(path_in(*state, "sluice-0123456789abcdef.packed.tmp.1", other), "x", 1);
    sl_packed_file *file = must_open(*state, &m, 1);
    check_content(file, &m);
    sl_packed_close(file);
    assert_int_equal(count_files(*state, ".packed"), 2);
    assert_int_equal(count_files(*state, ".packed.tmp."), 1);
    assert_int_equal(access(other, F_OK), 0);
    close_model(&m);
}

/* Killed at any time, the maker leaves a whole file under the real name, or none. */
static void packed_file_of_a_killed_maker_is_whole_or_missing(void **state) {
    model m;
    open_dummy(&m, large, 1, 0);
    for (int i = 0; i < 4; i++) {
        const pid_t child = start_maker(*state, &m);
        if (i > 0) /* when the file has begun to be made, and a little later */
            while (count_files(*state, ".packed") == 0) usleep(1000);
        usleep((useconds_t)(20000 * i));
        assert_int_equal(kill(child, SIGKILL), 0);
        status_of(child);
        const int n_whole = count_files(*state, ".packed") - count_files(*state, ".packed.tmp.");
        assert_in_range(n_whole, 0, 1);
        if (n_whole == 0) continue;
        sl_packed_file *file = must_open(*state, &m, 0);
        assert_int_equal(sl_packed_verify(file), SL_OK);
        assert_int_equal(unlink(sl_packed_path(file)), 0);
        sl_packed_close(file);
    }
    sl_packed_file *file = must_open(*state, &m, 1);
    assert_int_equal(sl_packed_verify(file), SL_OK);
    sl_packed_close(file);
    assert_int_equal(count_files(*state, ".packed.tmp."), 0);
    close_model(&m);
}

static void packed_file_wanted_by_several_is_good_for_all(void **state) {
    enum { N = 4 };
    model m;
    pid_t child[N];
    open_dummy(&m, small, 3, 0);
    for (int i = 0; i < N; i++) child[i] = start_maker(*state, &m);
    sl_packed_file *file = NULL;
    assert_int_equal(sl_packed_open(*state, &m.wanted, SIZE_MAX, NULL, &file), SL_OK);
    check_content(file, &m);
    sl_packed_close(file);
    for (int i = 0; i < N; i++) assert_int_equal(status_of(child[i]), 0);
    assert_int_equal(count_files(*state, ".packed"), 1);
    assert_int_equal(count_files(*state, ".tmp."), 0);
    sl_packed_close(must_open(*state, &m, 0));
    close_model(&m);
}

typedef struct {
    const char *dir;
    const model *m;
    sl_packed_file *file;
    sl_status status;
} opening;

static void *open_beside(void *argument) {
    opening *o = argument;
    o->status = sl_packed_open(o->dir, &o->m->wanted, SIZE_MAX, NULL, &o->file);
    return NULL;
}

static void await_pulse(const sl_pulse *pulse, unsigned long n) {
    sl_pulse_view view;
    do {
        usleep(1000);
        sl_pulse_look(pulse, &view);
    } while (view.n_done < n);
}

/* The test holds a maker's lock: another must not make the file beside it, but wait, with a pulse
 * that goes on; when the lock goes without a file, it makes the file itself. */
static void packed_file_in_the_making_is_waited_for(void **state) {
    model m;
    char path[4096], name[4200];
    pthread_t thread;
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    sl_packed_close(file);
    assert_int_equal(unlink(path), 0);
    snprintf(name, sizeof name, "%s.tmp.1", path);
    const int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(sl_pulse_open(&m.wanted.pulse), SL_OK);
    opening o = {.dir = *state, .m = &m};
    assert_int_equal(pthread_create(&thread, NULL, open_beside, &o), 0);
    await_pulse(m.wanted.pulse, 3);
    assert_int_equal(count_files(*state, ""), 1); /* it has made nothing */
    close(fd);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(o.status, SL_OK);
    assert_int_equal(sl_packed_verify(o.file), SL_OK);
    sl_packed_close(o.file);
    sl_pulse_close(m.wanted.pulse);
    m.wanted.pulse = NULL;
    assert_int_equal(count_files(*state, ".tmp."), 0);
    sl_packed_close(must_open(*state, &m, 0));
    close_model(&m);
}

int main(void) {
#define WITH_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        WITH_DIR(packed_file_in_no_folder_is_an_io_error),
        WITH_DIR(packed_file_that_does_not_fit_leaves_nothing),
        WITH_DIR(packed_file_from_a_broken_checkpoint_leaves_nothing),
        WITH_DIR(packed_file_of_a_dead_maker_is_removed),
        WITH_DIR(packed_file_of_a_killed_maker_is_whole_or_missing),
        WITH_DIR(packed_file_wanted_by_several_is_good_for_all),
        WITH_DIR(packed_file_in_the_making_is_waited_for),
    };
    return cmocka_run_group_tests_name("packed_write", tests, NULL, NULL);
}
