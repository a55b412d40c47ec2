#include "store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "store/disk_impl.h"

enum {
    NONE = -1,             /* no transfer */
    FIRST_SLOTS = 64,      /* of transfers; doubled when all are taken */
    MAX_IDLE = 1000,       /* results in a row that moved nothing, before a request gives up */
    MAX_NAME = 4096,       /* of a scratch file */
    ENDED_EARLY = 1 << 20, /* in place of an errno: the file ended, or took no more */
};

/* One sl_disk_read() or sl_disk_write(). */
typedef struct {
    uint32_t generation; /* of this slot; part of the ticket */
    int is_used, is_write;
    size_t offset, bytes;
    unsigned char *buf;
    size_t handed;   /* bytes that have become requests */
    int n_under_way; /* requests */
    int next;        /* in the list of free slots, or of those that wait for requests */
    int error;       /* of its first failed part, 0 while all is well */
    size_t error_offset, error_bytes, error_moved;
} transfer;

struct sl_disk {
    int fd; /* -1: there is no file */
    char *path;
    size_t bytes;
    size_t request_bytes; /* larger transfers are split */
    int is_writable;
    const sl_disk_engine_ops *ops;
    void *engine;
    char engine_name[32];
    transfer *slots; /* [n_slots] */
    int n_slots, first_free;
    int first_waiting, last_waiting; /* transfers that have parts not yet handed over, in order */
    sl_disk_request requests[SL_DISK_DEPTH];
    int free_requests[SL_DISK_DEPTH], n_free_requests;
    int n_active[2]; /* transfers under way: reads, writes */
    double since_s[2], busy_s[2];
    uint64_t moved_bytes[2];
};

/* Opening. */

static sl_status go_direct(sl_disk *d) {
    const int flags = fcntl(d->fd, F_GETFL);
    if (flags < 0 || fcntl(d->fd, F_SETFL, flags | O_DIRECT) != 0)
        return SL_FAIL(SL_ERR_IO, "%s: O_DIRECT: %s", d->path, strerror(errno));
    if (d->bytes < SL_DISK_ALIGN) return SL_OK;
    /* Some file systems take the flag and refuse the transfers. */
    void *block = NULL;
    if (posix_memalign(&block, SL_DISK_ALIGN, SL_DISK_ALIGN) != 0)
        return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", d->path);
    ssize_t got;
    do got = pread(d->fd, block, SL_DISK_ALIGN, 0);
    while (got < 0 && errno == EINTR);
    const int err = errno;
    free(block);
    return got < 0 ? SL_FAIL(SL_ERR_IO, "%s: first read with O_DIRECT: %s", d->path, strerror(err))
                   : SL_OK;
}

static sl_status go_cached(sl_disk *d) {
    const int flags = fcntl(d->fd, F_GETFL);
    if (flags < 0 || fcntl(d->fd, F_SETFL, flags & ~O_DIRECT) != 0)
        return SL_FAIL(SL_ERR_IO, "%s: without O_DIRECT: %s", d->path, strerror(errno));
    return SL_OK;
}

static sl_status start_engine(sl_disk *d, sl_disk_mode mode) {
    const int is_direct = mode == SL_DISK_URING_DIRECT || mode == SL_DISK_THREADS_DIRECT;
    const int is_uring = mode == SL_DISK_URING_DIRECT || mode == SL_DISK_URING;
    SL_TRY(is_direct ? go_direct(d) : go_cached(d));
    const sl_disk_engine_ops *ops = is_uring ? &sl_disk_uring : &sl_disk_threads;
    SL_TRY(ops->open(d->fd, SL_DISK_DEPTH, is_direct, &d->engine));
    d->ops = ops;
    snprintf(d->engine_name, sizeof d->engine_name, "%s, %s", ops->name,
             is_direct ? "O_DIRECT" : "page cache");
    return SL_OK;
}

sl_status sl_disk_replace_engine(sl_disk *disk, const sl_disk_engine_ops *ops) {
    void *engine;
    SL_TRY(ops->open(disk->fd, SL_DISK_DEPTH, 0, &engine));
    disk->ops->close(disk->engine);
    disk->ops = ops;
    disk->engine = engine;
    snprintf(disk->engine_name, sizeof disk->engine_name, "%s", ops->name);
    return SL_OK;
}

