#!/usr/bin/env bash
# `sluice plan` as a user and as a program meets it: golden numbers in its JSON, tables, refusals.
# Usage: test_plan.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    echo "  stdout: $(head -c 600 out)"
    echo "  stderr: $(head -c 600 err)"
    failures=$((failures + 1))
}

# expect STATUS COMMAND...: runs it with stdout and stderr in the files out and err.
expect() {
    local wanted=$1 status=0
    shift
    "$@" >out 2>err </dev/null || status=$?
    [ "$status" = "$wanted" ] || fail "exit status $status instead of $wanted: $*"
}
says() { grep -qF -- "$2" "$1" || fail "no \"$2\" in $1"; }
silent() { [ ! -s "$1" ] || fail "$1 is not empty"; }

# holds EXPRESSION: true of the JSON object p in the file out, with `near` and `keys` at hand.
holds() {
    python3 - "$1" <<'P' || fail "not so: $1"
import json
import sys

p = json.load(open("out"))
shares = ("gpu", "cpu", "disk")


def near(value, printed):
    decimals = len(printed.partition(".")[2])
    return f"{value:.{decimals}f}" == printed


def sums():
    return all(abs(sum(p[k][t] for t in shares) - 1) < 1e-9 for k in ("weights", "cache", "hidden"))


sys.exit(0 if eval(sys.argv[1]) else 1)
P
}
plan() { expect 0 "$sluice" plan --cost-model flexgen --prompt-len 512 --gen-len 32 --cpu-mem 200GiB \
    --disk-mem 1500GiB --json "$@"; }

# ---- the golden numbers ----

plan --model dummy:opt-30b --gpu-mem 16GiB --micro-batch 32 --num-micro-batches 5 --alpha 0.8
holds 'p["feasible"] is True and sums()'
holds 'near(p["seconds"], "721.663") and near(p["objective"], "4.510391")'
holds 'near(p["tokens_per_s"], "7.0947") and (p["micro_batch"], p["num_micro_batches"]) == (32, 5)'
silent err
plan --model dummy:opt-1.3b --gpu-mem 16GiB --micro-batch 4 --num-micro-batches 8
holds 'near(p["objective"], "0.1215586") and p["weights"] == {"gpu": 1, "cpu": 0, "disk": 0}'

fixed='near(p["seconds"], "645.764") and p["weights"]["gpu"] == .2 and p["cache"]["cpu"] == 1'
plan --model dummy:opt-30b --gpu-mem 16GiB --micro-batch 48 --num-micro-batches 3 --alpha 1.2 \
    --percent 20,80,0,100,0,100
holds "$fixed"
plan --percent 20 80 0 100 0 100 --model dummy:opt-30b --gpu-mem 16GiB --micro-batch 48 \
    --num-micro-batches 3 --alpha 1.2
holds "$fixed"

plan --model dummy:opt-30b --gpu-mem 16GiB
holds '(p["micro_batch"], p["num_micro_batches"]) == (32, 5) and near(p["tokens_per_s"], "7.09")'
plan --model dummy:opt-30b --gpu-mem 15GiB --cpu-mem 204GiB --alpha 1
holds '(p["micro_batch"], p["num_micro_batches"]) == (32, 7) and near(p["tokens_per_s"], "7.48")'
plan --model dummy:opt-175b --gpu-mem 16GiB
holds '(p["micro_batch"], p["num_micro_batches"]) == (1, 432) and near(p["tokens_per_s"], "0.17")'
plan --model dummy:opt-6.7b --gpu-mem 16GiB
holds '(p["micro_batch"], p["num_micro_batches"]) == (1, 2) and near(p["tokens_per_s"], "60.85")'

plan --model dummy:opt-175b --gpu-mem 16GiB --micro-batch 8 --num-micro-batches 4 --compress-weights
holds 'p["feasible"] and sums() and p["memory"]["gpu"]["budget_bytes"] == int(12.8 * 2**30)'
holds 'all(p["memory"][t][s] <= p["memory"][t]["budget_bytes"] * (1 + 1e-6) for t in shares for s in ("prefill_bytes", "decode_bytes"))'

# ---- any model ----

for model in "dummy:$source/tests/golden/dummy/config.json" "$source/tests/golden/models/mistral" \
    "$source/tests/golden/models/gguf-llama/model.gguf"; do
    plan --model "$model" --micro-batch 4
    holds 'p["feasible"] and sums() and p["micro_batch"] == 4'
