#!/usr/bin/env bash
# The program as a user meets it: help, exit statuses, messages, malformed lines, files.
# Usage: test_cli.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
model=dummy:$source/tests/golden/dummy/config.json
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

# ---- help and version ----

expect 0 "$sluice" --help
for command in run serve bench plan inspect version; do
    says out "$command"
done
for command in run serve bench plan inspect version; do
    expect 0 "$sluice" "$command" --help
    says out "Usage: sluice $command"
    silent err
done
expect 0 "$sluice" run --help
for option in model input output overwrite resume no-resume format order max-tokens min-tokens \
    temperature top-k top-p min-p repetition-penalty frequency-penalty presence-penalty stop ignore-eos logprobs echo \
    micro-batch num-micro-batches max-rows blocks-in-flight max-context weights cache cpu-mem threads seed \
    layers metrics-json trace timeout stall-timeout quiet; do
    says out "--$option"
done
expect 0 "$sluice" serve --help
for option in model name host port token-file max-tokens max-body max-queue request-timeout idle-timeout drain \
    micro-batch cpu-mem weights cache threads seed metrics-json quiet; do
    says out "--$option"
done
for route in /v1/completions /v1/chat/completions /v1/models /tokenize /detokenize /health /metrics; do
    says out "$route"
done
expect 0 "$sluice" version
says out "sluice "
expect 0 "$sluice" version --json
python3 -m json.tool <out >/dev/null || fail "version --json is no JSON"
expect 0 "$sluice" --version

# ---- wrong usage: 2, one message that names the fault ----

expect 2 "$sluice"
says err "Usage: sluice"
expect 2 "$sluice" rnu
says err 'did you mean run?'
expect 2 "$sluice" run
says err "--model: not given"
expect 2 "$sluice" run --model "$model" --temprature 0
says err "did you mean --temperature?"
expect 2 "$sluice" run --model "$model" --temperature hot
says err '--temperature: found "hot", expected a number'
expect 2 "$sluice" run --model "$model" --order random
says err "expected one of input, finish"
expect 2 "$sluice" run --model "$model" extra
says err '"extra"'
expect 2 "$sluice" serve
says err "--model: not given"
expect 2 "$sluice" serve --model "$model" --port 65536
says err "--port"
expect 1 "$sluice" serve --model "$model" --token-file missing-token
says err "missing-token"
expect 2 "$sluice" inspect
says err "usage: sluice inspect MODEL"
expect 2 "$sluice" inspect dummy:opt-31b
says err "opt-30b"
echo '{"prompt": [1]}' >one.jsonl
expect 2 "$sluice" run --model "$model" --input one.jsonl --layers 2,2
says err "--layers: found 2 numbers, expected one for each of 1 ranks"
expect 2 "$sluice" run --model "$model" --input one.jsonl --layers 3
says err "expected the model's 4 layers"

# ---- failures: 1 ----

expect 1 "$sluice" run --model "$model" --input missing.jsonl
says err "missing.jsonl"
expect 1 "$sluice" run --model missing-model --input one.jsonl
says err "missing-model"
expect 1 "$sluice" inspect missing.gguf
says err "missing.gguf"
expect 1 "$sluice" run --model "$model" --input one.jsonl --output missing-folder/out.jsonl
says err "missing-folder/out.jsonl"
expect 1 "$sluice" run --model "$model" --input one.jsonl --metrics-json missing-folder/m.json
says err "missing-folder/m.json"
silent out
expect 1 "$sluice" run --model "$model" --input one.jsonl --trace missing-folder/t.json
says err "open trace missing-folder/t.json"
silent out
expect 1 "$sluice" run --model "$model" --input one.jsonl --cpu-mem 1KiB
says err "budget of 1.00 KiB"
[ -e /dev/full ] && {
    expect 1 "$sluice" run --model "$model" --input one.jsonl --output /dev/full
    says err "No space left"
}

# ---- answers ----

