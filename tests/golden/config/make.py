#!/usr/bin/env python3
"""Writes config.json: what HF transformers makes of config.json files, defaults included.

Usage: make.py > config.json      (transformers 5.23.0)
Each entry holds a config.json and the fields of sl_model_config that follow from HF's reading of it.
"""
import json

from transformers import CONFIG_MAPPING

CASES = [
    ("opt defaults", {"model_type": "opt"}),
    ("llama defaults", {"model_type": "llama"}),
    ("mistral defaults", {"model_type": "mistral"}),
    ("qwen2 defaults", {"model_type": "qwen2"}),
    ("qwen3 defaults", {"model_type": "qwen3"}),
    ("opt-350m", {"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512,
                  "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096,
                  "do_layer_norm_before": False, "vocab_size": 50272}),
    ("galactica", {"model_type": "opt", "activation_function": "gelu", "enable_bias": False,
                   "layer_norm_elementwise_affine": True, "vocab_size": 50000,
                   "bos_token_id": 0}),
    ("opt without affine norms", {"model_type": "opt", "layer_norm_elementwise_affine": False}),
    ("opt without final norm", {"model_type": "opt", "_remove_final_layer_norm": True}),
    ("llama with grouped heads and biases",
     {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2,
      "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}),
    ("llama 3.1", {"model_type": "llama", "rope_theta": 500000.0, "vocab_size": 128256,
                   "max_position_embeddings": 131072, "num_key_value_heads": 8,
                   "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
                   "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 8192,
                                    "rope_type": "llama3"}}),
    ("smollm2", {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
                 "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
                 "rope_theta": 100000, "tie_word_embeddings": True, "vocab_size": 49152,
                 "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}),
    ("mistral with head_dim", {"model_type": "mistral", "hidden_size": 96, "num_attention_heads": 6,
                               "head_dim": 32, "sliding_window": None,
                               "num_key_value_heads": 2}),
    ("qwen2 tied", {"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14,
                    "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 1000000.0,
                    "bos_token_id": 151643, "eos_token_id": 151645, "use_sliding_window": False}),
    ("qwen2 with a window everywhere", {"model_type": "qwen2", "use_sliding_window": True,
                                        "sliding_window": 128, "max_window_layers": 0}),
    ("qwen2 with a window nowhere", {"model_type": "qwen2", "use_sliding_window": True,
                                     "sliding_window": 128, "max_window_layers": 32}),
    ("qwen3 with layer_types", {"model_type": "qwen3", "num_hidden_layers": 2,
                                "use_sliding_window": True, "sliding_window": 64,
                                "layer_types": ["sliding_attention", "sliding_attention"]}),
    ("qwen3 linear", {"model_type": "qwen3", "head_dim": 128, "attention_bias": True,
                      "rope_parameters": {"rope_type": "linear", "factor": 2.0,
                                          "rope_theta": 1000000}}),
]

ACTIVATIONS = {"relu": 0, "gelu": 1, "gelu_new": 2, "silu": 3}
SCALINGS = {"default": 0, "linear": 1, "llama3": 2}


def ids(value, vocab):
    values = value if isinstance(value, list) else [value]
    return [v for v in values if v is not None and 0 <= v < vocab]


def one_id(value, vocab):
    return next(iter(ids(value, vocab)), -1)


def fields(c):
    kind = c.model_type
    is_opt = kind == "opt"
    heads = c.num_attention_heads
    out = {
        "n_layers": c.num_hidden_layers,
        "hidden": c.hidden_size,
        "embed_dim": c.word_embed_proj_dim if is_opt else c.hidden_size,
        "n_heads": heads,
        "n_kv_heads": getattr(c, "num_key_value_heads", heads),
        "head_dim": getattr(c, "head_dim", None) or c.hidden_size // heads,
        "ffn": c.ffn_dim if is_opt else c.intermediate_size,
        "vocab": c.vocab_size,
        "max_positions": c.max_position_embeddings,
        "norm": 0 if is_opt else 1,
        "norm_place": int(is_opt and not c.do_layer_norm_before),
        "norm_affine": int(c.layer_norm_elementwise_affine) if is_opt else 1,
        "final_norm": int(c.do_layer_norm_before and not c._remove_final_layer_norm) if is_opt else 1,
        "positions": 0 if is_opt else 1,
        "position_offset": 2 if is_opt else 0,
        "qkv_bias": int(c.enable_bias if is_opt else
                        kind == "qwen2" or getattr(c, "attention_bias", False)),
        "o_bias": int(c.enable_bias if is_opt else getattr(c, "attention_bias", False)),
        "mlp_bias": int(c.enable_bias if is_opt else getattr(c, "mlp_bias", False)),
        "qk_norm": int(kind == "qwen3"),
        "gated_mlp": int(not is_opt),
        "act": ACTIVATIONS[c.activation_function if is_opt else c.hidden_act],
        "tied_head": int(c.tie_word_embeddings),
        "bos_id": one_id(c.bos_token_id, c.vocab_size),
        "pad_id": one_id(c.pad_token_id, c.vocab_size),
        "eos_id": ids(c.eos_token_id, c.vocab_size),
        "norm_eps": 1e-5 if is_opt else c.rms_norm_eps,
    }
    out["norm_bias"] = int(is_opt and c.layer_norm_elementwise_affine)
    window = getattr(c, "sliding_window", None)
    if kind in ("qwen2", "qwen3"):
        kinds = set(c.layer_types)
        assert len(kinds) == 1
        window = window if kinds == {"sliding_attention"} else None
    out["sliding_window"] = window if window and window < c.max_position_embeddings else 0
    if not is_opt:
        rope = c.rope_parameters
        out["rope_theta"] = rope["rope_theta"]
        out["rope_scaling"] = SCALINGS[rope["rope_type"]]
        for key in ("factor", "low_freq_factor", "high_freq_factor",
                    "original_max_position_embeddings"):
            if key in rope:
                out["rope_" + key] = rope[key]
    return out


entries = []
for name, config in CASES:
    cls = CONFIG_MAPPING[config["model_type"]]
    read = cls.from_dict(json.loads(json.dumps(config)))
    entries.append({"name": name, "config": config, "fields": fields(read)})
print("[" + ",\n".join(json.dumps(entry) for entry in entries) + "]")
