/* Words, added tokens and streams of ids, one property at a time. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/tokenizer_impl.h"

#define GOLDEN SL_TESTS_DIR "/golden/tokenizer/"

static sl_tokenizer *open_family(const char *family) {
    char path[4096];
    sl_tokenizer *tok = NULL;
    snprintf(path, sizeof path, GOLDEN "%s", family);
    if (sl_tokenizer_open_folder(path, &tok) != SL_OK) fail_msg("%s", sl_error_message());
    assert_non_null(tok);
    return tok;
}

static sl_tokenizer *open_text(const char *json) {
    sl_tokenizer *tok = NULL;
    if (sl_tokenizer_open_json(json, strlen(json), NULL, 0, "test", &tok) != SL_OK)
        fail_msg("%s", sl_error_message());
    return tok;
}

/* Ids of a text as "1 2 3". */
static const char *ids_of(const sl_tokenizer *tok, const char *text) {
    static char buf[1024];
    int32_t *ids = NULL;
    size_t n = 0, at = 0;
    assert_int_equal(sl_tokenizer_encode(tok, text, strlen(text), 0, &ids, &n), SL_OK);
    buf[0] = '\0';
    for (size_t i = 0; i < n && at < sizeof buf - 16; i++)
        at += (size_t)snprintf(buf + at, sizeof buf - at, i ? " %d" : "%d", ids[i]);
    free(ids);
    return buf;
}

/* ---- long words ---- */

/* A quadratic merge of a megabyte would take minutes.  CPU time, because other tests may run
 * beside this one.  Sanitizers take ten times as long; clang has no macro for them. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__)
enum { LIMIT_S = 20 };
#else
enum { LIMIT_S = 2 };
#endif

static double cpu_s(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

static void check_megabyte(const char *family, const char *unit) {
    sl_tokenizer *tok = open_family(family);
    const size_t unit_bytes = strlen(unit), bytes = 1000000 / unit_bytes * unit_bytes;
    char *text = malloc(bytes);
    int32_t *ids = NULL;
    size_t n = 0, text_bytes = 0;
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++) text[i] = unit[i % unit_bytes];
    const double start = cpu_s();
    assert_int_equal(sl_tokenizer_encode(tok, text, bytes, 0, &ids, &n), SL_OK);
    assert_true(cpu_s() - start < LIMIT_S);
    char *back = NULL;
    assert_int_equal(sl_tokenizer_decode(tok, ids, n, 0, &back, &text_bytes), SL_OK);
    assert_int_equal(text_bytes, bytes);
    assert_memory_equal(back, text, bytes);
    free(back);
    free(ids);
    free(text);
    sl_tokenizer_close(tok);
}

static void word_of_a_megabyte_takes_below_two_seconds(void **state) {
    (void)state;
    check_megabyte("gpt2", "the");
    check_megabyte("llama3", "abcdefghijklmnopqrstuvwxyz");
    check_megabyte("llama2_legacy", "a");
    check_megabyte("mistral", "the quick brown ");
    check_megabyte("smollm", "\t");
    check_megabyte("tekken", "aB");
}

static void marks_of_a_megabyte_are_ordered_below_two_seconds(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("qwen2");
    const size_t n_marks = 250000;
    char *text = malloc(4 * n_marks + 1);
    int32_t *ids = NULL;
    size_t n = 0, bytes = 0;
    assert_non_null(text);
    text[0] = 'q'; /* joins none of them */
    for (size_t i = 0; i < n_marks; i++) memcpy(text + 1 + 2 * i, "\xcc\x81", 2); /* above, 230 */
    for (size_t i = n_marks; i < 2 * n_marks; i++)
        memcpy(text + 1 + 2 * i, "\xcc\xa3", 2); /* below, 220 */
    const double start = cpu_s();
    assert_int_equal(sl_tokenizer_encode(tok, text, 4 * n_marks + 1, 0, &ids, &n), SL_OK);
    assert_true(cpu_s() - start < LIMIT_S);
    char *back = NULL;
    assert_int_equal(sl_tokenizer_decode(tok, ids, n, 0, &back, &bytes), SL_OK);
    assert_int_equal(bytes, 4 * n_marks + 1);
    assert_memory_equal(back + 1, "\xcc\xa3", 2);
    assert_memory_equal(back + bytes - 2, "\xcc\x81", 2);
    free(back);
    free(ids);
    free(text);
    sl_tokenizer_close(tok);
}

