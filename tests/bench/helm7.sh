#!/usr/bin/env bash
# Runs the shapes of HELM's seven sub-scenarios of the FlexGen paper (helm7.json) in two variants, and
# prints how much faster the second is:
#   A  padded, nothing shared, in two phases: the work of a system that knows one length
#   B  real lengths, common prefixes computed once, prompts and decode in one sweep
# OPT-30B, weights and cache in 4 bits, random weights and prompts, a GPU capped to 16 GiB.
#
# Usage: tests/bench/helm7.sh SLUICE [--fewer X] [--layers N] [--sim PROFILE] [--variants AB]
#                             [--scenario S]
#   --fewer X      (or --scale) so many times fewer sequences than the paper has; default 10
#   --layers N     of the model's 48, with the same shares of weights and cache everywhere; times are
#                  printed as measured, and scaled to 48 layers
#   --sim PROFILE  on the simulated machine of cluster/PROFILE.json
#   --variants     A, B or AB (the default)
#   --scenario S   only this one
#
# SLUICE_HELM_EXTRA adds options to all runs, SLUICE_HELM_A and SLUICE_HELM_B to one variant's.
set -euo pipefail
usage() {
    sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}
sluice=${1:-}
case $sluice in "" | -*) usage ;; esac
shift
here=$(cd "$(dirname "$0")" && pwd)
fewer=10 layers=48 sim='' variants=AB scenario=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --fewer | --scale) fewer=$2 ;;
    --layers) layers=$2 ;;
    --sim) sim=$2 ;;
    --variants) variants=$2 ;;
    --scenario) scenario=$2 ;;
    *) usage ;;
    esac
    shift 2
done
work=$(mktemp -d "${TMPDIR:-/tmp}/helm7-XXXXXX")
trap 'rm -rf "$work"' EXIT

# Two groups by length, each with a policy of its own: pages of long prompts on their way to the GPU
# take the room of weights.
python3 - "$here" "$work" "$layers" "$scenario" <<'PY'
import json, sys
here, work, layers, only = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
config = json.load(open(here + "/configs/opt-30b-24-layers.json"))
config["num_hidden_layers"] = layers
json.dump(config, open(work + "/config.json", "w"))
shapes = json.load(open(here + "/helm7.json"))
every = [s for s in shapes["scenarios"] if not only or s["name"] == only]
if not every:
    sys.exit("helm7.json has no scenario called " + only)
for name, wanted in ("short", lambda n: n < 1024), ("long", lambda n: n >= 1024):
    shapes["scenarios"] = [s for s in every if wanted(s["padded_prompt"])]
    if shapes["scenarios"]:
        json.dump(shapes, open("%s/%s.json" % (work, name), "w"))
PY

run() { # VARIANT GROUP OPTIONS...
    local variant=$1 group=$2
    shift 2
    [ -f "$work/$group.json" ] || return 0
    case $variants in *"$variant"*) ;; *) return 0 ;; esac
    local extra=${SLUICE_HELM_EXTRA:-}
    [ "$variant" = A ] && extra="$extra --padded --two-phase --no-prefix-sharing ${SLUICE_HELM_A:-}"
    [ "$variant" = B ] && extra="$extra ${SLUICE_HELM_B:-}"
    [ -n "$sim" ] && extra="$extra --backend sim --cluster $here/../../cluster/$sim.json"
    # shellcheck disable=SC2086
    "$sluice" bench --model "dummy:$work/config.json" --weights q4 --cache q4 --gpu-mem 16GiB \
        --cpu-mem 90GiB --seed 1 --shapes "$work/$group.json" --fewer "$fewer" "$@" $extra \
        >"$work/$variant.$group.jsonl" 2>"$work/$variant.$group.log" || {
        cat "$work/$variant.$group.log" >&2
        exit 1
    }
}
# The block of A short is that of W3 in g16.sh.  B moves fewer pages, so that more weights fit.
run A short --micro-batch 64 --num-micro-batches 4 --max-rows 2048 --weights-at 65,35 \
    --cache-at 5,95 --cpu-attention 60
run A long --micro-batch 16 --num-micro-batches 6 --max-rows 2048 --weights-at 80,20 \
    --cache-at 0,100 --cpu-attention 60
run B short --micro-batch 44 --num-micro-batches 6 --max-rows 2048 --weights-at 84,16 \
    --cache-at 0,100 --cpu-attention 40
run B long --micro-batch 16 --num-micro-batches 10 --max-rows 2048 --weights-at 80,20 \
    --cache-at 0,100 --cpu-attention 20

python3 - "$work" "$layers" "$fewer" <<'PY'
import glob, json, sys
work, layers, fewer = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
scale = 48 / layers
rows, total = {}, {}
for variant in "AB":
    for path in glob.glob("%s/%s.*.jsonl" % (work, variant)):
        for line in open(path):
            r = json.loads(line)
            if "scenario" in r:
                rows.setdefault(r["scenario"], {})[variant] = r
                t = total.setdefault(variant, {"seconds": 0, "tokens": 0})
                t["seconds"] += r["seconds"]
                t["tokens"] += r["n_generated_tokens"]
print("OPT-30B W4 KV4, %d of 48 layers, 1/%g of the sequences; seconds%s" % (
    layers, fewer, "" if layers == 48 else ", and scaled to 48 layers"))
print("%-26s %5s %9s %9s %9s %7s %9s %9s" % (
    "scenario", "seqs", "A s", "B s", "A tok/s", "B tok/s", "B shared", "A / B"))
for name, v in rows.items():
    a, b = v.get("A"), v.get("B")
    print("%-26s %5d %9s %9s %9s %7s %9s %9s" % (
        name, (a or b)["n_requests"],
        "%.2f" % a["seconds"] if a else "-", "%.2f" % b["seconds"] if b else "-",
        "%.1f" % a["total_tokens_per_s"] if a else "-",
        "%.1f" % b["total_tokens_per_s"] if b else "-",
        "%.0f %%" % (100 * b["n_shared_tokens"] / max(1, b["n_prompt_tokens"])) if b else "-",
        "%.2f" % (a["seconds"] / b["seconds"]) if a and b else "-"))
for variant, t in sorted(total.items()):
    print("%s: %.2f s, %d tokens, %.1f tokens/s%s" % (
        variant, t["seconds"], t["tokens"], t["tokens"] / t["seconds"],
        "" if layers == 48 else "; 48 layers: %.2f s, %.1f tokens/s" % (
            t["seconds"] * scale, t["tokens"] / t["seconds"] / scale)))
if len(total) == 2:
    ratio = total["A"]["seconds"] / total["B"]["seconds"]
    print("A / B: %.2f (to reach: 5)" % ratio)
PY
