/* Unit tests of src/model/source.c: HF folders, GGUF files and dummy models by role. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "base/half.h"
#include "model/source.h"
#include "tiny_files.h"

/* A small Llama: 4 heads and 2 key/value heads of 8. */
enum { LAYERS = 2, HIDDEN = 32, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, FFN = 64, VOCAB = 40 };

static const char *const llama_config =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 64, "
    "\"vocab_size\": 40, \"max_position_embeddings\": 64, \"eos_token_id\": 3}";

static int make_dir(void **state) {
    char *dir = strdup("/tmp/sl-source-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

static int remove_dir(void **state) {
    static const char *const files[] = {"config.json", "generation_config.json",
                                        "model.safetensors", "model.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", (char *)*state, files[i]);
        unlink(path);
    }
    const int rc = rmdir(*state);
    free(*state);
    return rc;
}

static sl_source *must_open(const char *model) {
    sl_source *s = NULL;
    if (sl_source_open(model, 7, &s) != SL_OK) fail_msg("%s: %s", model, sl_error_message());
    return s;
}

static void must_refuse(const char *model, const char *const *named) {
    sl_source *const untouched = (sl_source *)(uintptr_t)0x1;
    sl_source *s = untouched;
    assert_int_equal(sl_source_open(model, 7, &s), SL_ERR_FORMAT);
    assert_ptr_equal(s, untouched);
    for (; *named; named++)
        if (!strstr(sl_error_message(), *named))
            fail_msg("\"%s\" does not name %s", sl_error_message(), *named);
}

/* Every element is different: 1000 * tensor number + element number. */
static void fill_f32(tiny_file *f, const char *name, int64_t rows, int64_t cols) {
    float *data = tiny_add(f, name, SL_DTYPE_F32, rows, cols);
    for (int64_t i = 0; i < (rows ? rows : 1) * cols; i++)
        data[i] = (float)(10000 * f->n_tensors + i);
}

static const float *data_of(tiny_file *f, const char *name) {
    return tiny_find(f, name)->data;
}

static void add_hf_llama(tiny_file *f, const char *prefix, int with_head) {
    static const struct {
        const char *name;
        int rows, cols;
    } tensors[] = {
        {"self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN},
        {"self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM},
        {"mlp.gate_proj.weight", FFN, HIDDEN},
        {"mlp.up_proj.weight", FFN, HIDDEN},
        {"mlp.down_proj.weight", HIDDEN, FFN},
        {"input_layernorm.weight", 0, HIDDEN},
        {"post_attention_layernorm.weight", 0, HIDDEN},
    };
    char name[96];
    snprintf(name, sizeof name, "%sembed_tokens.weight", prefix);
    fill_f32(f, name, VOCAB, HIDDEN);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
            snprintf(name, sizeof name, "%slayers.%d.%s", prefix, layer, tensors[i].name);
            fill_f32(f, name, tensors[i].rows, tensors[i].cols);
        }
    }
    snprintf(name, sizeof name, "%snorm.weight", prefix);
    fill_f32(f, name, 0, HIDDEN);
    if (with_head) fill_f32(f, "lm_head.weight", VOCAB, HIDDEN);
}

static void write_folder(tiny_file *f, const char *dir, const char *config) {
    char path[512];
    tiny_write_text(dir, "config.json", config);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    tiny_write_safetensors(f, path);
}

/* Reads a whole matrix of F32 and compares it. */
static void check_matrix(const sl_source *s, int layer, sl_role role, const float *expected,
                         int64_t n_rows, int64_t n_cols) {
    int64_t rows = 0, cols = 0;
    sl_dtype dtype = SL_DTYPE_COUNT;
    assert_int_equal(sl_source_shape(s, layer, role, &rows, &cols, &dtype), SL_OK);
    assert_int_equal(rows, n_rows);
    assert_int_equal(cols, n_cols);
    assert_int_equal(dtype, SL_DTYPE_F32);
    const size_t bytes = (size_t)(rows * cols) * sizeof(float);
    float *found = malloc(bytes);
    assert_non_null(found);
    assert_int_equal(sl_source_read_rows(s, layer, role, 0, rows, found, bytes), SL_OK);
    assert_memory_equal(found, expected, bytes);
    free(found);
}

static void source_reads_an_hf_folder_by_role(void **state) {
    static const char *const prefixes[] = {"model.", ""};
    for (int i = 0; i < 2; i++) {
        tiny_file f = {0};
        char name[96];
        add_hf_llama(&f, prefixes[i], 1);
        fill_f32(&f, "surplus.weight", 3, 5);
        write_folder(&f, *state, llama_config);
        sl_source *s = must_open(*state);

        snprintf(name, sizeof name, "%slayers.1.self_attn.k_proj.weight", prefixes[i]);
        check_matrix(s, 1, SL_ROLE_K, data_of(&f, name), KV_HEADS * HEAD_DIM, HIDDEN);
        snprintf(name, sizeof name, "%slayers.0.mlp.down_proj.weight", prefixes[i]);
        check_matrix(s, 0, SL_ROLE_DOWN, data_of(&f, name), HIDDEN, FFN);
        check_matrix(s, LAYERS, SL_ROLE_HEAD, data_of(&f, "lm_head.weight"), VOCAB, HIDDEN);
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        check_matrix(s, SL_LAYER_EMBED, SL_ROLE_TOKEN_EMBED, data_of(&f, name), VOCAB, HIDDEN);
        float norm[HIDDEN];
        snprintf(name, sizeof name, "%snorm.weight", prefixes[i]);
        assert_int_equal(sl_source_read_vector(s, LAYERS, SL_ROLE_FINAL_NORM_GAIN, norm, HIDDEN),
                         SL_OK);
        assert_memory_equal(norm, data_of(&f, name), sizeof norm);

        assert_int_equal(sl_source_config(s)->tied_head, 0);
        assert_int_equal(sl_source_is_dummy(s), 0);
        assert_string_equal(sl_source_path(s), *state);
        assert_non_null(sl_source_checkpoint(s));
        assert_int_equal(sl_source_has(s, 0, SL_ROLE_Q_BIAS), 0);
        assert_int_equal(sl_source_has(s, LAYERS, SL_ROLE_Q), 0);
        assert_int_equal(sl_source_has(s, SL_LAYER_EMBED, SL_ROLE_POS_EMBED), 0);
        sl_source_close(s);
        tiny_free(&f);
    }
}

static void source_reads_row_ranges_and_refuses_others(void **state) {
    tiny_file f = {0};
    add_hf_llama(&f, "model.", 1);
    write_folder(&f, *state, llama_config);
    sl_source *s = must_open(*state);
    const float *all = data_of(&f, "model.layers.0.mlp.up_proj.weight");
    float rows[5 * HIDDEN];
    assert_int_equal(sl_source_read_rows(s, 0, SL_ROLE_UP, 11, 5, rows, sizeof rows), SL_OK);
    assert_memory_equal(rows, all + 11 * HIDDEN, sizeof rows);

    assert_int_equal(sl_source_read_rows(s, 0, SL_ROLE_UP, FFN - 4, 5, rows, sizeof rows),
                     SL_ERR_ARG);
    assert_int_equal(sl_source_read_rows(s, 0, SL_ROLE_UP, -1, 5, rows, sizeof rows), SL_ERR_ARG);
    assert_int_equal(sl_source_read_rows(s, 0, SL_ROLE_UP, 0, 4, rows, sizeof rows), SL_ERR_ARG);
    assert_int_equal(sl_source_read_rows(s, 0, SL_ROLE_Q_BIAS, 0, 1, rows, sizeof rows),
                     SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "q_bias"));
    assert_int_equal(sl_source_read_vector(s, 0, SL_ROLE_ATTN_NORM_GAIN, rows, HIDDEN - 1),
                     SL_ERR_ARG);
    assert_int_equal(sl_source_read_vector(s, 0, SL_ROLE_UP, rows, HIDDEN), SL_ERR_ARG);
    sl_source_close(s);
    tiny_free(&f);
}