/* The definition: as long as any pair can be merged, the one of the lowest rank, leftmost. */
static size_t merge_by_definition(const sl_vocab *vocab, const char *const (*merges)[2],
                                  size_t n_merges, int32_t *ids, size_t n) {
    for (;;) {
        size_t best_rank = n_merges, best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t rank = 0; rank < best_rank; rank++) {
                if (ids[i] != sl_vocab_find(vocab, merges[rank][0], strlen(merges[rank][0])) ||
                    ids[i + 1] != sl_vocab_find(vocab, merges[rank][1], strlen(merges[rank][1])))
                    continue;
                best_rank = rank;
                best = i;
            }
        }
        if (best_rank == n_merges) return n;
        char both[32];
        snprintf(both, sizeof both, "%s%s", merges[best_rank][0], merges[best_rank][1]);
        ids[best] = sl_vocab_find(vocab, both, strlen(both));
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static void merges_of_any_length_follow_the_definition(void **state) {
    (void)state;
    static const char *const merges[][2] = {{"a", "b"},   {"b", "a"},   {"ab", "a"}, {"a", "a"},
                                            {"aa", "aa"}, {"ab", "ab"}, {"c", "ab"}, {"b", "c"},
                                            {"aba", "b"}, {"bc", "bc"}, {"ba", "ba"}};
    enum { N_MERGES = sizeof merges / sizeof merges[0], MAX = 90 };
    sl_vocab vocab = {0};
    sl_bpe bpe = {.unk_id = -1};
    sl_bpe_scratch scratch = {0};
    sl_rng rng = {.key = 5};
    int64_t id = 0;
    for (const char *c = "abc"; *c; c++)
        assert_int_equal(sl_vocab_add(&vocab, c, 1, id++, SL_TOKEN_IN_MODEL, "t"), SL_OK);
    for (size_t i = 0; i < N_MERGES; i++) {
        char both[32];
        snprintf(both, sizeof both, "%s%s", merges[i][0], merges[i][1]);
        if (sl_vocab_find(&vocab, both, strlen(both)) < 0)
            assert_int_equal(sl_vocab_add(&vocab, both, strlen(both), id++, SL_TOKEN_IN_MODEL, "t"),
                             SL_OK);
        assert_int_equal(sl_bpe_add_merge(&bpe, &vocab, merges[i][0], strlen(merges[i][0]),
                                          merges[i][1], strlen(merges[i][1]), "t"),
                         SL_OK);
    }
    sl_bpe_find_bytes(&bpe, &vocab);
    for (int round = 0; round < 2000; round++) {
        char word[MAX];
        int32_t expected[MAX];
        const size_t bytes = 1 + sl_rng_below(&rng, MAX - 1); /* both sides of the heap's limit */
        for (size_t i = 0; i < bytes; i++) {
            word[i] = "aaabbc"[sl_rng_below(&rng, 6)];
            expected[i] = word[i] - 'a';
        }
        const size_t n = merge_by_definition(&vocab, merges, N_MERGES, expected, bytes);
        sl_ids ids = {0};
        assert_int_equal(sl_bpe_encode(&bpe, &vocab, word, bytes, &scratch, &ids), SL_OK);
        assert_int_equal(ids.n, n);
        assert_memory_equal(ids.data, expected, n * sizeof *expected);
        sl_ids_free(&ids);
    }
    sl_bpe_scratch_free(&scratch);
    sl_bpe_free(&bpe);
    sl_vocab_free(&vocab);
}

/* ---- added tokens ---- */

#define WITH_ADDED(list)                                                                           \
    "{\"added_tokens\": [" list "], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": "  \
    "1, \" \": 2, \"<\": 3, \">\": 4}, \"merges\": []}}"
#define ADDED(id, text, flags) "{\"id\": " #id ", \"content\": \"" text "\"" flags "}"