done

# ---- for people ----

expect 0 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --gpu-mem 16GiB
says out "--micro-batch 32 --num-micro-batches 5"
says out "7.09473 tokens/s"
says out "prefill by compute"
says out "12.80 GiB  full"
silent err

# ---- what does not fit ----

expect 1 "$sluice" plan --cost-model flexgen --model dummy:opt-175b --gpu-mem 16GiB --micro-batch 32 --num-micro-batches 8
says err "GPU memory lacks 0.70 GiB in prefill (needs 13.50 of 12.80 GiB)"
says err "--gpu-mem 16.88GiB, or --micro-batch 16 --num-micro-batches 8"
silent out
expect 3 "$sluice" plan --cost-model flexgen --model dummy:opt-175b --gpu-mem 4GiB --cpu-mem 32GiB --disk-mem 100GiB \
    --micro-batch 8 --num-micro-batches 4 --json
holds 'p["feasible"] is False and p["tokens_per_s"] is None and "lacks" in p["reason"]'
silent err
expect 1 "$sluice" plan --cost-model flexgen --model dummy:opt-175b --gpu-mem 4GiB --cpu-mem 2GiB
says err "not even in blocks of 1 x 1"
says err "--gpu-mem 8.71GiB and --cpu-mem 4.29GiB"
# The advice is right.
expect 0 "$sluice" plan --cost-model flexgen --model dummy:opt-175b --gpu-mem 8.71GiB --cpu-mem 4.29GiB --micro-batch 1 \
    --num-micro-batches 1
expect 1 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --gpu-mem 16GiB --percent 90,10,0,100,0,100
says err "or shares that are not given"

# ---- on a measured machine ----

g16=$source/cluster/g16.json
on_g16() { expect 0 "$sluice" plan --model dummy:opt-30b --profile "$g16" --num-prompts 512 "$@"; }

on_g16 --quality q4 --save policy.json --json
holds 'p["feasible"] and p["cost_model"] == "measured" and p["best"]["policy"]["weights"] == "q4"'
holds 'p["best"]["tokens_per_s"] <= p["best"]["bound_tokens_per_s"]'
holds 'all(m["peak_bytes"] <= m["budget_bytes"] for m in p["best"]["memory"].values())'
holds 'p["second"]["tokens_per_s"] <= p["best"]["tokens_per_s"]'
holds 'set(p["best"]["decode"]["queues_s"]) >= {"h2d", "compute", "cpu attention", "host memory"}'
holds 'json.load(open("policy.json"))["micro_batch"] == p["best"]["policy"]["micro_batch"]'
silent err
on_g16 --json
holds 'p["best"]["policy"]["weights"] == "f16" and p["best"]["policy"]["cache"] == "f16"'
on_g16 --weights q4 --cache q8 --micro-batch 40 --num-micro-batches 3 --max-rows 1000
says out "--micro-batch 40 --num-micro-batches 3 --max-rows 1000"
says out "--weights q4 --cache q8"
says out "host memory"
says out "##"
says out "bound        prefill by"
says out "While decoding, the processors attend to"
on_g16 --quality q4
says out "runner-up"
on_g16 --max-latency 5 --quality q4 --json
holds 'p["best"]["request_s"] <= 5'
expect 1 "$sluice" plan --model dummy:opt-30b --profile "$g16" --max-latency 0.001
says err "the quickest that was found takes"
expect 1 "$sluice" plan --model dummy:opt-30b --profile "$g16" --cpu-mem 20GiB --disk-mem 1GiB
says err "host memory lacks"
says err "weights and cache in 4 bits"
silent out
expect 3 "$sluice" plan --model dummy:opt-30b --profile "$g16" --cpu-mem 20GiB --disk-mem 1GiB --json
holds 'p["feasible"] is False and p["short_bytes"]["cpu"] > 0 and "lacks" in p["reason"]'

# What is planned can be run, within the budgets: host memory stands in for a GPU's.
python3 - <<'P'
import json

json.dump({"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 1000,
           "hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 4, "num_hidden_layers": 6,
           "max_position_embeddings": 512, "word_embed_proj_dim": 256,
           "do_layer_norm_before": True, "activation_function": "relu", "bos_token_id": 2,
           "eos_token_id": 2, "pad_token_id": 1}, open("tiny.json", "w"))
