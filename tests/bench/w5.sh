#!/usr/bin/env bash
# Measures what two GPUs do together, each capped to 16 GiB, beside one: prompts of 512 random tokens,
# all distinct, 32 generated; dummy weights, hand-set policies.
#
# Usage: tests/bench/w5.sh SLUICE [WORKLOAD...]
#   SLUICE    the program, built with CUDA and MPI
#   WORKLOAD  w5 w5-one      OPT-30B, 24 layers, 4 bits, on two ranks and on one
#             w5f w5f-one    the same in f16
#             30b 30b-one    OPT-30B, 4 bits: half of it is resident
#             175b 175b-one  OPT-175B, 24 layers, 4 bits: the same
#             w5-four        w5 with four blocks in flight instead of two
#             default: all but the last
#
# SLUICE_W5_TRANSPORT=mpi|nccl|auto chooses the transport, SLUICE_W5_EXTRA adds options to all,
# SLUICE_W5_JSON=FILE keeps the reports, a line each; SLUICE_W5_SIM=PROFILE simulates instead, such
# as cluster/g16.json.
# Prints a line for each workload, and one for each rank: its memory, how much of the time it was
# computing, had nothing to compute, waited for other ranks or for the wire, and its queues.
set -euo pipefail
sluice=${1:?usage: w5.sh SLUICE [WORKLOAD...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
workloads=("$@")
[ ${#workloads[@]} -gt 0 ] || workloads=(w5-one w5 w5f-one w5f 30b-one 30b 175b-one 175b)
transport=${SLUICE_W5_TRANSPORT:-auto}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# bench NAME RANKS OPTIONS...
bench() {
    local name=$1 ranks=$2 launch=() how=()
    shift 2
    if [ -n "${SLUICE_W5_SIM:-}" ]; then
        how=(--backend sim --cluster "$SLUICE_W5_SIM" --sim-ranks "$ranks")
    elif [ "$ranks" -gt 1 ]; then
        launch=(mpirun --oversubscribe --bind-to none -n "$ranks")
        how=(--transport "$transport")
    fi
    # shellcheck disable=SC2086
    "${launch[@]}" "$sluice" bench --gpu-mem 16GiB --prompt-len 512 --gen-len 32 \
        --max-context 544 --seed 1 --quiet "${how[@]}" "$@" ${SLUICE_W5_EXTRA:-} |
        tee -a "${SLUICE_W5_JSON:-/dev/null}" | python3 -c '
import json, sys

r = json.load(sys.stdin)
print("%-8s %d rank%s %-8s total %8.1f tok/s  prefill %6.2f s  decode %6.2f s (%.1f tok/s)  wire "
      "exposed %.2f %%  start %.1f s" % (
          sys.argv[1], r["n_ranks"], "s" if r["n_ranks"] > 1 else " ", r["transport"],
          r["total_tokens_per_s"], r["prefill_s"], r["decode_s"], r["decode_tokens_per_s"],
          100 * max(k["wire_exposed_frac"] for k in r["ranks"]), r["open_s"]))
for k in r["ranks"]:
    run = k["run_s"]
    print("    rank %d: gpu %.2f GiB, host %.2f GiB; computing %.1f %%, nothing yet %.1f %%, other "
          "ranks %.1f %%, wire %.2f %%; " % (
              k["rank"], k["gpu_peak_bytes"] / 2**30, k["cpu_peak_bytes"] / 2**30,
              100 * k["compute_s"] / run, 100 * k["start_s"] / run, 100 * k["bubble_s"] / run,
              100 * k["exposed_wire_s"] / run) +
          ", ".join("%s %.1f %%" % (q, 100 * v["busy_s"] / run) +
                    (" at %.1f GB/s" % (v["bytes"] / v["busy_s"] / 1e9) if v["bytes"] else "")
                    for q, v in k["queues"].items()
                    if q != "gpu" and v["busy_s"] > 0.002 * run), flush=True)
' "$name"
}

w5=(--model "dummy:$here/configs/opt-30b-24-layers.json")
w30=(--model dummy:opt-30b)
w175=(--model "dummy:$here/configs/opt-175b-24-layers.json")
q4=(--weights q4 --cache q4)
f16=(--weights f16 --cache f16)
for w in "${workloads[@]}"; do
    case $w in
    w5-one) bench W5 1 "${w5[@]}" "${q4[@]}" --weights-at 100,0 --cache-at 20,80 \
        --cpu-attention 40 --cpu-mem 60GiB --num-prompts 512 --micro-batch 64 \
        --num-micro-batches 4 --max-rows 2048 ;;
    w5) bench W5 2 "${w5[@]}" "${q4[@]}" --weights-at 100,0 --cache-at 100,0 --cpu-mem 30GiB \
        --num-prompts 768 --micro-batch 96 --num-micro-batches 1 --blocks-in-flight 2 \
        --max-rows 4096 ;;
    w5-four) bench W5 2 "${w5[@]}" "${q4[@]}" --weights-at 100,0 --cache-at 100,0 --cpu-mem 30GiB \
        --num-prompts 768 --micro-batch 48 --num-micro-batches 1 --blocks-in-flight 4 \
        --max-rows 4096 ;;
    w5f-one) bench W5f 1 "${w5[@]}" "${f16[@]}" --weights-at 25,75 --cache-at 0,100 \
        --cpu-attention 70 --cpu-mem 100GiB --num-prompts 160 --micro-batch 20 \
        --num-micro-batches 8 --max-rows 2048 ;;
    w5f) bench W5f 2 "${w5[@]}" "${f16[@]}" --weights-at 60,40 --cache-at 0,100 \
        --cpu-attention 70 --cpu-mem 50GiB --num-prompts 160 --micro-batch 20 \
        --num-micro-batches 4 --blocks-in-flight 2 --max-rows 2048 ;;
    30b-one) bench 30B 1 "${w30[@]}" "${q4[@]}" --weights-at 65,35 --cache-at 5,95 \
        --cpu-attention 50 --cpu-mem 90GiB --num-prompts 512 --micro-batch 64 \
        --num-micro-batches 4 --max-rows 2048 ;;
    30b) bench 30B 2 "${w30[@]}" "${q4[@]}" --weights-at 100,0 --cache-at 16,84 \
        --cpu-attention 50 --cpu-mem 50GiB --num-prompts 512 --micro-batch 64 \
        --num-micro-batches 2 --blocks-in-flight 2 --max-rows 2048 ;;
    175b-one) bench 175B 1 "${w175[@]}" "${q4[@]}" --weights-at 38,62 --cache-at 5,95 \
        --cpu-attention 50 --cpu-mem 90GiB --num-prompts 384 --micro-batch 48 \
        --num-micro-batches 4 --max-rows 2048 ;;
    175b) bench 175B 2 "${w175[@]}" "${q4[@]}" --weights-at 100,0 --cache-at 0,100 \
        --cpu-attention 50 --cpu-mem 50GiB --num-prompts 384 --micro-batch 48 \
        --num-micro-batches 2 --blocks-in-flight 2 --max-rows 2048 ;;
    *) echo "unknown workload $w" >&2 && exit 2 ;;
    esac
done
