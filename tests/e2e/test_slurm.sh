#!/usr/bin/env bash
# Under Slurm, one node of which is set up on this machine: a pipeline by srun and by sbatch gives what
# one rank gives; scancel ends it in time and keeps what is answered, and the same command goes on; a
# killed rank ends the step; what is started without PMIx says so.
# Usage: test_slurm.sh SLUICE SOURCE_DIR BUILD_DIR
set -u
sluice=$1 source=$2
model=dummy:$source/tests/golden/dummy/config.json
. "$source/tests/e2e/slurm.sh"
work=$(mktemp -d)
trap 'stop_slurm; rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
fail() {
    echo "FAILED: $*"
    tail -n 20 err
    failures=$((failures + 1))
}
says() { grep -qE -- "$1" err || fail "no \"$1\" in the messages"; }
strip() { sed 's/"created": [0-9]*//' "$1"; }
same() { cmp -s <(strip whole.jsonl) <(strip "$1") || fail "$1 is not what an undisturbed run gives"; }

python3 "$source/tests/e2e/kill_runs.py" requests 2000 >job.jsonl || exit 1
run=("$sluice" run --model "$model" --input job.jsonl --threads 1 --micro-batch 8
    --num-micro-batches 4 --quiet)
"${run[@]}" --output whole.jsonl 2>err </dev/null
[ "$(wc -l <whole.jsonl)" = 2000 ] || fail "no results to compare with"
export SLUICE=$sluice

# expect STATUS COMMAND...
expect() {
    local wanted=$1 status=0
    shift
    timeout 120 "$@" 2>err >out </dev/null || status=$?
    [ "$status" = "$wanted" ] || fail "exit status $status instead of $wanted: $*"
}

expect 3 srun --mpi=pmix -n 2 "${run[@]}" --output srun.jsonl
same srun.jsonl
expect 3 "$source/launch/srun" -n 3 -- "${run[@]:1}" --output wrapper.jsonl
same wrapper.jsonl
expect 1 srun --mpi=none -n 2 "${run[@]}" --output none.jsonl
says "sluice: srun started 2 tasks that know nothing of each other: start with srun --mpi=pmix"

# ---- scancel ----

# A job that takes a while: cancelled as soon as some lines are there.
lines() { cat "$1" 2>/dev/null | wc -l; }
wait_for_lines() { # FILE COUNT
    for _ in $(seq 600); do
        [ "$(lines "$1")" -gt "$2" ] && return
        sleep 0.05
    done
    fail "no results in $1"
}
ended_in() { # SECONDS PID: its exit status in $status
    local begin=$SECONDS
    status=0
    wait "$2" || status=$?
    [ $((SECONDS - begin)) -le "$1" ] || fail "it went on for $((SECONDS - begin)) s"
}
for round in 1 2 3; do
    before=$(lines cancelled.jsonl)
    srun --job-name="cancel$round" --mpi=pmix -n 2 "${run[@]}" --output cancelled.jsonl \
        >out 2>err </dev/null &
    pid=$!
    wait_for_lines cancelled.jsonl "$before"
    scancel --name="cancel$round"
    ended_in 10 "$pid"
    [ "$status" != 0 ] || fail "exit status 0 of a cancelled step"
    says "^sluice: rank [01] on $slurm_host: stopped by a signal: [0-9]+ of 2000 requests are answered"
    cmp -s <(strip cancelled.jsonl) <(strip whole.jsonl | head -n "$(lines cancelled.jsonl)") ||
        fail "a cancelled step leaves no beginning of the results"
    [ "$(lines cancelled.jsonl)" -ge "$before" ] || fail "a cancelled step has lost results"
done

# The batch script of cluster/, with this node instead of four: it goes on where srun was.
status=0
timeout 120 sbatch --parsable --wait --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 \
    --output="$work/err" "$source/cluster/sluice.sbatch" "${run[@]:1}" --output cancelled.jsonl \
    >out 2>&1 </dev/null || status=$?
[ "$status" = 3 ] || fail "sbatch: exit status $status instead of 3: $(cat out)"
same cancelled.jsonl

# ---- a rank that dies ----

srun --mpi=pmix -n 3 "${run[@]}" --output killed.jsonl >out 2>err </dev/null &
pid=$!
wait_for_lines killed.jsonl 0
victim=
for candidate in /proc/[0-9]*; do
    grep -qsz "^PMIX_RANK=1$" "$candidate/environ" &&
        grep -qsz "^SLURM_CONF=$SLURM_CONF$" "$candidate/environ" &&
        grep -qsz killed.jsonl "$candidate/cmdline" && victim=${candidate#/proc/}
done
if [ -n "$victim" ]; then kill -KILL "$victim"; else fail "rank 1 cannot be found"; fi
ended_in 10 "$pid"
[ "$status" != 0 ] || fail "exit status 0 with a dead rank"
says "^sluice: rank 1 on $slurm_host: died"
expect 3 srun --mpi=pmix -n 3 "${run[@]}" --output killed.jsonl
same killed.jsonl

# Nothing is left of any of them.
for _ in $(seq 50); do
    left=$(squeue -h | wc -l)
    [ "$left" = 0 ] && break
    sleep 0.1
done
[ "$left" = 0 ] || fail "jobs are left: $(squeue -h)"
left=$(grep -lsz "^SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ | while read -r file; do
    grep -qsz "$sluice" "${file%environ}cmdline" && echo "$file"
done)
[ -z "$left" ] || fail "processes are left: $left"

[ "$failures" = 0 ] && echo "all passed"
exit "$((failures > 0))"
