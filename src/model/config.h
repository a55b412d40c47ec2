/* config.h - what a decoder model is made of, whatever file it came from.
 *
 * One struct describes every supported architecture; code that computes looks at these fields and
 * never at an architecture's name.  The table that fills them is in arch.c.
 * Layer: model.  May include: base.  Thread safety: plain data, immutable once made.
 */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SL_MAX_HEAD_DIM = 512,
    SL_MAX_EOS = 8,
};

typedef enum { SL_NORM_LAYER, SL_NORM_RMS } sl_norm_kind;

/* PRE: norm, sublayer, residual.  POST: sublayer, residual, norm (opt-350m). */
typedef enum { SL_NORM_PRE, SL_NORM_POST } sl_norm_place;

typedef enum { SL_POSITIONS_LEARNED, SL_POSITIONS_ROPE } sl_position_kind;

/* GELU is the exact (erf) form, GELU_TANH its tanh approximation, SILU is x*sigmoid(x). */
typedef enum { SL_ACT_RELU, SL_ACT_GELU, SL_ACT_GELU_TANH, SL_ACT_SILU } sl_activation;

typedef enum { SL_ROPE_PLAIN, SL_ROPE_LINEAR, SL_ROPE_LLAMA3 } sl_rope_scaling;

/* Rotary embedding, half-split layout: element i of a head is paired with i + head_dim/2. */
typedef struct {
    float theta;
    sl_rope_scaling scaling;
    float factor;           /* LINEAR, LLAMA3 */
    float low_freq_factor;  /* LLAMA3 */
    float high_freq_factor; /* LLAMA3 */
    int original_positions; /* LLAMA3: context before scaling */
    int n_divisors;         /* 0, or head_dim/2: the frequencies are divided by divisor[] (GGUF) */
    float divisor[SL_MAX_HEAD_DIM / 2];
} sl_rope;

typedef struct {
    char arch[32]; /* the field's name: "opt", "llama", "mistral", "qwen2", "qwen3" */
    int n_layers;
    int hidden;     /* width of the residual stream */
    int embed_dim;  /* width of token embeddings; != hidden means project_in and project_out */
    int n_heads;    /* query heads */
    int n_kv_heads; /* key/value heads; divides n_heads */
    int head_dim;
    int ffn;           /* inner width of the MLP */
    int vocab;         /* rows of the embedding and of the head */
    int max_positions; /* longest context, tokens */

    sl_norm_kind norm;
    sl_norm_place norm_place;
    float norm_eps;
    int norm_bias;   /* 1: norms have a bias vector (LayerNorm) */
    int norm_affine; /* 1: norms have gain (and bias); 0: layer_norm_elementwise_affine false */
    int final_norm;  /* 1: a norm before the head */

    sl_position_kind positions;
    int position_offset; /* LEARNED: row of position 0 in the table (OPT: 2) */
    sl_rope rope;        /* ROPE */

    int qkv_bias, o_bias, mlp_bias; /* 1: the matrices have bias vectors */
    int qk_norm;                    /* 1: RMSNorm over head_dim on q and k before RoPE (Qwen3) */
    int sliding_window;             /* keys that a token sees, itself included; 0: all */

    int gated_mlp; /* 1: down(act(gate(x)) * up(x)); 0: down(act(up(x))) */
    sl_activation act;
    int tied_head; /* 1: the head is the token embedding */

    int bos_id; /* -1: none; so too where the file names an id outside of the vocabulary */
    int pad_id; /* -1: none */
    int n_eos;  /* ids outside of the vocabulary are left out: the model cannot produce them */
    int eos_id[SL_MAX_EOS];
} sl_model_config;

/* Checks that the fields are positive, consistent and small enough that no product of two of them
 * overflows an int64.  Errors: SL_ERR_FORMAT naming `where`, the field and its value. */
sl_status sl_config_check(const sl_model_config *config, const char *where);

/* Parses the text of an HF config.json (`where` names it in errors).
 * Unknown architectures and unsupported options are SL_ERR_FORMAT, by name. */
sl_status sl_config_parse_json(const char *text, size_t bytes, const char *where,
                               sl_model_config *out);

/* Adds the end-of-sequence ids of an HF generation_config.json to the config's; nothing else of
 * that file matters here.  Errors: SL_ERR_FORMAT; *config is unchanged then. */
sl_status sl_config_merge_generation(const char *text, size_t bytes, const char *where,
                                     sl_model_config *config);

/* The published OPT family by name: "opt-125m" ... "opt-175b", "galactica-125m" ... .
 * Errors: SL_ERR_ARG naming the text and listing the known names. */
sl_status sl_config_named(const char *name, sl_model_config *out);

/* inv_freq[i], i < head_dim/2: the angle per position of rotary pair i, scaling applied.
 * Source: Su et al. 2021 (RoPE); Llama 3.1's frequency scaling as in HF transformers. */
void sl_rope_frequencies(const sl_model_config *config, float *inv_freq);

/* Bytes of keys and values of one token in one layer, at `elem_bytes` per element. */
static inline size_t sl_kv_token_bytes(const sl_model_config *c, size_t elem_bytes) {
    return (size_t)2 * (size_t)c->n_kv_heads * (size_t)c->head_dim * elem_bytes;
}

#ifdef __cplusplus
}
#endif
#endif
