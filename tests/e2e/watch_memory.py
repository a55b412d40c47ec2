#!/usr/bin/env python3
"""Runs a command and watches the memory of the ranks it starts.  Standard library only.

watch_memory.py PROGRAM OUTPUT N_LINES LIMIT COMMAND...

Samples the resident memory (anonymous and shared; files that are mapped do not count) of every
descendant process called PROGRAM while OUTPUT grows to N_LINES lines.  Prints it by fifths of the
output.  Fails if a rank, after the first three fifths, ever has more than 1 + LIMIT times the most
that it had in them, or if there were too few samples to tell.  Else the status is the command's.
"""
import os
import subprocess
import sys
import time

PERIOD_S = 0.1
SLACK_KIB = 1024  # a thread's first stack pages and the like


def processes():
    """pid -> (parent, name)"""
    table = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        table[int(pid)] = (int(text[text.rindex(")") + 2 :].split()[1]), name)
    return table


def ranks_of(root, program):
    table = processes()
    found = []
    for pid, (_, name) in table.items():
        at = pid
        while at in table and at != root:
            at = table[at][0]
        if at == root and name == program[:15]:
            found.append(pid)
    return sorted(found)


def resident_kib(pid):
    total = 0
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            for line in f:
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1])
    except OSError:
        return None
    return total


def count_lines(path):
    try:
        with open(path, "rb") as f:
            return f.read().count(b"\n")
    except OSError:
        return 0


def main():
    program, output, n_lines, limit, *command = sys.argv[1:]
    n_lines, limit = int(n_lines), float(limit)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    peaks = {}  # pid -> the most in each fifth of the output
    samples = [0] * 5
    while child.poll() is None:
        fifth = min(4, count_lines(output) * 5 // n_lines)
        samples[fifth] += 1
        for pid in ranks_of(child.pid, program):
            kib = resident_kib(pid)
            if kib is not None:
                row = peaks.setdefault(pid, [0] * 5)
                row[fifth] = max(row[fifth], kib)
        time.sleep(PERIOD_S)
    ok = bool(peaks)
    for rank, pid in enumerate(sorted(peaks)):
        row = peaks[pid]
        # Until about then prompts that are kept fill the cache.
        warm, later = max(row[:3]), max(row[3:])
        flat = 0 < later <= warm * (1 + limit) + SLACK_KIB
        ok = ok and flat
        print(f"process {rank}: most resident memory in each fifth of the output, MiB: "
              + " ".join(f"{x / 1024:.1f}" for x in row) + ("" if flat else "  NOT FLAT"))
    print(f"samples in each fifth: {samples}")
    return child.returncode if ok else 1


if __name__ == "__main__":
    sys.exit(main())
