#include "model/torch_zip.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

enum {
    ENTRY_NAME_MAX = 512,
    KEY_MAX = 64,
    PICKLE_MAX = 16 << 20, /* it is a table of contents: 200 bytes a tensor */
};

struct sl_torch_zip {
    const sl_checkpoint_file *file;
    uint64_t cursor;    /* libzip's place in the file */
    uint64_t last_read; /* where its last read began */
    zip_error_t error;  /* of the source, for libzip */
    zip_t *archive;
    char prefix[ENTRY_NAME_MAX]; /* "archive/": the folder that all entries are in */
    unsigned char *pickle;
    size_t pickle_bytes;
};

static zip_int64_t source_read(sl_torch_zip *zip, void *dst, zip_uint64_t bytes) {
    zip->last_read = zip->cursor;
    const ssize_t got = pread(zip->file->fd, dst, bytes, (off_t)zip->cursor);
    if (got < 0) {
        zip_error_set(&zip->error, ZIP_ER_READ, errno);
        return -1;
    }
    zip->cursor += (uint64_t)got;
    return got;
}

/* libzip reads the file through here, which shows where the bytes of an entry come from: libzip
 * itself tells sizes but no offsets. */
static zip_int64_t source(void *userdata, void *data, zip_uint64_t bytes, zip_source_cmd_t cmd) {
    sl_torch_zip *zip = userdata;
    zip_int64_t at;
    switch (cmd) {
    case ZIP_SOURCE_OPEN:
        zip->cursor = 0;
        return 0;
    case ZIP_SOURCE_READ:
        return source_read(zip, data, bytes);
    case ZIP_SOURCE_SEEK:
        at =
            zip_source_seek_compute_offset(zip->cursor, zip->file->bytes, data, bytes, &zip->error);
        if (at < 0) return -1;
        zip->cursor = (uint64_t)at;
        return 0;
    case ZIP_SOURCE_TELL:
        return (zip_int64_t)zip->cursor;
    case ZIP_SOURCE_STAT: {
        zip_stat_t *info = data;
        zip_stat_init(info);
        info->valid = ZIP_STAT_SIZE;
        info->size = zip->file->bytes;
        return sizeof *info;
    }
    case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&zip->error, data, bytes);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
        return 0;
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(
            ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR,
            ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, ZIP_SOURCE_SUPPORTS, -1);
    default:
        zip_error_set(&zip->error, ZIP_ER_OPNOTSUPP, 0);
        return -1;
    }
}

static sl_status check_not_legacy(const sl_checkpoint_file *file) {
    unsigned char head[2] = {0};
    if (file->bytes < sizeof head) return SL_OK; /* libzip says that it is too short */
    SL_TRY(sl_checkpoint_pread(file, 0, head, sizeof head, "the first bytes"));
    if (head[0] != 0x80) return SL_OK;
    return SL_FAIL(
        SL_ERR_FORMAT,
        "%s: found a bare pickle (torch before 1.6), expected a zip: load it and save it "
        "again with a newer torch",
        file->path);
}

static sl_status open_archive(sl_torch_zip *zip) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *src = zip_source_function_create(source, zip, &error);
    if (src) zip->archive = zip_open_from_source(src, ZIP_RDONLY, &error);
    sl_status st = SL_OK;
    if (!zip->archive) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: cannot be read as a zip: %s", zip->file->path,
                     zip_error_strerror(&error));
        if (src) zip_source_free(src);
    }
    zip_error_fini(&error);
    return st;
}

