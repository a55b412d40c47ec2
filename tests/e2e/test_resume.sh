#!/usr/bin/env bash
# A job of 2,000 requests that is killed, stopped and short of disk space, and goes on: in the end
# every request is answered once, as in a run that nothing disturbed.
# Usage: test_resume.sh SLUICE SOURCE_DIR BUILD_DIR
#   SLUICE_RESUME_KILLS=100   kills at random moments, half of them in each order of results (24)
set -u
sluice=$1 source=$2
kills=${SLUICE_RESUME_KILLS:-24}
model=dummy:$source/tests/golden/dummy/config.json
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
work=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$mounted"; rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    echo "  stderr: $(head -c 1000 err)"
    failures=$((failures + 1))
}
# expect STATUS COMMAND...: runs it with stderr in the file err.
expect() {
    local wanted=$1 status=0
    shift
    "$@" >out 2>err </dev/null || status=$?
    [ "$status" = "$wanted" ] || fail "exit status $status instead of $wanted: $*"
}
says() { grep -qF -- "$2" "$1" || fail "no \"$2\" in $1"; }
kill_runs() { python3 "$source/tests/e2e/kill_runs.py" "$@"; }
lines() { cat "$1" 2>/dev/null | wc -l; }
# same FILE: its results are those of the undisturbed run, in the same order.
strip() { sed 's/"created": [0-9]*//' "$1"; }
same() { cmp -s <(strip whole.jsonl) <(strip "$1") || fail "$1 is not what an undisturbed run gives"; }

kill_runs requests 2000 >job.jsonl || exit 1
run=("$sluice" run --model "$model" --input job.jsonl --threads 1 --micro-batch 8 --num-micro-batches 4)
expect 3 "${run[@]}" --output whole.jsonl
[ "$(wc -l <whole.jsonl)" = 2000 ] || fail "$(wc -l <whole.jsonl) results of 2000"

# ---- killed ----

kill_runs kill whole.jsonl $((kills / 2)) 0.8 -- "${run[@]}" --quiet --output OUT ||
    failures=$((failures + 1))
kill_runs kill whole.jsonl $((kills - kills / 2)) 0.8 -- "${run[@]}" --quiet --order finish \
    --output OUT ||
    failures=$((failures + 1))
if command -v mpirun >/dev/null; then
    mpi=(mpirun --oversubscribe --bind-to none -n 2 "${run[@]}" --quiet --output OUT)
    SLUICE_KILL=rank kill_runs kill whole.jsonl 3 2 -- "${mpi[@]}" || failures=$((failures + 1))
    SLUICE_KILL=launcher kill_runs kill whole.jsonl 3 2 -- "${mpi[@]}" || failures=$((failures + 1))
fi

# ---- what else can end a run, one after the other in one job ----

# start COMMAND...: in the background, until its output has grown to some lines.
start() {
    local before
    before=$(lines job.out)
    "$@" >out 2>err </dev/null &
    pid=$!
    for _ in $(seq 1000); do
        [ "$(lines job.out)" -gt $((before + 20)) ] && return
        sleep 0.01
    done
    fail "no results within ten seconds"
}
for signal in TERM INT; do
    # What is started in the background ignores SIGINT unless it is told otherwise.
    start python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "${run[@]}" --output job.out
    kill -"$signal" "$pid"
    seconds=$SECONDS status=0
    wait "$pid" || status=$?
    [ "$status" = 1 ] || fail "exit status $status after SIG$signal"
    [ $((SECONDS - seconds)) -le 10 ] || fail "ends $((SECONDS - seconds)) s after SIG$signal"
    n=$(wc -l <job.out)
    says err "stopped by a signal: $n of 2000 requests are answered"
    says err "; run the same command again to go on"
    cmp -s <(strip job.out) <(strip whole.jsonl | head -n "$n") ||
        fail "SIG$signal leaves no beginning of the results"
done

