#include "model/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"
#include "model/pack.h"
#include "model/pack_search.h"
#include "model/quant.h"

/* A layer's matrices in the order that a sweep needs them; the order of the enum. */
static int is_packed(const sl_source *source, int layer, sl_role role, int with_tied_head) {
    if (!sl_source_has(source, layer, role)) return 0;
    return role != SL_ROLE_HEAD || with_tied_head || !sl_source_config(source)->tied_head;
}

/* The dtype that a matrix is packed in. */
static sl_dtype packed_dtype(sl_role role, sl_dtype stored, sl_dtype precision) {
    if (precision == SL_DTYPE_AS_STORED) return stored;
    return role >= SL_ROLE_TOKEN_EMBED && sl_dtype_group_bits(precision) ? SL_DTYPE_F16 : precision;
}

static sl_status count_slabs(int64_t rows, size_t row_bytes, int64_t *out) {
    if (rows < 1 || row_bytes < 1)
        return SL_FAIL(SL_ERR_FORMAT, "a matrix of %lld rows of %zu bytes cannot be packed",
                       (long long)rows, row_bytes);
    /* As many slabs as can have SL_PIECE_BYTES each; none is then twice as large, but for rows that
     * are themselves longer. */
    int64_t rows_min = (int64_t)((SL_PIECE_BYTES + row_bytes - 1) / row_bytes);
    rows_min = (rows_min + SL_PIECE_ROWS - 1) / SL_PIECE_ROWS * SL_PIECE_ROWS;
    *out = rows < rows_min ? 1 : rows / rows_min;
    return SL_OK;
}

static sl_status count_pieces(const sl_source *source, int layer, int with_tied_head,
                              sl_dtype precision, int *n_vectors, int64_t *n_pieces) {
    *n_vectors = 0;
    *n_pieces = 0;
    for (int r = 0; r < SL_ROLE_COUNT; r++) {
        const sl_role role = (sl_role)r;
        if (!is_packed(source, layer, role, with_tied_head)) continue;
        int64_t n = 1;
        if (sl_role_is_vector(role)) {
            (*n_vectors)++;
        } else {
            int64_t rows, cols;
            sl_dtype dtype;
            size_t row_bytes;
            SL_TRY(sl_source_shape(source, layer, role, &rows, &cols, &dtype));
            dtype = packed_dtype(role, dtype, precision);
            SL_TRY(sl_dtype_row_bytes(dtype, cols, &row_bytes));
            SL_TRY(count_slabs(rows, row_bytes, &n));
        }
        *n_pieces += n;
    }
    return SL_OK;
}

/* Appends a piece at the next offset of that alignment. */
static sl_status append(sl_layout *layout, sl_piece piece, size_t align) {
    if (layout->bytes > SIZE_MAX / 2)
        return SL_FAIL(SL_ERR_NOMEM, "layer %d is %zu bytes long", layout->layer, layout->bytes);
    piece.offset_bytes = sl_align_up(layout->bytes, align);
    SL_TRY(sl_size_mul((size_t)piece.n_rows, piece.row_bytes, &piece.bytes));
    SL_TRY(sl_size_add(piece.offset_bytes, piece.bytes, &layout->bytes));
    layout->pieces[layout->n_pieces++] = piece;
    return SL_OK;
}

static sl_status append_vector(sl_layout *layout, const sl_source *source, sl_role role) {
    sl_piece piece = {.role = role, .n_rows = 1};
    int64_t rows;
    SL_TRY(sl_source_shape(source, layout->layer, role, &rows, &piece.cols, &piece.dtype));
    piece.dtype = SL_DTYPE_F32; /* whatever it is stored in */
    SL_TRY(sl_dtype_row_bytes(piece.dtype, piece.cols, &piece.row_bytes));
    return append(layout, piece, SL_VECTOR_ALIGN);
}

/* First row of a slab: a multiple of SL_PIECE_ROWS; the last slab takes what is left over. */
static int64_t slab_start(int64_t rows, int64_t n_slabs, int64_t slab) {
    return slab == n_slabs ? rows : rows / SL_PIECE_ROWS * slab / n_slabs * SL_PIECE_ROWS;
}

static sl_status append_matrix(sl_layout *layout, const sl_source *source, sl_role role,
                               sl_dtype precision) {
    sl_piece piece = {.role = role};
    int64_t rows, n_slabs;
    SL_TRY(sl_source_shape(source, layout->layer, role, &rows, &piece.cols, &piece.dtype));
    piece.dtype = packed_dtype(role, piece.dtype, precision);
    SL_TRY(sl_dtype_row_bytes(piece.dtype, piece.cols, &piece.row_bytes));
    SL_TRY(count_slabs(rows, piece.row_bytes, &n_slabs));
    for (int64_t i = 0; i < n_slabs; i++) {
        piece.row0 = slab_start(rows, n_slabs, i);
        piece.n_rows = slab_start(rows, n_slabs, i + 1) - piece.row0;
        SL_TRY(append(layout, piece, SL_PACK_ALIGN));
    }
    return SL_OK;
}

sl_status sl_layout_make(const sl_source *source, int layer, int with_tied_head, sl_layout *out) {
    return sl_layout_make_as(source, layer, with_tied_head, SL_DTYPE_AS_STORED, out);
}

