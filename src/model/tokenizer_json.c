/* tokenizer_json.c - tokenizer.json: vocabulary, merges, added tokens, and what stands around. */
#include <string.h>

#include "model/tokenizer_read.h"

sl_status sl_tokenizer_parse(const char *text, size_t bytes, const char *where, json_t **out) {
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_ALLOW_NUL, &error);
    if (!root)
        return SL_FAIL(json_error_code(&error) == json_error_out_of_memory ? SL_ERR_NOMEM
                                                                           : SL_ERR_FORMAT,
                       "%s: line %d: %s", where, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return SL_FAIL(SL_ERR_FORMAT, "%s: not a JSON object", where);
    }
    *out = root;
    return SL_OK;
}

/* ---- model ---- */

sl_status sl_tokenizer_read_vocab(sl_tokenizer *tok, const json_t *vocab, const char *where) {
    /* jansson's iteration takes a non-const object, and changes nothing. */
    json_t *object = (json_t *)(uintptr_t)vocab;
    if (!json_is_object(object))
        return SL_FAIL(SL_ERR_FORMAT, "%s: the vocabulary is not an object of ids by token", where);
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *text = json_object_iter_key(it);
        const json_t *id = json_object_iter_value(it);
        if (!json_is_integer(id))
            return SL_FAIL(SL_ERR_FORMAT, "%s: the id of token \"%.60s\" is not an integer", where,
                           text);
        SL_TRY(sl_vocab_add(&tok->vocab, text, strlen(text), json_integer_value(id),
                            SL_TOKEN_IN_MODEL, where));
    }
    return SL_OK;
}

sl_status sl_tokenizer_read_merge(sl_tokenizer *tok, const char *text, size_t bytes,
                                  const char *where) {
    const char *space = bytes > 0 ? memchr(text, ' ', bytes) : NULL;
    const size_t left = space ? (size_t)(space - text) : 0;
    if (!space || memchr(space + 1, ' ', bytes - left - 1))
        return SL_FAIL(SL_ERR_FORMAT, "%s: merge %u \"%.*s\" is not two tokens with one space",
                       where, tok->bpe.n_merges, bytes < 60 ? (int)bytes : 60, text);
    return sl_bpe_add_merge(&tok->bpe, &tok->vocab, text, left, space + 1, bytes - left - 1, where);
}

static sl_status read_merges(sl_tokenizer *tok, const json_t *merges, const char *where) {
    if (!json_is_array(merges))
        return SL_FAIL(SL_ERR_FORMAT, "%s: the BPE model has no list of merges", where);
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        if (json_is_string(m)) {
            SL_TRY(
                sl_tokenizer_read_merge(tok, json_string_value(m), json_string_length(m), where));
            continue;
        }
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_array_size(m) != 2 || !json_is_string(left) || !json_is_string(right))
            return SL_FAIL(SL_ERR_FORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]",
                           where, i);
        SL_TRY(sl_bpe_add_merge(&tok->bpe, &tok->vocab, json_string_value(left),
                                json_string_length(left), json_string_value(right),
                                json_string_length(right), where));
    }
    return SL_OK;
}

/* Options of other BPE models, which must be off. */
static sl_status check_absent(const json_t *model, const char *key, const char *where) {
    const json_t *v = json_object_get(model, key);
    if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return SL_OK;
    if (json_is_number(v) && json_number_value(v) == 0.0) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT, "%s: the BPE model's option \"%s\" is not supported", where, key);
}

static sl_status read_model(sl_tokenizer *tok, const json_t *model, const char *where) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model)) return SL_FAIL(SL_ERR_FORMAT, "%s: there is no model", where);
    /* Files of before 2021 name no type. */
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
        return SL_FAIL(SL_ERR_FORMAT, "%s: the model \"%.60s\" is not supported, only BPE", where,
                       type ? type : "(no type)");
    SL_TRY(check_absent(model, "dropout", where));
    SL_TRY(check_absent(model, "continuing_subword_prefix", where));
    SL_TRY(check_absent(model, "end_of_word_suffix", where));
    SL_TRY(sl_tokenizer_bool(model, "fuse_unk", 0, where, &tok->bpe.fuse_unk));
    SL_TRY(sl_tokenizer_bool(model, "byte_fallback", 0, where, &tok->bpe.byte_fallback));
    SL_TRY(sl_tokenizer_bool(model, "ignore_merges", 0, where, &tok->bpe.ignore_merges));
    SL_TRY(sl_tokenizer_read_vocab(tok, json_object_get(model, "vocab"), where));
    SL_TRY(read_merges(tok, json_object_get(model, "merges"), where));

    const json_t *unk = json_object_get(model, "unk_token");
    if (!unk || json_is_null(unk)) return SL_OK;
    if (json_is_string(unk))
        tok->bpe.unk_id =
            sl_vocab_find_model(&tok->vocab, json_string_value(unk), json_string_length(unk));
    if (tok->bpe.unk_id < 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: unk_token \"%.60s\" is not in the vocabulary", where,
                       json_is_string(unk) ? json_string_value(unk) : "?");
    return SL_OK;
}

