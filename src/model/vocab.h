/* vocab.h - the token texts of a tokenizer, by id and by text.
 *
 * Layer: model.  May include: base.  Thread safety: immutable once filled.
 */
#ifndef SL_MODEL_VOCAB_H
#define SL_MODEL_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"

enum {
    SL_VOCAB_MAX_TOKENS = 1 << 22, /* 16 times the largest vocabulary known */
    SL_TOKEN_PRESENT = 1,
    SL_TOKEN_IN_MODEL = 2, /* the BPE model knows it; else it is an added token only */
    SL_TOKEN_ADDED = 4,    /* looked for in text before the model */
    SL_TOKEN_SPECIAL = 8,
};

typedef struct {
    size_t offset; /* of the text in `texts` */
    uint32_t bytes;
    uint32_t flags; /* SL_TOKEN_*; 0: no token has this id */
} sl_vocab_token;

typedef struct {
    sl_vocab_token *tokens; /* [n_tokens] by id */
    int n_tokens;           /* one past the largest id */
    int cap_tokens;
    sl_buffer texts;
    int32_t *slots; /* [n_slots] ids by hash of the text, -1 empty; open addressing */
    uint32_t n_slots;
    uint32_t n_used;
} sl_vocab;

/* Adds a token.  Errors: SL_ERR_FORMAT when the id is out of range or taken, or the text is there
 * under another id (`where` names the file); SL_ERR_NOMEM. */
sl_status sl_vocab_add(sl_vocab *vocab, const char *text, size_t bytes, int64_t id, uint32_t flags,
                       const char *where);

/* Adds a token that can be printed by its id but that no text finds. */
sl_status sl_vocab_add_hidden(sl_vocab *vocab, const char *text, size_t bytes, int64_t id,
                              const char *where);

/* Id of the token of that text, -1 if there is none. */
int32_t sl_vocab_find(const sl_vocab *vocab, const char *text, size_t bytes);

/* The same among the tokens of the BPE model. */
int32_t sl_vocab_find_model(const sl_vocab *vocab, const char *text, size_t bytes);

/* Text of token `id`, NULL if no token has the id.  Borrowed, not zero-terminated. */
const char *sl_vocab_text(const sl_vocab *vocab, int32_t id, size_t *bytes_out);

void sl_vocab_free(sl_vocab *vocab);

#endif
