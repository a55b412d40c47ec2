#!/usr/bin/env bash
# Collects the libraries that Sluice is built with into a folder, for hosts without package access.
#
# Usage: launch/offline-deps.sh [--dir DIR] [--list] [PACKAGE...]
#   --dir DIR    where to put them (default: .deps in the source folder, ignored by git)
#   --list       print the packages, download nothing
#   PACKAGE...   development packages to take along beside the usual ones, such as libopenmpi-dev
#
# Runs on a Debian or Ubuntu machine with package access, needs no root and installs nothing.  On
# the other host, which has a compiler, CMake and what is not in the list (OpenBLAS, CUDA, and MPI
# with the hwloc that it is linked with; a second hwloc would get in its way):
#   cmake -S . -B build -DCMAKE_PREFIX_PATH=$PWD/.deps/usr
# The folder may be moved: its pkg-config files name places relative to themselves.  The other
# host's C library has to be as new as this machine's; Debian 12 serves Ubuntu 24.04.  What these
# libraries need in turn is collected too; where the host lacks it, programs find it with
#   export LD_LIBRARY_PATH=$PWD/.deps/usr/lib/x86_64-linux-gnu
set -euo pipefail

packages=(
    libjansson-dev libpcre2-dev libutf8proc-dev libzip-dev liburing-dev # the program
    libglpk-dev                                                         # the planner
    libmicrohttpd-dev                                                   # sluice serve
    libcmocka-dev                                                       # the tests
)
# Part of every host, or of its compiler.
base_packages='^(libc6|libgcc-s1|libcrypt1|gcc-[0-9]+-base)$'

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
}

fail() {
    printf 'launch/offline-deps.sh: %s\n' "$@" >&2
    exit 1
}

root=$(cd "$(dirname "$0")/.." && pwd)
dir=$root/.deps
list=0
while [ $# -gt 0 ]; do
    case $1 in
    --dir)
        [ $# -gt 1 ] || fail "--dir needs a folder"
        dir=$2
        shift
        ;;
    --list) list=1 ;;
    --help | -h)
        usage
        exit 0
        ;;
    -*)
        usage >&2
        exit 2
        ;;
    *) packages+=("$1") ;;
    esac
    shift
done
for tool in apt-cache apt-get dpkg; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run this on Debian or Ubuntu"
done

depends_of() {
    apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@"
}

# The libraries that the development packages link with, and those that these load in turn.
find_libraries() {
    local direct
    mapfile -t direct < <(depends_of "${packages[@]}" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p' |
        grep -v -- '-dev$' | sort -u)
    [ ${#direct[@]} -gt 0 ] || fail "apt knows none of: ${packages[*]}" "run apt-get update first"
    depends_of --recurse "${direct[@]}" | grep -E '^[a-z]' | grep -v -- '-dev$' |
        grep -vE "$base_packages" | sort -u
}

mapfile -t libraries < <(find_libraries)
[ ${#libraries[@]} -gt 0 ] || fail "no library to collect"
if [ "$list" = 1 ]; then
    printf '%s\n' "${packages[@]}" "${libraries[@]}"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/debs" "$scratch/root"
(cd "$scratch/debs" && apt-get -q download "${packages[@]}" "${libraries[@]}") ||
    fail "the download failed; apt-get update may help"
for deb in "$scratch"/debs/*.deb; do dpkg -x "$deb" "$scratch/root"; done

# Some libraries still live in /lib: one place for all, without what a build does not read.
if [ -d "$scratch/root/lib" ] && [ ! -L "$scratch/root/lib" ]; then
    mkdir -p "$scratch/root/usr/lib"
    cp -a "$scratch/root/lib/." "$scratch/root/usr/lib/"
fi
mkdir -p "$scratch/usr"
mv "$scratch/root/usr/include" "$scratch/root/usr/lib" "$scratch/usr/"
find "$scratch/usr" \( -name '*.a' -o -name '*.la' \) -delete

# /usr becomes the folder that the file itself lies in, three levels up.
# shellcheck disable=SC2016 # pkg-config expands it, not the shell
find "$scratch/usr" -name '*.pc' -exec sed -i -E 's,=/usr(/|$),=${pcfiledir}/../../..\1,' {} +
# Links to /lib/... would leave the folder.
find "$scratch/usr/lib" -type l -lname '/*' | while read -r link; do
    target=$(dirname "$link")/$(basename "$(readlink "$link")")
    if [ -e "$target" ]; then ln -sf "$(basename "$target")" "$link"; else rm "$link"; fi
done

mkdir -p "$dir"
rm -rf "${dir:?}/usr"
mv "$scratch/usr" "$dir/usr"
printf 'collected %d packages in %s (%s)\n' $((${#packages[@]} + ${#libraries[@]})) "$dir" \
    "$(du -sh "$dir/usr" | cut -f1)"
printf 'configure with: cmake -S . -B build -DCMAKE_PREFIX_PATH=%s/usr\n' "$dir"
