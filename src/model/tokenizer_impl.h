/* tokenizer_impl.h - the parts of a tokenizer, for the files that fill and run it.
 *
 * Text goes through: added tokens with normalized=false cut out, normalizer, added tokens with
 * normalized=true cut out, pre-tokenizer, BPE.  Ids come back through the decoder's steps.
 * Layer: model.  May include: base.  Thread safety: immutable once filled.
 */
#ifndef SL_MODEL_TOKENIZER_IMPL_H
#define SL_MODEL_TOKENIZER_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/status.h"
#include "model/bpe.h"
#include "model/pattern.h"
#include "model/tokenizer.h"
#include "model/vocab.h"

enum { SL_TOKENIZER_MAX_STEPS = 16 };

/* ---- normalizer (normalize.c) ---- */

typedef enum { SL_NORMALIZE_NFC, SL_NORMALIZE_PREPEND, SL_NORMALIZE_REPLACE } sl_normalize_kind;

typedef struct {
    sl_normalize_kind kind;
    char *from; /* REPLACE: what is looked for; owned */
    size_t from_bytes;
    char *to; /* PREPEND, REPLACE; owned */
    size_t to_bytes;
} sl_normalize_step;

/* Puts the normal form of text[0, bytes), valid UTF-8, to the empty *out; *spare is overwritten. */
sl_status sl_normalize(const sl_normalize_step *steps, int n_steps, const char *text, size_t bytes,
                       sl_buffer *out, sl_buffer *spare);

/* ---- pre-tokenizer (pretokenize.c) ---- */

typedef enum {
    SL_SPLIT_PATTERN,     /* at matches of a pattern */
    SL_SPLIT_STRING,      /* at a text */
    SL_SPLIT_DIGITS,      /* at numeric characters */
    SL_SPLIT_PUNCTUATION, /* at punctuation characters */
    SL_PREFIX_SPACE,      /* ByteLevel's add_prefix_space */
    SL_METASPACE
} sl_split_kind;

/* What becomes of the separators. */
typedef enum {
    SL_SEPARATOR_REMOVED,
    SL_SEPARATOR_ISOLATED,
    SL_SEPARATOR_WITH_PREVIOUS,
    SL_SEPARATOR_WITH_NEXT,
    SL_SEPARATOR_CONTIGUOUS
} sl_separator;

typedef enum { SL_PREPEND_NEVER, SL_PREPEND_FIRST, SL_PREPEND_ALWAYS } sl_prepend;

typedef struct {
    sl_split_kind kind;
    sl_separator separator;
    int invert;          /* PATTERN, STRING: the text between matches is the separator */
    sl_pattern *pattern; /* PATTERN; owned */
    char *text;          /* STRING, METASPACE's replacement; owned */
    size_t text_bytes;
    sl_prepend prepend; /* METASPACE */
    int split;          /* METASPACE: also split at the replacement */
} sl_split_step;

typedef struct {
    size_t offset, bytes; /* in the text that was split */
} sl_piece;

typedef struct {
    sl_piece *data;
    size_t n, cap;
} sl_pieces;

/* Working memory of one sl_tokenizer_encode(). */
typedef struct {
    sl_pattern_match *match;
    sl_buffer clean, normal, spare;
    sl_buffer text[2];
    sl_pieces pieces[2];
    int side; /* of text[] and pieces[]: where the words are */
    sl_bpe_scratch bpe;
} sl_encode_scratch;

/* Splits text[0, bytes) into the words that BPE takes: pieces of scratch->text, on scratch->side.
 * `at_start` is 1 when the text stands at the start of the whole input. */
sl_status sl_pretokenize(const sl_split_step *steps, int n_steps, const char *text, size_t bytes,
                         int at_start, sl_encode_scratch *scratch);

void sl_encode_scratch_free(sl_encode_scratch *scratch);

/* ---- added tokens (added_tokens.c) ---- */

typedef struct {
    int32_t id;
    char *text; /* owned */
    size_t bytes;
    int single_word; /* 1: only between non-word characters */
    int lstrip;      /* 1: takes white space before it */
    int rstrip;      /* 1: takes white space after it */
    int normalized;  /* 1: looked for in normalized text */
    int special;
} sl_added_token;

typedef struct {
    char *text; /* as it is looked for; owned */
    size_t bytes;
    const sl_added_token *token;
} sl_added_key;

