#include <string.h>

#include "model/checkpoint.h"
#include "model/checkpoint_impl.h"
#include "model/pickle.h"
#include "model/torch_zip.h"

typedef struct {
    sl_checkpoint *ckpt;
    size_t file;
    sl_torch_zip *zip;
} reading;

/* Row-major and without gaps; the stride of a dimension of one is never used. */
static sl_status check_contiguous(const sl_checkpoint_file *file, const char *shown,
                                  const sl_pickle_tensor *t) {
    int64_t expected = 1;
    for (size_t d = t->n_dims; d-- > 0;) {
        if (t->dims[d] == 1) continue;
        if (t->strides[d] != expected)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: tensor \"%s\" is not contiguous: dimension %zu of %lld has stride "
                           "%lld, expected %lld",
                           file->path, shown, d, (long long)t->dims[d], (long long)t->strides[d],
                           (long long)expected);
        if (__builtin_mul_overflow(expected, t->dims[d], &expected))
            return SL_FAIL(SL_ERR_FORMAT, "%s: tensor \"%s\": its number of elements overflows",
                           file->path, shown);
    }
    return SL_OK;
}

static sl_status add_tensor(void *ctx, const sl_pickle_tensor *t) {
    const reading *r = ctx;
    const sl_checkpoint_file *file = &r->ckpt->files[r->file];
    char shown[128];
    uint64_t storage_at = 0, storage_bytes = 0, claimed = 0;
    sl_checkpoint_printable(t->name, t->name_bytes, shown, sizeof shown);
    sl_checkpoint_claim claim = {
        .name = t->name,
        .name_bytes = t->name_bytes,
        .dtype = t->dtype,
        .elem_bytes = t->is_float ? 0 : t->elem_bytes,
        .n_dims = (int)t->n_dims,
        .dims = t->dims,
    };
    SL_TRY(sl_checkpoint_shape_bytes(file->path, shown, &claim, &claim.bytes));
    SL_TRY(check_contiguous(file, shown, t));
    SL_TRY(sl_torch_zip_storage(r->zip, t->key, t->key_bytes, &storage_at, &storage_bytes));
    if (t->storage_elems < 0 ||
        __builtin_mul_overflow((uint64_t)t->storage_elems, (uint64_t)t->elem_bytes, &claimed) ||
        claimed != storage_bytes)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": its %s claims %lld elements of %zu bytes, the entry has "
                       "%llu bytes",
                       file->path, shown, t->storage_type, (long long)t->storage_elems,
                       t->elem_bytes, (unsigned long long)storage_bytes);
    const uint64_t elems = claim.bytes / t->elem_bytes;
    if (t->offset < 0 || t->offset > t->storage_elems ||
        elems > (uint64_t)(t->storage_elems - t->offset))
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\": %llu elements from element %lld, its storage has %lld",
                       file->path, shown, (unsigned long long)elems, (long long)t->offset,
                       (long long)t->storage_elems);
    claim.offset = storage_at + (uint64_t)t->offset * t->elem_bytes;
    return sl_checkpoint_add_tensor(r->ckpt, r->file, &claim);
}

static sl_status read_file(sl_checkpoint *ckpt, size_t file) {
    sl_status st = SL_OK;
    size_t bytes = 0;
    reading r = {.ckpt = ckpt, .file = file};
    SL_TRY(sl_torch_zip_open(&ckpt->files[file], &r.zip));
    const unsigned char *pickle = sl_torch_zip_pickle(r.zip, &bytes);
    SL_GO(sl_pickle_read(ckpt->files[file].path, pickle, bytes, add_tensor, &r));
fail:
    sl_torch_zip_close(r.zip);
    return st;
}

sl_status sl_torch_open(const char *path, sl_checkpoint **out) {
    static const sl_checkpoint_layout layout = {
        .kind = SL_CHECKPOINT_TORCH,
        .single = "pytorch_model.bin",
        .index = "pytorch_model.bin.index.json",
        .ranges = SL_RANGES_SHARED, /* tied tensors are two views of one storage */
        .read_file = read_file,
    };
    return sl_checkpoint_open_layout(&layout, path, out);
}