/* Finds the one PREFIX/data.pkl and checks that no name stands twice in the directory. */
static sl_status find_pickle(sl_torch_zip *zip, zip_uint64_t *index_out) {
    static const char wanted[] = "/data.pkl";
    const size_t tail = sizeof wanted - 1;
    const char *path = zip->file->path;
    const zip_int64_t n = zip_get_num_entries(zip->archive, 0);
    int found = 0;
    char shown[64];
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(zip->archive, (zip_uint64_t)i, 0);
        const size_t bytes = name ? strlen(name) : 0;
        if (bytes == 0 || bytes >= ENTRY_NAME_MAX)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: entry %lld of the zip has a name of %zu bytes, expected 1 to %d",
                           path, (long long)i, bytes, ENTRY_NAME_MAX - 1);
        sl_checkpoint_printable(name, bytes, shown, sizeof shown);
        if (zip_name_locate(zip->archive, name, 0) != i)
            return SL_FAIL(SL_ERR_FORMAT, "%s: entry \"%s\" stands twice in the zip", path, shown);
        if (bytes <= tail || strcmp(name + bytes - tail, wanted) != 0) continue;
        if (strchr(name, '/') != name + bytes - tail || found)
            return SL_FAIL(SL_ERR_FORMAT, "%s: found \"%s\", expected one data.pkl in one folder",
                           path, shown);
        found = 1;
        *index_out = (zip_uint64_t)i;
        memcpy(zip->prefix, name, bytes - tail + 1);
        zip->prefix[bytes - tail + 1] = '\0';
    }
    if (!found)
        return SL_FAIL(SL_ERR_FORMAT, "%s: the zip has no data.pkl: it is no torch checkpoint",
                       path);
    return SL_OK;
}

/* Place and size of a stored entry.  Opening it raw and reading one byte shows the offset. */
static sl_status place_entry(sl_torch_zip *zip, zip_uint64_t index, uint64_t *offset_out,
                             uint64_t *bytes_out) {
    const uint64_t needed = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
                            ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    const char *path = zip->file->path;
    zip_stat_t info;
    char first, shown[64];
    if (zip_stat_index(zip->archive, index, 0, &info) != 0 || (info.valid & needed) != needed)
        return SL_FAIL(SL_ERR_FORMAT, "%s: entry %llu of the zip cannot be read: %s", path,
                       (unsigned long long)index, zip_strerror(zip->archive));
    sl_checkpoint_printable(info.name, strlen(info.name), shown, sizeof shown);
    if (info.comp_method != ZIP_CM_STORE || info.encryption_method != ZIP_EM_NONE ||
        info.comp_size != info.size)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: entry \"%s\" is compressed (method %u) or encrypted (method %u), "
                       "expected stored as torch does",
                       path, shown, info.comp_method, info.encryption_method);
    *bytes_out = info.size;
    *offset_out = 0;
    if (info.size == 0) return SL_OK; /* nothing to read, no place to find */

    zip_file_t *entry = zip_fopen_index(zip->archive, index, ZIP_FL_COMPRESSED);
    if (!entry)
        return SL_FAIL(SL_ERR_FORMAT, "%s: entry \"%s\" of the zip cannot be opened: %s", path,
                       shown, zip_strerror(zip->archive));
    const zip_int64_t got = zip_fread(entry, &first, 1);
    zip_fclose(entry);
    if (got != 1 || zip->last_read > zip->file->bytes ||
        info.size > zip->file->bytes - zip->last_read)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: entry \"%s\" lies at byte %llu with %llu bytes, the file has %llu",
                       path, shown, (unsigned long long)zip->last_read,
                       (unsigned long long)info.size, (unsigned long long)zip->file->bytes);
    *offset_out = zip->last_read;
    return SL_OK;
}

/* Reads an entry through libzip, which checks its CRC, and from the place we found, and compares:
 * so every file proves that the places of its storages can be trusted. */
