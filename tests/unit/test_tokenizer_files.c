/* Tokenizer files: what they may not hold is refused by name; what a folder's files say together.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/tokenizer_impl.h"

#define MODEL  "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, "
#define MERGES "\"merges\": [\"a b\"]}"

static void check_refused(const char *json, const char *reason) {
    sl_tokenizer *const untouched = (sl_tokenizer *)(uintptr_t)0x1;
    sl_tokenizer *tok = untouched;
    const sl_status st = sl_tokenizer_open_json(json, strlen(json), NULL, 0, "test.json", &tok);
    if (st != SL_ERR_FORMAT) fail_msg("not refused (%d): %s", (int)st, json);
    assert_ptr_equal(tok, untouched);
    if (!strstr(sl_error_message(), reason) || !strstr(sl_error_message(), "test.json"))
        fail_msg("\"%s\" does not say \"%s\"", sl_error_message(), reason);
}

/* One section beside a good model. */
static void check_section(const char *section, const char *reason) {
    char json[2048];
    snprintf(json, sizeof json, "{%s, " MODEL MERGES "}", section);
    check_refused(json, reason);
}

/* A good model with other members. */
static void check_model(const char *members, const char *reason) {
    char json[2048];
    snprintf(json, sizeof json, "{\"model\": {\"type\": \"BPE\", %s}}", members);
    check_refused(json, reason);
}

static void json_that_is_none_is_refused(void **state) {
    (void)state;
    check_refused("", "line");
    check_refused("{\"model\": ", "line");
    check_refused("[1]", "not a JSON object");
    check_refused("{}", "no model");
}

static void json_models_other_than_bpe_are_refused(void **state) {
    (void)state;
    check_refused("{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "Unigram");
    check_refused("{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}", "WordPiece");
    check_refused("{\"model\": {\"type\": \"WordLevel\", \"vocab\": {}}}", "WordLevel");
    check_model("\"dropout\": 0.1, \"vocab\": {}, \"merges\": []", "dropout");
    check_model("\"end_of_word_suffix\": \"</w>\", \"vocab\": {}, \"merges\": []", "end_of_word");
    check_model("\"continuing_subword_prefix\": \"##\", \"vocab\": {}, \"merges\": []",
                "continuing");
}

static void json_vocabularies_that_contradict_themselves_are_refused(void **state) {
    (void)state;
    check_model("\"vocab\": [], \"merges\": []", "vocabulary");
    check_model("\"vocab\": {\"a\": \"0\"}, \"merges\": []", "\"a\" is not an integer");
    check_model("\"vocab\": {\"a\": -1}, \"merges\": []", "-1");
    check_model("\"vocab\": {\"a\": 99999999}, \"merges\": []", "99999999");
    check_model("\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", "same id 0");
    check_model("\"vocab\": {\"a\": 0}", "merges");
    check_model("\"vocab\": {\"a\": 0}, \"unk_token\": \"<unk>\", \"merges\": []", "<unk>");
    check_model("\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]", "\"ab\"");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [\"a c\"]", "\"c\"");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]", "one space");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [\"a a a\"]", "one space");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]", "merge 0");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [7]", "merge 0");
    check_model("\"vocab\": {\"a\": 0}, \"merges\": [], \"fuse_unk\": 1", "fuse_unk");
}

static void json_added_tokens_without_sane_ids_are_refused(void **state) {
    (void)state;
    check_section("\"added_tokens\": [{\"content\": \"<s>\"}]", "added token 0");
    check_section("\"added_tokens\": [{\"id\": -5, \"content\": \"<s>\"}]", "-5");
    check_section("\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\"}]", "same id 1");
    check_section("\"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"lstrip\": 2}]", "lstrip");
}

