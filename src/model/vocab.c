#include "model/vocab.h"

#include <stdlib.h>
#include <string.h>

static uint32_t hash_text(const char *text, size_t bytes) {
    /* FNV-1a over 64 bits, folded: tokens are short, so a byte at a time is no loss. */
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
    return (uint32_t)(h ^ h >> 32);
}

/* Slot of the text, or the empty slot where it belongs. */
static uint32_t find_slot(const sl_vocab *vocab, const char *text, size_t bytes) {
    const uint32_t mask = vocab->n_slots - 1;
    for (uint32_t i = hash_text(text, bytes) & mask;; i = (i + 1) & mask) {
        const int32_t id = vocab->slots[i];
        if (id < 0) return i;
        const sl_vocab_token *t = &vocab->tokens[id];
        if (t->bytes == bytes &&
            (bytes == 0 || memcmp(vocab->texts.data + t->offset, text, bytes) == 0))
            return i;
    }
}

static sl_status grow_slots(sl_vocab *vocab) {
    const uint32_t n = vocab->n_slots ? vocab->n_slots * 2 : 1024;
    int32_t *slots = malloc(n * sizeof *slots);
    if (!slots) return SL_FAIL(SL_ERR_NOMEM, "vocabulary: out of host memory");
    memset(slots, 0xff, n * sizeof *slots);
    int32_t *old = vocab->slots;
    const uint32_t n_old = vocab->n_slots;
    vocab->slots = slots;
    vocab->n_slots = n;
    for (uint32_t i = 0; i < n_old; i++) {
        if (old[i] < 0) continue;
        const sl_vocab_token *t = &vocab->tokens[old[i]];
        slots[find_slot(vocab, (const char *)vocab->texts.data + t->offset, t->bytes)] = old[i];
    }
    free(old);
    return SL_OK;
}

static sl_status grow_tokens(sl_vocab *vocab, int id) {
    if (id < vocab->cap_tokens) return SL_OK;
    int cap = vocab->cap_tokens ? vocab->cap_tokens : 1024;
    while (cap <= id) cap *= 2;
    sl_vocab_token *tokens = realloc(vocab->tokens, (size_t)cap * sizeof *tokens);
    if (!tokens) return SL_FAIL(SL_ERR_NOMEM, "vocabulary: out of host memory");
    memset(tokens + vocab->cap_tokens, 0, (size_t)(cap - vocab->cap_tokens) * sizeof *tokens);
    vocab->tokens = tokens;
    vocab->cap_tokens = cap;
    return SL_OK;
}

/* Texts in messages are cut: a hostile file may hold one of megabytes. */
static int shown(size_t bytes) {
    return bytes < 60 ? (int)bytes : 60;
}

static sl_status put_token(sl_vocab *vocab, const char *text, size_t bytes, int64_t id,
                           uint32_t flags, const char *where) {
    if (id < 0 || id >= SL_VOCAB_MAX_TOKENS)
        return SL_FAIL(SL_ERR_FORMAT, "%s: token \"%.*s\" has id %lld, expected 0 to %d", where,
                       shown(bytes), text, (long long)id, SL_VOCAB_MAX_TOKENS - 1);
    if (bytes > UINT32_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: token %lld is %zu bytes long", where, (long long)id,
                       bytes);
    if (id < vocab->n_tokens && vocab->tokens[id].flags)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tokens \"%.*s\" and \"%.*s\" have the same id %lld",
                       where, shown(vocab->tokens[id].bytes),
                       (const char *)vocab->texts.data + vocab->tokens[id].offset, shown(bytes),
                       text, (long long)id);
    SL_TRY(grow_tokens(vocab, (int)id));
    const size_t offset = vocab->texts.n;
    sl_buffer_put(&vocab->texts, text, bytes);
    SL_TRY(sl_buffer_status(&vocab->texts));
    vocab->tokens[id] = (sl_vocab_token){offset, (uint32_t)bytes, flags | SL_TOKEN_PRESENT};
    if (id >= vocab->n_tokens) vocab->n_tokens = (int)id + 1;
    return SL_OK;
}

sl_status sl_vocab_add(sl_vocab *vocab, const char *text, size_t bytes, int64_t id, uint32_t flags,
                       const char *where) {
    const int32_t old = sl_vocab_find(vocab, text, bytes);
    if (old >= 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: token \"%.*s\" has the ids %d and %lld", where,
                       shown(bytes), text, old, (long long)id);
    /* At most half full, so that a search for a missing text stays short. */
    if (vocab->n_used >= vocab->n_slots / 2) SL_TRY(grow_slots(vocab));
    SL_TRY(put_token(vocab, text, bytes, id, flags, where));
    vocab->slots[find_slot(vocab, text, bytes)] = (int32_t)id;
    vocab->n_used++;
    return SL_OK;
}

sl_status sl_vocab_add_hidden(sl_vocab *vocab, const char *text, size_t bytes, int64_t id,
                              const char *where) {
    return put_token(vocab, text, bytes, id, 0, where);
}

int32_t sl_vocab_find(const sl_vocab *vocab, const char *text, size_t bytes) {
    return vocab->n_slots ? vocab->slots[find_slot(vocab, text, bytes)] : -1;
}

int32_t sl_vocab_find_model(const sl_vocab *vocab, const char *text, size_t bytes) {
    const int32_t id = sl_vocab_find(vocab, text, bytes);
    return id >= 0 && vocab->tokens[id].flags & SL_TOKEN_IN_MODEL ? id : -1;
}

const char *sl_vocab_text(const sl_vocab *vocab, int32_t id, size_t *bytes_out) {
    if (id < 0 || id >= vocab->n_tokens || !vocab->tokens[id].flags) return NULL;
    *bytes_out = vocab->tokens[id].bytes;
    /* An empty text may be the only one, with no buffer behind it. */
    return vocab->texts.data ? (const char *)vocab->texts.data + vocab->tokens[id].offset : "";
}

void sl_vocab_free(sl_vocab *vocab) {
    free(vocab->tokens);
    free(vocab->slots);
    sl_buffer_free(&vocab->texts);
    *vocab = (sl_vocab){0};
}
