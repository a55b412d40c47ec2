#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_impl.h"

enum {
    KEY_MAX = 65535,       /* the format's own limit */
    STRING_MAX = 16 << 20, /* chat templates stay below 1 MiB */
};

/* The format's numbers for value types. */
enum {
    TYPE_U8,
    TYPE_I8,
    TYPE_U16,
    TYPE_I16,
    TYPE_U32,
    TYPE_I32,
    TYPE_F32,
    TYPE_BOOL,
    TYPE_STRING,
    TYPE_ARRAY,
    TYPE_U64,
    TYPE_I64,
    TYPE_F64,
    N_TYPES
};

static const struct {
    sl_gguf_kind kind;
    size_t min_bytes; /* of one value in the file; a string has at least its length */
} types[N_TYPES] = {
    [TYPE_U8] = {SL_GGUF_INT, 1},        [TYPE_I8] = {SL_GGUF_INT, 1},
    [TYPE_U16] = {SL_GGUF_INT, 2},       [TYPE_I16] = {SL_GGUF_INT, 2},
    [TYPE_U32] = {SL_GGUF_INT, 4},       [TYPE_I32] = {SL_GGUF_INT, 4},
    [TYPE_F32] = {SL_GGUF_FLOAT, 4},     [TYPE_BOOL] = {SL_GGUF_BOOL, 1},
    [TYPE_STRING] = {SL_GGUF_STRING, 8}, [TYPE_ARRAY] = {SL_GGUF_ARRAY, 12},
    [TYPE_U64] = {SL_GGUF_INT, 8},       [TYPE_I64] = {SL_GGUF_INT, 8},
    [TYPE_F64] = {SL_GGUF_FLOAT, 8},
};

sl_status sl_gguf_take(sl_gguf_cursor *cursor, void *dst, size_t bytes) {
    if (bytes > cursor->end - cursor->pos)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: %s: needs %zu bytes at byte %llu, the header may reach byte %llu",
                       cursor->file->path, cursor->where, bytes, (unsigned long long)cursor->pos,
                       (unsigned long long)cursor->end);
    char *at = dst;
    while (bytes > 0) {
        if (cursor->buf_pos == cursor->buf_bytes) {
            const uint64_t left = cursor->end - cursor->pos;
            const size_t n = left < sizeof cursor->buf ? (size_t)left : sizeof cursor->buf;
            SL_TRY(sl_checkpoint_pread(cursor->file, cursor->pos, cursor->buf, n, cursor->where));
            cursor->buf_pos = 0;
            cursor->buf_bytes = n;
        }
        const size_t have = cursor->buf_bytes - cursor->buf_pos;
        const size_t n = bytes < have ? bytes : have;
        memcpy(at, cursor->buf + cursor->buf_pos, n);
        cursor->buf_pos += n;
        cursor->pos += n;
        at += n;
        bytes -= n;
    }
    return SL_OK;
}

/* Numbers of the file are little-endian, as are the hosts we run on (quant.c asserts it). */
sl_status sl_gguf_take_u32(sl_gguf_cursor *cursor, uint32_t *out) {
    return sl_gguf_take(cursor, out, sizeof *out);
}

sl_status sl_gguf_take_u64(sl_gguf_cursor *cursor, uint64_t *out) {
    return sl_gguf_take(cursor, out, sizeof *out);
}

sl_status sl_gguf_take_length(sl_gguf_cursor *cursor, size_t max, size_t *out) {
    uint64_t n = 0;
    SL_TRY(sl_gguf_take_u64(cursor, &n));
    if (n > max)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s: a string of %llu bytes, expected at most %zu",
                       cursor->file->path, cursor->where, (unsigned long long)n, max);
    SL_TRY(sl_gguf_check_count(cursor, n, 1));
    *out = (size_t)n;
    return SL_OK;
}

sl_status sl_gguf_check_count(const sl_gguf_cursor *cursor, uint64_t n, uint64_t min_bytes) {
    if (n <= (cursor->end - cursor->pos) / min_bytes) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT,
                   "%s: %s: claims %llu items of %llu bytes or more at byte %llu, the header may "
                   "reach byte %llu",
                   cursor->file->path, cursor->where, (unsigned long long)n,
                   (unsigned long long)min_bytes, (unsigned long long)cursor->pos,
                   (unsigned long long)cursor->end);
}

static sl_status check_utf8(const sl_gguf_cursor *cursor, const char *text, size_t bytes) {
    char shown[64];
    if (sl_checkpoint_is_utf8(text, bytes)) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT, "%s: %s: found \"%s\", expected UTF-8", cursor->file->path,
                   cursor->where, sl_checkpoint_printable(text, bytes, shown, sizeof shown));
}

