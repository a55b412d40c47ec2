/* checkpoint_impl.h - what the readers of the formats share: the table of contents while it is
 * made.
 *
 * A reader makes a checkpoint, adds its files and the tensors that each file claims to hold, and
 * finishes it; whatever is common to all formats is checked here, once.  Private to src/model.
 * Layer: model.  May include: base.  Thread safety: one thread until finished.
 */
#ifndef SL_MODEL_CHECKPOINT_IMPL_H
#define SL_MODEL_CHECKPOINT_IMPL_H

#include "model/checkpoint.h"

enum {
    SL_TENSOR_NAME_MAX = 256, /* bytes; the names of known models stay below 128 */
    SL_CHECKPOINT_JSON_MAX =
        100000000, /* bytes of a JSON header or index (safetensors' own limit) */
};

typedef struct {
    char *path;          /* as opened */
    int fd;              /* -1 until opened */
    uint64_t bytes;      /* size when opened */
    uint64_t data_start; /* first byte that may belong to a tensor */
} sl_checkpoint_file;

typedef struct {
    sl_tensor pub; /* first: a const sl_tensor * of ours is also an entry */
    size_t file;   /* index in files */
    int hidden;    /* checked like the others, but dropped by finish: an integer buffer */
} sl_checkpoint_entry;

struct sl_checkpoint {
    sl_checkpoint_kind kind;
    char *path;
    sl_checkpoint_file *files; /* [n_files] */
    size_t n_files;
    sl_checkpoint_entry *entries; /* [n_entries], in the order of the files */
    size_t n_entries, cap_entries;
    const sl_tensor **by_name; /* [n_entries], sorted by name */
    void *meta;                /* GGUF: metadata; owned */
    void (*meta_free)(void *meta);
};

/* How the tensors of one file may lie. */
typedef enum {
    SL_RANGES_SHARED,   /* anywhere; tied tensors may share bytes (torch) */
    SL_RANGES_DISJOINT, /* no byte belongs to two (gguf) */
    SL_RANGES_PACKED    /* disjoint, and from data_start to the end without a gap (safetensors) */
} sl_checkpoint_ranges;

/* An empty checkpoint.  The caller closes it with sl_checkpoint_close() or hands it on. */
sl_status sl_checkpoint_new(sl_checkpoint_kind kind, const char *path, sl_checkpoint **out);

/* Opens `path` as the next file; *index_out is its place in ckpt->files.
 * Errors: SL_ERR_IO (cannot be opened, no regular file). */
sl_status sl_checkpoint_add_file(sl_checkpoint *ckpt, const char *path, size_t *index_out);

/* Adds a tensor at `offset` of file `file`; `dims` slowest first; a scalar has no dims and becomes
 * a vector of one.  `elem_bytes` 0: a tensor of `dtype`.  Otherwise an integer tensor with elements
 * of that size: it is checked and left out of the table, as no weight is made of integers. Checks
 * name, shape, range, and that `bytes` is what the shape needs.  Errors: SL_ERR_FORMAT. */
typedef struct {
    const char *name;
    size_t name_bytes;
    sl_dtype dtype;
    size_t elem_bytes;
    int n_dims;
    const int64_t *dims;
    uint64_t offset;
    uint64_t bytes;
} sl_checkpoint_claim;
sl_status sl_checkpoint_add_tensor(sl_checkpoint *ckpt, size_t file,
                                   const sl_checkpoint_claim *claim);

/* Checks names (unique) and ranges over the whole table and makes it searchable. */
sl_status sl_checkpoint_finish(sl_checkpoint *ckpt, sl_checkpoint_ranges ranges);

/* Reads `bytes` at `offset` of a file; `what` is named when the file ends before.  Blocks.
 * Errors: SL_ERR_IO. */
sl_status sl_checkpoint_pread(const sl_checkpoint_file *file, uint64_t offset, void *dst,
                              size_t bytes, const char *what);

/* Bytes of a tensor of that shape.  Errors: SL_ERR_FORMAT (overflow, or the last dimension is no
 * multiple of the format's block), naming `file` and `name`. */
sl_status sl_checkpoint_shape_bytes(const char *file, const char *name,
                                    const sl_checkpoint_claim *claim, uint64_t *out);

/* Opens a folder of files of one format, or one such file alone.
 *
 * `single` ("model.safetensors") is taken where the folder has it; otherwise `index`
 * ("model.safetensors.index.json") lists the files, and its weight_map must agree with what
 * `read_file`, called for each of them, finds.  *out is finished. */
typedef struct {
    sl_checkpoint_kind kind;
    const char *single;
    const char *index;
    sl_checkpoint_ranges ranges;
    sl_status (*read_file)(sl_checkpoint *ckpt, size_t file);
} sl_checkpoint_layout;
sl_status sl_checkpoint_open_layout(const sl_checkpoint_layout *layout, const char *path,
                                    sl_checkpoint **out);

/* Reads `bytes` of JSON at `offset` of a file: one object, no name in it twice.  The caller owns
 * *out.  Errors: SL_ERR_IO, SL_ERR_FORMAT (larger than SL_CHECKPOINT_JSON_MAX or the file, not such
 * an object), naming `what`. */
struct json_t;
sl_status sl_checkpoint_read_json(const sl_checkpoint_file *file, uint64_t offset, uint64_t bytes,
                                  const char *what, struct json_t **out);

/* Whether the bytes are well-formed UTF-8 (no overlong forms, no surrogates). */
int sl_checkpoint_is_utf8(const char *text, size_t bytes);

/* `text` with everything but printable ASCII as '?', cut to fit, for messages.  Returns buf. */
const char *sl_checkpoint_printable(const char *text, size_t bytes, char *buf, size_t buf_bytes);

#endif