static void free_disk(sl_disk *d) {
    if (d->ops) d->ops->close(d->engine);
    free(d->slots);
    free(d->path);
    free(d);
}

/* All but the engine. */
static sl_status make_disk(int fd, const char *path, size_t bytes, int is_writable, sl_disk **out) {
    sl_disk *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    d->fd = fd;
    d->bytes = bytes;
    d->request_bytes = SL_DISK_REQUEST_BYTES;
    d->is_writable = is_writable;
    d->first_free = d->first_waiting = d->last_waiting = NONE;
    for (int i = 0; i < SL_DISK_DEPTH; i++) d->free_requests[d->n_free_requests++] = i;
    d->path = strdup(path);
    if (!d->path) {
        free_disk(d);
        return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    }
    *out = d;
    return SL_OK;
}

sl_status sl_disk_open_engine(const sl_disk_engine_ops *ops, void *engine, const char *name,
                              size_t bytes, sl_disk **out) {
    sl_disk *d = NULL;
    SL_TRY(make_disk(-1, name, bytes, 1, &d));
    d->request_bytes = SIZE_MAX;
    d->ops = ops;
    d->engine = engine;
    snprintf(d->engine_name, sizeof d->engine_name, "%s", ops->name);
    *out = d;
    return SL_OK;
}

static sl_status open_disk(int fd, const char *path, size_t bytes, int is_writable,
                           sl_disk_mode mode, sl_disk **out) {
    sl_status st = SL_OK;
    sl_disk *d = NULL;
    SL_TRY(make_disk(fd, path, bytes, is_writable, &d));
    if (mode == SL_DISK_AUTO) {
        int m = SL_DISK_AUTO + 1;
        do st = start_engine(d, (sl_disk_mode)m);
        while (st != SL_OK && ++m < SL_DISK_N_MODES);
    } else {
        st = start_engine(d, mode);
    }
    if (st != SL_OK) goto fail;
    *out = d;
    return SL_OK;

fail:
    free_disk(d);
    return st;
}

sl_status sl_disk_open_read_as(const char *path, sl_disk_mode mode, sl_disk **out) {
    struct stat info;
    sl_status st = SL_OK;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        st = SL_FAIL(SL_ERR_IO, "open %s: not a regular file", path);
        goto fail;
    }
    SL_GO(open_disk(fd, path, (size_t)info.st_size, 0, mode, out));
    return SL_OK;

fail:
    close(fd);
    return st;
}

sl_status sl_disk_open_read(const char *path, sl_disk **out) {
    return sl_disk_open_read_as(path, SL_DISK_AUTO, out);
}

static sl_status fail_reserve(int fd, const char *name, size_t bytes, const char *reason) {
    struct statvfs fs;
    char want[32], have[32] = "an unknown number of";
    sl_bytes_format(bytes, want, sizeof want);
    if (fstatvfs(fd, &fs) == 0)
        sl_bytes_format((size_t)fs.f_bavail * fs.f_frsize, have, sizeof have);
    return SL_FAIL(SL_ERR_IO, "reserve %zu bytes (%s) for %s: %s; the file system has %s free",
                   bytes, want, name, reason, have);
}

/* Takes the space now: a disk that fills up in the middle of a run costs the run. */
static sl_status reserve(int fd, const char *name, size_t bytes) {
    struct statvfs fs;
    if (bytes > (size_t)INT64_MAX) return fail_reserve(fd, name, bytes, strerror(EFBIG));
    int rc;
    do rc = fallocate(fd, 0, 0, (off_t)bytes);
    while (rc != 0 && errno == EINTR);
    if (rc == 0) return SL_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_reserve(fd, name, bytes, strerror(errno));
    /* A file system that reserves nothing: at least see what is free at the moment. */
    if (fstatvfs(fd, &fs) == 0 && bytes / fs.f_frsize > fs.f_bavail)
        return fail_reserve(fd, name, bytes, strerror(ENOSPC));
    if (ftruncate(fd, (off_t)bytes) != 0) return fail_reserve(fd, name, bytes, strerror(errno));
    return SL_OK;
}

sl_status sl_disk_open_fd(int fd, const char *name, size_t bytes, sl_disk_mode mode,
                          sl_disk **out) {
    if (bytes == 0 || bytes % SL_DISK_ALIGN != 0)
        return SL_FAIL(SL_ERR_ARG, "%s: %zu bytes wanted, expected a multiple of %d", name, bytes,
                       SL_DISK_ALIGN);
    SL_TRY(reserve(fd, name, bytes));
    return open_disk(fd, name, bytes, 1, mode, out);
}

