/* disk.h - a file of 4 KiB-aligned bytes, read and written past the page cache, asynchronously.
 *
 * Transfers are queued and polled; many may be under way at a time, which is what a disk needs to
 * reach its rate.  io_uring with O_DIRECT where the system has them; else io_uring through the page
 * cache; else ordinary positional reads and writes in threads of their own.  sl_disk_engine()
 * tells. Of long queues only the first 128 MiB are with the system at a time; the next follow when
 * the caller polls any ticket. Layer: store.  May include: base.  Thread safety: one thread per
 * disk object.
 */
#ifndef SL_STORE_DISK_H
#define SL_STORE_DISK_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    SL_DISK_ALIGN = 4096,            /* of offsets, sizes and buffers */
    SL_DISK_REQUEST_BYTES = 1 << 20, /* larger transfers are split into requests of this size */
};

typedef struct sl_disk sl_disk;

/* A transfer under way; 0 is none. */
typedef uint64_t sl_disk_ticket;

/* Opens an existing file for reading.  Errors: SL_ERR_IO with path and reason, SL_ERR_NOMEM. */
sl_status sl_disk_open_read(const char *path, sl_disk **out);

/* Creates a file in `dir` that is unlinked at once, so that a killed run leaves nothing behind, and
 * reserves `bytes` for it, rounded up to SL_DISK_ALIGN.
 * Errors: SL_ERR_ARG (no bytes), SL_ERR_IO (no such folder, no space, with the numbers),
 * SL_ERR_NOMEM. */
sl_status sl_disk_open_scratch(const char *dir, size_t bytes, sl_disk **out);

/* Waits for what is under way, ignores its outcome, and closes. */
void sl_disk_close(sl_disk *disk);

/* Starts a transfer of `bytes` at `offset`; returns at once.  The buffer must stay until the ticket
 * is done.  offset, bytes and buf are multiples of SL_DISK_ALIGN.  Transfers of overlapping bytes
 * happen in no order.
 * Errors: SL_ERR_ARG (alignment, range beyond the file, writing to a file opened for reading),
 * SL_ERR_NOMEM. */
sl_status sl_disk_read(sl_disk *disk, size_t offset, size_t bytes, void *buf,
                       sl_disk_ticket *ticket_out);
sl_status sl_disk_write(sl_disk *disk, size_t offset, size_t bytes, const void *buf,
                        sl_disk_ticket *ticket_out);

/* Whether a transfer is done; never waits.  A ticket that is done, or has failed, may not be asked
 * for again.
 * Errors: SL_ERR_IO naming the file, the offset, the bytes and the reason (short read included):
 * the transfer is over, its buffer free and undefined; SL_ERR_ARG for a ticket that is not under
 * way. */
sl_status sl_disk_test(sl_disk *disk, sl_disk_ticket ticket, int *done_out);

/* Waits for one transfer.  Errors as sl_disk_test(). */
sl_status sl_disk_wait(sl_disk *disk, sl_disk_ticket ticket);

/* "io_uring, O_DIRECT", "io_uring, page cache", "threads, O_DIRECT" or "threads, page cache". */
const char *sl_disk_engine(const sl_disk *disk);

typedef struct {
    uint64_t read_bytes, written_bytes; /* of what has ended */
    /* Time during which at least one such transfer was under way, until the caller saw its end. */
    double read_busy_s, write_busy_s;
} sl_disk_stats;
void sl_disk_get_stats(const sl_disk *disk, sl_disk_stats *out);

#endif
