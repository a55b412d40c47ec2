/* tokenizer_gguf.c - the tokenizer in a GGUF file's metadata (tokenizer.ggml.*). */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

/* tokenizer.ggml.token_type */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

#define METASPACE "\xe2\x96\x81" /* U+2581 */

typedef struct {
    const sl_checkpoint *gguf;
    const char *where;
    size_t n;                   /* tokens */
    const sl_gguf_value *texts; /* STRING [n] */
    const sl_gguf_value *types; /* INT [n] or NULL */
    sl_tokenizer *tok;
} gguf_reader;

/* ---- metadata ---- */

static sl_status find_array(const gguf_reader *r, const char *key, sl_gguf_kind kind, int required,
                            const sl_gguf_value **out) {
    const sl_gguf_value *v = sl_gguf_find(r->gguf, key);
    *out = v;
    if (!v && !required) return SL_OK;
    if (!v) return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing", r->where, key);
    if (v->kind != SL_GGUF_ARRAY || (v->elem_kind != kind && v->n > 0))
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is not an array of the expected kind", r->where, key);
    return SL_OK;
}

/* Fails unless the array has an element for each token. */
static sl_status check_length(const gguf_reader *r, const char *key, const sl_gguf_value *v) {
    if (v && v->n != r->n)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s has %zu elements, expected %zu as tokens", r->where,
                       key, v->n, r->n);
    return SL_OK;
}

static sl_status read_flag(const gguf_reader *r, const char *key, int preset, int *out) {
    const sl_gguf_value *v = sl_gguf_find(r->gguf, key);
    *out = preset;
    if (!v) return SL_OK;
    if (v->kind != SL_GGUF_BOOL) return SL_FAIL(SL_ERR_FORMAT, "%s: %s is no bool", r->where, key);
    *out = v->i != 0;
    return SL_OK;
}

static sl_status read_id(const gguf_reader *r, const char *key, int32_t *out) {
    const sl_gguf_value *v = sl_gguf_find(r->gguf, key);
    *out = -1;
    if (!v) return SL_OK;
    if (v->kind != SL_GGUF_INT || v->i < -1 || v->i >= (int64_t)r->n)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %lld, expected the id of one of %zu tokens",
                       r->where, key, v->kind == SL_GGUF_INT ? (long long)v->i : -2LL, r->n);
    *out = (int32_t)v->i;
    return SL_OK;
}

static sl_status read_name(const gguf_reader *r, const char *key, const char **out) {
    const sl_gguf_value *v = sl_gguf_find(r->gguf, key);
    *out = NULL;
    if (!v) return SL_OK;
    if (v->kind != SL_GGUF_STRING)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is no string", r->where, key);
    *out = v->s;
    return SL_OK;
}

/* ---- vocabulary ---- */

static int64_t type_of(const gguf_reader *r, size_t i) {
    return r->types ? r->types->ints[i] : TYPE_NORMAL;
}

static sl_status check_texts(const gguf_reader *r) {
    for (size_t i = 0; i < r->n; i++)
        if (sl_utf8_valid_prefix(r->texts->strings[i], r->texts->string_bytes[i]) <
            r->texts->string_bytes[i])
            return SL_FAIL(SL_ERR_FORMAT, "%s: token %zu is not valid UTF-8", r->where, i);
    return SL_OK;
}

static sl_status add_vocabulary(gguf_reader *r) {
    SL_TRY(check_texts(r));
    /* Backwards, because of equal texts the last one is what a text finds, as in HF and llama.cpp;
     * the others are known by their ids only, as is padding up to a round size. */
    for (size_t i = r->n; i-- > 0;) {
        const char *text = r->texts->strings[i];
        const size_t bytes = r->texts->string_bytes[i];
        if (type_of(r, i) == TYPE_UNUSED || sl_vocab_find(&r->tok->vocab, text, bytes) >= 0)
            SL_TRY(sl_vocab_add_hidden(&r->tok->vocab, text, bytes, (int64_t)i, r->where));
        else
            SL_TRY(
                sl_vocab_add(&r->tok->vocab, text, bytes, (int64_t)i, SL_TOKEN_IN_MODEL, r->where));
    }
    return SL_OK;
}

/* Control tokens are special, user-defined ones are matched in text and shown.  Without types the
 * tokens that have a role are the special ones. */
