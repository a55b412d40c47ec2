#!/usr/bin/env python3
"""Makes the files in this folder: small checkpoints as torch, safetensors and gguf write them, and
blocks of every quantised format with the values that the gguf package gives them.

Usage: make.py FOLDER.  Needs torch, safetensors, gguf, numpy.  Tensors hold ramps that are exact in
every dtype, so that the tests know their values without another file.
"""
import collections
import struct
import sys

import gguf
import numpy as np
import safetensors.torch
import torch

OUT = sys.argv[1]


def ramp(*shape, start=0.0, step=0.25, dtype=torch.float32):
    n = int(np.prod(shape)) if shape else 1
    return (torch.arange(n, dtype=torch.float32) * step + start).reshape(shape).to(dtype)


def torch_files():
    tied = ramp(6, 4, start=-3)
    state = collections.OrderedDict(
        f32=ramp(3, 5, start=1),
        f16=ramp(2, 3, 4, start=-2, dtype=torch.float16),
        bf16=ramp(7, start=0, step=0.5, dtype=torch.bfloat16),
        integers=torch.arange(5),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        tied=tied,
        tied_again=tied,
        view=tied[2:4],
        parameter=torch.nn.Parameter(ramp(2, 2, start=8)),
        column=ramp(4, 1).t(),
    )
    torch.save(state, f"{OUT}/state.bin")
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    with torch.no_grad():
        module[0].weight.copy_(ramp(3, 4, start=5))
        module[0].bias.copy_(ramp(3, start=-1))
    torch.save(module.state_dict(), f"{OUT}/module_state.bin")
    torch.save(module, f"{OUT}/whole_module.bin")
    torch.save({"w": ramp(3, 4).t()}, f"{OUT}/transposed.bin")
    torch.save({"w": ramp(3, 4), "epoch": 3}, f"{OUT}/with_number.bin")
    torch.save({"w": ramp(3, 4).double()}, f"{OUT}/double.bin")
    torch.save(state, f"{OUT}/legacy.bin", _use_new_zipfile_serialization=False)


def safetensors_file():
    safetensors.torch.save_file(
        {
            "f32": ramp(3, 5, start=1),
            "f16": ramp(2, 3, 4, start=-2, dtype=torch.float16),
            "bf16": ramp(7, step=0.5, dtype=torch.bfloat16),
            "integers": torch.arange(5),
            "scalar": torch.tensor(2.5),
        },
        f"{OUT}/written.safetensors",
        metadata={"format": "pt"},
    )


def gguf_file():
    w = gguf.GGUFWriter(f"{OUT}/written.gguf", "llama")
    w.add_block_count(3)
    w.add_layer_norm_rms_eps(0.5)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(["a", "é", "", "Ġword"])
    w.add_token_scores([0.5, -1.0, 2.0, 3.0])
    w.add_token_types([1, 2, 3, -4])
    w.add_add_bos_token(True)
    w.add_custom_alignment(64)
    w.add_tensor("f32", ramp(3, 5, start=1).numpy())
    w.add_tensor("f16", ramp(2, 3, 4, start=-2).numpy().astype(np.float16))
    rows = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 64)
    w.add_tensor("q8", gguf.quantize(rows, gguf.GGMLQuantizationType.Q8_0),
                 raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# Name, blocks, bytes of the block, offsets of its f16 numbers.
FORMATS = [
    ("Q4_0", 12, 18, [0]), ("Q4_1", 12, 20, [0, 2]), ("Q5_0", 12, 22, [0]), ("Q5_1", 12, 24, [0, 2]),
    ("Q8_0", 12, 34, [0]), ("Q4_K", 4, 144, [0, 2]), ("Q5_K", 4, 176, [0, 2]), ("Q6_K", 4, 210, [208]),
]


def quant_file():
    """Records: name (8 bytes), u32 elements, u32 bytes, the blocks, the values as f32."""
    rng = np.random.default_rng(20240607)
    with open(f"{OUT}/quant.bin", "wb") as f:
        for name, n, size, halves in FORMATS:
            blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
            for at in halves:
                # Of every magnitude, subnormals and zero among them; NaN and infinity make no model.
                scale = rng.standard_normal(n) * np.exp2(rng.integers(-20, 8, n))
                scale[0] = 0.0 if at == halves[0] else scale[0]
                scale[1] = 2.0**-24
                blocks[:, at:at + 2] = scale.astype(np.float16).view(np.uint8).reshape(n, 2)
            kind = gguf.GGMLQuantizationType[name]
            y = gguf.dequantize(blocks.reshape(1, -1), kind).astype(np.float32).reshape(-1)
            assert np.isfinite(y).all()
            f.write(struct.pack("<8sII", name.encode(), y.size, blocks.size))
            f.write(blocks.tobytes())
            f.write(y.tobytes())


torch.manual_seed(0)
torch_files()
safetensors_file()
gguf_file()
quant_file()
