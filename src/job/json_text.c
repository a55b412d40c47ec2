#include "job/json_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sl_json_free(sl_json_text *text) {
    free(text->data);
    *text = (sl_json_text){0};
}

void sl_json_clear(sl_json_text *text) {
    text->n_bytes = 0;
    text->failed = 0;
    if (text->data) text->data[0] = '\0';
}

sl_status sl_json_status(const sl_json_text *text) {
    if (!text->failed) return SL_OK;
    return SL_FAIL(SL_ERR_NOMEM, "text of more than %zu bytes: out of host memory", text->n_bytes);
}

/* Makes room for `more` bytes and the terminator. */
static int reserve(sl_json_text *text, size_t more) {
    if (text->failed) return 0;
    if (more < text->room_bytes - text->n_bytes) return 1; /* room is 0 or n_bytes + 1 at least */
    size_t room = text->room_bytes ? text->room_bytes : 256;
    while (room - text->n_bytes <= more) {
        if (room > SIZE_MAX / 2) {
            text->failed = 1;
            return 0;
        }
        room *= 2;
    }
    char *data = realloc(text->data, room);
    if (!data) {
        text->failed = 1;
        return 0;
    }
    text->data = data;
    text->room_bytes = room;
    return 1;
}

void sl_json_bytes(sl_json_text *text, const char *s, size_t n_bytes) {
    if (!reserve(text, n_bytes)) return;
    if (n_bytes) memcpy(text->data + text->n_bytes, s, n_bytes);
    text->n_bytes += n_bytes;
    text->data[text->n_bytes] = '\0';
}

void sl_json_raw(sl_json_text *text, const char *s) {
    sl_json_bytes(text, s, strlen(s));
}

void sl_json_int(sl_json_text *text, int64_t value) {
    char buf[32];
    snprintf(buf, sizeof buf, "%" PRId64, value);
    sl_json_raw(text, buf);
}

/* JSON readers in some languages tell integers from reals by the point. */
static void append_real(sl_json_text *text, char *buf, size_t buf_bytes) {
    if (!strpbrk(buf, ".e")) strncat(buf, ".0", buf_bytes - strlen(buf) - 1);
    sl_json_raw(text, buf);
}

void sl_json_float(sl_json_text *text, float value) {
    char buf[40];
    if (!isfinite(value)) {
        sl_json_raw(text, value > 0 ? "9999.0" : "-9999.0");
        return;
    }
    if (value == 0.0f) value = 0.0f; /* no "-0" */
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, (double)value);
        if (strtof(buf, NULL) == value) break; /* 9 digits always do */
    }
    append_real(text, buf, sizeof buf);
}

void sl_json_double(sl_json_text *text, double value) {
    char buf[40];
    if (!isfinite(value)) {
        sl_json_raw(text, value > 0 ? "9999.0" : "-9999.0");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, value);
        if (strtod(buf, NULL) == value) break;
    }
    append_real(text, buf, sizeof buf);
}

int sl_utf8_length(const char *s, size_t n_bytes) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return 1;
    int length;
    uint32_t code, least;
    if (u[0] >= 0xc2 && u[0] <= 0xdf) {
        length = 2, code = u[0] & 0x1fu, least = 0x80;
    } else if (u[0] >= 0xe0 && u[0] <= 0xef) {
        length = 3, code = u[0] & 0x0fu, least = 0x800;
    } else if (u[0] >= 0xf0 && u[0] <= 0xf4) {
        length = 4, code = u[0] & 0x07u, least = 0x10000;
    } else {
        return 0;
    }
    if (n_bytes < (size_t)length) return 0;
    for (int i = 1; i < length; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (u[i] & 0x3fu);
    }
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
    return length;
}

size_t sl_utf8_count(const char *s, size_t n_bytes) {
    size_t count = 0;
    for (size_t i = 0; i < n_bytes; count++) {
        const int length = sl_utf8_length(s + i, n_bytes - i);
        i += length ? (size_t)length : 1;
    }
    return count;
}

/* The escape of a byte below 0x20, a quote or a backslash. */
static void append_escape(sl_json_text *text, unsigned char c) {
    switch (c) {
    case '"':
        sl_json_raw(text, "\\\"");
        return;
    case '\\':
        sl_json_raw(text, "\\\\");
        return;
    case '\n':
        sl_json_raw(text, "\\n");
        return;
    case '\r':
        sl_json_raw(text, "\\r");
        return;
    case '\t':
        sl_json_raw(text, "\\t");
        return;
    default: {
        char buf[8];
        snprintf(buf, sizeof buf, "\\u%04x", c);
        sl_json_raw(text, buf);
    }
    }
}

void sl_json_escaped(sl_json_text *text, const char *s, size_t n_bytes) {
    size_t begin = 0; /* of the run of bytes that need no change */
    for (size_t i = 0; i < n_bytes;) {
        const unsigned char c = (unsigned char)s[i];
        const int length = sl_utf8_length(s + i, n_bytes - i);
        if (length && c >= 0x20 && c != '"' && c != '\\') {
            i += (size_t)length;
            continue;
        }
        sl_json_bytes(text, s + begin, i - begin);
        if (length) {
            append_escape(text, c);
        } else {
            sl_json_raw(text, "\xef\xbf\xbd");
        }
        begin = ++i;
    }
    sl_json_bytes(text, s + begin, n_bytes - begin);
}

void sl_json_string(sl_json_text *text, const char *s, size_t n_bytes) {
    sl_json_raw(text, "\"");
    sl_json_escaped(text, s, n_bytes);
    sl_json_raw(text, "\"");
}

void sl_json_cstring(sl_json_text *text, const char *s) {
    if (s) {
        sl_json_string(text, s, strlen(s));
    } else {
        sl_json_raw(text, "null");
    }
}
