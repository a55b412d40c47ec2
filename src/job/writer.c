#include "job/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct sl_writer {
    char *path;
    int fd;
    int is_file; /* a regular file: it can hold something already */
};

sl_status sl_writer_open(const char *path, int overwrite, sl_writer **out) {
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
    writer->fd = is_stdout ? dup(STDOUT_FILENO)
                           : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (writer->fd < 0 || fstat(writer->fd, &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "open output %s: %s", writer->path, strerror(errno));
        goto fail;
    }
    /* What standard output is directed to is the shell's business. */
    writer->is_file = !is_stdout && S_ISREG(info.st_mode);
    if (writer->is_file && info.st_size > 0 && !overwrite) {
        st = SL_FAIL(SL_ERR_ARG,
                     "output %s exists and holds %lld bytes; name another file, or give "
                     "--overwrite to replace it",
                     path, (long long)info.st_size);
        goto fail;
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

sl_status sl_writer_start(sl_writer *writer) {
    if (writer->is_file && ftruncate(writer->fd, 0) != 0)
        return SL_FAIL(SL_ERR_IO, "empty output %s: %s", writer->path, strerror(errno));
    return SL_OK;
}

sl_status sl_writer_put(sl_writer *writer, const char *line, size_t n_bytes) {
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
