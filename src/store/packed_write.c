/* Making a packed file: under a temporary name that its maker keeps locked, so that others can tell
 * a live maker, to be waited for, from what a dead one left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/hash.h"
#include "store/disk_impl.h"
#include "store/packed_impl.h"

enum {
    MAX_PATH = 4096,
    MAX_TRIES = 100, /* temporary names of one process: threads, and processes of other hosts */
    N_BUFFERS = 2,   /* one piece is read while the other is written */
};

static const double LOOK_EVERY_S = 0.05; /* whether another process is still at it */

static int lock(int fd, int how) {
    int rc;
    do rc = flock(fd, how);
    while (rc != 0 && errno == EINTR);
    return rc;
}

/* Whether the file still has a name, and this one. */
static int is_named(int fd, const char *path) {
    struct stat by_fd, by_name;
    return fstat(fd, &by_fd) == 0 && stat(path, &by_name) == 0 && by_fd.st_ino == by_name.st_ino &&
           by_fd.st_dev == by_name.st_dev;
}

/* Creates path.tmp.PID and locks it.  Someone may take it for a dead one's between the two, and
 * remove it: then it is created again under another name. */
static sl_status create_temporary(const char *path, char *name, int *fd_out) {
    for (int i = 0; i < MAX_TRIES; i++) {
        const int n = i == 0 ? snprintf(name, MAX_PATH, "%s.tmp.%ld", path, (long)getpid())
                             : snprintf(name, MAX_PATH, "%s.tmp.%ld-%d", path, (long)getpid(), i);
        if (n < 0 || n >= MAX_PATH)
            return SL_FAIL(SL_ERR_ARG, "the name %s is longer than %d bytes", path, MAX_PATH);
        const int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno == EEXIST) continue;
        if (fd < 0) return SL_FAIL(SL_ERR_IO, "create %s: %s", name, strerror(errno));
        /* A file system without locks: nobody waits for us, and nobody removes it. */
        const int is_taken = lock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (!is_taken && is_named(fd, name)) {
            *fd_out = fd;
            return SL_OK;
        }
        close(fd);
    }
    return SL_FAIL(SL_ERR_IO, "create %s: this and %d more names are taken", name, MAX_TRIES - 1);
}

