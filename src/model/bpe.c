#include "model/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/utf8.h"

#define NO_PAIR UINT64_MAX /* ids are below 2^22, so no pair has this key */
#define NO_RANK UINT32_MAX /* of a pair that is not merged: after every rank */

enum {
    SHORT_WORD = 24,      /* up to here scanning for the lowest rank beats the heap */
    MAX_MERGES = 1 << 26, /* 100 times the largest table known */
};

sl_status sl_ids_push(sl_ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        const size_t cap = ids->cap ? ids->cap * 2 : 64;
        size_t size = 0;
        SL_TRY(sl_size_mul(cap, sizeof *ids->data, &size));
        int32_t *data = realloc(ids->data, size);
        if (!data) return SL_FAIL(SL_ERR_NOMEM, "list of %zu token ids: out of host memory", cap);
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->n++] = id;
    return SL_OK;
}

void sl_ids_free(sl_ids *ids) {
    free(ids->data);
    *ids = (sl_ids){0};
}

/* ---- merges ---- */

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t slot_of(const sl_bpe *bpe, uint64_t pair) {
    const uint32_t mask = bpe->n_slots - 1;
    /* Fibonacci hashing: the high bits of the product depend on all bits of the pair. */
    uint32_t i = (uint32_t)((pair ^ pair >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> 32) & mask;
    while (bpe->slots[i].pair != pair && bpe->slots[i].pair != NO_PAIR) i = (i + 1) & mask;
    return i;
}

static uint32_t rank_of(const sl_bpe *bpe, int32_t left, int32_t right) {
    if (bpe->n_slots == 0) return NO_RANK;
    const sl_bpe_slot *slot = &bpe->slots[slot_of(bpe, pair_of(left, right))];
    return slot->pair == NO_PAIR ? NO_RANK : slot->rank;
}

static sl_status grow_slots(sl_bpe *bpe) {
    const uint32_t n = bpe->n_slots ? bpe->n_slots * 2 : 1024;
    sl_bpe_slot *slots = malloc(n * sizeof *slots);
    if (!slots) return SL_FAIL(SL_ERR_NOMEM, "merges: out of host memory");
    for (uint32_t i = 0; i < n; i++) slots[i] = (sl_bpe_slot){NO_PAIR, 0};
    sl_bpe_slot *old = bpe->slots;
    const uint32_t n_old = bpe->n_slots;
    bpe->slots = slots;
    bpe->n_slots = n;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].pair != NO_PAIR) slots[slot_of(bpe, old[i].pair)] = old[i];
    free(old);
    return SL_OK;
}

static sl_status find_part(const sl_vocab *vocab, const char *text, size_t bytes, uint32_t rank,
                           const char *where, int32_t *out) {
    *out = sl_vocab_find_model(vocab, text, bytes);
    if (*out >= 0) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT, "%s: merge %u needs token \"%.*s\", which the vocabulary lacks",
                   where, rank, bytes < 60 ? (int)bytes : 60, text);
}

sl_status sl_bpe_add_merge(sl_bpe *bpe, const sl_vocab *vocab, const char *left, size_t left_bytes,
                           const char *right, size_t right_bytes, const char *where) {
    const uint32_t rank = bpe->n_merges;
    int32_t left_id = -1, right_id = -1, merged_id = -1;
    if (rank >= MAX_MERGES)
        return SL_FAIL(SL_ERR_FORMAT, "%s: more than %d merges", where, MAX_MERGES);
    SL_TRY(find_part(vocab, left, left_bytes, rank, where, &left_id));
    SL_TRY(find_part(vocab, right, right_bytes, rank, where, &right_id));

    sl_buffer both = {0};
    sl_buffer_put(&both, left, left_bytes);
    sl_buffer_put(&both, right, right_bytes);
    sl_status st = sl_buffer_status(&both);
    if (st == SL_OK)
        st = find_part(vocab, both.data ? (const char *)both.data : "", both.n, rank, where,
                       &merged_id);
    sl_buffer_free(&both);
    SL_TRY(st);

    if (rank == bpe->cap_merges) {
        const uint32_t cap = bpe->cap_merges ? bpe->cap_merges * 2 : 1024;
        int32_t *merged = realloc(bpe->merged, cap * sizeof *merged);
        if (!merged) return SL_FAIL(SL_ERR_NOMEM, "merges: out of host memory");
        bpe->merged = merged;
        bpe->cap_merges = cap;
    }
    if (bpe->n_used >= bpe->n_slots / 2) SL_TRY(grow_slots(bpe));
    sl_bpe_slot *slot = &bpe->slots[slot_of(bpe, pair_of(left_id, right_id))];
    if (slot->pair == NO_PAIR) bpe->n_used++;
    *slot = (sl_bpe_slot){pair_of(left_id, right_id), rank};
    bpe->merged[rank] = merged_id;
    bpe->n_merges++;
    return SL_OK;
}

