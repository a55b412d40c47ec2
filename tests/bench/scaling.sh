#!/usr/bin/env bash
# How throughput grows with ranks: the models of the FlexGen paper on 1, 2 and 4 ranks, each a machine
# with a GPU of which 16 GiB may be used, 15 threads and a part of host memory; prompts of 512 random
# tokens, all distinct, 32 generated; dummy weights, policies planned for PROFILE.
#
# Usage: tests/bench/scaling.sh SLUICE PROFILE [MODEL...]
#   SLUICE   the program, built with CUDA where GPUs are to be measured
#   PROFILE  of a rank and its wire, as mpirun -n 2 sluice profile --gpu-mem 16GiB --threads 15 -o
#            writes it, or one of cluster/
#   MODEL    6.7b 30b 30b-f16, 175b (48 of its layers: what host memory holds beside a block), 175b-24,
#            and w5 w5f: 24 layers of 30b in q4 and in f16; default: the first four
#
# Each is run twice: the job, as it is fastest, prompts and decode in one sweep: total tokens/s; and
# once all blocks in two phases, 16 tokens each: decode tokens/s, as the paper counts them.
# What this host has no GPUs for is simulated on PROFILE, and says so.
# SLUICE_RANKS="1 2 4" sets the numbers of ranks, SLUICE_SIMULATE=1 simulates all,
# SLUICE_HOST_MEM=110 the GiB of host memory of each rank, SLUICE_DECODE=0 leaves the second run out,
# SLUICE_SCALE_TIMES=N makes the first run's job N times as long,
# SLUICE_SCALE_JSON=FILE keeps the reports, a line each, from which SLUICE_SCALE_TABLE=FILE alone
# prints the table again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -n "${SLUICE_SCALE_TABLE:-}" ]; then
    # shellcheck disable=SC2086
    exec python3 "$here/scaling_table.py" $SLUICE_SCALE_TABLE
fi
sluice=${1:?usage: scaling.sh SLUICE PROFILE [MODEL...]}
profile=${2:?usage: scaling.sh SLUICE PROFILE [MODEL...]}
shift 2
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(6.7b 30b 30b-f16 175b)
ranks=${SLUICE_RANKS:-1 2 4}
gpus=0
if [ "${SLUICE_SIMULATE:-0}" = 0 ] && command -v nvidia-smi >/dev/null; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# run KIND P NAME OPTIONS...: a line of JSON at the end of $work/rows
run() {
    local kind=$1 p=$2 name=$3 how=measured launch=()
    shift 3
    local options=(bench --cluster "$profile" --plan always --gpu-mem 16GiB --threads 15
        --cpu-mem "${SLUICE_HOST_MEM:-110}GiB" --prompt-len 512 --max-context 544 --seed 1
        --quiet "$@")
    if [ "$p" -gt "$gpus" ]; then
        how=simulated
        options+=(--backend sim --sim-ranks "$p" --disk-mem 1)
    elif [ "$p" -gt 1 ]; then
        launch=(mpirun --oversubscribe --bind-to none -n "$p")
    fi
    if ! "${launch[@]}" "$sluice" "${options[@]}" >"$work/out" 2>"$work/err"; then
        echo "$name on $p ranks failed: $(tail -n 3 "$work/err")" >&2
        failures=$((failures + 1))
        return 1
    fi
    python3 - "$work/out" "$kind" "$p" "$name" "$how" >>"$work/rows" <<'PY'
import json, sys

report = json.load(open(sys.argv[1]))
report["scaling"] = dict(zip(("kind", "ranks", "name", "how"), sys.argv[2:]))
print(json.dumps(report))
PY
    [ -z "${SLUICE_SCALE_JSON:-}" ] || tail -n 1 "$work/rows" >>"$SLUICE_SCALE_JSON"
    python3 "$here/scaling_table.py" --last "$work/rows"
}

# measure P NAME PROMPTS OPTIONS...
measure() {
    local p=$1 name=$2 prompts=$(($3 * ${SLUICE_SCALE_TIMES:-1})) block
    shift 3
    run total "$p" "$name" --num-prompts "$prompts" --gen-len 32 "$@" || return 0
    [ "${SLUICE_DECODE:-1}" = 1 ] || return 0
    block=$(tail -n 1 "$work/rows" | python3 -c '
import json, sys

r = json.load(sys.stdin)
p = r["policy"]
print(min(r["n_requests"], p["micro_batch"] * p["num_micro_batches"] * p["blocks_in_flight"]))')
    run decode "$p" "$name" --num-prompts "$block" --gen-len 16 --two-phase "$@" || return 0
}

for m in "${models[@]}"; do
    for p in $ranks; do
        case $m in
        6.7b) measure "$p" "$m" 6240 --model dummy:opt-6.7b --weights q4 --cache q4 ;;
        30b) measure "$p" "$m" 512 --model dummy:opt-30b --weights q4 --cache q4 ;;
        30b-f16) measure "$p" "$m" 160 --model dummy:opt-30b --weights f16 --cache f16 ;;
        175b) measure "$p" "$m" 256 --model "dummy:$here/configs/opt-175b-48-layers.json" \
            --weights q4 --cache q4 ;;
        175b-24) measure "$p" "$m" 384 --model "dummy:$here/configs/opt-175b-24-layers.json" \
            --weights q4 --cache q4 ;;
        w5) measure "$p" "$m" 768 --model "dummy:$here/configs/opt-30b-24-layers.json" \
            --weights q4 --cache q4 ;;
        w5f) measure "$p" "$m" 256 --model "dummy:$here/configs/opt-30b-24-layers.json" \
            --weights f16 --cache f16 ;;
        *) echo "unknown model $m" >&2 && exit 2 ;;
        esac
    done
done
python3 "$here/scaling_table.py" "$work/rows"
exit $((failures > 0))
