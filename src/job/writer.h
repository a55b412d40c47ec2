/* writer.h - a job's output: whole lines, each in the file before the next begins.
 *
 * A line is handed to the system as soon as it is written, so what a killed run has answered stays.
 * Layer: job.  May include: base.  Thread safety: one owner per writer.
 */
#ifndef SL_JOB_WRITER_H
#define SL_JOB_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sl_writer sl_writer;

/* Opens `path` for appending, making it if need be, or standard output for "-".  A file that
 * another process writes this way is waited for a few seconds (a run that was killed is still
 * going), then refused.  Nothing is removed before sl_writer_start().
 * Errors: SL_ERR_ARG (another run has the file), SL_ERR_IO. */
sl_status sl_writer_open(const char *path, sl_writer **out);
void sl_writer_close(sl_writer *writer);

int sl_writer_is_file(const sl_writer *writer);    /* a regular file, which can be gone on with */
int sl_writer_is_new(const sl_writer *writer);     /* made by sl_writer_open() */
uint64_t sl_writer_bytes(const sl_writer *writer); /* in the file; 0 where it is none */

/* Cuts the file, if it is one, to its first `keep_bytes`, where lines begin to be written.
 * Errors: SL_ERR_IO. */
sl_status sl_writer_start(sl_writer *writer, uint64_t keep_bytes);

/* Writes bytes that end with '\n', with one call where the system takes them at once.  Blocks.  A
 * line that does not fit (a full disk) is cut off again: the file ends with a whole line.
 * Errors: SL_ERR_IO with the system's reason. */
sl_status sl_writer_put(sl_writer *writer, const char *line, size_t n_bytes);

/* Has what was written put onto the disk.  Blocks.  Errors: SL_ERR_IO. */
sl_status sl_writer_sync(sl_writer *writer);

#endif
