"""Tiny GGUF files, written with the `gguf` package in llama.cpp's conventions."""
import os
import warnings

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType as T
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from oracle import randomise, seed_of, write_golden

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def rope(theta=10000.0, **kw):
    return {"rope_type": "default", "rope_theta": theta, **kw}


# name: (config, types by GGUF name, the first that matches; "" is the rest)
def models():
    common = dict(max_position_embeddings=256, num_hidden_layers=4, vocab_size=256)
    return {
        # Grouped heads, tied head (no output.weight), Q and K permuted.
        "gguf-llama": (
            LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                        intermediate_size=96, tie_word_embeddings=True, rope_parameters=rope(),
                        **common),
            {"token_embd": T.Q8_0, "blk.0.": T.F16, "ffn_down": T.Q8_0, "attn_v": T.Q5_0,
             "blk.1.": T.Q8_0, "": T.Q4_0},
        ),
        # Biases on q, k, v, which no one permutes for this architecture; a head of its own.
        "gguf-qwen2": (
            Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                        intermediate_size=96, tie_word_embeddings=False,
                        rope_parameters=rope(1000000.0), **common),
            {"token_embd": T.Q4_1, "output.": T.Q8_0, "blk.0.": T.BF16, "ffn_down": T.Q5_1,
             "blk.1.": T.F32, "attn_": T.Q4_1, "": T.Q5_1},
        ),
        "gguf-qwen3": (
            Qwen3Config(hidden_size=48, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
                        intermediate_size=80, tie_word_embeddings=False,
                        rope_parameters=rope(1000000.0), **{**common, "num_hidden_layers": 3}),
            {"": T.F16},
        ),
        # K-quants need rows of 256.  RoPE scaling comes as divisors in rope_freqs.weight.
        "gguf-llama3-k": (
            LlamaConfig(hidden_size=256, num_attention_heads=8, num_key_value_heads=2,
                        intermediate_size=256, tie_word_embeddings=False,
                        rope_parameters=rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                             high_freq_factor=4.0,
                                             original_max_position_embeddings=32),
                        **{**common, "num_hidden_layers": 2}),
            {"token_embd": T.Q6_K, "output.": T.Q6_K, "attn_v": T.Q6_K, "ffn_down": T.Q5_K,
             "attn_output": T.Q5_K, "": T.Q4_K},
        ),
    }


def gguf_name(key):
    stem, kind = key.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def permute(w, n_heads):
    """Rows of a head from halves (i, i + half) to pairs (2i, 2i + 1)."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, n_heads):
    return w.reshape(n_heads, w.shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def random_k_blocks(shape, kind, scale, rng):
    """Valid super-blocks of random bits (the package does not quantise to these types): every code,
    scale and minimum occurs.  d is set so that weights have a standard deviation near `scale`."""
    rows, blocks = shape[0], shape[1] // 256

    def bits(n):
        return rng.integers(0, 256, (rows, blocks, n), dtype=numpy.uint8)

    def halves(value):
        x = value * rng.uniform(0.7, 1.3, (rows, blocks, 1))
        return x.astype(numpy.float16).view(numpy.uint8)

    if kind == T.Q6_K:  # ql, qh, int8 scales, d
        parts = [bits(128), bits(64), bits(16), halves(scale / 1370)]
    else:  # d, dmin, 6-bit scales and minima, (high bits,) codes; dmin centres the codes
        d, middle, n = (scale / 240, 7.5, 128) if kind == T.Q4_K else (scale / 490, 15.5, 32 + 128)
        parts = [halves(d), halves(d * middle), bits(12), bits(n)]
    return numpy.concatenate(parts, axis=-1).reshape(rows, -1)


def rope_divisors(config):
    """What llama.cpp's converter stores for Llama 3.1: theta_i is divided by these."""
    p = config.rope_parameters
    dim = config.hidden_size // config.num_attention_heads
    freqs = p["rope_theta"] ** -(numpy.arange(0, dim, 2) / dim)
    low = p["original_max_position_embeddings"] / p["low_freq_factor"]
    high = p["original_max_position_embeddings"] / p["high_freq_factor"]
    out = []
    for wave in 2 * numpy.pi / freqs:
        if wave < high:
            out.append(1.0)
        elif wave > low:
            out.append(p["factor"])
        else:
            mix = (p["original_max_position_embeddings"] / wave - p["low_freq_factor"]) / (
                p["high_freq_factor"] - p["low_freq_factor"])
            out.append(1 / ((1 - mix) / p["factor"] + mix))
    return numpy.array(out, dtype=numpy.float32)


def write_file(path, name, config, model, types):
    arch = config.model_type
    w = gguf.GGUFWriter(path, arch)
    w.add_name(name)
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    if arch == "llama":
        w.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if arch == "qwen3":
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    rng = numpy.random.default_rng(seed_of(name))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    if config.rope_parameters["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", rope_divisors(config))
    for key, p in sorted(model.named_parameters()):
        target = gguf_name(key)
        x = p.detach().numpy()
        role = target.split(".")[-2]
        if arch == "llama" and role in heads and x.ndim == 2:
            x = permute(x, heads[role])
        kind = next(k for part, k in types.items() if part in target)
        if x.ndim == 1 or kind == T.F32:
            w.add_tensor(target, numpy.ascontiguousarray(x, dtype=numpy.float32))
        elif kind in (T.Q4_K, T.Q5_K, T.Q6_K):
            w.add_tensor(target, random_k_blocks(x.shape, kind, float(x.std()), rng), raw_dtype=kind)
        else:
            w.add_tensor(target, gguf.quantize(numpy.ascontiguousarray(x), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read_back(path, config, model):
    """The oracle's weights are those of the file, dequantised by the `gguf` package."""
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    with torch.no_grad():
        for key, p in model.named_parameters():
            t = tensors.pop(gguf_name(key))
            x = gguf.dequantize(t.data, t.tensor_type).reshape(p.shape)
            role = t.name.split(".")[-2]
            if config.model_type == "llama" and role in heads:
                x = unpermute(x, heads[role])
            p.copy_(torch.from_numpy(x.astype(numpy.float32)))
    assert set(tensors) <= {"rope_freqs.weight"}, tensors


def check_with_hf_reader(folder, config, model):
    """transformers reads the same file to the same weights: our conventions are its conventions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", config=config,
                                                     dtype=torch.float32)
    theirs = dict(other.named_parameters())
    for key, p in model.named_parameters():
        assert torch.equal(p, theirs[key]), key


def make(name, folder):
    config, types = models()[name]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32,
                                             attn_implementation="eager").eval()
    randomise(model, name)
    path = os.path.join(folder, "model.gguf")
    write_file(path, name, config, model, types)
    read_back(path, config, model)
    check_with_hf_reader(folder, config, model)
    write_golden(model, name, folder, "model.gguf")
