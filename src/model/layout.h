/* layout.h - the packed layer: which piece of which tensor lies where.
 *
 * A layer's tensors are packed into one 4 KiB-aligned run of bytes: first the vectors in float32,
 * then the matrices in slabs of whole rows.  A slab, called a piece, is the unit of placement and
 * of copying: at least SL_PIECE_BYTES where the matrix is that large, so that a link runs at full
 * speed, and not much more, so that placement fractions are met within a few per cent.
 * Layer: model.  May include: base.  Thread safety: pure functions; layouts are immutable.
 */
#ifndef SL_MODEL_LAYOUT_H
#define SL_MODEL_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "model/source.h"

enum {
    SL_PIECE_BYTES = 4 << 20, /* smallest slab of a larger matrix; H2D reaches 95 % of its rate */
    SL_PIECE_ROWS = 64,   /* slabs begin at multiples: a device's products want aligned columns */
    SL_PACK_ALIGN = 4096, /* of a layer and of every matrix piece: O_DIRECT's unit */
    SL_VECTOR_ALIGN = 64, /* of a vector within the layer */
};

/* For sl_layout_make_as(): every matrix keeps the dtype that it is stored in. */
#define SL_DTYPE_AS_STORED SL_DTYPE_COUNT

typedef struct {
    sl_role role;
    sl_dtype dtype; /* of the packed data; F32 for vectors */
    int64_t row0;   /* first row of the tensor in this piece */
    int64_t n_rows; /* 1 for vectors */
    int64_t cols;
    size_t row_bytes;
    size_t offset_bytes; /* from the layer's start */
    size_t bytes;        /* n_rows * row_bytes, without padding */
} sl_piece;

typedef struct {
    int layer;
    int n_pieces; /* vectors first, then matrices; slabs of a matrix in row order */
    int n_vectors;
    sl_piece *pieces; /* [n_pieces], owned */
    size_t bytes;     /* whole layer, a multiple of SL_PACK_ALIGN */
} sl_layout;

/* Lays out one layer of the source with the dtypes that it is stored in.
 * A tied head has no HEAD piece (`with_tied_head` 0) unless the caller's slice lacks the embedding
 * and asks for a copy (1).  The caller owns *out and releases it with sl_layout_free(). */
sl_status sl_layout_make(const sl_source *source, int layer, int with_tied_head, sl_layout *out);

/* The same with the matrices converted while they are read: `precision` is F32, F16, Q8G64, Q4G64
 * or SL_DTYPE_AS_STORED.  In the low-bit formats the embeddings, projections and the head are F16,
 * where rounding shows most and bytes count least.  Q4G64 is packed with a search for the best
 * steps (model/pack_search.h), but for dummy weights, which are there to be loaded fast.  Errors:
 * SL_ERR_ARG for another precision. */
sl_status sl_layout_make_as(const sl_source *source, int layer, int with_tied_head,
                            sl_dtype precision, sl_layout *out);
void sl_layout_free(sl_layout *layout);

/* Reads one piece from the source into dst ([piece->bytes], packed dtype).  Blocks on the disk. */
sl_status sl_layout_read(const sl_source *source, const sl_layout *layout, int piece, void *dst);

#endif
