/* disk_impl.h - what disk.c shares with its engines, and with the writer of packed files.
 *
 * disk.c splits transfers into requests, counts, and judges results; an engine carries requests out
 * and knows nothing of transfers.  Private to src/store and its tests.
 * Layer: store.  May include: base.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_DISK_IMPL_H
#define SL_STORE_DISK_IMPL_H

#include <sys/types.h>

#include "store/disk.h"

/* Requests under way at a time, 128 MiB of data: a disk works on all of them while the caller is
 * busy elsewhere, since the next ones are only handed over when the caller polls. */
enum { SL_DISK_DEPTH = 128 };

typedef struct {
    size_t offset; /* where this request goes on; advances over short results */
    size_t bytes;  /* still to be moved */
    unsigned char *buf;
    int is_write;
    int transfer;   /* index of the transfer it is a part of */
    int n_idle;     /* results in a row that moved nothing */
    ssize_t result; /* set by the engine: bytes moved, or -errno */
    size_t n_moved; /* bytes moved so far */
} sl_disk_request;

typedef struct {
    const char *name; /* "io_uring", "threads" */

    /* Starts the engine on a file; at most `depth` requests will be under way.
     * Errors: SL_ERR_IO with the reason, SL_ERR_NOMEM. */
    sl_status (*open)(int fd, int depth, int is_direct, void **out);

    /* Legal only when no request is under way. */
    void (*close)(void *engine);

    /* Takes a request, which stays in place until it is reaped.  Never waits, cannot fail: what
     * goes wrong is the request's result. */
    void (*submit)(void *engine, sl_disk_request *request);

    /* Begins what has been submitted, if submit did not. */
    void (*flush)(void *engine);

    /* A request that has ended, or NULL.  With `wait`, sleeps until one has, unless none is under
     * way. */
    sl_disk_request *(*reap)(void *engine, int wait);
} sl_disk_engine_ops;

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
