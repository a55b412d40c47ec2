/* config_folder.c - the small JSON files of an HF folder. */
#include "model/config_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Larger than any config, small enough to read whole. */
enum { MAX_CONFIG_BYTES = 16 << 20 };

static sl_status read_text(const char *path, char **text_out, size_t *bytes_out) {
    sl_status st = SL_OK;
    char *text = NULL;
    FILE *f = fopen(path, "rb");
    if (!f) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fileno(f), &info) != 0) {
        st = SL_FAIL(SL_ERR_IO, "stat %s: %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(info.st_mode) || info.st_size > MAX_CONFIG_BYTES) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s is %s of %lld bytes, expected a file of at most %d", path,
                     S_ISREG(info.st_mode) ? "a file" : "no plain file", (long long)info.st_size,
                     MAX_CONFIG_BYTES);
        goto fail;
    }
    const size_t bytes = (size_t)info.st_size;
    text = malloc(bytes + 1);
    if (!text) {
        st = SL_FAIL(SL_ERR_NOMEM, "%s: no memory for %zu bytes", path, bytes);
        goto fail;
    }
    if (fread(text, 1, bytes, f) != bytes) {
        st = SL_FAIL(SL_ERR_IO, "read %s: %s", path, ferror(f) ? strerror(errno) : "file shrank");
        goto fail;
    }
    text[bytes] = '\0';
    fclose(f);
    *text_out = text;
    *bytes_out = bytes;
    return SL_OK;

fail:
    free(text);
    fclose(f);
    return st;
}

static sl_status join(const char *dir, const char *file, char **out) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s", dir, file) < 0)
        return SL_FAIL(SL_ERR_NOMEM, "%s/%s: out of host memory", dir, file);
    *out = path;
    return SL_OK;
}

sl_status sl_config_read_file(const char *path, sl_model_config *out) {
    char *text;
    size_t bytes;
    SL_TRY(read_text(path, &text, &bytes));
    const sl_status st = sl_config_parse_json(text, bytes, path, out);
    free(text);
    return st;
}

static sl_status merge_generation_file(const char *path, sl_model_config *config) {
    char *text;
    size_t bytes;
    if (access(path, F_OK) != 0) return SL_OK; /* the file is optional */
    SL_TRY(read_text(path, &text, &bytes));
    const sl_status st = sl_config_merge_generation(text, bytes, path, config);
    free(text);
    return st;
}

sl_status sl_config_read_folder(const char *dir, sl_model_config *out) {
    sl_status st = SL_OK;
    char *config_path = NULL, *generation_path = NULL;
    SL_GO(join(dir, "config.json", &config_path));
    SL_GO(join(dir, "generation_config.json", &generation_path));
    sl_model_config c;
    SL_GO(sl_config_read_file(config_path, &c));
    SL_GO(merge_generation_file(generation_path, &c));
    *out = c;
fail:
    free(generation_path);
    free(config_path);
    return st;
}