sl_status sl_disk_open_scratch_as(const char *dir, size_t bytes, sl_disk_mode mode, sl_disk **out) {
    if (bytes == 0 || bytes > SIZE_MAX - SL_DISK_ALIGN)
        return SL_FAIL(SL_ERR_ARG, "a scratch file of %zu bytes in %s", bytes, dir);
    char name[MAX_NAME];
    sl_status st = SL_OK;
    const int n = snprintf(name, sizeof name, "%s/sluice-scratch-XXXXXX", dir);
    if (n < 0 || (size_t)n >= sizeof name)
        return SL_FAIL(SL_ERR_ARG, "the scratch folder's name is longer than %d bytes", MAX_NAME);

    /* A file that never has a name, where the file system knows that; else one that loses it. */
    int fd = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0) {
        fd = mkostemp(name, O_CLOEXEC);
        if (fd < 0)
            return SL_FAIL(SL_ERR_IO, "create a scratch file in %s: %s", dir, strerror(errno));
        if (unlink(name) != 0) {
            st = SL_FAIL(SL_ERR_IO, "unlink %s: %s", name, strerror(errno));
            goto fail;
        }
    }
    snprintf(name, sizeof name, "scratch file in %s", dir);
    SL_GO(sl_disk_open_fd(fd, name, sl_align_up(bytes, SL_DISK_ALIGN), mode, out));
    return SL_OK;

fail:
    close(fd);
    return st;
}

sl_status sl_disk_open_scratch(const char *dir, size_t bytes, sl_disk **out) {
    return sl_disk_open_scratch_as(dir, bytes, SL_DISK_AUTO, out);
}

/* Transfers and their slots. */

static sl_status take_slot(sl_disk *d, int *index_out) {
    if (d->first_free == NONE) {
        if (d->n_slots > INT32_MAX / 2)
            return SL_FAIL(SL_ERR_NOMEM, "%s: %d transfers at a time", d->path, d->n_slots);
        const int n = d->n_slots > 0 ? 2 * d->n_slots : FIRST_SLOTS;
        transfer *slots = realloc(d->slots, (size_t)n * sizeof *slots);
        if (!slots)
            return SL_FAIL(SL_ERR_NOMEM, "%s: no host memory for %d transfers at a time", d->path,
                           n);
        for (int i = n - 1; i >= d->n_slots; i--) {
            slots[i] = (transfer){.generation = 1, .next = d->first_free};
            d->first_free = i;
        }
        d->slots = slots;
        d->n_slots = n;
    }
    *index_out = d->first_free;
    d->first_free = d->slots[d->first_free].next;
    return SL_OK;
}

static void release_slot(sl_disk *d, int index) {
    transfer *t = &d->slots[index];
    t->is_used = 0;
    t->generation++;
    t->next = d->first_free;
    d->first_free = index;
}

static int is_done(const transfer *t) {
    return t->handed == t->bytes && t->n_under_way == 0;
}

static void count_active(sl_disk *d, int is_write, int change) {
    const double now_s = sl_clock_s();
    if (change > 0 && d->n_active[is_write] == 0) d->since_s[is_write] = now_s;
    d->n_active[is_write] += change;
    if (change < 0 && d->n_active[is_write] == 0)
        d->busy_s[is_write] += now_s - d->since_s[is_write];
}

static void drop_first_waiting(sl_disk *d) {
    d->first_waiting = d->slots[d->first_waiting].next;
    if (d->first_waiting == NONE) d->last_waiting = NONE;
}

/* Makes requests of what waits, as many as may be under way. */
static void hand_over(sl_disk *d) {
    while (d->first_waiting != NONE && d->n_free_requests > 0) {
        const int index = d->first_waiting;
        transfer *t = &d->slots[index];
        const size_t left = t->bytes - t->handed;
        sl_disk_request *r = &d->requests[d->free_requests[--d->n_free_requests]];
        *r = (sl_disk_request){.offset = t->offset + t->handed,
                               .bytes = left < d->request_bytes ? left : d->request_bytes,
                               .buf = t->buf + t->handed,
                               .is_write = t->is_write,
                               .transfer = index};
        t->handed += r->bytes;
        t->n_under_way++;
        if (t->handed == t->bytes) drop_first_waiting(d);
        d->ops->submit(d->engine, r);
    }
    d->ops->flush(d->engine);
}

