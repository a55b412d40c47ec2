#include "model/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

struct sl_pattern {
    pcre2_code *code;
    char *source; /* as the file has it, for messages; cut at 80 bytes */
};

struct sl_pattern_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

enum {
    MAX_PATTERN_BYTES = 65536,
    BASE_STEPS = 10000, /* of one search; a sane pattern needs a few per byte */
    STEPS_PER_BYTE = 64,
};

/* ---- translation ---- */

typedef struct {
    const char *s;
    size_t bytes;
    size_t at;
    int in_class;
    const char *where;
    sl_buffer out;
} translation;

static void put(translation *t, const char *text) {
    sl_buffer_put(&t->out, text, strlen(text));
}

static sl_status refuse(const translation *t, const char *what, size_t from, size_t to) {
    if (to > t->bytes) to = t->bytes;
    return SL_FAIL(SL_ERR_FORMAT, "%s: pattern with %s \"%.*s\" at byte %zu is not supported",
                   t->where, what, (int)(to - from), t->s + from, from);
}

static int is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \p{L}, \P{Lu}, \p{^N}: general categories only.  Script names mean different sets in the two
 * engines. */
static sl_status take_property(translation *t) {
    const size_t from = t->at;
    size_t i = from + 2;
    if (i >= t->bytes || t->s[i] != '{') return refuse(t, "property", from, i + 1);
    i++;
    if (i < t->bytes && t->s[i] == '^') i++;
    const size_t name = i;
    while (i < t->bytes && t->s[i] != '}') i++;
    const size_t name_bytes = i - name;
    if (i == t->bytes || name_bytes < 1 || name_bytes > 2 || !strchr("CLMNPSZ", t->s[name]) ||
        (name_bytes == 2 && (t->s[name + 1] < 'a' || t->s[name + 1] > 'z')))
        return refuse(t, "property", from, i < from + 40 ? i + 1 : from + 40);
    sl_buffer_put(&t->out, t->s + from, i + 1 - from);
    t->at = i + 1;
    return SL_OK;
}

/* \x{H...} and \uHHHH. */
static sl_status take_code_point(translation *t) {
    const size_t from = t->at;
    const int braced = t->s[from + 1] == 'x';
    size_t i = from + 2;
    if (braced && (i >= t->bytes || t->s[i++] != '{')) return refuse(t, "escape", from, from + 3);
    const size_t digits = i;
    const size_t max = braced ? 6 : 4;
    while (i < t->bytes && i - digits < max && is_hex(t->s[i])) i++;
    const size_t n = i - digits;
    if (n == 0 || (!braced && n != 4) || (braced && (i >= t->bytes || t->s[i] != '}')))
        return refuse(t, "escape", from, i + 1);
    put(t, "\\x{");
    sl_buffer_put(&t->out, t->s + digits, n);
    put(t, "}");
    t->at = i + (braced ? 1 : 0);
    return SL_OK;
}

static sl_status take_escape(translation *t) {
    const size_t from = t->at;
    if (from + 1 >= t->bytes) return refuse(t, "escape", from, from + 1);
    const char c = t->s[from + 1];
    if (c == 'p' || c == 'P') return take_property(t);
    if (c == 'x' || c == 'u') return take_code_point(t);
    t->at = from + 2;
    switch (c) {
    case 's': /* PCRE2's \s also matches U+180E, Oniguruma's does not */
        put(t, "\\p{White_Space}");
        return SL_OK;
    case 'S':
        put(t, "\\P{White_Space}");
        return SL_OK;
    case 'd':
    case 'D': /* decimal digits, \p{Nd}, in both */
    case 'r':
    case 'n':
    case 't':
    case 'f':
        sl_buffer_put(&t->out, t->s + from, 2);
        return SL_OK;
    case 'v': /* one character in Oniguruma, a set in PCRE2 */
        put(t, "\\x0b");
        return SL_OK;
    default:
        break;
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c < 0)
        return refuse(t, "escape", from, from + 2);
    sl_buffer_put(&t->out, t->s + from, 2);
    return SL_OK;
}

/* Groups that mean the same in both engines. */
static sl_status take_group(translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    const size_t from = t->at, left = t->bytes - from;
    size_t n = 1;
    if (left > 1 && t->s[from + 1] == '*') return refuse(t, "verb", from, from + 2);
    if (left > 1 && t->s[from + 1] == '?') {
        n = 0;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            const size_t len = strlen(known[i]);
            if (left >= len && memcmp(t->s + from, known[i], len) == 0) n = len;
        }
        if (n == 0) return refuse(t, "group", from, from + 4);
    }
    sl_buffer_put(&t->out, t->s + from, n);
    t->at += n;
    return SL_OK;
}

static sl_status take_in_class(translation *t) {
    const char c = t->s[t->at];
    const int doubled = t->at + 1 < t->bytes && t->s[t->at + 1] == c;
    if (c == '[') return refuse(t, "nested class", t->at, t->at + 2);
    if (c == '&' && doubled) return refuse(t, "class intersection", t->at, t->at + 2);
    if (c == ']') t->in_class = 0;
    sl_buffer_put(&t->out, &c, 1);
    t->at++;
    return SL_OK;
}

