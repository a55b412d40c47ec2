/* sluice inspect: what a model is made of, without reading its weights. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "commands.h"
#include "job/json_text.h"
#include "model/layout.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "options.h"

typedef struct {
    uint64_t n_elems[SL_DTYPE_COUNT], n_bytes[SL_DTYPE_COUNT]; /* as stored */
    uint64_t n_params;
    size_t *layer_bytes; /* [n_layers + 2] as packed: embedding, layers, head */
    size_t packed_bytes;
} sizes;

/* ---- collecting ---- */

static sl_status add_layer(const sl_source *source, int layer, sizes *s) {
    const sl_model_config *config = sl_source_config(source);
    for (int r = 0; r < SL_ROLE_COUNT; r++) {
        const sl_role role = (sl_role)r;
        int64_t rows, cols;
        sl_dtype dtype;
        size_t row_bytes;
        if (!sl_source_has(source, layer, role)) continue;
        if (role == SL_ROLE_HEAD && config->tied_head) continue; /* counted as the embedding */
        SL_TRY(sl_source_shape(source, layer, role, &rows, &cols, &dtype));
        SL_TRY(sl_dtype_row_bytes(dtype, cols, &row_bytes));
        s->n_elems[dtype] += (uint64_t)rows * (uint64_t)cols;
        s->n_bytes[dtype] += (uint64_t)rows * row_bytes;
        s->n_params += (uint64_t)rows * (uint64_t)cols;
    }
    sl_layout layout;
    SL_TRY(sl_layout_make(source, layer, 0, &layout));
    s->layer_bytes[layer + 1] = layout.bytes;
    sl_layout_free(&layout);
    return sl_size_add(s->packed_bytes, s->layer_bytes[layer + 1], &s->packed_bytes);
}

static sl_status open_tokenizer(const sl_source *source, sl_tokenizer **out) {
    const sl_checkpoint *ckpt = sl_source_checkpoint(source);
    if (!ckpt) return SL_OK;
    if (sl_checkpoint_format(ckpt) == SL_CHECKPOINT_GGUF) return sl_tokenizer_open_gguf(ckpt, out);
    return sl_tokenizer_open_folder(sl_source_path(source), out);
}

static const char *format_name(const sl_source *source) {
    const sl_checkpoint *ckpt = sl_source_checkpoint(source);
    if (!ckpt) return "random weights";
    switch (sl_checkpoint_format(ckpt)) {
    case SL_CHECKPOINT_SAFETENSORS:
        return "safetensors";
    case SL_CHECKPOINT_TORCH:
        return "torch .bin";
    case SL_CHECKPOINT_GGUF:
        return "GGUF";
    case SL_CHECKPOINT_DUMMY:
        return "random weights";
    }
    return "?";
}

static const char *activation_name(sl_activation act) {
    static const char *const names[] = {"relu", "gelu", "gelu_tanh", "silu"};
    return names[act];
}

/* ---- for people ---- */

/* Layers of the same size on one line. */
static void print_layers(const sl_model_config *config, const sizes *s) {
    char text[32];
    const int n = config->n_layers;
    printf("packed       %-11s %s\n", "embedding",
           sl_bytes_format(s->layer_bytes[0], text, sizeof text));
    for (int first = 0, next; first < n; first = next) {
        char name[32];
        for (next = first + 1; next < n; next++) {
            if (s->layer_bytes[next + 1] != s->layer_bytes[first + 1]) break;
        }
        if (next - first == 1) {
            snprintf(name, sizeof name, "layer %d", first);
        } else {
            snprintf(name, sizeof name, "layers %d-%d", first, next - 1);
        }
        printf("             %-11s %s%s\n", name,
               sl_bytes_format(s->layer_bytes[first + 1], text, sizeof text),
               next - first > 1 ? " each" : "");
    }
    printf("             %-11s %s\n", "head",
           sl_bytes_format(s->layer_bytes[n + 1], text, sizeof text));
    printf("             %-11s %s\n", "in all",
           sl_bytes_format(s->packed_bytes, text, sizeof text));
}

static void print_special(const sl_tokenizer *tok, const char *name, int id) {
    char text[320];
    if (id >= 0)
        printf("             %s %d \"%s\"\n", name, id,
               sl_tokenizer_display(tok, id, text, sizeof text));
}

