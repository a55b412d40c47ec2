/* disk_impl.h - what disk.c shares with its own engines, and with the writer of packed files.
 *
 * Private to src/store and its tests.
 * Layer: store.  May include: base.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_DISK_IMPL_H
#define SL_STORE_DISK_IMPL_H

#include "store/disk.h"
#include "store/disk_engine.h"

extern const sl_disk_engine_ops sl_disk_uring;   /* disk_uring.c */
extern const sl_disk_engine_ops sl_disk_threads; /* disk_thread.c */

/* Which engine, and whether the page cache is passed by. */
typedef enum {
    SL_DISK_AUTO, /* the first of the following that works here */
    SL_DISK_URING_DIRECT,
    SL_DISK_URING,
    SL_DISK_THREADS_DIRECT,
    SL_DISK_THREADS,
    SL_DISK_N_MODES
} sl_disk_mode;

/* As the public functions, with a mode.  Errors: also SL_ERR_IO when it does not work here. */
sl_status sl_disk_open_read_as(const char *path, sl_disk_mode mode, sl_disk **out);
sl_status sl_disk_open_scratch_as(const char *dir, size_t bytes, sl_disk_mode mode, sl_disk **out);

/* Reserves `bytes` (a multiple of SL_DISK_ALIGN) for the file, `name` in messages, and opens it for
 * reading and writing.  The descriptor is owned by *out from then on, by the caller on failure.
 * Errors: SL_ERR_IO (no space, with the numbers), SL_ERR_NOMEM. */
sl_status sl_disk_open_fd(int fd, const char *name, size_t bytes, sl_disk_mode mode, sl_disk **out);

/* Goes on with another engine, one that a test has made to fail for example; no transfer may be
 * under way.  Errors: those of the engine's open; then the disk is as before. */
sl_status sl_disk_replace_engine(sl_disk *disk, const sl_disk_engine_ops *ops);

/* Waits until what has been written is on the medium; no transfer may be under way.
 * Errors: SL_ERR_IO. */
sl_status sl_disk_sync(sl_disk *disk);

size_t sl_disk_bytes(const sl_disk *disk); /* of the file when it was opened */

/* Transfer slots made so far: constant in steady state. */
int sl_disk_n_slots(const sl_disk *disk);

#endif