static void json_unknown_steps_are_refused_by_name(void **state) {
    (void)state;
    check_section("\"normalizer\": {\"type\": \"BertNormalizer\"}", "BertNormalizer");
    check_section(
        "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}",
        "NFKC");
    check_section("\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}, "
                  "\"content\": \"b\"}",
                  "Replace");
    check_section("\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, "
                  "\"content\": \"b\"}",
                  "no text");
    check_section("\"normalizer\": {\"type\": \"Sequence\"}", "normalizers");
    check_section("\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}", "BertPreTokenizer");
    check_section("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
                  "\"ByteLevel\"}, {\"type\": \"Digits\"}]}",
                  "after ByteLevel");
    check_section("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, "
                  "\"behavior\": \"Sideways\"}",
                  "Sideways");
    check_section("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\"}",
                  "one character");
    check_section("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", "
                  "\"prepend_scheme\": \"last\"}",
                  "last");
    check_section("\"post_processor\": {\"type\": \"RobertaProcessing\"}", "RobertaProcessing");
    check_section("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}",
                  "0 texts");
    check_section("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                  "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], "
                  "\"special_tokens\": {}}",
                  "<s>");
    check_section("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
                  "[{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], "
                  "\"special_tokens\": {\"<s>\": {\"ids\": [77]}}}",
                  "77");
    check_section("\"decoder\": {\"type\": \"WordPiece\"}", "WordPiece");
    check_section("\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, "
                  "{\"type\": \"ByteFallback\"}]}",
                  "after Fuse");
    check_section(
        "\"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": -1, \"stop\": 0}",
        "Strip");
}

static void json_with_too_many_steps_is_refused(void **state) {
    (void)state;
    char section[2048] = "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [";
    for (int i = 0; i <= SL_TOKENIZER_MAX_STEPS; i++)
        strcat(section, i ? ", {\"type\": \"NFC\"}" : "{\"type\": \"NFC\"}");
    strcat(section, "]}");
    check_section(section, "more than 16 steps");
}

static void check_pattern(const char *pattern, const char *reason) {
    char section[1024];
    snprintf(section, sizeof section,
             "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, "
             "\"behavior\": \"Isolated\"}",
             pattern);
    check_section(section, reason);
}

/* Constructs that Oniguruma and PCRE2 read differently. */
static void patterns_with_two_meanings_are_refused(void **state) {
    (void)state;
    check_pattern("\\\\w+", "\\w");
    check_pattern("a\\\\b", "\\b");
    check_pattern("\\\\h", "\\h");
    check_pattern("(a)\\\\1", "\\1");
    check_pattern("\\\\p{Han}", "\\p{Han}");
    check_pattern("\\\\pL", "\\pL");
    check_pattern("\\\\x4", "\\x4");
    check_pattern("\\\\u12", "\\u12");
    check_pattern("(?<name>a)", "(?<n");
    check_pattern("(?m:a)", "(?m");
    check_pattern("(*COMMIT)a", "(*");
    check_pattern("[a[b]]", "nested class");
    check_pattern("[a&&b]", "intersection");
    check_pattern("[]a]", "[]");
    check_pattern("a{,3}", "{,");
    check_pattern("a{2}+", "}+");
    check_pattern("a\\\\", "escape");
    check_pattern("(a", "parenthes");
    check_pattern("[a", "class");
}

static void pattern_that_never_ends_is_given_up(void **state) {
    (void)state;
    const char *json = "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": "
                       "\"(a+)+(a+)+(a+)+[cd]\"}, \"behavior\": \"Isolated\"}, " MODEL MERGES "}";
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    sl_tokenizer *tok = NULL;
    int32_t *const untouched = (int32_t *)(uintptr_t)0x4;
    int32_t *ids = untouched;
    size_t n = 7;
    assert_int_equal(sl_tokenizer_open_json(json, strlen(json), NULL, 0, "t", &tok), SL_OK);
    assert_int_equal(sl_tokenizer_encode(tok, text, strlen(text), 1, &ids, &n), SL_ERR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "(a+)+"));
    assert_ptr_equal(ids, untouched);
    assert_int_equal(n, 7);
    sl_tokenizer_close(tok);
}

/* Sixteen steps that each make ten letters of one. */
#define TENFOLD                                                                                    \
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aaaaaaaaaa\"}"