cat >good.jsonl <<'J'
{"id": "a", "prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0, "logprobs": 2, "echo": true}
{"id": "b", "prompt": [[5, 6, 7], [8]], "max_tokens": 3, "n": 2, "ignore_eos": true}

{"id": "c", "prompt": [1, 2, 3], "max_tokens": 0, "echo": true, "logprobs": 1}
{"id": "d", "prompt": [9], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": true}
J
expect 0 "$sluice" run --model "$model" --input good.jsonl --output good.out --metrics-json m.json \
    --trace t.json
silent out
says err "prefill"
python3 - <<'P' || fail "wrong answers"
import json
rows = [json.loads(line) for line in open("good.out")]
assert [r["custom_id"] for r in rows] == ["a", "b", "c", "d"], rows
bodies = [r["response"]["body"] for r in rows]
assert all(r["response"]["status_code"] == 200 and r["error"] is None for r in rows)
a = bodies[0]["choices"][0]
assert a["prompt_token_ids"] == [5, 6, 7] and len(a["token_ids"]) == 4
lp = a["logprobs"]
assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"]) == 7
assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
for name, value, top in list(zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]))[1:]:
    assert top[name] == value
for name, value, top in list(zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]))[3:]:
    assert value == max(top.values())  # greedy
assert [c["index"] for c in bodies[1]["choices"]] == [0, 1, 2, 3]
assert bodies[1]["choices"][0]["prompt_token_ids"] == [5, 6, 7]
assert bodies[1]["choices"][2]["prompt_token_ids"] == [8]
assert bodies[1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}
assert bodies[2]["choices"][0]["token_ids"] == [] and bodies[2]["choices"][0]["finish_reason"] == "length"
assert len(bodies[3]["choices"][0]["token_ids"]) == 40
m = json.load(open("m.json"))
assert m["n_requests"] == 4 and m["n_generated_tokens"] == 56, m
assert m["ranks"][0]["cpu_peak_bytes"] <= m["ranks"][0]["cpu_budget_bytes"]
events = json.load(open("t.json"))["traceEvents"]
assert [e["pid"] for e in events if e["name"] == "process_name"] == [0], events
P

# The same job again is the same, time stamps apart; another seed is another text where it counts.
strip() { sed 's/"created": [0-9]*//' "$1"; }
expect 0 "$sluice" run --model "$model" --input good.jsonl --output again.out --quiet
silent err
[ "$(strip good.out)" = "$(strip again.out)" ] || fail "two runs of the same job differ"
expect 0 "$sluice" run --model "$model" --input good.jsonl --order finish --quiet
[ "$(strip out | sort)" = "$(strip good.out | sort)" ] || fail "--order finish gives other results"

# A run does not overwrite what is there unless it is told to.
cp good.out kept.out
expect 2 "$sluice" run --model "$model" --input good.jsonl --output kept.out
says err "--overwrite"
cmp -s good.out kept.out || fail "a refused output was changed"
expect 1 "$sluice" run --model missing-model --input good.jsonl --output kept.out --overwrite
cmp -s good.out kept.out || fail "a run that never began emptied its output"
expect 0 "$sluice" run --model "$model" --input one.jsonl --output kept.out --overwrite
[ "$(wc -l <kept.out)" = 1 ] || fail "--overwrite did not replace the output"
cp one.jsonl same.jsonl
expect 2 "$sluice" run --model "$model" --input same.jsonl --output same.jsonl --overwrite
cmp -s one.jsonl same.jsonl || fail "the input was overwritten"

# ---- lines with errors: 3, the others are answered ----

