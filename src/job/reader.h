/* reader.h - a job's input, line by line, from a file or a pipe.
 *
 * Nothing is read ahead beyond one buffer, so a job may be larger than memory and a slow pipe may
 * feed a running job.  Lines may hold any bytes.
 * Layer: job.  May include: base.  Thread safety: one owner per reader.
 */
#ifndef SL_JOB_READER_H
#define SL_JOB_READER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A longer line is skipped to its end and reported as too long: 64 MiB is a prompt of about 10
 * million words, and bounds what one line can make us hold. */
enum { SL_LINE_MAX_BYTES = 64 << 20 };

typedef enum {
    SL_READ_LINE,     /* a line */
    SL_READ_TOO_LONG, /* a line of more than the limit; its bytes are gone */
    SL_READ_NOTHING,  /* nothing there yet, or a signal came */
    SL_READ_END
} sl_read_kind;

typedef struct {
    sl_read_kind kind;
    const char *line; /* [n_bytes], without '\n'; valid until the next call; LINE only */
    size_t n_bytes;
    uint64_t number; /* of the line, from 1; LINE and TOO_LONG */
} sl_read;

typedef struct sl_reader sl_reader;

/* Opens `path`, or standard input for "-".
 *   max_line_bytes  0: SL_LINE_MAX_BYTES
 * Errors: SL_ERR_IO naming the path, SL_ERR_NOMEM. */
sl_status sl_reader_open(const char *path, size_t max_line_bytes, sl_reader **out);
void sl_reader_close(sl_reader *reader);

/* The next line.  A pipe or terminal without one is waited for half a second with `wait` 1 and not
 * at all with 0, then *out is NOTHING.  A last line without '\n' counts.
 * Errors: SL_ERR_IO, SL_ERR_NOMEM. */
sl_status sl_reader_next(sl_reader *reader, int wait, sl_read *out);

/* Lines of a regular file that are not blank, counted ahead; -1 where that cannot be known without
 * consuming the input.  The place of reading is not changed.  Blocks on the disk.
 *   hash_out  of the bytes counted (sl_hash); may be NULL */
int64_t sl_reader_count(sl_reader *reader, uint64_t *hash_out);

#endif
