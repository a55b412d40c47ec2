/* checkpoint.h - a folder or file of named tensors, read in a stream.
 *
 * A checkpoint knows tensors by the names its own format gives them and reads rows of them as they
 * are stored; nothing is kept in memory but the table of contents.  What the tensors mean is the
 * business of source.h.
 * Layer: model.  May include: base.  Thread safety: find and read may be called from several
 * threads at once (pread, no shared cursor); open and close by one.
 */
#ifndef SL_MODEL_CHECKPOINT_H
#define SL_MODEL_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

enum { SL_TENSOR_MAX_DIMS = 4 };

typedef enum {
    SL_CHECKPOINT_SAFETENSORS, /* HF folder, one file or shards with an index */
    SL_CHECKPOINT_TORCH,       /* HF folder, pytorch_model*.bin */
    SL_CHECKPOINT_GGUF,        /* one file */
    SL_CHECKPOINT_DUMMY        /* seeded random weights, no file */
} sl_checkpoint_kind;

typedef struct {
    const char *name; /* borrowed from the checkpoint */
    const char *file; /* file that holds the data, for messages; borrowed */
    sl_dtype dtype;
    int n_dims;
    int64_t dims[SL_TENSOR_MAX_DIMS]; /* slowest first: [rows, cols] for a matrix */
    uint64_t offset;                  /* of the data in `file`, bytes */
    uint64_t bytes;
} sl_tensor;

typedef struct sl_checkpoint sl_checkpoint;

/* Each opens one format.  `path` is an HF folder (safetensors, torch) or a file (any).
 * The table of contents is checked whole: names unique, shapes positive, sizes equal to
 * shape * dtype, every byte range inside its file and none overlapping (torch: tied tensors may
 * share their bytes).  Integer tensors of safetensors and torch files are checked and then left out
 * of the table: no weight is made of them.  A scalar becomes a vector of one.
 * Errors: SL_ERR_IO, SL_ERR_FORMAT; the message names file, tensor, found and expected. */
sl_status sl_safetensors_open(const char *path, sl_checkpoint **out);
sl_status sl_torch_open(const char *path, sl_checkpoint **out);
sl_status sl_gguf_open(const char *path, sl_checkpoint **out);

/* Looks at `path` (folder with safetensors, folder with .bin, or a file, whose first bytes tell its
 * format) and opens it; safetensors is preferred where a folder has both. */
sl_status sl_checkpoint_open(const char *path, sl_checkpoint **out);
void sl_checkpoint_close(sl_checkpoint *ckpt);

sl_checkpoint_kind sl_checkpoint_format(const sl_checkpoint *ckpt);
const char *sl_checkpoint_path(const sl_checkpoint *ckpt); /* as given to open */
size_t sl_checkpoint_n_tensors(const sl_checkpoint *ckpt);
const sl_tensor *sl_checkpoint_tensor(const sl_checkpoint *ckpt, size_t index);

/* NULL if there is none of that name. */
const sl_tensor *sl_checkpoint_find(const sl_checkpoint *ckpt, const char *name);

/* Reads rows [row0, row0 + n_rows) of a tensor into dst, as stored.  A vector (one dim) counts as
 * one row; more dims than two are flattened to [dims[0], rest].
 * `dst_bytes` must be n_rows times the row's bytes.  Blocks on the disk.
 * Errors: SL_ERR_ARG, SL_ERR_IO (short read, with file, tensor and offset). */
sl_status sl_checkpoint_read_rows(const sl_checkpoint *ckpt, const sl_tensor *tensor, int64_t row0,
                                  int64_t n_rows, void *dst, size_t dst_bytes);

/* GGUF metadata: the values by key.  NULL for other formats and for missing keys. */
typedef enum {
    SL_GGUF_INT,
    SL_GGUF_FLOAT,
    SL_GGUF_BOOL,
    SL_GGUF_STRING,
    SL_GGUF_ARRAY
} sl_gguf_kind;

typedef struct sl_gguf_value {
    sl_gguf_kind kind;      /* every integer width is INT, both floats are FLOAT */
    int64_t i;              /* INT, BOOL (0 or 1); u64 above INT64_MAX is refused on opening */
    double f;               /* FLOAT */
    const char *s;          /* STRING: bytes, zero-terminated, may hold zeros inside */
    size_t s_bytes;         /* STRING: length without the terminator */
    sl_gguf_kind elem_kind; /* ARRAY: of INT, FLOAT, BOOL or STRING; nested arrays are refused */
    size_t n;               /* ARRAY: elements */
    const int64_t *ints;    /* ARRAY of INT or BOOL */
    const double *floats;   /* ARRAY of FLOAT */
    const char *const *strings; /* ARRAY of STRING, each zero-terminated */
    const size_t *string_bytes; /* ARRAY of STRING */
} sl_gguf_value;

const sl_gguf_value *sl_gguf_find(const sl_checkpoint *ckpt, const char *key);

#endif