cat >bad.jsonl <<'J'
{"prompt": [1], "max_tokens": 1}
{"prompt": [1]
{"prompt": "text"}
{"prompt": [999]}
{"prompt": [1], "max_tokens": 100000}
{"prompt": [1], "temperature": "hot"}
{"prompt": [1], "max_tokens": 1, "frobnicate": 1}
{"prompt": [1], "max_tokens": 1, "frobnicate": 2}
{"prompt": [[1], [999]], "max_tokens": 20}
{"prompt": [2], "max_tokens": 1}
J
expect 3 "$sluice" run --model "$model" --input bad.jsonl
[ "$(grep -c "frobnicate" err)" = 1 ] || fail "not one warning for one unknown field"
python3 - <<'P' || fail "wrong answers to malformed lines"
import json
rows = [json.loads(line) for line in open("out")]
assert [r["custom_id"] for r in rows] == [f"line-{i}" for i in range(1, 11)]
codes = [r["response"]["status_code"] for r in rows]
assert codes == [200, 400, 400, 400, 400, 400, 200, 200, 400, 200], codes
for i, row in enumerate(rows, 1):
    if row["response"]["status_code"] == 400:
        message = row["response"]["body"]["error"]["message"]
        assert message.startswith(f"line {i}: ") and ".c:" not in message, message
messages = [r["response"]["body"]["error"]["message"] for r in rows if r["response"]["status_code"] == 400]
for message, part in zip(messages, ["JSON", "no tokenizer", "999", "100000", "temperature", "999"]):
    assert part in message, (message, part)
P

# ---- the three forms, and standard input ----

echo '{"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": [3, 4], "max_tokens": 2}}' >batch.jsonl
expect 0 "$sluice" run --model "$model" --input batch.jsonl --quiet
says out '"custom_id": "x"'
echo '{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}' >chat.jsonl
expect 3 "$sluice" run --model "$model" --input chat.jsonl --quiet
says out "not served by this version"
expect 3 "$sluice" run --model "$model" --input one.jsonl --format text --quiet
says out "no tokenizer"
"$sluice" run --model "$model" --quiet <one.jsonl >out 2>err || fail "standard input"
[ "$(wc -l <out)" = 1 ] || fail "no answer to standard input"
: >empty.jsonl
expect 0 "$sluice" run --model "$model" --input empty.jsonl --quiet
silent out

# A slow pipe: the first answer is there before the second request is.
mkfifo pipe
"$sluice" run --model "$model" --input pipe --output slow.out --quiet 2>err &
pid=$!
exec 7>pipe
cat one.jsonl >&7
for _ in $(seq 200); do
    [ -s slow.out ] && break
    sleep 0.05
done
[ "$(wc -l <slow.out)" = 1 ] || fail "a request on a pipe waits for the next one"
cat one.jsonl >&7
exec 7>&-
wait "$pid" || fail "the run on a pipe failed"
[ "$(wc -l <slow.out)" = 2 ] || fail "the second request on a pipe has no answer"

# A signal ends the job; what is answered is written.
"$sluice" run --model "$model" --input pipe --output stopped.out --quiet 2>err &
pid=$!
exec 7>pipe
cat one.jsonl >&7
for _ in $(seq 200); do
    [ -s stopped.out ] && break
    sleep 0.05
done
kill -TERM "$pid"
status=0
wait "$pid" || status=$?
exec 7>&-
[ "$status" = 1 ] || fail "exit status $status after SIGTERM"
says err "stopped"
[ "$(wc -l <stopped.out)" = 1 ] || fail "the answer before the signal is lost"

# ---- precisions of the cache ----

expect 2 "$sluice" run --model "$model" --input one.jsonl --cache q5
says err '--cache: found "q5", expected one of f16, f32, q8, q4'
for cache in f16 f32 q8 q4; do
    expect 0 "$sluice" run --model "$model" --input good.jsonl --cache "$cache" \
        --output "cache-$cache.out" --metrics-json "cache-$cache.json" --quiet
done
python3 - <<'P' || fail "wrong caches"
import json
def scores(cache):
    rows = [json.loads(line) for line in open(f"cache-{cache}.out")]
    return [lp for r in rows for c in r["response"]["body"]["choices"] if c.get("logprobs")
            for lp in c["logprobs"]["token_logprobs"][1:3]]
exact, pages = scores("f32"), {}
for cache, name, bound in ("f32", "F32", 0), ("f16", "F16", 2e-2), ("q8", "Q8G64", 0.1), ("q4", "Q4G64", 1):
    m = json.load(open(f"cache-{cache}.json"))
    assert m["policy"]["cache"] == name, m
    pages[cache] = m["ranks"][0]["page_bytes"]
    worst = max(abs(a - b) for a, b in zip(exact, scores(cache)))
    assert worst <= bound, (cache, worst)
    assert cache == "f32" or worst > 0, cache
# Heads of 16: a group is a head's 16 codes and 4 bytes.
assert pages["f16"] * 20 == pages["q8"] * 32 and pages["f16"] * 12 == pages["q4"] * 32, pages
P

# ---- precisions of the weights ----

expect 2 "$sluice" run --model "$model" --input one.jsonl --weights q8_0
says err '--weights: found "q8_0", expected one of stored, f32, f16, q8, q4'
for weights in stored f32 f16 q8 q4; do
    expect 0 "$sluice" run --model "$model" --input good.jsonl --weights "$weights" --cache f32 \
        --output "weights-$weights.out" --metrics-json "weights-$weights.json" --quiet
done
python3 - <<'P' || fail "wrong weights"
import json
def scores(weights):
    rows = [json.loads(line) for line in open(f"weights-{weights}.out")]
    return [lp for r in rows for c in r["response"]["body"]["choices"] if c.get("logprobs")
            for lp in c["logprobs"]["token_logprobs"][1:3]]
exact, size = scores("f32"), {}
for weights, name, bound in ("f32", "F32", 0), ("f16", "F16", 2e-2), ("q8", "Q8G64", 0.1), ("q4", "Q4G64", 1):
    m = json.load(open(f"weights-{weights}.json"))
    assert m["policy"]["weights"] == name, m
    size[weights] = m["ranks"][0]["weight_bytes"]
    worst = max(abs(a - b) for a, b in zip(exact, scores(weights)))
    assert worst <= bound, (weights, worst)
assert json.load(open("weights-stored.json"))["policy"]["weights"] == "stored"
assert size["f32"] > size["f16"] > size["q8"] > size["q4"], size
P

# ---- bench and inspect ----

expect 0 "$sluice" bench --model "$model" --prompt-len 12 --gen-len 5 --num-prompts 6
[ "$(wc -l <out)" = 1 ] || fail "bench does not print one line"
python3 - <<'P' || fail "wrong numbers in bench"
import json
b = json.load(open("out"))
assert b["n_requests"] == 6 and b["n_prompt_tokens"] == 72 and b["n_generated_tokens"] == 30, b
assert b["n_prefill_rows"] == 72 and b["n_decode_rows"] >= 24, b
expected = b["n_generated_tokens"] / (b["prefill_s"] + b["decode_s"])
assert abs(b["total_tokens_per_s"] - expected) < 1e-6 * expected, b
P
expect 0 "$sluice" bench --model "$model" --prompt-len 12 --gen-len 5 --num-prompts 6 --ragged --quiet
silent err
expect 0 "$sluice" inspect "$model"
says out "4 layers"
expect 0 "$sluice" inspect "$model" --json
python3 - <<'P' || fail "wrong numbers in inspect"
import json
i = json.load(open("out"))
assert i["n_layers"] == 4 and len(i["layer_bytes"]) == 4, i
d, f, v, kv = 64, 128, 320, 32
layer = d * d * 2 + 2 * d * kv + 3 * d * f + 2 * d
assert i["n_params"] == 4 * layer + 2 * v * d + d, (i["n_params"], layer)
assert i["packed_bytes"] == sum(i["layer_bytes"]) + i["embedding_bytes"] + i["head_bytes"]
assert i["kv_bytes_per_token_and_layer"] == 2 * 2 * kv
P

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
