#!/usr/bin/env python3
"""Makes the golden runs: what was measured on a real machine, for tests of the cost model.

make_runs.py REPORTS... > NAME.runs.json    REPORTS: lines of `sluice bench` on one rank, as
                                            tests/bench/*.sh keep them (their ..._JSON and --json)
NAME.profile.json is the machine's profile, measured by `sluice profile` right before.  Runs beside
which other programs used the host's memory are to be left out by hand.
Standard library only.
"""
import json
import os
import re
import sys

SHORT = {"F16": "f16", "Q8G64": "q8", "Q4G64": "q4"}


def placement(report, rank):
    """Shares, from the report's policy where it tells them, else from what the rank took."""
    policy = report["policy"]
    weights, cache = policy.get("weights_at"), policy.get("cache_at")
    if not weights:
        of = {t: rank["weight_bytes_" + t] for t in ("gpu", "cpu", "disk")}
        weights = {t: n / sum(of.values()) for t, n in of.items()}
    if not cache:
        of = {t: rank["pages_" + t] for t in ("gpu", "cpu", "disk")}
        cache = {t: n / sum(of.values()) for t, n in of.items()}
    attends = rank["queues"]["cpu-attention"]["busy_s"] > 0
    return weights, cache, policy.get("cpu_attention", float(attends))


def model_of(report):
    """Some have fewer layers, as their files' names say."""
    name = os.path.basename(report["model"].removeprefix("dummy:"))
    return re.sub(r"-\d+-layers\.json$", "", name)


def run_of(report):
    rank, policy = report["ranks"][0], report["policy"]
    weights, cache, host = placement(report, rank)
    name = report.get("workload") or report["scaling"]["name"]
    return {
        "name": name, "model": model_of(report),
        "n_layers": rank["end_layer"] - rank["first_layer"],
        "prompt_len": report["prompt_len"], "gen_len": report["gen_len"],
        "n_prompts": report["n_requests"], "weights": SHORT[policy["weights"]],
        "cache": SHORT[policy["cache"]], "micro_batch": policy["micro_batch"],
        "num_micro_batches": policy["num_micro_batches"], "max_rows": policy["max_rows"],
        "weights_at": weights, "cache_at": cache, "cpu_attention": host,
        "tokens_per_s": report["total_tokens_per_s"], "prefill_s": report["prefill_s"],
        "decode_s": report["decode_s"], "gpu_busy_s": rank["queues"]["gpu"]["busy_s"],
        "h2d_busy_s": rank["queues"]["h2d"]["busy_s"]}


def main():
    runs = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            runs += [run_of(json.loads(line)) for line in file]
    print("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]")


if __name__ == "__main__":
    main()
