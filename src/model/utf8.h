/* utf8.h - UTF-8 read, checked and repaired, one character at a time.
 *
 * Layer: model.  May include: base.  Thread safety: pure functions.
 */
#ifndef SL_MODEL_UTF8_H
#define SL_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

/* Code point of the character at s, which must be whole and valid; returns its bytes, 1 to 4. */
static inline int sl_utf8_next(const char *s, uint32_t *code_point) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *code_point = u[0];
        return 1;
    }
    if (u[0] < 0xe0) {
        *code_point = (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
        return 2;
    }
    if (u[0] < 0xf0) {
        *code_point = (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
        return 3;
    }
    *code_point = (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 |
                  (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
    return 4;
}

/* Writes a code point (no surrogate, <= 0x10FFFF) to dst[4]; returns its bytes. */
int sl_utf8_write(uint32_t code_point, char *dst);

typedef enum {
    SL_UTF8_VALID,     /* a whole character */
    SL_UTF8_INVALID,   /* bytes that start no character, whatever follows */
    SL_UTF8_INCOMPLETE /* the text ends inside a character that was valid so far */
} sl_utf8_state;

/* Looks at the character at s (bytes > 0) and returns how many bytes it takes.  For INVALID and
 * INCOMPLETE that is the maximal subpart, the stretch that one U+FFFD replaces in Python and Rust.
 * Source: Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts". */
int sl_utf8_check(const char *s, size_t bytes, sl_utf8_state *state);

/* Length of the longest prefix that is valid UTF-8. */
size_t sl_utf8_valid_prefix(const char *s, size_t bytes);

/* Puts s with every maximal invalid subpart replaced by U+FFFD. */
void sl_utf8_put_lossy(sl_buffer *out, const char *s, size_t bytes);

#endif
