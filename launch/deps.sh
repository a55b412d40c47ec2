#!/usr/bin/env bash
# Installs the Debian 12 or Ubuntu 24.04 packages that Sluice is built and run with.
#
# Usage: launch/deps.sh [--tests] [--list]
#   --tests  the packages of tests/run too (sanitizers, fuzzing, formatting)
#   --list   print the packages and install nothing
# Runs as root or through sudo.  When all packages are there it says nothing and needs no network.
set -euo pipefail

packages=(
    build-essential cmake ninja-build pkg-config
    libopenmpi-dev openmpi-bin   # ranks
    libopenblas-dev              # matrix products on CPUs
    libjansson-dev               # JSON
    libpcre2-dev libutf8proc-dev # tokenizers
    libzip-dev                   # torch checkpoints
    liburing-dev                 # the disk tier
    libhwloc-dev                 # memory near the GPU
    libglpk-dev                  # the planner
    libmicrohttpd-dev            # sluice serve
    ca-certificates python3 python3-pip # launch/fetch-model.sh
)
test_packages=(
    libcmocka-dev         # unit tests
    clang libclang-rt-dev # ThreadSanitizer, libFuzzer
    clang-format-14       # its version decides how lines break
    shellcheck
    iproute2                                # hosts that are network namespaces
    munge slurmctld slurmd slurm-client     # a Slurm of one node
    python3-pil                             # the pages of reports, looked at
)
# Not in every distribution; the tests that need them are skipped without.
optional_packages=(
    chromium # shows those pages
)

list=0
for arg in "$@"; do
    case $arg in
    --tests)
        packages+=("${test_packages[@]}")
        for package in "${optional_packages[@]}"; do
            # Known by name alone where another package is to be had in its place.
            ! apt-cache show "$package" >/dev/null 2>&1 || packages+=("$package")
        done
        ;;
    --list) list=1 ;;
    *)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
        exit 2
        ;;
    esac
done

if [ "$list" = 1 ]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

find_missing() {
    missing=()
    local package
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
}

fail() {
    printf 'launch/deps.sh: %s\n' "$@" >&2
    exit 1
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this system has no apt; install what these Debian packages hold by its own means:" \
        "  ${packages[*]}"
fi

find_missing
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing: ${missing[*]}"

as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
        fail "not root, and there is no sudo; as root: apt-get install ${missing[*]}"
    as_root=(sudo)
    [ -t 0 ] || as_root+=(-n) # nobody is there to type a password
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
        -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}

updated=1
apt update || updated=0
if ! apt install --no-install-recommends "${missing[@]}"; then
    tail -n 20 "$log" >&2
    find_missing
    [ "$updated" = 1 ] ||
        fail "the package lists could not be fetched (is there a network?); still missing: ${missing[*]}"
    fail "not installed: ${missing[*]}"
fi
find_missing
[ ${#missing[@]} -eq 0 ] || fail "still missing after the installation: ${missing[*]}"