P
tiny=(--model dummy:tiny.json --prompt-len 60 --gen-len 8 --num-prompts 40 --threads 2
    --backend cpu --gpu-mem 12MiB --cpu-mem 16MiB --quiet)
expect 0 "$sluice" bench "${tiny[@]}" --profile "$source/cluster/toy.json"
holds 'p["n_generated_tokens"] == 320 and 0 < p["ranks"][0]["weight_bytes_cpu"]'
holds '0.9 * 12 * 2**20 < p["ranks"][0]["gpu_peak_bytes"] <= 12 * 2**20'
expect 0 "$sluice" plan --model dummy:tiny.json --prompt-len 60 --gen-len 8 --num-prompts 40 \
    --profile "$source/cluster/toy.json" --gpu-mem 160MiB --quality q8 --save tiny-policy.json
expect 0 "$sluice" bench "${tiny[@]}" --gpu-mem 32MiB --policy tiny-policy.json
holds 'p["policy"]["micro_batch"] == json.load(open("tiny-policy.json"))["micro_batch"]'
expect 0 "$sluice" bench "${tiny[@]}" --gpu-mem 32MiB --policy tiny-policy.json --micro-batch 3
holds 'p["policy"]["micro_batch"] == 3'
echo '{"policy_version": 1, "micro_batch": -1}' >bad.json
expect 1 "$sluice" bench "${tiny[@]}" --policy bad.json
says err "bad.json"
expect 2 "$sluice" bench "${tiny[@]}" --gpu-mem 0 --profile "$g16"

# ---- planned by default ----

# A large job is planned for its machine, a small one is not, and both say what they expected.
sim=(--backend sim --cluster "$g16" --prompt-len 512 --gen-len 8)
expect 0 "$sluice" bench "${sim[@]}" --model dummy:opt-30b --weights q4 --cache q4 --num-prompts 512
says err "tokens/s expected"
holds 'p["policy"]["cpu_attention"] > 0 and p["policy"]["cache_at"]["cpu"] > 0'
holds '0.9 < p["plan"]["tokens_per_s"] / p["total_tokens_per_s"] < 1.1'
holds 'p["plan"]["peak_bytes"]["gpu"] >= p["ranks"][0]["gpu_peak_bytes"] > 15 * 2**30'
holds 'all(abs(p["plan"]["busy_s"][q] / p["ranks"][0]["queues"][q]["busy_s"] - 1) < 0.1 for q in ("h2d", "gpu", "cpu-attention"))'
expect 0 "$sluice" bench "${sim[@]}" --model dummy:opt-1.3b --num-prompts 64
says err "nothing to plan"
holds 'p["policy"]["micro_batch"] == 64 and p["ranks"][0]["weight_bytes_cpu"] == 0'
expect 0 "$sluice" bench "${sim[@]}" --model dummy:opt-30b --weights q4 --num-prompts 64 --plan never
holds 'p["policy"]["micro_batch"] == 32 and "plan" not in p'
expect 0 "$sluice" bench --model dummy:tiny.json --prompt-len 60 --gen-len 8 --num-prompts 40 \
    --threads 2 --backend cpu --gpu-mem 12MiB --cpu-mem 16MiB
says err "a small job: not planned"
# A machine without a GPU measures itself once and plans for its processors and disk.
host=(--model dummy:tiny.json --prompt-len 60 --gen-len 8 --num-prompts 40 --threads 2 --backend cpu
    --cpu-mem 9MiB --disk-dir . --plan always)
export XDG_CACHE_HOME=$work/cache
mkdir cache
expect 0 "$sluice" bench "${host[@]}"
says err "measured this machine in"
says err "tokens/s expected"
holds 'p["ranks"][0]["weight_bytes_disk"] > 0 and p["plan"]["busy_s"]["disk-read"] > 0'
holds 'p["ranks"][0]["cpu_peak_bytes"] <= p["plan"]["peak_bytes"]["cpu"] <= 9 * 2**20'
expect 0 "$sluice" bench "${host[@]}"
grep -q "measur" err && fail "measured twice"
echo '{"prompt": [5, 6, 7], "max_tokens": 4}' >in.jsonl
expect 0 "$sluice" run --model dummy:tiny.json --threads 2 --backend cpu --cpu-mem 9MiB --disk-dir . \
    --plan always -i in.jsonl -o out.jsonl
