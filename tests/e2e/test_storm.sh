#!/usr/bin/env bash
# sluice serve under many clients at once, a third of them broken: every well-formed request is
# answered, nothing is left behind, and the server ends in order.
# Usage: test_storm.sh SLUICE SOURCE_DIR BUILD_DIR
#   SLUICE_STORM_CLIENTS (60) and SLUICE_STORM_SECONDS (20) say how many and how long;
#   SLUICE_STORM_MODEL which model (random weights of a tiny one).
set -u
sluice=$1 source=$2
clients=${SLUICE_STORM_CLIENTS:-60} seconds=${SLUICE_STORM_SECONDS:-20}
model=${SLUICE_STORM_MODEL:-dummy:$source/tests/golden/dummy/config.json}
"$sluice" version | grep -q 'libmicrohttpd *not built in' && {
    echo "skipped: built without libmicrohttpd"
    exit 77
}
work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
# Freed memory must not pile up where the sanitizer keeps it.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=8:thread_local_quarantine_size_kb=64"
ulimit -n "$(ulimit -H -n)" 2>/dev/null

# storm CLIENTS SECONDS MAX_QUEUE
storm() {
    local port='' status=0
    "$sluice" serve --model "$model" --port 0 --threads 1 --max-context 256 --max-body 64KiB --idle-timeout 5 \
        --max-queue "$3" >"$work/out" 2>"$work/log" </dev/null &
    server=$!
    for _ in $(seq 600); do
        port=$(sed -n 's,^sluice: serving .* on http://127\.0\.0\.1:\([0-9]*\)$,\1,p' "$work/log")
        [ -n "$port" ] && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$port" ] || {
        cat "$work/log"
        exit 1
    }
    python3 "$source/tests/e2e/client_storm.py" "$port" "$server" "$1" "$2" --max-body 65536 --max-queue "$3" \
        --idle-timeout 5 || status=1
    kill -TERM "$server"
    wait "$server" || status=1
    server=
    [ "$status" = 0 ] && return
    echo "FAILED; the server's last words:"
    tail -c 2000 "$work/log"
    exit 1
}

storm "$clients" "$seconds" 1024
# More clients than the queue takes: 429 says when to come again, and everybody gets an answer in the end.
storm "$clients" "$((seconds / 4 + 1))" "$((clients / 4))"
echo "the storm is over"
