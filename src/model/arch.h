/* arch.h - the table of architectures: everything that is known of one by its name.
 *
 * A new architecture is a new entry of the table in arch.c.  An entry says what the decoder is made
 * of, under which keys a config.json gives its sizes with which defaults, and what its tensors are
 * called.  No other file asks for an architecture's name.
 * Layer: model.  May include: base.  Thread safety: constant data.
 * Source: the configuration and modeling files of HF transformers 5; gguf-py's tensor names.
 */
#ifndef SL_MODEL_ARCH_H
#define SL_MODEL_ARCH_H

#include <stddef.h>

#include "base/status.h"
#include "model/config.h"
#include "model/source.h"

/* A yes/no property: read from `key` of config.json, `fallback` when the key is missing.
 * key NULL: always `fallback`. */
typedef struct {
    const char *key;
    int fallback;
} sl_arch_flag;

/* A size: the same for integers. */
typedef struct {
    const char *key;
    int fallback;
} sl_arch_size;

/* How config.json says which layers attend through a sliding window. */
typedef enum {
    SL_WINDOW_NONE,  /* no such thing */
    SL_WINDOW_ALL,   /* sliding_window holds for every layer (Mistral) */
    SL_WINDOW_SWITCH /* use_sliding_window, from layer max_window_layers on (Qwen) */
} sl_arch_window;

enum { SL_DERIVED = 0 }; /* a size's fallback that is computed from other sizes */

typedef struct {
    const char *name;     /* model_type of config.json, sl_model_config.arch */
    const char *hf_class; /* the part of the class names before "ForCausalLM" and "Model" */

    sl_norm_kind norm;
    sl_position_kind positions;
    int position_offset;
    int gated_mlp;
    int qk_norm;
    sl_arch_window window;

    sl_arch_flag qkv_bias, o_bias, mlp_bias;
    sl_arch_flag pre_norm;      /* 0: post-norm, which has no final norm either */
    sl_arch_flag no_final_norm; /* 1: the final norm was left out */
    sl_arch_flag norm_affine;
    sl_arch_flag tied_head;

    sl_arch_size n_layers, hidden, n_heads, ffn, vocab, max_positions;
    sl_arch_size n_kv_heads; /* derived: n_heads */
    sl_arch_size head_dim;   /* derived: hidden / n_heads */
    sl_arch_size embed_dim;  /* derived: hidden */
    sl_arch_size sliding_window;
    const char *eps_key; /* NULL: `eps` always */
    float eps;
    const char *act_key;
    sl_activation act;
    int bos_id, pad_id, eos_id; /* -1: none */

    const char *const *prefixes; /* what may stand before HF names, NULL-terminated */
    const char *const *hf_names; /* [SL_ROLE_COUNT], NULL where the role does not occur */

    const char *gguf_name;       /* general.architecture; NULL: GGUF knows no such architecture */
    int gguf_interleaves_qk;     /* 1: GGUF stores the rotary halves of Q and K interleaved */
    const char *gguf_rope_freqs; /* tensor of frequency divisors; NULL: not used */
} sl_arch;

/* NULL if there is none of that name. */
const sl_arch *sl_arch_find(const char *model_type);
/* By an entry of config.json's "architectures", such as "LlamaForCausalLM". */
const sl_arch *sl_arch_find_class(const char *hf_class);
const sl_arch *sl_arch_find_gguf(const char *architecture);

/* 1 if `name` is the class of a causal language model of this architecture, or of its bare body. */
int sl_arch_is_class(const sl_arch *arch, const char *name);

/* "opt, llama, mistral, ...": the supported names, into buf; returns buf. */
const char *sl_arch_list(int gguf, char *buf, size_t buf_bytes);

/* The fields of *out that the architecture alone decides. */
void sl_arch_init_config(const sl_arch *arch, sl_model_config *out);

/* Writes the tensor's name.  `prefix` is one of arch->prefixes.
 * Errors: SL_ERR_FORMAT when the architecture has no tensor of that role or the name is too long.
 */
sl_status sl_arch_hf_name(const sl_arch *arch, const char *prefix, int layer, sl_role role,
                          char *buf, size_t buf_bytes);
sl_status sl_arch_gguf_name(int layer, sl_role role, char *buf, size_t buf_bytes);

#endif