/* Until the maker lets go of its file, in its life or by its end.  0: that cannot be told. */
static int await_maker(int fd, sl_pulse *pulse) {
    while (lock(fd, LOCK_SH | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return 0;
        sl_pulse_count(pulse);
        sl_clock_sleep(LOOK_EVERY_S);
    }
    return 1;
}

/* Looks at one temporary file: removes a dead maker's, waits for a live one. */
static void settle_temporary(const char *name, sl_pulse *pulse, int *waited) {
    const int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return; /* gone, or another user's */
    if (lock(fd, LOCK_EX | LOCK_NB) == 0) {
        if (is_named(fd, name)) unlink(name);
    } else if (errno == EWOULDBLOCK) {
        *waited = await_maker(fd, pulse);
    }
    close(fd);
}

sl_status sl_packed_await(const char *path, sl_pulse *pulse, int *waited_out) {
    const char *slash = strrchr(path, '/');
    const size_t dir_bytes = slash ? (size_t)(slash - path) : 0;
    char name[MAX_PATH];
    if (!slash || dir_bytes >= sizeof name)
        return SL_FAIL(SL_ERR_ARG, "%s: expected a name with its folder, below %d bytes", path,
                       MAX_PATH);
    memcpy(name, path, dir_bytes);
    name[dir_bytes] = '\0';
    DIR *dir = opendir(dir_bytes > 0 ? name : "/");
    if (!dir) return SL_FAIL(SL_ERR_IO, "open folder %s: %s", name, strerror(errno));

    char prefix[256];
    const int n = snprintf(prefix, sizeof prefix, "%s.tmp.", slash + 1);
    int waited = 0;
    for (const struct dirent *e = readdir(dir); e && !waited; e = readdir(dir)) {
        if (strncmp(e->d_name, prefix, (size_t)n) != 0) continue;
        const int m = snprintf(name, sizeof name, "%.*s/%s", (int)dir_bytes, path, e->d_name);
        if (m > 0 && (size_t)m < sizeof name) settle_temporary(name, pulse, &waited);
    }
    closedir(dir);
    *waited_out = waited;
    return SL_OK;
}

/* The rename is on the medium only when the folder is. */
static sl_status sync_folder_of(const char *path) {
    char dir[MAX_PATH];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash) *slash = '\0';
    const int fd = open(slash && slash > dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return SL_FAIL(SL_ERR_IO, "open folder %s: %s", dir, strerror(errno));
    /* Some file systems cannot sync a folder, and say EINVAL. */
    const int err = fsync(fd) == 0 || errno == EINVAL ? 0 : errno;
    close(fd);
    return err ? SL_FAIL(SL_ERR_IO, "sync folder %s: %s", dir, strerror(err)) : SL_OK;
}

static sl_status write_pieces(sl_disk *disk, const sl_packed_wanted *wanted, sl_packed_plan *plan,
                              unsigned char *const *buffer) {
    sl_disk_ticket ticket[N_BUFFERS] = {0};
    for (uint64_t i = 0; i < plan->top->n_entries; i++) {
        sl_packed_entry *e = &plan->entry[i];
        const int b = (int)(i % N_BUFFERS);
        const size_t padded = sl_align_up(e->bytes, SL_PACK_ALIGN);
        if (ticket[b]) SL_TRY(sl_disk_wait(disk, ticket[b]));
        SL_TRY(sl_layout_read(wanted->source, sl_packed_layout(wanted, e), e->piece, buffer[b]));
        memset(buffer[b] + e->bytes, 0, padded - e->bytes);
        e->checksum = sl_hash(plan->top->key, buffer[b], padded);
        SL_TRY(sl_disk_write(disk, e->offset, padded, buffer[b], &ticket[b]));
        sl_pulse_count(wanted->pulse);
    }
    for (int b = 0; b < N_BUFFERS; b++)
        if (ticket[b]) SL_TRY(sl_disk_wait(disk, ticket[b]));
    return SL_OK;
}

static sl_status write_head(sl_disk *disk, sl_packed_plan *plan) {
    sl_disk_ticket ticket;
    plan->top->checksum = sl_packed_checksum(plan->head);
    SL_TRY(sl_disk_write(disk, 0, plan->top->header_bytes, plan->head, &ticket));
    return sl_disk_wait(disk, ticket);
}

sl_status sl_packed_write(const char *path, const sl_packed_wanted *wanted, sl_packed_plan *plan) {
    sl_status st = SL_OK;
    char name[MAX_PATH];
    int fd = -1;
    sl_disk *disk = NULL;
    unsigned char *buffer[N_BUFFERS] = {NULL};
    SL_TRY(create_temporary(path, name, &fd));

    for (int b = 0; b < N_BUFFERS; b++) {
        buffer[b] = sl_packed_memory(plan->longest_bytes);
        if (!buffer[b]) {
            st = SL_FAIL(SL_ERR_NOMEM, "write %s: no memory for a piece of %zu bytes", path,
                         plan->longest_bytes);
            goto fail;
        }
    }
    SL_GO(sl_disk_open_fd(fd, name, plan->top->file_bytes, SL_DISK_AUTO, &disk));
    fd = -1; /* the disk's */
    SL_GO(write_pieces(disk, wanted, plan, buffer));
    SL_GO(write_head(disk, plan));
    SL_GO(sl_disk_sync(disk));
    if (rename(name, path) != 0) {
        st = SL_FAIL(SL_ERR_IO, "rename %s to %s: %s", name, path, strerror(errno));
        goto fail;
    }
    SL_GO(sync_folder_of(path));

fail: /* also the way out of success */
    if (st != SL_OK)
        unlink(name);    /* while it is locked, so it is ours; after a rename it is gone */
    sl_disk_close(disk); /* before the buffers: writes may be under way */
    if (fd >= 0) close(fd);
    for (int b = 0; b < N_BUFFERS; b++) free(buffer[b]);
    return st;
}
