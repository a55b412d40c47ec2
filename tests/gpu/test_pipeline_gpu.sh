#!/usr/bin/env bash
# The number of ranks changes no token on GPUs: 2, 3 and 4 ranks on one GPU, and, where there are two,
# 2 ranks with one each, by NCCL and by MPI, uneven slices and placements below the GPU included.
# The models are made here: their weights are random.
# Usage: test_pipeline_gpu.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
results=$source/tests/e2e/results.py
n_gpus=0
command -v nvidia-smi >/dev/null && n_gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU')
if [ "$n_gpus" = 0 ]; then
    echo "skipped: there is no NVIDIA GPU"
    exit 77
fi
command -v mpirun >/dev/null || {
    echo "skipped: no mpirun"
    exit 77
}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
first_gpu=${CUDA_VISIBLE_DEVICES:-0}
first_gpu=${first_gpu%%,*}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

python3 - <<'PY' || exit 1
import json, random

json.dump({"architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 512,
           "word_embed_proj_dim": 512, "ffn_dim": 2048, "num_hidden_layers": 8,
           "num_attention_heads": 8, "activation_function": "relu", "do_layer_norm_before": True,
           "max_position_embeddings": 512, "vocab_size": 4096, "bos_token_id": 2,
           "eos_token_id": 2}, open("config.json", "w"))
random.seed(5)
with open("requests.jsonl", "w") as f:
    for i in range(48):
        prompt = [random.randrange(4, 4096) for _ in range(3 + 5 * i % 130)]
        print(json.dumps({"id": f"r{i}", "prompt": prompt, "max_tokens": 8 + i % 9,
                          "temperature": 0, "logprobs": 2, "ignore_eos": True,
                          "return_token_ids": True}), file=f)
PY

# run RANKS OUTPUT TRANSPORT OPTIONS...: the transport is that which the report must name.
run() {
    local ranks=$1 output=$2 transport=$3 start=()
    shift 3
    [ "$ranks" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$ranks")
    if ! timeout 300 "${start[@]}" "$sluice" run --model "dummy:$PWD/config.json" \
        --input requests.jsonl --output "$output" --max-context 256 --seed 3 --gpu-mem 1400MiB \
        --cpu-mem 2GiB --micro-batch 6 --num-micro-batches 2 --blocks-in-flight 4 --max-rows 64 \
        --metrics-json metrics.json --quiet "$@" >log 2>&1 </dev/null; then
        echo "FAILED: $ranks ranks, $*: "
        grep -h "sluice: " log | tail -n 3
        failures=$((failures + 1))
        return
    fi
    python3 - "$transport" <<'PY' || failures=$((failures + 1))
import json, sys

r = json.load(open("metrics.json"))
bad = []
if r["transport"] != sys.argv[1]:
    bad.append(f"the transport is {r['transport']}, expected {sys.argv[1]}")
if not r["backend"].startswith("cuda"):
    bad.append(f"the backend is {r['backend']}")
for k in r["ranks"]:
    for what in ("n_steady_allocs", "n_drains"):
        if k[what]:
            bad.append(f"rank {k['rank']}: {what} is {k[what]}")
    wire = k["queues"]["wire-in"]["bytes"], k["queues"]["wire-out"]["bytes"]
    if (wire[0] > 0) != (k["rank"] > 0) or (wire[1] > 0) != (k["rank"] < r["n_ranks"] - 1):
        bad.append(f"rank {k['rank']}: {wire} bytes in and out")
print("\n".join("FAILED: " + b for b in bad), end="\n" if bad else "")
sys.exit(bool(bad))
PY
}
alike() {
    python3 "$results" alike "$1" "$2" 2e-2 || failures=$((failures + 1))
}
refuses() { # TEXT COMMAND...
    local text=$1
    shift
    if "$@" >log 2>&1 </dev/null || ! grep -qF -- "$text" log; then
        echo "FAILED: no \"$text\": $*"
        grep -h "sluice: " log | tail -n 3
        failures=$((failures + 1))
    fi
}

below=(--weights-at "40,60" --cache-at "30,70" --cpu-attention 50)
low=(--weights q4 --cache q4)
run 1 one.jsonl loopback
run 1 one-low.jsonl loopback "${low[@]}"
run 1 one-below.jsonl loopback "${below[@]}"
alike one.jsonl one-below.jsonl

(
    export CUDA_VISIBLE_DEVICES=$first_gpu
    for ranks in 2 3 4; do
        run "$ranks" "shared-$ranks.jsonl" mpi
        alike one.jsonl "shared-$ranks.jsonl"
    done
    run 3 shared-uneven.jsonl mpi --layers 1,5,2
    alike one.jsonl shared-uneven.jsonl
    run 2 shared-low.jsonl mpi "${low[@]}"
    alike one-low.jsonl shared-low.jsonl
    run 2 shared-below.jsonl mpi "${below[@]}"
    alike one-below.jsonl shared-below.jsonl
    run 2 shared-travels.jsonl mpi --hidden-at 0,100
    alike one.jsonl shared-travels.jsonl
    if ! "$sluice" version | grep -q 'nccl.*not built in'; then
        refuses "ranks 0 and 1 share a GPU" mpirun --oversubscribe --bind-to none -n 2 "$sluice" \
            bench --model "dummy:$PWD/config.json" --gpu-mem 1400MiB --transport nccl
    fi
    exit "$failures"
)
failures=$?

if [ "$n_gpus" -lt 2 ]; then
    echo "one GPU: what needs two is left out"
elif "$sluice" version | grep -q 'nccl.*not built in'; then
    echo "built without NCCL: what needs it is left out"
else
    run 2 nccl.jsonl nccl
    alike one.jsonl nccl.jsonl
    run 2 nccl-again.jsonl nccl
    for file in nccl nccl-again; do
        python3 "$results" sort "$file.jsonl" | sed -E 's/"(created|id|request_id)": [^,]*//g' \
            >"$file.plain"
    done
    cmp nccl.plain nccl-again.plain || failures=$((failures + 1))
    run 2 two-mpi.jsonl mpi --transport mpi
    python3 "$results" alike nccl.jsonl two-mpi.jsonl 1e-6 || failures=$((failures + 1))
    run 2 nccl-uneven.jsonl nccl --layers 7,1
    alike one.jsonl nccl-uneven.jsonl
    run 2 nccl-low.jsonl nccl "${low[@]}"
    alike one-low.jsonl nccl-low.jsonl
    run 2 nccl-below.jsonl nccl "${below[@]}"
    alike one-below.jsonl nccl-below.jsonl
    run 2 nccl-serial.jsonl nccl --no-overlap
    alike one.jsonl nccl-serial.jsonl
    run 2 travels.jsonl nccl --hidden-at 0,100
    alike one.jsonl travels.jsonl
    if [ "$n_gpus" -ge 3 ]; then
        run 3 nccl-3.jsonl nccl --layers 2,3,3
        alike one.jsonl nccl-3.jsonl
    fi
fi
[ "$failures" = 0 ] || echo "FAILED: $failures"
exit $((failures > 0))
