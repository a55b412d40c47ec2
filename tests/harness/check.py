#!/usr/bin/env python3
"""Checks what lm-evaluation-harness measured, and asks with the OpenAI client.

Usage: check.py PORT KEY RESULTS TOKENIZER
"""
import json
import pathlib
import sys

import openai
from transformers import AutoTokenizer

port, key, results, tokenizer = sys.argv[1:]
scores = {}
for path in pathlib.Path(results).rglob("results*.json"):
    for task, values in json.loads(path.read_text())["results"].items():
        scores[task] = {k: v for k, v in values.items() if isinstance(v, (int, float))}
print(scores)
assert scores["sluice_loglikelihood"]["acc,none"] == 1, "the harness and the model disagree"
assert scores["sluice_generate"]["exact_match,strip"] > 0

url = f"http://127.0.0.1:{port}/v1"
client = openai.OpenAI(base_url=url, api_key=key)
assert [m.id for m in client.models.list()] == ["smol"]
completion = client.completions.create(model="smol", prompt="The capital of France is", max_tokens=3, temperature=0,
                                       logprobs=2)
choice = completion.choices[0]
assert choice.text.startswith(" Paris") and choice.finish_reason == "length", choice
assert choice.logprobs.token_logprobs[0] == max(choice.logprobs.top_logprobs[0].values())
assert completion.usage.completion_tokens == 3
pieces = client.completions.create(model="smol", prompt="The capital of France is", max_tokens=3, temperature=0,
                                   stream=True)
assert "".join(p.choices[0].text for p in pieces) == choice.text

# What the harness was given is what the client gets for the same prompt.
samples = [json.loads(line) for path in pathlib.Path(results).rglob("samples_sluice_generate*.jsonl")
           for line in path.read_text().split("\n") if line]
assert len(samples) == 3
for sample in samples:
    again = client.completions.create(model="smol", prompt=sample["doc"]["question"], max_tokens=8, temperature=0,
                                      stop=[".", "\n"], seed=1234)
    assert sample["resps"] == [[again.choices[0].text]], (sample["resps"], again.choices[0].text)

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
chat = client.chat.completions.create(model="smol", messages=messages, temperature=0, max_completion_tokens=20,
                                      logprobs=True, top_logprobs=1)
answer = chat.choices[0].message.content
assert "Paris" in answer, answer
assert len(chat.choices[0].logprobs.content) == chat.usage.completion_tokens
pieces = list(client.chat.completions.create(model="smol", messages=messages, temperature=0, max_completion_tokens=20,
                                             stream=True, stream_options={"include_usage": True}))
assert "".join(c.delta.content or "" for p in pieces for c in p.choices) == answer
assert pieces[-1].usage == chat.usage
# The prompt has as many tokens as the model's own tokenizer gives its template's text.
text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
assert chat.usage.prompt_tokens == len(AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"])

for make, wrong in ((lambda: client.completions.create(model="smol", prompt="x", temperature=-1),
                     openai.BadRequestError),
                    (lambda: client.completions.create(model="other", prompt="x"), openai.NotFoundError),
                    (lambda: openai.OpenAI(base_url=url, api_key="wrong").models.list(), openai.AuthenticationError)):
    try:
        make()
    except wrong as error:
        assert error.body["message"], error
    else:
        sys.exit(f"no {wrong.__name__}")
print("the harness and the OpenAI client are served")
