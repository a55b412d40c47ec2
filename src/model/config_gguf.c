#include "model/config_gguf.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

/* What the reading functions share: where they read, and the prefix of the keys. */
typedef struct {
    const sl_checkpoint *gguf;
    const char *where; /* the file */
    const char *arch;  /* general.architecture */
} reader;

typedef struct {
    char text[128];
} key_text;

static key_text arch_key(const reader *rd, const char *suffix) {
    key_text key;
    snprintf(key.text, sizeof key.text, "%.32s.%s", rd->arch, suffix);
    return key;
}

static sl_status check_kind(const reader *rd, const char *key, const sl_gguf_value *value,
                            sl_gguf_kind kind) {
    static const char *const names[] = {[SL_GGUF_INT] = "an integer",
                                        [SL_GGUF_FLOAT] = "a float",
                                        [SL_GGUF_BOOL] = "a bool",
                                        [SL_GGUF_STRING] = "a string",
                                        [SL_GGUF_ARRAY] = "an array"};
    if (value->kind != kind)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %s, expected %s", rd->where, key,
                       names[value->kind], names[kind]);
    return SL_OK;
}

/* An integer, or an array with one per layer that are all equal. */
static sl_status to_int(const reader *rd, const char *key, const sl_gguf_value *value, int *out) {
    int64_t i = value->i;
    if (value->kind == SL_GGUF_ARRAY && value->elem_kind == SL_GGUF_INT && value->n > 0) {
        i = value->ints[0];
        for (size_t j = 1; j < value->n; j++)
            if (value->ints[j] != i)
                return SL_FAIL(
                    SL_ERR_FORMAT,
                    "%s: %s is %lld in layer 0 and %lld in layer %zu; layers of different "
                    "shapes are not supported",
                    rd->where, key, (long long)i, (long long)value->ints[j], j);
    } else {
        SL_TRY(check_kind(rd, key, value, SL_GGUF_INT));
    }
    if (i < INT_MIN || i > INT_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %lld, which is out of range", rd->where, key,
                       (long long)i);
    *out = (int)i;
    return SL_OK;
}

/* `fallback` NULL: the key must be there. */
static sl_status get_int(const reader *rd, const char *suffix, const int *fallback, int *out) {
    const key_text key = arch_key(rd, suffix);
    const sl_gguf_value *value = sl_gguf_find(rd->gguf, key.text);
    if (value) return to_int(rd, key.text, value, out);
    if (!fallback) return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing", rd->where, key.text);
    *out = *fallback;
    return SL_OK;
}

static sl_status get_float(const reader *rd, const char *suffix, const float *fallback,
                           float *out) {
    const key_text key = arch_key(rd, suffix);
    const sl_gguf_value *value = sl_gguf_find(rd->gguf, key.text);
    if (!value && !fallback)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing", rd->where, key.text);
    if (value) SL_TRY(check_kind(rd, key.text, value, SL_GGUF_FLOAT));
    *out = value ? (float)value->f : *fallback;
    return SL_OK;
}

/* Options that change what the model computes and that no field of the config can hold. */
static sl_status refuse_options(const reader *rd) {
    const int none = 0;
    const float no_clamp = 0.0f;
    int n_experts = 0;
    SL_TRY(get_int(rd, "expert_count", &none, &n_experts));
    if (n_experts != 0)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: %s.expert_count is %d; mixtures of experts are not supported",
                       rd->where, rd->arch, n_experts);
    float clamp = 0;
    SL_TRY(get_float(rd, "attention.clamp_kqv", &no_clamp, &clamp));
    if (clamp != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s.attention.clamp_kqv is %g, only 0 is supported",
                       rd->where, rd->arch, (double)clamp);
    const sl_gguf_value *split = sl_gguf_find(rd->gguf, "split.count");
    int n_files = 1;
    if (split) SL_TRY(to_int(rd, "split.count", split, &n_files));
    if (n_files > 1)
        return SL_FAIL(
            SL_ERR_FORMAT,
            "%s: split.count is %d; join the parts to one file first (gguf-split --merge)",
            rd->where, n_files);
    return SL_OK;
}