says err "1 requests"
# Another machine's profile, and one that is of another kind.
expect 0 "$sluice" bench "${tiny[@]}" --cluster "$source/cluster/toy.json"
holds 'p["plan"]["machine"] == "a toy that forces all tiers"'
expect 2 "$sluice" bench "${tiny[@]}" --gpu-mem 0 --cluster "$g16"
says err "this one has none"

# ---- unequal machines ----

two=(--model dummy:opt-13b --prompt-len 128 --gen-len 8 --num-prompts 128
    --cluster "$source/cluster/h100.json" --cluster "$source/cluster/t4.json")
expect 0 "$sluice" plan "${two[@]}" --weights q4 --cache q4 --json
holds 'p["feasible"] and sum(r["layers"] for r in p["ranks"]) == 40'
holds 'p["ranks"][0]["layers"] > 3 * p["ranks"][1]["layers"] > 0'
expect 0 "$sluice" plan "${two[@]}" --quality q4 --ranks 3
says out "one T4"
says out "--layers"
expect 2 "$sluice" plan "${two[@]}" --save unequal.json
says err "--save"
# A run on such machines splits the layers by itself, and says what it expected.
expect 0 "$sluice" bench "${two[@]}" --backend sim --weights q4 --cache q4 -q
holds 'p["ranks"][0]["end_layer"] > 30 and abs(p["plan"]["tokens_per_s"] / p["total_tokens_per_s"] - 1) < 0.1'

# ---- a run that plans for its input ----

# 50 of 60 tokens and 150 of 400 on average: the plan is for them, and not for 512 tokens each.
python3 - <<'P' >ragged.jsonl
import json

for i in range(200):
    n = 60 if i % 4 == 0 else 400 + i % 7
    print(json.dumps({"prompt": [5 + (i * 131 + j * 7) % 1000 for j in range(n)],
                      "max_tokens": 8 if i % 2 else 40, "ignore_eos": True}))
P
g16=("$sluice" run --model dummy:opt-30b --backend sim --cluster "$source/cluster/g16.json"
    --input ragged.jsonl --max-context 512 --overwrite)
expect 0 "${g16[@]}" --output auto.jsonl --weights auto --cache auto --quality q4
says err "200 requests of 317 + 24 tokens"
says err "Q4G64 weights, Q4G64 cache"
expect 0 "${g16[@]}" --output f16.jsonl --weights auto --cache auto
says err "F16 weights, F16 cache"
expect 1 "${g16[@]}" --output late.jsonl --weights q4 --cache q4 --max-latency 0.01
says err "no block answers a request within 0.01 s"
expect 0 "${g16[@]}" --output soon.jsonl --weights q4 --cache q4 --max-latency 5
expect 2 "${g16[@]}" --output no.jsonl --quality q4
says err "--weights auto or --cache auto"
expect 2 "${g16[@]}" --output no.jsonl --max-latency 5 --micro-batch 4
says err "--max-latency bounds what is planned"

# ---- wrong usage ----

expect 2 "$sluice" plan
says err "--model: not given"
expect 2 "$sluice" plan --model dummy:opt-31b
expect 2 "$sluice" plan --model dummy:opt-30b --cost-model magic
says err "expected one of measured, flexgen"
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --percent 20,80,0
says err "expected 6"
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --percent 90,20,0,100,0,100
says err "found 90 + 20 for weights"
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --percent 90,10,0,100,0,50
says err "expected exactly 100"
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --percent 20 80 0 100 0 101
says err '--percent: found "101"'
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b 20 80
says err '"20", which is no option'
expect 2 "$sluice" plan --cost-model flexgen --model dummy:opt-30b --alpha 0
expect 2 "$sluice" plan --model dummy:opt-30b --alpha 0.9
says err "--cost-model flexgen"
expect 2 "$sluice" plan --model dummy:opt-30b --cost-model flexgen --quality q4
says err "--cost-model measured"
expect 2 "$sluice" run --model dummy:opt-125m --profile "$source/cluster/toy.json" --micro-batch 3 \
    --gpu-mem 64MiB --backend cpu
says err "--policy FILE"
expect 0 "$sluice" plan --help
for option in model prompt-len gen-len cost-model gpu-mem cpu-mem disk-mem alpha micro-batch \
    num-micro-batches percent compress-weights json profile num-prompts ranks max-rows max-context \
    weights cache quality max-latency save cluster may-idle; do
    says out "--$option"
done
says out "Exit status"

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