static void added_token_that_is_longest_wins(void **state) {
    (void)state;
    sl_tokenizer *tok = open_text(
        WITH_ADDED(ADDED(9, "<a", "") ", " ADDED(10, "<a>", "") ", " ADDED(11, "a>", "")));
    assert_string_equal(ids_of(tok, "<a>"), "10");
    assert_string_equal(ids_of(tok, "<ab"), "9 1");
    assert_string_equal(ids_of(tok, "a>a>"), "11 11");
    assert_string_equal(ids_of(tok, "<<a>>"), "3 10 4");
    assert_int_equal(sl_tokenizer_n_tokens(tok), 12);
    assert_int_equal(sl_tokenizer_find(tok, "<a"), 9);
    assert_int_equal(sl_tokenizer_find(tok, "<b"), -1);
    assert_false(sl_tokenizer_is_special(tok, 9));
    assert_false(sl_tokenizer_is_special(tok, -1));
    assert_false(sl_tokenizer_is_special(tok, 1000));
    sl_tokenizer_close(tok);
}

static void added_token_that_is_a_single_word_stands_alone(void **state) {
    (void)state;
    sl_tokenizer *tok =
        open_text(WITH_ADDED(ADDED(9, "ab", ", \"single_word\": true, \"normalized\": false")));
    assert_string_equal(ids_of(tok, "ab"), "9");
    assert_string_equal(ids_of(tok, "<ab>"), "3 9 4");
    assert_string_equal(ids_of(tok, "ab a"), "9 2 0");
    assert_string_equal(ids_of(tok, "aab"), "0 0 1");
    assert_string_equal(ids_of(tok, "abb"), "0 1 1");
    assert_string_equal(ids_of(tok, "ab\xc3\xa9"),
                        "0 1"); /* a letter of two bytes; it is dropped */
    assert_string_equal(ids_of(tok, "ab\xe2\x80\x94"), "9"); /* a dash */
    sl_tokenizer_close(tok);
}

static void added_token_takes_the_space_beside_it(void **state) {
    (void)state;
    sl_tokenizer *tok = open_text(WITH_ADDED(ADDED(9, "<a>", ", \"lstrip\": true") ", " ADDED(
        10, "<b>", ", \"rstrip\": true, \"normalized\": false") ", " ADDED(11, "  b", "")));
    assert_string_equal(ids_of(tok, "a  <a> b"), "0 9 2 1");
    assert_string_equal(ids_of(tok, "a <b>\t\xc2\xa0 b"), "0 2 10 1");
    assert_string_equal(ids_of(tok, "<b> <a>"), "10 9");
    sl_tokenizer_close(tok);
}

static void special_token_goes_before_an_equal_one(void **state) {
    (void)state;
    sl_tokenizer *tok = open_text(WITH_ADDED(ADDED(9, "<a>", ", \"special\": true")));
    assert_true(sl_tokenizer_is_special(tok, 9));
    sl_tokenizer_close(tok);
    /* Its text is in the vocabulary: it has the vocabulary's id, and is found before merging. */
    tok = open_text(WITH_ADDED(ADDED(0, "a", ", \"special\": true")));
    assert_int_equal(sl_tokenizer_n_tokens(tok), 5);
    assert_true(sl_tokenizer_is_special(tok, 0));
    sl_tokenizer_close(tok);
}

/* ---- streams ---- */

static const char *push(sl_detokenizer *dec, int32_t id) {
    const char *piece = NULL;
    size_t bytes = 0;
    assert_int_equal(sl_detokenizer_push(dec, id, &piece, &bytes), SL_OK);
    assert_int_equal(strlen(piece), bytes);
    return piece;
}

static const char *flush(sl_detokenizer *dec) {
    const char *piece = NULL;
    size_t bytes = 0;
    assert_int_equal(sl_detokenizer_flush(dec, &piece, &bytes), SL_OK);
    return piece;
}

