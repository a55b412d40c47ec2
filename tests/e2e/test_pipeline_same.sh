#!/usr/bin/env bash
# The number of ranks changes nothing: SmolLM2 through the program on 1, 2 and 3 ranks gives the same
# texts and ids, greedy and at temperature 0.8, and log-probabilities within 1e-5; so does another
# block shape.  Two runs alike are equal byte for byte, time stamps apart.  Greedy texts are golden.
# A small model of random weights, made here, does so on 1 to 8 ranks, split by itself and unevenly.
# Usage: test_pipeline_same.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
. "$source/tests/e2e/model.sh"
results=$source/tests/e2e/results.py
golden=$source/tests/golden/smollm2/golden.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

python3 "$results" requests "$golden" >requests.jsonl || exit 1
python3 - <<'PY' || exit 1
import json, random

json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
           "intermediate_size": 128, "num_hidden_layers": 11, "num_attention_heads": 4,
           "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 512,
           "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 320, "bos_token_id": 1,
           "eos_token_id": 2, "tie_word_embeddings": False}, open("config.json", "w"))
random.seed(8)
with open("few.jsonl", "w") as f:
    for i in range(24):
        prompt = [random.randrange(3, 320) for _ in range(1 + 7 * i % 60)]
        print(json.dumps({"id": f"r{i}", "prompt": prompt, "max_tokens": 4 + 5 * i % 21,
                          "temperature": 0.8 * (i % 2), "logprobs": 2, "echo": i % 6 == 0,
                          "n": 1 + i % 2, "ignore_eos": True, "return_token_ids": True}), file=f)
    print('{"prompt": [3], "max_tokens": "many"}', file=f)
PY

# run RANKS OUTPUT OPTIONS...: answers $requests with $model.
run() {
    local ranks=$1 output=$2 status=0 start=()
    shift 2
    [ "$ranks" = 1 ] || start=(mpirun --oversubscribe --bind-to none -n "$ranks")
    "${start[@]}" "$sluice" run --model "$model" --input "$requests" --output "$output" \
        --max-context 512 --threads 1 --seed 11 --quiet "$@" >log 2>&1 </dev/null || status=$?
    [ "$status" = 3 ] && return # some lines are malformed
    echo "FAILED: $ranks ranks: exit status $status instead of 3"
    tail -n 20 log
    exit 1
}
check() {
    "$@" || failures=$((failures + 1))
}

requests=requests.jsonl
run 1 one.jsonl
run 2 two.jsonl
run 3 three.jsonl --layers 5,13,12
run 2 again.jsonl
run 2 shape.jsonl --micro-batch 3 --num-micro-batches 3 --max-rows 40
[ "$(wc -l <one.jsonl)" = "$(wc -l <requests.jsonl)" ] || check false

check python3 "$results" golden one.jsonl "$golden"
for other in two three shape; do
    check python3 "$results" same one.jsonl "$other.jsonl" 1e-5
done
for file in two again; do
    sed -E 's/"created": [0-9]+/"created": 0/' "$file.jsonl" >"$file.stamped"
done
if cmp two.stamped again.stamped; then
    echo "two runs on 2 ranks: $(wc -c <two.stamped) bytes the same"
else
    failures=$((failures + 1))
fi

# small RANKS [LAYERS]: as on one rank.
small() {
    local output=small-$1${2:+-uneven}.jsonl
    run "$1" "$output" --micro-batch 3 --num-micro-batches 2 --max-rows 40 ${2:+--layers "$2"}
    check python3 "$results" same small.jsonl "$output" 1e-5
}
model=dummy:$PWD/config.json requests=few.jsonl
run 1 small.jsonl
[ "$(wc -l <small.jsonl)" = "$(wc -l <few.jsonl)" ] || check false
for ranks in 1 2 3 4 5 6 7 8; do small "$ranks"; done
small 2 10,1
small 3 1,8,2
small 4 4,1,1,5
small 5 1,1,1,1,7
small 6 6,1,1,1,1,1
small 7 1,2,1,4,1,1,1
small 8 1,1,3,1,1,2,1,1
[ "$failures" = 0 ] || echo "FAILED: $failures comparisons"
exit $((failures > 0))
