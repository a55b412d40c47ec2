"""Random weights for tiny models, and what HF transformers says about them in float32."""
import copy
import json
import os
import zlib

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

# Ragged, around the page size of 32 tokens: 31 fills its page with the first generated token, 32
# fills it with the prompt, 70 spans three pages.
PROMPT_TOKENS = (1, 2, 7, 31, 32, 33, 70)
MAX_TOKENS = 20
# Greedy choices are decided by at least this much log-probability, so that float16 pages (tolerance
# 2e-2 each way) must give the same tokens too.
MIN_MARGIN = 5e-2
# Rounding keys and values to float16 in the oracle itself moves no log-probability further than this:
# half of what the tests allow for float16 pages.
MAX_F16_ERROR = 1e-2
FIRST_ID = 3  # 0..2 are pad, bos and eos in most configs; nothing treats them specially here


def seed_of(text):
    return zlib.crc32(text.encode())


def randomise(model, name, logit_scale=2.5):
    """Weights that keep activations near 1 and logits spread, so that no fault stays hidden: norm
    gains and all biases are random too (HF starts them at 1 and 0)."""
    gen = torch.Generator().manual_seed(seed_of(name))
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            z = torch.randn(p.shape, generator=gen)
            if "embed_positions" in key:
                p.copy_(0.3 * z)
            elif "embed_tokens" in key:
                p.copy_(z * (logit_scale / p.shape[1] ** 0.5 if tied else 1.0))
            elif "lm_head" in key:
                p.copy_(z * logit_scale / p.shape[1] ** 0.5)
            elif p.dim() == 2:
                gain = 1.6 if ("q_proj" in key or "k_proj" in key) else 1.0
                p.copy_(z * gain / p.shape[1] ** 0.5)
            elif key.endswith("bias"):
                p.copy_(0.2 * z)
            else:
                p.copy_(0.6 + 0.8 * torch.rand(p.shape, generator=gen))
    return model


def attention_over_f16(module, query, key, value, mask, scaling, dropout=0.0, **kwargs):
    """Eager attention, but keys and values pass through float16 as through a page."""
    groups = query.shape[1] // key.shape[1]
    key = key.half().float().repeat_interleave(groups, 1)
    value = value.half().float().repeat_interleave(groups, 1)
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling + mask, -1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("f16_pages", attention_over_f16)
AttentionMaskInterface.register("f16_pages", eager_mask)


def forward(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def continue_greedily(model, prompt):
    """Full recomputation for every token: no cache of the oracle's own can be wrong."""
    ids, margins = list(prompt), []
    for _ in range(MAX_TOKENS):
        best = torch.log_softmax(forward(model, ids)[-1].double(), -1).topk(2)
        ids.append(int(best.indices[0]))
        margins.append((best.values[0] - best.values[1]).item())
    return ids[len(prompt) :], margins


def make_case(model, exact, rounded_kv, name, n_prompt):
    """One prompt whose continuation has no narrow choice: seeds are tried in order."""
    vocab = model.config.vocab_size
    for trial in range(500):
        gen = torch.Generator().manual_seed(seed_of(f"{name}/{n_prompt}/{trial}"))
        prompt = torch.randint(FIRST_ID, vocab, (n_prompt,), generator=gen).tolist()
        tokens, margins = continue_greedily(model, prompt)
        if min(margins) < MIN_MARGIN:
            continue
        ids = prompt + tokens
        scores = torch.log_softmax(forward(model, ids).double(), -1)
        best = scores[n_prompt - 1 : -1].topk(2)
        checked = torch.zeros_like(scores, dtype=torch.bool)
        checked[range(len(ids) - 1), ids[1:]] = True
        checked[range(n_prompt - 1, len(ids) - 1), best.indices[:, 1]] = True
        f16 = torch.log_softmax(forward(rounded_kv, ids).double(), -1)
        f16_error = (scores - f16)[checked].abs().max().item()
        if f16_error <= MAX_F16_ERROR:
            break
    else:
        raise RuntimeError(f"{name}: no prompt of {n_prompt} tokens is well conditioned")
    truth = torch.log_softmax(forward(exact, ids), -1)
    error = (scores - truth).abs().max().item()
    picked = [scores[i, t].item() for i, t in enumerate(ids[1:])]
    assert best.indices[:, 0].tolist() == tokens
    return error, f16_error, {
        "prompt": prompt,
        "prompt_logprobs": rounded([None] + picked[: n_prompt - 1]),
        "tokens": tokens,
        "logprobs": rounded(picked[n_prompt - 1 :]),
        "runner_up": best.indices[:, 1].tolist(),
        "runner_up_logprobs": rounded(best.values[:, 1].tolist()),
        "margins": rounded(margins),
    }


def rounded(values):
    return [None if v is None else float(f"{v:.9g}") for v in values]


def write_golden(model, name, folder, model_file):
    """Runs the oracle on `model` (float32) and writes folder/golden.json.  The same computation in
    float64 bounds the oracle's own rounding."""
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.config._attn_implementation == "eager"
    exact = copy.deepcopy(model).double()
    rounded_kv = copy.deepcopy(model)
    rounded_kv.set_attn_implementation("f16_pages")
    cases, error, f16_error = [], 0.0, 0.0
    for n_prompt in PROMPT_TOKENS:
        e, e16, case = make_case(model, exact, rounded_kv, name, n_prompt)
        error, f16_error = max(error, e), max(f16_error, e16)
        cases.append(case)
    assert error < 2e-4, f"{name}: float32 and float64 differ by {error}"
    narrowest = min(min(c["margins"]) for c in cases)
    head = {
        "model": model_file,
        "made_by": "tests/golden/models/make.py",
        "oracle": f"transformers {transformers.__version__}, torch {torch.__version__}, "
        "float32, eager attention",
        "n_layers": model.config.num_hidden_layers,
        "smallest_margin": float(f"{narrowest:.6g}"),
        "float32_error": float(f"{error:.2g}"),
        "float16_pages_error": float(f"{f16_error:.2g}"),
    }
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        lines = ",\n".join("  " + json.dumps(c) for c in cases)
        f.write(json.dumps(head)[:-1] + ',\n "cases": [\n' + lines + "\n]}\n")
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(
        f"{name:14s} margin >= {narrowest:.3f}, float32 error {error:.1e}, "
        f"float16 pages {f16_error:.1e}, {size // 1024} KiB"
    )
