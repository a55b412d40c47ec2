#!/usr/bin/env bash
# Builds the fuzz entries with clang and runs each for a while on its corpus.
#
# Usage: run.sh SECONDS [NAME...]     NAME: "gguf" for fuzz_gguf.c; all entries if none is given
#
# The corpus in tests/fuzz/corpus/NAME is read, never written: what a run finds new stays in the
# build folder (SL_FUZZ_BUILD, or build-fuzz beside the sources) and is used by the next run there.
# SL_FUZZ_JOBS entries run at a time (default: one per processor).
# Exit status: 0 nothing found, 1 a finding (its input's path is printed), 2 wrong usage or no build.
set -u

usage() {
    sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,9p' >&2
    exit 2
}

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
build=${SL_FUZZ_BUILD:-$root/build-fuzz}
jobs=${SL_FUZZ_JOBS:-$(nproc)}
seconds=${1:-}
[[ $seconds =~ ^[1-9][0-9]*$ && $jobs =~ ^[1-9][0-9]*$ ]] || usage
shift

names=("$@")
if [ ${#names[@]} = 0 ]; then
    for source in "$root"/tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        names+=("${name#fuzz_}")
    done
fi
targets=()
for name in "${names[@]}"; do
    [ -f "$root/tests/fuzz/fuzz_$name.c" ] || { echo "run.sh: no tests/fuzz/fuzz_$name.c" >&2; exit 2; }
    targets+=("fuzz_$name")
done

clang=${CC:-clang}
command -v "$clang" >/dev/null || { echo "run.sh: needs clang (apt-get install clang)" >&2; exit 2; }
mkdir -p "$build/findings" || exit 2
CC=$clang cmake -S "$root" -B "$build" -G Ninja -DSL_FUZZ=ON -DSL_SANITIZE=address,undefined \
    -DSL_CUDA=OFF -DSL_NCCL=OFF >"$build/run.log" 2>&1 &&
    ninja -C "$build" "${targets[@]}" >>"$build/run.log" 2>&1 ||
    { tail -n 40 "$build/run.log" >&2; echo "run.sh: the build failed, see $build/run.log" >&2; exit 2; }

# run_one NAME: leaves NAME.log, NAME.status and, after a finding, NAME-* in $build/findings.
run_one() {
    local name=$1 out=$build/findings fresh=$build/corpus/$1
    mkdir -p "$fresh"
    local dirs=("$fresh")
    [ -d "$root/tests/fuzz/corpus/$name" ] && dirs+=("$root/tests/fuzz/corpus/$name")
    local dict=()
    [ -f "$root/tests/fuzz/$name.dict" ] && dict=("-dict=$root/tests/fuzz/$name.dict")
    # Leaks of a run count as findings; an input of more than 10 s, or 1 GiB, does too.
    UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=allocator_may_return_null=1 \
        "$build/tests/fuzz_$name" -max_total_time="$seconds" -max_len=16384 -timeout=10 \
        -rss_limit_mb=1024 -malloc_limit_mb=512 -print_final_stats=1 \
        -artifact_prefix="$out/$name-" "${dict[@]}" "${dirs[@]}" >"$out/$name.log" 2>&1
    echo $? >"$out/$name.status"
}

rm -f "$build"/findings/*.status "$build"/findings/*.log
for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    run_one "$name" &
done
wait

found=0
for name in "${names[@]}"; do
    log=$build/findings/$name.log
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$(cat "$build/findings/$name.status" 2>/dev/null)" = 0 ]; then
        echo "$name: nothing found in $seconds s, ${runs:-?} inputs"
    else
        found=1
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "$name: FINDING, input ${input:-unknown}, report $log" >&2
        grep -m 1 -E 'ERROR|runtime error|needs ' "$log" >&2
    fi
done
exit $found
