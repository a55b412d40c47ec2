/* tokenizer_folder.c - the tokenizer of an HF folder, from whichever files it has. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/tokenizer_read.h"

enum { MAX_FILE_BYTES = 256 << 20 }; /* tokenizer.json of the largest vocabularies has 35 MB */

/* ---- tokenizer_config.json and special_tokens_map.json ---- */

/* A token is given as its text or as an object with "content". */
static const json_t *token_text(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    const json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(text) ? text : NULL;
}

static void read_role(sl_tokenizer *tok, const json_t *config, const char *key, int32_t *id) {
    const json_t *text = token_text(config, key);
    if (*id < 0 && text)
        *id = sl_vocab_find(&tok->vocab, json_string_value(text), json_string_length(text));
}

/* One template, or a list of named ones of which "default" is taken. */
static const json_t *find_template(const json_t *config) {
    const json_t *v = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *named = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(named, "name"));
        if (name && strcmp(name, "default") == 0) return json_object_get(named, "template");
    }
    return v;
}

sl_status sl_tokenizer_read_config(sl_tokenizer *tok, const json_t *config) {
    read_role(tok, config, "bos_token", &tok->bos_id);
    read_role(tok, config, "eos_token", &tok->eos_id);
    const json_t *text = find_template(config);
    if (tok->chat_template || !json_is_string(text)) return SL_OK;
    size_t bytes = 0;
    return sl_tokenizer_copy_text(json_string_value(text), json_string_length(text),
                                  &tok->chat_template, &bytes);
}

/* ---- vocab.json with merges.txt ---- */

static sl_status read_merges_file(sl_tokenizer *tok, const sl_buffer *file, const char *where) {
    const char *at = (const char *)file->data, *end = at + file->n;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline ? newline : end;
        size_t bytes = (size_t)(stop - at);
        if (bytes > 0 && at[bytes - 1] == '\r') bytes--;
        const int is_version = bytes >= 8 && memcmp(at, "#version", 8) == 0;
        if (bytes > 0 && !is_version) SL_TRY(sl_tokenizer_read_merge(tok, at, bytes, where));
        at = stop + (newline ? 1 : 0);
    }
    return SL_OK;
}

/* Makes a token of the model an added one, or adds it under `id` (-1: behind the vocabulary, as HF
 * does). */
static sl_status add_special(sl_tokenizer *tok, const json_t *text, int32_t id, const json_t *flags,
                             const char *where) {
    if (!json_is_string(text)) return SL_OK;
    sl_added_token token = {.id = id < 0 ? tok->vocab.n_tokens : id,
                            .text = (char *)(uintptr_t)json_string_value(text),
                            .bytes = json_string_length(text)};
    SL_TRY(sl_tokenizer_bool(flags, "special", 1, where, &token.special));
    SL_TRY(sl_tokenizer_bool(flags, "single_word", 0, where, &token.single_word));
    SL_TRY(sl_tokenizer_bool(flags, "lstrip", 0, where, &token.lstrip));
    SL_TRY(sl_tokenizer_bool(flags, "rstrip", 0, where, &token.rstrip));
    SL_TRY(sl_tokenizer_bool(flags, "normalized", 0, where, &token.normalized));
    return sl_tokenizer_add_token(tok, &token, where);
}

/* added_tokens.json: {"text": id}. */
static sl_status add_listed(sl_tokenizer *tok, const json_t *added, const char *where) {
    json_t *object = (json_t *)(uintptr_t)added;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const json_t *id = json_object_iter_value(it);
        const char *text = json_object_iter_key(it);
        const json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= SL_VOCAB_MAX_TOKENS)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: added_tokens.json: the id of \"%.60s\" is no token "
                           "id",
                           where, text);
        const sl_added_token token = {
            .id = (int32_t)value, .text = (char *)(uintptr_t)text, .bytes = strlen(text)};
        SL_TRY(sl_tokenizer_add_token(tok, &token, where));
    }
    return SL_OK;
}

/* "added_tokens_decoder" of tokenizer_config.json: {"50256": {"content": ..., flags}}. */
static sl_status add_decoder_list(sl_tokenizer *tok, const json_t *config, const char *where) {
    json_t *object = (json_t *)(uintptr_t)json_object_get(config, "added_tokens_decoder");
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const json_t *t = json_object_iter_value(it);
        char *end = NULL;
        const long id = strtol(json_object_iter_key(it), &end, 10);
        if (*end != '\0' || id < 0 || id >= SL_VOCAB_MAX_TOKENS)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: added_tokens_decoder has \"%.60s\", which is no token id", where,
                           json_object_iter_key(it));
        SL_TRY(add_special(tok, json_object_get(t, "content"), (int32_t)id, t, where));
    }
    return SL_OK;
}

