/* pickle_names.h - the names that a pickle may call, and the instructions' own for messages.
 *
 * Private to pickle.c.  Layer: model.  May include: base.  Thread safety: constant tables.
 */
#ifndef SL_MODEL_PICKLE_NAMES_H
#define SL_MODEL_PICKLE_NAMES_H

#include <stddef.h>

#include "base/dtype.h"

typedef enum {
    SL_PICKLE_DICT,
    SL_PICKLE_TENSOR,    /* rebuilds a tensor from its parts */
    SL_PICKLE_PARAMETER, /* wraps a tensor */
    SL_PICKLE_STORAGE
} sl_pickle_role;

typedef struct {
    const char *name; /* MODULE.NAME */
    sl_pickle_role role;
    int is_float; /* STORAGE, as the next two: dtype holds; otherwise integers of elem_bytes */
    sl_dtype dtype;
    size_t elem_bytes;
} sl_pickle_global;

/* NULL unless a state dict needs a thing of that name (not terminated). */
const sl_pickle_global *sl_pickle_find_global(const char *name, size_t bytes);

/* "NEWOBJ", ... for the instructions that a state dict does not need; "unknown" for the rest. */
const char *sl_pickle_opcode_name(unsigned op);

#endif
