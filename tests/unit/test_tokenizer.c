/* Every tokenizer family over the golden corpus: the ids and texts of HF tokenizers. */
#include "tokenizer_fixture.h"

static sl_tokenizer *open_family(const char *family) {
    char path[4096];
    sl_tokenizer *tok = NULL;
    snprintf(path, sizeof path, GOLDEN "%s", family);
    if (sl_tokenizer_open_folder(path, &tok) != SL_OK) fail_msg("%s", sl_error_message());
    assert_non_null(tok);
    return tok;
}

static void check_folder(const char *family) {
    sl_tokenizer *tok = open_family(family);
    check_family(tok, family);
    sl_tokenizer_close(tok);
}

static void check_gguf(const char *family) {
    char path[4096];
    sl_checkpoint *gguf = NULL;
    sl_tokenizer *tok = NULL;
    snprintf(path, sizeof path, GOLDEN "%s/tokenizer.gguf", family);
    if (sl_gguf_open(path, &gguf) != SL_OK || sl_tokenizer_open_gguf(gguf, &tok) != SL_OK)
        fail_msg("%s", sl_error_message());
    sl_checkpoint_close(gguf); /* the tokenizer keeps nothing of it */
    check_family(tok, family);
    sl_tokenizer_close(tok);
}

static void gpt2_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("gpt2");
}

static void opt_vocab_and_merges_give_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("opt");
}

static void llama3_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("llama3");
}

static void qwen2_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("qwen2");
}

static void smollm_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("smollm");
}

static void tekken_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("tekken");
}

static void llama2_legacy_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("llama2_legacy");
}

static void llama2_metaspace_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("llama2_metaspace");
}

static void mistral_json_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("mistral");
}

static void rare_components_give_the_ids_of_hf(void **state) {
    (void)state;
    check_folder("legacy_added");
}

static void gguf_of_each_pre_tokenizer_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_gguf("gpt2");
    check_gguf("llama3");
    check_gguf("qwen2");
    check_gguf("smollm");
    check_gguf("tekken");
}

static void gguf_with_scores_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_gguf("llama_scores");
}

static void opt_files_make_the_end_token_the_first(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("opt");
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(sl_tokenizer_bos_id(tok), 2);
    assert_int_equal(sl_tokenizer_eos_id(tok), 2);
    assert_true(sl_tokenizer_is_special(tok, 1)); /* <pad> */
    assert_int_equal(sl_tokenizer_encode(tok, "", 0, 1, &ids, &n), SL_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 2);
    free(ids);
    sl_tokenizer_close(tok);
}

static void llama3_json_knows_its_roles(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("llama3");
    assert_int_equal(sl_tokenizer_bos_id(tok), sl_tokenizer_find(tok, "<|begin_of_text|>"));
    assert_int_equal(sl_tokenizer_eos_id(tok), -1); /* no tokenizer_config.json says */
    assert_string_equal(sl_tokenizer_kind(tok), "byte-level BPE");
    assert_null(sl_tokenizer_chat_template(tok));
    sl_tokenizer_close(tok);
    tok = open_family("mistral");
    assert_string_equal(sl_tokenizer_kind(tok), "sentencepiece BPE");
    assert_int_equal(sl_tokenizer_bos_id(tok), 1);
    sl_tokenizer_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_json_gives_the_ids_of_hf),
        cmocka_unit_test(opt_vocab_and_merges_give_the_ids_of_hf),
        cmocka_unit_test(llama3_json_gives_the_ids_of_hf),
        cmocka_unit_test(qwen2_json_gives_the_ids_of_hf),
        cmocka_unit_test(smollm_json_gives_the_ids_of_hf),
        cmocka_unit_test(tekken_json_gives_the_ids_of_hf),
        cmocka_unit_test(llama2_legacy_json_gives_the_ids_of_hf),
        cmocka_unit_test(llama2_metaspace_json_gives_the_ids_of_hf),
        cmocka_unit_test(mistral_json_gives_the_ids_of_hf),
        cmocka_unit_test(rare_components_give_the_ids_of_hf),
        cmocka_unit_test(gguf_of_each_pre_tokenizer_gives_the_ids_of_hf),
        cmocka_unit_test(gguf_with_scores_gives_the_ids_of_hf),
        cmocka_unit_test(opt_files_make_the_end_token_the_first),
        cmocka_unit_test(llama3_json_knows_its_roles),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