void sl_bpe_free(sl_bpe *bpe) {
    free(bpe->slots);
    free(bpe->merged);
    *bpe = (sl_bpe){0};
}

/* ---- bytes and letters ---- */

static int is_own_letter(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t sl_bpe_letter_of_byte(unsigned char byte) {
    if (is_own_letter(byte)) return byte;
    /* The others are numbered in order: 0x00-0x20, 0x7f-0xa0, 0xad. */
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xa0) return 0x121u + (byte - 0x7fu);
    return 0x143u;
}

int sl_bpe_byte_of_letter(uint32_t code_point) {
    if (code_point < 0x100) return is_own_letter(code_point) ? (int)code_point : -1;
    if (code_point <= 0x120) return (int)(code_point - 0x100);
    if (code_point <= 0x142) return (int)(code_point - 0x121 + 0x7f);
    return code_point == 0x143 ? 0xad : -1;
}

int sl_bpe_byte_token(const char *text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        const char c = text[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (c - 'A' + 10);
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a' + 10);
        else
            return -1;
    }
    return value;
}

void sl_bpe_find_bytes(sl_bpe *bpe, const sl_vocab *vocab) {
    for (int b = 0; b < 256; b++) {
        char name[8];
        int bytes;
        if (bpe->byte_level)
            bytes = sl_utf8_write(sl_bpe_letter_of_byte((unsigned char)b), name);
        else
            bytes = snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        bpe->byte_ids[b] = sl_vocab_find_model(vocab, name, (size_t)bytes);
    }
}

/* ---- one word ---- */

void sl_bpe_scratch_free(sl_bpe_scratch *scratch) {
    free(scratch->ids);
    free(scratch->ranks);
    free(scratch->prev);
    free(scratch->next);
    free(scratch->heap);
    sl_buffer_free(&scratch->letters);
    *scratch = (sl_bpe_scratch){0};
}

static sl_status grow_array(void **data, size_t n, size_t elem_bytes) {
    size_t size = 0;
    SL_TRY(sl_size_mul(n, elem_bytes, &size));
    void *grown = realloc(*data, size);
    if (!grown) return SL_FAIL(SL_ERR_NOMEM, "word of %zu symbols: out of host memory", n);
    *data = grown;
    return SL_OK;
}

/* Every symbol comes from a byte of the word at least, and unknown ones are no more. */
static sl_status reserve_symbols(sl_bpe_scratch *s, size_t n) {
    if (n <= s->cap) return SL_OK;
    const size_t cap = n < 256 ? 256 : n;
    SL_TRY(grow_array((void **)&s->ids, cap, sizeof *s->ids));
    SL_TRY(grow_array((void **)&s->ranks, cap, sizeof *s->ranks));
    SL_TRY(grow_array((void **)&s->prev, cap, sizeof *s->prev));
    SL_TRY(grow_array((void **)&s->next, cap, sizeof *s->next));
    s->cap = cap;
    return SL_OK;
}

/* The first symbols of a word of characters.  An unknown symbol is held back until a known one
 * follows; byte tokens pass it by, as they do in HF tokenizers. */
static size_t split_characters(const sl_bpe *bpe, const sl_vocab *vocab, const char *word,
                               size_t bytes, int32_t *ids) {
    size_t n = 0;
    int unk_held = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t code_point;
        const size_t len = (size_t)sl_utf8_next(word + i, &code_point);
        const char *c = word + i;
        i += len;
        const int32_t id = sl_vocab_find_model(vocab, c, len);
        if (id >= 0) {
            if (unk_held) ids[n++] = bpe->unk_id;
            unk_held = 0;
            ids[n++] = id;
            continue;
        }
        if (bpe->byte_fallback) {
            size_t have = 0;
            while (have < len && bpe->byte_ids[(unsigned char)c[have]] >= 0) have++;
            if (have == len) {
                for (size_t b = 0; b < len; b++) ids[n++] = bpe->byte_ids[(unsigned char)c[b]];
                continue;
            }
        }
        if (bpe->unk_id < 0) continue;
        if (unk_held && !bpe->fuse_unk) ids[n++] = bpe->unk_id;
        unk_held = 1;
    }
    if (unk_held) ids[n++] = bpe->unk_id;
    return n;
}

static size_t split_bytes(const sl_bpe *bpe, const char *word, size_t bytes, int32_t *ids) {
    size_t n = 0;
    int unk_held = 0;
    for (size_t i = 0; i < bytes; i++) {
        const int32_t id = bpe->byte_ids[(unsigned char)word[i]];
        if (id >= 0) {
            if (unk_held) ids[n++] = bpe->unk_id;
            unk_held = 0;
            ids[n++] = id;
        } else if (bpe->unk_id >= 0) {
            if (unk_held && !bpe->fuse_unk) ids[n++] = bpe->unk_id;
            unk_held = 1;
        }
    }
    if (unk_held) ids[n++] = bpe->unk_id;
    return n;
}

