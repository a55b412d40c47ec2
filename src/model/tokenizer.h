/* tokenizer.h - text to token ids and back.
 *
 * Byte-level BPE (GPT-2, OPT, Llama 3, Qwen, SmolLM) and sentencepiece-style BPE with byte fallback
 * (Llama 2, Mistral), read from tokenizer.json, vocab.json + merges.txt, or GGUF metadata.  Gives
 * the ids that HF tokenizers gives. Layer: model.  May include: base.  Thread safety: a tokenizer
 * is immutable after open and may be used by several threads at once; a decoder stream has one
 * owner.
 */
#ifndef SL_MODEL_TOKENIZER_H
#define SL_MODEL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/checkpoint.h"

typedef struct sl_tokenizer sl_tokenizer;

/* Opens the tokenizer of an HF folder (tokenizer.json preferred, else vocab.json + merges.txt; with
 * tokenizer_config.json and special_tokens_map.json where present).
 * *out = NULL with SL_OK when the folder has no tokenizer files at all.
 * Errors: SL_ERR_IO, SL_ERR_FORMAT; unsupported components are refused by name. */
sl_status sl_tokenizer_open_folder(const char *dir, sl_tokenizer **out);

/* Opens the tokenizer in a GGUF file's metadata (tokenizer.ggml.*); *out = NULL if it has none. */
sl_status sl_tokenizer_open_gguf(const sl_checkpoint *gguf, sl_tokenizer **out);

/* Opens from texts in memory: the entry for tests and fuzzing.  `config_json` may be NULL. */
sl_status sl_tokenizer_open_json(const char *tokenizer_json, size_t bytes, const char *config_json,
                                 size_t config_bytes, const char *where, sl_tokenizer **out);

void sl_tokenizer_close(sl_tokenizer *tok);

/* One past the largest id. */
int sl_tokenizer_n_tokens(const sl_tokenizer *tok);
int sl_tokenizer_bos_id(const sl_tokenizer *tok);       /* -1: none */
int sl_tokenizer_eos_id(const sl_tokenizer *tok);       /* -1: none */
const char *sl_tokenizer_kind(const sl_tokenizer *tok); /* "byte-level BPE", "sentencepiece BPE" */

/* Encodes UTF-8 `text` (any bytes; invalid UTF-8 is treated as HF does, U+FFFD) to ids.
 *   add_special  1: add BOS/EOS as the tokenizer's post-processor says
 * Special and added tokens that stand in the text are recognised.
 * *ids_out is malloc'ed, the caller frees it; *n_out may be 0.
 * Errors: SL_ERR_ARG (text above 128 MiB), SL_ERR_FORMAT (the tokenizer's own pattern or normalizer
 * runs away on this text), SL_ERR_NOMEM. */
sl_status sl_tokenizer_encode(const sl_tokenizer *tok, const char *text, size_t bytes,
                              int add_special, int32_t **ids_out, size_t *n_out);

/* Id of an exact token text (added or vocabulary), -1 if there is none. */
int sl_tokenizer_find(const sl_tokenizer *tok, const char *token);
int sl_tokenizer_is_special(const sl_tokenizer *tok, int32_t id);

/* Decodes ids to text.  skip_special 1 leaves out special tokens.  *text_out is malloc'ed and
 * zero-terminated, bytes without the terminator in *bytes_out.  Ids out of range are skipped.
 * Invalid UTF-8 in the result is replaced by U+FFFD, as HF does.
 * Errors: SL_ERR_FORMAT (the tokenizer's own decoder runs away), SL_ERR_NOMEM. */
sl_status sl_tokenizer_decode(const sl_tokenizer *tok, const int32_t *ids, size_t n,
                              int skip_special, char **text_out, size_t *bytes_out);

/* Incremental decoding that never gives out half a UTF-8 character: the concatenation of all pieces
 * given out, the one of flush included, is what sl_tokenizer_decode() gives for all the ids. */
typedef struct sl_detokenizer sl_detokenizer;
sl_status sl_detokenizer_open(const sl_tokenizer *tok, int skip_special, sl_detokenizer **out);
void sl_detokenizer_close(sl_detokenizer *dec);
/* *piece_out is valid until the next call on `dec`; may be "". */
sl_status sl_detokenizer_push(sl_detokenizer *dec, int32_t id, const char **piece_out,
                              size_t *bytes_out);
/* What was held back, with U+FFFD for an incomplete character.  The stream starts anew. */
sl_status sl_detokenizer_flush(sl_detokenizer *dec, const char **piece_out, size_t *bytes_out);

/* The text of one token for display in logprobs: its bytes decoded, "bytes:\\xe4\\xbd" form where
 * they are no whole UTF-8 text (as the completions API does); "token_id:N" when tok is NULL or the
 * id is out of range.  Written to buf, zero-terminated, truncated to fit; returns buf. */
const char *sl_tokenizer_display(const sl_tokenizer *tok, int32_t id, char *buf, size_t buf_bytes);

/* The model's chat template (Jinja text) or NULL; borrowed. */
const char *sl_tokenizer_chat_template(const sl_tokenizer *tok);

#endif
