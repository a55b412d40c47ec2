#!/usr/bin/env python3
"""500 requests of all lengths, a dozen of them malformed, and the check of their results.

make_stress.py model FOLDER TOKENIZER_JSON    a tiny random Llama with that tokenizer
make_stress.py requests VOCAB                 the requests, for a model of that vocabulary
make_stress.py check REQUESTS RESULTS         every line answered once, and rightly
Standard library only; everything comes from one seed.
"""
import json
import math
import os
import random
import re
import shutil
import struct
import sys

N_REQUESTS = 500
MAX_PROMPT, MAX_TOKENS = 1500, 200
CONTEXT = 2048
N_WARM_UP = 64  # the longest come first, so that memory reaches its peak early
HERE = os.path.dirname(os.path.abspath(__file__))

# Each is answered by an error that names its line.
MALFORMED = [
    b"{\"prompt\": \"no end",
    b"plain words between the requests",
    b"[1, 2, 3]",
    b"{\"max_tokens\": 5}",
    b"{\"prompt\": \"\xff\xfe\", \"max_tokens\": 5}",
    b"{\"prompt\": [], \"max_tokens\": 5}",
    b"{\"prompt\": [1, -7], \"max_tokens\": 5}",
    b"{\"prompt\": [1, 99999999], \"max_tokens\": 5}",
    b"{\"prompt\": \"x\", \"max_tokens\": \"five\"}",
    b"{\"prompt\": \"x\", \"temperature\": -1}",
    b"{\"prompt\": \"x\", \"n\": 0}",
    b"{\"prompt\": \"x\", \"max_tokens\": 1000000}",
]

WORDS = """the a harbour lamp keeper wrote counted every evening ship passed wind from west sea calm
engineer asked why had not said book things that change one day to next steps painted number tenth
daughter winter ice broke rope bell fog answered nobody knew letter arrived late with stamp of city
where it never rains and bread costs little if you pay in coins""".split()


def write_model(folder, tokenizer):
    """Weights with random bits of our own: f16 safetensors, hidden 64, 4 layers."""
    os.makedirs(folder, exist_ok=True)
    shutil.copy(tokenizer, os.path.join(folder, "tokenizer.json"))
    with open(tokenizer, encoding="utf-8") as f:
        vocab = json.load(f)
    top = max(list(vocab["model"]["vocab"].values()) + [a["id"] for a in vocab["added_tokens"]])
    n_vocab, hidden, ffn, kv, layers = top + 1, 64, 128, 32, 4
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": n_vocab,
              "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
              "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
              "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "tie_word_embeddings": False, "bos_token_id": top, "eos_token_id": top}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    shapes = {"model.embed_tokens.weight": (n_vocab, hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (n_vocab, hidden)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes.update({
            p + "self_attn.q_proj.weight": (hidden, hidden),
            p + "self_attn.k_proj.weight": (kv, hidden),
            p + "self_attn.v_proj.weight": (kv, hidden),
            p + "self_attn.o_proj.weight": (hidden, hidden),
            p + "mlp.gate_proj.weight": (ffn, hidden),
            p + "mlp.up_proj.weight": (ffn, hidden),
            p + "mlp.down_proj.weight": (hidden, ffn),
            p + "input_layernorm.weight": (hidden,),
            p + "post_attention_layernorm.weight": (hidden,),
        })
    rng = random.Random(4)
    header, data = {}, []
    at = 0
    for name, shape in shapes.items():
        n = math.prod(shape)
        if len(shape) == 1:
            values = [rng.uniform(0.6, 1.4) for _ in range(n)]
        else:  # uniform with a deviation of 1/sqrt(inputs), more for the head
            width = (4.0 if name.startswith("lm_head") else 1.7) / math.sqrt(shape[1])
            if name.startswith("model.embed"):
                width = 1.7
            values = [rng.uniform(-width, width) for _ in range(n)]
        data.append(struct.pack(f"<{n}e", *values))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + 2 * n]}
        at += 2 * n
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    print(n_vocab)


def between(rng, low, high):
    """Log-uniform: many short ones, some as long as can be."""
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))


def one_request(rng, i, pool, n_prompt, max_tokens):
    body = {"id": f"request-{i}", "max_tokens": max_tokens, "return_token_ids": True}
    if rng.random() < 0.2:
        body["prompt"] = " ".join(rng.choice(WORDS) for _ in range(min(n_prompt, 300)))
    else:  # real text, cut and joined; the first id keeps the prompts distinct
        ids = []
        while len(ids) < n_prompt:
            at = rng.randrange(len(pool))
            ids += pool[at : at + rng.randrange(5, 60)]
        body["prompt"] = [ids[0]] + ids[1:n_prompt]
    kind = rng.random()
    if kind < 0.5:
        body["temperature"] = 0
    else:
        body.update(temperature=round(rng.uniform(0.3, 1.2), 2), top_p=0.95, seed=i)
    if kind > 0.9:
        body["n"] = 2
    if kind < 0.15:
        body["stop"] = rng.choice([["e"], [" the", "\n"], "a", ["er", "on", ". "]])
    if 0.4 < kind < 0.6:
        body["ignore_eos"] = True
    if 0.2 < kind < 0.3:
        body.update(logprobs=3, echo=True)
    if rng.random() < 0.05:
        body.update(max_tokens=0, echo=True, logprobs=1)
    return body


