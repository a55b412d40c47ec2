/* Unit tests of src/store/packed_file.c: making files, using them again, refusing them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "packed_fixture.h"

static void packed_file_is_made_once_and_used_again(void **state) {
    const uint64_t masks[] = {0, 5};
    for (int i = 0; i < 2; i++) {
        model m;
        struct stat first, again;
        open_dummy(&m, small, 3, masks[i]);
        sl_packed_file *file = must_open(*state, &m, 1);
        check_content(file, &m);
        if (sl_packed_verify(file) != SL_OK) fail_msg("%s", sl_error_message());
        assert_int_equal(stat(sl_packed_path(file), &first), 0);
        assert_int_equal(first.st_size, sl_packed_bytes(file));
        sl_packed_close(file);
        assert_int_equal(count_files(*state, ".tmp."), 0);

        file = must_open(*state, &m, 0);
        check_content(file, &m);
        assert_int_equal(sl_packed_verify(file), SL_OK);
        assert_int_equal(stat(sl_packed_path(file), &again), 0);
        assert_true(first.st_ino == again.st_ino);
        sl_packed_close(file);
        close_model(&m);
    }
    assert_int_equal(count_files(*state, ".packed"), 2);
}

static void packed_file_streams_matrices_of_several_pieces(void **state) {
    model m;
    open_dummy(&m, large, 1, 0);
    assert_true(m.layout[1].n_pieces - m.layout[1].n_vectors > 7);
    sl_packed_file *file = must_open(*state, &m, 1);
    check_content(file, &m);
    assert_int_equal(sl_packed_verify(file), SL_OK);
    sl_packed_close(file);
    close_model(&m);
}

static void packed_find_refuses_what_is_not_there(void **state) {
    model m;
    size_t offset = 1, bytes = 2;
    open_dummy(&m, small, 3, 0);
    m.on_disk[1][2] = 0;
    sl_packed_file *file = must_open(*state, &m, 1);
    assert_int_equal(sl_packed_find(file, -1, 0, &offset, &bytes), SL_ERR_ARG);
    assert_int_equal(sl_packed_find(file, 4, 0, &offset, &bytes), SL_ERR_ARG);
    assert_message(FRAGMENTS("layer 4", "0 to 3"));
    assert_int_equal(sl_packed_find(file, 1, m.layout[1].n_pieces, &offset, &bytes), SL_ERR_ARG);
    assert_int_equal(sl_packed_find(file, 1, -1, &offset, &bytes), SL_ERR_ARG);
    assert_int_equal(sl_packed_find(file, 1, 2, &offset, &bytes), SL_ERR_ARG);
    assert_message(FRAGMENTS("piece 2", "layer 1", "not on the disk"));
    assert_true(offset == 1 && bytes == 2);
    sl_packed_close(file);
    close_model(&m);
}

static void packed_file_without_pieces_is_refused(void **state) {
    model m;
    open_dummy(&m, small, 3, 0);
    memset(m.on_disk, 0, sizeof m.on_disk);
    must_refuse(*state, &m, SIZE_MAX, SL_ERR_ARG, FRAGMENTS("small", "no piece"));
    close_model(&m);
}

static void packed_file_keeps_to_the_budget(void **state) {
    model m;
    char numbers[2][64];
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    const size_t bytes = sl_packed_bytes(file);
    char path[4096];
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    sl_packed_close(file);
    snprintf(numbers[0], sizeof numbers[0], "%zu bytes", bytes);
    snprintf(numbers[1], sizeof numbers[1], "tier has %zu", bytes - 1);
    for (int i = 0; i < 2; i++) { /* with the file there, and without */
        must_refuse(*state, &m, bytes - 1, SL_ERR_NOMEM,
                    FRAGMENTS("small", numbers[0], numbers[1]));
        assert_int_equal(access(path, F_OK), i == 0 ? 0 : -1);
        unlink(path);
    }
    assert_int_equal(count_files(*state, ""), 0);
    assert_int_equal(sl_packed_open(*state, &m.wanted, bytes, NULL, &file), SL_OK);
    sl_packed_close(file);
    close_model(&m);
}

