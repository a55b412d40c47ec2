"""What the examples share: requests as batch lines, and scores of results by exact match.

A task is a list of (prompt, answer); its prompts begin with the same examples, which Sluice computes
once.  Requests carry the task and a number in their custom_id, so that results can stand in any order.
"""
import collections
import json
import os
import re
import sys

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


def read_data(name):
    """The objects of a JSONL file beside this one."""
    with open(os.path.join(DATA, name), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def write_requests(tasks, max_tokens, limit, stream):
    """One batch line for each prompt: greedy, up to the end of the line."""
    for name, items in tasks.items():
        for i, (prompt, _) in enumerate(items[:limit]):
            body = {"prompt": prompt, "max_tokens": max_tokens[name], "temperature": 0, "stop": ["\n"]}
            line = {"custom_id": f"{name}-{i}", "method": "POST", "url": "/v1/completions", "body": body}
            stream.write(json.dumps(line) + "\n")


def normal(text):
    """Without case, articles, punctuation and double spaces, as HELM's quasi-exact match compares."""
    text = re.sub(r"\b(a|an|the)\b", " ", text.lower())
    return " ".join(re.sub(r"[^\w\s]", " ", text).split())


def read_answers(path):
    """{custom_id: text} of a results file; an error counts as no answer."""
    answers = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            result = json.loads(line)
            response = result.get("response") or {}
            ok = response.get("status_code") == 200
            if result["custom_id"] in answers:
                sys.exit(f"{path}: {result['custom_id']} is answered twice")
            answers[result["custom_id"]] = response["body"]["choices"][0]["text"] if ok else None
    return answers


def score(tasks, path, stream):
    """Prints how many answers are right, by task.  Returns {task: share of exact matches}."""
    answers, shares = read_answers(path), {}
    stream.write(f"{'task':<18}{'answers':>8}{'exact':>9}{'but for case, articles':>24}{'commonest answer':>18}\n")
    for name, items in tasks.items():
        pairs = [(answers[f"{name}-{i}"], gold) for i, (_, gold) in enumerate(items) if f"{name}-{i}" in answers]
        if not pairs:
            continue
        exact = sum(text is not None and text.strip() == gold for text, gold in pairs) / len(pairs)
        quasi = sum(text is not None and normal(text) == normal(gold) for text, gold in pairs) / len(pairs)
        # What somebody would reach who gives the same answer to everything.
        always = collections.Counter(gold for _, gold in pairs).most_common(1)[0][1] / len(pairs)
        stream.write(f"{name:<18}{len(pairs):>8}{exact:>9.1%}{quasi:>24.1%}{always:>18.1%}\n")
        shares[name] = exact
    if not shares:
        sys.exit(f"{path}: none of its answers is one of {', '.join(tasks)}")
    return shares


def main(tasks, max_tokens, usage):
    """make [--limit N] > REQUESTS.jsonl, or score RESULTS.jsonl."""
    words = sys.argv[1:]
    if words[:1] == ["make"] and (len(words) == 1 or (len(words) == 3 and words[1] == "--limit")):
        write_requests(tasks, max_tokens, int(words[2]) if len(words) == 3 else None, sys.stdout)
    elif words[:1] == ["score"] and len(words) == 2:
        score(tasks, words[1], sys.stdout)
    else:
        sys.exit(usage.strip())
