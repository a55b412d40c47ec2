#include "model/arch.h"

#include <stdio.h>
#include <string.h>

#include "model/roles.h"

/* OPT's MLP norm is called final_layer_norm inside a layer; the model's own one has the same name
 * one level up. */
static const char *const opt_names[SL_ROLE_COUNT] = {
    [SL_ROLE_Q] = "self_attn.q_proj.weight",
    [SL_ROLE_K] = "self_attn.k_proj.weight",
    [SL_ROLE_V] = "self_attn.v_proj.weight",
    [SL_ROLE_O] = "self_attn.out_proj.weight",
    [SL_ROLE_UP] = "fc1.weight",
    [SL_ROLE_DOWN] = "fc2.weight",
    [SL_ROLE_TOKEN_EMBED] = "embed_tokens.weight",
    [SL_ROLE_POS_EMBED] = "embed_positions.weight",
    [SL_ROLE_PROJECT_IN] = "project_in.weight",
    [SL_ROLE_PROJECT_OUT] = "project_out.weight",
    [SL_ROLE_HEAD] = "lm_head.weight",
    [SL_ROLE_ATTN_NORM_GAIN] = "self_attn_layer_norm.weight",
    [SL_ROLE_ATTN_NORM_BIAS] = "self_attn_layer_norm.bias",
    [SL_ROLE_Q_BIAS] = "self_attn.q_proj.bias",
    [SL_ROLE_K_BIAS] = "self_attn.k_proj.bias",
    [SL_ROLE_V_BIAS] = "self_attn.v_proj.bias",
    [SL_ROLE_O_BIAS] = "self_attn.out_proj.bias",
    [SL_ROLE_MLP_NORM_GAIN] = "final_layer_norm.weight",
    [SL_ROLE_MLP_NORM_BIAS] = "final_layer_norm.bias",
    [SL_ROLE_UP_BIAS] = "fc1.bias",
    [SL_ROLE_DOWN_BIAS] = "fc2.bias",
    [SL_ROLE_FINAL_NORM_GAIN] = "final_layer_norm.weight",
    [SL_ROLE_FINAL_NORM_BIAS] = "final_layer_norm.bias",
};

/* Llama and its descendants. */
static const char *const llama_names[SL_ROLE_COUNT] = {
    [SL_ROLE_Q] = "self_attn.q_proj.weight",
    [SL_ROLE_K] = "self_attn.k_proj.weight",
    [SL_ROLE_V] = "self_attn.v_proj.weight",
    [SL_ROLE_O] = "self_attn.o_proj.weight",
    [SL_ROLE_GATE] = "mlp.gate_proj.weight",
    [SL_ROLE_UP] = "mlp.up_proj.weight",
    [SL_ROLE_DOWN] = "mlp.down_proj.weight",
    [SL_ROLE_TOKEN_EMBED] = "embed_tokens.weight",
    [SL_ROLE_HEAD] = "lm_head.weight",
    [SL_ROLE_ATTN_NORM_GAIN] = "input_layernorm.weight",
    [SL_ROLE_Q_BIAS] = "self_attn.q_proj.bias",
    [SL_ROLE_K_BIAS] = "self_attn.k_proj.bias",
    [SL_ROLE_V_BIAS] = "self_attn.v_proj.bias",
    [SL_ROLE_O_BIAS] = "self_attn.o_proj.bias",
    [SL_ROLE_Q_NORM_GAIN] = "self_attn.q_norm.weight",
    [SL_ROLE_K_NORM_GAIN] = "self_attn.k_norm.weight",
    [SL_ROLE_MLP_NORM_GAIN] = "post_attention_layernorm.weight",
    [SL_ROLE_GATE_BIAS] = "mlp.gate_proj.bias",
    [SL_ROLE_UP_BIAS] = "mlp.up_proj.bias",
    [SL_ROLE_DOWN_BIAS] = "mlp.down_proj.bias",
    [SL_ROLE_FINAL_NORM_GAIN] = "norm.weight",
};

/* GGUF has one vocabulary of names for all architectures. */
static const char *const gguf_names[SL_ROLE_COUNT] = {
    [SL_ROLE_Q] = "attn_q.weight",
    [SL_ROLE_K] = "attn_k.weight",
    [SL_ROLE_V] = "attn_v.weight",
    [SL_ROLE_O] = "attn_output.weight",
    [SL_ROLE_GATE] = "ffn_gate.weight",
    [SL_ROLE_UP] = "ffn_up.weight",
    [SL_ROLE_DOWN] = "ffn_down.weight",
    [SL_ROLE_TOKEN_EMBED] = "token_embd.weight",
    [SL_ROLE_POS_EMBED] = "position_embd.weight",
    [SL_ROLE_HEAD] = "output.weight",
    [SL_ROLE_ATTN_NORM_GAIN] = "attn_norm.weight",
    [SL_ROLE_ATTN_NORM_BIAS] = "attn_norm.bias",
    [SL_ROLE_Q_BIAS] = "attn_q.bias",
    [SL_ROLE_K_BIAS] = "attn_k.bias",
    [SL_ROLE_V_BIAS] = "attn_v.bias",
    [SL_ROLE_O_BIAS] = "attn_output.bias",
    [SL_ROLE_Q_NORM_GAIN] = "attn_q_norm.weight",
    [SL_ROLE_K_NORM_GAIN] = "attn_k_norm.weight",
    [SL_ROLE_MLP_NORM_GAIN] = "ffn_norm.weight",
    [SL_ROLE_MLP_NORM_BIAS] = "ffn_norm.bias",
    [SL_ROLE_GATE_BIAS] = "ffn_gate.bias",
    [SL_ROLE_UP_BIAS] = "ffn_up.bias",
    [SL_ROLE_DOWN_BIAS] = "ffn_down.bias",
    [SL_ROLE_FINAL_NORM_GAIN] = "output_norm.weight",
    [SL_ROLE_FINAL_NORM_BIAS] = "output_norm.bias",
};

