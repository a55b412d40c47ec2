/* Tokenizers in GGUF metadata: roles, kinds of tokens, and what is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/tokenizer.h"
#include "tiny_files.h"

/* ---- metadata arrays ---- */

static void kv_array(tiny_file *f, const char *key, uint32_t type, uint64_t n) {
    tiny_put_string(&f->meta, key);
    tiny_put_u32(&f->meta, 9); /* array */
    tiny_put_u32(&f->meta, type);
    tiny_put_u64(&f->meta, n);
    f->n_meta++;
}

static void kv_strings(tiny_file *f, const char *key, const char *const *texts, size_t n) {
    kv_array(f, key, 8, n);
    for (size_t i = 0; i < n; i++) tiny_put_string(&f->meta, texts[i]);
}

static void kv_ints(tiny_file *f, const char *key, const int *values, size_t n) {
    kv_array(f, key, 5, n);
    for (size_t i = 0; i < n; i++) tiny_put_u32(&f->meta, (uint32_t)values[i]);
}

static void kv_floats(tiny_file *f, const char *key, const float *values, size_t n) {
    kv_array(f, key, 6, n);
    for (size_t i = 0; i < n; i++) tiny_put(&f->meta, &values[i], sizeof values[i]);
}

static void kv_flag(tiny_file *f, const char *key, int value) {
    const char byte = (char)value;
    tiny_put_string(&f->meta, key);
    tiny_put_u32(&f->meta, 7);
    tiny_put(&f->meta, &byte, 1);
    f->n_meta++;
}

static const char *const letters[] = {"<s>", "<t>", "a", "b", "ab", "[PAD5]", "c", "c"};
enum { N_LETTERS = 8 };
static const int types[] = {3, 4, 1, 1, 1, 5, 1, 1};
static const char *const merges[] = {"a b"};

static void put_tokens(tiny_file *f, const char *model, const char *pre) {
    tiny_kv_string(f, "general.architecture", "llama");
    tiny_kv_string(f, "tokenizer.ggml.model", model);
    if (pre) tiny_kv_string(f, "tokenizer.ggml.pre", pre);
    kv_strings(f, "tokenizer.ggml.tokens", letters, N_LETTERS);
}

/* Writes the file, opens the tokenizer in it, and empties both. */
static sl_status open_file(tiny_file *f, sl_tokenizer **out) {
    char path[] = "/tmp/sl-test-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    tiny_add(f, "token_embd.weight", SL_DTYPE_F32, 0, 1);
    tiny_write_gguf(f, path);
    tiny_free(f);
    sl_checkpoint *gguf = NULL;
    const sl_status opened = sl_gguf_open(path, &gguf);
    unlink(path);
    if (opened != SL_OK) fail_msg("%s", sl_error_message());
    const sl_status st = sl_tokenizer_open_gguf(gguf, out);
    sl_checkpoint_close(gguf);
    return st;
}

static void check_refused(tiny_file *f, const char *reason) {
    sl_tokenizer *const untouched = (sl_tokenizer *)(uintptr_t)0x1;
    sl_tokenizer *tok = untouched;
    assert_int_equal(open_file(f, &tok), SL_ERR_FORMAT);
    assert_ptr_equal(tok, untouched);
    if (!strstr(sl_error_message(), reason))
        fail_msg("\"%s\" does not say \"%s\"", sl_error_message(), reason);
}

static sl_tokenizer *open_good(tiny_file *f) {
    sl_tokenizer *tok = NULL;
    if (open_file(f, &tok) != SL_OK) fail_msg("%s", sl_error_message());
    assert_non_null(tok);
    return tok;
}

static void check_ids(const sl_tokenizer *tok, const char *text, const int32_t *expected,
                      size_t n_expected) {
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(sl_tokenizer_encode(tok, text, strlen(text), 1, &ids, &n), SL_OK);
    assert_int_equal(n, n_expected);
    assert_memory_equal(ids, expected, n * sizeof *ids);
    free(ids);
}

/* ---- tests ---- */

static void file_without_tokenizer_gives_none(void **state) {
    (void)state;
    tiny_file f = {0};
    sl_tokenizer *tok = (sl_tokenizer *)(uintptr_t)0x1;
    tiny_kv_string(&f, "general.architecture", "llama");
    assert_int_equal(open_file(&f, &tok), SL_OK);
    assert_null(tok);
}

static void file_with_kinds_of_tokens_is_read(void **state) {
    (void)state;
    tiny_file f = {0};
    put_tokens(&f, "gpt2", "llama-bpe");
    kv_ints(&f, "tokenizer.ggml.token_type", types, N_LETTERS);
    kv_strings(&f, "tokenizer.ggml.merges", merges, 1);
    tiny_kv_u32(&f, "tokenizer.ggml.bos_token_id", 0);
    tiny_kv_u32(&f, "tokenizer.ggml.eos_token_id", 1);
    kv_flag(&f, "tokenizer.ggml.add_eos_token", 1);
    tiny_kv_string(&f, "tokenizer.chat_template", "{{ messages }}");
    sl_tokenizer *tok = open_good(&f);
    assert_int_equal(sl_tokenizer_n_tokens(tok), N_LETTERS);
    assert_int_equal(sl_tokenizer_bos_id(tok), 0);
    assert_int_equal(sl_tokenizer_eos_id(tok), 1);
    assert_true(sl_tokenizer_is_special(tok, 0));
    assert_false(sl_tokenizer_is_special(tok, 1)); /* user-defined: found in text, and shown */
    assert_string_equal(sl_tokenizer_chat_template(tok), "{{ messages }}");
    /* llama-bpe adds BOS where the file does not say. */
    static const int32_t ids[] = {0, 4, 1, 3, 0, 1};
    check_ids(tok, "ab<t>b<s>", ids, 6);
    /* Padding is never found in text, though it has a name; of equal texts the last is found. */
    assert_int_equal(sl_tokenizer_find(tok, "[PAD5]"), -1);
    assert_int_equal(sl_tokenizer_find(tok, "c"), 7);
    char buf[32];
    assert_string_equal(sl_tokenizer_display(tok, 5, buf, sizeof buf), "[PAD5]");
    assert_string_equal(sl_tokenizer_display(tok, 6, buf, sizeof buf), "c");
    sl_tokenizer_close(tok);
}

