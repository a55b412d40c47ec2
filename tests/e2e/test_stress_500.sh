#!/usr/bin/env bash
# 500 requests of mixed lengths (prompts of 1 to 1,500 tokens, 1 to 200 generated), a dozen malformed,
# some with stop strings, on 2 ranks: every line is answered exactly once, memory is flat after
# warm-up, and one rank gives the same answers.
# Usage: test_stress_500.sh SLUICE SOURCE_DIR BUILD_DIR
#   SLUICE_STRESS_REAL=1   with SmolLM2 instead of a tiny random model (about ten minutes), on 2 ranks
#                          only
set -u
sluice=$1 source=$2
here=$source/tests/e2e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

if [ "${SLUICE_STRESS_REAL:-0}" = 1 ]; then
    . "$here/model.sh"
    vocab=49152
else
    model=$work/model
    vocab=$(python3 "$here/make_stress.py" model "$model" \
        "$source/tests/golden/tokenizer/gpt2/tokenizer.json") || exit 1
fi
python3 "$here/make_stress.py" requests "$vocab" >requests.jsonl || exit 1

failures=0
options=(run --model "$model" --input requests.jsonl --max-context 2048 --threads 1 --seed 5
    --micro-batch 8 --num-micro-batches 4)

# The answers come as they finish, so that lines written tell how far the run is.
status=0
python3 "$here/watch_memory.py" "$(basename "$sluice")" two.jsonl 500 0.03 \
    mpirun --oversubscribe --bind-to none -n 2 "$sluice" "${options[@]}" --output two.jsonl \
    --order finish 2>log || status=$?
tail -n 12 log
if [ "$status" != 3 ]; then # 3: a dozen lines got an error result
    echo "FAILED: exit status $status instead of 3"
    exit 1
fi
python3 "$here/make_stress.py" check requests.jsonl two.jsonl || failures=$((failures + 1))

if [ "${SLUICE_STRESS_REAL:-0}" != 1 ]; then
    status=0
    "$sluice" "${options[@]}" --output one.jsonl --order input --quiet </dev/null || status=$?
    [ "$status" = 3 ] || failures=$((failures + 1))
    python3 "$here/results.py" sort two.jsonl >two.sorted &&
        python3 "$here/results.py" sort one.jsonl >one.sorted &&
        python3 "$here/results.py" same one.sorted two.sorted 1e-5 || failures=$((failures + 1))
fi
[ "$failures" = 0 ] || echo "FAILED: $failures"
exit $((failures > 0))
