#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

/* ---- making ---- */

sl_status sl_tokenizer_new(sl_tokenizer **out) {
    sl_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) return SL_FAIL(SL_ERR_NOMEM, "tokenizer: out of host memory");
    tok->bos_id = -1;
    tok->eos_id = -1;
    tok->bpe.unk_id = -1;
    *out = tok;
    return SL_OK;
}

void sl_tokenizer_close(sl_tokenizer *tok) {
    if (!tok) return;
    sl_vocab_free(&tok->vocab);
    sl_bpe_free(&tok->bpe);
    for (int i = 0; i < tok->n_normalize; i++) {
        free(tok->normalize[i].from);
        free(tok->normalize[i].to);
    }
    for (int i = 0; i < tok->n_split; i++) {
        sl_pattern_close(tok->split[i].pattern);
        free(tok->split[i].text);
    }
    for (int i = 0; i < tok->n_decode; i++) {
        free(tok->decode[i].from);
        free(tok->decode[i].to);
    }
    for (int i = 0; i < tok->n_added; i++) free(tok->added[i].text);
    free(tok->added);
    sl_added_set_free(&tok->raw_set);
    sl_added_set_free(&tok->normal_set);
    sl_ids_free(&tok->prefix);
    sl_ids_free(&tok->suffix);
    free(tok->chat_template);
    free(tok);
}

sl_status sl_tokenizer_copy_text(const char *text, size_t bytes, char **out, size_t *bytes_out) {
    char *copy = bytes < SIZE_MAX ? malloc(bytes + 1) : NULL;
    if (!copy) return SL_FAIL(SL_ERR_NOMEM, "text of %zu bytes: out of host memory", bytes);
    if (bytes > 0) memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    *out = copy;
    *bytes_out = bytes;
    return SL_OK;
}

sl_status sl_tokenizer_add_token(sl_tokenizer *tok, const sl_added_token *token,
                                 const char *where) {
    if (token->bytes == 0) return SL_OK; /* HF leaves them out too */
    sl_added_token copy = *token;
    copy.id = sl_vocab_find(&tok->vocab, token->text, token->bytes);
    if (copy.id < 0) {
        SL_TRY(sl_vocab_add(&tok->vocab, token->text, token->bytes, token->id, 0, where));
        copy.id = token->id;
    }
    uint32_t *flags = &tok->vocab.tokens[copy.id].flags;
    if (*flags & SL_TOKEN_ADDED) return SL_OK; /* the first one counts */
    *flags |= SL_TOKEN_ADDED | (copy.special ? SL_TOKEN_SPECIAL : 0);

    if ((tok->n_added & (tok->n_added + 1)) == 0) { /* room for 1, 3, 7, ... */
        sl_added_token *added = realloc(tok->added, (2 * (size_t)tok->n_added + 1) * sizeof *added);
        if (!added) return SL_FAIL(SL_ERR_NOMEM, "added tokens: out of host memory");
        tok->added = added;
    }
    SL_TRY(sl_tokenizer_copy_text(token->text, token->bytes, &copy.text, &copy.bytes));
    tok->added[tok->n_added++] = copy;
    return SL_OK;
}

static sl_status too_many(const char *what, const char *where) {
    return SL_FAIL(SL_ERR_FORMAT, "%s: the %s has more than %d steps", where, what,
                   SL_TOKENIZER_MAX_STEPS);
}

sl_status sl_tokenizer_new_normalize(sl_tokenizer *tok, sl_normalize_kind kind, const char *where,
                                     sl_normalize_step **out) {
    if (tok->n_normalize == SL_TOKENIZER_MAX_STEPS) return too_many("normalizer", where);
    *out = &tok->normalize[tok->n_normalize++];
    (*out)->kind = kind;
    return SL_OK;
}

sl_status sl_tokenizer_new_split(sl_tokenizer *tok, sl_split_kind kind, const char *where,
                                 sl_split_step **out) {
    if (tok->n_split == SL_TOKENIZER_MAX_STEPS) return too_many("pre-tokenizer", where);
    *out = &tok->split[tok->n_split++];
    (*out)->kind = kind;
    (*out)->separator = SL_SEPARATOR_ISOLATED;
    return SL_OK;
}

sl_status sl_tokenizer_new_decode(sl_tokenizer *tok, sl_decode_kind kind, const char *where,
                                  sl_decode_step **out) {
    if (tok->n_decode == SL_TOKENIZER_MAX_STEPS) return too_many("decoder", where);
    *out = &tok->decode[tok->n_decode++];
    (*out)->kind = kind;
    return SL_OK;
}

sl_status sl_tokenizer_split_by(sl_tokenizer *tok, const char *pattern, const char *where) {
    sl_split_step *step = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, SL_SPLIT_PATTERN, where, &step));
    return sl_pattern_open(pattern, strlen(pattern), where, &step->pattern);
}

sl_status sl_tokenizer_split_gpt2(sl_tokenizer *tok, const char *where) {
    return sl_tokenizer_split_by(tok,
                                 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                                 "|\\s+(?!\\S)|\\s+",
                                 where);
}

sl_status sl_tokenizer_split_qwen2(sl_tokenizer *tok, const char *where) {
    return sl_tokenizer_split_by(tok,
                                 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                                 where);
}