static void source_without_head_ties_it_to_the_embedding(void **state) {
    tiny_file f = {0};
    add_hf_llama(&f, "", 0);
    write_folder(&f, *state, llama_config);
    sl_source *s = must_open(*state);
    assert_int_equal(sl_source_config(s)->tied_head, 1);
    check_matrix(s, LAYERS, SL_ROLE_HEAD, data_of(&f, "embed_tokens.weight"), VOCAB, HIDDEN);
    sl_source_close(s);
    tiny_free(&f);
}

static void source_refuses_missing_and_misshaped_tensors_by_name(void **state) {
    tiny_file f = {0};
    add_hf_llama(&f, "model.", 1);
    tiny_tensor *up = tiny_find(&f, "model.layers.1.mlp.up_proj.weight");

    strcpy(up->name, "model.layers.1.mlp.gone");
    write_folder(&f, *state, llama_config);
    must_refuse(*state, (const char *const[]){"model.layers.1.mlp.up_proj.weight", "missing",
                                              "[64, 32]", "layer 1", *state, NULL});

    strcpy(up->name, "model.layers.1.mlp.up_proj.weight");
    up->rows = HIDDEN;
    up->cols = FFN;
    write_folder(&f, *state, llama_config);
    must_refuse(*state, (const char *const[]){"model.layers.1.mlp.up_proj.weight", "[32, 64]",
                                              "[64, 32]", "model.safetensors", NULL});

    up->rows = FFN;
    up->cols = HIDDEN;
    tiny_tensor *norm = tiny_find(&f, "model.norm.weight");
    norm->rows = 1; /* a matrix of one row is no vector */
    write_folder(&f, *state, llama_config);
    must_refuse(*state, (const char *const[]){"model.norm.weight", "[1, 32]", "[32]", NULL});
    tiny_free(&f);
}

