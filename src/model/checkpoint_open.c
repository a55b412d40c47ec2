#include "model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether `dir` has a file of that name. */
static int has_file(const char *dir, const char *name) {
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0;
}

static sl_status open_folder(const char *path, sl_checkpoint **out) {
    if (has_file(path, "model.safetensors") || has_file(path, "model.safetensors.index.json"))
        return sl_safetensors_open(path, out);
    if (has_file(path, "pytorch_model.bin") || has_file(path, "pytorch_model.bin.index.json"))
        return sl_torch_open(path, out);
    return SL_FAIL(SL_ERR_FORMAT,
                   "%s: expected a folder with model.safetensors, model.safetensors.index.json, "
                   "pytorch_model.bin or pytorch_model.bin.index.json, found none of them",
                   path);
}

sl_status sl_checkpoint_open(const char *path, sl_checkpoint **out) {
    struct stat info;
    unsigned char head[9] = {0};
    if (stat(path, &info) != 0) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return open_folder(path, out);

    /* A lone file tells its format by its first bytes, whatever it is called. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    const ssize_t got = pread(fd, head, sizeof head, 0);
    close(fd);
    if (got >= 4 && memcmp(head, "GGUF", 4) == 0) return sl_gguf_open(path, out);
    if (got >= 4 && memcmp(head, "PK\3\4", 4) == 0) return sl_torch_open(path, out);
    if (got == 9 && head[8] == '{') return sl_safetensors_open(path, out);
    /* Torch before 1.6 wrote a bare pickle; its reader says so. */
    if (got >= 2 && head[0] == 0x80) return sl_torch_open(path, out);
    return SL_FAIL(SL_ERR_FORMAT, "%s: found neither GGUF, nor safetensors, nor a torch zip", path);
}