/* ---- added tokens ---- */

static sl_status read_added(sl_tokenizer *tok, const json_t *list, const char *where) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i);
        const json_t *id = json_object_get(t, "id"), *text = json_object_get(t, "content");
        if (!json_is_integer(id) || !json_is_string(text))
            return SL_FAIL(SL_ERR_FORMAT, "%s: added token %zu has no id or no content", where, i);
        const json_int_t value = json_integer_value(id);
        if (value < 0 || value >= SL_VOCAB_MAX_TOKENS)
            return SL_FAIL(SL_ERR_FORMAT, "%s: added token \"%.60s\" has id %lld, expected 0 to %d",
                           where, json_string_value(text), (long long)value,
                           SL_VOCAB_MAX_TOKENS - 1);
        sl_added_token token = {.id = (int32_t)value,
                                .text = (char *)(uintptr_t)json_string_value(text),
                                .bytes = json_string_length(text)};
        SL_TRY(sl_tokenizer_bool(t, "special", 0, where, &token.special));
        SL_TRY(sl_tokenizer_bool(t, "single_word", 0, where, &token.single_word));
        SL_TRY(sl_tokenizer_bool(t, "lstrip", 0, where, &token.lstrip));
        SL_TRY(sl_tokenizer_bool(t, "rstrip", 0, where, &token.rstrip));
        SL_TRY(sl_tokenizer_bool(t, "normalized", !token.special, where, &token.normalized));
        SL_TRY(sl_tokenizer_add_token(tok, &token, where));
    }
    return SL_OK;
}

/* ---- the whole ---- */

/* Truncation and padding, which the file may hold too, belong to training pipelines. */
static sl_status fill(sl_tokenizer *tok, const json_t *root, const json_t *config,
                      const char *where) {
    /* The pre-tokenizer says whether words are bytes: it comes before the vocabulary's use. */
    SL_TRY(sl_tokenizer_read_normalizer(tok, json_object_get(root, "normalizer"), where));
    SL_TRY(sl_tokenizer_read_splits(tok, json_object_get(root, "pre_tokenizer"), where));
    SL_TRY(sl_tokenizer_read_decoder(tok, json_object_get(root, "decoder"), where));
    SL_TRY(read_model(tok, json_object_get(root, "model"), where));
    SL_TRY(read_added(tok, json_object_get(root, "added_tokens"), where));
    SL_TRY(sl_tokenizer_read_post(tok, json_object_get(root, "post_processor"), where));
    for (size_t i = 0; i < tok->prefix.n + tok->suffix.n; i++) {
        const int32_t id =
            i < tok->prefix.n ? tok->prefix.data[i] : tok->suffix.data[i - tok->prefix.n];
        size_t bytes = 0;
        if (!sl_vocab_text(&tok->vocab, id, &bytes))
            return SL_FAIL(SL_ERR_FORMAT, "%s: the post-processor adds id %d, which is no token",
                           where, id);
    }
    if (config) SL_TRY(sl_tokenizer_read_config(tok, config));
    return sl_tokenizer_finish(tok);
}

sl_status sl_tokenizer_open_json(const char *tokenizer_json, size_t bytes, const char *config_json,
                                 size_t config_bytes, const char *where, sl_tokenizer **out) {
    sl_status st = SL_OK;
    json_t *root = NULL, *config = NULL;
    sl_tokenizer *tok = NULL;
    SL_GO(sl_tokenizer_parse(tokenizer_json, bytes, where, &root));
    if (config_json)
        SL_GO(sl_tokenizer_parse(config_json, config_bytes, "tokenizer_config.json", &config));
    SL_GO(sl_tokenizer_new(&tok));
    SL_GO(fill(tok, root, config, where));
    *out = tok;
    tok = NULL;
fail:
    sl_tokenizer_close(tok);
    json_decref(config);
    json_decref(root);
    return st;
}
