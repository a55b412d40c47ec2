#!/usr/bin/env bash
# How throughput grows with ranks: the models of the FlexGen paper on 1, 2 and 4 ranks, a GPU each of
# which 16 GiB may be used; prompts of 512 random tokens, all distinct, 32 generated; dummy weights,
# policies planned for PROFILE.
#
# Usage: tests/bench/scaling.sh SLUICE PROFILE [MODEL...]
#   SLUICE   the program, built with CUDA where GPUs are to be measured
#   PROFILE  of a rank, as sluice profile --gpu-mem 16GiB writes it: cluster/g16.json
#   MODEL    6.7b 30b 30b-f16 175b (24 of its layers), and w5 w5f: 24 layers of 30b in q4 and in f16;
#            default: the first four
#
# What this host has no GPUs for is simulated on PROFILE, and says so.
# SLUICE_RANKS="1 2 4" sets the numbers of ranks, SLUICE_SIMULATE=1 simulates all,
# SLUICE_HOST_MEM=100 the GiB of host memory that the ranks of a host share,
# SLUICE_SCALE_JSON=FILE keeps the reports, a line each.
set -euo pipefail
sluice=${1:?usage: scaling.sh SLUICE PROFILE [MODEL...]}
profile=${2:?usage: scaling.sh SLUICE PROFILE [MODEL...]}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(6.7b 30b 30b-f16 175b)
ranks=${SLUICE_RANKS:-1 2 4}
host_mem=${SLUICE_HOST_MEM:-100}
gpus=0
if [ "${SLUICE_SIMULATE:-0}" = 0 ] && command -v nvidia-smi >/dev/null; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rows=$work/rows
: >"$rows"

# measure P NAME OPTIONS...
measure() {
    local p=$1 name=$2 how launch=()
    shift 2
    local options=(bench --cluster "$profile" --plan always --gpu-mem 16GiB
        --cpu-mem $((host_mem / p))GiB --prompt-len 512 --gen-len 32 --max-context 544
        --seed 1 --quiet --metrics-json "$work/metrics.json" "$@")
    if [ "$p" -gt "$gpus" ]; then
        how=simulated
        options+=(--backend sim --sim-ranks "$p")
    else
        how=measured
        [ "$p" = 1 ] || launch=(mpirun --oversubscribe --bind-to none -n "$p")
    fi
    if ! "${launch[@]}" "$sluice" "${options[@]}" >"$work/out" 2>"$work/err"; then
        tail -n 3 "$work/err" >&2
        echo "$name $p failed" >>"$rows"
        return
    fi
    tee -a "${SLUICE_SCALE_JSON:-/dev/null}" <"$work/out" >/dev/null
    python3 - "$work/out" "$name" "$p" "$how" >>"$rows" <<'PY'
import json, sys

r = json.load(open(sys.argv[1]))
name, p, how = sys.argv[2:]
plan = r.get("plan") or r.get("expected") or {}
exposed = max(k["exposed_wire_s"] / (k.get("run_s") or k["sweep_s"]) for k in r["ranks"])
print(json.dumps({
    "name": name, "ranks": int(p), "how": how, "total": r["total_tokens_per_s"],
    "decode": r.get("decode_tokens_per_s"), "expected": plan.get("tokens_per_s"),
    "exposed": exposed, "policy": r.get("policy", {})}))
PY
    python3 - "$rows" <<'PY'
import json, sys

lines = [json.loads(x) for x in open(sys.argv[1]) if x.startswith("{")]
r = lines[-1]
one = next((x for x in lines if x["name"] == r["name"] and x["ranks"] == 1), None)


def of(key):
    return " (%.2fx)" % (r[key] / one[key]) if one and r[key] and one[key] else ""


print("%-8s %d ranks %-9s total %8.1f tok/s%s  decode %8.1f%s  expected %s  exposed wire %s  "
      "block %s x %s, %s in flight" % (
          r["name"], r["ranks"], r["how"], r["total"], of("total"), r["decode"] or 0, of("decode"),
          "%.1f" % r["expected"] if r["expected"] else "-",
          "%.1f %%" % (100 * r["exposed"]),
          r["policy"].get("micro_batch"), r["policy"].get("num_micro_batches"),
          r["policy"].get("blocks_in_flight")), flush=True)
PY
}

for m in "${models[@]}"; do
    for p in $ranks; do
        case $m in
        6.7b) measure "$p" "$m" --model dummy:opt-6.7b --weights q4 --cache q4 --num-prompts 3120 ;;
        30b) measure "$p" "$m" --model dummy:opt-30b --weights q4 --cache q4 --num-prompts 512 ;;
        30b-f16) measure "$p" "$m" --model dummy:opt-30b --weights f16 --cache f16 \
            --num-prompts 160 ;;
        175b) measure "$p" "$m" --model "dummy:$here/configs/opt-175b-24-layers.json" \
            --weights q4 --cache q4 --num-prompts 384 ;;
        w5) measure "$p" "$m" --model "dummy:$here/configs/opt-30b-24-layers.json" \
            --weights q4 --cache q4 --num-prompts 768 ;;
        w5f) measure "$p" "$m" --model "dummy:$here/configs/opt-30b-24-layers.json" \
            --weights f16 --cache f16 --num-prompts 256 ;;
        *) echo "unknown model $m" >&2 && exit 2 ;;
        esac
    done
done
! grep -q failed "$rows"