def print_requests(vocab):
    golden = os.path.join(HERE, "..", "golden", "smollm2", "golden.json")
    with open(golden, encoding="utf-8") as f:
        cases = json.load(f)["cases"]
    # Ids of real text under SmolLM2's own vocabulary; elsewhere they are ids like any others.
    pool = [t if t < vocab else t % (vocab - 1) for c in cases for t in c["prompt_ids"] + c["ids"]
            if t > 2]
    rng = random.Random(500)
    n_good = N_REQUESTS - len(MALFORMED)
    lengths = [(between(rng, 1, MAX_PROMPT), between(rng, 1, MAX_TOKENS)) for _ in range(n_good - 4)]
    lengths += [(1, 1), (1, MAX_TOKENS), (MAX_PROMPT, 1), (MAX_PROMPT, MAX_TOKENS)]
    lengths.sort(key=lambda x: -(x[0] + x[1]))
    rest = lengths[N_WARM_UP:]
    rng.shuffle(rest)
    lines = [json.dumps(one_request(rng, i, pool, *x)).encode()
             for i, x in enumerate(lengths[:N_WARM_UP] + rest)]
    for bad in MALFORMED:
        lines.insert(rng.randrange(1, len(lines)), bad)
    lines.insert(len(lines) // 2, b"")  # a blank line is no request
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")


def check_answer(request, result):
    """What is wrong with the answer to a good request, or None."""
    response = result["response"]
    if result["error"] is not None or response["status_code"] != 200:
        return f"refused: {json.dumps(result)[:200]}"
    body = response["body"]
    n = request.get("n", 1)
    if len(body["choices"]) != n:
        return f"{len(body['choices'])} choices instead of {n}"
    if isinstance(request["prompt"], list) and \
            body["usage"]["prompt_tokens"] != len(request["prompt"]):
        return f"{body['usage']['prompt_tokens']} prompt tokens"
    stops = request.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    total = 0
    for choice in body["choices"]:
        ids, text = choice["token_ids"], choice["text"]
        total += len(ids)
        if isinstance(request["prompt"], list) and choice["prompt_token_ids"] != request["prompt"]:
            return "another prompt came back"
        if choice["finish_reason"] == "length" and len(ids) != request["max_tokens"]:
            return f"ended after {len(ids)} tokens for its length, {request['max_tokens']} wanted"
        if len(ids) > request["max_tokens"]:
            return f"{len(ids)} tokens, {request['max_tokens']} wanted"
        if choice["finish_reason"] not in ("stop", "length"):
            return f"finish_reason {choice['finish_reason']}"
        if not request.get("echo") and any(s in text for s in stops):
            return f"its text has a stop string: {text[:80]!r}"
        if "logprobs" in request:
            wanted = len(ids) + (body["usage"]["prompt_tokens"] if request.get("echo") else 0)
            got = choice["logprobs"]["token_logprobs"]
            if len(got) != wanted:
                return f"{len(got)} log-probabilities instead of {wanted}"
            if any(x is None or not x <= 0 for x in got[1:]):
                return "a log-probability is missing or above 0"
    if body["usage"]["completion_tokens"] != total:
        return f"usage says {body['usage']['completion_tokens']} tokens, there are {total}"
    return None


def check(requests_path, results_path):
    with open(requests_path, "rb") as f:
        lines = f.read().split(b"\n")
    with open(results_path, encoding="utf-8") as f:
        results = [json.loads(line) for line in f]
    by_id, bad = {}, []
    for r in results:
        by_id.setdefault(r["custom_id"], []).append(r)
    expected, stopped = 0, 0
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        expected += 1
        if line in MALFORMED:
            answers = by_id.get(f"line-{number}", [])
            codes = [a["response"]["status_code"] for a in answers]
            texts = [a["response"]["body"]["error"]["message"] for a in answers if codes == [400]]
            if codes != [400] or not re.search(rf"\bline {number}\b", texts[0]):
                bad.append(f"line {number}, malformed: {codes} {texts}")
            continue
        request = json.loads(line)
        answers = by_id.get(request["id"], [])
        wrong = f"{len(answers)} answers" if len(answers) != 1 else check_answer(request, answers[0])
        if wrong:
            bad.append(f"line {number}: {wrong}")
        elif "stop" in request:
            stopped += answers[0]["response"]["body"]["choices"][0]["finish_reason"] == "stop"
    if len(results) != expected:
        bad.append(f"{len(results)} results for {expected} lines")
    if stopped < 10:
        bad.append(f"only {stopped} requests met their stop string: the test has lost its bite")
    tokens = sum(r["response"]["body"]["usage"]["completion_tokens"] for r in results
                 if r["response"]["status_code"] == 200)
    print(f"{expected} lines, {len(results)} results, {len(bad)} wrong; {len(MALFORMED)} malformed, "
          f"{stopped} ended by a stop string, {tokens} tokens generated")
    for text in bad[:10]:
        print("  " + text)
    return not bad


def main():
    command, *args = sys.argv[1:] or [""]
    if command == "model":
        write_model(*args)
    elif command == "requests":
        print_requests(int(args[0]))
    elif command == "check":
        return 0 if check(*args) else 1
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
