/* The key of a packed file: what its bytes depend on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "store/packed_impl.h"

static uint64_t add_text(uint64_t h, const char *text) {
    return sl_hash(h, text, strlen(text) + 1);
}

static uint64_t add_number(uint64_t h, uint64_t v) {
    return sl_hash(h, &v, sizeof v);
}

static sl_status add_file(uint64_t *h, const char *path) {
    struct stat info;
    if (stat(path, &info) != 0)
        return SL_FAIL(SL_ERR_IO, "key of packed weights: %s: %s", path, strerror(errno));
    /* The full name: a model of the same shape in another folder may have files of the same size
     * and age. */
    char *full = realpath(path, NULL);
    if (!full) return SL_FAIL(SL_ERR_IO, "key of packed weights: %s: %s", path, strerror(errno));
    *h = add_text(*h, full);
    free(full);
    *h = add_number(*h, (uint64_t)info.st_size);
    *h = add_number(*h, (uint64_t)info.st_mtim.tv_sec);
    *h = add_number(*h, (uint64_t)info.st_mtim.tv_nsec);
    return SL_OK;
}

static sl_status add_checkpoint(uint64_t *h, const sl_checkpoint *ckpt) {
    const size_t n = sl_checkpoint_n_tensors(ckpt);
    const char *file = NULL; /* tensors come file by file */
    for (size_t i = 0; i < n; i++) {
        const sl_tensor *t = sl_checkpoint_tensor(ckpt, i);
        if (t->file != file) SL_TRY(add_file(h, t->file));
        file = t->file;
        *h = add_text(*h, t->name);
        *h = add_number(*h, (uint64_t)t->dtype);
        for (int d = 0; d < t->n_dims; d++) *h = add_number(*h, (uint64_t)t->dims[d]);
        *h = add_number(*h, t->offset);
        *h = add_number(*h, t->bytes);
    }
    return SL_OK;
}

/* The first of the rows that a piece is made of, as the source stores it: tells seeds of dummy
 * weights apart, and files that were changed in place under an old date. */
static sl_status add_row(uint64_t *h, const sl_source *source, const sl_packed_entry *e) {
    int64_t rows, cols;
    sl_dtype dtype;
    size_t bytes;
    SL_TRY(sl_source_shape(source, e->layer, (sl_role)e->role, &rows, &cols, &dtype));
    SL_TRY(sl_dtype_row_bytes(dtype, cols, &bytes));
    void *row = malloc(bytes);
    if (!row) return SL_FAIL(SL_ERR_NOMEM, "key of packed weights: no memory for %zu bytes", bytes);
    const sl_status st =
        sl_source_read_rows(source, e->layer, (sl_role)e->role, e->row0, 1, row, bytes);
    if (st == SL_OK) *h = sl_hash(*h, row, bytes);
    free(row);
    return st;
}

/* A piece as it is packed: another way of packing gives another key. */
static sl_status add_piece(uint64_t *h, const sl_packed_wanted *wanted, const sl_packed_entry *e) {
    unsigned char *data = sl_packed_memory(e->bytes);
    if (!data)
        return SL_FAIL(SL_ERR_NOMEM, "key of packed weights: no memory for %llu bytes",
                       (unsigned long long)e->bytes);
    const sl_status st =
        sl_layout_read(wanted->source, sl_packed_layout(wanted, e), e->piece, data);
    if (st == SL_OK) *h = sl_hash(*h, data, e->bytes);
    free(data);
    return st;
}

sl_status sl_packed_key(const sl_packed_wanted *wanted, const sl_packed_plan *plan,
                        uint64_t *key_out) {
    const sl_source *source = wanted->source;
    uint64_t h = SL_PACKED_VERSION;
    if (sl_source_is_dummy(source))
        h = add_text(h, sl_source_path(source));
    else
        SL_TRY(add_checkpoint(&h, sl_source_checkpoint(source)));

    int was_matrix = 0;
    const sl_packed_entry *before = NULL;
    for (uint64_t i = 0; i < plan->top->n_entries; i++) {
        const sl_packed_entry *e = &plan->entry[i];
        sl_packed_entry plain = *e;
        plain.checksum = 0;
        h = sl_hash(h, &plain, sizeof plain);
        if (!before || before->layer != e->layer || before->role != e->role)
            SL_TRY(add_row(&h, source, e));
        if (!was_matrix && !sl_role_is_vector((sl_role)e->role)) {
            SL_TRY(add_piece(&h, wanted, e));
            was_matrix = 1;
        }
        before = e;
    }
    *key_out = h;
    return SL_OK;
}
