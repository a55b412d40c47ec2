"""What tests/bench/policy_g16.sh does; its head says what that is."""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
GPU_MEM = "16GiB"
GIB = 2**30
OPT_30B = "dummy:" + os.path.join(HERE, "configs/opt-30b-24-layers.json")
OPT_175B = "dummy:" + os.path.join(HERE, "configs/opt-175b-24-layers.json")

# name: model, bits, prompt, generated, prompts, and the policy that somebody set by hand
WORKLOADS = {
    "w1": ("dummy:opt-6.7b", "q4", 512, 32, 520,
           "--weights-at 100,0 --micro-batch 65 --num-micro-batches 2 --max-rows 4096"),
    "w1f": ("dummy:opt-6.7b", "f16", 512, 32, 64,
            "--weights-at 100,0 --micro-batch 8 --num-micro-batches 1 --max-rows 2048"),
    "w2": (OPT_30B, "f16", 512, 32, 80,
           "--weights-at 4,96 --cache-at 15,85 --cpu-attention 100 --micro-batch 20 "
           "--num-micro-batches 4 --max-rows 4096"),
    "w3": (OPT_30B, "q4", 512, 32, 384,
           "--weights-at 100,0 --cache-at 5,95 --cpu-attention 60 --micro-batch 64 "
           "--num-micro-batches 4 --max-rows 2048"),
    "w4": (OPT_175B, "q4", 512, 32, 192,
           "--weights-at 38,62 --cache-at 5,95 --cpu-attention 80 --micro-batch 48 "
           "--num-micro-batches 4 --max-rows 2048"),
    "256/128": (OPT_30B, "q4", 256, 128, 192, None),
    "128/512": ("dummy:opt-6.7b", "q4", 128, 512, 128, None),
    "1024/32": ("dummy:opt-6.7b", "q4", 1024, 32, 160, None),
}


def at_once(items, work):
    """work(item) of each, in order: programs that this one only waits for."""
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(work, items))


