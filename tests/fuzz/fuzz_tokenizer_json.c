/* fuzz_tokenizer_json.c - a tokenizer.json of any bytes, and a text through what it makes.
 *
 * Input: the JSON text, a zero byte, a text.  Without the zero byte a fixed text is used.  JSON
 * with a member "merges.txt" (a string) is read as vocab.json, tokenizer_config.json and
 * added_tokens.json of an older folder instead, each a member of that name.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const sl_tokenizer *tok, const char *text, size_t bytes) {
    int32_t *ids = NULL;
    size_t n = 0, back_bytes = 0;
    if (sl_tokenizer_encode(tok, text, bytes, 1, &ids, &n) != SL_OK) return;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= sl_tokenizer_n_tokens(tok)) abort();
    for (int skip = 0; skip < 2; skip++) {
        char *back = NULL;
        if (sl_tokenizer_decode(tok, ids, n, skip, &back, &back_bytes) == SL_OK) free(back);
    }
    char shown[24];
    for (size_t i = 0; i < n && i < 8; i++) {
        (void)sl_tokenizer_display(tok, ids[i], shown, sizeof shown);
        if (strlen(shown) >= sizeof shown) abort();
    }
    free(ids);
}

/* 1 if the JSON is that of an older folder. */
static int use_pair(const char *json, size_t bytes, const char *text, size_t text_bytes) {
    json_t *root = NULL;
    sl_tokenizer *tok = NULL;
    if (sl_tokenizer_parse(json, bytes, "fuzz", &root) != SL_OK) return 0;
    const json_t *list = json_object_get(root, "merges.txt");
    const int is_pair = json_is_string(list);
    if (is_pair) {
        sl_buffer merges = {0};
        sl_buffer_put(&merges, json_string_value(list), json_string_length(list));
        const sl_tokenizer_pair pair = {"fuzz",
                                        json_object_get(root, "vocab.json"),
                                        &merges,
                                        json_object_get(root, "tokenizer_config.json"),
                                        json_object_get(root, "special_tokens_map.json"),
                                        json_object_get(root, "added_tokens.json")};
        if (sl_tokenizer_read_pair(&pair, &tok) == SL_OK) round_trip(tok, text, text_bytes);
        sl_tokenizer_close(tok);
        sl_buffer_free(&merges);
    }
    json_decref(root);
    return is_pair;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char sample[] =
        "Don't  stop\n\t123 caf\xc3\xa9 e\xcc\x81 \xe2\x96\x81<s> \xf0\x9f\x98\x80 \xff";
    const char *json = (const char *)data, *text = sample;
    size_t json_bytes = size, text_bytes = sizeof sample - 1;
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    if (zero) {
        json_bytes = (size_t)(zero - data);
        text = (const char *)zero + 1;
        text_bytes = size - json_bytes - 1;
        if (text_bytes > 512) text_bytes = 512; /* long ones belong to fuzz_tokenize */
    }
    if (use_pair(json, json_bytes, text, text_bytes)) return 0;
    sl_tokenizer *tok = NULL;
    /* The same bytes are read as tokenizer_config.json too. */
    if (sl_tokenizer_open_json(json, json_bytes, json_bytes % 2 ? NULL : json, json_bytes, "fuzz",
                               &tok) != SL_OK)
        return 0;
    round_trip(tok, text, text_bytes);
    sl_tokenizer_close(tok);
    return 0;
}