sl_status sl_tokenizer_finish(sl_tokenizer *tok) {
    sl_bpe_find_bytes(&tok->bpe, &tok->vocab);
    SL_TRY(sl_added_set_make(tok->added, tok->n_added, 0, tok->normalize, tok->n_normalize,
                             &tok->raw_set));
    return sl_added_set_make(tok->added, tok->n_added, 1, tok->normalize, tok->n_normalize,
                             &tok->normal_set);
}

/* ---- encoding ---- */

/* Repair and U+2581 make a text three times as long each; words are limited to 31 bits. */
enum { MAX_TEXT_BYTES = 1 << 27 };

/* Words of text that holds no added token. */
static sl_status encode_words(const sl_tokenizer *tok, const char *text, size_t bytes, int at_start,
                              sl_encode_scratch *scratch, sl_ids *ids) {
    SL_TRY(sl_pretokenize(tok->split, tok->n_split, text, bytes, at_start, scratch));
    const char *words = (const char *)scratch->text[scratch->side].data;
    const sl_pieces *pieces = &scratch->pieces[scratch->side];
    for (size_t i = 0; i < pieces->n; i++)
        SL_TRY(sl_bpe_encode(&tok->bpe, &tok->vocab, words + pieces->data[i].offset,
                             pieces->data[i].bytes, &scratch->bpe, ids));
    return SL_OK;
}

/* Text between tokens that were found in the raw text. */
static sl_status encode_run(const sl_tokenizer *tok, const char *text, size_t bytes, int at_start,
                            sl_encode_scratch *scratch, sl_ids *ids) {
    SL_TRY(sl_normalize(tok->normalize, tok->n_normalize, text, bytes, &scratch->normal,
                        &scratch->spare));
    const char *normal = (const char *)scratch->normal.data;
    sl_added_walk walk = {0};
    sl_added_run run;
    while (sl_added_next(&tok->normal_set, normal, scratch->normal.n, &walk, &run)) {
        if (run.id >= 0)
            SL_TRY(sl_ids_push(ids, run.id));
        else
            SL_TRY(encode_words(tok, normal + run.start, run.end - run.start,
                                at_start && run.start == 0, scratch, ids));
    }
    return SL_OK;
}

static sl_status push_all(sl_ids *ids, const sl_ids *more) {
    for (size_t i = 0; i < more->n; i++) SL_TRY(sl_ids_push(ids, more->data[i]));
    return SL_OK;
}

static sl_status encode_text(const sl_tokenizer *tok, const char *text, size_t bytes,
                             sl_encode_scratch *scratch, sl_ids *ids) {
    if (sl_utf8_valid_prefix(text, bytes) < bytes) {
        sl_utf8_put_lossy(&scratch->clean, text, bytes);
        SL_TRY(sl_buffer_status(&scratch->clean));
        text = (const char *)scratch->clean.data;
        bytes = scratch->clean.n;
    }
    sl_added_walk walk = {0};
    sl_added_run run;
    while (sl_added_next(&tok->raw_set, text, bytes, &walk, &run)) {
        if (run.id >= 0)
            SL_TRY(sl_ids_push(ids, run.id));
        else
            SL_TRY(encode_run(tok, text + run.start, run.end - run.start, run.start == 0, scratch,
                              ids));
    }
    return SL_OK;
}

sl_status sl_tokenizer_encode(const sl_tokenizer *tok, const char *text, size_t bytes,
                              int add_special, int32_t **ids_out, size_t *n_out) {
    if (bytes > MAX_TEXT_BYTES)
        return SL_FAIL(SL_ERR_ARG, "text of %zu bytes to encode, expected at most %d", bytes,
                       MAX_TEXT_BYTES);
    sl_status st = SL_OK;
    sl_encode_scratch scratch = {0};
    sl_ids ids = {0};
    if (add_special) SL_GO(push_all(&ids, &tok->prefix));
    if (bytes > 0) SL_GO(encode_text(tok, text, bytes, &scratch, &ids));
    if (add_special) SL_GO(push_all(&ids, &tok->suffix));
    sl_encode_scratch_free(&scratch);
    *ids_out = ids.data;
    *n_out = ids.n;
    return SL_OK;

fail:
    sl_encode_scratch_free(&scratch);
    sl_ids_free(&ids);
    return st;
}

/* ---- asking ---- */

int sl_tokenizer_n_tokens(const sl_tokenizer *tok) {
    return tok->vocab.n_tokens;
}

int sl_tokenizer_bos_id(const sl_tokenizer *tok) {
    /* A text that is always begun with one token has that token as BOS. */
    return tok->bos_id < 0 && tok->prefix.n > 0 ? tok->prefix.data[0] : tok->bos_id;
}

int sl_tokenizer_eos_id(const sl_tokenizer *tok) {
    return tok->eos_id;
}

const char *sl_tokenizer_kind(const sl_tokenizer *tok) {
    return tok->bpe.byte_level ? "byte-level BPE" : "sentencepiece BPE";
}

int sl_tokenizer_find(const sl_tokenizer *tok, const char *token) {
    return sl_vocab_find(&tok->vocab, token, strlen(token));
}

int sl_tokenizer_is_special(const sl_tokenizer *tok, int32_t id) {
    return id >= 0 && id < tok->vocab.n_tokens && tok->vocab.tokens[id].flags & SL_TOKEN_SPECIAL;
}

const char *sl_tokenizer_chat_template(const sl_tokenizer *tok) {
    return tok->chat_template;
}