static sl_status read_pickle(sl_torch_zip *zip, zip_uint64_t index) {
    sl_status st = SL_OK;
    const char *path = zip->file->path;
    uint64_t offset = 0, bytes = 0;
    unsigned char *twin = NULL, behind;
    zip_file_t *entry = NULL;
    SL_GO(place_entry(zip, index, &offset, &bytes));
    if (bytes > PICKLE_MAX) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: data.pkl has %llu bytes, expected at most %d", path,
                     (unsigned long long)bytes, (int)PICKLE_MAX);
        goto fail;
    }
    zip->pickle_bytes = (size_t)bytes;
    zip->pickle = malloc(zip->pickle_bytes + 1);
    twin = malloc(zip->pickle_bytes + 1);
    if (!zip->pickle || !twin) {
        st = SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory for data.pkl", path);
        goto fail;
    }
    SL_GO(sl_checkpoint_pread(zip->file, offset, zip->pickle, zip->pickle_bytes, "data.pkl"));
    entry = zip_fopen_index(zip->archive, index, 0);
    const zip_int64_t got = entry ? zip_fread(entry, twin, bytes) : -1;
    /* The CRC is checked by the read that finds the end. */
    if (got != (zip_int64_t)bytes || zip_fread(entry, &behind, 1) != 0 ||
        memcmp(twin, zip->pickle, zip->pickle_bytes) != 0) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: data.pkl of %llu bytes cannot be read: %s", path,
                     (unsigned long long)bytes,
                     entry ? zip_file_strerror(entry) : zip_strerror(zip->archive));
        goto fail;
    }
fail:
    if (entry) zip_fclose(entry);
    free(twin);
    return st;
}

/* Newer torch says the byte order of the storages; older ones were little-endian. */
static sl_status check_byte_order(sl_torch_zip *zip) {
    char name[ENTRY_NAME_MAX + 16], order[8] = {0}, shown[8];
    uint64_t offset = 0, bytes = 0;
    snprintf(name, sizeof name, "%sbyteorder", zip->prefix);
    const zip_int64_t index = zip_name_locate(zip->archive, name, 0);
    if (index < 0) return SL_OK;
    SL_TRY(place_entry(zip, (zip_uint64_t)index, &offset, &bytes));
    const size_t kept = bytes < sizeof order ? (size_t)bytes : sizeof order;
    SL_TRY(sl_checkpoint_pread(zip->file, offset, order, kept, "byteorder"));
    if (bytes != 6 || memcmp(order, "little", 6) != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: byte order is \"%s\", expected \"little\"",
                       zip->file->path, sl_checkpoint_printable(order, kept, shown, sizeof shown));
    return SL_OK;
}

sl_status sl_torch_zip_open(const sl_checkpoint_file *file, sl_torch_zip **out) {
    sl_status st = SL_OK;
    zip_uint64_t index = 0;
    sl_torch_zip *zip = calloc(1, sizeof *zip);
    if (!zip) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", file->path);
    zip->file = file;
    zip_error_init(&zip->error);
    SL_GO(check_not_legacy(file));
    SL_GO(open_archive(zip));
    SL_GO(find_pickle(zip, &index));
    SL_GO(read_pickle(zip, index));
    SL_GO(check_byte_order(zip));
    *out = zip;
    return SL_OK;
fail:
    sl_torch_zip_close(zip);
    return st;
}

void sl_torch_zip_close(sl_torch_zip *zip) {
    if (!zip) return;
    if (zip->archive) zip_discard(zip->archive);
    zip_error_fini(&zip->error);
    free(zip->pickle);
    free(zip);
}

const unsigned char *sl_torch_zip_pickle(const sl_torch_zip *zip, size_t *bytes_out) {
    *bytes_out = zip->pickle_bytes;
    return zip->pickle;
}

sl_status sl_torch_zip_storage(sl_torch_zip *zip, const char *key, size_t key_bytes,
                               uint64_t *offset_out, uint64_t *bytes_out) {
    char name[ENTRY_NAME_MAX + KEY_MAX + 8], shown[KEY_MAX + 1];
    sl_checkpoint_printable(key, key_bytes, shown, sizeof shown);
    if (key_bytes == 0 || key_bytes > KEY_MAX || memchr(key, '\0', key_bytes))
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: a storage is called \"%s\" (%zu bytes), expected 1 to %d",
                       zip->file->path, shown, key_bytes, KEY_MAX);
    snprintf(name, sizeof name, "%sdata/%.*s", zip->prefix, (int)key_bytes, key);
    const zip_int64_t index = zip_name_locate(zip->archive, name, 0);
    if (index < 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: the zip has no entry data/%s, which the pickle uses",
                       zip->file->path, shown);
    return place_entry(zip, (zip_uint64_t)index, offset_out, bytes_out);
}