static void steps_that_grow_without_end_are_given_up(void **state) {
    (void)state;
    char json[4096];
    for (int is_decoder = 0; is_decoder < 2; is_decoder++) {
        size_t at = (size_t)snprintf(
            json, sizeof json, "{\"%s\": {\"type\": \"Sequence\", \"%s\": [" TENFOLD,
            is_decoder ? "decoder" : "normalizer", is_decoder ? "decoders" : "normalizers");
        for (int i = 1; i < SL_TOKENIZER_MAX_STEPS; i++)
            at += (size_t)snprintf(json + at, sizeof json - at, ", " TENFOLD);
        snprintf(json + at, sizeof json - at, "]}, " MODEL MERGES "}");
        sl_tokenizer *tok = NULL;
        static const int32_t ids[] = {2, 0, 2};
        int32_t *made = NULL;
        char *text = NULL;
        size_t n = 0;
        assert_int_equal(sl_tokenizer_open_json(json, strlen(json), NULL, 0, "t", &tok), SL_OK);
        if (is_decoder)
            assert_int_equal(sl_tokenizer_decode(tok, ids, 3, 0, &text, &n), SL_ERR_FORMAT);
        else
            assert_int_equal(sl_tokenizer_encode(tok, "ba", 2, 0, &made, &n), SL_ERR_FORMAT);
        assert_non_null(strstr(sl_error_message(), is_decoder ? "decoder" : "normalizer"));
        assert_null(made);
        assert_null(text);
        sl_tokenizer_close(tok);
    }
}

/* ---- folders ---- */

static int make_dir(void **state) {
    char *dir = strdup("/tmp/sl-test-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

static int remove_dir(void **state) {
    static const char *const names[] = {"tokenizer.json",      "vocab.json",
                                        "merges.txt",          "tokenizer_config.json",
                                        "tokenizer.model",     "special_tokens_map.json",
                                        "chat_template.jinja", "added_tokens.json"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", (char *)*state, names[i]);
        unlink(path);
    }
    const int rc = rmdir(*state);
    free(*state);
    return rc;
}

static void write_file(const char *dir, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void folder_without_tokenizer_gives_none(void **state) {
    sl_tokenizer *tok = (sl_tokenizer *)(uintptr_t)0x1;
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    assert_null(tok);
}

static void folder_with_half_a_pair_is_refused(void **state) {
    sl_tokenizer *tok = NULL;
    write_file(*state, "vocab.json", "{\"a\": 0}");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "merges.txt is missing"));
    assert_null(tok);
}

static void folder_with_a_foreign_class_is_refused(void **state) {
    sl_tokenizer *tok = NULL;
    write_file(*state, "vocab.json", "{\"a\": 0}");
    write_file(*state, "merges.txt", "#version: 0.2\n");
    write_file(*state, "tokenizer_config.json", "{\"tokenizer_class\": \"CLIPTokenizer\"}");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_ERR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "CLIPTokenizer"));
}

static void folder_with_sentencepiece_only_is_refused(void **state) {
    sl_tokenizer *tok = NULL;
    write_file(*state, "tokenizer.model", "x");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_ERR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "tokenizer.model"));
}

static void folder_roles_come_from_the_files_around(void **state) {
    sl_tokenizer *tok = NULL;
    write_file(
        *state, "tokenizer.json",
        "{\"added_tokens\": [{\"id\": 3, \"content\": \"<e>\", \"special\": true}, {\"id\": 4, "
        "\"content\": \"<b>\", \"special\": true}], " MODEL MERGES "}");
    write_file(*state, "tokenizer_config.json",
               "{\"eos_token\": {\"content\": \"<e>\"}, \"bos_token\": null, \"chat_template\": "
               "[{\"name\": \"tool\", \"template\": \"T\"}, {\"name\": \"default\", \"template\": "
               "\"D\"}]}");
    write_file(*state, "special_tokens_map.json",
               "{\"bos_token\": \"<b>\", \"eos_token\": \"<b>\"}");
    write_file(*state, "chat_template.jinja", "J");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    assert_int_equal(sl_tokenizer_eos_id(tok), 3); /* tokenizer_config.json comes first */
    assert_int_equal(sl_tokenizer_bos_id(tok), 4);
    assert_string_equal(sl_tokenizer_chat_template(tok), "D");
    assert_int_equal(sl_tokenizer_n_tokens(tok), 5);
    sl_tokenizer_close(tok);
}

