#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

/* Bounds that no decoder comes near; with them no product of two fields overflows an int64, and
 * rows and columns of every tensor fit in an int. */
enum {
    MAX_LAYERS = 4096,
    MAX_WIDTH = 1 << 22,
    MAX_VOCAB = 1 << 24,
    MAX_POSITIONS = 1 << 28,
};

static sl_status check_int(const char *where, const char *field, int64_t value, int64_t low,
                           int64_t high) {
    if (value < low || value > high)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %lld, expected %lld to %lld", where, field,
                       (long long)value, (long long)low, (long long)high);
    return SL_OK;
}

static sl_status check_positive(const char *where, const char *field, float value) {
    if (!(isfinite(value) && value > 0))
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s is %g, expected a positive number", where, field,
                       (double)value);
    return SL_OK;
}

static sl_status check_rope(const sl_model_config *c, const char *where) {
    const sl_rope *r = &c->rope;
    if (c->head_dim % 2 != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: head_dim is %d, expected an even number for RoPE", where,
                       c->head_dim);
    SL_TRY(check_positive(where, "rope theta", r->theta));
    SL_TRY(check_int(where, "rope scaling", (int)r->scaling, SL_ROPE_PLAIN, SL_ROPE_LLAMA3));
    if (r->scaling != SL_ROPE_PLAIN) SL_TRY(check_positive(where, "rope factor", r->factor));
    if (r->scaling == SL_ROPE_LLAMA3) {
        SL_TRY(check_positive(where, "rope low_freq_factor", r->low_freq_factor));
        SL_TRY(check_positive(where, "rope high_freq_factor", r->high_freq_factor));
        if (r->high_freq_factor <= r->low_freq_factor)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: rope high_freq_factor is %g, expected more than low_freq_factor %g",
                           where, (double)r->high_freq_factor, (double)r->low_freq_factor);
        SL_TRY(check_int(where, "rope original_max_position_embeddings", r->original_positions, 1,
                         MAX_POSITIONS));
    }
    if (r->n_divisors != 0 && r->n_divisors != c->head_dim / 2)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %d rope frequency divisors, expected %d or none", where,
                       r->n_divisors, c->head_dim / 2);
    for (int i = 0; i < r->n_divisors; i++)
        SL_TRY(check_positive(where, "a rope frequency divisor", r->divisor[i]));
    return SL_OK;
}