static sl_status add_added(gguf_reader *r, int32_t unk_id) {
    for (size_t i = 0; i < r->n; i++) {
        const int64_t type = type_of(r, i);
        const int32_t id = (int32_t)i;
        const int role =
            !r->types && (id == r->tok->bos_id || id == r->tok->eos_id || id == unk_id);
        if (type != TYPE_CONTROL && type != TYPE_USER_DEFINED && !role) continue;
        /* find() may give another id to a text that stands twice. */
        if (sl_vocab_find(&r->tok->vocab, r->texts->strings[i], r->texts->string_bytes[i]) != id)
            continue;
        const sl_added_token token = {.id = id,
                                      .text = (char *)(uintptr_t)r->texts->strings[i],
                                      .bytes = r->texts->string_bytes[i],
                                      .special = type != TYPE_USER_DEFINED};
        SL_TRY(sl_tokenizer_add_token(r->tok, &token, r->where));
    }
    return SL_OK;
}

static sl_status add_file_merges(gguf_reader *r, const sl_gguf_value *merges) {
    for (size_t i = 0; i < merges->n; i++) {
        const char *text = merges->strings[i];
        const size_t bytes = merges->string_bytes[i];
        /* The first byte may be a space that belongs to the left part. */
        const char *space = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
        if (!space)
            return SL_FAIL(SL_ERR_FORMAT, "%s: merge %zu \"%.60s\" has no two parts", r->where, i,
                           text);
        const size_t left = (size_t)(space - text);
        SL_TRY(sl_bpe_add_merge(&r->tok->bpe, &r->tok->vocab, text, left, space + 1,
                                bytes - left - 1, r->where));
    }
    return SL_OK;
}

/* ---- merges from scores ---- */

typedef struct {
    double score;
    int32_t merged;
    int32_t left_id, right_id;
    uint32_t left_bytes;              /* of the merged text */
    uint32_t left_chars, right_chars; /* lengths as the order compares them */
    uint32_t order;                   /* where the merge stood before sorting */
} scored_merge;

typedef struct {
    scored_merge *data;
    size_t n, cap;
} scored_merges;

/* Splits of one token: by the ids of their parts. */
static int compare_splits(const void *a, const void *b) {
    const scored_merge *x = a, *y = b;
    if (x->left_id != y->left_id) return x->left_id < y->left_id ? -1 : 1;
    return (x->right_id > y->right_id) - (x->right_id < y->right_id);
}

/* All merges: the best score first, then the longer left part, then the longer right part, then as
 * they stood. */