static sl_status out_of_memory(const sl_gguf_cursor *cursor) {
    return SL_FAIL(SL_ERR_NOMEM, "%s: %s: out of host memory", cursor->file->path, cursor->where);
}

/* One integer, bool or float of type `type`, as int64 or as double. */
static sl_status take_number(sl_gguf_cursor *cursor, uint32_t type, int64_t *i, double *f) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } v = {0};
    SL_TRY(sl_gguf_take(cursor, &v, types[type].min_bytes));
    switch (type) {
    case TYPE_U8:
        *i = v.u8;
        break;
    case TYPE_I8:
        *i = v.i8;
        break;
    case TYPE_U16:
        *i = v.u16;
        break;
    case TYPE_I16:
        *i = v.i16;
        break;
    case TYPE_U32:
        *i = v.u32;
        break;
    case TYPE_I32:
        *i = v.i32;
        break;
    case TYPE_F32:
        *f = (double)v.f32;
        break;
    case TYPE_BOOL:
        if (v.u8 > 1)
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s: a bool is %d, expected 0 or 1",
                           cursor->file->path, cursor->where, v.u8);
        *i = v.u8;
        break;
    case TYPE_U64:
        if (v.u64 > INT64_MAX)
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s: found %llu, expected at most %lld",
                           cursor->file->path, cursor->where, (unsigned long long)v.u64,
                           (long long)INT64_MAX);
        *i = (int64_t)v.u64;
        break;
    case TYPE_I64:
        *i = v.i64;
        break;
    default: /* TYPE_F64 */
        *f = v.f64;
    }
    return SL_OK;
}

static sl_status take_string(sl_gguf_cursor *cursor, size_t max, char **out, size_t *bytes_out) {
    sl_status st = SL_OK;
    size_t bytes = 0;
    SL_TRY(sl_gguf_take_length(cursor, max, &bytes));
    char *text = malloc(bytes + 1);
    if (!text) return out_of_memory(cursor);
    SL_GO(sl_gguf_take(cursor, text, bytes));
    SL_GO(check_utf8(cursor, text, bytes));
    text[bytes] = '\0';
    *out = text;
    *bytes_out = bytes;
    return SL_OK;
fail:
    free(text);
    return st;
}

/* The strings of an array lie one after the other in one allocation, which strings[0] owns. */
static sl_status take_strings(sl_gguf_cursor *cursor, size_t n, sl_gguf_value *value) {
    sl_status st = SL_OK;
    char *text = NULL;
    size_t used = 0, cap = 0;
    const char **strings = calloc(n + 1, sizeof *strings);
    size_t *bytes = calloc(n + 1, sizeof *bytes);
    if (!strings || !bytes) {
        st = out_of_memory(cursor);
        goto fail;
    }
    for (size_t i = 0; i < n; i++) {
        SL_GO(sl_gguf_take_length(cursor, STRING_MAX, &bytes[i]));
        if (cap - used < bytes[i] + 1) {
            cap = 2 * cap + bytes[i] + 4096;
            char *grown = realloc(text, cap);
            if (!grown) {
                st = out_of_memory(cursor);
                goto fail;
            }
            text = grown;
        }
        SL_GO(sl_gguf_take(cursor, text + used, bytes[i]));
        SL_GO(check_utf8(cursor, text + used, bytes[i]));
        text[used + bytes[i]] = '\0';
        used += bytes[i] + 1;
    }
    /* Only now does the text stay where it is. */
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        strings[i] = text + at;
        at += bytes[i] + 1;
    }
    value->strings = strings;
    value->string_bytes = bytes;
    return SL_OK;
fail:
    free(text);
    free(strings);
    free(bytes);
    return st;
}

static sl_status take_array(sl_gguf_cursor *cursor, sl_gguf_value *value) {
    sl_status st = SL_OK;
    uint32_t type = 0;
    uint64_t n64 = 0;
    SL_TRY(sl_gguf_take_u32(cursor, &type));
    SL_TRY(sl_gguf_take_u64(cursor, &n64));
    if (type >= N_TYPES || type == TYPE_ARRAY)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s: an array of type %u, expected a plain type (0..12)",
                       cursor->file->path, cursor->where, type);
    SL_TRY(sl_gguf_check_count(cursor, n64, types[type].min_bytes));
    const size_t n = (size_t)n64;
    value->elem_kind = types[type].kind;
    value->n = n;
    if (type == TYPE_STRING) return take_strings(cursor, n, value);

    const int is_float = value->elem_kind == SL_GGUF_FLOAT;
    int64_t *ints = is_float ? NULL : calloc(n + 1, sizeof *ints);
    double *floats = is_float ? calloc(n + 1, sizeof *floats) : NULL;
    if (!ints && !floats) return out_of_memory(cursor);
    int64_t i = 0;
    double f = 0;
    for (size_t k = 0; k < n; k++) {
        SL_GO(take_number(cursor, type, &i, &f));
        if (is_float)
            floats[k] = f;
        else
            ints[k] = i;
    }
    value->ints = ints;
    value->floats = floats;
    return SL_OK;
