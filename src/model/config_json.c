/* config_json.c - HF's config.json and generation_config.json.
 *
 * Keys and defaults come from the architecture table.  A key that is missing has the default of
 * HF's config class, so that a file means here what it means there. */
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"
#include "model/config.h"

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static sl_status fail_type(const char *where, const char *key, const json_t *value,
                           const char *expected) {
    return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %s, expected %s", where, key, type_name(value),
                   expected);
}

/* The value of a key; NULL when it is missing or null. */
static const json_t *get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static sl_status to_int(const json_t *value, const char *where, const char *key, int *out) {
    if (!json_is_integer(value)) return fail_type(where, key, value, "an integer");
    const json_int_t i = json_integer_value(value);
    if (i < INT_MIN || i > INT_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %lld, which is out of range", where, key,
                       (long long)i);
    *out = (int)i;
    return SL_OK;
}

/* A size: positive.  Null is what SL_DERIVED is: "work it out", where the architecture allows it;
 * so derivable sizes are 0 on return when they are still to be worked out. */
static sl_status get_size(const json_t *root, const char *where, const sl_arch_size *size,
                          int may_be_null, int *out) {
    const json_t *value = size->key ? json_object_get(root, size->key) : NULL;
    if (!value) {
        *out = size->fallback;
        return SL_OK;
    }
    if (json_is_null(value) && may_be_null) {
        *out = SL_DERIVED;
        return SL_OK;
    }
    int i = 0;
    SL_TRY(to_int(value, where, size->key, &i));
    if (i < 1)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %d, expected a positive number", where, size->key,
                       i);
    *out = i;
    return SL_OK;
}

static sl_status get_flag(const json_t *root, const char *where, const sl_arch_flag *flag,
                          int *out) {
    const json_t *value = flag->key ? get(root, flag->key) : NULL;
    if (value && !json_is_boolean(value)) return fail_type(where, flag->key, value, "a boolean");
    *out = value ? json_is_true(value) : flag->fallback;
    return SL_OK;
}

static sl_status to_positive(const json_t *value, const char *where, const char *key, float *out) {
    if (!json_is_number(value)) return fail_type(where, key, value, "a number");
    const float f = (float)json_number_value(value);
    if (!isfinite(f) || f <= 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %g, expected a positive number", where, key,
                       json_number_value(value));
    *out = f;
    return SL_OK;
}

static sl_status need_positive(const json_t *object, const char *where, const char *key,
                               const char *what, float *out) {
    const json_t *value = get(object, key);
    if (!value)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing, which %s needs", where, key, what);
    return to_positive(value, where, key, out);
}

/* Token ids.  A negative one means "none"; one outside of the vocabulary cannot come out of the
 * model or go into it, and counts as none too (padding tokens that were added without a row). */
static sl_status get_id(const json_t *root, const char *where, const char *key, int fallback,
                        int vocab, int *out) {
    const json_t *value = json_object_get(root, key);
    int id = fallback;
    if (value && json_is_null(value))
        id = -1;
    else if (value)
        SL_TRY(to_int(value, where, key, &id));
    *out = id >= 0 && id < vocab ? id : -1;
    return SL_OK;
}

static sl_status add_eos(sl_model_config *c, const char *where, int id) {
    if (id < 0 || id >= c->vocab) return SL_OK;
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_id[i] == id) return SL_OK;
    if (c->n_eos == SL_MAX_EOS)
        return SL_FAIL(SL_ERR_FORMAT, "%s: more than %d different eos_token_id", where, SL_MAX_EOS);
    c->eos_id[c->n_eos++] = id;
    return SL_OK;
}

static sl_status add_eos_value(sl_model_config *c, const char *where, const json_t *value) {
    const char *key = "eos_token_id";
    int id = -1;
    if (!json_is_array(value)) {
        if (!json_is_integer(value)) return fail_type(where, key, value, "an integer or an array");
        SL_TRY(to_int(value, where, key, &id));
        return add_eos(c, where, id);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        SL_TRY(to_int(json_array_get(value, i), where, key, &id));
        SL_TRY(add_eos(c, where, id));
    }
    return SL_OK;
}

static sl_status parse_ids(const json_t *root, const char *where, const sl_arch *arch,
                           sl_model_config *c) {
    SL_TRY(get_id(root, where, "bos_token_id", arch->bos_id, c->vocab, &c->bos_id));
    SL_TRY(get_id(root, where, "pad_token_id", arch->pad_id, c->vocab, &c->pad_id));
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (!eos) return add_eos(c, where, arch->eos_id);
    return json_is_null(eos) ? SL_OK : add_eos_value(c, where, eos);
}

