/* tiny_files.h - writes small checkpoints for tests: GGUF files, safetensors folders, texts.
 *
 * Tensors are collected first and written with the header at the end.  Values are the caller's.
 * Everything asserts with cmocka, which the including test has included.
 */
#ifndef SL_TESTS_TINY_FILES_H
#define SL_TESTS_TINY_FILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"

enum { TINY_MAX_TENSORS = 64 };

typedef struct {
    char name[96];
    sl_dtype dtype;
    int64_t rows, cols; /* rows 0: a vector */
    void *data;         /* owned */
    size_t bytes;
} tiny_tensor;

typedef struct {
    char *bytes;
    size_t n, room;
} tiny_buffer;

typedef struct {
    int n_tensors;
    tiny_tensor tensors[TINY_MAX_TENSORS];
    tiny_buffer meta; /* GGUF: the key-value pairs so far */
    uint64_t n_meta;
} tiny_file;

static inline void tiny_put(tiny_buffer *b, const void *data, size_t bytes) {
    while (b->n + bytes > b->room) {
        b->room = b->room ? 2 * b->room : 4096;
        b->bytes = realloc(b->bytes, b->room);
        assert_non_null(b->bytes);
    }
    memcpy(b->bytes + b->n, data, bytes);
    b->n += bytes;
}

static inline void tiny_put_u32(tiny_buffer *b, uint32_t v) {
    tiny_put(b, &v, sizeof v);
}

static inline void tiny_put_u64(tiny_buffer *b, uint64_t v) {
    tiny_put(b, &v, sizeof v);
}

static inline void tiny_put_string(tiny_buffer *b, const char *s) {
    tiny_put_u64(b, strlen(s));
    tiny_put(b, s, strlen(s));
}

static inline void tiny_kv_u32(tiny_file *f, const char *key, uint32_t v) {
    tiny_put_string(&f->meta, key);
    tiny_put_u32(&f->meta, 4); /* GGUF's type u32 */
    tiny_put_u32(&f->meta, v);
    f->n_meta++;
}

static inline void tiny_kv_f32(tiny_file *f, const char *key, float v) {
    tiny_put_string(&f->meta, key);
    tiny_put_u32(&f->meta, 6); /* f32 */
    tiny_put(&f->meta, &v, sizeof v);
    f->n_meta++;
}

static inline void tiny_kv_string(tiny_file *f, const char *key, const char *v) {
    tiny_put_string(&f->meta, key);
    tiny_put_u32(&f->meta, 8); /* string */
    tiny_put_string(&f->meta, v);
    f->n_meta++;
}

/* Adds a tensor of zeros and gives its data to be filled in. */
static inline void *tiny_add(tiny_file *f, const char *name, sl_dtype dtype, int64_t rows,
                             int64_t cols) {
    assert_true(f->n_tensors < TINY_MAX_TENSORS);
    tiny_tensor *t = &f->tensors[f->n_tensors++];
    size_t row_bytes = 0;
    assert_int_equal(sl_dtype_row_bytes(dtype, cols, &row_bytes), SL_OK);
    *t = (tiny_tensor){.dtype = dtype, .rows = rows, .cols = cols};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->bytes = row_bytes * (size_t)(rows ? rows : 1);
    t->data = calloc(1, t->bytes);
    assert_non_null(t->data);
    return t->data;
}

static inline tiny_tensor *tiny_find(tiny_file *f, const char *name) {
    for (int i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i].name, name) == 0) return &f->tensors[i];
    fail_msg("no tensor %s in the test's file", name);
    return NULL;
}

static inline void tiny_write(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static inline void tiny_write_text(const char *dir, const char *file, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    tiny_write(path, text, strlen(text));
}

static inline void tiny_write_gguf(tiny_file *f, const char *path) {
    static const uint32_t types[SL_DTYPE_COUNT] = {
        [SL_DTYPE_F32] = 0, [SL_DTYPE_F16] = 1, [SL_DTYPE_BF16] = 30, [SL_DTYPE_Q8_0] = 8};
    const char zeros[32] = {0};
    tiny_buffer b = {0};
    tiny_put(&b, "GGUF", 4);
    tiny_put_u32(&b, 3);
    tiny_put_u64(&b, (uint64_t)f->n_tensors);
    tiny_put_u64(&b, f->n_meta);
    tiny_put(&b, f->meta.bytes, f->meta.n);
    uint64_t offset = 0;
    for (int i = 0; i < f->n_tensors; i++) {
        const tiny_tensor *t = &f->tensors[i];
        tiny_put_string(&b, t->name);
        tiny_put_u32(&b, t->rows ? 2 : 1);
        tiny_put_u64(&b, (uint64_t)t->cols); /* fastest dimension first */
        if (t->rows) tiny_put_u64(&b, (uint64_t)t->rows);
        tiny_put_u32(&b, types[t->dtype]);
        tiny_put_u64(&b, offset);
        offset += (t->bytes + 31) / 32 * 32;
    }
    tiny_put(&b, zeros, (32 - b.n % 32) % 32);
    for (int i = 0; i < f->n_tensors; i++) {
        tiny_put(&b, f->tensors[i].data, f->tensors[i].bytes);
        tiny_put(&b, zeros, (32 - b.n % 32) % 32);
    }
    tiny_write(path, b.bytes, b.n);
    free(b.bytes);
}

static inline void tiny_write_safetensors(tiny_file *f, const char *path) {
    tiny_buffer header = {0}, b = {0};
    size_t offset = 0;
    for (int i = 0; i < f->n_tensors; i++) {
        const tiny_tensor *t = &f->tensors[i];
        char text[512], shape[64];
        if (t->rows)
            snprintf(shape, sizeof shape, "%lld,%lld", (long long)t->rows, (long long)t->cols);
        else
            snprintf(shape, sizeof shape, "%lld", (long long)t->cols);
        const int n = snprintf(
            text, sizeof text,
            "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", i ? ',' : '{',
            t->name, sl_dtype_name(t->dtype), shape, offset, offset + t->bytes);
        tiny_put(&header, text, (size_t)n);
        offset += t->bytes;
    }
    tiny_put(&header, "}", 1);
    tiny_put_u64(&b, header.n);
    tiny_put(&b, header.bytes, header.n);
    for (int i = 0; i < f->n_tensors; i++) tiny_put(&b, f->tensors[i].data, f->tensors[i].bytes);
    tiny_write(path, b.bytes, b.n);
    free(header.bytes);
    free(b.bytes);
}

static inline void tiny_free(tiny_file *f) {
    for (int i = 0; i < f->n_tensors; i++) free(f->tensors[i].data);
    free(f->meta.bytes);
    *f = (tiny_file){0};
}

#endif
