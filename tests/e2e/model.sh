# shellcheck shell=bash
# Sourced by tests of the real model: sets $model, or ends the test with 77.
model=${SLUICE_TEST_GGUF:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice/SmolLM2-135M-Instruct.Q4_1.gguf}
if [ ! -f "$model" ]; then
    echo "skipped: SLUICE_TEST_GGUF names no file, and launch/fetch-model.sh has put none into the cache"
    exit 77
fi
