#include "model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "model/checkpoint_impl.h"

int sl_checkpoint_is_utf8(const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        const unsigned char lead = s[i++];
        if (lead < 0x80) continue;
        const int tail = lead >= 0xc2 && lead <= 0xdf   ? 1
                         : (lead & 0xf0) == 0xe0        ? 2
                         : lead >= 0xf0 && lead <= 0xf4 ? 3
                                                        : 0;
        if (tail == 0 || bytes - i < (size_t)tail) return 0;
        /* The first tail byte decides about overlong forms, surrogates and the end at U+10FFFF. */
        const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (s[i] < low || s[i] > high) return 0;
        for (int k = 1; k < tail; k++)
            if ((s[i + (size_t)k] & 0xc0) != 0x80) return 0;
        i += (size_t)tail;
    }
    return 1;
}

const char *sl_checkpoint_printable(const char *text, size_t bytes, char *buf, size_t buf_bytes) {
    size_t n = 0;
    for (; n < bytes && n + 1 < buf_bytes; n++)
        buf[n] = text[n] >= 0x20 && text[n] < 0x7f ? text[n] : '?';
    buf[n] = '\0';
    return buf;
}

sl_status sl_checkpoint_new(sl_checkpoint_kind kind, const char *path, sl_checkpoint **out) {
    sl_checkpoint *ckpt = calloc(1, sizeof *ckpt);
    if (!ckpt) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    ckpt->kind = kind;
    ckpt->path = strdup(path);
    if (!ckpt->path) {
        sl_checkpoint_close(ckpt);
        return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    }
    *out = ckpt;
    return SL_OK;
}

void sl_checkpoint_close(sl_checkpoint *ckpt) {
    if (!ckpt) return;
    if (ckpt->meta_free) ckpt->meta_free(ckpt->meta);
    free(ckpt->by_name);
    for (size_t i = 0; i < ckpt->n_entries; i++) free((char *)ckpt->entries[i].pub.name);
    free(ckpt->entries);
    for (size_t i = 0; i < ckpt->n_files; i++) {
        if (ckpt->files[i].fd >= 0) close(ckpt->files[i].fd);
        free(ckpt->files[i].path);
    }
    free(ckpt->files);
    free(ckpt->path);
    free(ckpt);
}

sl_status sl_checkpoint_add_file(sl_checkpoint *ckpt, const char *path, size_t *index_out) {
    struct stat info;
    sl_checkpoint_file *grown = realloc(ckpt->files, (ckpt->n_files + 1) * sizeof *grown);
    if (!grown) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    ckpt->files = grown;
    /* Owned by the checkpoint from here on: close releases what a failure below leaves. */
    sl_checkpoint_file *file = &ckpt->files[ckpt->n_files++];
    *file = (sl_checkpoint_file){.path = strdup(path), .fd = -1};
    if (!file->path) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0) return SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    if (fstat(file->fd, &info) != 0)
        return SL_FAIL(SL_ERR_IO, "size of %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return SL_FAIL(SL_ERR_IO, "%s: found a folder or device, expected a file", path);
    file->bytes = (uint64_t)info.st_size;
    *index_out = ckpt->n_files - 1;
    return SL_OK;
}

sl_status sl_checkpoint_pread(const sl_checkpoint_file *file, uint64_t offset, void *dst,
                              size_t bytes, const char *what) {
    char *at = dst;
    size_t left = bytes;
    while (left > 0) {
        const ssize_t got = pread(file->fd, at, left, (off_t)(offset + (bytes - left)));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return SL_FAIL(SL_ERR_IO, "%s: read %zu bytes of %s at %llu: %s", file->path, bytes,
                           what, (unsigned long long)offset, strerror(errno));
        if (got == 0)
            return SL_FAIL(SL_ERR_IO,
                           "%s: short read of %s at %llu: expected %zu bytes, the file ended after "
                           "%zu",
                           file->path, what, (unsigned long long)offset, bytes, bytes - left);
        at += got;
        left -= (size_t)got;
    }
    return SL_OK;
}

