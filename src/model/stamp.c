#include "model/stamp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum {
    WHOLE_BYTES = 1 << 20, /* files up to this size are read whole, of others the first so many */
    PIECE_BYTES = 4096,
    N_PIECES = 64
};

static sl_status add_piece(int fd, const char *path, uint64_t offset, size_t bytes, char *buffer,
                           uint64_t *h) {
    size_t got = 0;
    while (got < bytes) {
        const ssize_t n = pread(fd, buffer + got, bytes - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return SL_FAIL(SL_ERR_IO, "read %s: %s", path, strerror(errno));
        if (n == 0) break;
        got += (size_t)n;
    }
    *h = sl_hash(*h, buffer, got);
    return SL_OK;
}

static sl_status add_file(const char *path, uint64_t *h) {
    sl_status st = SL_OK;
    struct stat info;
    char *buffer = malloc(WHOLE_BYTES);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!buffer) {
        st = SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
        goto fail;
    }
    if (fd < 0 || fstat(fd, &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
        goto fail;
    }
    const uint64_t size = (uint64_t)info.st_size;
    *h = sl_hash(*h, &size, sizeof size);
    SL_GO(add_piece(fd, path, 0, size < WHOLE_BYTES ? (size_t)size : WHOLE_BYTES, buffer, h));
    for (uint64_t i = 1; size > WHOLE_BYTES && i <= N_PIECES; i++)
        SL_GO(add_piece(fd, path, (size - PIECE_BYTES) * i / N_PIECES, PIECE_BYTES, buffer, h));

fail:
    if (fd >= 0) close(fd);
    free(buffer);
    return st;
}

/* What a model is read from; a read-me or a cache beside it does not count. */
static int is_model_file(const struct dirent *entry) {
    static const char *const endings[] = {".json", ".safetensors", ".bin", ".txt", ".model"};
    const char *dot = strrchr(entry->d_name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++) {
        if (strcmp(dot, endings[i]) == 0) return 1;
    }
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static sl_status add_folder(const char *folder, uint64_t *h) {
    struct dirent **entries = NULL;
    sl_status st = SL_OK;
    const int n = scandir(folder, &entries, is_model_file, by_name);
    if (n < 0) return SL_FAIL(SL_ERR_IO, "list %s: %s", folder, strerror(errno));
    for (int i = 0; i < n; i++) {
        char path[4096];
        struct stat info;
        const char *name = entries[i]->d_name;
        const int length = snprintf(path, sizeof path, "%s/%s", folder, name);
        if (st == SL_OK && length > 0 && (size_t)length < sizeof path && stat(path, &info) == 0 &&
            S_ISREG(info.st_mode)) {
            *h = sl_hash(*h, name, strlen(name));
            st = add_file(path, h);
        }
        free(entries[i]);
    }
    free(entries);
    return st;
}

sl_status sl_model_stamp(const char *model, uint64_t *out) {
    static const char dummy[] = "dummy:";
    const int is_dummy = strncmp(model, dummy, sizeof dummy - 1) == 0;
    const char *path = is_dummy ? model + sizeof dummy - 1 : model;
    struct stat info;
    uint64_t h = 0;
    if (stat(path, &info) != 0) {
        if (!is_dummy) return SL_FAIL(SL_ERR_IO, "model %s: %s", path, strerror(errno));
    } else if (S_ISDIR(info.st_mode)) {
        SL_TRY(add_folder(path, &h));
    } else {
        SL_TRY(add_file(path, &h));
    }
    *out = h;
    return SL_OK;
}
