#!/usr/bin/env python3
"""Compares result files of `sluice run`.  Standard library only.

results.py requests GOLDEN          prints requests: the golden prompts greedily, some drawn, some scored
results.py same A B TOLERANCE       every line, text and id the same; log-probabilities within TOLERANCE
results.py alike A B TOLERANCE      the same ids by custom_id, with log-probabilities within TOLERANCE, or
                                    another way only at a choice narrower than twice of it
results.py sort RESULTS             prints the lines in the order of their custom_id
results.py golden RESULTS GOLDEN [TOLERANCE]
                                    greedy lines against golden continuations; log-probabilities
                                    within TOLERANCE, by default that of f16 pages
"""
import json
import sys


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def print_requests(golden):
    cases = json.load(open(golden, encoding="utf-8"))["cases"]
    for i, case in enumerate(cases):
        print(json.dumps({"id": f"greedy-{i}", "prompt": case["prompt"], "temperature": 0,
                          "max_tokens": 32, "logprobs": 2, "return_token_ids": True}))
        if i % 2 == 0:
            print(json.dumps({"id": f"drawn-{i}", "prompt": case["prompt"], "temperature": 0.8,
                              "max_tokens": 8 + i, "logprobs": 3, "return_token_ids": True,
                              "n": 1 + i % 3, "top_p": 0.95 if i % 4 else 1.0}))
        if i % 5 == 0:
            print(json.dumps({"id": f"scored-{i}", "prompt": case["prompt_ids"], "max_tokens": 0,
                              "echo": True, "logprobs": 1, "return_token_ids": True}))
            print('{"prompt": "no such field type", "max_tokens": "many"}')


def walk(a, b, path, tolerance, state):
    """Differences of two JSON values; numbers with a point may differ by the tolerance."""
    if isinstance(a, float) and isinstance(b, float):
        state["largest"] = max(state["largest"], abs(a - b))
        if not abs(a - b) <= tolerance:
            state["bad"].append(f"{path}: {a} and {b}")
    elif type(a) is not type(b):
        state["bad"].append(f"{path}: {a!r} and {b!r}")
    elif isinstance(a, dict):
        if list(a) != list(b):
            state["bad"].append(f"{path}: {list(a)} and {list(b)}")
        for key in a.keys() & b.keys():
            if key != "created":
                walk(a[key], b[key], f"{path}.{key}", tolerance, state)
    elif isinstance(a, list):
        if len(a) != len(b):
            state["bad"].append(f"{path}: {len(a)} and {len(b)} entries")
        for i, (x, y) in enumerate(zip(a, b)):
            walk(x, y, f"{path}[{i}]", tolerance, state)
    elif a != b:
        state["bad"].append(f"{path}: {a!r} and {b!r}")


def same(a, b, tolerance):
    state = {"bad": [], "largest": 0.0}
    walk(read_lines(a), read_lines(b), "line", tolerance, state)
    print(f"{a} and {b}: {len(state['bad'])} differences; log-probabilities differ by at most "
          f"{state['largest']:.1e}")
    for text in state["bad"][:10]:
        print("  " + text[:300])
    return not state["bad"]


def choices_by_id(path):
    answers = {}
    for r in read_lines(path):
        for choice in r["response"]["body"]["choices"]:
            answers[f"{r['custom_id']}/{choice['index']}"] = choice
    return answers


def alike(a, b, tolerance):
    one, other = choices_by_id(a), choices_by_id(b)
    bad, forks, n, largest = [], 0, 0, 0.0
    if one.keys() != other.keys():
        bad.append(f"{len(one)} and {len(other)} choices, not the same ones")
    for key in sorted(one.keys() & other.keys()):
        x, y = one[key], other[key]
        xs, ys = x["token_ids"], y["token_ids"]
        if len(xs) != len(ys):
            bad.append(f"{key}: {len(xs)} and {len(ys)} ids")
        for t, (i, k) in enumerate(zip(xs, ys)):
            p, q = x["logprobs"]["token_logprobs"][t], y["logprobs"]["token_logprobs"][t]
            if i == k:
                n += 1
                largest = max(largest, abs(p - q))
                if abs(p - q) > tolerance:
                    bad.append(f"{key}: token {t} has {p} and {q}")
                continue
            # Greedy: each took its best, so both were best within rounding.
            if abs(p - q) > 2 * tolerance:
                bad.append(f"{key}: token {t} is {i} ({p}) and {k} ({q})")
            forks += 1
            break
    print(f"{a} and {b}: {n} ids the same, {forks} of {len(one)} part at a narrow choice; "
          f"log-probabilities differ by at most {largest:.1e}, {len(bad)} differences")
    for text in bad[:10]:
        print("  " + text[:300])
    return not bad and n > 0 and forks <= len(one) // 4


# f16 pages move log-probabilities by this much; a choice with less than twice of it between the
# first and the second may go the other way (tests/unit/test_golden_smollm2.c).
PAGES_TOLERANCE = 2e-2


def against_golden(results, golden, tolerance=PAGES_TOLERANCE):
    tolerance = float(tolerance)
    cases = json.load(open(golden, encoding="utf-8"))["cases"]
    answers = {r["custom_id"]: r for r in read_lines(results)}
    bad, forks = [], 0
    for i, case in enumerate(cases):
        choice = answers[f"greedy-{i}"]["response"]["body"]["choices"][0]
        if choice["prompt_token_ids"] != case["prompt_ids"]:
            bad.append(f"greedy-{i}: prompt ids {choice['prompt_token_ids']}")
            continue
        wrong = next((t for t, (x, y) in enumerate(zip(choice["token_ids"], case["ids"])) if x != y),
                     None)
        if wrong is None:
            if choice["text"] != case["text"] or choice["finish_reason"] != case["finish"]:
                bad.append(f"greedy-{i}: {choice['text']!r}, golden {case['text']!r}")
            if len(choice["token_ids"]) != len(case["ids"]):
                bad.append(f"greedy-{i}: {len(choice['token_ids'])} ids")
            far = max(abs(x - y) for x, y in zip(choice["logprobs"]["token_logprobs"],
                                                  case["logprobs"]))
            if far > tolerance:
                bad.append(f"greedy-{i}: a log-probability is off by {far}")
        elif case["margins"][wrong] > 2 * tolerance:
            bad.append(f"greedy-{i}: token {wrong} with margin {case['margins'][wrong]}")
        else:
            forks += 1
    print(f"{results}: {len(cases)} continuations, {len(bad)} wrong, {forks} part at a narrow choice")
    for text in bad:
        print("  " + text[:300])
    return not bad and forks <= (2 if tolerance <= PAGES_TOLERANCE else 4)


def main():
    command, *args = sys.argv[1:]
    if command == "requests":
        print_requests(*args)
        return 0
    if command == "same":
        return 0 if same(args[0], args[1], float(args[2])) else 1
    if command == "alike":
        return 0 if alike(args[0], args[1], float(args[2])) else 1
    if command == "sort":
        for line in sorted(read_lines(args[0]), key=lambda r: r["custom_id"]):
            print(json.dumps(line))
        return 0
    if command == "golden":
        return 0 if against_golden(*args) else 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