static int compare_merges(const void *a, const void *b) {
    const scored_merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static sl_status push_merge(scored_merges *list, const scored_merge *merge) {
    if (list->n == list->cap) {
        const size_t cap = list->cap ? list->cap * 2 : 4096;
        size_t size = 0;
        SL_TRY(sl_size_mul(cap, sizeof *list->data, &size));
        scored_merge *data = realloc(list->data, size);
        if (!data) return SL_FAIL(SL_ERR_NOMEM, "%zu merges: out of host memory", cap);
        list->data = data;
        list->cap = cap;
    }
    list->data[list->n++] = *merge;
    return SL_OK;
}

static uint32_t count_chars(const char *text, size_t bytes) {
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* The ways to cut token `id` into two tokens. */
static sl_status collect_splits(const gguf_reader *r, int32_t id, double score,
                                scored_merges *list) {
    const sl_vocab *vocab = &r->tok->vocab;
    size_t bytes = 0;
    const char *text = sl_vocab_text(vocab, id, &bytes);
    const size_t first = list->n;
    const uint32_t n_chars = count_chars(text, bytes);
    uint32_t left_chars = 0;
    for (size_t cut = 1; cut < bytes; cut++) {
        if (((unsigned char)text[cut] & 0xc0) == 0x80) continue;
        left_chars++;
        const int32_t left = sl_vocab_find_model(vocab, text, cut);
        if (left < 0) continue;
        const int32_t right = sl_vocab_find_model(vocab, text + cut, bytes - cut);
        if (right < 0) continue;
        SL_TRY(push_merge(list, &(scored_merge){.score = score,
                                                .merged = id,
                                                .left_id = left,
                                                .right_id = right,
                                                .left_bytes = (uint32_t)cut,
                                                .left_chars = left_chars,
                                                .right_chars = n_chars - left_chars}));
    }
    if (list->n - first > 1)
        qsort(list->data + first, list->n - first, sizeof *list->data, compare_splits);
    return SL_OK;
}

/* Sentencepiece files have scores in place of merges.  Every cut of a token into two tokens is a
 * merge, and the score ranks them, as HF transformers converts such a vocabulary. */
static sl_status add_scored_merges(gguf_reader *r, const sl_gguf_value *scores) {
    sl_status st = SL_OK;
    scored_merges list = {0};
    for (size_t i = 0; i < r->n; i++)
        if (r->tok->vocab.tokens[i].flags & SL_TOKEN_IN_MODEL)
            SL_GO(collect_splits(r, (int32_t)i, scores->floats[i], &list));
    for (size_t i = 0; i < list.n; i++) list.data[i].order = (uint32_t)i;
    if (list.n > 1) qsort(list.data, list.n, sizeof *list.data, compare_merges);
    for (size_t i = 0; i < list.n; i++) {
        const scored_merge *m = &list.data[i];
        size_t bytes = 0;
        const char *text = sl_vocab_text(&r->tok->vocab, m->merged, &bytes);
        SL_GO(sl_bpe_add_merge(&r->tok->bpe, &r->tok->vocab, text, m->left_bytes,
                               text + m->left_bytes, bytes - m->left_bytes, r->where));
    }
fail:
    free(list.data);
    return st;
}

/* ---- families ---- */

static sl_status split_llama3(sl_tokenizer *tok, const char *where) {
    tok->bpe.ignore_merges = 1;
    return sl_tokenizer_split_by(
        tok,
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        where);
}

static sl_status split_tekken(sl_tokenizer *tok, const char *where) {
    tok->bpe.ignore_merges = 1;
    return sl_tokenizer_split_by(
        tok,
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
        "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
        "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        where);
}

static sl_status split_qwen2(sl_tokenizer *tok, const char *where) {
    sl_normalize_step *nfc = NULL;
    SL_TRY(sl_tokenizer_new_normalize(tok, SL_NORMALIZE_NFC, where, &nfc));
    return sl_tokenizer_split_qwen2(tok, where);
}

static sl_status split_smollm(sl_tokenizer *tok, const char *where) {
    sl_split_step *digits = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, SL_SPLIT_DIGITS, where, &digits));
    return sl_tokenizer_split_gpt2(tok, where);
}

/* tokenizer.ggml.pre -> what stands before BPE.  BOS where the file does not say. */
static const struct {
    const char *pre;
    sl_status (*add)(sl_tokenizer *tok, const char *where);
    int add_bos;
} families[] = {
    {"gpt-2", sl_tokenizer_split_gpt2, 0}, {"smollm", split_smollm, 0},
    {"llama-bpe", split_llama3, 1},        {"llama3", split_llama3, 1},
    {"llama-v3", split_llama3, 1},         {"qwen2", split_qwen2, 0},
    {"deepseek-r1-qwen", split_qwen2, 0},  {"tekken", split_tekken, 1},
};

static sl_status add_byte_level(gguf_reader *r, int *add_bos) {
    const char *pre = NULL;
    SL_TRY(read_name(r, "tokenizer.ggml.pre", &pre));
    if (!pre)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tokenizer.ggml.pre is missing; without it the way to split text is "
                       "unknown (newer conversions of the model have it)",
                       r->where);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(pre, families[i].pre) != 0) continue;
        r->tok->bpe.byte_level = 1;
        *add_bos = families[i].add_bos;
        SL_TRY(families[i].add(r->tok, r->where));
        sl_decode_step *decode = NULL;
        SL_TRY(sl_tokenizer_new_decode(r->tok, SL_DECODE_BYTE_LEVEL, r->where, &decode));
        const sl_gguf_value *merges = NULL;
        SL_TRY(find_array(r, "tokenizer.ggml.merges", SL_GGUF_STRING, 1, &merges));
        return add_file_merges(r, merges);
    }
    return SL_FAIL(SL_ERR_FORMAT,
                   "%s: pre-tokenizer \"%.60s\" (tokenizer.ggml.pre) is not supported; known are "
                   "gpt-2, smollm, llama-bpe, llama3, llama-v3, qwen2, deepseek-r1-qwen, tekken",
                   r->where, pre);
}

