#!/usr/bin/env bash
# The number of ranks changes nothing: SmolLM2 through the program on 1, 2 and 3 ranks gives the same
# texts and ids, greedy and at temperature 0.8, and log-probabilities within 1e-5; so does another
# block shape.  Two runs alike are equal byte for byte, time stamps apart.  Greedy texts are golden.
# Usage: test_pipeline_same.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
. "$source/tests/e2e/model.sh"
results=$source/tests/e2e/results.py
golden=$source/tests/golden/smollm2/golden.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

python3 "$results" requests "$golden" >requests.jsonl || exit 1

# run RANKS OUTPUT OPTIONS...
run() {
    local ranks=$1 output=$2 status=0 start=()
    shift 2
    [ "$ranks" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$ranks")
    "${start[@]}" "$sluice" run --model "$model" --input requests.jsonl --output "$output" \
        --max-context 512 --threads 1 --seed 11 --quiet "$@" >log 2>&1 </dev/null || status=$?
    [ "$status" = 3 ] && return # four of the lines are malformed
    echo "FAILED: $ranks ranks: exit status $status instead of 3"
    tail -n 20 log
    exit 1
}
check() {
    "$@" || failures=$((failures + 1))
}

run 1 one.jsonl
run 2 two.jsonl
run 3 three.jsonl --layers 5,13,12
run 2 again.jsonl
run 2 shape.jsonl --micro-batch 3 --num-micro-batches 3 --max-rows 40
[ "$(wc -l <one.jsonl)" = "$(wc -l <requests.jsonl)" ] || check false

check python3 "$results" golden one.jsonl "$golden"
for other in two three shape; do
    check python3 "$results" same one.jsonl "$other.jsonl" 1e-5
done
for file in two again; do
    sed -E 's/"created": [0-9]+/"created": 0/' "$file.jsonl" >"$file.stamped"
done
if cmp two.stamped again.stamped; then
    echo "two runs on 2 ranks: $(wc -c <two.stamped) bytes the same"
else
    failures=$((failures + 1))
fi
[ "$failures" = 0 ] || echo "FAILED: $failures comparisons"
exit $((failures > 0))