static sl_status take_outside(translation *t) {
    const char c = t->s[t->at];
    const char next = t->at + 1 < t->bytes ? t->s[t->at + 1] : '\0';
    if (c == '(') return take_group(t);
    if (c == '[') {
        const size_t first = t->at + 1 + (next == '^');
        /* "[]" is an empty class in one engine and a class with "]" in the other. */
        if (first < t->bytes && t->s[first] == ']') return refuse(t, "class", t->at, first + 1);
        sl_buffer_put(&t->out, t->s + t->at, first - t->at);
        t->at = first;
        t->in_class = 1;
        return SL_OK;
    }
    if (c == '{' && next == ',') return refuse(t, "quantifier", t->at, t->at + 2);
    /* {2}+ is possessive in PCRE2 and a repeat of a repeat in Oniguruma; {2}? differs likewise. */
    if (c == '}' && (next == '+' || next == '?')) return refuse(t, "quantifier", t->at, t->at + 2);
    sl_buffer_put(&t->out, &c, 1);
    t->at++;
    return SL_OK;
}

static sl_status translate(translation *t) {
    while (t->at < t->bytes) {
        const char c = t->s[t->at];
        if (c == '\\')
            SL_TRY(take_escape(t));
        else if (t->in_class)
            SL_TRY(take_in_class(t));
        else
            SL_TRY(take_outside(t));
    }
    return sl_buffer_status(&t->out);
}

/* ---- compilation and search ---- */

static void pcre2_text(int code, char *buf, size_t buf_bytes) {
    if (pcre2_get_error_message(code, (PCRE2_UCHAR *)buf, buf_bytes) < 0)
        snprintf(buf, buf_bytes, "error %d", code);
}

sl_status sl_pattern_open(const char *source, size_t bytes, const char *where, sl_pattern **out) {
    if (bytes > MAX_PATTERN_BYTES)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pattern of %zu bytes, expected at most %d", where, bytes,
                       MAX_PATTERN_BYTES);
    sl_status st = SL_OK;
    translation t = {.s = source, .bytes = bytes, .where = where};
    pcre2_compile_context *context = NULL;
    sl_pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern || !(pattern->source = strndup(source, bytes < 80 ? bytes : 80)) ||
        !(context = pcre2_compile_context_create(NULL))) {
        st = SL_FAIL(SL_ERR_NOMEM, "pattern: out of host memory");
        goto fail;
    }
    SL_GO(translate(&t));
    /* As in Oniguruma: "^" and "$" are at lines, and a line ends with "\n" alone. */
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    size_t at = 0;
    pattern->code = pcre2_compile(t.out.data ? t.out.data : (PCRE2_SPTR) "", t.out.n,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &code, &at, context);
    if (!pattern->code) {
        char text[160];
        pcre2_text(code, text, sizeof text);
        st = SL_FAIL(SL_ERR_FORMAT, "%s: pattern \"%s\": %s", where, pattern->source, text);
        goto fail;
    }
    /* Without JIT (a processor or a kernel policy that forbids it) matching is slower, no more. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    pcre2_compile_context_free(context);
    sl_buffer_free(&t.out);
    *out = pattern;
    return SL_OK;

fail:
    pcre2_compile_context_free(context);
    sl_buffer_free(&t.out);
    sl_pattern_close(pattern);
    return st;
}

void sl_pattern_close(sl_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern->source);
    free(pattern);
}

sl_status sl_pattern_match_open(sl_pattern_match **out) {
    sl_pattern_match *match = calloc(1, sizeof *match);
    if (match) {
        match->data = pcre2_match_data_create(1, NULL);
        match->context = pcre2_match_context_create(NULL);
    }
    if (!match || !match->data || !match->context) {
        sl_pattern_match_close(match);
        return SL_FAIL(SL_ERR_NOMEM, "pattern match: out of host memory");
    }
    *out = match;
    return SL_OK;
}

void sl_pattern_match_close(sl_pattern_match *match) {
    if (!match) return;
    pcre2_match_data_free(match->data);
    pcre2_match_context_free(match->context);
    free(match);
}

sl_status sl_pattern_find(const sl_pattern *pattern, sl_pattern_match *match, const char *subject,
                          size_t bytes, size_t from, int *found_out, size_t *start_out,
                          size_t *end_out) {
    const uint64_t steps = BASE_STEPS + (uint64_t)STEPS_PER_BYTE * (bytes - from);
    pcre2_set_match_limit(match->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    PCRE2_SPTR text = (PCRE2_SPTR)subject;
    int rc = pcre2_match(pattern->code, text, bytes, from, PCRE2_NO_UTF_CHECK, match->data,
                         match->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(pattern->code, text, bytes, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         match->data, match->context);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *found_out = 0;
        return SL_OK;
    }
    if (rc < 0) {
        char reason[160];
        pcre2_text(rc, reason, sizeof reason);
        return SL_FAIL(rc == PCRE2_ERROR_NOMEMORY ? SL_ERR_NOMEM : SL_ERR_FORMAT,
                       "pattern \"%s\" on a text of %zu bytes: %s", pattern->source, bytes, reason);
    }
    const size_t *range = pcre2_get_ovector_pointer(match->data);
    *found_out = 1;
    *start_out = range[0];
    /* A lookbehind cannot put the end before the start here: \K is refused. */
    *end_out = range[1];
    return SL_OK;
}
