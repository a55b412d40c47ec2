#!/usr/bin/env python3
"""Makes golden.json: greedy continuations of SmolLM2-135M-Instruct by independent readers of its GGUF.

Usage: make.py SmolLM2-135M-Instruct.Q4_1.gguf [--second]

The oracle is HF transformers: it reads the file itself, dequantises every block to float32 and runs
in float32 with eager attention.  Before it is believed, the script compares each of its weights with
the `gguf` package's dequantisation (rotary permutation undone here, apart), and checks the tied head
and the rotary base.  Needs: torch transformers accelerate gguf numpy.

With --second the script only reads golden.json and asks llama.cpp (package xllamacpp, a virtual
environment of its own is enough) for the same continuations.  llama.cpp quantises activations to
8 bits, so its tokens may differ where the margin is small; the script prints where, and fails if one
differs at a margin above 0.35.
"""
import argparse
import hashlib
import json
import os
import sys

MAX_TOKENS = 32
EOS = 2  # <|im_end|>

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n"
)

STORY = (
    "The lighthouse keeper wrote one line in the book every evening. He wrote the direction of the "
    "wind, the height of the sea, and the name of any ship that had passed. In forty years he had "
    "never missed a day. When the new lamp came, a crate so heavy that six men carried it up the "
    "stairs, he looked at it for a long time and then wrote that the wind was from the west, the sea "
    "calm, and that no ship had passed. The engineer who came with the lamp asked him why he had not "
    "mentioned it. The keeper said that the book was for things that change from one day to the next, "
    "and that a lamp, once lit, ought to stay the same. The engineer laughed, but on the way down he "
    "counted the steps, and found that somebody had painted a small number on every tenth one. There "
    "were two hundred and seventeen steps. At the bottom he asked the keeper's daughter who had "
    "painted the numbers. She said:"
)

PROMPTS = [
    "The capital of France is",
    "Pure water boils at",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "1, 2, 3, 4, 5, 6, 7, 8, 9,",
    "Q: What is the largest planet in the Solar System?\nA:",
    "The four seasons are",
    "SELECT name, COUNT(*) FROM orders",
    "Translate to German: Good morning, my friends.\nGerman:",
    "Le chat est assis sur",
    "{\"name\": \"Ada Lovelace\", \"born\": 1815, \"occupation\":",
    "Monday, Tuesday, Wednesday,",
    "To make a cup of tea, first",
    CHAT % "What is the chemical symbol for gold?",
    CHAT % "Name three animals that live in the sea.",
    CHAT % "Describe autumn \U0001f341 in one sentence.",
    CHAT % "What is 7 times 8?",
    "She",
    STORY,
]


def load_oracle(path):
    import gguf
    import numpy
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    loaded = {k: v.numpy() for k, v in model.state_dict().items()}
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def same(hf_name, gguf_name, n_heads=0):
        t = stored[gguf_name + ".weight"]
        w = gguf.dequantize(t.data, t.tensor_type)
        if n_heads:  # rows of a head are stored as pairs (i, i + half); put the halves back
            half = w.shape[0] // n_heads // 2
            w = w.reshape(n_heads, half, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        assert numpy.array_equal(loaded[hf_name + ".weight"], w), hf_name

    same("model.embed_tokens", "token_embd")
    same("model.norm", "output_norm")
    for layer in range(model.config.num_hidden_layers):
        for ours, theirs in names.items():
            same(f"model.layers.{layer}.{ours}", f"blk.{layer}.{theirs}", heads.get(theirs, 0))
    assert "output.weight" not in stored
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.config.rope_parameters["rope_theta"] == 100000.0
    return tokenizer, model


def continue_greedily(model, prompt_ids):
    """Greedy by full recomputation: no cache of the oracle's own can be wrong."""
    import torch

    ids = list(prompt_ids)
    out = {"ids": [], "logprobs": [], "runner_up": [], "margins": []}
    with torch.no_grad():
        for step in range(MAX_TOKENS):
            logits = model(torch.tensor([ids])).logits[0]
            if step == 0:
                lp = torch.log_softmax(logits.double(), -1)
                scores = [lp[i, t].item() for i, t in enumerate(ids[1:])]
            lp = torch.log_softmax(logits[-1].double(), -1)
            best = lp.topk(2)
            out["ids"].append(int(best.indices[0]))
            out["logprobs"].append(best.values[0].item())
            out["runner_up"].append(int(best.indices[1]))
            out["margins"].append((best.values[0] - best.values[1]).item())
            ids.append(out["ids"][-1])
            if ids[-1] == EOS:
                break
    return [None] + scores, out


def rounded(values):
    return [None if v is None else float(f"{v:.9g}") for v in values]


def make(path, golden_path):
    import torch
    import transformers

    torch.set_num_threads(2)
    tokenizer, model = load_oracle(path)
    cases = []
    for prompt in PROMPTS:
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        scores, out = continue_greedily(model, prompt_ids)
        cases.append(
            {
                "prompt": prompt,
                "prompt_ids": prompt_ids,
                "prompt_logprobs": rounded(scores),
                "ids": out["ids"],
                "text": tokenizer.decode(out["ids"], skip_special_tokens=True),
                "finish": "stop" if out["ids"][-1] == EOS else "length",
                "logprobs": rounded(out["logprobs"]),
                "runner_up": out["runner_up"],
                "margins": rounded(out["margins"]),
            }
        )
        print(
            f"{len(prompt_ids):4d} + {len(out['ids']):2d} tokens, smallest margin "
            f"{min(out['margins']):.4f}: {cases[-1]['text']!r}",
            flush=True,
        )
    digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
    head = {
        "made_by": "tests/golden/smollm2/make.py",
        "oracle": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "gguf_sha256": digest,
        "max_tokens": MAX_TOKENS,
        "stop_ids": [EOS],
        "smallest_margin": float(f"{min(min(c['margins']) for c in cases):.6g}"),
    }
    with open(golden_path, "w", encoding="utf-8") as f:
        lines = ",\n".join("  " + json.dumps(c) for c in cases)
        f.write(json.dumps(head)[:-1] + ',\n "cases": [\n' + lines + "\n]}\n")
    print(f"smallest margin of all: {head['smallest_margin']}")


def second_opinion(path, golden_path):
    import xllamacpp

    golden = json.load(open(golden_path, encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = 1
    params.n_ctx = 2048
    server = xllamacpp.Server(params)
    n_same, bad = 0, 0
    for case in golden["cases"]:
        answer = server.handle_completions(
            {
                "prompt": case["prompt_ids"],
                "max_tokens": golden["max_tokens"],
                "temperature": 0.0,
                "return_tokens": True,
                "n_probs": 2,
                "cache_prompt": False,
            }
        )
        probs = answer["choices"][0]["logprobs"]["content"]
        ids = [p["id"] for p in probs]
        ours = case["ids"][: len(ids)] if case["finish"] == "stop" else case["ids"]
        wrong = next((i for i, (a, b) in enumerate(zip(ids, ours)) if a != b), None)
        if wrong is None:
            n_same += 1
            print(f"same {len(ids):2d} tokens: {case['prompt'][-40:]!r}")
        else:
            margin = case["margins"][wrong]
            bad += margin > 0.35
            print(f"step {wrong} differs, margin {margin:.4f}: {case['prompt'][-40:]!r}")
    print(f"{n_same} of {len(golden['cases'])} continuations are the same; {bad} differ at a wide margin")
    return 1 if bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--second", action="store_true")
    args = parser.parse_args()
    golden_file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.json")
    if args.second:
        sys.exit(second_opinion(args.gguf, golden_file))
    make(args.gguf, golden_file)
