#!/bin/bash
# Simulated machines from the command line: SLUICE_BINARY SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
t4=$source/cluster/t4.json
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2
n_bad=0

bad() {
    echo "FAILED: $*"
    n_bad=$((n_bad + 1))
}

# bench NAME [options]: a small job; its report goes to NAME.json.
bench() {
    local name=$1
    shift
    "$sluice" bench --backend sim --model dummy:opt-30b --prompt-len 64 --gen-len 8 \
        --num-prompts 64 --micro-batch 8 --num-micro-batches 2 --max-rows 512 \
        --percent 10,90,0,100,100,0 --metrics-json "$name.json" -q "$@" >"$name.out" 2>"$name.err"
}

# has FILE EXPRESSION: whether the report `r` is as a Python expression says.
has() {
    python3 -c "import json, sys; r = json.load(open('$1')); sys.exit(not ($2))" ||
        bad "$1: not $2"
}

# refused TEXT command...: must be wrong usage, and say TEXT.
refused() {
    local text=$1
    shift
    "$@" >refused.out 2>refused.err
    [ $? = 2 ] || bad "$*: expected exit status 2"
    grep -qF -- "$text" refused.err || bad "$*: no \"$text\" in: $(cat refused.err)"
}

bench one --cluster "$t4" --trace one.trace || bad "one rank: $(cat one.err)"
has one.json '"T4" in r["backend"] and r["backend"].startswith("sim (") and r["n_ranks"] == 1'
has one.json 'r["n_generated_tokens"] == 64 * 8 and r["total_tokens_per_s"] > 1'
has one.json 'r["ranks"][0]["weight_bytes_cpu"] > 50e9'
has one.json 'r["ranks"][0]["queues"]["h2d"]["busy_s"] <= r["wall_s"]'
python3 - one.trace one.json <<'PY' || bad "the trace does not agree with the report"
import json, sys
spans = [e for e in json.load(open(sys.argv[1]))["traceEvents"] if e["ph"] == "X"]
report = json.load(open(sys.argv[2]))
moved = sum(e["args"].get("bytes", 0) for e in spans if e["cat"] == "h2d")
assert moved == report["ranks"][0]["queues"]["h2d"]["bytes"], moved
assert max(e["ts"] + e["dur"] for e in spans) <= 1e6 * report["wall_s"] + 1
PY

# The same to the last digit when it is run again.
bench again --cluster "$t4"
cmp -s one.json again.json || bad "two runs of one simulation differ"

# Ranks in one process, and the same under mpirun.
bench four --cluster "$t4" --sim-ranks 4 || bad "four ranks: $(cat four.err)"
has four.json 'r["n_ranks"] == 4 and r["transport"] == "sim" and len(r["ranks"]) == 4'
has four.json 'sum(k["end_layer"] - k["first_layer"] for k in r["ranks"]) == 48'
bench two --cluster "$t4" --cluster "$t4" || bad "two profiles: $(cat two.err)"
has two.json 'r["n_ranks"] == 2'
if command -v mpirun >/dev/null; then
    mpirun --oversubscribe -np 4 "$sluice" bench --backend sim --model dummy:opt-30b \
        --prompt-len 64 --gen-len 8 --num-prompts 64 --micro-batch 8 --num-micro-batches 2 \
        --max-rows 512 --percent 10,90,0,100,100,0 --metrics-json mpi.json -q --cluster "$t4" \
        >mpi.out 2>mpi.err || bad "under mpirun: $(cat mpi.err)"
    cmp -s four.json mpi.json || bad "the report under mpirun differs from that of one process"
fi

# A machine's own numbers are what counts.
sed 's/"h2d_bps": .*/"h2d_bps": [[1048576, 24e9]],/' "$t4" >fast.json
bench fast --cluster fast.json || bad "fast link: $(cat fast.err)"
python3 -c '
import json
slow, fast = (json.load(open(f))["total_tokens_per_s"] for f in ("one.json", "fast.json"))
assert 1.5 * slow < fast < 2.5 * slow, (slow, fast)' 2>&1 || bad "a faster link does not show"

# Requests from a file; lengths run to their end.
echo '{"prompt": [5, 6, 7, 8], "max_tokens": 9}' >in.jsonl
"$sluice" run --backend sim --cluster "$t4" --model dummy:opt-175b --max-context 64 --return-token-ids \
    --micro-batch 1 -i in.jsonl -o out.jsonl -q 2>run.err || bad "run: $(cat run.err)"
has out.jsonl 'r["response"]["body"]["usage"]["completion_tokens"] == 9'

refused "--cluster" "$sluice" bench --model dummy:opt-125m --backend sim
refused "--backend sim only" "$sluice" bench --model dummy:opt-125m --sim-ranks 2
refused "at most one for each of 1 ranks" "$sluice" bench --model dummy:opt-125m --backend sim \
    --cluster "$t4" --cluster "$t4" --sim-ranks 1
"$sluice" bench --model dummy:opt-125m --backend sim --cluster missing.json 2>missing.err
[ $? = 1 ] && grep -q missing.json missing.err || bad "a missing profile: $(cat missing.err)"
"$sluice" bench --model dummy:opt-175b --backend sim --cluster "$t4" --weights-at 100,0 2>big.err
[ $? = 1 ] && grep -q "gpu tier" big.err || bad "weights beyond the gpu: $(cat big.err)"

[ $n_bad = 0 ] && echo "simulated machines: all as expected"
exit $((n_bad > 0))
