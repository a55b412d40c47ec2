#include "job/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

/* How long another run may take to end after it was killed. */
static const double LOCK_WAIT_S = 5.0, LOCK_LOOK_S = 0.05;

struct sl_writer {
    char *path;
    int fd;
    int is_file; /* a regular file: it can hold something already */
    int is_new;
    int unsynced;     /* something was written since the last sync */
    uint64_t n_bytes; /* in the file: whole lines */
};

/* Two runs that append to one file would answer every request twice.  Where the file system has no
 * locks there is none. */
static sl_status lock(const sl_writer *writer) {
    const double start_s = sl_clock_s();
    while (flock(writer->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        if (sl_clock_s() - start_s > LOCK_WAIT_S)
            return SL_FAIL(SL_ERR_ARG, "output %s is being written by another run", writer->path);
        sl_clock_sleep(LOCK_LOOK_S);
    }
    return SL_OK;
}

static int open_file(const char *path, int *is_new_out) {
    const int flags = O_WRONLY | O_APPEND | O_CLOEXEC;
    int fd = open(path, flags | O_CREAT | O_EXCL, 0666);
    *is_new_out = fd >= 0;
    if (fd < 0 && errno == EEXIST) fd = open(path, flags | O_CREAT, 0666);
    return fd;
}

sl_status sl_writer_open(const char *path, sl_writer **out) {
    sl_status st = SL_OK;
    struct stat info;
    const int is_stdout = strcmp(path, "-") == 0;
    sl_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return SL_FAIL(SL_ERR_NOMEM, "writer: out of host memory");
    writer->fd = -1;
    writer->path = strdup(is_stdout ? "standard output" : path);
    if (!writer->path) {
        st = SL_FAIL(SL_ERR_NOMEM, "writer: out of host memory");
        goto fail;
    }
    writer->fd = is_stdout ? dup(STDOUT_FILENO) : open_file(path, &writer->is_new);
    if (writer->fd < 0 || fstat(writer->fd, &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "open output %s: %s", writer->path, strerror(errno));
        goto fail;
    }
    /* What standard output is directed to is the shell's business. */
    writer->is_file = !is_stdout && S_ISREG(info.st_mode);
    if (writer->is_file) {
        SL_GO(lock(writer));
        if (fstat(writer->fd, &info) != 0) { /* the other run may have written until now */
            st = SL_FAIL(SL_ERR_IO, "open output %s: %s", writer->path, strerror(errno));
            goto fail;
        }
        writer->n_bytes = (uint64_t)info.st_size;
    }
    *out = writer;
    return SL_OK;

fail:
    sl_writer_close(writer);
    return st;
}

void sl_writer_close(sl_writer *writer) {
    if (!writer) return;
    if (writer->fd >= 0) close(writer->fd);
    free(writer->path);
    free(writer);
}

int sl_writer_is_file(const sl_writer *writer) {
    return writer->is_file;
}

int sl_writer_is_new(const sl_writer *writer) {
    return writer->is_new;
}

uint64_t sl_writer_bytes(const sl_writer *writer) {
    return writer->n_bytes;
}

sl_status sl_writer_start(sl_writer *writer, uint64_t keep_bytes) {
    if (!writer->is_file) return SL_OK;
    if (ftruncate(writer->fd, (off_t)keep_bytes) != 0)
        return SL_FAIL(SL_ERR_IO, "cut output %s to %llu bytes: %s", writer->path,
                       (unsigned long long)keep_bytes, strerror(errno));
    writer->n_bytes = keep_bytes;
    writer->unsynced = 1;
    return sl_writer_sync(writer);
}

static sl_status put(sl_writer *writer, const char *line, size_t n_bytes) {
    while (n_bytes > 0) {
        const ssize_t n = write(writer->fd, line, n_bytes);
        if (n < 0 && errno == EAGAIN) { /* a pipe that its other end made non-blocking */
            struct pollfd ask = {.fd = writer->fd, .events = POLLOUT};
            (void)poll(&ask, 1, -1);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return SL_FAIL(SL_ERR_IO, "write %zu bytes to %s: %s", n_bytes, writer->path,
                           strerror(errno));
        if (n > 0) {
            line += n;
            n_bytes -= (size_t)n;
        }
    }
    return SL_OK;
}

sl_status sl_writer_put(sl_writer *writer, const char *line, size_t n_bytes) {
    const sl_status st = put(writer, line, n_bytes);
    if (!writer->is_file) return st;
    writer->unsynced = 1;
    if (st == SL_OK) {
        writer->n_bytes += n_bytes;
    } else if (ftruncate(writer->fd, (off_t)writer->n_bytes) != 0) {
        /* The next run cuts it; the first failure is the one to tell. */
    }
    return st;
}

sl_status sl_writer_sync(sl_writer *writer) {
    if (!writer->is_file || !writer->unsynced) return SL_OK;
    /* EINVAL: a file of a kind that has no disk below it. */
    if (fdatasync(writer->fd) != 0 && errno != EINVAL && errno != EROFS)
        return SL_FAIL(SL_ERR_IO, "write %s to disk: %s", writer->path, strerror(errno));
    writer->unsynced = 0;
    return SL_OK;
}
