#!/usr/bin/env bash
# The jobs of launch/examples on the demo model: made, answered, scored.
# Usage: test_examples.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 examples=$2/launch/examples
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export PYTHONDONTWRITEBYTECODE=1
failures=0
fail() {
    echo "FAILED: $*"
    tail -c 1000 log
    failures=$((failures + 1))
}

# Scores tell right from wrong: results made of the right answers, of others, and of errors.
for job in wrangle helm; do
    (cd "$examples" && python3 - "$job" "$work") <<'P' >log 2>&1 || fail "scores of $job"
import importlib, io, json, os, sys
sys.argv, (name, work) = ["x"], sys.argv[1:]
caught = {}
import jobs
jobs.main = lambda tasks, max_tokens, usage: caught.update(tasks=tasks, max_tokens=max_tokens)
import runpy
runpy.run_path(name + ".py", run_name="__main__")
tasks = caught["tasks"]
assert all(len(items) >= 30 for items in tasks.values()), {k: len(v) for k, v in tasks.items()}

def results(answer):
    path = os.path.join(work, "made.jsonl")
    with open(path, "w", encoding="utf-8") as f:
        for task, items in reversed(tasks.items()):
            for i, (prompt, gold) in enumerate(items):
                text = answer(prompt, gold, i)
                body = {"choices": [{"text": text}]} if text is not None else {}
                f.write(json.dumps({"custom_id": f"{task}-{i}", "response": {
                    "status_code": 200 if text is not None else 400, "body": body}}) + "\n")
    return jobs.score(tasks, path, io.StringIO())

assert all(share == 1 for share in results(lambda p, gold, i: " " + gold).values())
assert all(share == 0 for share in results(lambda p, gold, i: "no such answer").values())
assert all(share == 0 for share in results(lambda p, gold, i: None).values())
for task, share in results(lambda p, gold, i: gold if i % 2 == 0 else None).items():
    assert abs(share - 0.5) < 0.05, (task, share)
for task, items in tasks.items():  # no prompt has its own answer in its question, and all begin alike
    assert len({p for p, _ in items}) > 0.9 * len(items), task
    assert len(os.path.commonprefix([p for p, _ in items])) > 100, task
P
done

model=
. "$2/tests/e2e/model.sh"
for job in wrangle helm; do
    "$examples/$job.py" make --limit 6 >requests.jsonl || fail "$job.py make"
    "$sluice" run --model "$model" --input requests.jsonl --output results.jsonl --overwrite --cpu-mem 2GiB \
        --max-context 1024 --metrics-json metrics.json >log 2>&1 || fail "$job"
    "$examples/$job.py" score results.jsonl >log 2>&1 || fail "$job.py score"
    cat log
    python3 - "$job" requests.jsonl results.jsonl metrics.json log <<'P' 2>>log || fail "the results of $job"
import json, sys
job, requests, results, metrics, table = sys.argv[1:]
ids = [json.loads(line)["custom_id"] for line in open(requests)]
assert [json.loads(line)["custom_id"] for line in open(results)] == ids
assert json.load(open(metrics))["prefix_hits_frac"] > 0.5, "examples are computed once"
exact = {line.split()[0]: float(line.split()[2].rstrip("%")) for line in open(table).read().split("\n")[1:] if line}
assert len(exact) == len({i.rsplit("-", 1)[0] for i in ids}), exact
if job == "helm":
    assert exact["capital"] >= 50 and exact["continent"] >= 50, exact
P
done
[ "$failures" = 0 ] || exit 1
echo "the examples run"