/* Merges by looking for the lowest rank each time; the symbols stay packed. */
static size_t merge_short(const sl_bpe *bpe, int32_t *ids, uint32_t *ranks, size_t n) {
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(bpe, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NO_RANK) break;
        ids[best] = bpe->merged[ranks[best]];
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof *ranks);
            ranks[best] = rank_of(bpe, ids[best], ids[best + 1]);
        }
        if (best > 0) ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best]);
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    const uint64_t key = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
}

static sl_status push_pair(sl_bpe_scratch *s, size_t *n_heap, uint32_t rank, uint32_t at) {
    s->ranks[at] = rank;
    if (rank == NO_RANK) return SL_OK;
    if (*n_heap == s->cap_heap) {
        const size_t cap = s->cap_heap ? s->cap_heap * 2 : 256;
        SL_TRY(grow_array((void **)&s->heap, cap, sizeof *s->heap));
        s->cap_heap = cap;
    }
    const uint64_t key = (uint64_t)rank << 32 | at;
    size_t i = (*n_heap)++;
    for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = key;
    return SL_OK;
}

/* Merges with a heap of (rank, place) over a linked list of symbols.  An entry whose rank is no
 * longer that of the pair at its place is stale. */
static sl_status merge_long(const sl_bpe *bpe, sl_bpe_scratch *s, size_t n) {
    const uint32_t end = UINT32_MAX;
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s->prev[i] = i > 0 ? (uint32_t)i - 1 : end;
        s->next[i] = i + 1 < n ? (uint32_t)i + 1 : end;
        const uint32_t rank = i + 1 < n ? rank_of(bpe, s->ids[i], s->ids[i + 1]) : NO_RANK;
        SL_TRY(push_pair(s, &n_heap, rank, (uint32_t)i));
    }
    while (n_heap > 0) {
        const uint32_t rank = (uint32_t)(s->heap[0] >> 32), at = (uint32_t)s->heap[0];
        s->heap[0] = s->heap[--n_heap];
        if (n_heap > 0) sift_down(s->heap, n_heap, 0);
        if (s->ranks[at] != rank) continue;

        const uint32_t gone = s->next[at], after = s->next[gone], before = s->prev[at];
        s->ids[at] = bpe->merged[rank];
        s->ids[gone] = -1;
        s->ranks[gone] = NO_RANK;
        s->next[at] = after;
        s->ranks[at] = NO_RANK;
        if (after != end) {
            s->prev[after] = at;
            SL_TRY(push_pair(s, &n_heap, rank_of(bpe, s->ids[at], s->ids[after]), at));
        }
        if (before != end)
            SL_TRY(push_pair(s, &n_heap, rank_of(bpe, s->ids[before], s->ids[at]), before));
    }
    return SL_OK;
}

/* The token that the whole word is, -1 if it is none. */
static sl_status find_word(const sl_bpe *bpe, const sl_vocab *vocab, const char *word, size_t bytes,
                           sl_bpe_scratch *s, int32_t *out) {
    if (!bpe->byte_level) {
        *out = sl_vocab_find_model(vocab, word, bytes);
        return SL_OK;
    }
    sl_buffer_reset(&s->letters);
    for (size_t i = 0; i < bytes; i++) {
        char letter[4];
        const int n = sl_utf8_write(sl_bpe_letter_of_byte((unsigned char)word[i]), letter);
        sl_buffer_put(&s->letters, letter, (size_t)n);
    }
    SL_TRY(sl_buffer_status(&s->letters));
    *out = sl_vocab_find_model(vocab, (const char *)s->letters.data, s->letters.n);
    return SL_OK;
}

sl_status sl_bpe_encode(const sl_bpe *bpe, const sl_vocab *vocab, const char *word, size_t bytes,
                        sl_bpe_scratch *s, sl_ids *ids) {
    if (bytes == 0) return SL_OK;
    if (bytes > INT32_MAX) /* places are 32 bits */
        return SL_FAIL(SL_ERR_ARG, "word of %zu bytes, expected at most %d", bytes, INT32_MAX);
    if (bpe->ignore_merges) {
        int32_t whole = -1;
        SL_TRY(find_word(bpe, vocab, word, bytes, s, &whole));
        if (whole >= 0) return sl_ids_push(ids, whole);
    }
    SL_TRY(reserve_symbols(s, bytes));
    size_t n = bpe->byte_level ? split_bytes(bpe, word, bytes, s->ids)
                               : split_characters(bpe, vocab, word, bytes, s->ids);
    if (n <= SHORT_WORD)
        n = merge_short(bpe, s->ids, s->ranks, n);
    else
        SL_TRY(merge_long(bpe, s, n));
    for (size_t i = 0; i < n; i++)
        if (s->ids[i] >= 0) SL_TRY(sl_ids_push(ids, s->ids[i]));
    return SL_OK;
}
