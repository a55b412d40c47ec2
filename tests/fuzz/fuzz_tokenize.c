/* fuzz_tokenize.c - any text through four fixed tokenizers, whole and in a stream.
 *
 * Input: one byte that picks the tokenizer, then the text.  Must hold: ids are in range, the pieces
 * of the stream are whole characters and make up the decoded text, and byte-level tokenizers give
 * valid text back as it was.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_TOKENIZERS = 4 };
static sl_tokenizer *tokenizers[N_TOKENIZERS];

static void put(sl_buffer *b, const char *text) {
    sl_buffer_put(b, text, strlen(text));
}

/* Sections before the model. */
static const char *const heads[N_TOKENIZERS] = {
    /* GPT-2's pattern and digits one by one. */
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
    "\"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false}]}, "
    "\"decoder\": {\"type\": \"ByteLevel\"}, ",
    /* Form C, and a pattern with every construct of the families. */
    "\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
    "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
    "\"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
    "\"use_regex\": false}]}, \"decoder\": {\"type\": \"ByteLevel\"}, ",
    /* Llama 2, legacy form. */
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", "
    "\"prepend\": \"_\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
    "\"_\"}]}, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
    "\"pattern\": {\"String\": \"_\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, "
    "{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": "
    "2}]}, ",
    /* Metaspace that splits, and separators that join their neighbours. */
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Metaspace\", "
    "\"replacement\": \"_\", \"prepend_scheme\": \"first\"}, {\"type\": \"Punctuation\", "
    "\"behavior\": \"Contiguous\"}, {\"type\": \"Split\", \"pattern\": {\"String\": \"e\"}, "
    "\"behavior\": \"MergedWithPrevious\"}]}, \"decoder\": {\"type\": \"Metaspace\", "
    "\"replacement\": \"_\", \"prepend_scheme\": \"first\"}, "};

static const char added[] =
    "\"added_tokens\": [{\"id\": 900, \"content\": \"<s>\", \"special\": true}, {\"id\": 901, "
    "\"content\": \"<s><s>\", \"lstrip\": true, \"normalized\": false}, {\"id\": 902, \"content\": "
    "\"ab\", \"single_word\": true, \"normalized\": true}, {\"id\": 903, \"content\": "
    "\"\\u00e9t\", "
    "\"rstrip\": true, \"normalized\": true}], ";

/* Pairs of a few letters, twice over: enough for words of several levels of merges. */
static void put_merges(sl_buffer *vocab, sl_buffer *merges, int next_id) {
    static const char *const parts[] = {"a", "b", "c", "t", "h", "e", "ab", "th", "ee", "aa"};
    enum { N = sizeof parts / sizeof parts[0] };
    char seen[N * N][8] = {""}, text[64];
    int n_seen = 0;
    for (int i = 0; i < N * N; i++) {
        const char *left = parts[i * 7 % N], *right = parts[i * 7 / N % N];
        char both[8];
        snprintf(both, sizeof both, "%s%s", left, right);
        int known = 0;
        for (int k = 0; k < n_seen; k++) known |= strcmp(seen[k], both) == 0;
        if (!known) {
            memcpy(seen[n_seen++], both, sizeof both);
            snprintf(text, sizeof text, ", \"%s\": %d", both, next_id++);
            put(vocab, text);
        }
        snprintf(text, sizeof text, "%s[\"%s\", \"%s\"]", i ? ", " : "", left, right);
        put(merges, text);
    }
}

static sl_tokenizer *make(int which) {
    sl_buffer json = {0}, merges = {0};
    const int byte_level = which < 2;
    char text[64], letter[8];
    put(&json, "{");
    put(&json, heads[which]);
    put(&json, added);
    put(&json, "\"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", ");
    if (!byte_level) put(&json, "\"byte_fallback\": true, \"fuse_unk\": true, ");
    put(&json, "\"vocab\": {\"_\": 256");
    for (int b = 0; b < 256; b++) {
        letter[sl_utf8_write(sl_bpe_letter_of_byte((unsigned char)b), letter)] = '\0';
        if (!byte_level && which == 2)
            snprintf(text, sizeof text, ", \"<0x%02X>\": %d", (unsigned)b, b);
        else if (byte_level && b != '_')
            snprintf(text, sizeof text, b == '"' || b == '\\' ? ", \"\\%s\": %d" : ", \"%s\": %d",
                     letter, b);
        else
            text[0] = '\0';
        put(&json, text);
    }
    if (!byte_level)
        put(&json, ", \"a\": 260, \"b\": 261, \"c\": 262, \"t\": 263, \"h\": 264, "
                   "\"e\": 265, \"?\": 266");
    put_merges(&json, &merges, 300);
    put(&json, "}, \"merges\": [");
    sl_buffer_put(&json, merges.data, merges.n);
    put(&json, "]}}");
    sl_tokenizer *tok = NULL;
    if (sl_tokenizer_open_json((const char *)json.data, json.n, NULL, 0, "fixed", &tok) != SL_OK) {
        fprintf(stderr, "%s\n%.*s\n", sl_error_message(), (int)json.n, (const char *)json.data);
        abort();
    }
    sl_buffer_free(&json);
    sl_buffer_free(&merges);
    return tok;
}

static void check_stream(const sl_tokenizer *tok, const int32_t *ids, size_t n, int skip,
                         const char *text, size_t bytes) {
    sl_detokenizer *dec = NULL;
    size_t at = 0;
    if (sl_detokenizer_open(tok, skip, &dec) != SL_OK) return;
    for (size_t i = 0; i <= n; i++) {
        const char *piece = NULL;
        size_t piece_bytes = 0;
        const sl_status st = i < n ? sl_detokenizer_push(dec, ids[i], &piece, &piece_bytes)
                                   : sl_detokenizer_flush(dec, &piece, &piece_bytes);
        if (st != SL_OK) abort();
        if (piece_bytes > bytes - at || memcmp(piece, text + at, piece_bytes) != 0) abort();
        if (sl_utf8_valid_prefix(piece, piece_bytes) != piece_bytes) abort();
        at += piece_bytes;
    }
    if (at != bytes) abort();
    sl_detokenizer_close(dec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const int which = data[0] % N_TOKENIZERS;
    if (!tokenizers[which]) tokenizers[which] = make(which);
    const sl_tokenizer *tok = tokenizers[which];
    const char *text = (const char *)data + 1;
    const size_t bytes = size - 1;
    int32_t *ids = NULL;
    size_t n = 0;
    if (sl_tokenizer_encode(tok, text, bytes, 1, &ids, &n) != SL_OK) abort();
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= sl_tokenizer_n_tokens(tok)) abort();
    for (int skip = 0; skip < 2; skip++) {
        char *back = NULL;
        size_t back_bytes = 0;
        if (sl_tokenizer_decode(tok, ids, n, skip, &back, &back_bytes) != SL_OK) abort();
        check_stream(tok, ids, n, skip, back, back_bytes);
        /* Added tokens take white space with them, so they are left out of this. */
        const int is_plain =
            which == 0 && !memmem(text, bytes, "<s>", 3) && !memmem(text, bytes, "\xc3\xa9t", 3);
        if (is_plain && sl_utf8_valid_prefix(text, bytes) == bytes &&
            (back_bytes != bytes || memcmp(back, text, bytes) != 0))
            abort();
        free(back);
    }
    free(ids);
    return 0;
}