class Bench:
    """One workload: how its policies are planned and run."""

    def __init__(self, args, name, folder):
        self.args, self.folder, self.n_files, self.lock = args, folder, 0, threading.Lock()
        self.model, self.bits, self.prompt, self.gen, self.prompts, self.hand = WORKLOADS[name]
        self.name = name
        if args.gen_len:
            self.gen = min(self.gen, args.gen_len)
        self.job = ["--model", self.model, "--prompt-len", str(self.prompt), "--gen-len",
                    str(self.gen), "--num-prompts", str(self.prompts), "--gpu-mem", GPU_MEM,
                    "--weights", self.bits, "--cache", self.bits]
        if args.cpu_mem:
            self.job += ["--cpu-mem", args.cpu_mem]

    def call(self, words):
        done = subprocess.run([self.args.sluice] + words, capture_output=True, text=True,
                              check=False)
        if done.returncode == 0:
            return json.loads(done.stdout)
        self.last_error = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return None

    def write(self, policy):
        with self.lock:
            self.n_files += 1
            path = os.path.join(self.folder, "policy%d.json" % self.n_files)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(policy, file)
        return path

    def plan(self, *words):
        """The policy that a plan chooses, and what it says of it; None where nothing fits."""
        path = self.write({})
        found = self.call(["plan", "--profile", self.args.cluster, "--disk-mem", "1", "--json",
                           "--save", path] + self.job + list(words))
        if not found or not found["feasible"]:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file), found["best"]

    def run(self, how, simulated):
        """A report, or None where it does not fit.  how: options of the policy."""
        words = ["bench", "--quiet", "--seed", "1", "--max-context", str(self.prompt + self.gen)]
        words += self.job + ["--cluster", self.args.cluster] + how
        if simulated:
            words += ["--backend", "sim"]
        report = self.call(words)
        if report and not simulated and self.args.json:
            with open(self.args.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(report, workload=self.name)) + "\n")
        return report

    def grid(self, best):
        """Policies around the default: other blocks as they are best placed, and each with another
        split of the cache and of attention, where the engine places the weights anew."""
        mb, k, rows = best["micro_batch"], best["num_micro_batches"], best["max_rows"]
        shapes = [(mb, k, rows), (mb, k, 2 * rows), (mb, k, max(mb, rows // 2))]
        for f in (0.5, 0.75, 1.25, 1.6):
            shapes.append((max(1, round(mb * f)), k, rows))
        for more in (-2, -1, 1, 2, 4):
            if k + more >= 1:
                shapes.append((mb, k + more, rows))
                shapes.append((max(1, round(mb * k / (k + more))), k + more, rows))
        shapes = dict.fromkeys((m, n, max(r, m)) for m, n, r in shapes)
        planned = at_once(shapes, lambda shape: self.plan(
            "--micro-batch", str(shape[0]), "--num-micro-batches", str(shape[1]), "--max-rows",
            str(shape[2])))
        return [v for p in planned if p for v in self.variants(p[0])]

    @staticmethod
    def variants(policy):
        yield policy
        host, gpu = policy["cpu_attention"], (policy["cache_at"] or {"gpu": 1})["gpu"]
        if gpu < 1:
            for other in (host - 0.2, host + 0.2):
                if 0 <= other <= 1:
                    yield dict(policy, cpu_attention=other)
        for other in (gpu - 0.1, gpu + 0.1):
            if 0 <= other <= 1:
                yield dict(policy, weights_at=None,
                           cache_at={"gpu": other, "cpu": 1 - other, "disk": 0})


def peaks(report):
    return {t: max(r[t + "_peak_bytes"] for r in report["ranks"]) for t in ("gpu", "cpu")}


def key(report):
    """What tells a policy of the grid from another that is nearly the same."""
    p = report["policy"]
    return p["micro_batch"], p["num_micro_batches"], p["max_rows"], \
        round(report["total_tokens_per_s"], 1)


def show(name, what, report, note=""):
    p = report["policy"]
    print("%-8s %-8s %8.1f tok/s  %3d x %-2d %5d rows  prefill %6.1f s  decode %6.1f s  start %4.0f s"
          "  %s" % (name, what, report["total_tokens_per_s"], p["micro_batch"],
                    p["num_micro_batches"], p["max_rows"], report["prefill_s"],
                    report["decode_s"], report["open_s"], note), flush=True)


def measure(args, name, folder):
    """The workload's row of the table."""
    b = Bench(args, name, folder)
    planned = b.plan()
    if not planned:
        sys.exit("%s: no plan: %s" % (name, b.last_error[0]))
    policy, best = planned
    default = b.run(["--policy", b.write(policy)], args.sim)
    if not default:
        sys.exit("%s: the default policy does not run: %s" % (name, b.last_error[0]))
    show(name, "default", default)
    found = default["total_tokens_per_s"]
    if b.hand:
        hand = b.run(b.hand.split(), args.sim)
        if hand:
            show(name, "by hand", hand)
            found = max(found, hand["total_tokens_per_s"])
        else:
            print("%-8s by hand: %s" % (name, b.last_error[0]))
    paths = [b.write(candidate) for candidate in b.grid(policy)]
    reports = at_once(paths, lambda path: b.run(["--policy", path], True))
    ranked = [(r["total_tokens_per_s"], path, r) for path, r in zip(paths, reports) if r]
    ranked.sort(key=lambda one: -one[0])
    print("%-8s grid: %d policies fit, simulated from %.1f to %.1f tok/s" %
          (name, len(ranked), ranked[-1][0], ranked[0][0]), flush=True)
    others = {key(r): (rate, path, r) for rate, path, r in reversed(ranked)}
    others.pop(key(b.run(["--policy", b.write(policy)], True)), None)
    for rate, path, report in sorted(others.values(), key=lambda one: -one[0])[:args.top]:
        real = report if args.sim else b.run(["--policy", path], False)
        if not real:
            print("%-8s %s: %s" % (name, path, b.last_error[0]))
            continue
        show(name, "grid", real, "simulated %.1f" % rate)
        found = max(found, real["total_tokens_per_s"])
    return name, default, found, best, len(ranked)


def print_table(rows):
    print("\n%-8s %9s %9s %6s %10s %7s %6s  %-21s %-21s" %
          ("workload", "default", "best", "ratio", "predicted", "error", "grid", "gpu peak planned/real",
           "cpu peak planned/real"))
    for name, default, found, best, n in rows:
        rate, real = default["total_tokens_per_s"], peaks(default)
        memory = []
        for t in ("gpu", "cpu"):
            planned = best["memory"][t]["peak_bytes"]
            memory.append("%6.2f / %6.2f GiB%s" %
                          (planned / GIB, real[t] / GIB,
                           " OVER" if real[t] > planned else
                           " -%.0f %%" % (100 * (1 - real[t] / planned)) if planned else ""))
        print("%-8s %9.1f %9.1f %6.3f %10.1f %+6.1f%% %6d  %-21s %-21s" %
              (name, rate, found, rate / found, best["tokens_per_s"],
               100 * (best["tokens_per_s"] / rate - 1), n, memory[0], memory[1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sluice")
    parser.add_argument("workloads", nargs="*")
    parser.add_argument("--cluster", default=os.path.join(HERE, "../../cluster/g16.json"))
    parser.add_argument("--top", type=int, default=4)
    parser.add_argument("--gen-len", type=int, default=0)
    parser.add_argument("--cpu-mem", default=None)
    parser.add_argument("--sim", action="store_true")
    parser.add_argument("--json", default=None)
    args = parser.parse_intermixed_args()
    rows = []
    for name in args.workloads or WORKLOADS:
        if name not in WORKLOADS:
            sys.exit("unknown workload %s; there are %s" % (name, " ".join(WORKLOADS)))
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(args, name, folder))
    print_table(rows)


if __name__ == "__main__":
    main()
