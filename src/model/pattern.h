/* pattern.h - the regular expressions of tokenizer files, matched with PCRE2.
 *
 * The files write their patterns for Oniguruma.  What means the same in PCRE2 is passed on, what
 * differs is translated (\s, \v, \u), and what cannot be is refused by name.  Letters and numbers
 * newer than the installed PCRE2's tables (10.42: Unicode 14) count as other characters.
 * Layer: model.  May include: base.  Thread safety: a pattern is immutable; a match has one owner.
 */
#ifndef SL_MODEL_PATTERN_H
#define SL_MODEL_PATTERN_H

#include <stddef.h>

#include "base/status.h"

typedef struct sl_pattern sl_pattern;
typedef struct sl_pattern_match sl_pattern_match;

/* Compiles a pattern, with PCRE2's JIT where the machine has one.
 * Errors: SL_ERR_FORMAT naming `where`, the pattern and the construct; SL_ERR_NOMEM. */
sl_status sl_pattern_open(const char *source, size_t bytes, const char *where, sl_pattern **out);
void sl_pattern_close(sl_pattern *pattern);

/* Working memory for searches, of any pattern. */
sl_status sl_pattern_match_open(sl_pattern_match **out);
void sl_pattern_match_close(sl_pattern_match *match);

/* Searches subject[0, bytes), valid UTF-8, from byte `from` on.
 * *found_out = 0 or 1; with 1, [*start_out, *end_out) is the match, which may be empty.
 * Errors: SL_ERR_FORMAT when the pattern needs more steps than a sane one does, SL_ERR_NOMEM. */
sl_status sl_pattern_find(const sl_pattern *pattern, sl_pattern_match *match, const char *subject,
                          size_t bytes, size_t from, int *found_out, size_t *start_out,
                          size_t *end_out);

#endif
