/* json_text.h - a growing text that JSON is written to.
 *
 * Results are written by hand rather than through a tree so that a float appears with the digits
 * that give the same float back, and the same float always with the same digits.
 * A failed allocation is remembered: appending goes on doing nothing, and the writer asks once, at
 * the end, with sl_json_status().
 * Layer: job.  May include: base.  Thread safety: one owner per text.
 */
#ifndef SL_JOB_JSON_TEXT_H
#define SL_JOB_JSON_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    char *data; /* [n_bytes], zero-terminated once anything was appended; NULL at first */
    size_t n_bytes;
    size_t room_bytes;
    int failed; /* 1: an allocation failed; the text is incomplete */
} sl_json_text;

void sl_json_free(sl_json_text *text);  /* releases the bytes; the text is empty again */
void sl_json_clear(sl_json_text *text); /* keeps the bytes for the next use */

/* SL_ERR_NOMEM if an append failed since the last clear. */
sl_status sl_json_status(const sl_json_text *text);

void sl_json_raw(sl_json_text *text, const char *s);
void sl_json_bytes(sl_json_text *text, const char *s, size_t n_bytes);
void sl_json_int(sl_json_text *text, int64_t value);

/* Shortest digits that read back as the same float, always with a point or an exponent.  What JSON
 * has no number for is written as -9999.0 (minus infinity, NaN) or 9999.0. */
void sl_json_float(sl_json_text *text, float value);
void sl_json_double(sl_json_text *text, double value); /* 17 digits or fewer, reads back the same */

/* A string without and with its quotes, escaped; bytes that are no UTF-8 become U+FFFD. */
void sl_json_escaped(sl_json_text *text, const char *s, size_t n_bytes);
void sl_json_string(sl_json_text *text, const char *s, size_t n_bytes);
void sl_json_cstring(sl_json_text *text, const char *s); /* NULL is written as null */

/* Length of the UTF-8 character at s (at least one byte left), 0 if the bytes are no character.
 * Overlong forms, surrogates and values above U+10FFFF are none. */
int sl_utf8_length(const char *s, size_t n_bytes);

/* Characters in a text; each byte that is part of none counts as one. */
size_t sl_utf8_count(const char *s, size_t n_bytes);

#endif