sl_status sl_layout_make_as(const sl_source *source, int layer, int with_tied_head,
                            sl_dtype precision, sl_layout *out) {
    if (precision != SL_DTYPE_AS_STORED && precision != SL_DTYPE_F32 && precision != SL_DTYPE_F16 &&
        !sl_dtype_group_bits(precision))
        return SL_FAIL(SL_ERR_ARG, "weights in %s: expected F32, F16, Q8G64 or Q4G64",
                       sl_dtype_name(precision));
    const int n_layers = sl_source_config(source)->n_layers;
    if (layer < SL_LAYER_EMBED || layer > n_layers)
        return SL_FAIL(SL_ERR_ARG, "layout of layer %d, expected %d to %d", layer, SL_LAYER_EMBED,
                       n_layers);
    sl_layout layout = {.layer = layer};
    int64_t n_pieces;
    SL_TRY(count_pieces(source, layer, with_tied_head, precision, &layout.n_vectors, &n_pieces));

    sl_status st = SL_OK;
    /* A layer without tensors is possible (a final layer without norm and with a tied head). */
    layout.pieces = calloc(n_pieces > 0 ? (size_t)n_pieces : 1, sizeof *layout.pieces);
    if (!layout.pieces)
        return SL_FAIL(SL_ERR_NOMEM, "layout of layer %d: no memory for %lld pieces", layer,
                       (long long)n_pieces);
    for (int r = SL_ROLE_N_MATRICES; r < SL_ROLE_COUNT; r++)
        if (is_packed(source, layer, (sl_role)r, with_tied_head))
            SL_GO(append_vector(&layout, source, (sl_role)r));
    for (int r = 0; r < SL_ROLE_N_MATRICES; r++)
        if (is_packed(source, layer, (sl_role)r, with_tied_head))
            SL_GO(append_matrix(&layout, source, (sl_role)r, precision));
    layout.bytes = sl_align_up(layout.bytes, SL_PACK_ALIGN);
    *out = layout;
    return SL_OK;

fail:
    sl_layout_free(&layout);
    return st;
}

void sl_layout_free(sl_layout *layout) {
    if (!layout) return;
    free(layout->pieces);
    *layout = (sl_layout){0};
}

static void pack_row(void *dst, const float *x, sl_dtype dtype, int64_t n, int is_dummy) {
    if (dtype == SL_DTYPE_Q4G64 && !is_dummy) {
        sl_pack_row_search(dst, x, n);
        return;
    }
    if (sl_dtype_group_bits(dtype)) {
        sl_pack_row(dst, x, dtype, n);
        return;
    }
    if (dtype == SL_DTYPE_F32) {
        memcpy(dst, x, (size_t)n * sizeof *x);
        return;
    }
    sl_f16 *h = dst;
    for (int64_t i = 0; i < n; i++) h[i] = sl_f32_to_f16(x[i]);
}

/* Reads the rows as they are stored and converts them one by one. */
static sl_status read_converted(const sl_source *source, int layer, const sl_piece *p,
                                sl_dtype stored, void *dst) {
    sl_status st = SL_OK;
    /* Random weights have no quality to lose, and are there to be loaded fast. */
    const int is_dummy = sl_source_is_dummy(source);
    size_t row_bytes, bytes;
    SL_TRY(sl_dtype_row_bytes(stored, p->cols, &row_bytes));
    SL_TRY(sl_size_mul((size_t)p->n_rows, row_bytes, &bytes));
    unsigned char *rows = malloc(bytes);
    float *row = malloc((size_t)p->cols * sizeof *row);
    if (!rows || !row) {
        st = SL_FAIL(SL_ERR_NOMEM, "out of host memory to convert %lld rows of %lld elements",
                     (long long)p->n_rows, (long long)p->cols);
        goto fail;
    }
    SL_GO(sl_source_read_rows(source, layer, p->role, p->row0, p->n_rows, rows, bytes));
    for (int64_t r = 0; r < p->n_rows; r++) {
        sl_dequantize_row(row, rows + (size_t)r * row_bytes, stored, p->cols);
        pack_row((unsigned char *)dst + (size_t)r * p->row_bytes, row, p->dtype, p->cols, is_dummy);
    }

fail:
    free(row);
    free(rows);
    return st;
}

sl_status sl_layout_read(const sl_source *source, const sl_layout *layout, int piece, void *dst) {
    if (piece < 0 || piece >= layout->n_pieces)
        return SL_FAIL(SL_ERR_ARG, "piece %d of layer %d, expected 0 to %d", piece, layout->layer,
                       layout->n_pieces - 1);
    const sl_piece *p = &layout->pieces[piece];
    if (sl_role_is_vector(p->role))
        return sl_source_read_vector(source, layout->layer, p->role, dst, p->cols);
    int64_t rows, cols;
    sl_dtype stored;
    SL_TRY(sl_source_shape(source, layout->layer, p->role, &rows, &cols, &stored));
    if (stored != p->dtype) return read_converted(source, layout->layer, p, stored, dst);
    return sl_source_read_rows(source, layout->layer, p->role, p->row0, p->n_rows, dst, p->bytes);
}
