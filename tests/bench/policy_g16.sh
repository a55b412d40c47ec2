#!/usr/bin/env bash
# How good the default policy is on one GPU capped to 16 GiB: beside the best of a grid of policies
# around it, beside one set by hand, and beside what was predicted.
#
# Usage: tests/bench/policy_g16.sh SLUICE [OPTION...] [WORKLOAD...]
#   SLUICE          the program, built with CUDA
#   WORKLOAD        w1 w1f w2 w3 w4 and, by prompt and output, 256/128 128/512 1024/32; default: all
#   --cluster FILE  the machine's profile (default: cluster/g16.json; sluice profile --gpu-mem 16GiB
#                   --disk-dir none -o FILE measures it)
#   --top N         policies of the grid that are really run: those that a simulation on the profile
#                   finds fastest (4)
#   --gen-len N     generates at most N tokens, for shorter runs
#   --sim           simulates instead of measuring: needs no GPU, and shows that everything fits
#   --json FILE     keeps the reports, a line each
#
# Prompts are random tokens, all distinct, weights are dummies.  Prints a line for each policy that
# was run and at the end a table: measured rate of the default, the best that was found and their
# ratio, predicted rate and its error, and of each memory the planned peak beside the measured one.
set -euo pipefail
sluice=${1:?usage: policy_g16.sh SLUICE [OPTION...] [WORKLOAD...]}
shift
exec python3 "$(dirname "$0")/policy_grid.py" "$sluice" "$@"
