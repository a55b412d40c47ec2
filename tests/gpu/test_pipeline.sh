#!/usr/bin/env bash
# The number of ranks changes nothing on GPUs either: 1 rank against 2, 3 and 4 that share a GPU, and,
# where there are two GPUs, 2 with one each, over NCCL and over MPI.
# Usage: test_pipeline.sh SLUICE SOURCE_DIR
set -u
sluice=$1 source=$2
same=$source/tests/gpu/pipeline_same.py
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
[ "$gpus" -ge 1 ] || { echo "skipped: no GPU is found" && exit 77; }
command -v mpirun >/dev/null || { echo "skipped: mpirun is not installed" && exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
failures=0
python3 "$same" requests >requests.jsonl || exit 1

# run MODEL RANKS OUTPUT OPTIONS...
run() {
    local model=$1 ranks=$2 output=$3 start=()
    shift 3
    [ "$ranks" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$ranks")
    "${start[@]}" "$sluice" run --model "$source/tests/golden/models/$model" --input requests.jsonl \
        --output "$output" --backend cuda --gpu-mem 1GiB --threads 2 --weights f16 "$@" \
        >log 2>&1 </dev/null && return
    echo "FAILED: $model on $ranks ranks: $output"
    tail -n 5 log
    failures=$((failures + 1))
    return 1
}
# against MODEL RANKS OPTIONS...
against() {
    local model=$1 ranks=$2
    shift 2
    rm -f other.jsonl
    run "$model" "$ranks" other.jsonl "$@" || return
    grep -h "hidden states go" log
    echo "$model, $ranks ranks $*: $(python3 "$same" compare one.jsonl other.jsonl 2>&1 | tail -n 1)"
    python3 "$same" compare one.jsonl other.jsonl >/dev/null 2>&1 || failures=$((failures + 1))
}

shape=(--micro-batch 4 --num-micro-batches 2 --max-rows 48)
for model in opt llama-gqa qwen2; do
    layers=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["num_hidden_layers"])' \
        "$source/tests/golden/models/$model/config.json")
    rm -f one.jsonl
    run "$model" 1 one.jsonl "${shape[@]}" || continue
    if [ "$gpus" -ge 2 ]; then
        against "$model" 2 "${shape[@]}" --transport nccl
        against "$model" 2 "${shape[@]}" --transport mpi
        against "$model" 2 "${shape[@]}" --transport nccl --weights-at 0,100 --cache-at 50,50
    fi
    against "$model" 3 "${shape[@]}" --transport mpi
    against "$model" 2 "${shape[@]}" --layers "1,$((layers - 1))"
done
# Ranks that share a GPU: one is hidden.
export CUDA_VISIBLE_DEVICES=0
for ranks in 2 3 4; do
    rm -f one.jsonl
    run llama-gqa 1 one.jsonl "${shape[@]}" && against llama-gqa "$ranks" "${shape[@]}"
done
[ "$failures" = 0 ] || echo "FAILED: $failures"
exit $((failures > 0))