static sl_status parse_activation(const json_t *root, const char *where, const sl_arch *arch,
                                  sl_model_config *c) {
    static const struct {
        const char *name;
        sl_activation act;
    } known[] = {
        {"relu", SL_ACT_RELU},           {"gelu", SL_ACT_GELU},
        {"gelu_python", SL_ACT_GELU},    {"gelu_new", SL_ACT_GELU_TANH},
        {"gelu_fast", SL_ACT_GELU_TANH}, {"gelu_pytorch_tanh", SL_ACT_GELU_TANH},
        {"silu", SL_ACT_SILU},           {"swish", SL_ACT_SILU},
    };
    const json_t *value = json_object_get(root, arch->act_key);
    if (!value) return SL_OK; /* the architecture's own */
    if (!json_is_string(value)) return fail_type(where, arch->act_key, value, "a string");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, json_string_value(value)) != 0) continue;
        c->act = known[i].act;
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_FORMAT,
                   "%s: %s \"%.64s\" is not supported, expected relu, gelu, gelu_new or silu",
                   where, arch->act_key, json_string_value(value));
}

/* How many layers attend through the window.  `listed` is layer_types, one name per layer. */
static sl_status count_windowed(const json_t *listed, const char *where, int n_layers, int *out) {
    if (!json_is_array(listed)) return fail_type(where, "layer_types", listed, "an array");
    if (json_array_size(listed) != (size_t)n_layers)
        return SL_FAIL(SL_ERR_FORMAT, "%s: layer_types has %zu entries, expected %d", where,
                       json_array_size(listed), n_layers);
    int n = 0;
    for (size_t i = 0; i < json_array_size(listed); i++) {
        const json_t *entry = json_array_get(listed, i);
        if (!json_is_string(entry)) return fail_type(where, "layer_types", entry, "a string");
        const char *name = json_string_value(entry);
        if (strcmp(name, "sliding_attention") == 0)
            n++;
        else if (strcmp(name, "full_attention") != 0)
            return SL_FAIL(SL_ERR_FORMAT, "%s: layer_types \"%.64s\" is not supported", where,
                           name);
    }
    *out = n;
    return SL_OK;
}

/* One window for all layers or none for any is all that a config can express. */
static sl_status parse_window(const json_t *root, const char *where, const sl_arch *arch,
                              sl_model_config *c) {
    int window = 0, first = 0, used = 1;
    if (arch->window == SL_WINDOW_SWITCH) {
        const sl_arch_flag use = {"use_sliding_window", 0};
        const json_t *value = get(root, "max_window_layers");
        SL_TRY(get_flag(root, where, &use, &used));
        first = 28; /* HF's default */
        if (value) SL_TRY(to_int(value, where, "max_window_layers", &first));
        if (first < 0)
            return SL_FAIL(SL_ERR_FORMAT, "%s: max_window_layers is %d, expected 0 or more", where,
                           first);
    }
    if (used) SL_TRY(get_size(root, where, &arch->sliding_window, 1, &window));
    int n_windowed = window > 0 && first < c->n_layers ? c->n_layers - first : 0;
    const json_t *listed = get(root, "layer_types");
    if (listed) {
        int n = 0;
        SL_TRY(count_windowed(listed, where, c->n_layers, &n));
        if ((n > 0 && window == 0) || (arch->window != SL_WINDOW_SWITCH && n != n_windowed))
            return SL_FAIL(
                SL_ERR_FORMAT,
                "%s: layer_types has %d layers with sliding_attention, but sliding_window "
                "holds for %d",
                where, n, n_windowed);
        n_windowed = n;
    }
    /* A window as long as the context hides nothing. */
    if (window >= c->max_positions || n_windowed == 0) {
        c->sliding_window = 0;
        return SL_OK;
    }
    if (n_windowed != c->n_layers)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: sliding_window holds for %d of %d layers, expected all or none "
                       "(max_window_layers, layer_types)",
                       where, n_windowed, c->n_layers);
    c->sliding_window = window;
    return SL_OK;
}

