/* packed_fixture.h - what the tests of packed files share: models, and what a file must hold.
 * Included after cmocka.h; failures end the test.
 */
#ifndef SL_TESTS_PACKED_FIXTURE_H
#define SL_TESTS_PACKED_FIXTURE_H

#include <dirent.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/config.h"
#include "store/packed_impl.h"
#include "support/files.h"
#include "tiny_files.h"

enum { PAGE = SL_DISK_ALIGN, MAX_LAYERS = 8, MAX_PIECES = 64 };

/* The layers of a whole model, and which of their pieces are on the disk. */
typedef struct {
    sl_source *source;
    sl_layout layout[MAX_LAYERS];
    unsigned char on_disk[MAX_LAYERS][MAX_PIECES];
    const unsigned char *rows[MAX_LAYERS];
    sl_packed_wanted wanted;
} model;

static const char *const small = "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, "
                                 "\"hidden_size\": 64, \"num_attention_heads\": 4, "
                                 "\"num_key_value_heads\": 2, \"intermediate_size\": 160, "
                                 "\"vocab_size\": 300, \"tie_word_embeddings\": false}";

/* 174 MiB; matrices of several pieces. */
static const char *const large = "{\"model_type\": \"llama\", \"num_hidden_layers\": 3, "
                                 "\"hidden_size\": 1536, \"num_attention_heads\": 12, "
                                 "\"intermediate_size\": 4096, \"vocab_size\": 2000}";

/* Homes every piece on the disk, or, with a key, about two of three. */
static inline void lay_out(model *m, sl_source *source, uint64_t mask_key) {
    const int n_layers = sl_source_config(source)->n_layers + 2;
    assert_true(n_layers <= MAX_LAYERS);
    *m = (model){.source = source};
    m->wanted = (sl_packed_wanted){source, n_layers, m->layout, m->rows, NULL};
    for (int i = 0; i < n_layers; i++) {
        assert_int_equal(sl_layout_make(source, i - 1, 0, &m->layout[i]), SL_OK);
        assert_true(m->layout[i].n_pieces <= MAX_PIECES);
        m->rows[i] = m->on_disk[i];
        for (int p = 0; p < m->layout[i].n_pieces; p++)
            m->on_disk[i][p] =
                mask_key == 0 || sl_rng_at(mask_key, (uint64_t)(i * MAX_PIECES + p)) % 3 != 0;
    }
}

static inline void open_dummy(model *m, const char *json, uint64_t seed, uint64_t mask_key) {
    sl_model_config config;
    sl_source *source = NULL;
    assert_int_equal(sl_config_parse_json(json, strlen(json), "test", &config), SL_OK);
    assert_int_equal(sl_source_open_dummy(&config, "small", seed, &source), SL_OK);
    lay_out(m, source, mask_key);
}

static inline void open_model(model *m, const char *path) {
    sl_source *source = NULL;
    if (sl_source_open(path, 0, &source) != SL_OK) fail_msg("%s", sl_error_message());
    lay_out(m, source, 0);
}

static inline void close_model(model *m) {
    for (int i = 0; i < m->wanted.n_layers; i++) sl_layout_free(&m->layout[i]);
    sl_source_close(m->source);
}

