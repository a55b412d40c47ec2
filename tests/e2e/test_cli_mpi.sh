#!/usr/bin/env bash
# The program under mpirun: one voice, one outcome, the same results with any number of ranks.
# Usage: test_cli_mpi.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
command -v mpirun >/dev/null || {
    echo "skipped: no mpirun"
    exit 77
}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
model=dummy:$source/tests/golden/dummy/config.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    echo "  stdout: $(head -c 600 out)"
    echo "  stderr: $(head -c 1500 err)"
    failures=$((failures + 1))
}

# expect STATUS RANKS ARGUMENTS...
expect() {
    local wanted=$1 ranks=$2 status=0
    shift 2
    timeout 120 mpirun --oversubscribe --bind-to none -n "$ranks" "$sluice" "$@" >out 2>err \
        </dev/null || status=$?
    [ "$status" = "$wanted" ] || fail "exit status $status instead of $wanted: $ranks ranks, $*"
}
says_once() {
    [ "$(grep -cF -- "$2" "$1")" = 1 ] || fail "not once \"$2\" in $1"
}

# One rank speaks, all end with the same status.
expect 0 2 run --help
says_once out "Usage: sluice run"
expect 2 3 run --model "$model" --temprature 0
says_once err "did you mean --temperature?"
expect 1 2 run --model missing-model
says_once err "missing-model"
expect 1 2 run --model "$model" --input missing.jsonl
says_once err "missing.jsonl"
expect 0 2 inspect "$model"
says_once out "architecture"
expect 0 2 version
says_once out "sluice "

# A failure of the first rank alone ends the others.
echo '{"prompt": [1], "max_tokens": 3}' >one.jsonl
[ -e /dev/full ] && {
    expect 1 2 run --model "$model" --input one.jsonl --output /dev/full
    says_once err "No space left"
}

# More ranks than layers, and layers that do not add up, are refused.
expect 2 2 run --model "$model" --input one.jsonl --layers 3,2
says_once err "expected the model's 4 layers"
expect 2 2 run --model "$model" --input one.jsonl --layers 4
says_once err "expected one for each of 2 ranks"

# The same results with every number of ranks.
for i in $(seq 1 40); do
    echo "{\"id\": \"$i\", \"prompt\": [$i, $((i * 7 % 320)), 5], \"max_tokens\": $((1 + i % 9)), \"logprobs\": 2, \"n\": $((1 + i % 2)), \"temperature\": 0.$((i % 10))}"
    [ $((i % 13)) = 0 ] && echo "{broken"
done >job.jsonl
strip() { sed 's/"created": [0-9]*//' "$1"; }
for ranks in 1 2 3 4; do
    expect 3 $ranks run --model "$model" --input job.jsonl --output "$ranks.out" --threads 1 \
        --metrics-json m.json --trace t.json
    [ "$(wc -l <"$ranks.out")" = 43 ] || fail "$ranks ranks: $(wc -l <"$ranks.out") results of 43"
    [ "$(strip 1.out)" = "$(strip "$ranks.out")" ] || fail "$ranks ranks give other results than 1"
    python3 - "$ranks" <<'P' || fail "wrong metrics of $ranks ranks"
import json, sys
m = json.load(open("m.json"))
n = int(sys.argv[1])
assert m["n_ranks"] == n == len(m["ranks"]) and m["n_refused"] == 3
assert m["ranks"][0]["first_layer"] == 0 and m["ranks"][-1]["end_layer"] == 4
for a, b in zip(m["ranks"], m["ranks"][1:]):
    assert a["end_layer"] == b["first_layer"]
    assert b["received_bytes"] > 0 and a["sent_bytes"] > 0
events = json.load(open("t.json"))["traceEvents"]
assert [e["pid"] for e in events if e["name"] == "process_name"] == list(range(n)), events
P
done
expect 3 2 run --model "$model" --input job.jsonl --output layers.out --layers 1,3 --quiet
[ "$(strip 1.out)" = "$(strip layers.out)" ] || fail "--layers 1,3 gives other results"

# The wrapper passes everything on.
SLUICE=$sluice timeout 120 "$source/launch/mpirun" -n 2 run --model "$model" --input job.jsonl \
    --output wrapper.out --quiet >out 2>err </dev/null
[ $? = 3 ] || fail "launch/mpirun changes the exit status"
[ "$(strip 1.out)" = "$(strip wrapper.out)" ] || fail "launch/mpirun gives other results"
"$source/launch/mpirun" --frobnicate >out 2>err && fail "launch/mpirun takes any option"
says_once err "unknown option --frobnicate"

# Who computes what is said before it begins.
expect 0 2 run --model "$model" --input one.jsonl --output table.out
for rank in 0 1; do
    line="^ +$rank +$(hostname | cut -c 1-63) +cpu .* $((2 * rank))-$((2 * rank + 1)) .* of "
    [ "$(grep -cE "$line" err)" = 1 ] || fail "rank $rank is not in the table"
done

# Ranks that open another checkpoint than the first one are named.
cp -r "$source/tests/golden/models/qwen2" there
cp -r "$source/tests/golden/models/qwen2" here
python3 - <<'P'
# Another number in the middle of the weights: no shape tells it.
with open("there/model.safetensors", "r+b") as f:
    size = f.seek(0, 2)
    f.seek(size // 2)
    byte = f.read(1)[0]
    f.seek(size // 2)
    f.write(bytes([byte ^ 1]))
P
run_two() { # MODEL OF RANK 0, OF RANK 1
    timeout 120 mpirun --oversubscribe --bind-to none -n 1 "$sluice" run --model "$1" \
        --input one.jsonl --output two.out --overwrite : -n 1 "$sluice" run --model "$2" \
        --input one.jsonl --output two.out --overwrite >out 2>err </dev/null || return
}
run_two here "$source/tests/golden/models/qwen2" || fail "a copy of the checkpoint is refused"
run_two here there && fail "ranks computed with different checkpoints"
says_once err "sluice: rank 1 on $(hostname | cut -c 1-63): --model there is another checkpoint than the first rank's"

# A rank that dies ends the others within seconds.
mkfifo pipe
(timeout 60 mpirun --oversubscribe --bind-to none -n 2 "$sluice" run --model "$model" --input pipe \
    --output dead.out --quiet >out 2>err </dev/null
    echo $? >status) &
exec 7>pipe
cat one.jsonl >&7
for _ in $(seq 400); do
    [ -s dead.out ] && break
    sleep 0.05
done
[ -s dead.out ] || fail "no answer through a pipe on 2 ranks"
# The second rank: the one that has no end of the pipe open.
second=
for pid in $(pgrep -f "^$sluice run --model $model --input pipe"); do
    [ -n "$(find "/proc/$pid/fd" -lname "*$work/pipe*" 2>/dev/null)" ] || second=$pid
done
if [ -n "$second" ]; then
    kill -KILL "$second"
else
    fail "the second rank cannot be found"
fi
for _ in $(seq 400); do
    [ -s status ] && break
    sleep 0.05
done
exec 7>&-
[ -s status ] || fail "the run goes on although a rank is dead"
[ "$(cat status 2>/dev/null)" != 0 ] || fail "a run with a dead rank ends with status 0"
wait

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