fail:
    free(ints);
    free(floats);
    return st;
}

static sl_status take_value(sl_gguf_cursor *cursor, sl_gguf_value *value) {
    uint32_t type = 0;
    SL_TRY(sl_gguf_take_u32(cursor, &type));
    if (type >= N_TYPES)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s: value type %u, expected 0..%d", cursor->file->path,
                       cursor->where, type, N_TYPES - 1);
    value->kind = types[type].kind;
    if (type == TYPE_ARRAY) return take_array(cursor, value);
    if (type != TYPE_STRING) return take_number(cursor, type, &value->i, &value->f);
    char *text = NULL;
    SL_TRY(take_string(cursor, STRING_MAX, &text, &value->s_bytes));
    value->s = text;
    return SL_OK;
}

/* `pair` starts zeroed; what a failure leaves in it is freed with the metadata. */
static sl_status take_pair(sl_gguf_cursor *cursor, size_t index, sl_gguf_pair *pair) {
    char shown[128];
    size_t key_bytes = 0;
    snprintf(cursor->where, sizeof cursor->where, "metadata key %zu", index);
    SL_TRY(take_string(cursor, KEY_MAX, &pair->key, &key_bytes));
    sl_checkpoint_printable(pair->key, key_bytes, shown, sizeof shown);
    if (key_bytes == 0 || strlen(pair->key) != key_bytes)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is \"%s\", expected a text without zeros",
                       cursor->file->path, cursor->where, shown);
    snprintf(cursor->where, sizeof cursor->where, "metadata \"%s\"", shown);
    return take_value(cursor, &pair->value);
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const sl_gguf_pair *)a)->key, ((const sl_gguf_pair *)b)->key);
}

sl_status sl_gguf_meta_read(sl_gguf_cursor *cursor, uint64_t n, sl_gguf_meta **meta_out) {
    sl_status st = SL_OK;
    const size_t min_bytes = 8 + 1 + 4 + 1; /* key of one byte, type, value of one byte */
    char shown[128];
    SL_TRY(sl_gguf_check_count(cursor, n, min_bytes));
    sl_gguf_meta *meta = calloc(1, sizeof *meta);
    if (!meta) return out_of_memory(cursor);
    /* Grown as the pairs arrive: a pair in memory is ten times its smallest form in the file. */
    for (size_t cap = 0; meta->n < n; meta->n++) {
        if (meta->n == cap) {
            cap = cap ? 2 * cap : 64;
            sl_gguf_pair *grown = realloc(meta->pairs, cap * sizeof *grown);
            if (!grown) {
                st = out_of_memory(cursor);
                goto fail;
            }
            meta->pairs = grown;
        }
        meta->pairs[meta->n] = (sl_gguf_pair){0};
        st = take_pair(cursor, meta->n, &meta->pairs[meta->n]);
        if (st != SL_OK) {
            meta->n++; /* the key may be there already */
            goto fail;
        }
    }
    if (meta->n > 1) qsort(meta->pairs, meta->n, sizeof *meta->pairs, compare_keys);
    for (size_t i = 1; i < meta->n; i++) {
        if (compare_keys(&meta->pairs[i - 1], &meta->pairs[i]) != 0) continue;
        const char *key = meta->pairs[i].key;
        st = SL_FAIL(SL_ERR_FORMAT, "%s: metadata \"%s\" is found twice", cursor->file->path,
                     sl_checkpoint_printable(key, strlen(key), shown, sizeof shown));
        goto fail;
    }
    *meta_out = meta;
    return SL_OK;
fail:
    sl_gguf_meta_free(meta);
    return st;
}

void sl_gguf_meta_free(void *opaque) {
    sl_gguf_meta *meta = opaque;
    if (!meta) return;
    for (size_t i = 0; i < meta->n; i++) {
        sl_gguf_value *v = &meta->pairs[i].value;
        if (v->strings) free((char *)v->strings[0]);
        free((void *)v->strings);
        free((void *)v->string_bytes);
        free((void *)v->ints);
        free((void *)v->floats);
        free((char *)v->s);
        free(meta->pairs[i].key);
    }
    free(meta->pairs);
    free(meta);
}

const sl_gguf_value *sl_gguf_meta_find(const sl_gguf_meta *meta, const char *key) {
    const sl_gguf_pair wanted = {.key = (char *)key};
    if (meta->n == 0) return NULL;
    const sl_gguf_pair *hit =
        bsearch(&wanted, meta->pairs, meta->n, sizeof *meta->pairs, compare_keys);
    return hit ? &hit->value : NULL;
}