static const char *const opt_prefixes[] = {"model.decoder.", "decoder.", "model.", "", NULL};
static const char *const llama_prefixes[] = {"model.", "", NULL};

/* What Llama, Mistral, Qwen2 and Qwen3 have in common. */
#define LLAMA_FAMILY                                                                               \
    .norm = SL_NORM_RMS, .positions = SL_POSITIONS_ROPE, .gated_mlp = 1, .pre_norm = {NULL, 1},    \
    .norm_affine = {NULL, 1}, .tied_head = {"tie_word_embeddings", 0},                             \
    .n_layers = {"num_hidden_layers", 32}, .hidden = {"hidden_size", 4096},                        \
    .n_heads = {"num_attention_heads", 32}, .embed_dim = {NULL, SL_DERIVED},                       \
    .eps_key = "rms_norm_eps", .eps = 1e-6f, .act_key = "hidden_act", .act = SL_ACT_SILU,          \
    .pad_id = -1, .prefixes = llama_prefixes, .hf_names = llama_names

static const sl_arch architectures[] = {
    {
        .name = "opt",
        .hf_class = "OPT",
        .norm = SL_NORM_LAYER,
        .positions = SL_POSITIONS_LEARNED,
        .position_offset = 2,
        .qkv_bias = {"enable_bias", 1},
        .o_bias = {"enable_bias", 1},
        .mlp_bias = {"enable_bias", 1},
        .pre_norm = {"do_layer_norm_before", 1},
        .no_final_norm = {"_remove_final_layer_norm", 0},
        .norm_affine = {"layer_norm_elementwise_affine", 1},
        .tied_head = {"tie_word_embeddings", 1},
        .n_layers = {"num_hidden_layers", 12},
        .hidden = {"hidden_size", 768},
        .n_heads = {"num_attention_heads", 12},
        .ffn = {"ffn_dim", 3072},
        .vocab = {"vocab_size", 50272},
        .max_positions = {"max_position_embeddings", 2048},
        .n_kv_heads = {NULL, SL_DERIVED},
        .head_dim = {NULL, SL_DERIVED},
        .embed_dim = {"word_embed_proj_dim", SL_DERIVED},
        .eps = 1e-5f,
        .act_key = "activation_function",
        .act = SL_ACT_RELU,
        .bos_id = 2,
        .pad_id = 1,
        .eos_id = 2,
        .prefixes = opt_prefixes,
        .hf_names = opt_names,
    },
    {
        LLAMA_FAMILY,
        .name = "llama",
        .hf_class = "Llama",
        .qkv_bias = {"attention_bias", 0},
        .o_bias = {"attention_bias", 0},
        .mlp_bias = {"mlp_bias", 0},
        .ffn = {"intermediate_size", 11008},
        .vocab = {"vocab_size", 32000},
        .max_positions = {"max_position_embeddings", 2048},
        .n_kv_heads = {"num_key_value_heads", SL_DERIVED},
        .head_dim = {"head_dim", SL_DERIVED},
        .bos_id = 1,
        .eos_id = 2,
        .gguf_name = "llama",
        .gguf_interleaves_qk = 1,
        .gguf_rope_freqs = "rope_freqs.weight",
    },
    {
        LLAMA_FAMILY,
        .name = "mistral",
        .hf_class = "Mistral",
        .window = SL_WINDOW_ALL,
        .ffn = {"intermediate_size", 14336},
        .vocab = {"vocab_size", 32000},
        .max_positions = {"max_position_embeddings", 131072},
        .n_kv_heads = {"num_key_value_heads", 8},
        .head_dim = {"head_dim", SL_DERIVED},
        .sliding_window = {"sliding_window", 4096},
        .bos_id = 1,
        .eos_id = 2,
    },
    {
        LLAMA_FAMILY,
        .name = "qwen2",
        .hf_class = "Qwen2",
        .window = SL_WINDOW_SWITCH,
        .qkv_bias = {NULL, 1},
        .ffn = {"intermediate_size", 22016},
        .vocab = {"vocab_size", 151936},
        .max_positions = {"max_position_embeddings", 32768},
        .n_kv_heads = {"num_key_value_heads", 32},
        .head_dim = {"head_dim", SL_DERIVED},
        .sliding_window = {"sliding_window", 4096},
        .bos_id = -1,
        .eos_id = -1,
        .gguf_name = "qwen2",
    },
    {
        LLAMA_FAMILY,
        .name = "qwen3",
        .hf_class = "Qwen3",
        .qk_norm = 1,
        .window = SL_WINDOW_SWITCH,
        .qkv_bias = {"attention_bias", 0},
        .o_bias = {"attention_bias", 0},
        .ffn = {"intermediate_size", 22016},
        .vocab = {"vocab_size", 151936},
        .max_positions = {"max_position_embeddings", 32768},
        .n_kv_heads = {"num_key_value_heads", 32},
        .head_dim = {"head_dim", 128},
        .sliding_window = {"sliding_window", 4096},
        .bos_id = -1,
        .eos_id = -1,
        .gguf_name = "qwen3",
    },
};

enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

const sl_arch *sl_arch_find(const char *model_type) {
    for (int i = 0; i < N_ARCHITECTURES; i++)
        if (strcmp(architectures[i].name, model_type) == 0) return &architectures[i];
    return NULL;
}

int sl_arch_is_class(const sl_arch *arch, const char *name) {
    const size_t n = strlen(arch->hf_class);
    if (strncmp(name, arch->hf_class, n) != 0) return 0;
    return strcmp(name + n, "ForCausalLM") == 0 || strcmp(name + n, "Model") == 0;
}

const sl_arch *sl_arch_find_class(const char *hf_class) {
    for (int i = 0; i < N_ARCHITECTURES; i++)
        if (sl_arch_is_class(&architectures[i], hf_class)) return &architectures[i];
    return NULL;
}

const sl_arch *sl_arch_find_gguf(const char *architecture) {
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        const char *name = architectures[i].gguf_name;
        if (name && strcmp(name, architecture) == 0) return &architectures[i];
    }
    return NULL;
}

const char *sl_arch_list(int gguf, char *buf, size_t buf_bytes) {
    size_t used = 0;
    if (buf_bytes > 0) buf[0] = '\0';
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        const char *name = gguf ? architectures[i].gguf_name : architectures[i].name;
        if (!name || used >= buf_bytes) continue;
        const int n = snprintf(buf + used, buf_bytes - used, "%s%s", used > 0 ? ", " : "", name);
        if (n > 0) used += (size_t)n;
    }
    return buf;
}

void sl_arch_init_config(const sl_arch *arch, sl_model_config *out) {
    memset(out, 0, sizeof *out);
    snprintf(out->arch, sizeof out->arch, "%s", arch->name);
    out->norm = arch->norm;
    out->norm_place = SL_NORM_PRE;
    out->norm_eps = arch->eps;
    out->norm_affine = 1;
    out->norm_bias = arch->norm == SL_NORM_LAYER;
    out->final_norm = 1;
    out->positions = arch->positions;
    out->position_offset = arch->position_offset;
    out->rope.theta = 10000.0f;
    out->rope.scaling = SL_ROPE_PLAIN;
    out->rope.factor = 1.0f;
    out->qkv_bias = arch->qkv_bias.fallback;
    out->o_bias = arch->o_bias.fallback;
    out->mlp_bias = arch->mlp_bias.fallback;
    out->qk_norm = arch->qk_norm;
    out->gated_mlp = arch->gated_mlp;
    out->act = arch->act;
    out->tied_head = arch->tied_head.fallback;
    out->bos_id = -1;
    out->pad_id = -1;
}

static sl_status check_fits(int written, size_t buf_bytes, sl_role role) {
    if (written < 0 || (size_t)written >= buf_bytes)
        return SL_FAIL(SL_ERR_FORMAT, "name of tensor %s is %d characters long, expected below %zu",
                       sl_role_name(role), written, buf_bytes);
    return SL_OK;
}

sl_status sl_arch_hf_name(const sl_arch *arch, const char *prefix, int layer, sl_role role,
                          char *buf, size_t buf_bytes) {
    const char *name = arch->hf_names[role];
    if (!name)
        return SL_FAIL(SL_ERR_FORMAT, "architecture %s has no tensor for %s", arch->name,
                       sl_role_name(role));
    int n;
    if (sl_role_place(role) == SL_PLACE_DECODER)
        n = snprintf(buf, buf_bytes, "%slayers.%d.%s", prefix, layer, name);
    else /* the head stands outside of the model's body */
        n = snprintf(buf, buf_bytes, "%s%s", role == SL_ROLE_HEAD ? "" : prefix, name);
    return check_fits(n, buf_bytes, role);
}

sl_status sl_arch_gguf_name(int layer, sl_role role, char *buf, size_t buf_bytes) {
    const char *name = gguf_names[role];
    if (!name) return SL_FAIL(SL_ERR_FORMAT, "GGUF has no tensor for %s", sl_role_name(role));
    int n;
    if (sl_role_place(role) == SL_PLACE_DECODER)
        n = snprintf(buf, buf_bytes, "blk.%d.%s", layer, name);
    else
        n = snprintf(buf, buf_bytes, "%s", name);
    return check_fits(n, buf_bytes, role);
}
