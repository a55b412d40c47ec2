#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/checkpoint.h"
#include "model/gguf_impl.h"

enum {
    HEADER_MAX = 512 << 20, /* bytes of metadata and tensor table; vocabularies take some MB */
    ALIGNMENT = 32,         /* where general.alignment is missing */
    ALIGNMENT_MAX = 1 << 20,
};

/* The format's numbers for tensor types that we read; others are refused. */
static int dtype_of(uint32_t type, sl_dtype *out) {
    static const struct {
        uint32_t type;
        sl_dtype dtype;
    } known[] = {
        {0, SL_DTYPE_F32},   {1, SL_DTYPE_F16},   {2, SL_DTYPE_Q4_0},  {3, SL_DTYPE_Q4_1},
        {6, SL_DTYPE_Q5_0},  {7, SL_DTYPE_Q5_1},  {8, SL_DTYPE_Q8_0},  {12, SL_DTYPE_Q4_K},
        {13, SL_DTYPE_Q5_K}, {14, SL_DTYPE_Q6_K}, {30, SL_DTYPE_BF16},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].type != type) continue;
        *out = known[i].dtype;
        return 1;
    }
    return 0;
}

typedef struct {
    char name[SL_TENSOR_NAME_MAX + 1];
    int64_t dims[SL_TENSOR_MAX_DIMS]; /* slowest first */
    sl_checkpoint_claim claim;        /* offset still relative to the data */
} tensor_info;

static sl_status take_info(sl_gguf_cursor *cursor, uint64_t index, tensor_info *info) {
    const char *path = cursor->file->path;
    char shown[128];
    uint32_t n_dims = 0, type = 0;
    uint64_t dim = 0;
    sl_checkpoint_claim *claim = &info->claim;
    *claim = (sl_checkpoint_claim){.name = info->name, .dims = info->dims};

    snprintf(cursor->where, sizeof cursor->where, "name of tensor %llu", (unsigned long long)index);
    SL_TRY(sl_gguf_take_length(cursor, SL_TENSOR_NAME_MAX, &claim->name_bytes));
    SL_TRY(sl_gguf_take(cursor, info->name, claim->name_bytes));
    info->name[claim->name_bytes] = '\0';
    sl_checkpoint_printable(info->name, claim->name_bytes, shown, sizeof shown);
    snprintf(cursor->where, sizeof cursor->where, "tensor \"%s\"", shown);

    SL_TRY(sl_gguf_take_u32(cursor, &n_dims));
    if (n_dims < 1 || n_dims > SL_TENSOR_MAX_DIMS)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s has %u dimensions, expected 1 to %d", path,
                       cursor->where, n_dims, (int)SL_TENSOR_MAX_DIMS);
    claim->n_dims = (int)n_dims;
    for (uint32_t d = 0; d < n_dims; d++) {
        SL_TRY(sl_gguf_take_u64(cursor, &dim));
        if (dim < 1 || dim > INT64_MAX)
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s: dimension %u is %llu, expected 1 to %lld", path,
                           cursor->where, d, (unsigned long long)dim, (long long)INT64_MAX);
        info->dims[n_dims - 1 - d] = (int64_t)dim; /* the file has the fastest first */
    }
    SL_TRY(sl_gguf_take_u32(cursor, &type));
    SL_TRY(sl_gguf_take_u64(cursor, &claim->offset));
    if (!dtype_of(type, &claim->dtype))
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: %s has type %u, expected F32 (0), F16 (1), BF16 (30), Q4_0 (2), Q4_1 "
                       "(3), Q5_0 (6), Q5_1 (7), Q8_0 (8), Q4_K (12), Q5_K (13) or Q6_K (14)",
                       path, cursor->where, type);
    return sl_checkpoint_shape_bytes(path, shown, claim, &claim->bytes);
}

static sl_status alignment_of(const sl_gguf_cursor *cursor, const sl_gguf_meta *meta,
                              uint64_t *out) {
    const sl_gguf_value *value = sl_gguf_meta_find(meta, "general.alignment");
    *out = ALIGNMENT;
    if (!value) return SL_OK;
    const int64_t align = value->kind == SL_GGUF_INT ? value->i : 0;
    if (align < 8 || align > ALIGNMENT_MAX || (align & (align - 1)) != 0)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: general.alignment is %lld, expected a power of two from 8 to %d",
                       cursor->file->path, (long long)align, (int)ALIGNMENT_MAX);
    *out = (uint64_t)align;
    return SL_OK;
}

