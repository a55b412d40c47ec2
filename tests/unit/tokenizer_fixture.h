/* tokenizer_fixture.h - the golden corpus and its expected ids and texts (tests/golden/tokenizer).
 */
#ifndef SL_TESTS_TOKENIZER_FIXTURE_H
#define SL_TESTS_TOKENIZER_FIXTURE_H

#include <inttypes.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

#define GOLDEN SL_TESTS_DIR "/golden/tokenizer/"

typedef struct {
    char *text; /* bytes, not always UTF-8 */
    size_t bytes;
} corpus_line;

typedef struct {
    corpus_line *lines;
    size_t n;
} corpus;

static void corpus_push(corpus *c, const char *text, size_t bytes) {
    if ((c->n & (c->n - 1)) == 0) {
        c->lines = realloc(c->lines, (c->n ? 2 * c->n : 1) * sizeof *c->lines);
        assert_non_null(c->lines);
    }
    char *copy = malloc(bytes + 1);
    assert_non_null(copy);
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    c->lines[c->n++] = (corpus_line){copy, bytes};
}

static FILE *open_golden(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, GOLDEN "%s", name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    return f;
}

/* corpus.jsonl, then bytes.hex. */
static corpus load_corpus(void) {
    corpus c = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    FILE *f = open_golden("corpus.jsonl");
    while ((n = getline(&line, &cap, f)) > 0) {
        json_t *text = json_loadb(line, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_true(json_is_string(text));
        corpus_push(&c, json_string_value(text), json_string_length(text));
        json_decref(text);
    }
    fclose(f);
    f = open_golden("bytes.hex");
    while ((n = getline(&line, &cap, f)) > 1) {
        size_t bytes = 0;
        for (char *p = line; p + 1 < line + n; p += 2) {
            unsigned value = 0;
            assert_int_equal(sscanf(p, "%2x", &value), 1);
            line[bytes++] = (char)value;
        }
        corpus_push(&c, line, bytes);
    }
    fclose(f);
    free(line);
    assert_true(c.n > 2000);
    return c;
}

static void free_corpus(corpus *c) {
    for (size_t i = 0; i < c->n; i++) free(c->lines[i].text);
    free(c->lines);
}

/* FNV-1a, 64 bit; the golden files have the low 32 bits. */
#define HASH_LIMIT (UINT64_C(1) << 32)
static uint64_t fnv(uint64_t h, const void *data, size_t bytes) {
    const unsigned char *p = data;
    if (!h) h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

static uint64_t fnv_ids(uint64_t h, const int32_t *ids, size_t n) {
    if (!h) h = fnv(0, "", 0);
    for (size_t i = 0; i < n; i++) {
        const uint32_t id = (uint32_t)ids[i];
        const unsigned char b[4] = {id & 255, id >> 8 & 255, id >> 16 & 255, id >> 24};
        h = fnv(h, b, 4);
    }
    return h;
}

static void show_ids(const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n && i < 60; i++) printf(" %d", ids[i]);
    printf("\n");
}

/* What the detokenizer gives out for the ids, piece by piece, is whole characters and in sum the
 * decoded text. */
static void check_stream(const sl_tokenizer *tok, const int32_t *ids, size_t n, int skip_special,
                         const char *text, size_t bytes) {
    sl_detokenizer *dec = NULL;
    size_t at = 0;
    assert_int_equal(sl_detokenizer_open(tok, skip_special, &dec), SL_OK);
    for (size_t i = 0; i <= n; i++) {
        const char *piece = NULL;
        size_t piece_bytes = 0;
        if (i < n)
            assert_int_equal(sl_detokenizer_push(dec, ids[i], &piece, &piece_bytes), SL_OK);
        else
            assert_int_equal(sl_detokenizer_flush(dec, &piece, &piece_bytes), SL_OK);
        assert_true(at + piece_bytes <= bytes);
        assert_memory_equal(piece, text + at, piece_bytes);
        at += piece_bytes;
        /* A piece ends where a character ends. */
        assert_true(at == bytes || ((unsigned char)text[at] & 0xc0) != 0x80);
    }
    assert_int_equal(at, bytes);
    sl_detokenizer_close(dec);
}

/* Hash of the words that BPE gets when no added token is in the text. */
static uint64_t hash_words(const sl_tokenizer *tok, const corpus_line *line) {
    sl_encode_scratch s = {0};
    sl_utf8_put_lossy(&s.clean, line->text, line->bytes);
    assert_int_equal(sl_normalize(tok->normalize, tok->n_normalize, (const char *)s.clean.data,
                                  s.clean.n, &s.normal, &s.spare),
                     SL_OK);
    uint64_t h = fnv(0, "", 0);
    if (s.normal.n > 0) {
        assert_int_equal(sl_pretokenize(tok->split, tok->n_split, (const char *)s.normal.data,
                                        s.normal.n, 1, &s),
                         SL_OK);
        for (size_t i = 0; i < s.pieces[s.side].n; i++) {
            const sl_piece p = s.pieces[s.side].data[i];
            h = fnv(h, s.text[s.side].data + p.offset, p.bytes);
            h = fnv(h, "\xff", 1);
        }
    }
    sl_encode_scratch_free(&s);
    return h;
}

/* Encodes and decodes one line; 0 where it differs from the expected line "n hash hash hash". */
static int line_is_as_expected(const sl_tokenizer *tok, const corpus_line *line,
                               const char *expected) {
    size_t n_expected = 0, n = 0, n_full = 0, whole_bytes = 0, bare_bytes = 0;
    uint64_t ids_hash = 0, text_hash = 0, words_hash = 0;
    int32_t *ids = NULL, *full = NULL;
    char *whole = NULL, *bare = NULL;
    assert_int_equal(sscanf(expected, "%zu %" SCNx64 " %" SCNx64 " %" SCNx64, &n_expected,
                            &ids_hash, &text_hash, &words_hash),
                     4);
    assert_int_equal(sl_tokenizer_encode(tok, line->text, line->bytes, 0, &ids, &n), SL_OK);
    assert_int_equal(sl_tokenizer_encode(tok, line->text, line->bytes, 1, &full, &n_full), SL_OK);
    assert_int_equal(sl_tokenizer_decode(tok, full, n_full, 0, &whole, &whole_bytes), SL_OK);
    assert_int_equal(sl_tokenizer_decode(tok, full, n_full, 1, &bare, &bare_bytes), SL_OK);

    const uint64_t hash = fnv_ids(fnv_ids(0, ids, n), full, n_full);
    const int ids_equal = n == n_expected && hash % HASH_LIMIT == ids_hash;
    const int text_equal =
        fnv(fnv(0, whole, whole_bytes), bare, bare_bytes) % HASH_LIMIT == text_hash;
    const int words_equal = hash_words(tok, line) % HASH_LIMIT == words_hash;
    if (!words_equal) printf("split differently: \"%.200s\"\n", line->text);
    if (!ids_equal) {
        printf("ids differ (%zu, expected %zu) of \"%.200s\":", n, n_expected, line->text);
        show_ids(ids, n);
    }
    if (ids_equal && !text_equal) printf("decoded text differs: \"%.200s\"\n", whole);
    check_stream(tok, full, n_full, 0, whole, whole_bytes);
    check_stream(tok, full, n_full, 1, bare, bare_bytes);
    free(ids);
    free(full);
    free(whole);
    free(bare);
    return ids_equal && text_equal && words_equal;
}

/* Runs the whole corpus through a tokenizer and compares with FAMILY/expected.txt. */
static void check_family(const sl_tokenizer *tok, const char *family) {
    corpus c = load_corpus();
    char name[256], *line = NULL;
    size_t cap = 0, n_bad = 0, i = 0;
    snprintf(name, sizeof name, "%s/expected.txt", family);
    FILE *f = open_golden(name);
    for (; i < c.n && getline(&line, &cap, f) > 0; i++) {
        if (line_is_as_expected(tok, &c.lines[i], line)) continue;
        printf("%s: line %zu differs\n", family, i + 1);
        if (++n_bad == 10) break;
    }
    const int complete = n_bad > 0 || (i == c.n && getline(&line, &cap, f) < 0);
    fclose(f);
    free(line);
    free_corpus(&c);
    assert_int_equal(n_bad, 0);
    assert_true(complete); /* as many expected lines as lines */
}

#endif
