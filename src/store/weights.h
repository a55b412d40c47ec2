/* weights.h - the weights of a slice: where each piece lives, and how it gets to where it is used.
 *
 * Layers are read from the source in a stream, piece by piece, straight into their packed place, so
 * the peak of host memory is what lives there.  Pieces that live in the tier that computes stay.
 * The others pass through rings of two layers' worth: disk-homed pieces, which lie in one packed
 * file that later runs use again, through a ring in host memory; with a device, these and the
 * pieces of host memory through a ring in device memory.  So a layer's pieces arrive while the
 * layer before is computed. Layer: store.  May include: base, model.  Thread safety: one thread per
 * object.
 */
#ifndef SL_STORE_WEIGHTS_H
#define SL_STORE_WEIGHTS_H

#include <stddef.h>

#include "base/pulse.h"
#include "base/status.h"
#include "model/layout.h"
#include "model/source.h"
#include "store/device.h"
#include "store/disk.h"
#include "store/hollow.h"
#include "store/placement.h"
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
    /* Q, K and V as one matrix, one below the other, with SL_ROLE_Q_BIAS as the first of all their
     * biases; n_slabs 0 where they are of several dtypes or their biases lie apart. */
    sl_weight qkv;
} sl_layer_weights;

typedef struct sl_weights sl_weights;

/* The decoder layers [first, last); with first == 0 also the embedding, with last == n_layers also
 * the final norm and head, which live in the tier that computes.  A tied head shares the embedding
 * where the slice has both. */
typedef struct {
    const sl_source *source; /* borrowed during the call */
    int first, last;
    sl_dtype precision;   /* as for sl_layout_make_as() */
    sl_shares shares;     /* of the decoder matrices' bytes; gpu 0 without a device */
    const char *disk_dir; /* existing folder of the packed file; borrowed; unused without disk */
    size_t disk_budget_bytes;    /* of the disk tier */
    struct sl_backend *be;       /* of `device` and `hollow`; borrowed until close */
    const sl_device_ops *device; /* NULL: the host computes */
    const sl_hollow_ops *hollow; /* of a backend that computes nothing: nothing is read; or NULL */
    sl_pulse *pulse;             /* counts what is loaded; borrowed until open returns; or NULL */
} sl_weights_options;

typedef struct {
    size_t resident_bytes[SL_TIER_COUNT]; /* pieces by home; DISK: in the packed file */
    size_t ring_bytes[SL_TIER_COUNT];     /* GPU: on the way from the host; CPU: from disk */
    size_t loading_bytes;                 /* of host memory while a device is loaded */
    size_t table_bytes;                   /* of the packed file, beside the pieces; 0 without one */
} sl_weights_size;

/* What open will take.  Pure, quick: reads nothing. */
sl_status sl_weights_measure(const sl_weights_options *options, sl_weights_size *out);

/* Loads the pieces that live in memory, makes or finds the packed file.  The tiers are borrowed
 * until close; `gpu` is NULL without a device.  Blocks on disk and device. Errors: SL_ERR_NOMEM
 * (budget), SL_ERR_IO, SL_ERR_FORMAT, SL_ERR_DEVICE. */
sl_status sl_weights_open(const sl_weights_options *options, sl_tier *gpu, sl_tier *cpu,
                          sl_weights **out);
/* Nothing may be under way on the device. */
void sl_weights_close(sl_weights *weights);

/* `layer` in [first, last), SL_LAYER_EMBED or n_layers; NULL if the slice does not have it.  A
 * layer that passes through a ring may be used between its load's end and the second load after it.
 */
const sl_layer_weights *sl_weights_layer(const sl_weights *weights, int layer);

/* Whether some of the decoder layer's pieces come from disk; whether some are uploaded. */
int sl_weights_is_on_disk(const sl_weights *weights, int layer);
int sl_weights_is_uploaded_layer(const sl_weights *weights, int layer);

/* Starts reading a layer's disk-homed pieces into the host's ring; nothing to do when they are
 * there or on their way.  The ring holds the two layers fetched last.  *bytes_out: that are read.
 * Errors: SL_ERR_IO. */
sl_status sl_weights_fetch(sl_weights *weights, int layer, size_t *bytes_out);
/* Whether a fetched layer is complete; never waits.  Errors: SL_ERR_IO (file, offset, reason). */
sl_status sl_weights_is_fetched(sl_weights *weights, int layer, int *done_out);

/* Queues the copies of one part of a layer's pieces, of n_parts of about the same bytes, from host
 * memory into the device's ring on H2D; its disk-homed pieces must have been fetched.  Parts come
 * in order; the first takes the place of the load before the last.  *bytes_out = 0 when the layer
 * is there already. */
sl_status sl_weights_upload(sl_weights *weights, int layer, int part, int n_parts,
                            size_t *bytes_out);

sl_weights_size sl_weights_bytes(const sl_weights *weights);
/* Bytes copied to the device since open, those of loading left out. */
uint64_t sl_weights_uploaded_bytes(const sl_weights *weights);
/* Zeros when nothing is on disk. */
void sl_weights_disk_stats(const sl_weights *weights, sl_disk_stats *out);

#endif