/* The steps of HF's Llama tokenizer: a space becomes U+2581, one more stands before the text. */
static sl_status add_sentencepiece(gguf_reader *r, int *add_bos) {
    sl_tokenizer *tok = r->tok;
    int add_prefix = 1;
    *add_bos = 1;
    SL_TRY(read_flag(r, "tokenizer.ggml.add_space_prefix", 1, &add_prefix));
    SL_TRY(read_id(r, "tokenizer.ggml.unknown_token_id", &tok->bpe.unk_id));
    tok->bpe.byte_fallback = 1;
    tok->bpe.fuse_unk = 1;

    sl_split_step *split = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, SL_METASPACE, r->where, &split));
    split->prepend = add_prefix ? SL_PREPEND_FIRST : SL_PREPEND_NEVER;
    SL_TRY(sl_tokenizer_copy_text(METASPACE, strlen(METASPACE), &split->text, &split->text_bytes));

    sl_decode_step *decode = NULL;
    SL_TRY(sl_tokenizer_new_decode(tok, SL_DECODE_REPLACE, r->where, &decode));
    SL_TRY(
        sl_tokenizer_copy_text(METASPACE, strlen(METASPACE), &decode->from, &decode->from_bytes));
    SL_TRY(sl_tokenizer_copy_text(" ", 1, &decode->to, &decode->to_bytes));
    SL_TRY(sl_tokenizer_new_decode(tok, SL_DECODE_BYTE_FALLBACK, r->where, &decode));
    SL_TRY(sl_tokenizer_new_decode(tok, SL_DECODE_FUSE, r->where, &decode));
    if (add_prefix) {
        SL_TRY(sl_tokenizer_new_decode(tok, SL_DECODE_STRIP, r->where, &decode));
        SL_TRY(sl_tokenizer_copy_text(" ", 1, &decode->from, &decode->from_bytes));
        decode->n_start = 1;
        decode->fused = 1;
    }

    const sl_gguf_value *merges = NULL, *scores = NULL;
    SL_TRY(find_array(r, "tokenizer.ggml.merges", SL_GGUF_STRING, 0, &merges));
    if (merges) return add_file_merges(r, merges);
    SL_TRY(find_array(r, "tokenizer.ggml.scores", SL_GGUF_FLOAT, 1, &scores));
    SL_TRY(check_length(r, "tokenizer.ggml.scores", scores));
    return add_scored_merges(r, scores);
}

static sl_status add_ends(gguf_reader *r, int add_bos) {
    sl_tokenizer *tok = r->tok;
    int add_eos = 0;
    SL_TRY(read_flag(r, "tokenizer.ggml.add_bos_token", add_bos, &add_bos));
    SL_TRY(read_flag(r, "tokenizer.ggml.add_eos_token", 0, &add_eos));
    if (add_bos && tok->bos_id >= 0) SL_TRY(sl_ids_push(&tok->prefix, tok->bos_id));
    if (add_eos && tok->eos_id >= 0) SL_TRY(sl_ids_push(&tok->suffix, tok->eos_id));
    return SL_OK;
}

static sl_status fill(gguf_reader *r, const char *model) {
    const char *chat_template = NULL;
    int32_t unk_id = -1;
    int add_bos = 0;
    SL_TRY(find_array(r, "tokenizer.ggml.tokens", SL_GGUF_STRING, 1, &r->texts));
    r->n = r->texts->n;
    SL_TRY(find_array(r, "tokenizer.ggml.token_type", SL_GGUF_INT, 0, &r->types));
    SL_TRY(check_length(r, "tokenizer.ggml.token_type", r->types));
    SL_TRY(read_id(r, "tokenizer.ggml.bos_token_id", &r->tok->bos_id));
    SL_TRY(read_id(r, "tokenizer.ggml.eos_token_id", &r->tok->eos_id));
    SL_TRY(read_id(r, "tokenizer.ggml.unknown_token_id", &unk_id));
    SL_TRY(add_vocabulary(r));
    if (strcmp(model, "gpt2") == 0)
        SL_TRY(add_byte_level(r, &add_bos));
    else if (strcmp(model, "llama") == 0)
        SL_TRY(add_sentencepiece(r, &add_bos));
    else
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tokenizer.ggml.model \"%.60s\" is not supported; known are gpt2 "
                       "(byte-level BPE) and llama (sentencepiece BPE)",
                       r->where, model);
    SL_TRY(add_added(r, unk_id));
    SL_TRY(add_ends(r, add_bos));
    SL_TRY(read_name(r, "tokenizer.chat_template", &chat_template));
    if (chat_template) {
        size_t bytes = 0;
        SL_TRY(sl_tokenizer_copy_text(chat_template, strlen(chat_template), &r->tok->chat_template,
                                      &bytes));
    }
    return sl_tokenizer_finish(r->tok);
}

sl_status sl_tokenizer_open_gguf(const sl_checkpoint *gguf, sl_tokenizer **out) {
    gguf_reader r = {.gguf = gguf, .where = sl_checkpoint_path(gguf)};
    const char *model = NULL;
    SL_TRY(read_name(&r, "tokenizer.ggml.model", &model));
    if (!model || strcmp(model, "none") == 0) {
        *out = NULL;
        return SL_OK;
    }
    SL_TRY(sl_tokenizer_new(&r.tok));
    const sl_status st = fill(&r, model);
    if (st != SL_OK) {
        sl_tokenizer_close(r.tok);
        return st;
    }
    *out = r.tok;
    return SL_OK;
}
