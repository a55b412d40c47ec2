#!/usr/bin/env bash
# Runs lm-evaluation-harness and the OpenAI client against sluice serve, on the demo model and the
# tasks in this folder, whose few questions it answers well.  Needs no network.
#
# Usage: run.sh SLUICE [PYTHON]
#   PYTHON  one that has the packages lm_eval, openai, transformers and gguf, for instance of
#           python3 -m venv harness && harness/bin/pip install "lm-eval[api]" openai transformers gguf
#           (default: HARNESS_PYTHON, else python3)
# Exit status: 0 passed, 1 failed, 77 a package or the model is missing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}
sluice=$(realpath "$1")
python=${2:-${HARNESS_PYTHON:-python3}}
"$python" -c 'import gguf, lm_eval, openai, transformers' 2>/dev/null || {
    echo "skipped: $python lacks lm_eval, openai, transformers or gguf"
    exit 77
}
model=
. "$here/../e2e/model.sh"

work=$(mktemp -d)
server=
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME=$work/hf TOKENIZERS_PARALLELISM=false

"$python" "$here/gguf_tokenizer.py" "$model" "$work/tokenizer" || exit 1
SLUICE_TOKEN=harness "$sluice" serve --model "$model" --name smol --port 0 --cpu-mem 2GiB --max-context 2048 \
    2>"$work/server.log" </dev/null &
server=$!
port=
for _ in $(seq 300); do
    port=$(sed -n 's,^sluice: serving .*:\([0-9]*\)$,\1,p' "$work/server.log")
    [ -n "$port" ] && break
    sleep 0.1
done
[ -n "$port" ] || {
    cat "$work/server.log"
    exit 1
}

# Tasks name their data by an absolute path.
mkdir "$work/tasks"
for file in "$here"/tasks/*.yaml; do sed "s,@HERE@,$here/tasks," "$file" >"$work/tasks/$(basename "$file")"; done
failures=0
OPENAI_API_KEY=harness "$python" -m lm_eval --model local-completions --include_path "$work/tasks" \
    --tasks sluice_loglikelihood,sluice_generate --batch_size 4 --output_path "$work/results" --log_samples \
    --model_args "model=smol,base_url=http://127.0.0.1:$port/v1/completions,tokenizer=$work/tokenizer,num_concurrent=8,max_length=1024" \
    >"$work/lm_eval.log" 2>&1 || {
    tail -n 40 "$work/lm_eval.log"
    failures=1
}
"$python" "$here/check.py" "$port" harness "$work/results" "$work/tokenizer" || failures=1
kill -TERM "$server"
wait "$server" || failures=1
server=
exit "$failures"
