#!/usr/bin/env bash
# On the simulated machine of cluster/g16.json: what mixed sweeps and common prefixes gain over the
# same engine's two phases, padded and unshared.
# Usage: test_mixed_sim.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
failures=0

# seconds OPTIONS...: time in the engine
seconds() {
    "$sluice" bench --backend sim --cluster "$source/cluster/g16.json" --model dummy:opt-30b \
        --weights q4 --cache q4 --gpu-mem 16GiB --cpu-mem 90GiB --quiet "$@" |
        python3 -c 'import json, sys; r = json.load(sys.stdin); print(r["prefill_s"] + r["decode_s"])'
}
# at_least NAME LEAST SLOW FAST
at_least() {
    python3 - "$@" <<'PY' || failures=$((failures + 1))
import sys
name, least, slow, fast = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
print("%s: %.1f s and %.1f s, %.2f times faster, expected %.2f" % (name, slow, fast, slow / fast, least))
sys.exit(slow / fast < least)
PY
}

w3=(--micro-batch 64 --num-micro-batches 4 --max-rows 2048 --weights-at "65,35" --cache-at "5,95"
    --cpu-attention 60)
work=(--prompt-len 512 --gen-len 32 --num-prompts 1024)
at_least "512/32" 1.3 "$(seconds "${w3[@]}" "${work[@]}" --two-phase)" "$(seconds "${w3[@]}" "${work[@]}")"

long=(--micro-batch 40 --num-micro-batches 10 --max-rows 512 --weights-at "88,12" --cache-at "0,100"
    --cpu-attention 62)
work=(--prompt-len 128 --gen-len 512 --num-prompts 400 --mean-prompt 96 --mean-gen 256)
at_least "128/512 with real lengths, against padded" 1.3 \
    "$(seconds "${long[@]}" "${work[@]}" --padded --two-phase)" "$(seconds "${long[@]}" "${work[@]}")"

if out=$("$source/tests/bench/helm7.sh" "$sluice" --sim g16); then
    printf '%s\n' "$out"
    ratio=$(printf '%s\n' "$out" | sed -n 's|^A / B: \([0-9.]*\).*|\1|p')
    at_least "HELM's seven" 5 "${ratio:-0}" 1
else
    failures=$((failures + 1))
fi
[ "$failures" = 0 ] || echo "FAILED: $failures checks"
exit $((failures > 0))
