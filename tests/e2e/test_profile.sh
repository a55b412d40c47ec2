#!/usr/bin/env bash
# `sluice profile` as a user and as a program meets it: the file, the cache, refusals, several ranks.
# Usage: test_profile.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
mkdir cache disk
export XDG_CACHE_HOME=$work/cache
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
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
n_cached() { find cache -name 'profile-*.json' | wc -l; }

# holds FILE EXPRESSION: true of the JSON value p in the file, with `curve` at hand.
holds() {
    python3 - "$1" "$2" <<'P' || fail "not so of $1: $2"
import json
import sys

p = json.load(open(sys.argv[1]))


def curve(c, least=1):
    x = [point[0] for point in c]
    return len(c) >= least and x == sorted(set(x)) and all(point[1] > 0 for point in c)


def formats(f):
    return sorted(f) == ["f16", "q4", "q8"] and all(curve(c) for c in f.values())


sys.exit(0 if eval(sys.argv[2]) else 1)
P
}

# Small memory and short samples: whether the numbers are steady is not the question here.
small=(--backend cpu --cpu-mem 160MiB --threads 2 --disk-dir disk --disk-mem 8MiB --sample 0.002)
profile() { expect 0 "$sluice" profile "${small[@]}" "$@"; }

# ---- measured once, then found ----

profile --json
says err "measuring matrix products"
says err "measured in"
cp out first.json
holds first.json 'curve(p["disk_read_bps"]) and curve(p["disk_write_bps"])'
holds first.json 'formats(p["gemm_flops"]) and formats(p["attend_bps"])'
holds first.json 'formats(p["prefill_attend_flops"]) and formats(p["host_attend_bps"])'
holds first.json 'p["cpu_bytes"] == 160 * 2**20 and p["disk_bytes"] == 8 * 2**20'
holds first.json 'p["device"] == "" and p["gpu_bytes"] == 0 and p["h2d_bps"] == []'
holds first.json 'p["n_threads"] <= 2 and curve(p["dram_threads_bps"])'
holds first.json 'p["dram_bps"] > 0 and p["memory_bps"] > 0 and p["wire_bps"] == 0'
[ "$(n_cached)" = 1 ] || fail "$(n_cached) files in the cache instead of one"
[ -z "$(ls -A disk)" ] || fail "something is left in the disk's folder"

start=$(date +%s%N)
profile --json
[ $((($(date +%s%N) - start) / 1000000)) -lt 1000 ] || fail "the cache takes a second or more"
says err "from $work/cache"
cmp -s out first.json || fail "the cache gives another profile"

profile --output again.json
silent out
cmp -s again.json first.json || fail "--output differs from --json"

# Capacities are told anew, rates stay; tables are for people.
expect 0 "$sluice" profile "${small[@]}" --disk-mem 4MiB --json --quiet
silent err
holds out "p['disk_bytes'] == 4 * 2**20"
profile
says out "products, "
says out "disk, GB/s"

# Another number of threads is another machine, and --refresh measures.
profile --threads 1 --json
says err "measured in"
[ "$(n_cached)" = 2 ] || fail "$(n_cached) files in the cache instead of two"
profile --refresh --json
says err "measured in"
[ "$(n_cached)" = 2 ] || fail "--refresh adds a file to the cache"

# A broken file in the cache is measured again, and replaced.
for file in cache/sluice/*; do echo '{' >"$file"; done
profile --json
says err "measured in"
profile --json
says err "from $work/cache"

# Without a place for it nothing is kept.
expect 0 env -u XDG_CACHE_HOME -u HOME "$sluice" profile "${small[@]}" --json
says err "kept nowhere"

# ---- a stand-in for a device, and no disk ----

expect 0 "$sluice" profile "${small[@]}" --gpu-mem 64MiB --disk-dir none --json
cp out device.json
holds device.json 'curve(p["h2d_bps"], 3) and curve(p["d2h_bps"], 3) and p["duplex_bps"] > 0'
holds device.json 'p["gpu_bytes"] == 64 * 2**20 and p["device"] and p["dram_beside_h2d_bps"] > 0'
holds device.json '"gemm_small_flops" not in p and "gemm_large_flops" not in p'
holds device.json 'p["disk_bytes"] == 0 and p["disk_read_bps"] == []'

# ---- refusals ----

expect 1 "$sluice" profile "${small[@]}" --disk-dir missing
says err "missing"
expect 1 "$sluice" profile "${small[@]}" --output missing/p.json
says err "missing/p.json"
expect 2 "$sluice" profile --sample 0
says err "--sample"
expect 2 "$sluice" profile --ouput x
says err "did you mean --output?"
expect 0 "$sluice" profile --help
says out "--refresh"
says out "cluster/README.md"

# ---- profiles that come along are whole ----

for file in "$source"/cluster/*.json; do
    holds "$file" 'formats(p["gemm_flops"]) and p["source"] and p["cpu_bytes"] > 0'
done

# ---- several ranks ----

if command -v mpirun >/dev/null; then
    mpi() {
        expect 0 timeout 120 mpirun --oversubscribe --bind-to none -n 2 "$sluice" profile \
            "${small[@]}" --threads 1 "$@"
    }
    mpi --json --output ranks.json
    holds out 'len(p) == 2 and p[0]["wire_bps"] > 0 and 0 < p[0]["wire_latency_s"] < 1'
    holds out 'p[1]["wire_bps"] == 0 and p[1]["wire_latency_s"] == 0'
    holds ranks.0.json 'p["wire_bps"] > 0'
    holds ranks.1.json 'p["wire_bps"] == 0'
    cp out ranks
    mpi --json
    says err "from $work/cache"
    cmp -s out ranks || fail "the cache gives other profiles of two ranks"
fi

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
