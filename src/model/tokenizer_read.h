/* tokenizer_read.h - the readers of tokenizer files, which share jansson values.
 *
 * Layer: model.  May include: base.  Thread safety: a tokenizer being filled has one owner.
 */
#ifndef SL_MODEL_TOKENIZER_READ_H
#define SL_MODEL_TOKENIZER_READ_H

#include <jansson.h>

#include "model/tokenizer_impl.h"

/* A parsed JSON text.  Errors: SL_ERR_FORMAT with `where` and the place. */
sl_status sl_tokenizer_parse(const char *text, size_t bytes, const char *where, json_t **out);

/* Member `key` of an object: *out stays `preset` where it is missing or null.
 * Errors: SL_ERR_FORMAT naming where, key and the kind that was expected. */
sl_status sl_tokenizer_bool(const json_t *object, const char *key, int preset, const char *where,
                            int *out);

/* The text of {"String": "..."}; other patterns are refused. */
sl_status sl_tokenizer_string_pattern(const json_t *pattern, const char *what, const char *where,
                                      char **out, size_t *bytes_out);

/* The sections of tokenizer.json (tokenizer_steps.c); a null section adds nothing. */
sl_status sl_tokenizer_read_normalizer(sl_tokenizer *tok, const json_t *section, const char *where);
sl_status sl_tokenizer_read_splits(sl_tokenizer *tok, const json_t *section, const char *where);
sl_status sl_tokenizer_read_post(sl_tokenizer *tok, const json_t *section, const char *where);
sl_status sl_tokenizer_read_decoder(sl_tokenizer *tok, const json_t *section, const char *where);

/* A vocabulary object (text -> id), and one merge given as "a b". */
sl_status sl_tokenizer_read_vocab(sl_tokenizer *tok, const json_t *vocab, const char *where);
sl_status sl_tokenizer_read_merge(sl_tokenizer *tok, const char *text, size_t bytes,
                                  const char *where);

/* Takes bos and eos id and the chat template from tokenizer_config.json or special_tokens_map.json;
 * what is known already stays. */
sl_status sl_tokenizer_read_config(sl_tokenizer *tok, const json_t *config);

/* The rest of what a folder without tokenizer.json has; texts may be NULL. */
typedef struct {
    const char *dir;         /* for messages */
    const json_t *vocab;     /* vocab.json */
    const sl_buffer *merges; /* merges.txt */
    const json_t *config;    /* tokenizer_config.json, or NULL */
    const json_t *map;       /* special_tokens_map.json, or NULL */
    const json_t *added;     /* added_tokens.json, or NULL */
} sl_tokenizer_pair;

/* Byte-level BPE from vocab.json and merges.txt; the class in tokenizer_config.json decides how
 * text is split and whether BOS is added. */
sl_status sl_tokenizer_read_pair(const sl_tokenizer_pair *pair, sl_tokenizer **out);

#endif
