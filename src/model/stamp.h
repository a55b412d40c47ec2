/* stamp.h - a number that tells one model's files from another's.
 *
 * It follows from the names, sizes and parts of the contents of the files, not from where they lie
 * or how old they are, so a copy on another host has the same.
 * Layer: model.  May include: base.  Thread safety: pure function over the file system.
 */
#ifndef SL_MODEL_STAMP_H
#define SL_MODEL_STAMP_H

#include <stdint.h>

#include "base/status.h"

/* The stamp of what sl_source_open() would open as `model`.  Of a file beyond 1 MiB its size, its
 * beginning and pieces all over it are taken.  A named dummy model has no files: 0.
 * Errors: SL_ERR_IO naming the file, SL_ERR_NOMEM. */
sl_status sl_model_stamp(const char *model, uint64_t *out);

#endif