static void source_converts_vectors_to_float32(void **state) {
    tiny_file f = {0};
    add_hf_llama(&f, "model.", 1);
    tiny_tensor *norm = tiny_find(&f, "model.layers.0.input_layernorm.weight");
    const sl_dtype dtypes[] = {SL_DTYPE_F16, SL_DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        uint16_t *data = norm->data;
        norm->dtype = dtypes[d];
        norm->bytes = HIDDEN * sizeof *data;
        for (int i = 0; i < HIDDEN; i++) {
            const float value = (float)i / 16 - 1;
            data[i] = d == 0 ? sl_f32_to_f16(value) : sl_f32_to_bf16(value);
        }
        write_folder(&f, *state, llama_config);
        sl_source *s = must_open(*state);
        float found[HIDDEN];
        assert_int_equal(sl_source_read_vector(s, 0, SL_ROLE_ATTN_NORM_GAIN, found, HIDDEN), SL_OK);
        for (int i = 0; i < HIDDEN; i++) assert_true(found[i] == (float)i / 16 - 1);
        sl_source_close(s);
    }
    tiny_free(&f);
}

static void source_merges_the_generation_config(void **state) {
    tiny_file f = {0};
    add_hf_llama(&f, "model.", 1);
    write_folder(&f, *state, llama_config);
    tiny_write_text(*state, "generation_config.json", "{\"eos_token_id\": [3, 5]}");
    sl_source *s = must_open(*state);
    assert_int_equal(sl_source_config(s)->n_eos, 2);
    assert_int_equal(sl_source_config(s)->eos_id[1], 5);
    sl_source_close(s);
    tiny_write_text(*state, "generation_config.json", "{\"eos_token_id\": \"five\"}");
    must_refuse(*state, (const char *const[]){"generation_config.json", "eos_token_id", NULL});
    tiny_free(&f);
}

