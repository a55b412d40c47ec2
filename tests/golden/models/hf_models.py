"""Tiny HF folders, one per architecture and per way of writing it down."""
import json
import os

import torch
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig, MistralConfig, OPTConfig, Qwen2Config, Qwen3Config

from oracle import randomise, write_golden


def opt(**kw):
    base = dict(vocab_size=272, max_position_embeddings=160, dropout=0.0, attention_dropout=0.0)
    return OPTConfig(**{**base, **kw})


def llama_like(cls, **kw):
    base = dict(vocab_size=256, max_position_embeddings=256, tie_word_embeddings=False)
    return cls(**{**base, **kw})


# name: (config, dtype of the file, how it is saved, edit of config.json)
def models():
    return {
        # Pre-norm OPT, as the 125m and all the large sizes.
        "opt": (
            opt(hidden_size=48, num_attention_heads=4, num_hidden_layers=4, ffn_dim=112,
                word_embed_proj_dim=48),
            torch.float16, save_safetensors, None,
        ),
        # As opt-350m: norm after the residual, projections round the layers, no final norm.  Written
        # as the published files are: names without "model.", the tied head a second time.
        "opt-350m": (
            opt(hidden_size=64, num_attention_heads=4, num_hidden_layers=4, ffn_dim=96,
                word_embed_proj_dim=32, do_layer_norm_before=False),
            torch.float16, save_torch_opt, None,
        ),
        # As Galactica: GELU, no biases in the matrices.
        "galactica": (
            opt(hidden_size=40, num_attention_heads=5, num_hidden_layers=3, ffn_dim=96,
                word_embed_proj_dim=40, activation_function="gelu", enable_bias=False),
            torch.bfloat16, save_safetensors, None,
        ),
        # Norms without gain and bias.
        "opt-flat-norms": (
            opt(hidden_size=36, num_attention_heads=3, num_hidden_layers=3, ffn_dim=64,
                word_embed_proj_dim=36, layer_norm_elementwise_affine=False),
            torch.float32, save_safetensors, None,
        ),
        # Grouped heads, shards with an index, a head of its own.
        "llama-gqa": (
            llama_like(LlamaConfig, hidden_size=64, num_attention_heads=8, num_key_value_heads=2,
                       intermediate_size=120, num_hidden_layers=5, vocab_size=304),
            torch.float16, save_shards, None,
        ),
        # RoPE scaling of Llama 3.1, in the older spelling of config.json.
        "llama3": (
            llama_like(LlamaConfig, hidden_size=48, num_attention_heads=3, num_key_value_heads=1,
                       head_dim=16, intermediate_size=104, num_hidden_layers=4,
                       tie_word_embeddings=True,
                       rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                                        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                        "original_max_position_embeddings": 32}),
            torch.bfloat16, save_safetensors, old_rope,
        ),
        # The first Llama: as many key/value heads as heads, a config.json of its age, .bin shards.
        "llama1": (
            llama_like(LlamaConfig, hidden_size=40, num_attention_heads=4, intermediate_size=88,
                       num_hidden_layers=3, rms_norm_eps=1e-6),
            torch.float32, save_torch_shards, first_llama,
        ),
        # Linear RoPE scaling, biases on every matrix.
        "llama-biases": (
            llama_like(LlamaConfig, hidden_size=48, num_attention_heads=4, num_key_value_heads=2,
                       intermediate_size=72, num_hidden_layers=3, attention_bias=True, mlp_bias=True,
                       rope_parameters={"rope_type": "linear", "rope_theta": 10000.0,
                                        "factor": 2.0}),
            torch.float32, save_safetensors, old_rope,
        ),
        # Tied head, biases on q, k, v only.  As published: a window that use_sliding_window turns off.
        "qwen2": (
            llama_like(Qwen2Config, hidden_size=56, num_attention_heads=7, num_key_value_heads=1,
                       intermediate_size=96, num_hidden_layers=4, vocab_size=320,
                       tie_word_embeddings=True,
                       rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
            torch.bfloat16, save_safetensors, unused_window,
        ),
        # Heads wider than hidden / n_heads, norms on q and k.
        "qwen3": (
            llama_like(Qwen3Config, hidden_size=48, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=20, intermediate_size=80, num_hidden_layers=4,
                       rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
            torch.float16, save_safetensors, None,
        ),
        # head_dim set; a window shorter than the longer prompts.
        "mistral": (
            llama_like(MistralConfig, hidden_size=48, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=24, intermediate_size=80, num_hidden_layers=4, sliding_window=24),
            torch.float32, save_safetensors, None,
        ),
    }


def save_safetensors(model, folder):
    model.save_pretrained(folder)


def save_shards(model, folder):
    model.save_pretrained(folder, max_shard_size="80KB")
    assert os.path.exists(os.path.join(folder, "model.safetensors.index.json"))


def save_config(model, folder):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def save_torch_opt(model, folder):
    save_config(model, folder)
    state = model.state_dict()  # an OrderedDict with _metadata, as torch.save meets it in the wild
    for key in list(state):
        if key.startswith("model."):
            state[key[len("model.") :]] = state.pop(key)
    assert state["lm_head.weight"].data_ptr() == state["decoder.embed_tokens.weight"].data_ptr()
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))


def save_torch_shards(model, folder):
    save_config(model, folder)
    state = dict(model.state_dict())
    names, n = sorted(state), 3
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": {}}
    for i in range(n):
        file = f"pytorch_model-{i + 1:05d}-of-{n:05d}.bin"
        part = {k: state[k] for k in names[i::n]}
        torch.save(part, os.path.join(folder, file))
        index["weight_map"].update({k: file for k in part})
    with open(os.path.join(folder, "pytorch_model.bin.index.json"), "w") as f:
        json.dump(index, f, indent=1)


def old_rope(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")


def first_llama(config):
    for key in ("rope_parameters", "num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
        config.pop(key)
    config["torch_dtype"] = config.pop("dtype")


def unused_window(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["sliding_window"] = 16
    config["use_sliding_window"] = False
    config["max_window_layers"] = 2
    config.pop("layer_types", None)


def make(name, folder):
    config, dtype, save, edit = models()[name]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    save(randomise(model, name).to(dtype), folder)
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    if edit:
        path = os.path.join(folder, "config.json")
        with open(path, encoding="utf-8") as f:
            text = json.load(f)
        edit(text)
        with open(path, "w", encoding="utf-8") as f:
            f.write(json.dumps(text, indent=2, sort_keys=True) + "\n")
    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    for (key, a), b in zip(sorted(model.to(dtype).named_parameters()),
                           [p for _, p in sorted(loaded.named_parameters())]):
        assert torch.equal(a.float(), b), key  # the file holds what was made, to the bit
    write_golden(loaded.eval(), name, folder, ".")
