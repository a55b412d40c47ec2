/* weights.h - the weights of a slice, packed layer by layer in a tier.
 *
 * Layers are read from the source in a stream, piece by piece, straight into their packed place, so
 * the peak of host memory is the slice itself.
 * Layer: store.  May include: base, model.  Thread safety: immutable after open.
 */
#ifndef SL_STORE_WEIGHTS_H
#define SL_STORE_WEIGHTS_H

#include <stddef.h>

#include "base/status.h"
#include "model/layout.h"
#include "model/source.h"
#include "store/tier.h"

/* A slab of rows of a weight matrix, as stored. */
typedef struct {
    sl_dtype dtype;
    int row0;   /* first output row of the whole matrix that this slab computes */
    int n_rows; /* output rows */
    int cols;   /* inputs */
    size_t row_bytes;
    const void *data; /* [n_rows, cols] */
} sl_slab;

/* A weight matrix [rows, cols] as slabs in row order; n_slabs 0 means absent. */
typedef struct {
    int rows, cols;
    int n_slabs;
    const sl_slab *slabs;
} sl_weight;

/* The tensors of one layer by role; absent ones are empty or NULL. */
typedef struct {
    sl_weight matrix[SL_ROLE_N_MATRICES];
    const float *vector[SL_ROLE_COUNT]; /* indexed by role, vectors only */
} sl_layer_weights;

typedef struct sl_weights sl_weights;

/* Loads the decoder layers [first, last); with first == 0 also the embedding, with last == n_layers
 * also the final norm and head.  A tied head shares the embedding where the slice has both.
 * `tier` is borrowed until close.  Blocks on the disk.
 * Errors: SL_ERR_NOMEM (budget), SL_ERR_IO, SL_ERR_FORMAT. */
sl_status sl_weights_open(const sl_source *source, int first, int last, sl_tier *tier,
                          sl_weights **out);
void sl_weights_close(sl_weights *weights);

/* `layer` in [first, last), SL_LAYER_EMBED or n_layers; NULL if the slice does not have it. */
const sl_layer_weights *sl_weights_layer(const sl_weights *weights, int layer);

/* Packed bytes of the slice. */
size_t sl_weights_bytes(const sl_weights *weights);

/* Packed bytes that a slice will take, without loading it. */
sl_status sl_weights_measure(const sl_source *source, int first, int last, size_t *bytes_out);

#endif
