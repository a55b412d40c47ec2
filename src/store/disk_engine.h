/* disk_engine.h - what carries out the requests of a disk: io_uring, threads, or a simulation.
 *
 * disk.c splits transfers into requests, counts, and judges results; an engine carries requests out
 * and knows nothing of transfers.
 * Layer: store.  May include: base.  Thread safety: one thread per object.
 */
#ifndef SL_STORE_DISK_ENGINE_H
#define SL_STORE_DISK_ENGINE_H

#include <stddef.h>
#include <sys/types.h>

#include "base/status.h"
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

/* A disk of `bytes` without a file; `name` in messages.  Transfers are not split: each is one
 * request to the engine, which is open already (ops->open is not used) and is closed with the disk,
 * or by the caller on failure.  Errors: SL_ERR_NOMEM. */
sl_status sl_disk_open_engine(const sl_disk_engine_ops *ops, void *engine, const char *name,
                              size_t bytes, sl_disk **out);

#endif
