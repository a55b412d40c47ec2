#!/usr/bin/env bash
# A random rank of two to four is killed at a random moment: the run ends within ten seconds with one
# message that names the rank and its host, leaves no process, no shared memory and no file behind,
# and the same command goes on until every request is answered once, as in an undisturbed run.
# Usage: test_kill_ranks.sh SLUICE SOURCE_DIR BUILD_DIR
#   SLUICE_RANK_KILLS=50   how many times (10)
#   SLUICE_KILL_GPU=1      on GPUs, which take seconds to start: kills come later.  Placement and batch
#                          round sums there, so results are compared by custom_id, kind (result or
#                          error) and number of choices
set -u
sluice=$1 source=$2
kills=${SLUICE_RANK_KILLS:-10}
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
mkdir disk
failures=0
memory=() threads=1 kill_within_s=3.5
if [ "${SLUICE_KILL_GPU:-0}" = 1 ]; then
    nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU' || {
        echo "skipped: there is no NVIDIA GPU"
        exit 77
    }
    memory=(--gpu-mem 1400MiB --cpu-mem 2GiB) threads=4 kill_within_s=8
    export SLUICE_KILL_TOKENS=any
fi

python3 "$source/tests/e2e/kill_runs.py" requests 2000 >job.jsonl || exit 1
run=("$sluice" run --model "$model" --input job.jsonl --threads "$threads" "${memory[@]}"
    --micro-batch 8 --num-micro-batches 4 --quiet)
"${run[@]}" --output whole.jsonl 2>err </dev/null
[ "$(wc -l <whole.jsonl)" = 2000 ] || {
    echo "FAILED: $(wc -l <whole.jsonl) results of 2000: $(head -c 600 err)"
    exit 1
}

# Half of the weights stream from disk, and so does a part of the cache.
SLUICE_KILL=rank python3 "$source/tests/e2e/kill_runs.py" kill whole.jsonl "$kills" \
    "$kill_within_s" -- \
    mpirun --oversubscribe --bind-to none -n RANKS "${run[@]}" --output OUT \
    --disk-dir "$work/disk" --weights-at 0,50 --cache-at 0,80 || failures=$((failures + 1))

# What stays in the folder are the packed weights, which later runs use again.
others=$(find disk -type f ! -name '*.packed' | head)
[ -z "$others" ] || {
    echo "FAILED: files are left in the disk tier: $others"
    failures=$((failures + 1))
}
[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