static sl_status add_roles(sl_tokenizer *tok, const json_t *config, const char *where) {
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const json_t *v = json_object_get(config, roles[i]);
        SL_TRY(add_special(tok, token_text(config, roles[i]), -1, json_is_object(v) ? v : NULL,
                           where));
    }
    const json_t *more = json_object_get(config, "additional_special_tokens");
    for (size_t i = 0; i < json_array_size(more); i++) {
        const json_t *v = json_array_get(more, i);
        const json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
        SL_TRY(add_special(tok, text, -1, json_is_object(v) ? v : NULL, where));
    }
    return SL_OK;
}

/* GPT-2's own files name no special tokens. */
static sl_status add_gpt2_end(sl_tokenizer *tok, const char *where) {
    static const char end[] = "<|endoftext|>";
    const int32_t id = sl_vocab_find(&tok->vocab, end, sizeof end - 1);
    if (tok->n_added > 0 || id < 0) return SL_OK;
    const sl_added_token token = {
        .id = id, .text = (char *)(uintptr_t)end, .bytes = sizeof end - 1, .special = 1};
    tok->bos_id = tok->eos_id = id;
    return sl_tokenizer_add_token(tok, &token, where);
}

static sl_status add_class(sl_tokenizer *tok, const json_t *config, const char *where) {
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    if (!class) class = "GPT2Tokenizer";
    const size_t bytes = strlen(class);
    const int is_fast = bytes > 4 && strcmp(class + bytes - 4, "Fast") == 0;
    const size_t name_bytes = is_fast ? bytes - 4 : bytes;
    int prefix_space = 0;
    SL_TRY(sl_tokenizer_bool(config, "add_prefix_space", 0, where, &prefix_space));
    if (name_bytes == 14 && memcmp(class, "Qwen2Tokenizer", 14) == 0) {
        sl_normalize_step *nfc = NULL;
        SL_TRY(sl_tokenizer_new_normalize(tok, SL_NORMALIZE_NFC, where, &nfc));
        return sl_tokenizer_split_qwen2(tok, where);
    }
    if (name_bytes != 13 || memcmp(class, "GPT2Tokenizer", 13) != 0)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tokenizer_class \"%.60s\" with vocab.json and merges.txt is not "
                       "supported; save the fast tokenizer, which makes tokenizer.json",
                       where, class);
    if (prefix_space) {
        sl_split_step *step = NULL;
        SL_TRY(sl_tokenizer_new_split(tok, SL_PREFIX_SPACE, where, &step));
    }
    return sl_tokenizer_split_gpt2(tok, where);
}

static sl_status fill_pair(sl_tokenizer *tok, const sl_tokenizer_pair *pair) {
    const char *where = pair->dir;
    sl_decode_step *decode = NULL;
    int add_bos = 0;
    tok->bpe.byte_level = 1;
    SL_TRY(add_class(tok, pair->config, where));
    SL_TRY(sl_tokenizer_new_decode(tok, SL_DECODE_BYTE_LEVEL, where, &decode));
    SL_TRY(sl_tokenizer_read_vocab(tok, pair->vocab, where));
    SL_TRY(read_merges_file(tok, pair->merges, where));

    SL_TRY(add_decoder_list(tok, pair->config, where));
    SL_TRY(add_roles(tok, pair->config, where));
    SL_TRY(add_roles(tok, pair->map, where));
    SL_TRY(add_listed(tok, pair->added, where));
    SL_TRY(add_gpt2_end(tok, where));
    SL_TRY(sl_tokenizer_read_config(tok, pair->config));
    SL_TRY(sl_tokenizer_read_config(tok, pair->map));

    SL_TRY(sl_tokenizer_bool(pair->config, "add_bos_token", 0, where, &add_bos));
    if (add_bos && tok->bos_id >= 0) SL_TRY(sl_ids_push(&tok->prefix, tok->bos_id));
    return sl_tokenizer_finish(tok);
}

sl_status sl_tokenizer_read_pair(const sl_tokenizer_pair *pair, sl_tokenizer **out) {
    sl_tokenizer *tok = NULL;
    SL_TRY(sl_tokenizer_new(&tok));
    const sl_status st = fill_pair(tok, pair);
    if (st != SL_OK) {
        sl_tokenizer_close(tok);
        return st;
    }
    *out = tok;
    return SL_OK;
}

/* ---- the folder ---- */

static sl_status file_path(const char *dir, const char *name, char *path, size_t path_bytes) {
    const int n = snprintf(path, path_bytes, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= path_bytes)
        return SL_FAIL(SL_ERR_ARG, "the folder's name is %zu characters long", strlen(dir));
    return SL_OK;
}