/* Of several failed parts the one nearest to the file's start is told. */
static void note_error(sl_disk *d, const sl_disk_request *r, int error) {
    transfer *t = &d->slots[r->transfer];
    const size_t start = r->offset - r->n_moved;
    if (t->error && t->error_offset < start) return;
    t->error = error;
    t->error_offset = start;
    t->error_bytes = r->bytes + r->n_moved;
    t->error_moved = r->n_moved + (r->result > 0 ? (size_t)r->result : 0);
    if (t->handed < t->bytes) { /* then it is the first of those that wait */
        drop_first_waiting(d);
        t->handed = t->bytes;
    }
}

/* Whether the request goes on: after a short result, or one that asks to try again. */
static int goes_on(sl_disk *d, sl_disk_request *r) {
    if (r->result < 0) {
        const int error = (int)-r->result;
        if ((error == EINTR || error == EAGAIN) && ++r->n_idle < MAX_IDLE) return 1;
        note_error(d, r, error);
        return 0;
    }
    const size_t moved = (size_t)r->result;
    if (moved >= r->bytes) {
        d->moved_bytes[r->is_write] += r->bytes;
        return 0;
    }
    /* What is left must begin aligned: the odd bytes at its end are moved once more. */
    const size_t whole = moved & ~(size_t)(SL_DISK_ALIGN - 1);
    if (whole == 0) {
        note_error(d, r, ENDED_EARLY);
        return 0;
    }
    d->moved_bytes[r->is_write] += whole;
    r->offset += whole;
    r->buf += whole;
    r->bytes -= whole;
    r->n_moved += whole;
    r->n_idle = 0;
    return 1;
}

/* Takes in what has ended and hands over what waits.  With `wait`, sleeps until something ends. */
static void progress(sl_disk *d, int wait) {
    sl_disk_request *r;
    while ((r = d->ops->reap(d->engine, wait)) != NULL) {
        wait = 0;
        if (goes_on(d, r)) {
            d->ops->submit(d->engine, r);
            continue;
        }
        transfer *t = &d->slots[r->transfer];
        t->n_under_way--;
        d->free_requests[d->n_free_requests++] = (int)(r - d->requests);
        if (is_done(t)) count_active(d, t->is_write, -1);
    }
    hand_over(d);
}

static sl_status start(sl_disk *d, int is_write, size_t offset, size_t bytes, unsigned char *buf,
                       sl_disk_ticket *ticket_out) {
    const char *what = is_write ? "write to" : "read from";
    const size_t odd = SL_DISK_ALIGN - 1;
    if ((offset & odd) || (bytes & odd) || ((uintptr_t)buf & odd))
        return SL_FAIL(SL_ERR_ARG,
                       "%s %s: %zu bytes at offset %zu, memory %p: expected multiples of %d", what,
                       d->path, bytes, offset, (void *)buf, SL_DISK_ALIGN);
    if (offset > d->bytes || bytes > d->bytes - offset)
        return SL_FAIL(SL_ERR_ARG, "%s %s: %zu bytes at offset %zu, the file has %zu", what,
                       d->path, bytes, offset, d->bytes);
    int index;
    SL_TRY(take_slot(d, &index));
    transfer *t = &d->slots[index];
    *t = (transfer){.generation = t->generation,
                    .is_used = 1,
                    .is_write = is_write,
                    .offset = offset,
                    .bytes = bytes,
                    .buf = buf,
                    .next = NONE};
    *ticket_out = (uint64_t)t->generation << 32 | ((uint64_t)index + 1);
    if (bytes == 0) return SL_OK;
    count_active(d, is_write, 1);
    if (d->last_waiting == NONE)
        d->first_waiting = index;
    else
        d->slots[d->last_waiting].next = index;
    d->last_waiting = index;
    hand_over(d);
    return SL_OK;
}

sl_status sl_disk_read(sl_disk *disk, size_t offset, size_t bytes, void *buf,
                       sl_disk_ticket *ticket_out) {
    return start(disk, 0, offset, bytes, buf, ticket_out);
}