static void stream_holds_back_half_a_character(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("gpt2");
    sl_detokenizer *dec = NULL;
    /* The bytes of U+20AC, e2 82 ac, as GPT-2's letters. */
    const int e2 = sl_tokenizer_find(tok, "\xc3\xa2"), b82 = sl_tokenizer_find(tok, "\xc4\xa4"),
              ac = sl_tokenizer_find(tok, "\xc2\xac"), a = sl_tokenizer_find(tok, "a");
    assert_true(e2 >= 0 && b82 >= 0 && ac >= 0 && a >= 0);
    assert_int_equal(sl_detokenizer_open(tok, 1, &dec), SL_OK);
    assert_string_equal(push(dec, e2), "");
    assert_string_equal(push(dec, b82), "");
    assert_string_equal(push(dec, ac), "\xe2\x82\xac");
    assert_string_equal(push(dec, -3), ""); /* no such id */
    assert_string_equal(push(dec, 1 << 30), "");
    assert_string_equal(push(dec, e2), "");
    assert_string_equal(push(dec, a), "\xef\xbf\xbd"
                                      "a"); /* it was none */
    assert_string_equal(push(dec, b82), "\xef\xbf\xbd");
    assert_string_equal(push(dec, e2), "");
    assert_string_equal(flush(dec), "\xef\xbf\xbd");
    assert_string_equal(flush(dec), "");
    assert_string_equal(push(dec, ac), "\xef\xbf\xbd"); /* the flush began anew */
    sl_detokenizer_close(dec);
    sl_tokenizer_close(tok);
}

static void stream_holds_back_a_run_of_byte_tokens(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("llama2_legacy");
    sl_detokenizer *dec = NULL;
    const int e2 = sl_tokenizer_find(tok, "<0xE2>"), b82 = sl_tokenizer_find(tok, "<0x82>"),
              ac = sl_tokenizer_find(tok, "<0xAC>"), a = sl_tokenizer_find(tok, "a"),
              space_a = sl_tokenizer_find(tok, "\xe2\x96\x81"
                                               "a");
    assert_true(e2 >= 0 && b82 >= 0 && ac >= 0 && a >= 0 && space_a >= 0);
    assert_int_equal(sl_detokenizer_open(tok, 1, &dec), SL_OK);
    assert_string_equal(push(dec, space_a), "a"); /* the first space is stripped */
    assert_string_equal(push(dec, space_a), " a");
    assert_string_equal(push(dec, e2), "");
    assert_string_equal(push(dec, b82), "");
    assert_string_equal(push(dec, ac), ""); /* one more byte would make all of it invalid */
    assert_string_equal(push(dec, a), "\xe2\x82\xac"
                                      "a");
    assert_string_equal(push(dec, e2), "");
    assert_string_equal(push(dec, b82), "");
    assert_string_equal(flush(dec), "\xef\xbf\xbd\xef\xbf\xbd"); /* one for each byte */
    assert_string_equal(push(dec, space_a), "a");
    sl_detokenizer_close(dec);
    sl_tokenizer_close(tok);
}

#define DECODER(steps)                                                                             \
    "{\"decoder\": " steps ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"-a-\": 0, \"--\": 1, "  \
    "\"b\": 2, \"<0x41>\": 3}, \"merges\": []}}"

static void check_decoded(const char *json, const int32_t *ids, size_t n, const char *expected) {
    sl_tokenizer *tok = open_text(json);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(sl_tokenizer_decode(tok, ids, n, 0, &text, &bytes), SL_OK);
    assert_string_equal(text, expected);
    free(text);
    sl_tokenizer_close(tok);
}

static void decoder_steps_apply_in_order(void **state) {
    (void)state;
    static const int32_t ids[] = {0, 1, 2, 0};
    const size_t n = sizeof ids / sizeof ids[0];
    check_decoded(DECODER("null"), ids, n, "-a- -- b -a-");
    check_decoded(DECODER("{\"type\": \"Fuse\"}"), ids, n, "-a---b-a-");
    check_decoded(DECODER("{\"type\": \"Strip\", \"content\": \"-\", \"start\": 1, \"stop\": 1}"),
                  ids, n, "aba");
    check_decoded(
        DECODER("{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": "
                "\"Strip\", \"content\": \"-\", \"start\": 2, \"stop\": 1}]}"),
        ids, n, "a---b-a");
    check_decoded(
        DECODER("{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Fuse\"}, {\"type\": "
                "\"Strip\", \"content\": \"-\", \"start\": 0, \"stop\": 3}]}"),
        ids, 2, "-a");
    check_decoded(DECODER("{\"type\": \"Metaspace\", \"replacement\": \"-\", \"prepend_scheme\": "
                          "\"always\"}"),
                  ids, n, "a  b a ");
    check_decoded(DECODER("{\"type\": \"Metaspace\", \"replacement\": \"-\", \"prepend_scheme\": "
                          "\"never\"}"),
                  ids, n, " a   b a ");
    static const int32_t bytes[] = {3, 2, 3};
    check_decoded(DECODER("{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
                          "\"pattern\": {\"String\": \"b\"}, \"content\": \"bb\"}, {\"type\": "
                          "\"ByteFallback\"}]}"),
                  bytes, 3, "AbbA");
}

