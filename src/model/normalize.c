/* normalize.c - the normalizer's steps: Unicode form C, a prefix, a replacement.
 *
 * Form C follows utf8proc's tables.  HF tokenizers' are those of Unicode 9, so that marks added
 * since (2016) which stand out of order are left there by it and put in order here.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/bytes.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

enum {
    MAX_DECOMPOSED = 32,      /* the longest full decomposition has 18 code points (form KC) */
    MAX_GROWTH = 64,          /* of a text; a space that becomes U+2581 is the largest known: 3 */
    FREE_GROWTH_BYTES = 65536 /* whatever the text's length: a prefix */
};

typedef struct {
    int32_t *data;
    size_t n, cap;
} code_points;

static sl_status reserve(code_points *list, size_t more) {
    if (list->cap - list->n >= more) return SL_OK;
    const size_t cap = list->cap * 2 + more + 64;
    size_t size = 0;
    SL_TRY(sl_size_mul(cap, sizeof *list->data, &size));
    int32_t *data = realloc(list->data, size);
    if (!data) return SL_FAIL(SL_ERR_NOMEM, "normalizing %zu characters: out of host memory", cap);
    list->data = data;
    list->cap = cap;
    return SL_OK;
}

static int mark_class(int32_t code_point) {
    return utf8proc_get_property(code_point)->combining_class;
}

/* Canonical order of a run of marks: a stable sort by combining class.  Counting, because a run may
 * be a megabyte long and utf8proc's own order is quadratic in it. */
static sl_status order_marks(int32_t *run, size_t n) {
    size_t start[257] = {0};
    int sorted = 1;
    for (size_t i = 0; i < n; i++) {
        start[mark_class(run[i]) + 1]++;
        if (i > 0 && mark_class(run[i]) < mark_class(run[i - 1])) sorted = 0;
    }
    if (sorted) return SL_OK;
    for (int c = 0; c < 256; c++) start[c + 1] += start[c];
    int32_t *ordered =
        malloc(n * sizeof *ordered); /* n code points are held already: no overflow */
    if (!ordered) return SL_FAIL(SL_ERR_NOMEM, "ordering %zu marks: out of host memory", n);
    for (size_t i = 0; i < n; i++) ordered[start[mark_class(run[i])]++] = run[i];
    memcpy(run, ordered, n * sizeof *ordered);
    free(ordered);
    return SL_OK;
}

/* Form C of a stretch that starts at a character which nothing before it can join. */
static sl_status compose(const char *text, size_t bytes, code_points *list, sl_buffer *out) {
    list->n = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t code_point;
        i += (size_t)sl_utf8_next(text + i, &code_point);
        SL_TRY(reserve(list, MAX_DECOMPOSED));
        int last_class = 0;
        const utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)code_point, list->data + list->n,
                                    MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &last_class);
        if (n < 0 || n > MAX_DECOMPOSED)
            return SL_FAIL(SL_ERR_FORMAT, "decomposing U+%04X: %s", code_point,
                           n < 0 ? utf8proc_errmsg(n) : "too long");
        list->n += (size_t)n;
    }
    for (size_t i = 0; i < list->n;) {
        size_t end = i;
        while (end < list->n && mark_class(list->data[end]) != 0) end++;
        if (end - i > 1) SL_TRY(order_marks(list->data + i, end - i));
        i = end + 1;
    }
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(list->data, (utf8proc_ssize_t)list->n,
                                                        UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) return SL_FAIL(SL_ERR_FORMAT, "composing a text: %s", utf8proc_errmsg(n));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char c[4];
        sl_buffer_put(out, c, (size_t)sl_utf8_write((uint32_t)list->data[i], c));
    }
    return SL_OK;
}

/* Characters below U+0300 are in form C by themselves; one is changed only by what follows it.  So
 * stretches of them, but for the last character, are copied. */
static sl_status put_nfc(const char *text, size_t bytes, sl_buffer *out) {
    sl_status st = SL_OK;
    code_points list = {0};
    const unsigned char *u = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        size_t plain = i;
        while (plain < bytes && u[plain] < 0xcc) plain++; /* U+0300 is cc 80 */
        if (plain < bytes && plain > i) {
            plain--;
            while (plain > i && (u[plain] & 0xc0) == 0x80) plain--;
        }
        sl_buffer_put(out, text + i, plain - i);
        i = plain;
        if (i == bytes) break;
        /* Up to the next plain character that has another plain one behind it, or is the last. */
        size_t end = i;
        int n_plain = 0;
        uint32_t code_point;
        end += (size_t)sl_utf8_next(text + end, &code_point);
        size_t cut = bytes;
        while (end < bytes) {
            const size_t here = end;
            end += (size_t)sl_utf8_next(text + end, &code_point);
            n_plain = code_point < 0x300 ? n_plain + 1 : 0;
            if (n_plain == 2) {
                cut = here;
                break;
            }
        }
        SL_GO(compose(text + i, cut - i, &list, out));
        i = cut;
    }
fail:
    free(list.data);
    return st;
}

/* A chain of replacements in a hostile file doubles the text with each step: `max_bytes` ends it.
 */
static sl_status put_replaced(const sl_normalize_step *step, const char *text, size_t bytes,
                              size_t max_bytes, sl_buffer *out) {
    const char *at = text, *end = text + bytes;
    while (at < end) {
        const char *hit = memmem(at, (size_t)(end - at), step->from, step->from_bytes);
        if (!hit) break;
        sl_buffer_put(out, at, (size_t)(hit - at));
        sl_buffer_put(out, step->to, step->to_bytes);
        at = hit + step->from_bytes;
        if (out->n > max_bytes)
            return SL_FAIL(SL_ERR_FORMAT, "the tokenizer's normalizer makes more than %zu bytes",
                           max_bytes);
    }
    sl_buffer_put(out, at, (size_t)(end - at));
    return SL_OK;
}

sl_status sl_normalize(const sl_normalize_step *steps, int n_steps, const char *text, size_t bytes,
                       sl_buffer *out, sl_buffer *spare) {
    const size_t max_bytes = MAX_GROWTH * bytes + FREE_GROWTH_BYTES;
    sl_buffer_reset(out);
    if (n_steps == 0) sl_buffer_put(out, text, bytes);
    for (int i = 0; i < n_steps; i++) {
        if (i > 0) { /* the last step's output is this one's input */
            const sl_buffer swap = *out;
            *out = *spare;
            *spare = swap;
            text = (const char *)spare->data;
            bytes = spare->n;
            sl_buffer_reset(out);
        }
        if (bytes == 0) break; /* no step makes something of nothing */
        switch (steps[i].kind) {
        case SL_NORMALIZE_NFC:
            SL_TRY(put_nfc(text, bytes, out));
            break;
        case SL_NORMALIZE_PREPEND:
            sl_buffer_put(out, steps[i].to, steps[i].to_bytes);
            sl_buffer_put(out, text, bytes);
            break;
        case SL_NORMALIZE_REPLACE:
            SL_TRY(put_replaced(&steps[i], text, bytes, max_bytes, out));
            break;
        }
        SL_TRY(sl_buffer_status(out));
    }
    return sl_buffer_status(out);
}
