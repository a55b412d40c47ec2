#!/usr/bin/env bash
# Memory for fewer pages than all sequences take at their longest changes no token, greedy or seeded,
# on one rank and on two: sequences take pages as they grow, and more of them run than would fit whole.
# The model is made here: its weights are random.
# Usage: test_growth_same.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

python3 - <<'PY' || exit 1
import json, random

json.dump({"architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 64,
           "word_embed_proj_dim": 64, "ffn_dim": 256, "num_hidden_layers": 4,
           "num_attention_heads": 4, "activation_function": "relu", "do_layer_norm_before": True,
           "max_position_embeddings": 512, "vocab_size": 1024, "bos_token_id": 2,
           "eos_token_id": 2}, open("config.json", "w"))
random.seed(5)
with open("requests.jsonl", "w") as f:
    for i in range(300):
        prompt = [random.randrange(4, 1024) for _ in range(3 + 5 * i % 60)]
        print(json.dumps({"id": f"r{i}", "prompt": prompt, "max_tokens": 120 + i % 90,
                          "temperature": i % 2, "seed": i, "ignore_eos": i % 3 > 0,
                          "return_token_ids": True}), file=f)
PY

# run RANKS OUTPUT MEMORY
run() {
    local start=()
    [ "$1" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$1")
    "${start[@]}" "$sluice" run --model "dummy:$PWD/config.json" --input requests.jsonl \
        --output "$2.jsonl" --metrics-json "$2.json" --max-context 288 --seed 3 --plan never \
        --micro-batch 24 --num-micro-batches 2 --blocks-in-flight 1 --max-rows 96 --threads 2 \
        --cpu-mem "$3" --quiet 2>log </dev/null || {
        echo "FAILED: $1 ranks, $3: $(tail -n 2 log)"
        failures=$((failures + 1))
        return 1
    }
}

run 1 ample 1GiB || exit 1
for setting in "1 12MiB" "1 10MiB" "2 6MiB"; do
    read -r ranks memory <<<"$setting"
    if [ "$ranks" -gt 1 ] && ! command -v mpirun >/dev/null; then
        echo "skipped: no mpirun"
        exit 77
    fi
    run "$ranks" tight "$memory" || continue
    python3 "$source/tests/e2e/results.py" same ample.jsonl tight.jsonl 0 || {
        echo "FAILED: other results on $ranks ranks with $memory"
        failures=$((failures + 1))
    }
    python3 - "$ranks ranks, $memory" <<'PY' || failures=$((failures + 1))
import json, sys

WHOLE = 9  # pages of 288 tokens
ample, tight = (json.load(open(name))["ranks"][0] for name in ("ample.json", "tight.json"))
print("%s: %d pages of %d, %d blocks instead of %d" % (
    sys.argv[1], tight["pages_total"], 48 * WHOLE, tight["n_blocks"], ample["n_blocks"]))
if tight["pages_total"] > 0.8 * 48 * WHOLE or tight["pages_peak"] < 0.95 * tight["pages_total"]:
    sys.exit("FAILED: memory is not short, or not used")
if tight["n_blocks"] > 1.15 * ample["n_blocks"]:
    sys.exit("FAILED: too few sequences ran together")
PY
    rm -f tight.jsonl tight.json
done
[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