static inline sl_packed_file *must_open(const char *dir, const model *m, int expect_made) {
    sl_packed_file *file = NULL;
    int made = -1;
    if (sl_packed_open(dir, &m->wanted, SIZE_MAX, &made, &file) != SL_OK)
        fail_msg("%s", sl_error_message());
    assert_int_equal(made, expect_made);
    return file;
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

/* Opening fails with that status and message, and *out is left alone. */
static inline void must_refuse(const char *dir, const model *m, size_t budget_bytes,
                               sl_status expected, const char *const *fragments) {
    sl_packed_file *const untouched = (sl_packed_file *)(uintptr_t)0x1;
    sl_packed_file *file = untouched;
    int made = 7;
    const sl_status st = sl_packed_open(dir, &m->wanted, budget_bytes, &made, &file);
    if (st == SL_OK) sl_packed_close(file);
    assert_int_equal(st, expected);
    assert_message(fragments);
    assert_ptr_equal(file, untouched);
    assert_int_equal(made, 7);
}

/* How many files of the folder have names with that ending. */
static inline int count_files(const char *path, const char *part) {
    int n = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
        n += e->d_name[0] != '.' && strstr(e->d_name, part) != NULL;
    closedir(dir);
    return n;
}

/* Every piece lies aligned, apart from the others, and holds what the layout packs, then zeros. */
static inline void check_content(const sl_packed_file *file, const model *m) {
    size_t end = 0, offset, bytes;
    for (int i = 0; i < m->wanted.n_layers; i++) {
        for (int p = 0; p < m->layout[i].n_pieces; p++) {
            const sl_piece *piece = &m->layout[i].pieces[p];
            if (!m->on_disk[i][p]) {
                assert_int_equal(sl_packed_find(file, i, p, &offset, &bytes), SL_ERR_ARG);
                continue;
            }
            assert_int_equal(sl_packed_find(file, i, p, &offset, &bytes), SL_OK);
            assert_int_equal(offset % PAGE, 0);
            assert_true(offset > 0 && (end == 0 || offset == end));
            assert_int_equal(bytes, (piece->bytes + PAGE - 1) / PAGE * PAGE);
            end = offset + bytes;

            unsigned char *found = sl_packed_memory(bytes), *expected = sl_packed_memory(bytes);
            sl_disk_ticket ticket = 0;
            assert_non_null(found);
            assert_non_null(expected);
            memset(expected, 0, bytes);
            assert_int_equal(sl_layout_read(m->source, &m->layout[i], p, expected), SL_OK);
            assert_int_equal(sl_disk_read(sl_packed_disk(file), offset, bytes, found, &ticket),
                             SL_OK);
            assert_int_equal(sl_disk_wait(sl_packed_disk(file), ticket), SL_OK);
            assert_memory_equal(found, expected, bytes);
            assert_int_equal(sl_packed_check(file, i, p, found), SL_OK);
            found[piece->bytes / 2] ^= 16;
            assert_int_equal(sl_packed_check(file, i, p, found), SL_ERR_FORMAT);
            free(expected);
            free(found);
        }
    }
    assert_int_equal(sl_packed_bytes(file), end);
}

/* The folder of a Llama with one layer. */
static inline void write_folder(const char *dir, tiny_file *f) {
    static const char *const config =
        "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"hidden_size\": 32, "
        "\"num_attention_heads\": 4, \"intermediate_size\": 64, \"vocab_size\": 40}";
    char path[4096];
    write_bytes(path_in(dir, "config.json", path), config, strlen(config));
    tiny_write_safetensors(f, path_in(dir, "model.safetensors", path));
}

static inline void fill_llama(tiny_file *f) {
    static const struct {
        const char *name;
        int rows, cols;
    } tensors[] = {
        {"model.embed_tokens.weight", 40, 32},
        {"model.layers.0.self_attn.q_proj.weight", 32, 32},
        {"model.layers.0.self_attn.k_proj.weight", 32, 32},
        {"model.layers.0.self_attn.v_proj.weight", 32, 32},
        {"model.layers.0.self_attn.o_proj.weight", 32, 32},
        {"model.layers.0.mlp.gate_proj.weight", 64, 32},
        {"model.layers.0.mlp.up_proj.weight", 64, 32},
        {"model.layers.0.mlp.down_proj.weight", 32, 64},
        {"model.layers.0.input_layernorm.weight", 0, 32},
        {"model.layers.0.post_attention_layernorm.weight", 0, 32},
        {"model.norm.weight", 0, 32},
        {"lm_head.weight", 40, 32},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        float *data = tiny_add(f, tensors[i].name, SL_DTYPE_F32, tensors[i].rows, tensors[i].cols);
        const int rows = tensors[i].rows ? tensors[i].rows : 1;
        for (int j = 0; j < rows * tensors[i].cols; j++) data[j] = (float)(1000 * i) + (float)j;
    }
}

#endif