static sl_status take_preamble(sl_gguf_cursor *cursor, uint64_t *n_tensors, uint64_t *n_pairs) {
    char magic[4], shown[8];
    uint32_t version = 0;
    SL_TRY(sl_gguf_take(cursor, magic, sizeof magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: begins with \"%s\", expected \"GGUF\"",
                       cursor->file->path,
                       sl_checkpoint_printable(magic, sizeof magic, shown, sizeof shown));
    SL_TRY(sl_gguf_take_u32(cursor, &version));
    if (version != 2 && version != 3)
        return SL_FAIL(SL_ERR_FORMAT, "%s: GGUF version %u%s, expected 2 or 3", cursor->file->path,
                       version, version != 0 && (version & 0xffffu) == 0 ? " (big-endian)" : "");
    SL_TRY(sl_gguf_take_u64(cursor, n_tensors));
    return sl_gguf_take_u64(cursor, n_pairs);
}

/* The table of tensors; its claims get offsets in the file once the table's end is known. */
static sl_status read_tensors(sl_checkpoint *ckpt, sl_gguf_cursor *cursor, uint64_t n,
                              uint64_t align) {
    const uint64_t min_bytes = 8 + 1 + 4 + 8 + 4 + 8; /* name of one byte, one dimension */
    sl_status st = SL_OK;
    tensor_info *infos = NULL;
    size_t count = 0, cap = 0;
    snprintf(cursor->where, sizeof cursor->where, "table of tensors");
    SL_TRY(sl_gguf_check_count(cursor, n, min_bytes));
    for (; count < n; count++) {
        if (count == cap) {
            cap = cap ? 2 * cap : 64;
            tensor_info *grown = realloc(infos, cap * sizeof *infos);
            if (!grown) {
                st = SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory for %zu tensors", ckpt->path,
                             cap);
                goto fail;
            }
            infos = grown;
        }
        SL_GO(take_info(cursor, count, &infos[count]));
    }
    sl_checkpoint_file *file = &ckpt->files[0];
    file->data_start = sl_align_up(cursor->pos, align);
    for (size_t i = 0; i < count; i++) {
        sl_checkpoint_claim *claim = &infos[i].claim;
        /* The array has moved since the claims were made. */
        claim->name = infos[i].name;
        claim->dims = infos[i].dims;
        if (claim->offset % align != 0 || claim->offset > file->bytes) {
            char shown[128];
            st = SL_FAIL(
                SL_ERR_FORMAT,
                "%s: tensor \"%s\" has offset %llu, expected a multiple of %llu within "
                "the file's %llu bytes",
                file->path,
                sl_checkpoint_printable(claim->name, claim->name_bytes, shown, sizeof shown),
                (unsigned long long)claim->offset, (unsigned long long)align,
                (unsigned long long)file->bytes);
            goto fail;
        }
        claim->offset += file->data_start;
        SL_GO(sl_checkpoint_add_tensor(ckpt, 0, claim));
    }
fail:
    free(infos);
    return st;
}

sl_status sl_gguf_open(const char *path, sl_checkpoint **out) {
    sl_status st = SL_OK;
    sl_checkpoint *ckpt = NULL;
    sl_gguf_meta *meta = NULL;
    uint64_t n_tensors = 0, n_pairs = 0, align = 0;
    size_t file = 0;
    sl_gguf_cursor *cursor = calloc(1, sizeof *cursor);
    if (!cursor) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", path);
    SL_GO(sl_checkpoint_new(SL_CHECKPOINT_GGUF, path, &ckpt));
    SL_GO(sl_checkpoint_add_file(ckpt, path, &file));
    cursor->file = &ckpt->files[file];
    cursor->end = cursor->file->bytes < HEADER_MAX ? cursor->file->bytes : HEADER_MAX;
    snprintf(cursor->where, sizeof cursor->where, "header");

    SL_GO(take_preamble(cursor, &n_tensors, &n_pairs));
    SL_GO(sl_gguf_meta_read(cursor, n_pairs, &meta));
    ckpt->meta = meta;
    ckpt->meta_free = sl_gguf_meta_free;
    SL_GO(alignment_of(cursor, meta, &align));
    SL_GO(read_tensors(ckpt, cursor, n_tensors, align));
    SL_GO(sl_checkpoint_finish(ckpt, SL_RANGES_DISJOINT));
    free(cursor);
    *out = ckpt;
    return SL_OK;
fail:
    sl_checkpoint_close(ckpt);
    free(cursor);
    return st;
}

const sl_gguf_value *sl_gguf_find(const sl_checkpoint *ckpt, const char *key) {
    return ckpt->meta ? sl_gguf_meta_find(ckpt->meta, key) : NULL;
}