static void source_that_is_not_there_is_an_io_error(void **state) {
    sl_source *s = NULL;
    assert_int_equal(sl_source_open("/nonexistent/model", 0, &s), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/nonexistent/model"));
    assert_int_equal(sl_source_open(*state, 0, &s), SL_ERR_IO); /* a folder without config.json */
    assert_non_null(strstr(sl_error_message(), "config.json"));
    assert_int_equal(sl_source_open("dummy:opt-9b", 0, &s), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "opt-9b"));
    assert_null(s);
}

/* GGUF. */

/* The file's row of a Q or K matrix in HF's order: rows of the two rotary halves alternate. */
static int gguf_row(int row) {
    const int head = row / HEAD_DIM, half = row % HEAD_DIM / (HEAD_DIM / 2);
    return head * HEAD_DIM + 2 * (row % (HEAD_DIM / 2)) + half;
}

static void add_gguf_llama(tiny_file *f) {
    static const struct {
        const char *name;
        int rows, cols;
    } tensors[] = {
        {"attn_q.weight", HEADS * HEAD_DIM, HIDDEN},
        {"attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN},
        {"attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN},
        {"attn_output.weight", HIDDEN, HEADS * HEAD_DIM},
        {"attn_q.bias", 0, HEADS * HEAD_DIM},
        {"attn_k.bias", 0, KV_HEADS * HEAD_DIM},
        {"attn_v.bias", 0, KV_HEADS * HEAD_DIM},
        {"ffn_gate.weight", FFN, HIDDEN},
        {"ffn_up.weight", FFN, HIDDEN},
        {"ffn_down.weight", HIDDEN, FFN},
        {"attn_norm.weight", 0, HIDDEN},
        {"ffn_norm.weight", 0, HIDDEN},
    };
    tiny_kv_string(f, "general.architecture", "llama");
    tiny_kv_u32(f, "llama.block_count", LAYERS);
    tiny_kv_u32(f, "llama.embedding_length", HIDDEN);
    tiny_kv_u32(f, "llama.feed_forward_length", FFN);
    tiny_kv_u32(f, "llama.attention.head_count", HEADS);
    tiny_kv_u32(f, "llama.attention.head_count_kv", KV_HEADS);
    tiny_kv_u32(f, "llama.context_length", 64);
    tiny_kv_u32(f, "llama.rope.dimension_count", HEAD_DIM);
    tiny_kv_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_kv_f32(f, "llama.rope.freq_base", 50000.0f);
    tiny_kv_u32(f, "tokenizer.ggml.bos_token_id", 1);
    tiny_kv_u32(f, "tokenizer.ggml.eos_token_id", 2);
    tiny_kv_u32(f, "tokenizer.ggml.eot_token_id", 4);
    fill_f32(f, "token_embd.weight", VOCAB, HIDDEN);
    fill_f32(f, "output_norm.weight", 0, HIDDEN);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
            char name[96];
            snprintf(name, sizeof name, "blk.%d.%s", layer, tensors[i].name);
            fill_f32(f, name, tensors[i].rows, tensors[i].cols);
        }
    }
}

static const char *write_gguf(tiny_file *f, const char *dir, char *path, size_t path_bytes) {
    snprintf(path, path_bytes, "%s/model.gguf", dir);
    tiny_write_gguf(f, path);
    return path;
}

