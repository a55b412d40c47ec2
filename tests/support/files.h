/* files.h - what tests of file readers share: temporary folders, bytes put together one by one, and
 * a writer of zip files.  Where the test's own machine fails, the test ends at once.
 */
#ifndef SL_TESTS_SUPPORT_FILES_H
#define SL_TESTS_SUPPORT_FILES_H

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: needs %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* cmocka fixtures: *state is a new folder's path. */
static inline int make_dir(void **state) {
    char *dir = strdup("/tmp/sl-test-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

static inline int remove_entry(const char *path, const struct stat *info, int type,
                               struct FTW *ftw) {
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static inline int remove_dir(void **state) {
    const int rc = nftw(*state, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return rc;
}

/* A growing run of bytes, little-endian; freed by write_buffer or free(b.at). */
typedef struct {
    unsigned char *at;
    size_t bytes, cap;
} buffer;

static inline void put(buffer *b, const void *data, size_t bytes) {
    if (b->cap - b->bytes < bytes) {
        b->cap = 2 * b->cap + bytes + 256;
        b->at = realloc(b->at, b->cap);
        REQUIRE(b->at);
    }
    if (bytes > 0) memcpy(b->at + b->bytes, data, bytes);
    b->bytes += bytes;
}

static inline void put_text(buffer *b, const char *text) {
    put(b, text, strlen(text));
}

static inline void put_number(buffer *b, uint64_t v, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)(v >> 8 * i);
        put(b, &byte, 1);
    }
}

static inline void put_u8(buffer *b, unsigned v) {
    put_number(b, v, 1);
}

static inline void put_u16(buffer *b, unsigned v) {
    put_number(b, v, 2);
}

static inline void put_u32(buffer *b, uint32_t v) {
    put_number(b, v, 4);
}

static inline void put_u64(buffer *b, uint64_t v) {
    put_number(b, v, 8);
}

static inline void put_f32(buffer *b, float v) {
    put(b, &v, sizeof v);
}

static inline void put_zeros(buffer *b, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) put_u8(b, 0);
}

static inline void pad_to(buffer *b, size_t align) {
    while (b->bytes % align) put_u8(b, 0);
}

/* DIR/NAME in buf of 4096 bytes. */
static inline const char *path_in(const char *dir, const char *name, char *buf) {
    const int n = snprintf(buf, 4096, "%s/%s", dir, name);
    REQUIRE(n > 0 && n < 4096);
    return buf;
}

static inline void write_bytes(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    REQUIRE(bytes == 0 || fwrite(data, 1, bytes, f) == bytes);
    REQUIRE(fclose(f) == 0);
}

/* Writes the buffer to `path` and frees it. */
static inline void write_buffer(const char *path, buffer *b) {
    write_bytes(path, b->at, b->bytes);
    free(b->at);
    *b = (buffer){0};
}

/* A whole file; freed with free(b.at). */
static inline buffer read_whole(const char *path) {
    buffer b = {0};
    char chunk[4096];
    size_t got;
    FILE *f = fopen(path, "rb");
    REQUIRE(f);
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0) put(&b, chunk, got);
    fclose(f);
    return b;
}

/* A zip being written: local headers and data in `file`, the directory apart until it is closed. */
typedef struct {
    buffer file, directory;
    unsigned n;
} zip_writer;

static inline uint32_t crc_of(const unsigned char *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* What local and central headers have in common. */
static inline void put_zip_fields(buffer *b, unsigned method, uint32_t crc, uint32_t bytes,
                                  uint32_t plain_bytes, const char *name) {
    put_u16(b, 20); /* version needed */
    put_u16(b, 0);  /* flags */
    put_u16(b, method);
    put_u32(b, 0x00210000u); /* the first of January 1980 */
    put_u32(b, crc);
    put_u32(b, bytes);
    put_u32(b, plain_bytes);
    put_u16(b, (unsigned)strlen(name));
}

/* Adds an entry whose data is written as it is; method 0 is stored.  `plain_bytes` is what it
 * claims to be when expanded. */
static inline void zip_add(zip_writer *zip, const char *name, unsigned method, const void *data,
                           size_t bytes, size_t plain_bytes) {
    const uint32_t crc = crc_of(data, bytes), at = (uint32_t)zip->file.bytes;
    put_u32(&zip->file, 0x04034b50u);
    put_zip_fields(&zip->file, method, crc, (uint32_t)bytes, (uint32_t)plain_bytes, name);
    put_u16(&zip->file, 0); /* extra */
    put_text(&zip->file, name);
    put(&zip->file, data, bytes);

    put_u32(&zip->directory, 0x02014b50u);
    put_u16(&zip->directory, 20); /* made by */
    put_zip_fields(&zip->directory, method, crc, (uint32_t)bytes, (uint32_t)plain_bytes, name);
    put_u16(&zip->directory, 0); /* extra */
    put_u16(&zip->directory, 0); /* comment */
    put_u16(&zip->directory, 0); /* disk */
    put_u16(&zip->directory, 0); /* attributes */
    put_u32(&zip->directory, 0);
    put_u32(&zip->directory, at);
    put_text(&zip->directory, name);
    zip->n++;
}

/* The whole file; frees the writer. */
static inline buffer zip_finish(zip_writer *zip) {
    const uint32_t at = (uint32_t)zip->file.bytes, bytes = (uint32_t)zip->directory.bytes;
    put(&zip->file, zip->directory.at, zip->directory.bytes);
    put_u32(&zip->file, 0x06054b50u);
    put_u32(&zip->file, 0); /* disks */
    put_u16(&zip->file, zip->n);
    put_u16(&zip->file, zip->n);
    put_u32(&zip->file, bytes);
    put_u32(&zip->file, at);
    put_u16(&zip->file, 0); /* comment */
    const buffer whole = zip->file;
    free(zip->directory.at);
    *zip = (zip_writer){0};
    return whole;
}

static inline void zip_write(const char *path, zip_writer *zip) {
    buffer whole = zip_finish(zip);
    write_buffer(path, &whole);
}

#endif
