/* pickle.h - reads the pickle of a torch state dict without running anything.
 *
 * A pickle is a program.  This reader knows the few instructions and names that a dictionary of
 * tensors is written with and refuses every other one by name.
 * Layer: model.  May include: base.  Thread safety: no shared state.
 * Source: the comments of Python's pickletools; torch.save's format, protocol 2.
 */
#ifndef SL_MODEL_PICKLE_H
#define SL_MODEL_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

typedef struct {
    const char *name; /* UTF-8, not terminated; borrowed from the pickle, as is key */
    size_t name_bytes;
    const char *storage_type; /* "torch.HalfStorage" */
    int is_float;             /* dtype holds; otherwise integers of elem_bytes */
    sl_dtype dtype;
    size_t elem_bytes;
    const char *key; /* of the storage: the file data/KEY in the zip */
    size_t key_bytes;
    int64_t storage_elems;
    int64_t offset; /* elements from the start of the storage */
    size_t n_dims;
    const int64_t *dims;    /* [n_dims] */
    const int64_t *strides; /* [n_dims], elements */
} sl_pickle_tensor;

/* Reads the state dict in `data` and calls `visit` for each of its tensors, in order; stops at the
 * first that fails.  `where` names the file in errors.
 * Errors: SL_ERR_FORMAT (anything but a dictionary of tensors), SL_ERR_NOMEM, those of `visit`. */
sl_status sl_pickle_read(const char *where, const void *data, size_t bytes,
                         sl_status (*visit)(void *ctx, const sl_pickle_tensor *tensor), void *ctx);

#endif
