#!/usr/bin/env bash
# sluice serve as its clients meet it: the answers of `sluice run`, streams, refusals, a token, 30
# clients of which a third is broken, and an orderly end.
# Usage: test_serve.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
"$sluice" version | grep -q 'libmicrohttpd *not built in' && {
    echo "skipped: built without libmicrohttpd"
    exit 77
}
model=dummy:$source/tests/golden/dummy/config.json
client=$source/tests/e2e/serve_client.py
work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    echo "  client: $(tail -c 1200 client.log)"
    echo "  server: $(tail -c 1200 server.log)"
    failures=$((failures + 1))
}

# start COMMAND...: runs a server in the background, until it says its port ($port).
start() {
    port=
    rm -f server.log # the last one's port is in it
    "$@" --port 0 >server.out 2>server.log </dev/null &
    server=$!
    for _ in $(seq 600); do
        port=$(sed -n 's,^sluice: serving .* on http://127\.0\.0\.1:\([0-9]*\)$,\1,p' server.log 2>/dev/null)
        [ -n "$port" ] && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    fail "the server does not start: $*"
    exit 1
}
ask() {
    python3 "$client" "$port" "$@" >client.log 2>&1 || fail "$*"
}
# stop PID: the server has to end by itself, with status 0.
stop() {
    local status=0
    kill -TERM "$1"
    ( sleep 60; kill -9 "$server" ) 2>/dev/null &
    local guard=$!
    wait "$server" || status=$?
    kill "$guard" 2>/dev/null
    [ "$status" = 0 ] || fail "the server ended with status $status"
    server=
}

# ---- a small model, prompts of token ids ----

cat >requests.jsonl <<'J'
{"prompt": [5, 6, 7], "max_tokens": 12, "temperature": 0, "logprobs": 2, "echo": true}
{"prompt": [[5, 6, 7], [8]], "max_tokens": 3, "n": 2, "ignore_eos": true, "seed": 3}
{"prompt": [1, 2, 3], "max_tokens": 0, "echo": true, "logprobs": 1}
{"prompt": [[1, 2, 3, 4], [3, 2]], "max_tokens": 1, "echo": true, "logprobs": 1, "temperature": 0}
{"prompt": [9], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": true}
{"prompt": [9, 8], "max_tokens": 30, "temperature": 0, "ignore_eos": true}
{"prompt": [4, 8], "max_tokens": 9, "temperature": 1, "top_k": 5, "top_p": 0.9, "seed": 1, "n": 3, "best_of": 5}
J
"$sluice" run --model "$model" --input requests.jsonl --output results.jsonl 2>run.log || fail "run"

start "$sluice" serve --model "$model" --name tiny --max-body 64KiB --threads 2
ask same requests.jsonl results.jsonl
ask errors 65536
ask storm "${SLUICE_STORM_SECONDS:-15}"
cat client.log
ask same requests.jsonl results.jsonl
stop "$server"
grep -q '^requests ' server.log || fail "no report at the end"

# A signal while requests are under way: they are given up after the time for them.
start "$sluice" serve --model "$model" --drain 0 --threads 1
python3 -c "
import http.client, json, sys
c = http.client.HTTPConnection('127.0.0.1', $port, timeout=60)
c.request('POST', '/v1/completions', json.dumps({'prompt': [1], 'max_tokens': 120, 'n': 1024, 'ignore_eos': True}))
print('sent', flush=True)
r = c.getresponse()
sys.exit(0 if r.status in (200, 503) and json.loads(r.read()) else 1)" >client.log 2>&1 &
waiting=$!
for _ in $(seq 100); do
    grep -q sent client.log && break
    sleep 0.1
done
stop "$server"
wait "$waiting" || fail "a request under way got no answer"

# A token, by file and by environment.
echo secret-token >token
start "$sluice" serve --model "$model" --token-file token --threads 1
ask auth secret-token
stop "$server"
export SLUICE_TOKEN=another
start "$sluice" serve --model "$model" --threads 1
unset SLUICE_TOKEN
ask auth another
stop "$server"

# An address in use, or that is none.
start "$sluice" serve --model "$model" --threads 1
"$sluice" serve --model "$model" --port "$port" >client.log 2>&1
[ $? = 1 ] || fail "an address in use"
grep -q "port $port: Address already in use" client.log || fail "no message about the address"
stop "$server"
"$sluice" serve --model "$model" --host example.org >client.log 2>&1
[ $? = 2 ] || fail "a name as address"

# ---- ranks: the same answers, and all of them end ----

if command -v mpirun >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    start mpirun --oversubscribe --bind-to none -n 2 "$sluice" serve --model "$model" --threads 1
    ask same requests.jsonl results.jsonl
    first=$(pgrep -P "$server" -f 'serve --model' | sort -n | head -n 1)
    stop "$first"
fi

# ---- a real model: text and chats ----

model=${SLUICE_TEST_GGUF:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice/SmolLM2-135M-Instruct.Q4_1.gguf}
if [ -f "$model" ]; then
    cat >requests.jsonl <<'J'
{"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0, "logprobs": 1, "echo": true}
{"prompt": ["Once upon a time", "2 + 2 ="], "max_tokens": 8, "temperature": 0, "stop": ["\n"]}
{"prompt": "Water boils at", "max_tokens": 20, "temperature": 0, "stop": ["degrees", "."]}
J
    "$sluice" run --model "$model" --input requests.jsonl --output results.jsonl --overwrite --cpu-mem 2GiB \
        2>run.log || fail "run"
    start "$sluice" serve --model "$model" --cpu-mem 2GiB
    ask same requests.jsonl results.jsonl
    ask text
    stop "$server"
else
    echo "not run: the real model (launch/fetch-model.sh)"
fi

[ "$failures" = 0 ] || exit 1
echo "sluice serve answers"
