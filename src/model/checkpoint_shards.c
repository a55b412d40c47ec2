/* checkpoint_shards.c - folders of files of one format, and the index that lists them. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint_impl.h"

enum { PATH_BYTES = 4096, SHARD_NAME_MAX = 255 };

sl_status sl_checkpoint_read_json(const sl_checkpoint_file *file, uint64_t offset, uint64_t bytes,
                                  const char *what, struct json_t **out) {
    sl_status st = SL_OK;
    json_error_t error;
    json_t *json = NULL;
    char shown[JSON_ERROR_TEXT_LENGTH];
    if (bytes > SL_CHECKPOINT_JSON_MAX || offset > file->bytes || bytes > file->bytes - offset)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: %s claims %llu bytes at %llu, expected at most %d within the file's "
                       "%llu",
                       file->path, what, (unsigned long long)bytes, (unsigned long long)offset,
                       (int)SL_CHECKPOINT_JSON_MAX, (unsigned long long)file->bytes);
    char *text = malloc((size_t)bytes + 1);
    if (!text) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory for %s", file->path, what);
    SL_GO(sl_checkpoint_pread(file, offset, text, (size_t)bytes, what));
    json = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: %s is no valid JSON: line %d column %d: %s", file->path,
                     what, error.line, error.column,
                     sl_checkpoint_printable(error.text, strlen(error.text), shown, sizeof shown));
        goto fail;
    }
    if (!json_is_object(json)) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: %s is no JSON object", file->path, what);
        goto fail;
    }
    free(text);
    *out = json;
    return SL_OK;
fail:
    json_decref(json);
    free(text);
    return st;
}

static sl_status join(const char *dir, const char *name, char *buf) {
    const int n = snprintf(buf, PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= PATH_BYTES)
        return SL_FAIL(SL_ERR_ARG, "the path of \"%s\" in %.64s... has %d characters, at most %d",
                       name, dir, n, PATH_BYTES - 1);
    return SL_OK;
}

/* A shard's name comes from the file: it may only name a file beside the index. */
static sl_status check_shard_name(const sl_checkpoint_file *index, const char *tensor,
                                  const json_t *value) {
    char shown_tensor[128], shown[64];
    sl_checkpoint_printable(tensor, strlen(tensor), shown_tensor, sizeof shown_tensor);
    const char *name = json_string_value(value);
    if (!name)
        return SL_FAIL(SL_ERR_FORMAT, "%s: weight_map: tensor \"%s\" has no text as file name",
                       index->path, shown_tensor);
    const size_t bytes = json_string_length(value);
    sl_checkpoint_printable(name, bytes, shown, sizeof shown);
    if (bytes == 0 || bytes > SHARD_NAME_MAX || strlen(name) != bytes || strchr(name, '/') ||
        name[0] == '.')
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: weight_map: tensor \"%s\" is in \"%s\", expected the name of a file in "
                       "the same folder",
                       index->path, shown_tensor, shown);
    return SL_OK;
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different files of a weight map, sorted, borrowed from it. */
static sl_status list_shards(const sl_checkpoint_file *index, json_t *map, const char ***out,
                             size_t *n_out) {
    sl_status st = SL_OK;
    const char *tensor;
    json_t *value;
    size_t n = 0, kept = 0;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: has no weight_map of tensors to files", index->path);
    const char **names = calloc(json_object_size(map), sizeof *names);
    if (!names) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", index->path);
    json_object_foreach(map, tensor, value) {
        SL_GO(check_shard_name(index, tensor, value));
        names[n++] = json_string_value(value);
    }
    qsort(names, n, sizeof *names, compare_texts);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(names[i], names[kept - 1]) != 0) names[kept++] = names[i];
    *out = names;
    *n_out = kept;
    return SL_OK;
fail:
    free(names);
    return st;
}