static sl_status read_sizes(const reader *rd, sl_model_config *c) {
    const sl_tensor *embed = sl_checkpoint_find(rd->gguf, "token_embd.weight");
    if (!embed || embed->n_dims != 2 || embed->dims[0] > INT_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor token_embd.weight %s", rd->where,
                       embed ? "is no matrix" : "is missing");
    SL_TRY(get_int(rd, "block_count", NULL, &c->n_layers));
    SL_TRY(get_int(rd, "embedding_length", NULL, &c->hidden));
    SL_TRY(get_int(rd, "feed_forward_length", NULL, &c->ffn));
    SL_TRY(get_int(rd, "attention.head_count", NULL, &c->n_heads));
    SL_TRY(get_int(rd, "attention.head_count_kv", &c->n_heads, &c->n_kv_heads));
    SL_TRY(get_int(rd, "context_length", NULL, &c->max_positions));
    /* The embedding decides: vocab_size and the token list disagree with it in some files. */
    c->vocab = (int)embed->dims[0];
    c->embed_dim = c->hidden;

    const int even = c->n_heads > 0 ? c->hidden / c->n_heads : 0;
    int value_length = 0, rotated = 0;
    SL_TRY(get_int(rd, "attention.key_length", &even, &c->head_dim));
    SL_TRY(get_int(rd, "attention.value_length", &even, &value_length));
    SL_TRY(get_int(rd, "rope.dimension_count", &c->head_dim, &rotated));
    if (value_length != c->head_dim)
        return SL_FAIL(SL_ERR_FORMAT, "%s: attention.value_length is %d, expected key_length %d",
                       rd->where, value_length, c->head_dim);
    if (rotated != c->head_dim)
        return SL_FAIL(
            SL_ERR_FORMAT,
            "%s: rope.dimension_count is %d, expected all of head_dim %d; partial rotary "
            "embedding is not supported",
            rd->where, rotated, c->head_dim);
    return SL_OK;
}

/* A window shorter than the context: one for all layers is what Mistral has; Qwen's holds for some
 * layers only, and GGUF does not say for which. */
static sl_status read_window(const reader *rd, const sl_arch *arch, sl_model_config *c) {
    const int none = 0;
    int window = 0;
    SL_TRY(get_int(rd, "attention.sliding_window", &none, &window));
    if (window <= 0 || window >= c->max_positions) return SL_OK;
    if (arch->window == SL_WINDOW_SWITCH)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: %s.attention.sliding_window is %d, which is not supported below the "
                       "context of %d",
                       rd->where, rd->arch, window, c->max_positions);
    c->sliding_window = window;
    return SL_OK;
}

static sl_status read_rope(const reader *rd, sl_rope *r) {
    const float theta = 10000.0f, unscaled = 0.0f;
    SL_TRY(get_float(rd, "rope.freq_base", &theta, &r->theta));

    /* Without a type a factor means linear scaling; the oldest files have it under another key. */
    const key_text key = arch_key(rd, "rope.scaling.type");
    const sl_gguf_value *type = sl_gguf_find(rd->gguf, key.text);
    if (type) SL_TRY(check_kind(rd, key.text, type, SL_GGUF_STRING));
    const char *name = type ? type->s : "linear";
    if (strcmp(name, "none") == 0) return SL_OK;
    if (strcmp(name, "linear") != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s \"%.64s\" is not supported, expected none or linear",
                       rd->where, key.text, name);
    float factor = 0, old_factor = 0;
    SL_TRY(get_float(rd, "rope.scale_linear", &unscaled, &old_factor));
    SL_TRY(get_float(rd, "rope.scaling.factor", &old_factor, &factor));
    if (factor == 0 || factor == 1) return SL_OK;
    r->scaling = SL_ROPE_LINEAR;
    r->factor = factor;
    return SL_OK;
}

