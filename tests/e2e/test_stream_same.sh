#!/usr/bin/env bash
# Where weights and cache live changes nothing: SmolLM2 with its weights streamed from host memory into
# a part of memory that stands in for a GPU's, and from disk, gives the texts, ids and
# log-probabilities of a run that has all in memory; with the cache in host memory, half of it
# attended there, greedy texts are golden as well.  With SLUICE_STREAM_GPU=1
# a GPU takes the stand-in's place, and what it computes in f16 is compared with itself.
# Usage: test_stream_same.sh SLUICE SOURCE_DIR BUILD_DIR
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

# run OUTPUT OPTIONS...
run() {
    local output=$1 status=0
    shift
    "$sluice" run --model "$model" --input requests.jsonl --output "$output" --max-context 512 \
        --seed 11 --quiet "$@" >log 2>&1 </dev/null || status=$?
    [ "$status" = 3 ] && return # four of the lines are malformed
    echo "FAILED: $output: exit status $status instead of 3"
    tail -n 20 log
    exit 1
}
check() {
    "$@" || failures=$((failures + 1))
}

mkdir disk
if [ "${SLUICE_STREAM_GPU:-0}" = 1 ]; then
    device=(--backend cuda --gpu-mem 2GiB) tolerance=0.05
    run all.jsonl "${device[@]}" --weights-at 100,0
else
    device=(--backend cpu --gpu-mem 1GiB --threads 2) tolerance=1e-4
    run all.jsonl --backend cpu --threads 2
    check python3 "$results" golden all.jsonl "$golden"
fi
run from-cpu.jsonl "${device[@]}" --weights-at 0,100
run from-disk.jsonl "${device[@]}" --weights-at 0,0 --disk-dir disk
run cache-cpu.jsonl "${device[@]}" --weights-at 50,50 --cache-at 0,100 --cpu-attention 50 \
    --num-micro-batches 3 --micro-batch 8
[ "$(find disk -type f | wc -l)" = 1 ] || check false # the packed weights, for later runs
for other in from-cpu from-disk cache-cpu; do
    if [ "${SLUICE_STREAM_GPU:-0}" = 1 ]; then
        check python3 "$results" golden "$other.jsonl" "$golden" "$tolerance"
    else
        # Attention on the host adds up in another order, so drawn tokens may part.
        [ "$other" = cache-cpu ] ||
            check python3 "$results" same all.jsonl "$other.jsonl" "$tolerance"
        check python3 "$results" golden "$other.jsonl" "$golden"
    fi
done
[ "$failures" = 0 ] || echo "FAILED: $failures comparisons"
exit $((failures > 0))
