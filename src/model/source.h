/* source.h - a model to be read: its config, and its weights by role.
 *
 * A role says what a tensor is for, whatever the checkpoint calls it.  The source maps roles to
 * names for every architecture and format, checks shapes before anything is read, undoes GGUF's
 * permutation of Q and K, and makes dummy weights.  It reads only what is asked for, so a rank that
 * owns a slice of layers reads that slice.
 * Layer: model.  May include: base.  Thread safety: reads may run in several threads at once.
 */
#ifndef SL_MODEL_SOURCE_H
#define SL_MODEL_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "model/checkpoint.h"
#include "model/config.h"

typedef enum {
    /* Matrices, [out, in]; y = x W^T. */
    SL_ROLE_Q,           /* [n_heads*head_dim, hidden] */
    SL_ROLE_K,           /* [n_kv_heads*head_dim, hidden] */
    SL_ROLE_V,           /* [n_kv_heads*head_dim, hidden] */
    SL_ROLE_O,           /* [hidden, n_heads*head_dim] */
    SL_ROLE_GATE,        /* [ffn, hidden] */
    SL_ROLE_UP,          /* [ffn, hidden] (OPT: fc1) */
    SL_ROLE_DOWN,        /* [hidden, ffn] (OPT: fc2) */
    SL_ROLE_TOKEN_EMBED, /* [vocab, embed_dim] */
    SL_ROLE_POS_EMBED,   /* [max_positions + position_offset, hidden] */
    SL_ROLE_PROJECT_IN,  /* [hidden, embed_dim] */
    SL_ROLE_PROJECT_OUT, /* [embed_dim, hidden] */
    SL_ROLE_HEAD,        /* [vocab, embed_dim]; a tied head resolves to the token embedding */
    SL_ROLE_N_MATRICES,
    /* Vectors. */
    SL_ROLE_ATTN_NORM_GAIN = SL_ROLE_N_MATRICES, /* [hidden] */
    SL_ROLE_ATTN_NORM_BIAS,                      /* [hidden] */
    SL_ROLE_Q_BIAS,                              /* [n_heads*head_dim] */
    SL_ROLE_K_BIAS,                              /* [n_kv_heads*head_dim] */
    SL_ROLE_V_BIAS,                              /* [n_kv_heads*head_dim] */
    SL_ROLE_O_BIAS,                              /* [hidden] */
    SL_ROLE_Q_NORM_GAIN,                         /* [head_dim] */
    SL_ROLE_K_NORM_GAIN,                         /* [head_dim] */
    SL_ROLE_MLP_NORM_GAIN,                       /* [hidden] */
    SL_ROLE_MLP_NORM_BIAS,                       /* [hidden] */
    SL_ROLE_GATE_BIAS,                           /* [ffn] */
    SL_ROLE_UP_BIAS,                             /* [ffn] */
    SL_ROLE_DOWN_BIAS,                           /* [hidden] */
    SL_ROLE_FINAL_NORM_GAIN,                     /* [hidden] */
    SL_ROLE_FINAL_NORM_BIAS,                     /* [hidden] */
    SL_ROLE_COUNT
} sl_role;

const char *sl_role_name(sl_role role); /* "q", "attn_norm_gain", ... */
static inline int sl_role_is_vector(sl_role role) {
    return role >= SL_ROLE_N_MATRICES;
}

/* Layer numbers: 0 .. n_layers-1 are the decoder layers; the embedding is layer -1 and the final
 * norm, projection and head are layer n_layers. */
enum { SL_LAYER_EMBED = -1 };

typedef struct sl_source sl_source;

/* Opens a model by name:
 *   DIR            HF folder: config.json with safetensors or pytorch_model*.bin
 *   FILE.gguf      GGUF version 2 or 3
 *   dummy:NAME     seeded random weights of a named size (opt-30b, ...) or of a config.json's shape
 *                  (dummy:PATH to the file or its folder); f16, realistic scale
 * Every tensor that the config calls for is found and its shape checked here, before any is read.
 * Errors: SL_ERR_IO, SL_ERR_FORMAT, SL_ERR_ARG; the message names file, tensor, expected, found. */
sl_status sl_source_open(const char *model, uint64_t dummy_seed, sl_source **out);

/* Opens dummy weights for a config made by the caller; `name` is what sl_source_path() gives.
 * Errors: SL_ERR_FORMAT (sl_config_check), SL_ERR_NOMEM. */
sl_status sl_source_open_dummy(const sl_model_config *config, const char *name, uint64_t seed,
                               sl_source **out);
void sl_source_close(sl_source *source);

const sl_model_config *sl_source_config(const sl_source *source);
/* NULL for dummy models. */
const sl_checkpoint *sl_source_checkpoint(const sl_source *source);
/* Folder or file the model came from; for dummy models the text after "dummy:". */
const char *sl_source_path(const sl_source *source);
int sl_source_is_dummy(const sl_source *source);

/* Whether layer `layer` has a tensor of that role, and its shape and stored dtype.
 * Vectors have rows = 1.  The final-norm, project_out and head roles belong to layer n_layers, the
 * embeddings and project_in to SL_LAYER_EMBED. */
int sl_source_has(const sl_source *source, int layer, sl_role role);
sl_status sl_source_shape(const sl_source *source, int layer, sl_role role, int64_t *rows_out,
                          int64_t *cols_out, sl_dtype *dtype_out);

/* Reads rows [row0, row0+n_rows) as stored (dtype of sl_source_shape), in the order that the
 * kernels expect (GGUF's rotary permutation undone).  dst_bytes must match.  Blocks on the disk. */
sl_status sl_source_read_rows(const sl_source *source, int layer, sl_role role, int64_t row0,
                              int64_t n_rows, void *dst, size_t dst_bytes);

/* Reads a whole vector as float32, [cols]. */
sl_status sl_source_read_vector(const sl_source *source, int layer, sl_role role, float *dst,
                                int64_t cols);

#endif
