/* The real tokenizer of SmolLM2, from the GGUF file that SLUICE_TEST_GGUF names. */
#include "tokenizer_fixture.h"

static sl_checkpoint *gguf;
static sl_tokenizer *tok;

static int open_file(void **state) {
    (void)state;
    if (sl_gguf_open(getenv("SLUICE_TEST_GGUF"), &gguf) == SL_OK &&
        sl_tokenizer_open_gguf(gguf, &tok) == SL_OK && tok)
        return 0;
    printf("%s\n", sl_error_message());
    return -1;
}

static int close_file(void **state) {
    (void)state;
    sl_tokenizer_close(tok);
    sl_checkpoint_close(gguf);
    return 0;
}

static void smollm2_corpus_gives_the_ids_of_hf(void **state) {
    (void)state;
    check_family(tok, "smollm2");
}

static void smollm2_metadata_is_read(void **state) {
    (void)state;
    assert_int_equal(sl_tokenizer_n_tokens(tok), 49152);
    assert_int_equal(sl_tokenizer_bos_id(tok), 1);
    assert_int_equal(sl_tokenizer_eos_id(tok), 2);
    assert_int_equal(sl_tokenizer_find(tok, "<|im_end|>"), 2);
    assert_true(sl_tokenizer_is_special(tok, 2));
    assert_string_equal(sl_tokenizer_kind(tok), "byte-level BPE");
    assert_non_null(strstr(sl_tokenizer_chat_template(tok), "<|im_start|>"));
}

int main(void) {
    if (!getenv("SLUICE_TEST_GGUF")) {
        printf("skipped: SLUICE_TEST_GGUF does not name SmolLM2-135M-Instruct's GGUF file\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_corpus_gives_the_ids_of_hf),
        cmocka_unit_test(smollm2_metadata_is_read),
    };
    return cmocka_run_group_tests_name("tokenizer_smollm", tests, open_file, close_file);
}
