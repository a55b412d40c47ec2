#!/usr/bin/env bash
# Ranks that are all alive and get nothing done: the run ends soon, with one message, and nothing is
# left; ranks that wait for input have nothing to get done.
# Usage: test_stall.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
command -v mpirun >/dev/null || {
    echo "skipped: no mpirun"
    exit 77
}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
model=dummy:$source/tests/golden/dummy/config.json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export SLUICE_TEST_RUN=$work # tells what this test has started
failures=0
fail() {
    echo "FAILED: $*"
    echo "  stdout: $(head -c 600 out)"
    echo "  stderr: $(head -c 1500 err)"
    failures=$((failures + 1))
}
run=(timeout 60 mpirun --oversubscribe --bind-to none -n 2 "$sluice" run --model "$model" --threads 1)
echo '{"prompt": [1, 2, 3], "max_tokens": 3}' >one.jsonl

"$sluice" run --model "$model" --input one.jsonl --stall-timeout 0.5 >out 2>err
[ $? = 2 ] || fail "--stall-timeout 0.5 is taken"
grep -qF -- "--stall-timeout: found 0.5, expected 0 or at least 1" err || fail "the message is another"

# Messages that take a minute: both ranks wait.
start=$(date +%s%3N)
SLUICE_TEST_DELAY_S=60 "${run[@]}" --input one.jsonl --stall-timeout 2 >out 2>err </dev/null
status=$?
took=$(($(date +%s%3N) - start))
[ "$status" = 1 ] || fail "exit status $status instead of 1"
[ "$took" -lt 12000 ] || fail "the end took $took ms"
text="sluice: stalled: nothing has got done on any rank for 2 s (--stall-timeout): each waits for another"
[ "$(grep -cF -- "$text" err)" = 1 ] || fail "not once \"$text\""
for _ in $(seq 100); do
    left=$(grep -lsz "^SLUICE_TEST_RUN=$work" /proc/[0-9]*/environ | xargs -r -n 1 dirname |
        while read -r p; do readlink "$p/exe"; done | grep -c sluice)
    [ "$left" = 0 ] && break
    sleep 0.1
done
[ "$left" = 0 ] || fail "$left processes are left"

# Input that is late.
(
    sleep 5
    cat one.jsonl
) | "${run[@]}" --stall-timeout 3 --quiet >out 2>err
status=${PIPESTATUS[1]}
[ "$status" = 0 ] || fail "exit status $status after waiting for input"
[ "$(wc -l <out)" = 1 ] || fail "the request is not answered"

# One rank is watched without MPI too, and gets on.
"$sluice" run --model "$model" --input one.jsonl --stall-timeout 2 --quiet >out 2>err </dev/null ||
    fail "one rank cannot run"

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
