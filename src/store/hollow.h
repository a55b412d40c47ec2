/* hollow.h - memory and disks that are accounted for but hold nothing.
 *
 * A backend that computes nothing stands in for a machine that need not exist here.  What it is
 * given is hollow: host memory is taken from the tier's budget but never touched, weights are laid
 * out but not read, no file is made, and a disk's transfers take their time and move nothing.
 * Layer: store.  May include: base.  Thread safety: as the backend's.
 */
#ifndef SL_STORE_HOLLOW_H
#define SL_STORE_HOLLOW_H

#include <stddef.h>

#include "base/status.h"
#include "store/disk.h"

struct sl_backend;

/* What such a backend offers in place of contents; a backend that computes has no such table. */
typedef struct {
    /* A disk of `bytes`, a multiple of SL_DISK_ALIGN; `name` in messages.  Errors: SL_ERR_NOMEM,
     * SL_ERR_ARG when the machine has no disk. */
    sl_status (*open_disk)(struct sl_backend *be, const char *name, size_t bytes, sl_disk **out);
} sl_hollow_ops;

/* A scratch file in `dir` (sl_disk_open_scratch()), or with `hollow` what takes its place. */
sl_status sl_hollow_open_scratch(const sl_hollow_ops *hollow, struct sl_backend *be,
                                 const char *dir, size_t bytes, sl_disk **out);

#endif
