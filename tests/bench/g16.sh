#!/usr/bin/env bash
# Measures the workloads of one GPU capped to 16 GiB, each with a hand-set policy: prompts of 512
# random tokens, all distinct, 32 generated; dummy weights.
#
# Usage: tests/bench/g16.sh SLUICE [WORKLOAD...]
#   SLUICE    the program, built with CUDA
#   WORKLOAD  w1 w1f w2 w3 w4 w6; default: all but w6, which needs SLUICE_DISK=FOLDER with 40 GiB
#
# Prints a line for each: total, prefill and decode tokens/s, the GPU's peak, and what streamed.
set -euo pipefail
sluice=${1:?usage: g16.sh SLUICE [WORKLOAD...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
workloads=("$@")
[ ${#workloads[@]} -gt 0 ] || workloads=(w1 w1f w2 w3 w4)

bench() {
    local name=$1
    shift
    "$sluice" bench --gpu-mem 16GiB --prompt-len 512 --gen-len 32 --max-context 544 --seed 1 \
        --quiet "$@" | python3 -c '
import json, sys
r = json.load(sys.stdin)
k = r["ranks"][0]
s = r.get("job_s") or (k["prefill_s"] + k["decode_s"])
up, disk = k["uploaded_bytes"], k["disk_read_bytes"]
print("%-4s total %8.1f tok/s  prefill %8.1f s  decode %8.1f s  gpu peak %5.2f GiB  "
      "h2d %7.1f GB at %5.1f GB/s  disk %6.1f GB at %4.2f GB/s  start %5.1f s" % (
          sys.argv[1], r["total_tokens_per_s"], k["prefill_s"], k["decode_s"],
          k["gpu_peak_bytes"] / 2**30, up / 1e9, up / 1e9 / (k["prefill_s"] + k["decode_s"]),
          disk / 1e9, disk / 1e9 / k["disk_read_s"] if k["disk_read_s"] else 0, r.get("open_s", 0)))
' "$name"
}

for w in "${workloads[@]}"; do
    case $w in
    w1) bench W1 --model dummy:opt-6.7b --weights q4 --cache q4 --weights-at 100,0 \
        --num-prompts 520 --micro-batch 65 --num-micro-batches 2 --max-rows 4096 ;;
    w1f) bench W1f --model dummy:opt-6.7b --weights f16 --cache f16 --weights-at 100,0 \
        --num-prompts 64 --micro-batch 8 --num-micro-batches 1 --max-rows 2048 ;;
    w2) bench W2 --model "dummy:$here/configs/opt-30b-24-layers.json" --weights f16 --cache f16 \
        --weights-at 0,100 --num-prompts 64 --micro-batch 8 --num-micro-batches 4 --max-rows 1024 ;;
    w3) bench W3 --model "dummy:$here/configs/opt-30b-24-layers.json" --weights q4 --cache q4 \
        --weights-at 100,0 --num-prompts 192 --micro-batch 48 --num-micro-batches 1 --max-rows 4096 ;;
    w4) bench W4 --model "dummy:$here/configs/opt-175b-24-layers.json" --weights q4 --cache q4 \
        --weights-at 0,100 --num-prompts 112 --micro-batch 28 --num-micro-batches 2 --max-rows 1024 ;;
    w6) bench W6 --model dummy:opt-30b --weights f16 --cache f16 --cpu-mem 24GiB \
        --disk-dir "${SLUICE_DISK:?}" --num-prompts 16 --gen-len 4 --micro-batch 8 \
        --num-micro-batches 2 --max-rows 4096 ;;
    *) echo "unknown workload $w" >&2 && exit 2 ;;
    esac
done
