#!/usr/bin/env bash
# --report: the page of run, bench and serve has the numbers of --metrics-json, stands alone, and
# shows every drawing in a headless Chromium without a word on its console.
# Usage: test_report.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
check=$source/tests/e2e/check_report.py
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
    tail -c 1500 log
    failures=$((failures + 1))
}

# ---- every drawing has something to show: two simulated ranks with all tiers, and a plan ----

"$sluice" bench --backend sim --cluster "$source/cluster/toy.json" --sim-ranks 2 --model dummy:opt-125m \
    --prompt-len 64 --gen-len 16 --num-prompts 100 --common-prefix 0.5 --percent 40,30,50,30,100,0 --micro-batch 8 --num-micro-batches 2 --disk-dir . \
    --gpu-mem 260MiB --cpu-mem 512MiB --report sim.html --metrics-json sim.json >sim.out 2>log || fail "bench"
python3 "$check" page sim.html sim.json speed queues moment ranks links memory plan prefix >log 2>&1 ||
    fail "the page of bench"
python3 -c "
import json
line = json.load(open('sim.out'))
assert 'history' not in line and 'timeline' not in line['ranks'][0]
" 2>log || fail "the line of bench is short"

# ---- a real run, of a model whose name is no markup ----

mkdir 'a<b>&"c"'
cp "$source/tests/golden/dummy/config.json" 'a<b>&"c"/'
python3 - <<'P' >requests.jsonl
import json
for i in range(40):
    print(json.dumps({"prompt": [7] * 64 + [i + 1] * (i + 1), "max_tokens": 1 + i % 9, "ignore_eos": True}))
print(json.dumps({"prompt": {}}))
P
"$sluice" run --model 'dummy:a<b>&"c"/config.json' --input requests.jsonl --output results.jsonl --threads 1 \
    --micro-batch 4 --cpu-mem 3MiB --report run.html --metrics-json run.json --trace trace.json >log 2>&1
[ $? = 3 ] || fail "run"
python3 "$check" page run.html run.json speed queues moment memory prefix >log 2>&1 || fail "the page of run"
grep -qF 'a&lt;b&gt;&amp;&quot;c&quot;/config.json' run.html || fail "the model's name"
grep -qF 'a<b>' run.html && fail "a name became markup"
grep -q 'Nothing was moved' run.html || fail "no word on the links of a run in memory"
python3 -c "import json; assert json.load(open('trace.json'))['otherData']['spans'] > 100" 2>log ||
    fail "a trace beside the page"
[ -z "$(find . -name '*.part')" ] || fail "parts of a page are left: $(ls)"

# Ranks.
if command -v mpirun >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    mpirun --oversubscribe --bind-to none -n 2 "$sluice" run --model 'dummy:a<b>&"c"/config.json' --threads 1 \
        --input requests.jsonl --output ranks.jsonl --report ranks.html --metrics-json ranks.json >log 2>&1
    python3 "$check" page ranks.html ranks.json speed queues moment ranks links memory prefix >log 2>&1 ||
        fail "the page of two ranks"
fi

# What cannot be written is said before the work, and nothing of before is lost.
for path in none/report.html . /dev/null; do
    "$sluice" run --model 'dummy:a<b>&"c"/config.json' --input requests.jsonl --output other.jsonl \
        --report "$path" >log 2>&1 && fail "--report $path"
    grep -qF "write page $path: " log || fail "no message about --report $path"
    [ ! -s other.jsonl ] || fail "--report $path: refused after the work"
done
[ -c /dev/null ] || fail "/dev/null is no device any more"

# ---- serve, at its end ----

if ! "$sluice" version | grep -q 'libmicrohttpd *not built in'; then
    echo old >serve.html
    "$sluice" serve --model 'dummy:a<b>&"c"/config.json' --port 0 --threads 1 --report serve.html \
        --metrics-json serve.json 2>log &
    server=$!
    port=
    for _ in $(seq 300); do
        port=$(sed -n 's,^sluice: serving .*:\([0-9]*\)$,\1,p' log)
        [ -n "$port" ] && break
        sleep 0.1
    done
    grep -q old serve.html || fail "the page of before is gone early"
    python3 -c "
import http.client, json
for i in range(5):
    c = http.client.HTTPConnection('127.0.0.1', $port, timeout=60)
    c.request('POST', '/v1/completions', json.dumps({'prompt': [7] * 40, 'max_tokens': 5 + i, 'ignore_eos': True}))
    assert c.getresponse().status == 200
" || fail "requests"
    kill -TERM "$server"
    wait "$server" || fail "serve"
    server=
    python3 "$check" page serve.html serve.json speed queues moment memory prefix >log 2>&1 ||
        fail "the page of serve"
fi
[ "$failures" = 0 ] || exit 1

# ---- in a browser ----

browser=${SLUICE_TEST_CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
    [ -n "$browser" ] || browser=$(command -v "$name")
done
[ -n "$browser" ] || {
    echo "skipped: the pages are right, but no Chromium is there to show them (apt-get install chromium)"
    exit 77
}
python=
for name in python3 /usr/bin/python3; do # Debian's package is for Debian's Python
    [ -n "$python" ] || ! "$name" -c 'import PIL' 2>/dev/null || python=$name
done
[ -n "$python" ] || {
    echo "skipped: the pages are right, but Python's PIL is not there (apt-get install python3-pil)"
    exit 77
}
"$python" "$check" browser sim.html "$browser" "$work" speed queues moment ranks links memory plan prefix >log 2>&1 ||
    fail "the page of bench in $browser"
cat log
"$python" "$check" browser run.html "$browser" "$work" speed queues moment memory prefix >log 2>&1 ||
    fail "the page of run in $browser"
# The checks see what is wrong: a drawing without its bars, and a page that complains.
sed '/id="chart-links"/,/<\/svg>/{/<rect/d}' sim.html >empty.html
"$python" "$check" browser empty.html "$browser" "$work" links >log 2>&1 && fail "an empty drawing is not seen"
grep -q 'chart links is empty' log || fail "an empty drawing is not named"
sed 's,</body>,<script>console.error("no")</script></body>,' sim.html >loud.html
"$python" "$check" browser loud.html "$browser" "$work" links >log 2>&1 && fail "a word on the console is not seen"
[ "$failures" = 0 ] || exit 1
echo "pages of reports are whole"