static sl_status parse_rope_scaling(const json_t *params, const char *where, const char *key,
                                    const json_t *root, sl_model_config *c) {
    const json_t *type = get(params, "rope_type");
    if (!type) type = get(params, "type");
    if (type && !json_is_string(type)) return fail_type(where, "rope_type", type, "a string");
    const char *name = type ? json_string_value(type) : "default";
    sl_rope *r = &c->rope;
    if (strcmp(name, "default") == 0) return SL_OK;
    if (strcmp(name, "linear") == 0) {
        r->scaling = SL_ROPE_LINEAR;
        return need_positive(params, where, "factor", "linear RoPE scaling", &r->factor);
    }
    if (strcmp(name, "llama3") != 0)
        return SL_FAIL(
            SL_ERR_FORMAT,
            "%s: %s of type \"%.64s\" is not supported, expected default, linear or llama3", where,
            key, name);
    const char *what = "llama3 RoPE scaling";
    r->scaling = SL_ROPE_LLAMA3;
    SL_TRY(need_positive(params, where, "factor", what, &r->factor));
    SL_TRY(need_positive(params, where, "low_freq_factor", what, &r->low_freq_factor));
    SL_TRY(need_positive(params, where, "high_freq_factor", what, &r->high_freq_factor));
    const char *original = "original_max_position_embeddings";
    const json_t *value = get(root, original); /* takes precedence in HF */
    if (!value) value = get(params, original);
    r->original_positions = c->max_positions;
    return value ? to_int(value, where, original, &r->original_positions) : SL_OK;
}

static sl_status parse_rope(const json_t *root, const char *where, sl_model_config *c) {
    /* The old way wins where both are given and the old one says anything, as in HF. */
    const char *key = "rope_scaling";
    const json_t *params = get(root, key);
    if (params && !json_is_object(params)) return fail_type(where, key, params, "an object");
    if (!params || json_object_size(params) == 0) {
        key = "rope_parameters";
        params = get(root, key);
        if (params && !json_is_object(params)) return fail_type(where, key, params, "an object");
    }
    const char *nested[] = {"full_attention", "sliding_attention"};
    for (int i = 0; i < 2; i++)
        if (json_object_get(params, nested[i]))
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s that differ by layer type (%s) are not supported",
                           where, key, nested[i]);
    if (get(params, "mrope_section"))
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s with mrope_section is not supported", where, key);

    const json_t *part = get(params, "partial_rotary_factor");
    if (!part) part = get(root, "partial_rotary_factor");
    float fraction = 1.0f;
    if (part) SL_TRY(to_positive(part, where, "partial_rotary_factor", &fraction));
    if (fraction != 1.0f)
        return SL_FAIL(SL_ERR_FORMAT, "%s: partial_rotary_factor is %g, only 1 is supported", where,
                       (double)fraction);

    const json_t *theta = get(params, "rope_theta");
    if (!theta) theta = get(root, "rope_theta");
    if (theta) SL_TRY(to_positive(theta, where, "rope_theta", &c->rope.theta));
    return params ? parse_rope_scaling(params, where, key, root, c) : SL_OK;
}

static sl_status derive_head_dim(const char *where, sl_model_config *c) {
    if (c->head_dim != SL_DERIVED) return SL_OK;
    if (c->hidden % c->n_heads != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: hidden_size %d is no multiple of %d attention heads",
                       where, c->hidden, c->n_heads);
    c->head_dim = c->hidden / c->n_heads;
    return SL_OK;
}

static sl_status parse_sizes(const json_t *root, const char *where, const sl_arch *arch,
                             sl_model_config *c) {
    SL_TRY(get_size(root, where, &arch->n_layers, 0, &c->n_layers));
    SL_TRY(get_size(root, where, &arch->hidden, 0, &c->hidden));
    SL_TRY(get_size(root, where, &arch->n_heads, 0, &c->n_heads));
    SL_TRY(get_size(root, where, &arch->ffn, 0, &c->ffn));
    SL_TRY(get_size(root, where, &arch->vocab, 0, &c->vocab));
    SL_TRY(get_size(root, where, &arch->max_positions, 0, &c->max_positions));
    SL_TRY(get_size(root, where, &arch->n_kv_heads, 1, &c->n_kv_heads));
    SL_TRY(get_size(root, where, &arch->head_dim, 1, &c->head_dim));
    SL_TRY(get_size(root, where, &arch->embed_dim, 1, &c->embed_dim));
    if (c->n_kv_heads == SL_DERIVED) c->n_kv_heads = c->n_heads;
    if (c->embed_dim == SL_DERIVED) c->embed_dim = c->hidden;
    return derive_head_dim(where, c);
}

static sl_status parse_flags(const json_t *root, const char *where, const sl_arch *arch,
                             sl_model_config *c) {
    int pre_norm = 1, no_final_norm = 0;
    SL_TRY(get_flag(root, where, &arch->qkv_bias, &c->qkv_bias));
    SL_TRY(get_flag(root, where, &arch->o_bias, &c->o_bias));
    SL_TRY(get_flag(root, where, &arch->mlp_bias, &c->mlp_bias));
    SL_TRY(get_flag(root, where, &arch->norm_affine, &c->norm_affine));
    SL_TRY(get_flag(root, where, &arch->tied_head, &c->tied_head));
    SL_TRY(get_flag(root, where, &arch->pre_norm, &pre_norm));
    SL_TRY(get_flag(root, where, &arch->no_final_norm, &no_final_norm));
    c->norm_place = pre_norm ? SL_NORM_PRE : SL_NORM_POST;
    c->final_norm = pre_norm && !no_final_norm;
    if (!c->norm_affine) c->norm_bias = 0;
    return SL_OK;
}