n=$(wc -l <job.out)
limited() (
    ulimit -f "$(($(stat -c %s job.out) / 1024 + 100))"
    exec "${run[@]}" --output job.out
)
expect 1 limited
says err "going on with job.out: $n of 2000 requests are answered"
says err "File too large"
says err "; run the same command again to go on"
[ "$(wc -l <job.out)" -gt "$n" ] || fail "nothing fits below the limit"
[ -z "$(tail -c 1 job.out)" ] || fail "a line is torn"

# Threads, ranks and shape may be others when it goes on, and the last line may be torn.
head -c -30 job.out >torn.out && cat torn.out >job.out
n=$(wc -l <job.out)
expect 3 "${run[@]:0:6}" --threads 2 --micro-batch 3 --output job.out --metrics-json m.json
same job.out
says m.json "\"n_requests\": $((2000 - n))"

# A job that is done is left as it is.
cp job.out done.out
expect 3 "${run[@]}" --output job.out
says err "nothing to do for job.out: 2000 of 2000 requests are answered"
cmp -s job.out done.out || fail "a job that was done has changed"

# A disk that is really full, where we may mount one.
mkdir disk
if mount -t tmpfs -o size=400k tmpfs disk 2>/dev/null; then
    mounted=$work/disk
    expect 1 "${run[@]}" --output disk/out.jsonl
    says err "No space left on device"
    says err "; run the same command again to go on"
    [ -z "$(tail -c 1 disk/out.jsonl)" ] || fail "a full disk has torn a line"
    mount -o remount,size=16m disk
    expect 3 "${run[@]}" --output disk/out.jsonl
    says err "going on with"
    same disk/out.jsonl
fi

# A signal in the middle of a pass that takes long.
python3 -c '
for i in range(16):
    print({"prompt": [(i * 7 + j) % 1000 for j in range(500)], "max_tokens": 2})' |
    tr "'" '"' >long.jsonl
long=("$sluice" run --model dummy:opt-125m --input long.jsonl --threads 1 --micro-batch 1
    --num-micro-batches 16 --max-rows 500 --quiet --overwrite)
timeout 300 "${long[@]}" --output long.out >out 2>err </dev/null &
pid=$!
for _ in $(seq 600); do # once it computes, it catches signals
    grep -qsE '^SigCgt:.*[4-7c-f][0-9a-f]{3}$' "/proc/$(pgrep -P "$pid" | head -n 1)/status" && break
    sleep 0.05
done
sleep 1
kill -TERM "$(pgrep -P "$pid" | head -n 1)"
seconds=$SECONDS status=0
wait "$pid" || status=$?
[ "$status" = 1 ] || fail "exit status $status after SIGTERM in a long pass"
[ $((SECONDS - seconds)) -le 9 ] || fail "a long pass goes on for $((SECONDS - seconds)) s"
says err "sluice: stopped by a signal"

# ---- another job ----

expect 2 "${run[@]}" --output job.out --seed 1
says err "belong to another job: --seed was 0, is 1; name another file, or give --overwrite"
expect 2 "${run[@]}" --output job.out --temperature 0.5 --max-tokens 3 --cache q8
says err "--max-tokens was 16, is 3; --temperature was 1, is 0.5; --cache was f16, is q8"
head -n 30 job.jsonl >short.jsonl
expect 2 "$sluice" run --model "$model" --input short.jsonl --output job.out
says err "the input was 2000 requests ("
expect 2 "$sluice" run --model "$model" --input - --output job.out --no-resume
says err "--no-resume is given"
mkfifo pipe
echo '{"prompt": [1]}' >pipe &
expect 2 "$sluice" run --model "$model" --input pipe --output job.out
says err "the input is no file"
wait
cmp -s job.out done.out || fail "a refused output has changed"
expect 2 "${run[@]}" --output job.out --resume --overwrite
says err "--resume: given together with --overwrite"
expect 0 "$sluice" run --model "$model" --input short.jsonl --output job.out --overwrite --no-resume
[ ! -e job.out.sluice ] || fail "--no-resume keeps a journal"
expect 2 "$sluice" run --model "$model" --input short.jsonl --output job.out
says err "there is no job.out.sluice"
expect 0 "$sluice" run --model "$model" --input short.jsonl --output job.out --overwrite
expect 0 "$sluice" run --model "$model" --input short.jsonl --output job.out --resume

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