static void scores_rank_the_merges(void **state) {
    (void)state;
    static const char *const texts[] = {"<unk>", "<s>", "\xe2\x96\x81", "a", "b", "c", "ab", "bc"};
    static const float bc_first[] = {0, 0, -9, -9, -9, -9, -2, -1};
    static const float ab_first[] = {0, 0, -9, -9, -9, -9, -1, -2};
    static const int32_t a_bc[] = {1, 2, 3, 7}, ab_c[] = {1, 2, 6, 5};
    for (int round = 0; round < 2; round++) {
        tiny_file f = {0};
        tiny_kv_string(&f, "general.architecture", "llama");
        tiny_kv_string(&f, "tokenizer.ggml.model", "llama");
        kv_strings(&f, "tokenizer.ggml.tokens", texts, 8);
        kv_floats(&f, "tokenizer.ggml.scores", round ? ab_first : bc_first, 8);
        tiny_kv_u32(&f, "tokenizer.ggml.bos_token_id", 1);
        tiny_kv_u32(&f, "tokenizer.ggml.unknown_token_id", 0);
        sl_tokenizer *tok = open_good(&f);
        check_ids(tok, "abc", round ? ab_c : a_bc, 4);
        assert_true(sl_tokenizer_is_special(tok, 1)); /* by its role: there are no types */
        assert_string_equal(sl_tokenizer_kind(tok), "sentencepiece BPE");
        sl_tokenizer_close(tok);
    }
}

static void prefix_space_is_left_out_where_the_file_says(void **state) {
    (void)state;
    static const float scores[N_LETTERS] = {0};
    static const int32_t ids[] = {4};
    tiny_file f = {0};
    put_tokens(&f, "llama", NULL);
    kv_floats(&f, "tokenizer.ggml.scores", scores, N_LETTERS);
    kv_flag(&f, "tokenizer.ggml.add_space_prefix", 0);
    kv_flag(&f, "tokenizer.ggml.add_bos_token", 0);
    tiny_kv_u32(&f, "tokenizer.ggml.bos_token_id", 0);
    sl_tokenizer *tok = open_good(&f);
    check_ids(tok, "ab", ids, 1);
    sl_tokenizer_close(tok);
}

static void unknown_kinds_are_refused_by_name(void **state) {
    (void)state;
    tiny_file f = {0};
    put_tokens(&f, "bert", NULL);
    check_refused(&f, "\"bert\"");
    put_tokens(&f, "gpt2", "deepseek-v9");
    check_refused(&f, "\"deepseek-v9\"");
    put_tokens(&f, "gpt2", NULL);
    check_refused(&f, "tokenizer.ggml.pre is missing");
}

static void arrays_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const char *const lost[] = {"a x"}, *const single[] = {"ab"};
    static const float scores[] = {0, 0};
    tiny_file f = {0};
    tiny_kv_string(&f, "tokenizer.ggml.model", "gpt2");
    check_refused(&f, "tokenizer.ggml.tokens is missing");
    put_tokens(&f, "gpt2", "gpt-2");
    check_refused(&f, "tokenizer.ggml.merges is missing");
    put_tokens(&f, "gpt2", "gpt-2");
    kv_ints(&f, "tokenizer.ggml.token_type", types, 3);
    check_refused(&f, "3 elements, expected 8");
    put_tokens(&f, "gpt2", "gpt-2");
    kv_strings(&f, "tokenizer.ggml.merges", lost, 1);
    check_refused(&f, "\"x\"");
    put_tokens(&f, "gpt2", "gpt-2");
    kv_strings(&f, "tokenizer.ggml.merges", single, 1);
    check_refused(&f, "merge 0");
    put_tokens(&f, "llama", NULL);
    check_refused(&f, "tokenizer.ggml.scores is missing");
    put_tokens(&f, "llama", NULL);
    kv_floats(&f, "tokenizer.ggml.scores", scores, 2);
    check_refused(&f, "2 elements, expected 8");
    put_tokens(&f, "gpt2", "gpt-2");
    tiny_kv_u32(&f, "tokenizer.ggml.eos_token_id", 8);
    check_refused(&f, "eos_token_id is 8");
    put_tokens(&f, "gpt2", "gpt-2");
    tiny_kv_string(&f, "tokenizer.ggml.bos_token_id", "0");
    check_refused(&f, "bos_token_id");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_without_tokenizer_gives_none),
        cmocka_unit_test(file_with_kinds_of_tokens_is_read),
        cmocka_unit_test(scores_rank_the_merges),
        cmocka_unit_test(prefix_space_is_left_out_where_the_file_says),
        cmocka_unit_test(unknown_kinds_are_refused_by_name),
        cmocka_unit_test(arrays_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests_name("tokenizer_gguf", tests, NULL, NULL);
}
