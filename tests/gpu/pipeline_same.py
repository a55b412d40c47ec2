"""Requests of token ids, all distinct and ragged, and the comparison of two runs' answers.

Usage: pipeline_same.py requests                write requests to standard output
       pipeline_same.py compare ONE OTHER      tokens must agree wherever the two best of ONE differ
                                               by more than MARGIN, log-probabilities within TOLERANCE
"""
import json
import random
import sys

N_REQUESTS, N_TOKENS, MARGIN, TOLERANCE = 30, 16, 0.05, 0.025


def write_requests():
    choose = random.Random(5)
    for i in range(N_REQUESTS):
        prompt = [choose.randrange(3, 300) for _ in range(1 + 3 * i // 2)]
        body = {"prompt": prompt, "max_tokens": N_TOKENS, "temperature": 0, "logprobs": 2}
        print(json.dumps({"custom_id": "r%d" % i, "method": "POST", "url": "/v1/completions",
                          "body": body}))


def read(path):
    answers = {}
    for line in open(path):
        answer = json.loads(line)
        logprobs = answer["response"]["body"]["choices"][0]["logprobs"]
        answers[answer["custom_id"]] = list(zip(logprobs["tokens"], logprobs["token_logprobs"],
                                                logprobs["top_logprobs"]))
    return answers


def compare(one, other):
    one, other = read(one), read(other)
    assert len(one) == N_REQUESTS and one.keys() == other.keys(), "not the same requests"
    n = n_parted = 0
    largest = 0.0
    for name in one:
        for a, b in zip(one[name], other[name]):
            best = sorted(a[2].values(), reverse=True)
            if a[0] != b[0]:
                assert best[0] - best[1] <= MARGIN, "%s: %s instead of %s" % (name, b, a)
                n_parted += 1
                break
            off = abs(a[1] - b[1])
            assert off <= TOLERANCE, "%s: log-probability off by %g" % (name, off)
            largest = max(largest, off)
            n += 1
    assert n > N_REQUESTS * N_TOKENS * 3 // 4, "only %d tokens compared" % n
    print("%d tokens the same, %d requests part at narrow choices, log-probabilities within %.2g"
          % (n, n_parted, largest))


if sys.argv[1] == "requests":
    write_requests()
else:
    compare(*sys.argv[2:4])