static void print_tokenizer(const sl_model_config *config, const sl_tokenizer *tok) {
    if (!tok) {
        printf("tokenizer    none: prompts must be token ids\n");
    } else {
        printf("tokenizer    %s, %d tokens\n", sl_tokenizer_kind(tok), sl_tokenizer_n_tokens(tok));
        print_special(tok, "begin", sl_tokenizer_bos_id(tok));
    }
    for (int i = 0; i < config->n_eos; i++) print_special(tok, "end", config->eos_id[i]);
    if (config->n_eos == 0 && tok) print_special(tok, "end", sl_tokenizer_eos_id(tok));
}

static void print_text(const sl_source *source, const sl_tokenizer *tok, const sizes *s) {
    const sl_model_config *c = sl_source_config(source);
    char text[32];
    printf("model        %s (%s)\n", sl_source_path(source), format_name(source));
    printf("architecture %s, %d layers, width %d", c->arch, c->n_layers, c->hidden);
    if (c->embed_dim != c->hidden) printf(" (embeddings %d)", c->embed_dim);
    printf("\nattention    %d heads of %d, %d for keys and values, %s positions, context %d",
           c->n_heads, c->head_dim, c->n_kv_heads,
           c->positions == SL_POSITIONS_ROPE ? "rotary" : "learned", c->max_positions);
    if (c->sliding_window) printf(", window %d", c->sliding_window);
    printf("\nmlp          width %d, %s%s\n", c->ffn, activation_name(c->act),
           c->gated_mlp ? ", gated" : "");
    printf("norm         %s, %s the sublayers\n", c->norm == SL_NORM_RMS ? "RMS" : "layer",
           c->norm_place == SL_NORM_PRE ? "before" : "after");
    printf("vocabulary   %d%s\n", c->vocab, c->tied_head ? ", head tied to the embedding" : "");
    printf("parameters   %" PRIu64 " (%.2f billion)\n", s->n_params, (double)s->n_params / 1e9);
    for (int d = 0; d < SL_DTYPE_COUNT; d++) {
        if (s->n_elems[d])
            printf("             %-5s %" PRIu64 " in %s\n", sl_dtype_name((sl_dtype)d),
                   s->n_elems[d], sl_bytes_format((size_t)s->n_bytes[d], text, sizeof text));
    }
    print_layers(c, s);
    const size_t kv_bytes = sl_kv_token_bytes(c, 2);
    printf("kv cache     %zu bytes a token and layer in f16, %s a token in all\n", kv_bytes,
           sl_bytes_format(kv_bytes * (size_t)c->n_layers, text, sizeof text));
    print_tokenizer(c, tok);
}

/* ---- for programs ---- */

static void put_int(sl_json_text *out, const char *name, uint64_t value) {
    sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
    sl_json_int(out, (int64_t)value);
}

static void put_text(sl_json_text *out, const char *name, const char *value) {
    sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
    sl_json_cstring(out, value);
}

static void put_dtypes(sl_json_text *out, const sizes *s) {
    int n = 0;
    sl_json_raw(out, ", \"dtypes\": {");
    for (int d = 0; d < SL_DTYPE_COUNT; d++) {
        if (!s->n_elems[d]) continue;
        if (n++) sl_json_raw(out, ", ");
        sl_json_cstring(out, sl_dtype_name((sl_dtype)d));
        sl_json_raw(out, ": {\"elems\": ");
        sl_json_int(out, (int64_t)s->n_elems[d]);
        put_int(out, "bytes", s->n_bytes[d]);
        sl_json_raw(out, "}");
    }
    sl_json_raw(out, "}");
}

static void put_tokenizer(sl_json_text *out, const sl_model_config *c, const sl_tokenizer *tok) {
    sl_json_raw(out, ", \"tokenizer\": ");
    if (tok) {
        sl_json_raw(out, "{\"kind\": ");
        sl_json_cstring(out, sl_tokenizer_kind(tok));
        put_int(out, "n_tokens", (uint64_t)sl_tokenizer_n_tokens(tok));
        sl_json_raw(out, ", \"bos_id\": ");
        sl_json_int(out, sl_tokenizer_bos_id(tok));
        sl_json_raw(out, ", \"eos_id\": ");
        sl_json_int(out, sl_tokenizer_eos_id(tok));
        sl_json_raw(out, "}");
    } else {
        sl_json_raw(out, "null");
    }
    sl_json_raw(out, ", \"eos_ids\": [");
    for (int i = 0; i < c->n_eos; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_json_int(out, c->eos_id[i]);
    }
    sl_json_raw(out, "]");
}