static sl_status check_name(const sl_checkpoint_file *file, const char *name, size_t bytes) {
    char shown[64];
    if (bytes == 0 || bytes > SL_TENSOR_NAME_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor name \"%s\"... of %zu bytes, expected 1 to %d",
                       file->path, sl_checkpoint_printable(name, bytes, shown, sizeof shown), bytes,
                       (int)SL_TENSOR_NAME_MAX);
    int control = 0;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)name[i];
        control |= c < 0x20 || c == 0x7f;
    }
    if (control || !sl_checkpoint_is_utf8(name, bytes))
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor name \"%s\" holds %s, expected printable UTF-8",
                       file->path, sl_checkpoint_printable(name, bytes, shown, sizeof shown),
                       control ? "control characters" : "invalid UTF-8");
    return SL_OK;
}

sl_status sl_checkpoint_shape_bytes(const char *file, const char *name,
                                    const sl_checkpoint_claim *claim, uint64_t *out) {
    if (claim->n_dims < 0 || claim->n_dims > SL_TENSOR_MAX_DIMS)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\" has %d dimensions, expected at most %d",
                       file, name, claim->n_dims, (int)SL_TENSOR_MAX_DIMS);
    uint64_t elems = 1;
    for (int d = 0; d < claim->n_dims; d++) {
        if (claim->dims[d] < 1)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: tensor \"%s\": dimension %d is %lld, expected at least 1", file,
                           name, d, (long long)claim->dims[d]);
        if (__builtin_mul_overflow(elems, (uint64_t)claim->dims[d], &elems) || elems > INT64_MAX)
            return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\": its number of elements overflows",
                           file, name);
    }
    uint64_t block = 1, block_bytes = claim->elem_bytes;
    if (block_bytes == 0) {
        block = (uint64_t)sl_dtype_block_elems(claim->dtype);
        block_bytes = sl_dtype_block_bytes(claim->dtype);
    }
    const uint64_t cols = claim->n_dims == 0 ? 1 : (uint64_t)claim->dims[claim->n_dims - 1];
    if (cols % block != 0)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": rows of %llu elements, expected a multiple of %s's "
                       "block of %llu",
                       file, name, (unsigned long long)cols, sl_dtype_name(claim->dtype),
                       (unsigned long long)block);
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(elems / block, block_bytes, &bytes))
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\": its size in bytes overflows", file, name);
    *out = bytes;
    return SL_OK;
}

static sl_status reserve_entry(sl_checkpoint *ckpt) {
    if (ckpt->n_entries < ckpt->cap_entries) return SL_OK;
    const size_t cap = ckpt->cap_entries ? 2 * ckpt->cap_entries : 64;
    size_t bytes = 0;
    SL_TRY(sl_size_mul(cap, sizeof *ckpt->entries, &bytes));
    sl_checkpoint_entry *grown = realloc(ckpt->entries, bytes);
    if (!grown)
        return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory for %zu tensors", ckpt->path, cap);
    ckpt->entries = grown;
    ckpt->cap_entries = cap;
    return SL_OK;
}

