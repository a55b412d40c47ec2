/* answered.h - the result lines that a file holds already: which requests they answer, and where
 * the last whole line ends.
 *
 * A result is known by its "id", which follows from the job's seed and the line's number alone
 * (sl_result_key() in result.h).  Layer: job.  May include: base.  Thread safety: one owner.
 */
#ifndef SL_JOB_ANSWERED_H
#define SL_JOB_ANSWERED_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    uint64_t key;    /* of the result: the first 16 digits of its id */
    uint64_t offset; /* of the line in the file */
    size_t n_bytes;  /* '\n' included */
    int status_code;
} sl_answered_line;

/* Starts as {0}; sl_answered_free() releases it. */
typedef struct {
    size_t n;
    sl_answered_line *lines; /* [n], by key */
    size_t room;
    uint64_t n_refused;   /* of n, those with an error */
    uint64_t whole_bytes; /* from the file's start to the end of the last whole line */
} sl_answered;

/* Reads the result lines of `fd` from byte `from`, which begins a line, to the end.  What follows
 * the last whole line is not counted: a line without '\n', and, from the first on, lines with zero
 * bytes, which a file system may leave where a host was lost.
 *   path  names the file in messages
 * Errors: SL_ERR_FORMAT (a whole line that is no result), SL_ERR_IO, SL_ERR_NOMEM. */
sl_status sl_answered_scan(int fd, uint64_t from, const char *path, sl_answered *out);
void sl_answered_free(sl_answered *answered);

/* The line with that key, or NULL. */
const sl_answered_line *sl_answered_find(const sl_answered *answered, uint64_t key);

/* 1 and *key_out, *status_out if `line` [n_bytes], without '\n', is a result. */
int sl_answered_read_line(const char *line, size_t n_bytes, uint64_t *key_out, int *status_out);

#endif
