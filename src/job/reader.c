#include "job/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum {
    CHUNK_BYTES = 256 << 10,
    WAIT_MS = 500 /* a signal may come just before the wait begins: look again that often */
};

struct sl_reader {
    char *path;
    int fd;
    int is_file;  /* a regular file: always ready, and can be counted */
    int ended;    /* read() gave 0 */
    int skipping; /* inside a line that is too long */
    size_t max_line_bytes;
    char *data; /* [room_bytes]; unread bytes are [begin, end) */
    size_t room_bytes, begin, end;
    size_t searched; /* no '\n' in [begin, searched) */
    uint64_t number;
};

sl_status sl_reader_open(const char *path, size_t max_line_bytes, sl_reader **out) {
    sl_status st = SL_OK;
    struct stat info;
    sl_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return SL_FAIL(SL_ERR_NOMEM, "reader: out of host memory");
    reader->fd = -1;
    reader->max_line_bytes = max_line_bytes ? max_line_bytes : SL_LINE_MAX_BYTES;
    reader->path = strdup(strcmp(path, "-") == 0 ? "standard input" : path);
    reader->room_bytes = CHUNK_BYTES;
    reader->data = malloc(reader->room_bytes);
    if (!reader->path || !reader->data) {
        st = SL_FAIL(SL_ERR_NOMEM, "reader of %s: out of host memory", path);
        goto fail;
    }
    reader->fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0 || fstat(reader->fd, &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "open input %s: %s", path, strerror(errno));
        goto fail;
    }
    if (S_ISDIR(info.st_mode)) {
        st = SL_FAIL(SL_ERR_IO, "input %s is a folder, expected a file of requests", path);
        goto fail;
    }
    reader->is_file = S_ISREG(info.st_mode);
    *out = reader;
    return SL_OK;

fail:
    sl_reader_close(reader);
    return st;
}

void sl_reader_close(sl_reader *reader) {
    if (!reader) return;
    if (reader->fd >= 0) close(reader->fd);
    free(reader->data);
    free(reader->path);
    free(reader);
}

/* Moves the unread bytes to the front and makes room for a chunk behind them. */
static sl_status make_room(sl_reader *reader) {
    if (reader->begin > 0) {
        memmove(reader->data, reader->data + reader->begin, reader->end - reader->begin);
        reader->searched -= reader->begin;
        reader->end -= reader->begin;
        reader->begin = 0;
    }
    if (reader->room_bytes - reader->end >= CHUNK_BYTES) return SL_OK;
    /* The line in hand is at most max_line_bytes and a chunk, so this stays bounded. */
    const size_t room = reader->room_bytes * 2;
    char *data = realloc(reader->data, room);
    if (!data)
        return SL_FAIL(SL_ERR_NOMEM, "%s: line %llu: out of host memory for %zu bytes",
                       reader->path, (unsigned long long)reader->number + 1, room);
    reader->data = data;
    reader->room_bytes = room;
    return SL_OK;
}

/* Reads a chunk.  *got_out = 0: nothing there yet, or a signal came. */
static sl_status fill(sl_reader *reader, int wait, int *got_out) {
    if (!reader->is_file) {
        struct pollfd ask = {.fd = reader->fd, .events = POLLIN};
        const int n = poll(&ask, 1, wait ? WAIT_MS : 0);
        if (n == 0 || (n < 0 && errno == EINTR)) {
            *got_out = 0;
            return SL_OK;
        }
        if (n < 0) return SL_FAIL(SL_ERR_IO, "wait for %s: %s", reader->path, strerror(errno));
    }
    SL_TRY(make_room(reader));
    const ssize_t n =
        read(reader->fd, reader->data + reader->end, reader->room_bytes - reader->end);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        *got_out = 0;
        return SL_OK;
    }
    if (n < 0)
        return SL_FAIL(SL_ERR_IO, "read %s after line %llu: %s", reader->path,
                       (unsigned long long)reader->number, strerror(errno));
    if (n == 0) reader->ended = 1;
    reader->end += (size_t)n;
    *got_out = 1;
    return SL_OK;
}

/* Ends the line in hand at `stop` (its '\n', or the end of the input). */
static void give_line(sl_reader *reader, size_t stop, sl_read *out) {
    const size_t n_bytes = stop - reader->begin;
    const int too_long = reader->skipping || n_bytes > reader->max_line_bytes;
    reader->number++;
    *out = (sl_read){.kind = too_long ? SL_READ_TOO_LONG : SL_READ_LINE, .number = reader->number};
    if (!too_long) {
        out->line = reader->data + reader->begin;
        out->n_bytes = n_bytes;
    }
    reader->skipping = 0;
    reader->begin = stop < reader->end ? stop + 1 : stop;
    reader->searched = reader->begin;
}

sl_status sl_reader_next(sl_reader *reader, int wait, sl_read *out) {
    for (;;) {
        const char *newline =
            memchr(reader->data + reader->searched, '\n', reader->end - reader->searched);
        if (newline) {
            give_line(reader, (size_t)(newline - reader->data), out);
            return SL_OK;
        }
        reader->searched = reader->end;
        if (reader->end - reader->begin > reader->max_line_bytes) {
            reader->skipping = 1;
            reader->begin = reader->end;
        }
        if (reader->ended) {
            if (reader->begin == reader->end && !reader->skipping) {
                *out = (sl_read){.kind = SL_READ_END};
            } else {
                give_line(reader, reader->end, out);
            }
            return SL_OK;
        }
        int got = 0;
        SL_TRY(fill(reader, wait, &got));
        if (!got) {
            *out = (sl_read){.kind = SL_READ_NOTHING};
            return SL_OK;
        }
    }
}

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A whole chunk from `offset`, less at the end of the file; the hash must not hang on how much the
 * system gives at a time. */
static ssize_t read_chunk(int fd, char *chunk, off_t offset) {
    size_t got = 0;
    while (got < CHUNK_BYTES) {
        const ssize_t n = pread(fd, chunk + got, CHUNK_BYTES - got, offset + (off_t)got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

int64_t sl_reader_count(sl_reader *reader, uint64_t *hash_out) {
    off_t offset = reader->is_file ? lseek(reader->fd, 0, SEEK_CUR) : -1;
    char *chunk = offset < 0 ? NULL : malloc(CHUNK_BYTES);
    if (!chunk) return -1;
    offset -= (off_t)(reader->end - reader->begin); /* bytes in hand are still to be given out */
    int64_t count = 0;
    uint64_t hash = 0;
    int has_text = 0; /* the line so far is not blank */
    ssize_t n;
    while ((n = read_chunk(reader->fd, chunk, offset)) > 0) {
        offset += n;
        if (hash_out) hash = sl_hash(hash, chunk, (size_t)n);
        for (ssize_t i = 0; i < n; i++) {
            if (chunk[i] == '\n') {
                count += has_text;
                has_text = 0;
            } else if (!has_text && !is_space(chunk[i])) {
                has_text = 1;
            }
        }
    }
    free(chunk);
    if (n < 0) return -1;
    if (hash_out) *hash_out = hash;
    return count + has_text;
}