static void source_reads_the_config_of_a_gguf_file(void **state) {
    tiny_file f = {0};
    char path[512];
    add_gguf_llama(&f);
    float *divisors = tiny_add(&f, "rope_freqs.weight", SL_DTYPE_F32, 0, HEAD_DIM / 2);
    for (int i = 0; i < HEAD_DIM / 2; i++) divisors[i] = (float)(i + 1);
    sl_source *s = must_open(write_gguf(&f, *state, path, sizeof path));
    const sl_model_config *c = sl_source_config(s);
    assert_string_equal(c->arch, "llama");
    assert_int_equal(c->n_layers, LAYERS);
    assert_int_equal(c->hidden, HIDDEN);
    assert_int_equal(c->embed_dim, HIDDEN);
    assert_int_equal(c->n_heads, HEADS);
    assert_int_equal(c->n_kv_heads, KV_HEADS);
    assert_int_equal(c->head_dim, HEAD_DIM);
    assert_int_equal(c->ffn, FFN);
    assert_int_equal(c->vocab, VOCAB);
    assert_int_equal(c->max_positions, 64);
    assert_true(c->norm_eps == 1e-5f);
    assert_true(c->rope.theta == 50000.0f);
    assert_int_equal(c->rope.scaling, SL_ROPE_PLAIN);
    assert_int_equal(c->rope.n_divisors, HEAD_DIM / 2);
    assert_true(c->rope.divisor[3] == 4.0f);
    assert_int_equal(c->qkv_bias, 1); /* from the tensors */
    assert_int_equal(c->o_bias, 0);
    assert_int_equal(c->mlp_bias, 0);
    assert_int_equal(c->tied_head, 1); /* no output.weight */
    assert_int_equal(c->bos_id, 1);
    assert_int_equal(c->n_eos, 2);
    assert_int_equal(c->eos_id[1], 4);
    sl_source_close(s);
    tiny_free(&f);
}

static void source_puts_rows_of_gguf_q_and_k_in_order(void **state) {
    tiny_file f = {0};
    char path[512];
    add_gguf_llama(&f);
    sl_source *s = must_open(write_gguf(&f, *state, path, sizeof path));
    const float *q = data_of(&f, "blk.1.attn_q.weight");
    const float *bias = data_of(&f, "blk.1.attn_k.bias");
    const int n = HEADS * HEAD_DIM;
    float found[HEADS * HEAD_DIM * HIDDEN];
    for (int begin = 0; begin < n; begin++) { /* every range, across halves and heads */
        for (int end = begin + 1; end <= n; end++) {
            const size_t bytes = (size_t)(end - begin) * HIDDEN * sizeof(float);
            assert_int_equal(sl_source_read_rows(s, 1, SL_ROLE_Q, begin, end - begin, found, bytes),
                             SL_OK);
            for (int row = begin; row < end; row++)
                assert_memory_equal(found + (row - begin) * HIDDEN, q + gguf_row(row) * HIDDEN,
                                    HIDDEN * sizeof(float));
        }
    }
    assert_int_equal(sl_source_read_vector(s, 1, SL_ROLE_K_BIAS, found, KV_HEADS * HEAD_DIM),
                     SL_OK);
    for (int i = 0; i < KV_HEADS * HEAD_DIM; i++) assert_true(found[i] == bias[gguf_row(i)]);
    check_matrix(s, 1, SL_ROLE_V, data_of(&f, "blk.1.attn_v.weight"), KV_HEADS * HEAD_DIM, HIDDEN);
    sl_source_close(s);
    tiny_free(&f);
}

