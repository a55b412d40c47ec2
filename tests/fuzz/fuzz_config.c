/* Fuzz entry of the config readers: any text as config.json and as generation_config.json.
 * What is accepted must be consistent: it is laid out and read as a dummy model. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/config.h"
#include "model/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Larger models are as good, but slow to lay out by the thousand. */
static int is_small(const sl_model_config *c) {
    return c->hidden <= 16384 && c->embed_dim <= 16384 && c->ffn <= 65536 && c->vocab <= 262144 &&
           c->n_heads * c->head_dim <= 16384 && c->max_positions <= 262144;
}

static void lay_out(const sl_source *source, int layer) {
    sl_layout layout;
    if (sl_layout_make(source, layer, 1, &layout) != SL_OK) abort();
    for (int i = 0; i < layout.n_pieces; i++) {
        const sl_piece *piece = &layout.pieces[i];
        if (piece->offset_bytes + piece->bytes > layout.bytes) abort();
        if (piece->bytes > 4096) continue;
        void *dst = malloc(piece->bytes);
        if (!dst || sl_layout_read(source, &layout, i, dst) != SL_OK) abort();
        free(dst);
    }
    sl_layout_free(&layout);
}

static void use_config(const sl_model_config *config) {
    if (sl_config_check(config, "accepted") != SL_OK) abort();
    if (config->positions == SL_POSITIONS_ROPE) {
        float inv_freq[SL_MAX_HEAD_DIM / 2];
        sl_rope_frequencies(config, inv_freq);
        for (int i = 0; i < config->head_dim / 2; i++)
            if (isnan(inv_freq[i])) abort();
    }
    if (!is_small(config)) return;
    sl_source *source;
    if (sl_source_open_dummy(config, "fuzz", 1, &source) != SL_OK) abort();
    lay_out(source, SL_LAYER_EMBED);
    lay_out(source, 0);
    lay_out(source, config->n_layers);
    sl_source_close(source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    sl_model_config config;
    if (sl_config_parse_json(text, size, "config.json", &config) == SL_OK) use_config(&config);
    if (sl_config_named("opt-125m", &config) != SL_OK) abort();
    if (sl_config_merge_generation(text, size, "generation_config.json", &config) == SL_OK &&
        sl_config_check(&config, "merged") != SL_OK)
        abort();
    return 0;
}
