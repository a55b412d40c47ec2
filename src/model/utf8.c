#include "model/utf8.h"

#include <string.h>

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

int sl_utf8_write(uint32_t code_point, char *dst) {
    if (code_point < 0x80) {
        dst[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        dst[0] = (char)(0xc0 | code_point >> 6);
        dst[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        dst[0] = (char)(0xe0 | code_point >> 12);
        dst[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        dst[2] = (char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    dst[0] = (char)(0xf0 | code_point >> 18);
    dst[1] = (char)(0x80 | (code_point >> 12 & 0x3f));
    dst[2] = (char)(0x80 | (code_point >> 6 & 0x3f));
    dst[3] = (char)(0x80 | (code_point & 0x3f));
    return 4;
}

int sl_utf8_check(const char *s, size_t bytes, sl_utf8_state *state) {
    const unsigned char *u = (const unsigned char *)s;
    /* The second byte's range depends on the first: no overlong forms, no surrogates, nothing above
     * U+10FFFF (Unicode 15, table 3-7). */
    unsigned lo = 0x80, hi = 0xbf;
    int length;
    *state = SL_UTF8_VALID;
    if (u[0] < 0x80) return 1;
    if (u[0] >= 0xc2 && u[0] <= 0xdf) {
        length = 2;
    } else if (u[0] >= 0xe0 && u[0] <= 0xef) {
        length = 3;
        if (u[0] == 0xe0) lo = 0xa0;
        if (u[0] == 0xed) hi = 0x9f;
    } else if (u[0] >= 0xf0 && u[0] <= 0xf4) {
        length = 4;
        if (u[0] == 0xf0) lo = 0x90;
        if (u[0] == 0xf4) hi = 0x8f;
    } else {
        *state = SL_UTF8_INVALID;
        return 1;
    }
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= bytes) {
            *state = SL_UTF8_INCOMPLETE;
            return i;
        }
        if (u[i] < lo || u[i] > hi) {
            *state = SL_UTF8_INVALID;
            return i;
        }
        lo = 0x80;
        hi = 0xbf;
    }
    return length;
}

size_t sl_utf8_valid_prefix(const char *s, size_t bytes) {
    size_t i = 0;
    while (i < bytes) {
        /* Eight ASCII bytes at a time: most text. */
        uint64_t word;
        if (bytes - i >= sizeof word) {
            memcpy(&word, s + i, sizeof word);
            if (!(word & UINT64_C(0x8080808080808080))) {
                i += sizeof word;
                continue;
            }
        }
        sl_utf8_state state;
        const int n = sl_utf8_check(s + i, bytes - i, &state);
        if (state != SL_UTF8_VALID) break;
        i += (size_t)n;
    }
    return i;
}

void sl_utf8_put_lossy(sl_buffer *out, const char *s, size_t bytes) {
    size_t i = 0;
    while (i < bytes) {
        const size_t good = sl_utf8_valid_prefix(s + i, bytes - i);
        sl_buffer_put(out, s + i, good);
        i += good;
        if (i == bytes) break;
        sl_utf8_state state;
        i += (size_t)sl_utf8_check(s + i, bytes - i, &state);
        sl_buffer_put(out, replacement, sizeof replacement - 1);
    }
}