sl_status sl_checkpoint_add_tensor(sl_checkpoint *ckpt, size_t file_index,
                                   const sl_checkpoint_claim *claim) {
    const sl_checkpoint_file *file = &ckpt->files[file_index];
    char name[SL_TENSOR_NAME_MAX + 1];
    uint64_t bytes = 0;
    SL_TRY(check_name(file, claim->name, claim->name_bytes));
    memcpy(name, claim->name, claim->name_bytes);
    name[claim->name_bytes] = '\0';
    SL_TRY(sl_checkpoint_shape_bytes(file->path, name, claim, &bytes));
    if (bytes != claim->bytes)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\" has %llu bytes, its shape needs %llu",
                       file->path, name, (unsigned long long)claim->bytes,
                       (unsigned long long)bytes);
    if (claim->offset < file->data_start || claim->offset > file->bytes ||
        bytes > file->bytes - claim->offset)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\" lies at byte %llu with %llu bytes, the file's data is "
                       "bytes %llu to %llu",
                       file->path, name, (unsigned long long)claim->offset,
                       (unsigned long long)bytes, (unsigned long long)file->data_start,
                       (unsigned long long)file->bytes);
    SL_TRY(reserve_entry(ckpt));
    char *kept = strdup(name);
    if (!kept) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", file->path);
    sl_checkpoint_entry *entry = &ckpt->entries[ckpt->n_entries++];
    *entry = (sl_checkpoint_entry){
        .pub = {.name = kept,
                .file = file->path,
                .dtype = claim->dtype,
                .n_dims = claim->n_dims > 0 ? claim->n_dims : 1,
                .dims = {1, 1, 1, 1},
                .offset = claim->offset,
                .bytes = bytes},
        .file = file_index,
        .hidden = claim->elem_bytes != 0,
    };
    for (int d = 0; d < claim->n_dims; d++) entry->pub.dims[d] = claim->dims[d];
    return SL_OK;
}

static int compare_names(const void *a, const void *b) {
    const sl_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_places(const void *a, const void *b) {
    const sl_checkpoint_entry *x = *(const sl_checkpoint_entry *const *)a;
    const sl_checkpoint_entry *y = *(const sl_checkpoint_entry *const *)b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->pub.offset != y->pub.offset) return x->pub.offset < y->pub.offset ? -1 : 1;
    return 0;
}

static sl_status check_end(const sl_checkpoint_file *file, uint64_t end) {
    if (end == file->bytes) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT, "%s: its tensors end at byte %llu, the file at byte %llu",
                   file->path, (unsigned long long)end, (unsigned long long)file->bytes);
}

/* `order` holds all entries, sorted by file and offset. */
static sl_status check_ranges(const sl_checkpoint *ckpt, const sl_tensor **order, int packed) {
    size_t i = 0;
    for (size_t f = 0; f < ckpt->n_files; f++) {
        const sl_checkpoint_file *file = &ckpt->files[f];
        const char *before = NULL; /* the tensor before this one */
        uint64_t end = file->data_start;
        for (; i < ckpt->n_entries; i++) {
            const sl_tensor *t = order[i];
            if (((const sl_checkpoint_entry *)t)->file != f) break;
            if (t->offset < end || (packed && t->offset != end))
                return SL_FAIL(SL_ERR_FORMAT,
                               "%s: tensor \"%s\" begins at byte %llu, %s\"%s\" ends at byte %llu",
                               file->path, t->name, (unsigned long long)t->offset,
                               before ? "tensor " : "the ", before ? before : "header",
                               (unsigned long long)end);
            end = t->offset + t->bytes;
            before = t->name;
        }
        if (packed) SL_TRY(check_end(file, end));
    }
    return SL_OK;
}

static void drop_hidden(sl_checkpoint *ckpt) {
    size_t kept = 0;
    for (size_t i = 0; i < ckpt->n_entries; i++) {
        if (ckpt->entries[i].hidden)
            free((char *)ckpt->entries[i].pub.name);
        else
            ckpt->entries[kept++] = ckpt->entries[i];
    }
    ckpt->n_entries = kept;
}

static void sort_entries(sl_checkpoint *ckpt, int (*compare)(const void *, const void *)) {
    for (size_t i = 0; i < ckpt->n_entries; i++) ckpt->by_name[i] = &ckpt->entries[i].pub;
    if (ckpt->n_entries > 1) qsort(ckpt->by_name, ckpt->n_entries, sizeof(*ckpt->by_name), compare);
}

