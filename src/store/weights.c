#include "store/weights.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

typedef struct {
    sl_layout layout;
    sl_slab *slabs; /* one per matrix piece, grouped by role in piece order */
    sl_layer_weights view;
} loaded_layer;

struct sl_weights {
    int first, last; /* decoder layers */
    int n_layers;    /* of the model */
    int n_loaded;    /* entries of layer[] */
    int has_embed, has_head;
    loaded_layer *layer; /* [n_loaded]: the embedding if any, decoder layers, the head if any */
    void **memory;       /* [n_loaded], from the tier; NULL for an empty layer */
    sl_tier *tier;
    size_t bytes;
};

static int index_of(const sl_weights *w, int layer) {
    if (layer == SL_LAYER_EMBED) return w->has_embed ? 0 : -1;
    if (layer == w->n_layers) return w->has_head ? w->n_loaded - 1 : -1;
    if (layer < w->first || layer >= w->last) return -1;
    return w->has_embed + layer - w->first;
}

static int layer_of(const sl_weights *w, int index) {
    if (w->has_embed && index == 0) return SL_LAYER_EMBED;
    if (w->has_head && index == w->n_loaded - 1) return w->n_layers;
    return w->first + index - w->has_embed;
}

/* Points the layer's view into its packed memory. */
static sl_status make_view(loaded_layer *l, const unsigned char *memory) {
    const int n_matrices = l->layout.n_pieces - l->layout.n_vectors;
    if (n_matrices > 0) {
        l->slabs = calloc((size_t)n_matrices, sizeof *l->slabs);
        if (!l->slabs) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    }
    int s = 0;
    for (int p = 0; p < l->layout.n_pieces; p++) {
        const sl_piece *piece = &l->layout.pieces[p];
        const void *data = memory + piece->offset_bytes;
        if (sl_role_is_vector(piece->role)) {
            l->view.vector[piece->role] = data;
            continue;
        }
        sl_weight *m = &l->view.matrix[piece->role];
        l->slabs[s] = (sl_slab){piece->dtype,     (int)piece->row0, (int)piece->n_rows,
                                (int)piece->cols, piece->row_bytes, data};
        if (m->n_slabs == 0) m->slabs = &l->slabs[s];
        m->n_slabs++;
        m->rows += (int)piece->n_rows;
        m->cols = (int)piece->cols;
        s++;
    }
    return SL_OK;
}

static sl_status load_layer(sl_weights *w, const sl_source *source, int index) {
    loaded_layer *l = &w->layer[index];
    const int layer = layer_of(w, index);
    SL_TRY(sl_layout_make(source, layer, !w->has_embed, &l->layout));
    if (l->layout.n_pieces == 0)
        return SL_OK; /* a tied head without a norm has nothing of its own */
    SL_TRY(sl_tier_take(w->tier, l->layout.bytes, "a layer's weights", &w->memory[index]));
    unsigned char *memory = w->memory[index];
    for (int p = 0; p < l->layout.n_pieces; p++)
        SL_TRY(sl_layout_read(source, &l->layout, p, memory + l->layout.pieces[p].offset_bytes));
    w->bytes += l->layout.bytes;
    return make_view(l, memory);
}

sl_status sl_weights_open(const sl_source *source, int first, int last, sl_tier *tier,
                          sl_weights **out) {
    const sl_model_config *c = sl_source_config(source);
    if (first < 0 || first >= last || last > c->n_layers)
        return SL_FAIL(SL_ERR_ARG, "slice [%d, %d) of a model with %d layers", first, last,
                       c->n_layers);
    sl_status st = SL_OK;
    sl_weights *w = calloc(1, sizeof *w);
    if (!w) return SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
    w->first = first;
    w->last = last;
    w->n_layers = c->n_layers;
    w->has_embed = first == 0;
    w->has_head = last == c->n_layers;
    w->n_loaded = last - first + w->has_embed + w->has_head;
    w->tier = tier;
    w->layer = calloc((size_t)w->n_loaded, sizeof *w->layer);
    w->memory = calloc((size_t)w->n_loaded, sizeof *w->memory);
    if (!w->layer || !w->memory) {
        st = SL_FAIL(SL_ERR_NOMEM, "weights: out of host memory");
        goto fail;
    }
    for (int i = 0; i < w->n_loaded; i++) SL_GO(load_layer(w, source, i));
    if (w->has_embed && w->has_head && c->tied_head)
        w->layer[w->n_loaded - 1].view.matrix[SL_ROLE_HEAD] =
            w->layer[0].view.matrix[SL_ROLE_TOKEN_EMBED];
    *out = w;
    return SL_OK;

fail:
    sl_weights_close(w);
    return st;
}

void sl_weights_close(sl_weights *w) {
    if (!w) return;
    for (int i = 0; i < w->n_loaded; i++) {
        if (w->memory) sl_tier_put(w->tier, w->memory[i]);
        if (!w->layer) continue;
        sl_layout_free(&w->layer[i].layout);
        free(w->layer[i].slabs);
    }
    free(w->memory);
    free(w->layer);
    free(w);
}

const sl_layer_weights *sl_weights_layer(const sl_weights *w, int layer) {
    const int index = index_of(w, layer);
    return index < 0 ? NULL : &w->layer[index].view;
}

size_t sl_weights_bytes(const sl_weights *w) {
    return w->bytes;
}

sl_status sl_weights_measure(const sl_source *source, int first, int last, size_t *bytes_out) {
    const sl_model_config *c = sl_source_config(source);
    size_t total = 0;
    const int from = first == 0 ? SL_LAYER_EMBED : first;
    const int to = last == c->n_layers ? c->n_layers + 1 : last;
    for (int layer = from; layer < to; layer++) {
        sl_layout layout;
        SL_TRY(sl_layout_make(source, layer, first != 0, &layout));
        const size_t bytes = layout.bytes;
        sl_layout_free(&layout);
        SL_TRY(sl_size_add(total, bytes, &total));
    }
    *bytes_out = total;
    return SL_OK;
}
