#!/usr/bin/env bash
# Measures the workloads of one GPU capped to 16 GiB, each with a hand-set policy: prompts of 512
# random tokens, all distinct, 32 generated; dummy weights.
#
# Usage: tests/bench/g16.sh SLUICE [WORKLOAD...]
#   SLUICE    the program, built with CUDA
#   WORKLOAD  w1 w1f w2 w3 w4 w6; default: all but w6, which needs SLUICE_DISK=FOLDER with 45 GiB
#
# SLUICE_G16_EXTRA adds options to all, SLUICE_G16_JSON=FILE keeps the reports, a line each.
# Prints a line for each workload: total, prefill and decode, peaks; below it each queue's share of
# the time and its rate.  bench_links prints the peaks to compare the rates with.
set -euo pipefail
sluice=${1:?usage: g16.sh SLUICE [WORKLOAD...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
workloads=("$@")
[ ${#workloads[@]} -gt 0 ] || workloads=(w1 w1f w2 w3 w4)

bench() {
    local name=$1
    shift
    # shellcheck disable=SC2086
    "$sluice" bench --gpu-mem 16GiB --prompt-len 512 --gen-len 32 --max-context 544 --seed 1 \
        --quiet "$@" ${SLUICE_G16_EXTRA:-} | tee -a "${SLUICE_G16_JSON:-/dev/null}" | python3 -c '
import json, sys
r = json.load(sys.stdin)
k = r["ranks"][0]
print("%-4s total %8.1f tok/s  prefill %7.1f s  decode %7.1f s (%.1f tok/s)  gpu peak %5.2f GiB  "
      "cpu peak %6.2f GiB  start %5.1f s" % (
          sys.argv[1], r["total_tokens_per_s"], k["prefill_s"], k["decode_s"],
          r["decode_tokens_per_s"], k["gpu_peak_bytes"] / 2**30, k["cpu_peak_bytes"] / 2**30,
          r.get("open_s", 0)))
busy = {q: v for q, v in k["queues"].items() if v["busy_s"] > 0.005 * k["sweep_s"]}
print("     " + "; ".join(
    "%s %.0f %%" % (q, 100 * v["busy_s"] / k["sweep_s"]) +
    (" at %.1f GB/s" % (v["bytes"] / v["busy_s"] / 1e9) if v["bytes"] else "")
    for q, v in busy.items()) +
    "; binds: " + max(busy, key=lambda q: busy[q]["busy_s"]))
' "$name"
}

for w in "${workloads[@]}"; do
    case $w in
    w1) bench W1 --model dummy:opt-6.7b --weights q4 --cache q4 --weights-at 100,0 \
        --num-prompts 520 --micro-batch 65 --num-micro-batches 2 --max-rows 4096 ;;
    w1f) bench W1f --model dummy:opt-6.7b --weights f16 --cache f16 --weights-at 100,0 \
        --num-prompts 64 --micro-batch 8 --num-micro-batches 1 --max-rows 2048 ;;
    w2) bench W2 --model dummy:opt-30b --weights f16 --cache f16 --weights-at 2,98 \
        --cache-at 15,85 --cpu-attention 100 --cpu-mem 114GiB --num-prompts 80 --micro-batch 20 \
        --num-micro-batches 4 --max-rows 4096 ;;
    w3) bench W3 --model dummy:opt-30b --weights q4 --cache q4 --weights-at 65,35 \
        --cache-at 5,95 --cpu-attention 60 --cpu-mem 90GiB --num-prompts 512 --micro-batch 64 \
        --num-micro-batches 4 --max-rows 2048 ;;
    w4) bench W4 --model "dummy:$here/configs/opt-175b-24-layers.json" --weights q4 --cache q4 \
        --weights-at 38,62 --cache-at 5,95 --cpu-attention 80 --cpu-mem 90GiB --num-prompts 384 \
        --micro-batch 48 --num-micro-batches 4 --max-rows 2048 ;;
    w6) bench W6 --model dummy:opt-30b --weights f16 --cache f16 --cpu-mem 24GiB \
        --disk-dir "${SLUICE_DISK:?}" --num-prompts 4 --gen-len 4 --micro-batch 2 \
        --num-micro-batches 2 --max-rows 1024 ;;
    *) echo "unknown workload $w" >&2 && exit 2 ;;
    esac
done
