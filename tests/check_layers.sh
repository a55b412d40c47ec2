#!/bin/sh
# Fails if a folder includes a header that its layer must not know.
# Usage: check_layers.sh ROOT.  Rules: FOLDER:PROJECT HEADERS (regex):RATIONED SYSTEM HEADERS (regex)
cd "$1" || exit 2
bad=0
special='^(mpi|glpk|nccl|cuda|cublas)'
b='base/'; m='(base|model)/'; s='(base|model|store)/'; e='(base|model|store|engine)/'
j='(base|model|engine|job)/'; all='(base|model|store|engine|job)/'
while IFS=';' read -r from allowed sys; do
    for f in "$from"/*.c "$from"/*.h "$from"/*.cu "$from"/*.cuh; do
        [ -f "$f" ] || continue
        for h in $(sed -n 's/^ *# *include *"\([^"]*\)".*/\1/p' "$f"); do
            echo "$h" | grep -qE "^($allowed)" || { echo "$f: may not include \"$h\""; bad=1; }
            case $h in */*) ;; *)
                [ -f "$from/$h" ] || { echo "$f: \"$h\" is no header of $from"; bad=1; } ;;
            esac
        done
        for h in $(sed -n 's/^ *# *include *<\([^>]*\)>.*/\1/p' "$f" | grep -E "$special"); do
            echo "$h" | grep -qE "^($sys)" || { echo "$f: may not include <$h>"; bad=1; }
        done
        case $from in launch) ;; *)
            if grep -nE '^ *# *if.*SL_(CUDA|NCCL)( |$|\))' "$f"; then
                echo "$f: optional parts are chosen by pointer, not by #ifdef"; bad=1
            fi ;;
        esac
    done
done <<R
src/base;$b;none
src/model;$m;none
src/store;$s;none
src/engine;$e;none
src/job;$j;none
kernels/cpu;$all|cpu/;none
kernels/cuda;$all|cuda/;cuda|cublas
kernels/cuda/hopper;$all|cuda/;cuda|cublas
kernels/sim;$all|sim/;none
policy;$all|[a-z_]+\.h;glpk
mpi;$all|[a-z_]+\.h;mpi|nccl|cuda
R
exit $bad
