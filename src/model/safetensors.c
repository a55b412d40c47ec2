#include <jansson.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/checkpoint_impl.h"

/* The format's dtypes that we list (elem_bytes 0) or check and leave out; others are refused. */
static int dtype_of(const char *name, sl_dtype *dtype, size_t *elem_bytes) {
    static const struct {
        const char *name;
        sl_dtype dtype;
        size_t elem_bytes;
    } known[] = {
        {"F32", SL_DTYPE_F32, 0},  {"F16", SL_DTYPE_F16, 0}, {"BF16", SL_DTYPE_BF16, 0},
        {"BOOL", SL_DTYPE_F32, 1}, {"U8", SL_DTYPE_F32, 1},  {"I8", SL_DTYPE_F32, 1},
        {"U16", SL_DTYPE_F32, 2},  {"I16", SL_DTYPE_F32, 2}, {"U32", SL_DTYPE_F32, 4},
        {"I32", SL_DTYPE_F32, 4},  {"U64", SL_DTYPE_F32, 8}, {"I64", SL_DTYPE_F32, 8},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *dtype = known[i].dtype;
        *elem_bytes = known[i].elem_bytes;
        return 1;
    }
    return 0;
}

static sl_status check_metadata(const sl_checkpoint_file *file, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return SL_FAIL(SL_ERR_FORMAT, "%s: __metadata__ is no object", file->path);
    json_object_foreach(metadata, key, value) {
        char shown[64];
        if (!json_is_string(value))
            return SL_FAIL(SL_ERR_FORMAT, "%s: __metadata__: \"%s\" is no text", file->path,
                           sl_checkpoint_printable(key, strlen(key), shown, sizeof shown));
    }
    return SL_OK;
}

static sl_status take_shape(const sl_checkpoint_file *file, const char *shown, const json_t *shape,
                            int64_t *dims, int *n_dims) {
    const size_t n = json_array_size(shape); /* 0 for what is no array */
    if (!json_is_array(shape) || n > SL_TENSOR_MAX_DIMS)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": the shape is no list of at most %d numbers", file->path,
                       shown, (int)SL_TENSOR_MAX_DIMS);
    for (size_t d = 0; d < n; d++) {
        const json_t *dim = json_array_get(shape, d);
        if (!json_is_integer(dim))
            return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\": dimension %zu is no whole number",
                           file->path, shown, d);
        dims[d] = json_integer_value(dim);
    }
    *n_dims = (int)n;
    return SL_OK;
}

static sl_status take_tensor(sl_checkpoint *ckpt, size_t file_index, const char *name,
                             const json_t *info) {
    const sl_checkpoint_file *file = &ckpt->files[file_index];
    char shown[128], shown_dtype[32];
    int64_t dims[SL_TENSOR_MAX_DIMS];
    sl_checkpoint_claim claim = {.name = name, .name_bytes = strlen(name), .dims = dims};
    sl_checkpoint_printable(name, claim.name_bytes, shown, sizeof shown);

    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    if (!dtype) return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\" has no dtype", file->path, shown);
    if (!dtype_of(dtype, &claim.dtype, &claim.elem_bytes))
        return SL_FAIL(
            SL_ERR_FORMAT, "%s: tensor \"%s\" has dtype \"%s\", expected F32, F16 or BF16",
            file->path, shown,
            sl_checkpoint_printable(dtype, strlen(dtype), shown_dtype, sizeof shown_dtype));
    SL_TRY(take_shape(file, shown, json_object_get(info, "shape"), dims, &claim.n_dims));

    const json_t *span = json_object_get(info, "data_offsets");
    const json_t *begin = json_array_get(span, 0), *end = json_array_get(span, 1);
    if (json_array_size(span) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": data_offsets is no list of two whole numbers",
                       file->path, shown);
    const json_int_t first = json_integer_value(begin), last = json_integer_value(end);
    const uint64_t data_bytes = file->bytes - file->data_start;
    if (first < 0 || last < first || (uint64_t)last > data_bytes)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": data_offsets are [%lld, %lld], the file has %llu bytes "
                       "of data",
                       file->path, shown, (long long)first, (long long)last,
                       (unsigned long long)data_bytes);
    claim.offset = file->data_start + (uint64_t)first;
    claim.bytes = (uint64_t)(last - first);
    return sl_checkpoint_add_tensor(ckpt, file_index, &claim);
}

static sl_status read_file(sl_checkpoint *ckpt, size_t file_index) {
    sl_status st = SL_OK;
    sl_checkpoint_file *file = &ckpt->files[file_index];
    uint64_t header_bytes = 0;
    json_t *header = NULL;
    const char *name;
    json_t *info;
    if (file->bytes < sizeof header_bytes)
        return SL_FAIL(SL_ERR_FORMAT, "%s: has %llu bytes, a safetensors file at least 8",
                       file->path, (unsigned long long)file->bytes);
    /* Little-endian, as are the hosts we run on (quant.c asserts it). */
    SL_TRY(sl_checkpoint_pread(file, 0, &header_bytes, sizeof header_bytes, "the header's size"));
    SL_TRY(sl_checkpoint_read_json(file, sizeof header_bytes, header_bytes, "the header", &header));
    file->data_start = sizeof header_bytes + header_bytes;
    json_object_foreach(header, name, info) {
        if (strcmp(name, "__metadata__") == 0)
            SL_GO(check_metadata(file, info));
        else
            SL_GO(take_tensor(ckpt, file_index, name, info));
    }
fail:
    json_decref(header);
    return st;
}

sl_status sl_safetensors_open(const char *path, sl_checkpoint **out) {
    static const sl_checkpoint_layout layout = {
        .kind = SL_CHECKPOINT_SAFETENSORS,
        .single = "model.safetensors",
        .index = "model.safetensors.index.json",
        .ranges = SL_RANGES_PACKED,
        .read_file = read_file,
    };
    return sl_checkpoint_open_layout(&layout, path, out);
}
