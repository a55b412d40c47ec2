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

/* Opens `path` for appending, making it if need be, or standard output for "-".  A file that is not
 * empty is refused unless `overwrite`; nothing is removed before sl_writer_start().
 * Errors: SL_ERR_ARG (the file is not empty), SL_ERR_IO. */
sl_status sl_writer_open(const char *path, int overwrite, sl_writer **out);
void sl_writer_close(sl_writer *writer);

/* Empties the file, if it is one that is to be overwritten.  Errors: SL_ERR_IO. */
sl_status sl_writer_start(sl_writer *writer);

/* Writes bytes that end with '\n'.  Blocks.  Errors: SL_ERR_IO with the system's reason. */
sl_status sl_writer_put(sl_writer *writer, const char *line, size_t n_bytes);

#endif