sl_status sl_checkpoint_finish(sl_checkpoint *ckpt, sl_checkpoint_ranges ranges) {
    size_t bytes = 0;
    SL_TRY(sl_size_mul(ckpt->n_entries + 1, sizeof(*ckpt->by_name), &bytes));
    ckpt->by_name = malloc(bytes);
    if (!ckpt->by_name) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", ckpt->path);
    if (ranges != SL_RANGES_SHARED) {
        sort_entries(ckpt, compare_places);
        SL_TRY(check_ranges(ckpt, ckpt->by_name, ranges == SL_RANGES_PACKED));
    }
    sort_entries(ckpt, compare_names);
    for (size_t i = 1; i < ckpt->n_entries; i++) {
        const sl_tensor *a = ckpt->by_name[i - 1], *b = ckpt->by_name[i];
        if (strcmp(a->name, b->name) == 0)
            return SL_FAIL(SL_ERR_FORMAT, "tensor \"%s\" is found twice: in %s and in %s", a->name,
                           a->file, b->file);
    }
    drop_hidden(ckpt);
    sort_entries(ckpt, compare_names);
    if (ckpt->n_entries == 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: found no tensor, expected a model's weights",
                       ckpt->path);
    return SL_OK;
}

sl_checkpoint_kind sl_checkpoint_format(const sl_checkpoint *ckpt) {
    return ckpt->kind;
}

const char *sl_checkpoint_path(const sl_checkpoint *ckpt) {
    return ckpt->path;
}

size_t sl_checkpoint_n_tensors(const sl_checkpoint *ckpt) {
    return ckpt->n_entries;
}

const sl_tensor *sl_checkpoint_tensor(const sl_checkpoint *ckpt, size_t index) {
    return index < ckpt->n_entries ? &ckpt->entries[index].pub : NULL;
}

const sl_tensor *sl_checkpoint_find(const sl_checkpoint *ckpt, const char *name) {
    const sl_tensor key = {.name = name}, *const wanted = &key;
    const sl_tensor **hit =
        bsearch(&wanted, ckpt->by_name, ckpt->n_entries, sizeof(*ckpt->by_name), compare_names);
    return hit ? *hit : NULL;
}

sl_status sl_checkpoint_read_rows(const sl_checkpoint *ckpt, const sl_tensor *tensor, int64_t row0,
                                  int64_t n_rows, void *dst, size_t dst_bytes) {
    const uintptr_t first = (uintptr_t)ckpt->entries, at = (uintptr_t)tensor;
    if (at < first || at - first >= ckpt->n_entries * sizeof *ckpt->entries ||
        (at - first) % sizeof *ckpt->entries != 0)
        return SL_FAIL(SL_ERR_ARG, "read rows: the tensor is not one of checkpoint %s", ckpt->path);
    const sl_checkpoint_entry *entry = (const sl_checkpoint_entry *)tensor;
    const int64_t rows = tensor->n_dims == 1 ? 1 : tensor->dims[0];
    if (row0 < 0 || n_rows < 0 || row0 > rows || n_rows > rows - row0)
        return SL_FAIL(SL_ERR_ARG, "%s: tensor \"%s\": %lld rows from row %lld wanted, it has %lld",
                       tensor->file, tensor->name, (long long)n_rows, (long long)row0,
                       (long long)rows);
    /* Every row starts on a block boundary, so all rows have the same whole number of bytes. */
    const uint64_t row_bytes = tensor->bytes / (uint64_t)rows;
    if (dst_bytes != (uint64_t)n_rows * row_bytes)
        return SL_FAIL(SL_ERR_ARG, "%s: tensor \"%s\": buffer of %zu bytes, %lld rows need %llu",
                       tensor->file, tensor->name, dst_bytes, (long long)n_rows,
                       (unsigned long long)((uint64_t)n_rows * row_bytes));
    return sl_checkpoint_pread(&ckpt->files[entry->file],
                               tensor->offset + (uint64_t)row0 * row_bytes, dst, dst_bytes,
                               tensor->name);
}
