#!/usr/bin/env bash
# Measures this machine for cluster/: its GPU whole and capped to 16 GiB, and two ranks where there
# are two GPUs; prints the tables and how long each took.
#
# Usage: tests/bench/profile.sh SLUICE FOLDER
#   SLUICE  the program, built with CUDA;  FOLDER: where h100.json, g16.json and pair.0.json go
#
# SLUICE_DISK=FOLDER measures the disk there; default: the current folder's.
# Exit status: 1 where a profile fails, or takes 90 seconds or more.
set -euo pipefail
sluice=${1:?usage: profile.sh SLUICE FOLDER}
out=${2:?usage: profile.sh SLUICE FOLDER}
disk=${SLUICE_DISK:-.}
status=0
mkdir -p "$out"
XDG_CACHE_HOME=$(mktemp -d)
export XDG_CACHE_HOME
trap 'rm -rf "$XDG_CACHE_HOME"' EXIT

# measure NAME COMMAND...
measure() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" profile --disk-dir "$disk" "${options[@]}" --output "$out/$name.json" || status=1
    [ $((SECONDS - start)) -lt 90 ] || { echo "$name: $((SECONDS - start)) seconds" && status=1; }
    "$@" profile --disk-dir "$disk" "${options[@]}" || status=1 # from the cache
}

options=()
measure h100 "$sluice"
options=(--gpu-mem 16GiB)
measure g16 "$sluice"
if [ "$(nvidia-smi --list-gpus 2>/dev/null | wc -l)" -ge 2 ] && command -v mpirun >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    measure pair mpirun --oversubscribe --bind-to none -n 2 "$sluice"
fi
exit "$status"
