/* bpe.h - byte-pair merging of one word into token ids.
 *
 * A word starts as one token per byte (byte-level) or per character, and the adjacent pair of the
 * lowest rank is merged until no pair can be.  Long words use a heap, so that a word of a megabyte
 * takes n log n steps.
 * Layer: model.  May include: base.  Thread safety: the merges are immutable once filled; a scratch
 * has one owner.
 */
#ifndef SL_MODEL_BPE_H
#define SL_MODEL_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/vocab.h"

/* A growable list of ids; all zeros is the empty one. */
typedef struct {
    int32_t *data;
    size_t n;
    size_t cap;
} sl_ids;

sl_status sl_ids_push(sl_ids *ids, int32_t id);
void sl_ids_free(sl_ids *ids);

typedef struct {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: empty slot */
    uint32_t rank;
} sl_bpe_slot;

typedef struct {
    sl_bpe_slot *slots; /* [n_slots], open addressing */
    uint32_t n_slots;   /* a power of two, or 0 */
    uint32_t n_used;
    int32_t *merged; /* [n_merges] id that the merge of each rank makes */
    uint32_t n_merges;
    uint32_t cap_merges;

    int byte_level; /* 1: symbols are bytes, looked up in GPT-2's alphabet of printable letters */
    int byte_fallback;     /* 1: a character without token becomes its bytes' tokens "<0xNN>" */
    int ignore_merges;     /* 1: a word that is a token as a whole is that token */
    int fuse_unk;          /* 1: a run of unknown characters is one unknown token */
    int32_t unk_id;        /* -1: unknown characters are dropped */
    int32_t byte_ids[256]; /* token of each byte: byte-level or fallback; -1: none */
} sl_bpe;

/* Adds the next merge, of rank n_merges.  All three texts must be tokens of the model.
 * A pair that is there already takes the new rank.
 * Errors: SL_ERR_FORMAT naming the text that is no token (`where` names the file), SL_ERR_NOMEM. */
sl_status sl_bpe_add_merge(sl_bpe *bpe, const sl_vocab *vocab, const char *left, size_t left_bytes,
                           const char *right, size_t right_bytes, const char *where);

/* Looks the bytes' tokens up once the vocabulary is complete and byte_level is set. */
void sl_bpe_find_bytes(sl_bpe *bpe, const sl_vocab *vocab);

void sl_bpe_free(sl_bpe *bpe);

/* Working memory of sl_bpe_encode(); all zeros is valid. */
typedef struct {
    int32_t *ids;    /* [cap] token at each place */
    uint32_t *ranks; /* [cap] rank of the pair that starts there */
    uint32_t *prev;  /* [cap] neighbours among the living */
    uint32_t *next;  /* [cap] */
    size_t cap;
    uint64_t *heap; /* [cap_heap] rank << 32 | place */
    size_t cap_heap;
    sl_buffer letters;
} sl_bpe_scratch;

void sl_bpe_scratch_free(sl_bpe_scratch *scratch);

/* Appends the tokens of one word, valid UTF-8, to ids.
 * Errors: SL_ERR_ARG (a word of 2 GiB or more), SL_ERR_NOMEM. */
sl_status sl_bpe_encode(const sl_bpe *bpe, const sl_vocab *vocab, const char *word, size_t bytes,
                        sl_bpe_scratch *scratch, sl_ids *ids);

/* GPT-2's alphabet: the letter (code point, below 0x144) that stands for each byte, and back.
 * The bytes that are printable in Latin-1 stand for themselves, the others for U+0100 and on.
 * Source: Radford et al. 2019, the encoder published with GPT-2. */
uint32_t sl_bpe_letter_of_byte(unsigned char byte);
int sl_bpe_byte_of_letter(uint32_t code_point); /* -1: not in the alphabet */

/* Value of a token text "<0xNN>", -1 for other texts. */
int sl_bpe_byte_token(const char *text, size_t bytes);

#endif
