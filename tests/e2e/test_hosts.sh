#!/usr/bin/env bash
# Three hosts, which are network namespaces: SmolLM2 in a pipeline over them gives what one rank gives,
# also on slow wires (100 Mbit/s by tc, 10 ms by a transport that delays), and a host that
# vanishes ends the run in time, with a message that names rank, host and reason, and nothing left.
# Usage: test_hosts.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
. "$source/tests/e2e/model.sh"
command -v mpirun >/dev/null || {
    echo "skipped: no mpirun"
    exit 77
}
. "$source/tests/e2e/hosts.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
trap 'umount /etc/hosts; rm -rf "$work" "$nets"' EXIT
cd "$work" || exit 1
export TMPDIR=$work
results=$source/tests/e2e/results.py
failures=0
fail() {
    echo "FAILED: $*"
    tail -n 20 log
    failures=$((failures + 1))
}
says() { grep -qF -- "$1" log || fail "no \"$1\" in the output"; }

slots=node1:1,node2:1,node3:1
mpi=(mpirun --host "$slots" -n 3 --bind-to none --mca plm_rsh_agent "$agent"
    --mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 --mca btl "tcp,self")
run=("$sluice" run --model "$model" --max-context 256 --threads 1 --seed 5 --max-tokens 12)

python3 "$results" requests "$source/tests/golden/smollm2/golden.json" | grep -v '"many"' |
    sed -n '1,14p' >job.jsonl
"${run[@]}" --input job.jsonl --output one.jsonl --quiet >log 2>&1 </dev/null || fail "one rank"
"${run[@]}" --input job.jsonl --output one_f16.jsonl --weights f16 --quiet >log 2>&1 </dev/null ||
    fail "one rank with weights in f16"

# over_hosts LIKE OUTPUT OPTIONS...
over_hosts() {
    local like=$1 output=$2 status=0
    shift 2
    on node1 timeout 300 "${mpi[@]}" "${run[@]}" --input job.jsonl --output "$output" "$@" \
        >log 2>&1 </dev/null || status=$?
    [ "$status" = 0 ] || fail "three hosts: exit status $status, $*"
    python3 "$results" same "$like" "$output" 1e-5 || failures=$((failures + 1))
}

# ---- as fast as they are ----

over_hosts one.jsonl three.jsonl
for number in 1 2 3; do
    grep -qE "^ +$((number - 1)) +node$number +cpu .* of " log ||
        fail "node$number is not in the table of ranks"
done

# ---- slow wires ----

for number in 1 2 3; do
    tc qdisc add dev "port$number" root tbf rate 100mbit burst 64kb latency 400ms &&
        on "node$number" tc qdisc add dev eth0 root tbf rate 100mbit burst 64kb latency 400ms || {
        echo "skipped: this kernel cannot limit the rate of an interface (tc tbf)"
        exit 77
    }
done
export SLUICE_TEST_DELAY_S=0.01
mpi+=(-x SLUICE_TEST_DELAY_S)
over_hosts one.jsonl slow.jsonl
# A plan for such wires keeps more blocks in flight, and runs.
for wire in slow fast; do
    "$sluice" plan --model "$model" --profile "$source/tests/e2e/${wire}_wire.json" --ranks 3 \
        --num-prompts 400 --prompt-len 16 --gen-len 12 --max-context 256 --micro-batch 4 \
        --num-micro-batches 1 --max-rows 64 --save "$wire.policy" >log 2>&1 || fail "plan, $wire wires"
done
python3 - <<'P' || fail "wrong plans"
import json
blocks = {wire: json.load(open(f"{wire}.policy"))["blocks_in_flight"] for wire in ("slow", "fast")}
print("blocks in flight:", blocks)
assert blocks["fast"] == 3 < blocks["slow"], blocks
P
over_hosts one_f16.jsonl slow_more.jsonl --policy slow.policy
export SLUICE_TEST_DELAY_S=0

# ---- a host vanishes ----

# vanish HOST RANK SECONDS OPTIONS...: takes the host off the network in mid-run.
vanish() {
    local host=$1 rank=$2 within=$3 status=0 begin took left
    shift 3
    rm -f gone.jsonl gone.jsonl.sluice
    for i in $(seq 400); do
        echo "{\"prompt\": \"Number $i is\", \"max_tokens\": $((3 + i % 50)), \"ignore_eos\": true}"
    done >long.jsonl
    SLUICE_TEST_RUN=$host on node1 "${mpi[@]}" -x SLUICE_TEST_RUN "${run[@]}" --input long.jsonl \
        --output gone.jsonl --micro-batch 4 --num-micro-batches 1 "$@" >log 2>&1 </dev/null &
    local pid=$!
    for _ in $(seq 1200); do
        [ -s gone.jsonl ] && break
        sleep 0.1
    done
    [ -s gone.jsonl ] || fail "no result before $host vanishes"
    ip link set "port${host#node}" down
    begin=$(date +%s%N)
    wait "$pid" || status=$?
    took=$((($(date +%s%N) - begin) / 1000000))
    echo "$host is off the network: ended after $took ms with status $status"
    [ "$status" != 0 ] || fail "exit status 0 although $host vanished"
    [ "$took" -lt $((within * 1000)) ] || fail "it took $took ms until the run without $host ended"
    says "sluice: rank $rank on $host: no sign of life for"
    [ "$(grep -c '^sluice: rank' log)" = 1 ] || fail "not one message"
    # The part on the other host ends as well, and nobody is left.
    for _ in $(seq 100); do
        left=$(grep -lsz "^SLUICE_TEST_RUN=$host" /proc/[0-9]*/environ | wc -l)
        [ "$left" = 0 ] && break
        sleep 0.1
    done
    [ "$left" = 0 ] || fail "$left processes are left: $(ps ax)"
    ip link set "port${host#node}" up
    for _ in $(seq 100); do # until it can be reached again
        on node1 timeout 1 bash -c "exec 3<>/dev/tcp/$host/9" 2>&1 | grep -q refused && break
    done
}
vanish node3 2 10
vanish node2 1 6 --timeout 2

# What was answered stays, and the same command goes on with what is left, on the hosts that are.
before=$(wc -l <gone.jsonl)
[ "$before" -gt 0 ] || fail "the results before the host vanished are lost"
cp gone.jsonl beginning
timeout 10 "${run[@]}" --input long.jsonl --output gone.jsonl --micro-batch 4 \
    --num-micro-batches 1 >log 2>&1 </dev/null
says "going on with gone.jsonl: $before of 400 requests are answered"
cmp -s beginning <(head -n "$before" gone.jsonl) || fail "results have changed"

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