sl_status sl_disk_write(sl_disk *disk, size_t offset, size_t bytes, const void *buf,
                        sl_disk_ticket *ticket_out) {
    if (!disk->is_writable)
        return SL_FAIL(SL_ERR_ARG, "write to %s: opened for reading", disk->path);
    /* The request type serves both directions; a write only reads its memory. */
    return start(disk, 1, offset, bytes, (unsigned char *)(uintptr_t)buf, ticket_out);
}

static sl_status find_transfer(const sl_disk *d, sl_disk_ticket ticket, int *index_out) {
    const uint64_t number = ticket & UINT32_MAX;
    if (number == 0 || number > (uint64_t)d->n_slots || !d->slots[number - 1].is_used ||
        d->slots[number - 1].generation != ticket >> 32)
        return SL_FAIL(SL_ERR_ARG, "%s: ticket %llx is of no transfer under way", d->path,
                       (unsigned long long)ticket);
    *index_out = (int)number - 1;
    return SL_OK;
}

/* The outcome of a transfer that is done; frees its slot. */
static sl_status take_outcome(sl_disk *d, int index) {
    const transfer t = d->slots[index];
    release_slot(d, index);
    if (!t.error) return SL_OK;
    const char *what = t.is_write ? "write to" : "read from";
    if (t.error != ENDED_EARLY)
        return SL_FAIL(SL_ERR_IO, "%s %s: %zu bytes at offset %zu: %s (of %zu bytes at %zu)", what,
                       d->path, t.bytes, t.offset, strerror(t.error), t.error_bytes,
                       t.error_offset);
    struct stat info;
    const long long now = fstat(d->fd, &info) == 0 ? (long long)info.st_size : -1;
    return SL_FAIL(SL_ERR_IO,
                   "%s %s: %zu bytes at offset %zu: only %zu of %zu bytes at %zu were %s; the file "
                   "had %zu bytes when opened and has %lld now",
                   what, d->path, t.bytes, t.offset, t.error_moved, t.error_bytes, t.error_offset,
                   t.is_write ? "taken" : "there", d->bytes, now);
}

sl_status sl_disk_test(sl_disk *disk, sl_disk_ticket ticket, int *done_out) {
    int index;
    SL_TRY(find_transfer(disk, ticket, &index));
    if (!is_done(&disk->slots[index])) progress(disk, 0);
    if (!is_done(&disk->slots[index])) {
        *done_out = 0;
        return SL_OK;
    }
    SL_TRY(take_outcome(disk, index));
    *done_out = 1;
    return SL_OK;
}

sl_status sl_disk_wait(sl_disk *disk, sl_disk_ticket ticket) {
    int index;
    SL_TRY(find_transfer(disk, ticket, &index));
    while (!is_done(&disk->slots[index])) progress(disk, 1);
    return take_outcome(disk, index);
}

void sl_disk_close(sl_disk *disk) {
    if (!disk) return;
    while (disk->first_waiting != NONE) {
        transfer *t = &disk->slots[disk->first_waiting];
        drop_first_waiting(disk);
        t->handed = t->bytes;
    }
    while (disk->n_free_requests < SL_DISK_DEPTH) progress(disk, 1);
    const int fd = disk->fd;
    free_disk(disk);
    if (fd >= 0) close(fd);
}

sl_status sl_disk_sync(sl_disk *disk) {
    int rc;
    do rc = fsync(disk->fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? SL_OK : SL_FAIL(SL_ERR_IO, "sync %s: %s", disk->path, strerror(errno));
}

const char *sl_disk_engine(const sl_disk *disk) {
    return disk->engine_name;
}

size_t sl_disk_bytes(const sl_disk *disk) {
    return disk->bytes;
}

int sl_disk_n_slots(const sl_disk *disk) {
    return disk->n_slots;
}

void sl_disk_get_stats(const sl_disk *disk, sl_disk_stats *out) {
    const double now_s = sl_clock_s();
    double busy_s[2];
    for (int i = 0; i < 2; i++)
        busy_s[i] = disk->busy_s[i] + (disk->n_active[i] > 0 ? now_s - disk->since_s[i] : 0.0);
    *out = (sl_disk_stats){.read_bytes = disk->moved_bytes[0],
                           .written_bytes = disk->moved_bytes[1],
                           .read_busy_s = busy_s[0],
                           .write_busy_s = busy_s[1]};
}