static sl_status print_json(const sl_source *source, const sl_tokenizer *tok, const sizes *s) {
    const sl_model_config *c = sl_source_config(source);
    sl_json_text out = {0};
    sl_json_raw(&out, "{\"model\": ");
    sl_json_cstring(&out, sl_source_path(source));
    put_text(&out, "format", format_name(source));
    put_text(&out, "architecture", c->arch);
    put_int(&out, "n_layers", (uint64_t)c->n_layers);
    put_int(&out, "hidden", (uint64_t)c->hidden);
    put_int(&out, "embed_dim", (uint64_t)c->embed_dim);
    put_int(&out, "n_heads", (uint64_t)c->n_heads);
    put_int(&out, "n_kv_heads", (uint64_t)c->n_kv_heads);
    put_int(&out, "head_dim", (uint64_t)c->head_dim);
    put_int(&out, "ffn", (uint64_t)c->ffn);
    put_text(&out, "activation", activation_name(c->act));
    put_int(&out, "vocab", (uint64_t)c->vocab);
    put_int(&out, "max_positions", (uint64_t)c->max_positions);
    put_int(&out, "sliding_window", (uint64_t)c->sliding_window);
    sl_json_raw(&out, c->tied_head ? ", \"tied_head\": true" : ", \"tied_head\": false");
    put_int(&out, "n_params", s->n_params);
    put_dtypes(&out, s);
    put_int(&out, "packed_bytes", s->packed_bytes);
    put_int(&out, "embedding_bytes", s->layer_bytes[0]);
    put_int(&out, "head_bytes", s->layer_bytes[c->n_layers + 1]);
    sl_json_raw(&out, ", \"layer_bytes\": [");
    for (int i = 0; i < c->n_layers; i++) {
        if (i) sl_json_raw(&out, ", ");
        sl_json_int(&out, (int64_t)s->layer_bytes[i + 1]);
    }
    sl_json_raw(&out, "]");
    put_int(&out, "kv_bytes_per_token_and_layer", sl_kv_token_bytes(c, 2));
    put_tokenizer(&out, c, tok);
    sl_json_raw(&out, "}");
    const sl_status st = sl_json_status(&out);
    if (st == SL_OK) puts(out.data);
    sl_json_free(&out);
    return st;
}

/* ---- the command ---- */

static sl_status inspect(const char *model, int json) {
    sl_status st;
    sl_source *source = NULL;
    sl_tokenizer *tok = NULL;
    sizes s = {{0}, {0}, 0, NULL, 0};
    SL_TRY(sl_source_open(model, 0, &source));
    const int n_layers = sl_source_config(source)->n_layers;
    s.layer_bytes = calloc((size_t)n_layers + 2, sizeof *s.layer_bytes);
    if (!s.layer_bytes) {
        st = SL_FAIL(SL_ERR_NOMEM, "%d layers: out of host memory", n_layers);
        goto fail;
    }
    SL_GO(open_tokenizer(source, &tok));
    for (int layer = SL_LAYER_EMBED; layer <= n_layers; layer++)
        SL_GO(add_layer(source, layer, &s));
    if (json) {
        st = print_json(source, tok, &s);
    } else {
        print_text(source, tok, &s);
    }

fail:
    free(s.layer_bytes);
    sl_tokenizer_close(tok);
    sl_source_close(source);
    return st;
}

sl_status sl_cmd_inspect(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out) {
    int help = 0, json = 0;
    const char *model = NULL;
    const sl_option table[] = {
        {"json", 0, SL_OPTION_FLAG, &json, NULL, "One JSON object.", 0, 0, NULL, NULL},
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice inspect MODEL [--json]",
        .summary =
            "Shows a model's architecture, sizes, number formats, tokenizer, bytes of each "
            "layer as packed, and bytes of cache for each token. MODEL is a folder as on the "
            "Hugging Face hub, a .gguf file, or dummy:NAME.",
        .options = table,
        .n_operands_min = 1,
        .n_operands_max = 1,
    };
    (void)n_refused_out;
    SL_TRY(sl_options_parse(&command, argc, argv, first, &model, NULL, &help));
    if (!sl_launch_is_first(launch)) return SL_OK;
    if (help) {
        sl_options_help(&command, stdout);
        return SL_OK;
    }
    return inspect(model, json);
}
