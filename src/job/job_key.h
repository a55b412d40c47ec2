/* job_key.h - which job an output belongs to: the names and values that its results follow from.
 *
 * Kept beside the output (resume.h) as one line of JSON, and compared when a run finds an output
 * that is not empty.  Values are texts, so that a difference can be shown as it is.
 * Layer: job.  May include: base.  Thread safety: one owner per key.
 */
#ifndef SL_JOB_JOB_KEY_H
#define SL_JOB_JOB_KEY_H

#include <stddef.h>

#include "base/status.h"
#include "job/json_text.h"

enum {
    SL_JOB_KEY_ENTRIES = 64,
    SL_JOB_KEY_MAX_BYTES = 8 << 20 /* of the line: beyond what a command line can hold */
};

typedef struct {
    char *name, *value; /* owned */
} sl_job_key_entry;

/* Starts as {0}. */
typedef struct {
    int n;
    sl_job_key_entry entries[SL_JOB_KEY_ENTRIES];
} sl_job_key;

void sl_job_key_free(sl_job_key *key);

/* Adds "name: value".  Errors: SL_ERR_NOMEM, SL_ERR_FORMAT (too many). */
sl_status sl_job_key_add(sl_job_key *key, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends the line, '\n' included.  A byte of a value that is no UTF-8 becomes U+FFFD.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_job_key_write(const sl_job_key *key, sl_json_text *out);

/* Reads a line, with or without '\n'.  *out is the caller's to free.
 * Errors: SL_ERR_FORMAT saying what is wrong with it, SL_ERR_NOMEM. */
sl_status sl_job_key_parse(const char *line, size_t n_bytes, sl_job_key *out);

/* Entries in which the two differ, and in `text` the first of them in words: "model: was a, is b".
 * A key that was just made must be written and parsed before it is compared with one from a file,
 * or values that are no UTF-8 differ from themselves: sl_job_key_same_form(). */
int sl_job_key_differs(const sl_job_key *was, const sl_job_key *is, char *text, size_t room);

/* A copy of `key` as it reads when it comes from a file.  Errors: SL_ERR_NOMEM. */
sl_status sl_job_key_same_form(const sl_job_key *key, sl_job_key *out);

#endif