static sl_status find_arch(const json_t *root, const char *where, const sl_arch **out) {
    char list[128];
    const json_t *type = get(root, "model_type");
    const json_t *classes = get(root, "architectures");
    if (type && !json_is_string(type)) return fail_type(where, "model_type", type, "a string");
    if (classes && !json_is_array(classes))
        return fail_type(where, "architectures", classes, "an array");
    const json_t *first = classes ? json_array_get(classes, 0) : NULL;
    if (first && !json_is_string(first))
        return fail_type(where, "architectures", first, "an array of strings");
    if (!type && !first)
        return SL_FAIL(SL_ERR_FORMAT, "%s: model_type is missing, expected one of %s", where,
                       sl_arch_list(0, list, sizeof list));

    const sl_arch *arch =
        type ? sl_arch_find(json_string_value(type)) : sl_arch_find_class(json_string_value(first));
    if (!arch)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: architecture \"%.64s\" is not supported, expected one of %s", where,
                       json_string_value(type ? type : first), sl_arch_list(0, list, sizeof list));
    /* A classifier of the same family has the same body and another head. */
    if (first && !sl_arch_is_class(arch, json_string_value(first)))
        return SL_FAIL(SL_ERR_FORMAT, "%s: architectures names %.64s, expected %sForCausalLM",
                       where, json_string_value(first), arch->hf_class);
    *out = arch;
    return SL_OK;
}

static sl_status refuse_quantized(const json_t *root, const char *where) {
    const json_t *quant = get(root, "quantization_config");
    if (!quant) return SL_OK;
    const json_t *method = json_object_get(quant, "quant_method");
    return SL_FAIL(SL_ERR_FORMAT,
                   "%s: quantization_config with quant_method \"%.64s\" is not supported", where,
                   json_is_string(method) ? json_string_value(method) : "?");
}

static sl_status parse_root(const json_t *root, const char *where, sl_model_config *out) {
    const sl_arch *arch = NULL;
    sl_model_config c;
    SL_TRY(find_arch(root, where, &arch));
    SL_TRY(refuse_quantized(root, where));
    sl_arch_init_config(arch, &c);
    SL_TRY(parse_sizes(root, where, arch, &c));
    SL_TRY(parse_flags(root, where, arch, &c));
    SL_TRY(parse_activation(root, where, arch, &c));
    const json_t *eps = arch->eps_key ? json_object_get(root, arch->eps_key) : NULL;
    if (eps) SL_TRY(to_positive(eps, where, arch->eps_key, &c.norm_eps));
    if (c.positions == SL_POSITIONS_ROPE) SL_TRY(parse_rope(root, where, &c));
    SL_TRY(parse_window(root, where, arch, &c));
    SL_TRY(parse_ids(root, where, arch, &c));
    SL_TRY(sl_config_check(&c, where));
    *out = c;
    return SL_OK;
}

static sl_status load_object(const char *text, size_t bytes, const char *where, json_t **out) {
    json_error_t error;
    json_t *root = json_loadb(text, bytes, 0, &error);
    if (!root)
        return SL_FAIL(SL_ERR_FORMAT, "%s: line %d, column %d: %s", where, error.line, error.column,
                       error.text);
    if (!json_is_object(root)) {
        const sl_status st = fail_type(where, "the file", root, "an object");
        json_decref(root);
        return st;
    }
    *out = root;
    return SL_OK;
}

sl_status sl_config_parse_json(const char *text, size_t bytes, const char *where,
                               sl_model_config *out) {
    json_t *root = NULL;
    SL_TRY(load_object(text, bytes, where, &root));
    const sl_status st = parse_root(root, where, out);
    json_decref(root);
    return st;
}

sl_status sl_config_merge_generation(const char *text, size_t bytes, const char *where,
                                     sl_model_config *config) {
    json_t *root = NULL;
    SL_TRY(load_object(text, bytes, where, &root));
    sl_model_config merged = *config;
    const json_t *eos = get(root, "eos_token_id");
    const sl_status st = eos ? add_eos_value(&merged, where, eos) : SL_OK;
    json_decref(root);
    if (st == SL_OK) *config = merged;
    return st;
}