/* ---- display ---- */

static void display_shows_bytes_that_are_no_text(void **state) {
    (void)state;
    char buf[64], small[5];
    sl_tokenizer *tok = open_family("gpt2");
    assert_string_equal(sl_tokenizer_display(tok, sl_tokenizer_find(tok, "\xc3\xa2"), buf, 64),
                        "bytes:\\xe2");
    assert_string_equal(sl_tokenizer_display(tok, sl_tokenizer_find(tok, "\xc4\xa0the"), buf, 64),
                        " the");
    assert_string_equal(sl_tokenizer_display(tok, 99999, buf, 64), "token_id:99999");
    assert_string_equal(sl_tokenizer_display(NULL, 12, buf, 64), "token_id:12");
    assert_string_equal(
        sl_tokenizer_display(tok, sl_tokenizer_find(tok, "<|endoftext|>"), small, 5), "<|en");
    sl_tokenizer_close(tok);
    tok = open_family("llama2_metaspace");
    assert_string_equal(sl_tokenizer_display(tok, sl_tokenizer_find(tok, "<0xE2>"), buf, 64),
                        "bytes:\\xe2");
    assert_string_equal(sl_tokenizer_display(tok, sl_tokenizer_find(tok, "<0x41>"), buf, 64), "A");
    assert_string_equal(
        sl_tokenizer_display(tok, sl_tokenizer_find(tok, "\xe2\x96\x81the"), buf, 64), " the");
    sl_tokenizer_close(tok);
}

/* ---- threads ---- */

typedef struct {
    const sl_tokenizer *tok;
    int n_bad;
} worker;

static const char *const shared_text =
    "The caf\xc3\xa9's 1234 caf\x65\xcc\x81s <|im_end|> aren't open.";

static void *encode_often(void *arg) {
    worker *w = arg;
    int32_t *first = NULL;
    size_t n_first = 0;
    if (sl_tokenizer_encode(w->tok, shared_text, strlen(shared_text), 1, &first, &n_first) != SL_OK)
        w->n_bad++;
    for (int i = 0; i < 200; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        if (sl_tokenizer_encode(w->tok, shared_text, strlen(shared_text), 1, &ids, &n) != SL_OK ||
            n != n_first || memcmp(ids, first, n * sizeof *ids) != 0)
            w->n_bad++;
        free(ids);
    }
    free(first);
    return NULL;
}

static void threads_share_one_tokenizer(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("qwen2");
    pthread_t threads[3];
    worker workers[3];
    for (int i = 0; i < 3; i++) {
        workers[i] = (worker){tok, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &workers[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(workers[i].n_bad, 0);
    }
    sl_tokenizer_close(tok);
}

static void text_that_is_too_long_is_an_argument_error(void **state) {
    (void)state;
    sl_tokenizer *tok = open_family("gpt2");
    int32_t *ids = NULL;
    size_t n = 0;
    /* The text is not looked at. */
    assert_int_equal(sl_tokenizer_encode(tok, "", (size_t)1 << 40, 0, &ids, &n), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "1099511627776"));
    sl_tokenizer_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(word_of_a_megabyte_takes_below_two_seconds),
        cmocka_unit_test(marks_of_a_megabyte_are_ordered_below_two_seconds),
        cmocka_unit_test(merges_of_any_length_follow_the_definition),
        cmocka_unit_test(added_token_that_is_longest_wins),
        cmocka_unit_test(added_token_that_is_a_single_word_stands_alone),
        cmocka_unit_test(added_token_takes_the_space_beside_it),
        cmocka_unit_test(special_token_goes_before_an_equal_one),
        cmocka_unit_test(stream_holds_back_half_a_character),
        cmocka_unit_test(stream_holds_back_a_run_of_byte_tokens),
        cmocka_unit_test(decoder_steps_apply_in_order),
        cmocka_unit_test(display_shows_bytes_that_are_no_text),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(text_that_is_too_long_is_an_argument_error),
    };
    return cmocka_run_group_tests_name("tokenizer_text", tests, NULL, NULL);
}
