#!/usr/bin/env python3
"""Writes rope.json: RoPE frequencies of HF transformers for configs of every supported kind.

Usage: make.py > rope.json        (transformers 5.23.0, torch 2.15.0)
Each entry holds a config.json and the inv_freq that HF computes from it, in float32.
"""
import json

from transformers import LlamaConfig, MistralConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

CLASSES = {
    "llama": (LlamaConfig, LlamaRotaryEmbedding),
    "mistral": (MistralConfig, MistralRotaryEmbedding),
    "qwen3": (Qwen3Config, Qwen3RotaryEmbedding),
}


def llama3(factor, original=8192):
    return {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original}


CASES = [
    ("plain", "llama", 128, {}),
    ("theta", "llama", 64, {"rope_theta": 100000.0}),
    ("theta in rope_parameters", "llama", 64,
     {"rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}),
    ("head_dim that is no power of two", "mistral", 80, {"rope_theta": 1000000.0}),
    ("odd number of pairs", "mistral", 6, {"rope_theta": 1000000.0}),
    ("large theta", "qwen3", 128, {"rope_theta": 5000000}),
    ("linear, old way", "llama", 64, {"rope_scaling": {"type": "linear", "factor": 2.5}}),
    ("linear, new way", "llama", 96,
     {"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 20000.0}}),
    ("llama 3.1", "llama", 128, {"rope_theta": 500000.0, "max_position_embeddings": 131072,
                                 "rope_scaling": {"rope_type": "llama3", **llama3(8.0)}}),
    ("llama 3.2", "llama", 64, {"max_position_embeddings": 131072,
                                "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0,
                                                    **llama3(32.0)}}),
    ("llama3 without original length", "llama", 64,
     {"max_position_embeddings": 256,
      "rope_scaling": {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0}}),
]

entries = []
for name, kind, head_dim, extra in CASES:
    config = {"model_type": kind, "hidden_size": 2 * head_dim, "num_attention_heads": 2,
              "num_key_value_heads": 1, "head_dim": head_dim, **extra}
    config_class, rope_class = CLASSES[kind]
    rope = rope_class(config_class.from_dict(json.loads(json.dumps(config))))
    assert rope.attention_scaling == 1.0
    entries.append({"name": name, "config": config, "inv_freq": rope.inv_freq.tolist()})
print("[" + ",\n".join(json.dumps(entry) for entry in entries) + "]")
