/* added_tokens.c - finds added and special tokens in text, leftmost and longest first. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

/* ---- the set ---- */

static int compare_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    const size_t common = a_bytes < b_bytes ? a_bytes : b_bytes;
    const int order = common ? memcmp(a, b, common) : 0;
    if (order != 0) return order;
    return (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* By text, then by precedence: special tokens, then the order of the file. */
static int compare_keys(const void *a, const void *b) {
    const sl_added_key *x = a, *y = b;
    const int order = compare_text(x->text, x->bytes, y->text, y->bytes);
    if (order) return order;
    if (!x->token->special != !y->token->special) return x->token->special ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

void sl_added_set_free(sl_added_set *set) {
    for (int i = 0; i < set->n; i++) free(set->keys[i].text);
    free(set->keys);
    *set = (sl_added_set){0};
}

sl_status sl_added_set_make(const sl_added_token *tokens, int n_tokens, int normalized,
                            const sl_normalize_step *steps, int n_steps, sl_added_set *out) {
    sl_status st = SL_OK;
    sl_added_set set = {0};
    sl_buffer text = {0}, spare = {0};
    set.keys = calloc((size_t)n_tokens + 1, sizeof *set.keys);
    if (!set.keys) {
        st = SL_FAIL(SL_ERR_NOMEM, "%d added tokens: out of host memory", n_tokens);
        goto fail;
    }
    for (int i = 0; i < n_tokens; i++) {
        if (!tokens[i].normalized != !normalized) continue;
        SL_GO(sl_normalize(steps, normalized ? n_steps : 0, tokens[i].text, tokens[i].bytes, &text,
                           &spare));
        if (text.n == 0) continue;
        SL_GO(sl_tokenizer_copy_text((const char *)text.data, text.n, &set.keys[set.n].text,
                                     &set.keys[set.n].bytes));
        set.keys[set.n++].token = &tokens[i];
    }
    qsort(set.keys, (size_t)set.n, sizeof *set.keys, compare_keys);
    int n = 0; /* of equal texts the first stays */
    for (int i = 0; i < set.n; i++) {
        if (n > 0 && compare_text(set.keys[n - 1].text, set.keys[n - 1].bytes, set.keys[i].text,
                                  set.keys[i].bytes) == 0)
            free(set.keys[i].text);
        else
            set.keys[n++] = set.keys[i];
    }
    set.n = n;
    for (int b = 0, k = 0; b <= 256; b++) {
        while (k < n && (unsigned char)set.keys[k].text[0] < b) k++;
        set.first[b] = k;
    }
    sl_buffer_free(&text);
    sl_buffer_free(&spare);
    *out = set;
    return SL_OK;

fail:
    sl_buffer_free(&text);
    sl_buffer_free(&spare);
    sl_added_set_free(&set);
    return st;
}

/* First key in [lo, hi), which agree up to `depth`, whose byte at `depth` is >= b; keys that end
 * there come first. */
static int lower_bound(const sl_added_set *set, int lo, int hi, size_t depth, int b) {
    while (lo < hi) {
        const int mid = lo + (hi - lo) / 2;
        const sl_added_key *key = &set->keys[mid];
        const int c = key->bytes > depth ? (unsigned char)key->text[depth] : -1;
        if (c < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest key that text[at, bytes) starts with, NULL if none. */
static const sl_added_key *longest_at(const sl_added_set *set, const char *text, size_t bytes,
                                      size_t at) {
    const unsigned char first = (unsigned char)text[at];
    int lo = set->first[first], hi = set->first[first + 1];
    const sl_added_key *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (set->keys[lo].bytes == depth) best = &set->keys[lo];
        if (at + depth >= bytes) break;
        const int b = (unsigned char)text[at + depth];
        lo = lower_bound(set, lo, hi, depth, b);
        hi = lower_bound(set, lo, hi, depth, b + 1);
    }
    return best;
}

/* ---- neighbours ---- */

static int is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* A character of a word: \w of Unicode's regular expressions, that is Alphabetic, marks, decimal
 * digits, connectors and joiners.  The symbols that are alphabetic are the circled and squared
 * letters (UTS 18, Annex C; PropList's Other_Alphabetic). */
static int is_word(uint32_t c) {
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '_';
    if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
        (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
        c == 0x200d)
        return 1;
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME) ||
           category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_PC;
}

static size_t char_before(const char *text, size_t at, uint32_t *code_point) {
    do at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    (void)sl_utf8_next(text + at, code_point);
    return at;
}

static int stands_alone(const char *text, size_t bytes, size_t start, size_t end) {
    uint32_t c;
    if (start > 0) {
        (void)char_before(text, start, &c);
        if (is_word(c)) return 0;
    }
    if (end < bytes) {
        (void)sl_utf8_next(text + end, &c);
        if (is_word(c)) return 0;
    }
    return 1;
}

/* ---- the walk ---- */

int sl_added_next(const sl_added_set *set, const char *text, size_t bytes, sl_added_walk *walk,
                  sl_added_run *run_out) {
    if (walk->has_pending) {
        walk->has_pending = 0;
        *run_out = walk->pending;
        return 1;
    }
    while (set->n > 0 && walk->scan < bytes) {
        const sl_added_key *key = longest_at(set, text, bytes, walk->scan);
        if (!key) {
            walk->scan++;
            continue;
        }
        size_t start = walk->scan, end = start + key->bytes;
        walk->scan = end; /* a token that is refused below still hides others inside it */
        if (key->token->single_word && !stands_alone(text, bytes, start, end)) continue;
        uint32_t c;
        if (key->token->lstrip) {
            while (start > walk->taken) {
                const size_t before = char_before(text, start, &c);
                if (!is_space(c)) break;
                start = before;
            }
            if (start < walk->taken) start = walk->taken;
        }
        if (key->token->rstrip) {
            while (end < bytes) {
                const int n = sl_utf8_next(text + end, &c);
                if (!is_space(c)) break;
                end += (size_t)n;
            }
        }
        const size_t taken = walk->taken;
        walk->taken = end;
        *run_out = (sl_added_run){key->token->id, start, end};
        if (taken < start) { /* the text before goes first */
            walk->pending = *run_out;
            walk->has_pending = 1;
            *run_out = (sl_added_run){-1, taken, start};
        }
        return 1;
    }
    if (walk->taken < bytes) {
        *run_out = (sl_added_run){-1, walk->taken, bytes};
        walk->taken = bytes;
        return 1;
    }
    return 0;
}