/* *found_out = 0 where there is no such file. */
static sl_status read_file(const char *dir, const char *name, int *found_out, sl_buffer *out) {
    char path[4096];
    SL_TRY(file_path(dir, name, path, sizeof path));
    *found_out = 0;
    FILE *f = fopen(path, "rb");
    if (!f && (errno == ENOENT || errno == ENOTDIR)) return SL_OK;
    if (!f) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    sl_status st = SL_OK;
    char chunk[65536];
    size_t got;
    sl_buffer text = {0};
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0 && text.n <= MAX_FILE_BYTES)
        sl_buffer_put(&text, chunk, got);
    if (ferror(f))
        st = SL_FAIL(SL_ERR_IO, "read %s: %s", path, strerror(errno));
    else if (text.n > MAX_FILE_BYTES)
        st = SL_FAIL(SL_ERR_FORMAT, "%s: larger than %d bytes", path, MAX_FILE_BYTES);
    else
        st = sl_buffer_status(&text);
    fclose(f);
    if (st != SL_OK) {
        sl_buffer_free(&text);
        return st;
    }
    *found_out = 1;
    *out = text;
    return SL_OK;
}

/* *out stays NULL where there is no such file. */
static sl_status read_json(const char *dir, const char *name, json_t **out) {
    sl_buffer text = {0};
    int found = 0;
    char path[4096];
    SL_TRY(file_path(dir, name, path, sizeof path));
    SL_TRY(read_file(dir, name, &found, &text));
    if (!found) return SL_OK;
    const sl_status st =
        sl_tokenizer_parse(text.data ? (const char *)text.data : "", text.n, path, out);
    sl_buffer_free(&text);
    return st;
}

static int has_file(const char *dir, const char *name) {
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0;
}

static sl_status open_full(const char *dir, sl_tokenizer **out) {
    sl_status st = SL_OK;
    sl_buffer text = {0}, config = {0};
    int found = 0, has_config = 0;
    char path[4096];
    SL_GO(file_path(dir, "tokenizer.json", path, sizeof path));
    SL_GO(read_file(dir, "tokenizer.json", &found, &text));
    SL_GO(read_file(dir, "tokenizer_config.json", &has_config, &config));
    SL_GO(sl_tokenizer_open_json(text.data ? (const char *)text.data : "", text.n,
                                 has_config ? (const char *)config.data : NULL, config.n, path,
                                 out));
fail:
    sl_buffer_free(&config);
    sl_buffer_free(&text);
    return st;
}

static sl_status open_pair(const char *dir, sl_tokenizer **out) {
    sl_status st = SL_OK;
    sl_buffer merges = {0};
    json_t *vocab = NULL, *config = NULL, *map = NULL, *added = NULL;
    int found = 0;
    SL_GO(read_json(dir, "vocab.json", &vocab));
    SL_GO(read_file(dir, "merges.txt", &found, &merges));
    if (!vocab || !found) {
        st = SL_FAIL(SL_ERR_IO, "%s: %s is there, %s is missing", dir,
                     vocab ? "vocab.json" : "merges.txt", vocab ? "merges.txt" : "vocab.json");
        goto fail;
    }
    SL_GO(read_json(dir, "tokenizer_config.json", &config));
    SL_GO(read_json(dir, "special_tokens_map.json", &map));
    SL_GO(read_json(dir, "added_tokens.json", &added));
    const sl_tokenizer_pair pair = {dir, vocab, &merges, config, map, added};
    SL_GO(sl_tokenizer_read_pair(&pair, out));
fail:
    json_decref(added);
    json_decref(map);
    json_decref(config);
    json_decref(vocab);
    sl_buffer_free(&merges);
    return st;
}

/* What other files of the folder say about a tokenizer that is complete otherwise. */
static sl_status add_from_folder(const char *dir, sl_tokenizer *tok) {
    json_t *map = NULL;
    SL_TRY(read_json(dir, "special_tokens_map.json", &map));
    sl_status st = map ? sl_tokenizer_read_config(tok, map) : SL_OK;
    json_decref(map);
    SL_TRY(st);
    if (tok->chat_template) return SL_OK;
    sl_buffer text = {0};
    int found = 0;
    SL_TRY(read_file(dir, "chat_template.jinja", &found, &text));
    size_t bytes = 0;
    if (found)
        st = sl_tokenizer_copy_text((const char *)text.data, text.n, &tok->chat_template, &bytes);
    sl_buffer_free(&text);
    return st;
}

sl_status sl_tokenizer_open_folder(const char *dir, sl_tokenizer **out) {
    sl_tokenizer *tok = NULL;
    if (has_file(dir, "tokenizer.json"))
        SL_TRY(open_full(dir, &tok));
    else if (has_file(dir, "vocab.json") || has_file(dir, "merges.txt"))
        SL_TRY(open_pair(dir, &tok));
    else if (has_file(dir, "tokenizer.model") || has_file(dir, "spiece.model"))
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: only a sentencepiece file (tokenizer.model); save the fast tokenizer, "
                       "which makes tokenizer.json",
                       dir);
    if (tok) {
        const sl_status st = add_from_folder(dir, tok);
        if (st != SL_OK) {
            sl_tokenizer_close(tok);
            return st;
        }
    }
    *out = tok;
    return SL_OK;
}