/* Llama 3's scaling, worked out by the converter: one divisor per rotary pair. */
static sl_status read_divisors(const reader *rd, const sl_arch *arch, sl_model_config *c) {
    const sl_tensor *t =
        arch->gguf_rope_freqs ? sl_checkpoint_find(rd->gguf, arch->gguf_rope_freqs) : NULL;
    if (!t) return SL_OK;
    const int n = c->head_dim / 2;
    if (n < 1 || n > SL_MAX_HEAD_DIM / 2 || t->n_dims != 1 || t->dims[0] != n ||
        t->dtype != SL_DTYPE_F32)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor %s has %d dimensions, the first of %lld, and is %s; expected %d "
                       "elements of F32",
                       t->file, t->name, t->n_dims, (long long)t->dims[0], sl_dtype_name(t->dtype),
                       n);
    SL_TRY(sl_checkpoint_read_rows(rd->gguf, t, 0, 1, c->rope.divisor,
                                   (size_t)n * sizeof c->rope.divisor[0]));
    c->rope.n_divisors = n;
    return SL_OK;
}

static int has_tensor(const reader *rd, sl_role role) {
    char name[128];
    return sl_arch_gguf_name(0, role, name, sizeof name) == SL_OK &&
           sl_checkpoint_find(rd->gguf, name) != NULL;
}

static sl_status read_id(const reader *rd, const char *key, int vocab, int *out) {
    const sl_gguf_value *value = sl_gguf_find(rd->gguf, key);
    int id = -1;
    if (value) SL_TRY(to_int(rd, key, value, &id));
    *out = id >= 0 && id < vocab ? id : -1;
    return SL_OK;
}

static sl_status read_ids(const reader *rd, sl_model_config *c) {
    /* End of sequence, of turn, of message: each ends a generation. */
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    SL_TRY(read_id(rd, "tokenizer.ggml.bos_token_id", c->vocab, &c->bos_id));
    SL_TRY(read_id(rd, "tokenizer.ggml.padding_token_id", c->vocab, &c->pad_id));
    for (int i = 0; i < 3; i++) {
        int id = -1;
        SL_TRY(read_id(rd, ends[i], c->vocab, &id));
        int is_new = id >= 0;
        for (int j = 0; j < c->n_eos; j++)
            if (c->eos_id[j] == id) is_new = 0;
        if (is_new) c->eos_id[c->n_eos++] = id;
    }
    return SL_OK;
}

sl_status sl_config_read_gguf(const sl_checkpoint *gguf, sl_model_config *out) {
    char list[128];
    reader rd = {.gguf = gguf, .where = sl_checkpoint_path(gguf), .arch = ""};
    const sl_gguf_value *name = sl_gguf_find(gguf, "general.architecture");
    if (!name) return SL_FAIL(SL_ERR_FORMAT, "%s: general.architecture is missing", rd.where);
    SL_TRY(check_kind(&rd, "general.architecture", name, SL_GGUF_STRING));
    const sl_arch *arch = sl_arch_find_gguf(name->s);
    if (!arch)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: architecture \"%.64s\" is not supported, expected one of %s", rd.where,
                       name->s, sl_arch_list(1, list, sizeof list));
    rd.arch = arch->gguf_name;

    sl_model_config c;
    sl_arch_init_config(arch, &c);
    SL_TRY(refuse_options(&rd));
    SL_TRY(read_sizes(&rd, &c));
    SL_TRY(get_float(&rd, "attention.layer_norm_rms_epsilon", NULL, &c.norm_eps));
    SL_TRY(read_window(&rd, arch, &c));
    SL_TRY(read_rope(&rd, &c.rope));
    SL_TRY(read_divisors(&rd, arch, &c));
    SL_TRY(read_ids(&rd, &c));
    c.qkv_bias = c.qkv_bias || has_tensor(&rd, SL_ROLE_Q_BIAS);
    c.o_bias = c.o_bias || has_tensor(&rd, SL_ROLE_O_BIAS);
    c.mlp_bias = c.mlp_bias || has_tensor(&rd, SL_ROLE_UP_BIAS);
    c.tied_head = !has_tensor(&rd, SL_ROLE_HEAD);
    SL_TRY(sl_config_check(&c, rd.where));
    *out = c;
    return SL_OK;
}