/* What the key depends on. */

/* Opens the checkpoint in `models` and makes sure that its packed file is or is not made anew. */
static void reopen(const char *dir, const char *models, int expect_made) {
    model m;
    open_model(&m, models);
    sl_packed_file *file = must_open(dir, &m, expect_made);
    check_content(file, &m);
    sl_packed_close(file);
    close_model(&m);
}

static void set_time(const char *path, time_t seconds) {
    const struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void packed_key_follows_the_checkpoint(void **state) {
    char models[4096], other[4096], file[4096], moved[4096];
    tiny_file f = {0};
    path_in(*state, "model", models);
    path_in(*state, "other", other);
    assert_int_equal(mkdir(models, 0700), 0);
    path_in(models, "model.safetensors", file);
    fill_llama(&f);
    write_folder(models, &f);
    set_time(file, 1000000);
    reopen(*state, models, 1);
    reopen(*state, models, 0);

    set_time(file, 1000001); /* another age */
    reopen(*state, models, 1);
    set_time(file, 1000000);
    reopen(*state, models, 0);

    /* Another value in a file of the same size and age. */
    float *up = tiny_find(&f, "model.layers.0.mlp.up_proj.weight")->data;
    up[5] += 0.25f;
    write_folder(models, &f);
    set_time(file, 1000000);
    reopen(*state, models, 1);

    tiny_add(&f, "surplus", SL_DTYPE_F32, 3, 3); /* another table of contents */
    write_folder(models, &f);
    set_time(file, 1000000);
    reopen(*state, models, 1);

    assert_int_equal(rename(models, other), 0); /* another place */
    path_in(other, "model.safetensors", moved);
    reopen(*state, other, 1);
    reopen(*state, other, 0);
    assert_int_equal(count_files(*state, ".packed"), 5);
    tiny_free(&f);
}

static void packed_key_follows_seed_pieces_and_shape(void **state) {
    model m;
    open_dummy(&m, small, 3, 0);
    sl_packed_close(must_open(*state, &m, 1));
    m.on_disk[2][5] = 0; /* one piece less */
    sl_packed_close(must_open(*state, &m, 1));
    m.on_disk[2][5] = 1;
    sl_packed_close(must_open(*state, &m, 0));
    m.wanted.n_layers--; /* a shorter slice */
    sl_packed_close(must_open(*state, &m, 1));
    m.wanted.n_layers++;
    close_model(&m);
    open_dummy(&m, small, 4, 0); /* another seed */
    sl_packed_close(must_open(*state, &m, 1));
    close_model(&m);
    assert_int_equal(count_files(*state, ".packed"), 4);
}

/* Damage. */

static void flip(const char *path, size_t offset, unsigned char bits) {
    unsigned char byte;
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= bits;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(close(fd), 0);
}

static void packed_file_with_a_damaged_head_is_refused_by_name(void **state) {
    model m;
    char path[4096];
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    size_t first, bytes;
    assert_int_equal(sl_packed_find(file, 0, 0, &first, &bytes), SL_OK);
    sl_packed_close(file);
    /* Every byte of the header, then some of the table and of its padding. */
    for (size_t i = 0; i < first; i += i < sizeof(sl_packed_header) ? 1 : 13) {
        flip(path, i, (unsigned char)(1u << i % 8));
        must_refuse(*state, &m, SIZE_MAX, SL_ERR_FORMAT, FRAGMENTS(path, "remove the file"));
        flip(path, i, (unsigned char)(1u << i % 8));
    }
    sl_packed_close(must_open(*state, &m, 0));
    close_model(&m);
}

/* A table that is whole, but of other pieces, under the same key. */
static void packed_file_with_another_table_is_refused(void **state) {
    model m;
    char path[4096];
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    sl_packed_close(file);
    buffer b = read_whole(path);
    sl_packed_header *top = (sl_packed_header *)(void *)b.at;
    sl_packed_entry *entry = (sl_packed_entry *)(void *)(b.at + sizeof *top);
    entry[3].row0 += 1;
    top->checksum = sl_packed_checksum(b.at);
    write_buffer(path, &b);
    must_refuse(*state, &m, SIZE_MAX, SL_ERR_FORMAT, FRAGMENTS(path, "has piece"));
    close_model(&m);
}

static void packed_file_of_another_length_is_refused(void **state) {
    model m;
    char path[4096], found[64], expected[64];
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    const size_t bytes = sl_packed_bytes(file);
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    sl_packed_close(file);
    const size_t lengths[] = {bytes + PAGE, bytes - 1, bytes - PAGE, PAGE, 100, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        assert_int_equal(truncate(path, (off_t)lengths[i]), 0);
        snprintf(found, sizeof found, "%zu bytes long", lengths[i]);
        snprintf(expected, sizeof expected, "expected %zu", bytes);
        must_refuse(*state, &m, SIZE_MAX, SL_ERR_FORMAT, FRAGMENTS(path, found, expected));
    }
    close_model(&m);
}

static void packed_verify_finds_damaged_data_and_names_it(void **state) {
    model m;
    char path[4096], at[64];
    open_dummy(&m, small, 3, 0);
    sl_packed_file *file = must_open(*state, &m, 1);
    snprintf(path, sizeof path, "%s", sl_packed_path(file));
    sl_packed_close(file);
    const int last = m.layout[2].n_pieces - 1;
    for (int i = 0; i < 2; i++) {
        const int piece = i == 0 ? last : 0;
        size_t offset, bytes;
        file = must_open(*state, &m, 0);
        assert_int_equal(sl_packed_find(file, 2, piece, &offset, &bytes), SL_OK);
        sl_packed_close(file);
        flip(path, offset + 9, 1);
        file = must_open(*state, &m, 0); /* the data is not read on opening */
        assert_int_equal(sl_packed_verify(file), SL_ERR_FORMAT);
        snprintf(at, sizeof at, "at offset %zu", offset);
        assert_message(FRAGMENTS(path, sl_role_name(m.layout[2].pieces[piece].role), "layer 1", at,
                                 "checksum"));
        sl_packed_close(file);
        flip(path, offset + 9, 1);
    }
    file = must_open(*state, &m, 0);
    assert_int_equal(sl_packed_verify(file), SL_OK);
    assert_int_equal(truncate(path, (off_t)sl_packed_bytes(file) - PAGE), 0);
    assert_int_equal(sl_packed_verify(file), SL_ERR_IO); /* cut while it is open */
    assert_message(FRAGMENTS(path, "has", "now"));
    sl_packed_close(file);
    close_model(&m);
}

int main(void) {
#define WITH_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        WITH_DIR(packed_file_is_made_once_and_used_again),
        WITH_DIR(packed_file_streams_matrices_of_several_pieces),
        WITH_DIR(packed_find_refuses_what_is_not_there),
        WITH_DIR(packed_file_without_pieces_is_refused),
        WITH_DIR(packed_file_keeps_to_the_budget),
        WITH_DIR(packed_key_follows_the_checkpoint),
        WITH_DIR(packed_key_follows_seed_pieces_and_shape),
        WITH_DIR(packed_file_with_a_damaged_head_is_refused_by_name),
        WITH_DIR(packed_file_with_another_table_is_refused),
        WITH_DIR(packed_file_of_another_length_is_refused),
        WITH_DIR(packed_verify_finds_damaged_data_and_names_it),
    };
    return cmocka_run_group_tests_name("packed_file", tests, NULL, NULL);
}