static void source_refuses_gguf_options_that_are_not_ours(void **state) {
    static const struct {
        const char *key, *text; /* a string if text, else the number */
        unsigned number;
        const char *named;
    } cases[] = {
        {"llama.rope.scaling.type", "yarn", 0, "yarn"},
        {"llama.expert_count", NULL, 8, "expert_count"},
        {"llama.attention.key_length", NULL, 16, "value_length"},
        {"split.count", NULL, 3, "split.count"},
        {"llama.rope.scaling.factor", NULL, 2, "rope.scaling.factor"}, /* an integer */
        {"tokenizer.ggml.eom_token_id", "x", 0, "eom_token_id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_file f = {0};
        char path[512];
        add_gguf_llama(&f);
        if (cases[i].text)
            tiny_kv_string(&f, cases[i].key, cases[i].text);
        else
            tiny_kv_u32(&f, cases[i].key, cases[i].number);
        write_gguf(&f, *state, path, sizeof path);
        must_refuse(path, (const char *const[]){cases[i].named, "model.gguf", NULL});
        tiny_free(&f);
    }
}

static void source_refuses_gguf_of_other_architectures(void **state) {
    tiny_file f = {0};
    char path[512];
    tiny_kv_string(&f, "general.architecture", "mamba");
    fill_f32(&f, "token_embd.weight", VOCAB, HIDDEN);
    write_gguf(&f, *state, path, sizeof path);
    must_refuse(path, (const char *const[]){"mamba", "llama, qwen2, qwen3", NULL});
    tiny_free(&f);
}

/* SmolLM2-135M-Instruct, where SLUICE_TEST_GGUF names its file. */
static void source_reads_smollm2(void **state) {
    (void)state;
    const char *path = getenv("SLUICE_TEST_GGUF");
    if (!path || !*path) skip();
    sl_source *s = must_open(path);
    const sl_model_config *c = sl_source_config(s);
    assert_int_equal(c->n_layers, 30);
    assert_int_equal(c->hidden, 576);
    assert_int_equal(c->n_heads, 9);
    assert_int_equal(c->n_kv_heads, 3);
    assert_int_equal(c->head_dim, 64);
    assert_int_equal(c->ffn, 1536);
    assert_int_equal(c->vocab, 49152);
    assert_int_equal(c->tied_head, 1);
    assert_true(c->rope.theta == 100000.0f);

    int64_t rows = 0, cols = 0;
    sl_dtype dtype = SL_DTYPE_COUNT;
    size_t row_bytes = 0;
    assert_int_equal(sl_source_shape(s, 3, SL_ROLE_Q, &rows, &cols, &dtype), SL_OK);
    assert_int_equal(sl_dtype_row_bytes(dtype, cols, &row_bytes), SL_OK);
    const sl_checkpoint *ckpt = sl_source_checkpoint(s);
    const sl_tensor *t = sl_checkpoint_find(ckpt, "blk.3.attn_q.weight");
    char *found = malloc((size_t)rows * row_bytes), *row = malloc(row_bytes);
    assert_non_null(found);
    assert_non_null(row);
    assert_int_equal(sl_source_read_rows(s, 3, SL_ROLE_Q, 0, rows, found, (size_t)rows * row_bytes),
                     SL_OK);
    for (int r = 0; r < rows; r++) {
        const int stored = r / 64 * 64 + 2 * (r % 32) + r % 64 / 32;
        assert_int_equal(sl_checkpoint_read_rows(ckpt, t, stored, 1, row, row_bytes), SL_OK);
        assert_memory_equal(found + (size_t)r * row_bytes, row, row_bytes);
    }
    free(row);
    free(found);
    sl_source_close(s);
}

static void dummy_takes_the_shape_of_a_config_file(void **state) {
    char model[512];
    tiny_write_text(*state, "config.json", llama_config);
    tiny_write_text(*state, "generation_config.json", "{\"eos_token_id\": 5}");
    snprintf(model, sizeof model, "dummy:%s", (char *)*state);
    sl_source *s = must_open(model);
    assert_int_equal(sl_source_config(s)->hidden, HIDDEN);
    assert_int_equal(sl_source_config(s)->n_eos, 2);
    assert_int_equal(sl_source_is_dummy(s), 1);
    assert_null(sl_source_checkpoint(s));
    assert_string_equal(sl_source_path(s), *state);
    sl_source_close(s);
    snprintf(model, sizeof model, "dummy:%s/config.json", (char *)*state);
    s = must_open(model);
    assert_int_equal(sl_source_config(s)->n_eos, 1);
    sl_source_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(source_reads_an_hf_folder_by_role, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(source_reads_row_ranges_and_refuses_others, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_without_head_ties_it_to_the_embedding, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_refuses_missing_and_misshaped_tensors_by_name,
                                        make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(source_converts_vectors_to_float32, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(source_merges_the_generation_config, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(source_that_is_not_there_is_an_io_error, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_reads_the_config_of_a_gguf_file, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_puts_rows_of_gguf_q_and_k_in_order, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_refuses_gguf_options_that_are_not_ours, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(source_refuses_gguf_of_other_architectures, make_dir,
                                        remove_dir),
        cmocka_unit_test(source_reads_smollm2),
        cmocka_unit_test_setup_teardown(dummy_takes_the_shape_of_a_config_file, make_dir,
                                        remove_dir),
    };
    return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
