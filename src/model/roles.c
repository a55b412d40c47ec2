#include "model/roles.h"

static const struct {
    const char *name;
    sl_place place;
} roles[SL_ROLE_COUNT] = {
    [SL_ROLE_Q] = {"q", SL_PLACE_DECODER},
    [SL_ROLE_K] = {"k", SL_PLACE_DECODER},
    [SL_ROLE_V] = {"v", SL_PLACE_DECODER},
    [SL_ROLE_O] = {"o", SL_PLACE_DECODER},
    [SL_ROLE_GATE] = {"gate", SL_PLACE_DECODER},
    [SL_ROLE_UP] = {"up", SL_PLACE_DECODER},
    [SL_ROLE_DOWN] = {"down", SL_PLACE_DECODER},
    [SL_ROLE_TOKEN_EMBED] = {"token_embed", SL_PLACE_EMBED},
    [SL_ROLE_POS_EMBED] = {"pos_embed", SL_PLACE_EMBED},
    [SL_ROLE_PROJECT_IN] = {"project_in", SL_PLACE_EMBED},
    [SL_ROLE_PROJECT_OUT] = {"project_out", SL_PLACE_FINAL},
    [SL_ROLE_HEAD] = {"head", SL_PLACE_FINAL},
    [SL_ROLE_ATTN_NORM_GAIN] = {"attn_norm_gain", SL_PLACE_DECODER},
    [SL_ROLE_ATTN_NORM_BIAS] = {"attn_norm_bias", SL_PLACE_DECODER},
    [SL_ROLE_Q_BIAS] = {"q_bias", SL_PLACE_DECODER},
    [SL_ROLE_K_BIAS] = {"k_bias", SL_PLACE_DECODER},
    [SL_ROLE_V_BIAS] = {"v_bias", SL_PLACE_DECODER},
    [SL_ROLE_O_BIAS] = {"o_bias", SL_PLACE_DECODER},
    [SL_ROLE_Q_NORM_GAIN] = {"q_norm_gain", SL_PLACE_DECODER},
    [SL_ROLE_K_NORM_GAIN] = {"k_norm_gain", SL_PLACE_DECODER},
    [SL_ROLE_MLP_NORM_GAIN] = {"mlp_norm_gain", SL_PLACE_DECODER},
    [SL_ROLE_MLP_NORM_BIAS] = {"mlp_norm_bias", SL_PLACE_DECODER},
    [SL_ROLE_GATE_BIAS] = {"gate_bias", SL_PLACE_DECODER},
    [SL_ROLE_UP_BIAS] = {"up_bias", SL_PLACE_DECODER},
    [SL_ROLE_DOWN_BIAS] = {"down_bias", SL_PLACE_DECODER},
    [SL_ROLE_FINAL_NORM_GAIN] = {"final_norm_gain", SL_PLACE_FINAL},
    [SL_ROLE_FINAL_NORM_BIAS] = {"final_norm_bias", SL_PLACE_FINAL},
};

static int is_known(sl_role role) {
    return (int)role >= 0 && role < SL_ROLE_COUNT;
}

const char *sl_role_name(sl_role role) {
    return is_known(role) ? roles[role].name : "?";
}

sl_place sl_role_place(sl_role role) {
    return is_known(role) ? roles[role].place : SL_PLACE_DECODER;
}

sl_place sl_layer_place(const sl_model_config *config, int layer) {
    if (layer == SL_LAYER_EMBED) return SL_PLACE_EMBED;
    return layer >= config->n_layers ? SL_PLACE_FINAL : SL_PLACE_DECODER;
}

int sl_role_wanted(const sl_model_config *c, int layer, sl_role role) {
    if (!is_known(role) || layer < SL_LAYER_EMBED || layer > c->n_layers) return 0;
    if (roles[role].place != sl_layer_place(c, layer)) return 0;
    const int projects = c->embed_dim != c->hidden;
    switch (role) {
    case SL_ROLE_GATE:
        return c->gated_mlp;
    case SL_ROLE_POS_EMBED:
        return c->positions == SL_POSITIONS_LEARNED;
    case SL_ROLE_PROJECT_IN:
    case SL_ROLE_PROJECT_OUT:
        return projects;
    case SL_ROLE_ATTN_NORM_GAIN:
    case SL_ROLE_MLP_NORM_GAIN:
        return c->norm_affine;
    case SL_ROLE_ATTN_NORM_BIAS:
    case SL_ROLE_MLP_NORM_BIAS:
        return c->norm_affine && c->norm_bias;
    case SL_ROLE_FINAL_NORM_GAIN:
        return c->final_norm && c->norm_affine;
    case SL_ROLE_FINAL_NORM_BIAS:
        return c->final_norm && c->norm_affine && c->norm_bias;
    case SL_ROLE_Q_BIAS:
    case SL_ROLE_K_BIAS:
    case SL_ROLE_V_BIAS:
        return c->qkv_bias;
    case SL_ROLE_O_BIAS:
        return c->o_bias;
    case SL_ROLE_Q_NORM_GAIN:
    case SL_ROLE_K_NORM_GAIN:
        return c->qk_norm;
    case SL_ROLE_GATE_BIAS:
        return c->mlp_bias && c->gated_mlp;
    case SL_ROLE_UP_BIAS:
    case SL_ROLE_DOWN_BIAS:
        return c->mlp_bias;
    default:
        return 1;
    }
}

void sl_role_shape(const sl_model_config *c, sl_role role, int64_t *rows_out, int64_t *cols_out) {
    const int64_t q_width = (int64_t)c->n_heads * c->head_dim;
    const int64_t kv_width = (int64_t)c->n_kv_heads * c->head_dim;
    int64_t rows = 1, cols = c->hidden; /* what most vectors have */
    switch (role) {
    case SL_ROLE_Q:
        rows = q_width;
        break;
    case SL_ROLE_K:
    case SL_ROLE_V:
        rows = kv_width;
        break;
    case SL_ROLE_O:
        rows = c->hidden, cols = q_width;
        break;
    case SL_ROLE_GATE:
    case SL_ROLE_UP:
        rows = c->ffn;
        break;
    case SL_ROLE_DOWN:
        rows = c->hidden, cols = c->ffn;
        break;
    case SL_ROLE_TOKEN_EMBED:
    case SL_ROLE_HEAD:
        rows = c->vocab, cols = c->embed_dim;
        break;
    case SL_ROLE_POS_EMBED:
        rows = (int64_t)c->max_positions + c->position_offset;
        break;
    case SL_ROLE_PROJECT_IN:
        rows = c->hidden, cols = c->embed_dim;
        break;
    case SL_ROLE_PROJECT_OUT:
        rows = c->embed_dim;
        break;
    case SL_ROLE_Q_BIAS:
        cols = q_width;
        break;
    case SL_ROLE_K_BIAS:
    case SL_ROLE_V_BIAS:
        cols = kv_width;
        break;
    case SL_ROLE_Q_NORM_GAIN:
    case SL_ROLE_K_NORM_GAIN:
        cols = c->head_dim;
        break;
    case SL_ROLE_GATE_BIAS:
    case SL_ROLE_UP_BIAS:
        cols = c->ffn;
        break;
    default:
        break;
    }
    *rows_out = rows;
    *cols_out = cols;
}