static sl_status check_flags(const sl_model_config *c, const char *where) {
    const struct {
        const char *name;
        int value, high;
    } flags[] = {
        {"norm", (int)c->norm, SL_NORM_RMS}, {"norm_place", (int)c->norm_place, SL_NORM_POST},
        {"norm_bias", c->norm_bias, 1},      {"norm_affine", c->norm_affine, 1},
        {"final_norm", c->final_norm, 1},    {"positions", (int)c->positions, SL_POSITIONS_ROPE},
        {"qkv_bias", c->qkv_bias, 1},        {"o_bias", c->o_bias, 1},
        {"mlp_bias", c->mlp_bias, 1},        {"qk_norm", c->qk_norm, 1},
        {"gated_mlp", c->gated_mlp, 1},      {"act", (int)c->act, SL_ACT_SILU},
        {"tied_head", c->tied_head, 1},
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        SL_TRY(check_int(where, flags[i].name, flags[i].value, 0, flags[i].high));
    return SL_OK;
}

static sl_status check_ids(const sl_model_config *c, const char *where) {
    SL_TRY(check_int(where, "bos_id", c->bos_id, -1, c->vocab - 1));
    SL_TRY(check_int(where, "pad_id", c->pad_id, -1, c->vocab - 1));
    SL_TRY(check_int(where, "number of end-of-sequence ids", c->n_eos, 0, SL_MAX_EOS));
    for (int i = 0; i < c->n_eos; i++)
        SL_TRY(check_int(where, "eos_id", c->eos_id[i], 0, c->vocab - 1));
    return SL_OK;
}

sl_status sl_config_check(const sl_model_config *c, const char *where) {
    if (memchr(c->arch, '\0', sizeof c->arch) == NULL || c->arch[0] == '\0')
        return SL_FAIL(SL_ERR_FORMAT, "%s: the architecture has no name", where);
    SL_TRY(check_int(where, "number of layers", c->n_layers, 1, MAX_LAYERS));
    SL_TRY(check_int(where, "hidden size", c->hidden, 1, MAX_WIDTH));
    SL_TRY(check_int(where, "embedding size", c->embed_dim, 1, MAX_WIDTH));
    SL_TRY(check_int(where, "number of heads", c->n_heads, 1, MAX_WIDTH));
    SL_TRY(check_int(where, "number of key/value heads", c->n_kv_heads, 1, c->n_heads));
    SL_TRY(check_int(where, "head_dim", c->head_dim, 1, SL_MAX_HEAD_DIM));
    SL_TRY(check_int(where, "heads * head_dim", (int64_t)c->n_heads * c->head_dim, 1, MAX_WIDTH));
    SL_TRY(check_int(where, "MLP width", c->ffn, 1, MAX_WIDTH));
    SL_TRY(check_int(where, "vocabulary size", c->vocab, 1, MAX_VOCAB));
    SL_TRY(check_int(where, "number of positions", c->max_positions, 1, MAX_POSITIONS));
    SL_TRY(check_int(where, "position offset", c->position_offset, 0, 1024));
    SL_TRY(check_int(where, "sliding window", c->sliding_window, 0, MAX_POSITIONS));
    if (c->n_heads % c->n_kv_heads != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %d heads are no multiple of %d key/value heads", where,
                       c->n_heads, c->n_kv_heads);
    SL_TRY(check_positive(where, "norm epsilon", c->norm_eps));
    SL_TRY(check_flags(c, where));
    if (c->positions == SL_POSITIONS_ROPE) SL_TRY(check_rope(c, where));
    return check_ids(c, where);
}

/* The published sizes.  OPT: Zhang et al. 2022, table 1.  Galactica: Taylor et al. 2022, table 5;
 * a decoder like OPT's with GELU, without biases in its linear layers, and its own vocabulary. */
static const struct {
    const char *name;
    int n_layers, hidden, n_heads;
} named[] = {
    {"opt-125m", 12, 768, 12},        {"opt-350m", 24, 1024, 16},
    {"opt-1.3b", 24, 2048, 32},       {"opt-2.7b", 32, 2560, 32},
    {"opt-6.7b", 32, 4096, 32},       {"opt-13b", 40, 5120, 40},
    {"opt-30b", 48, 7168, 56},        {"opt-66b", 64, 9216, 72},
    {"opt-175b", 96, 12288, 96},      {"galactica-125m", 12, 768, 12},
    {"galactica-1.3b", 24, 2048, 32}, {"galactica-6.7b", 32, 4096, 32},
    {"galactica-30b", 48, 7168, 56},  {"galactica-120b", 96, 10240, 80},
};

enum { N_NAMED = sizeof named / sizeof named[0] };

static sl_status fail_unknown_name(const char *name) {
    char list[512];
    size_t used = 0;
    for (int i = 0; i < N_NAMED && used < sizeof list; i++) {
        const int n =
            snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", named[i].name);
        if (n > 0) used += (size_t)n;
    }
    return SL_FAIL(SL_ERR_ARG, "no model size is named \"%s\"; known are %s", name, list);
}

sl_status sl_config_named(const char *name, sl_model_config *out) {
    int i = 0;
    while (i < N_NAMED && strcmp(named[i].name, name) != 0) i++;
    if (i == N_NAMED) return fail_unknown_name(name);

    const sl_arch *arch = sl_arch_find("opt");
    if (!arch) return SL_FAIL(SL_ERR_ARG, "the table of architectures has no opt");
    const int is_galactica = strncmp(name, "galactica", 9) == 0;
    sl_model_config c;
    sl_arch_init_config(arch, &c);
    c.n_layers = named[i].n_layers;
    c.hidden = named[i].hidden;
    c.embed_dim = named[i].hidden;
    c.n_heads = named[i].n_heads;
    c.n_kv_heads = named[i].n_heads;
    c.head_dim = named[i].hidden / named[i].n_heads;
    c.ffn = 4 * named[i].hidden;
    c.vocab = is_galactica ? 50000 : arch->vocab.fallback;
    c.max_positions = arch->max_positions.fallback;
    c.bos_id = is_galactica ? 0 : arch->bos_id;
    c.pad_id = arch->pad_id;
    c.n_eos = 1;
    c.eos_id[0] = arch->eos_id;
    if (is_galactica) {
        c.act = SL_ACT_GELU;
        c.qkv_bias = c.o_bias = c.mlp_bias = 0;
    }
    if (strcmp(name, "opt-350m") == 0) { /* the odd one: post-norm and narrow embeddings */
        c.embed_dim = 512;
        c.norm_place = SL_NORM_POST;
        c.final_norm = 0;
    }
    SL_TRY(sl_config_check(&c, name));
    *out = c;
    return SL_OK;
}