/* Keys sorted by text, so that a search narrows a range byte by byte. */
typedef struct {
    sl_added_key *keys; /* [n] */
    int n;
    int first[257]; /* keys that start with byte b: [first[b], first[b+1]) */
} sl_added_set;

/* Makes the set of the tokens whose `normalized` is as asked for; their texts go through the
 * normalizer when it is 1. */
sl_status sl_added_set_make(const sl_added_token *tokens, int n_tokens, int normalized,
                            const sl_normalize_step *steps, int n_steps, sl_added_set *out);
void sl_added_set_free(sl_added_set *set);

/* One run of text between added tokens, or one added token. */
typedef struct {
    int32_t id;        /* -1: text */
    size_t start, end; /* bytes; the text of a token includes the white space that it took */
} sl_added_run;

/* Walks text[0, bytes) run by run: *at and *pending start as {0} and keep the place. */
typedef struct {
    size_t scan;  /* where the search goes on */
    size_t taken; /* end of the last run */
    sl_added_run pending;
    int has_pending;
} sl_added_walk;

/* 1 and the next run, or 0 at the end. */
int sl_added_next(const sl_added_set *set, const char *text, size_t bytes, sl_added_walk *walk,
                  sl_added_run *run_out);

/* ---- decoder (detokenize.c) ---- */

typedef enum {
    SL_DECODE_JOIN,          /* no decoder: tokens with a space between them */
    SL_DECODE_REPLACE,       /* a text by another, in each token */
    SL_DECODE_METASPACE,     /* the replacement by a space, nothing in the first token */
    SL_DECODE_BYTE_FALLBACK, /* runs of "<0xNN>" to characters */
    SL_DECODE_FUSE,          /* all tokens are one from here on */
    SL_DECODE_STRIP,         /* characters from both ends of each token */
    SL_DECODE_BYTE_LEVEL     /* GPT-2's letters to bytes */
} sl_decode_kind;

typedef struct {
    sl_decode_kind kind;
    char *from; /* REPLACE, METASPACE, STRIP's character; owned */
    size_t from_bytes;
    char *to; /* REPLACE; owned */
    size_t to_bytes;
    int n_start, n_stop; /* STRIP */
    int fused;           /* STRIP: after a FUSE */
    int keep_first;      /* METASPACE: prepend_scheme never, the first token is like the others */
} sl_decode_step;

/* ---- the whole ---- */

struct sl_tokenizer {
    sl_vocab vocab;
    sl_bpe bpe;
    sl_normalize_step normalize[SL_TOKENIZER_MAX_STEPS];
    int n_normalize;
    sl_split_step split[SL_TOKENIZER_MAX_STEPS];
    int n_split;
    sl_decode_step decode[SL_TOKENIZER_MAX_STEPS];
    int n_decode;
    sl_added_token *added; /* [n_added] in the order of the file */
    int n_added;
    sl_added_set raw_set, normal_set;
    sl_ids prefix, suffix; /* what the post-processor adds around a text */
    int32_t bos_id, eos_id;
    char *chat_template; /* NULL: none; owned */
};

/* All empty, no ids known.  Errors: SL_ERR_NOMEM. */
sl_status sl_tokenizer_new(sl_tokenizer **out);

/* Adds an added token (text copied) that is in the vocabulary already, or is put there. */
sl_status sl_tokenizer_add_token(sl_tokenizer *tok, const sl_added_token *token, const char *where);

/* Appends an empty step; errors when there are too many. */
sl_status sl_tokenizer_new_normalize(sl_tokenizer *tok, sl_normalize_kind kind, const char *where,
                                     sl_normalize_step **out);
sl_status sl_tokenizer_new_split(sl_tokenizer *tok, sl_split_kind kind, const char *where,
                                 sl_split_step **out);
sl_status sl_tokenizer_new_decode(sl_tokenizer *tok, sl_decode_kind kind, const char *where,
                                  sl_decode_step **out);

/* A zero-terminated copy.  Errors: SL_ERR_NOMEM. */
sl_status sl_tokenizer_copy_text(const char *text, size_t bytes, char **out, size_t *bytes_out);

/* Steps that several families share. */
sl_status sl_tokenizer_split_by(sl_tokenizer *tok, const char *pattern, const char *where);
sl_status sl_tokenizer_split_gpt2(sl_tokenizer *tok, const char *where);
sl_status sl_tokenizer_split_qwen2(sl_tokenizer *tok, const char *where);

/* Builds what is derived once vocabulary, merges and steps are there. */
sl_status sl_tokenizer_finish(sl_tokenizer *tok);

#endif
