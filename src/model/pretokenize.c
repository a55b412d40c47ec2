/* pretokenize.c - splits text into the words that BPE merges within. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/bytes.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

/* ---- pieces ---- */

static sl_status push_piece(sl_pieces *pieces, size_t start, size_t end) {
    if (start == end) return SL_OK; /* empty pieces never reach the next step */
    if (pieces->n == pieces->cap) {
        const size_t cap = pieces->cap ? pieces->cap * 2 : 256;
        size_t size = 0;
        SL_TRY(sl_size_mul(cap, sizeof *pieces->data, &size));
        sl_piece *data = realloc(pieces->data, size);
        if (!data) return SL_FAIL(SL_ERR_NOMEM, "%zu words: out of host memory", cap);
        pieces->data = data;
        pieces->cap = cap;
    }
    pieces->data[pieces->n++] = (sl_piece){start, end - start};
    return SL_OK;
}

void sl_encode_scratch_free(sl_encode_scratch *scratch) {
    sl_pattern_match_close(scratch->match);
    sl_buffer_free(&scratch->clean);
    sl_buffer_free(&scratch->normal);
    sl_buffer_free(&scratch->spare);
    for (int i = 0; i < 2; i++) {
        sl_buffer_free(&scratch->text[i]);
        free(scratch->pieces[i].data);
    }
    sl_bpe_scratch_free(&scratch->bpe);
    *scratch = (sl_encode_scratch){0};
}

/* ---- separators ---- */

/* Takes the stretches of one piece in order, each a separator or not, and gives out pieces as the
 * step's rule says.  Source: SplitDelimiterBehavior of HF tokenizers. */
typedef struct {
    sl_separator rule;
    sl_pieces *out;
    size_t start, end; /* the stretch held back */
    int has_held;
    int held_separator;
    int last_separator; /* the stretch before was a separator that joined its neighbour */
} joiner;

static sl_status release(joiner *j) {
    if (!j->has_held) return SL_OK;
    j->has_held = 0;
    return push_piece(j->out, j->start, j->end);
}

static sl_status hold(joiner *j, size_t start, size_t end, int separator) {
    SL_TRY(release(j));
    j->start = start;
    j->end = end;
    j->has_held = 1;
    j->held_separator = separator;
    return SL_OK;
}

static sl_status join(joiner *j, size_t start, size_t end, int separator) {
    switch (j->rule) {
    case SL_SEPARATOR_REMOVED:
        return separator ? SL_OK : push_piece(j->out, start, end);
    case SL_SEPARATOR_ISOLATED:
        return push_piece(j->out, start, end);
    case SL_SEPARATOR_CONTIGUOUS:
        if (j->has_held && j->held_separator == separator) {
            j->end = end;
            return SL_OK;
        }
        return hold(j, start, end, separator);
    case SL_SEPARATOR_WITH_PREVIOUS:
        /* The second of two separators stands alone. */
        if (separator && !j->last_separator && j->has_held)
            j->end = end;
        else
            SL_TRY(hold(j, start, end, separator));
        j->last_separator = separator;
        return SL_OK;
    case SL_SEPARATOR_WITH_NEXT:
        if (!separator && j->has_held && j->held_separator) {
            j->end = end;
            j->held_separator = 0;
            return SL_OK;
        }
        return hold(j, start, end, separator);
    }
    return SL_OK;
}

/* ---- finding separators ---- */

static sl_status split_by_pattern(const sl_split_step *step, sl_pattern_match *match,
                                  const char *text, size_t bytes, size_t base, joiner *j) {
    size_t from = 0, done = 0, last_end = SIZE_MAX;
    while (from <= bytes) {
        int found = 0;
        size_t start = 0, end = 0;
        SL_TRY(sl_pattern_find(step->pattern, match, text, bytes, from, &found, &start, &end));
        if (!found) break;
        if (start == end && last_end == end) { /* an empty match right behind a match: step on */
            if (from == bytes) break;
            uint32_t code_point;
            from += (size_t)sl_utf8_next(text + from, &code_point);
            continue;
        }
        if (done < start) SL_TRY(join(j, base + done, base + start, step->invert));
        SL_TRY(join(j, base + start, base + end, !step->invert));
        from = done = last_end = end;
    }
    return done < bytes ? join(j, base + done, base + bytes, step->invert) : SL_OK;
}

static sl_status split_by_string(const sl_split_step *step, const char *text, size_t bytes,
                                 size_t base, joiner *j) {
    size_t done = 0;
    while (done < bytes) {
        const char *hit = memmem(text + done, bytes - done, step->text, step->text_bytes);
        if (!hit) break;
        const size_t start = (size_t)(hit - text), end = start + step->text_bytes;
        if (done < start) SL_TRY(join(j, base + done, base + start, step->invert));
        SL_TRY(join(j, base + start, base + end, !step->invert));
        done = end;
    }
    return done < bytes ? join(j, base + done, base + bytes, step->invert) : SL_OK;
}

