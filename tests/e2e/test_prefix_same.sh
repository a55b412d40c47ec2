#!/usr/bin/env bash
# Prompts that begin in the same way, computed once or for each of them, in mixed sweeps or in two
# phases, on 1 to 4 ranks, in other company: SmolLM2 gives the same texts and ids, greedy and seeded,
# and log-probabilities within 1e-5.  A run that is killed and gone on with gives them too.
# Usage: test_prefix_same.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
. "$source/tests/e2e/model.sh"
results=$source/tests/e2e/results.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

# Three texts with questions about each, in turn; what is alone; the same prompt twice, once with
# more choices; scores of prompts with a beginning in common.
python3 >requests.jsonl <<'PY'
import json
texts = ["The keeper of the lighthouse wrote down the weather every morning, and in the evening he "
         "read what his father had written on the same day forty years before. " * 2,
         "A list of fruit and their colours: apples are red, bananas are yellow, plums are blue, "
         "limes are green, and an orange is orange. " * 2,
         "Once upon a time there was a very small village between two hills. " * 2]
asks = ["Question: who wrote it? Answer:", "And then"]
bodies = []
for a in asks:
    for i, t in enumerate(texts):
        bodies.append({"prompt": t + a, "max_tokens": 10, "temperature": 0, "logprobs": 2})
        bodies.append({"prompt": t + a, "max_tokens": 8, "temperature": 0.8, "seed": i, "n": 2})
bodies.append({"prompt": "Nothing in common with the others", "max_tokens": 12, "temperature": 0})
for a in asks + asks[:1]:
    bodies.append({"prompt": texts[0] + a, "max_tokens": 0, "echo": True, "logprobs": 1})
    bodies.append({"prompt": texts[1] + a, "max_tokens": 1, "echo": True, "logprobs": 3, "temperature": 0})
for i, body in enumerate(bodies):
    print(json.dumps({"custom_id": "r%d" % i, "method": "POST", "url": "/v1/completions", "body": body}))
PY

# run RANKS OUTPUT OPTIONS...
run() {
    local ranks=$1 output=$2 start=()
    shift 2
    [ "$ranks" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$ranks")
    "${start[@]}" "$sluice" run --model "$model" --input requests.jsonl --output "$output.jsonl" \
        --max-context 256 --threads 1 --seed 11 --quiet --metrics-json "$output.metrics" "$@" \
        >log 2>&1 </dev/null && return
    echo "FAILED: $output on $ranks ranks"
    tail -n 20 log
    exit 1
}
hits() { # OUTPUT LEAST MOST: tokens that were shared
    python3 - "$1" "$2" "$3" <<'PY' || failures=$((failures + 1))
import json, sys
m = json.load(open(sys.argv[1] + ".metrics"))
n, all = m["n_shared_tokens"], m["n_admitted_tokens"]
print("%s: %d of %d prompt tokens shared, %d computed" % (sys.argv[1], n, all, m["n_prefill_rows"]))
sys.exit(not (int(sys.argv[2]) <= n <= int(sys.argv[3]) and n + m["n_prefill_rows"] == all))
PY
}

run 1 alone --no-prefix-sharing
hits alone 0 0
run 1 shared
hits shared 500 100000
run 1 phases --two-phase
run 1 few --micro-batch 2 --num-micro-batches 2 --max-rows 24
hits few 400 100000
run 2 two
hits two 500 100000
run 3 three --micro-batch 3 --num-micro-batches 2 --max-rows 40
run 4 four --order finish
hits four 400 100000
python3 "$results" sort alone.jsonl >alone.sorted
for other in shared phases few two three four; do
    python3 "$results" sort "$other.jsonl" >"$other.sorted"
    python3 "$results" same alone.sorted "$other.sorted" 1e-5 || failures=$((failures + 1))
done

# Killed after a few results, and gone on with.
"$sluice" run --model "$model" --input requests.jsonl --output killed.jsonl --max-context 256 \
    --threads 1 --seed 11 --quiet --micro-batch 2 --order finish >log 2>&1 </dev/null &
pid=$!
for _ in $(seq 600); do
    [ -s killed.jsonl ] && break
    sleep 0.05
done
kill -9 "$pid"
wait "$pid" 2>/dev/null
before=$(wc -l <killed.jsonl)
run 1 killed --order finish
echo "killed after $before results"
python3 "$results" sort killed.jsonl >killed.sorted
python3 "$results" same alone.sorted killed.sorted 1e-5 || failures=$((failures + 1))
[ "$(wc -l <killed.jsonl)" = "$(wc -l <requests.jsonl)" ] || failures=$((failures + 1))
[ "$failures" = 0 ] || echo "FAILED: $failures comparisons"
exit $((failures > 0))
