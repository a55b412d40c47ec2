/* The io_uring engine: requests go to the kernel in batches and come back in any order. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/disk_impl.h"

/* The kernel may be short of memory for a request while nothing is under way that would free some:
 * it is asked again for a second, then the requests fail with its reason. */
enum { MAX_STALLS = 10000 };
#define STALL_S 1e-4

typedef struct {
    struct io_uring ring;
    int fd;
    unsigned flags; /* of every entry */
    int depth;
    int n_in_kernel;
    int broken; /* errno after which the ring takes nothing more, else 0 */
    int n_stalls;
    /* What waits for the kernel to take it, or, once the ring is broken, to be reaped: a circle. */
    sl_disk_request **queue; /* [depth] */
    int queue_first, n_queued;
} uring;

static int knows_operations(struct io_uring *ring) {
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    if (!probe) return 0;
    const int ok = io_uring_opcode_supported(probe, IORING_OP_READ) &&
                   io_uring_opcode_supported(probe, IORING_OP_WRITE);
    io_uring_free_probe(probe);
    return ok;
}

static sl_status open_uring(int fd, int depth, int is_direct, void **out) {
    uring *u = calloc(1, sizeof *u);
    if (!u) return SL_FAIL(SL_ERR_NOMEM, "io_uring: out of host memory");
    u->queue = calloc((size_t)depth, sizeof *u->queue);
    if (!u->queue) {
        free(u);
        return SL_FAIL(SL_ERR_NOMEM, "io_uring: out of host memory");
    }
    const int rc = io_uring_queue_init((unsigned)depth, &u->ring, 0);
    if (rc < 0) {
        free(u->queue);
        free(u);
        return SL_FAIL(SL_ERR_IO, "io_uring with %d entries: %s", depth, strerror(-rc));
    }
    if (!knows_operations(&u->ring)) {
        io_uring_queue_exit(&u->ring);
        free(u->queue);
        free(u);
        return SL_FAIL(SL_ERR_IO, "io_uring: this kernel's does not read and write plainly");
    }
    u->fd = fd;
    u->depth = depth;
    /* What lies in the page cache would be copied within the submitting call. */
    u->flags = is_direct ? 0 : IOSQE_ASYNC;
    *out = u;
    return SL_OK;
}

static void close_uring(void *engine) {
    uring *u = engine;
    if (!u) return;
    io_uring_queue_exit(&u->ring);
    free(u->queue);
    free(u);
}

static sl_disk_request *take_queued(uring *u) {
    sl_disk_request *request = u->queue[u->queue_first];
    u->queue_first = (u->queue_first + 1) % u->depth;
    u->n_queued--;
    return request;
}

static void submit(void *engine, sl_disk_request *request) {
    uring *u = engine;
    u->queue[(u->queue_first + u->n_queued) % u->depth] = request;
    u->n_queued++;
    if (u->broken) return;
    /* The ring has an entry for every request that may be under way. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        u->broken = ENOBUFS;
        return;
    }
    const unsigned bytes = (unsigned)request->bytes;
    if (request->is_write)
        io_uring_prep_write(sqe, u->fd, request->buf, bytes, request->offset);
    else
        io_uring_prep_read(sqe, u->fd, request->buf, bytes, request->offset);
    io_uring_sqe_set_flags(sqe, u->flags);
    io_uring_sqe_set_data(sqe, request);
}

static void flush(void *engine) {
    uring *u = engine;
    while (u->n_queued > 0 && !u->broken) {
        const int rc = io_uring_submit(&u->ring);
        if (rc == -EINTR) continue;
        if (rc == 0 || rc == -EAGAIN || rc == -EBUSY) return; /* again when something has ended */
        if (rc < 0) {
            u->broken = -rc;
            return;
        }
        u->n_stalls = 0;
        for (int i = 0; i < rc && u->n_queued > 0; i++) {
            take_queued(u); /* the kernel takes them in order */
            u->n_in_kernel++;
        }
    }
}

static sl_disk_request *take_completed(uring *u) {
    struct io_uring_cqe *cqe = NULL;
    if (io_uring_peek_cqe(&u->ring, &cqe) != 0 || !cqe) return NULL;
    sl_disk_request *request = io_uring_cqe_get_data(cqe);
    request->result = cqe->res;
    io_uring_cqe_seen(&u->ring, cqe);
    u->n_in_kernel--;
    return request;
}

static sl_disk_request *reap(void *engine, int wait) {
    uring *u = engine;
    for (;;) {
        flush(u);
        sl_disk_request *request = take_completed(u);
        if (request) return request;
        if (u->broken && u->n_queued > 0) { /* the kernel has not seen it and never will */
            request = take_queued(u);
            request->result = -u->broken;
            return request;
        }
        if (!wait || u->n_in_kernel + u->n_queued == 0) return NULL;
        struct io_uring_cqe *cqe = NULL;
        if (u->n_in_kernel > 0 && io_uring_wait_cqe(&u->ring, &cqe) == 0) continue;
        /* Interrupted, or nothing to wait for yet. */
        sl_clock_sleep(STALL_S);
        if (u->n_in_kernel == 0 && ++u->n_stalls > MAX_STALLS) u->broken = EAGAIN;
    }
}

const sl_disk_engine_ops sl_disk_uring = {
    .name = "io_uring",
    .open = open_uring,
    .close = close_uring,
    .submit = submit,
    .flush = flush,
    .reap = reap,
};