/* Strikes the tensors that were found off the map; nothing may be left on either side. */
static sl_status check_map(const sl_checkpoint *ckpt, const sl_checkpoint_file *index,
                           json_t *map) {
    for (size_t i = 0; i < ckpt->n_entries; i++) {
        const sl_tensor *t = &ckpt->entries[i].pub;
        const char *slash = strrchr(t->file, '/');
        const char *mapped = json_string_value(json_object_get(map, t->name));
        if (!mapped)
            return SL_FAIL(SL_ERR_FORMAT, "%s: weight_map lacks tensor \"%s\", found in %s",
                           index->path, t->name, t->file);
        if (strcmp(mapped, slash ? slash + 1 : t->file) != 0)
            return SL_FAIL(SL_ERR_FORMAT, "%s: weight_map has tensor \"%s\" in %s, found in %s",
                           index->path, t->name, mapped, t->file);
    }
    for (size_t i = 0; i < ckpt->n_entries; i++) json_object_del(map, ckpt->entries[i].pub.name);
    void *left = json_object_iter(map);
    if (!left) return SL_OK;
    char shown[128];
    const char *tensor = json_object_iter_key(left);
    return SL_FAIL(SL_ERR_FORMAT, "%s: weight_map has tensor \"%s\" in %s, not found there",
                   index->path,
                   sl_checkpoint_printable(tensor, strlen(tensor), shown, sizeof shown),
                   json_string_value(json_object_iter_value(left)));
}

static sl_status read_one(const sl_checkpoint_layout *layout, sl_checkpoint *ckpt,
                          const char *path) {
    size_t file = 0;
    SL_TRY(sl_checkpoint_add_file(ckpt, path, &file));
    return layout->read_file(ckpt, file);
}

static sl_status read_shards(const sl_checkpoint_layout *layout, sl_checkpoint *ckpt,
                             const char *index_path) {
    sl_status st = SL_OK;
    char path[PATH_BYTES];
    const char **names = NULL;
    size_t n = 0, file = 0;
    sl_checkpoint *holder = NULL; /* of the index: it is no file with tensors */
    json_t *json = NULL;
    SL_GO(sl_checkpoint_new(layout->kind, index_path, &holder));
    SL_GO(sl_checkpoint_add_file(holder, index_path, &file));
    const sl_checkpoint_file *index = &holder->files[file];
    SL_GO(sl_checkpoint_read_json(index, 0, index->bytes, "the index", &json));
    json_t *map = json_object_get(json, "weight_map");
    SL_GO(list_shards(index, map, &names, &n));
    for (size_t i = 0; i < n; i++) {
        SL_GO(join(ckpt->path, names[i], path));
        SL_GO(read_one(layout, ckpt, path));
    }
    SL_GO(check_map(ckpt, index, map));
fail:
    free(names);
    json_decref(json);
    sl_checkpoint_close(holder);
    return st;
}

static sl_status read_folder(const sl_checkpoint_layout *layout, sl_checkpoint *ckpt) {
    char path[PATH_BYTES];
    SL_TRY(join(ckpt->path, layout->single, path));
    if (access(path, F_OK) == 0) return read_one(layout, ckpt, path);
    SL_TRY(join(ckpt->path, layout->index, path));
    if (access(path, F_OK) == 0) return read_shards(layout, ckpt, path);
    return SL_FAIL(SL_ERR_IO, "%s: expected a folder with %s or %s, found neither", ckpt->path,
                   layout->single, layout->index);
}

sl_status sl_checkpoint_open_layout(const sl_checkpoint_layout *layout, const char *path,
                                    sl_checkpoint **out) {
    sl_status st = SL_OK;
    sl_checkpoint *ckpt = NULL;
    struct stat info;
    SL_TRY(sl_checkpoint_new(layout->kind, path, &ckpt));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        SL_GO(read_folder(layout, ckpt));
    else
        SL_GO(read_one(layout, ckpt, path));
    SL_GO(sl_checkpoint_finish(ckpt, layout->ranges));
    *out = ckpt;
    return SL_OK;
fail:
    sl_checkpoint_close(ckpt);
    return st;
}