static int is_numeric(uint32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

static int is_punctuation(uint32_t c) {
    if (c < 0x80) /* ASCII's own idea of punctuation includes symbols such as "+" */
        return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) ||
               (c >= 0x7b && c <= 0x7e);
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

/* Every character of the class is a separator of its own. */
static sl_status split_by_class(int (*is_member)(uint32_t), const char *text, size_t bytes,
                                size_t base, joiner *j) {
    size_t done = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t code_point;
        const size_t end = i + (size_t)sl_utf8_next(text + i, &code_point);
        if (is_member(code_point)) {
            if (done < i) SL_TRY(join(j, base + done, base + i, 0));
            SL_TRY(join(j, base + i, base + end, 1));
            done = end;
        }
        i = end;
    }
    return done < bytes ? join(j, base + done, base + bytes, 0) : SL_OK;
}

/* ---- steps ---- */

static sl_status split_step(const sl_split_step *step, const char *text, const sl_pieces *in,
                            sl_pieces *out, sl_encode_scratch *scratch) {
    if (step->kind == SL_SPLIT_PATTERN && !scratch->match)
        SL_TRY(sl_pattern_match_open(&scratch->match));
    for (size_t i = 0; i < in->n; i++) {
        const sl_piece p = in->data[i];
        joiner j = {.rule = step->separator, .out = out};
        if (step->kind == SL_SPLIT_PATTERN)
            SL_TRY(split_by_pattern(step, scratch->match, text + p.offset, p.bytes, p.offset, &j));
        else if (step->kind == SL_SPLIT_STRING)
            SL_TRY(split_by_string(step, text + p.offset, p.bytes, p.offset, &j));
        else
            SL_TRY(split_by_class(step->kind == SL_SPLIT_DIGITS ? is_numeric : is_punctuation,
                                  text + p.offset, p.bytes, p.offset, &j));
        SL_TRY(release(&j));
    }
    return SL_OK;
}

static sl_status prefix_spaces(const char *text, const sl_pieces *in, sl_buffer *out_text,
                               sl_pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        const sl_piece p = in->data[i];
        const size_t start = out_text->n;
        if (text[p.offset] != ' ') sl_buffer_put(out_text, " ", 1);
        sl_buffer_put(out_text, text + p.offset, p.bytes);
        SL_TRY(sl_buffer_status(out_text));
        SL_TRY(push_piece(out, start, out_text->n));
    }
    return SL_OK;
}

static void put_metaspaced(const sl_split_step *step, const char *text, size_t bytes, int prepend,
                           sl_buffer *out) {
    const int has_one = text[0] == ' ' || (bytes >= step->text_bytes &&
                                           memcmp(text, step->text, step->text_bytes) == 0);
    if (prepend && !has_one) sl_buffer_put(out, step->text, step->text_bytes);
    for (size_t done = 0; done < bytes;) {
        const char *space = memchr(text + done, ' ', bytes - done);
        const size_t end = space ? (size_t)(space - text) : bytes;
        sl_buffer_put(out, text + done, end - done);
        if (space) sl_buffer_put(out, step->text, step->text_bytes);
        done = end + (space ? 1 : 0);
    }
}

static sl_status metaspace(const sl_split_step *step, const char *text, const sl_pieces *in,
                           int at_start, sl_buffer *out_text, sl_pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        const sl_piece p = in->data[i];
        const int prepend = step->prepend == SL_PREPEND_ALWAYS ||
                            (step->prepend == SL_PREPEND_FIRST && at_start && p.offset == 0);
        const size_t start = out_text->n;
        put_metaspaced(step, text + p.offset, p.bytes, prepend, out_text);
        SL_TRY(sl_buffer_status(out_text));
        if (!step->split) {
            SL_TRY(push_piece(out, start, out_text->n));
            continue;
        }
        joiner j = {.rule = SL_SEPARATOR_WITH_NEXT, .out = out};
        SL_TRY(split_by_string(step, (const char *)out_text->data + start, out_text->n - start,
                               start, &j));
        SL_TRY(release(&j));
    }
    return SL_OK;
}

sl_status sl_pretokenize(const sl_split_step *steps, int n_steps, const char *text, size_t bytes,
                         int at_start, sl_encode_scratch *scratch) {
    scratch->side = 0;
    sl_buffer_reset(&scratch->text[0]);
    scratch->pieces[0].n = 0;
    sl_buffer_put(&scratch->text[0], text, bytes);
    SL_TRY(sl_buffer_status(&scratch->text[0]));
    SL_TRY(push_piece(&scratch->pieces[0], 0, bytes));
    for (int i = 0; i < n_steps; i++) {
        const int side = scratch->side;
        sl_buffer *in_text = &scratch->text[side], *out_text = &scratch->text[!side];
        sl_pieces *in = &scratch->pieces[side], *out = &scratch->pieces[!side];
        out->n = 0;
        sl_buffer_reset(out_text);
        switch (steps[i].kind) {
        case SL_PREFIX_SPACE:
            SL_TRY(prefix_spaces((const char *)in_text->data, in, out_text, out));
            break;
        case SL_METASPACE:
            SL_TRY(metaspace(&steps[i], (const char *)in_text->data, in, at_start, out_text, out));
            break;
        default: { /* splitting keeps the text, which changes sides */
            SL_TRY(split_step(&steps[i], (const char *)in_text->data, in, out, scratch));
            const sl_buffer swap = *in_text;
            *in_text = *out_text;
            *out_text = swap;
            break;
        }
        }
        scratch->side = !side;
    }
    return SL_OK;
}