static void folder_without_template_takes_the_jinja_file(void **state) {
    sl_tokenizer *tok = NULL;
    write_file(*state, "tokenizer.json", "{" MODEL MERGES "}");
    write_file(*state, "chat_template.jinja", "{{ x }}");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    assert_string_equal(sl_tokenizer_chat_template(tok), "{{ x }}");
    sl_tokenizer_close(tok);
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

/* Letters of GPT-2: U+0120 is a space, U+00C3 U+00A9 the two bytes of U+00E9. */
#define LETTERS                                                                                    \
    "{\"a\": 0, \"\\u0120\": 1, \"\\u0120a\": 2, \"\\u00c3\": 3, \"\\u00a9\": 4, "                 \
    "\"\\u00c3\\u00a9\": 5, "                                                                      \
    "\"<|endoftext|>\": 6}"
#define LETTER_MERGES "#version: 0.2\n\xc4\xa0 a\r\n\xc3\x83 \xc2\xa9\n"

static void pair_of_qwen2_is_normalized(void **state) {
    sl_tokenizer *tok = NULL;
    static const int32_t ids[] = {2, 5, 12, 0};
    write_file(*state, "vocab.json", LETTERS);
    write_file(*state, "merges.txt", LETTER_MERGES);
    write_file(*state, "added_tokens.json", "{\"<x>\": 12}");
    write_file(*state, "tokenizer_config.json",
               "{\"tokenizer_class\": \"Qwen2TokenizerFast\", \"eos_token\": \"<|endoftext|>\"}");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    check_ids(tok, " ae\xcc\x81<x>a", ids, 4);
    assert_int_equal(sl_tokenizer_eos_id(tok), 6);
    assert_true(sl_tokenizer_is_special(tok, 6));
    assert_false(sl_tokenizer_is_special(tok, 12));
    sl_tokenizer_close(tok);
}

static void pair_with_a_prefix_space_puts_it_before_words(void **state) {
    sl_tokenizer *tok = NULL;
    static const int32_t ids[] = {17, 2, 9, 2};
    write_file(*state, "vocab.json", LETTERS);
    write_file(*state, "merges.txt", LETTER_MERGES);
    write_file(*state, "tokenizer_config.json",
               "{\"add_prefix_space\": true, \"add_bos_token\": true, \"bos_token\": {\"content\": "
               "\"<b>\"}, \"added_tokens_decoder\": {\"17\": {\"content\": \"<b>\"}, \"9\": "
               "{\"content\": \"<c>\", \"special\": false, \"rstrip\": true}}}");
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    check_ids(tok, "a<c>   a", ids, 4);
    assert_int_equal(sl_tokenizer_bos_id(tok), 17);
    sl_tokenizer_close(tok);
}

static void pair_without_config_is_gpt2(void **state) {
    sl_tokenizer *tok = NULL;
    static const int32_t ids[] = {0, 2, 6};
    write_file(*state, "vocab.json", LETTERS);
    write_file(*state, "merges.txt", LETTER_MERGES);
    assert_int_equal(sl_tokenizer_open_folder(*state, &tok), SL_OK);
    check_ids(tok, "a a<|endoftext|>", ids, 3);
    assert_int_equal(sl_tokenizer_eos_id(tok), 6);
    assert_true(sl_tokenizer_is_special(tok, 6));
    sl_tokenizer_close(tok);
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_that_is_none_is_refused),
        cmocka_unit_test(json_models_other_than_bpe_are_refused),
        cmocka_unit_test(json_vocabularies_that_contradict_themselves_are_refused),
        cmocka_unit_test(json_added_tokens_without_sane_ids_are_refused),
        cmocka_unit_test(json_unknown_steps_are_refused_by_name),
        cmocka_unit_test(json_with_too_many_steps_is_refused),
        cmocka_unit_test(patterns_with_two_meanings_are_refused),
        cmocka_unit_test(pattern_that_never_ends_is_given_up),
        cmocka_unit_test(steps_that_grow_without_end_are_given_up),
        in_folder(folder_without_tokenizer_gives_none),
        in_folder(folder_with_half_a_pair_is_refused),
        in_folder(folder_with_a_foreign_class_is_refused),
        in_folder(folder_with_sentencepiece_only_is_refused),
        in_folder(folder_roles_come_from_the_files_around),
        in_folder(folder_without_template_takes_the_jinja_file),
        in_folder(pair_of_qwen2_is_normalized),
        in_folder(pair_with_a_prefix_space_puts_it_before_words),
        in_folder(pair_without_config_is_gpt2),
    };
    return cmocka_run_group_tests_name("tokenizer_files", tests, NULL, NULL);
}
