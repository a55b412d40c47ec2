#!/usr/bin/env python3
"""Kills runs of a job at random moments and looks at what they leave.  Standard library only.

kill_runs.py requests N                      prints N requests for a model of 320 ids, some malformed
kill_runs.py kill WHOLE KILLS SECONDS -- COMMAND...
    starts COMMAND again and again until KILLS of its runs were killed with SIGKILL, each at a random
    moment of up to SECONDS, and the last job is done.  COMMAND holds OUT where the output's name
    goes.  A job that is done before is begun anew.  WHOLE is the output of an undisturbed run.
    SLUICE_KILL=rank kills one of mpirun's ranks instead, SLUICE_KILL=launcher mpirun alone; the last
    run is then one without mpirun.
Exit status: 0 when every output held what it should after every kill, and the same as WHOLE in the end.
"""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

ANSWERED_STATUS = 3  # some requests are malformed


def print_requests(n):
    rng = random.Random(11)
    for i in range(n):
        if i % 41 == 7:
            print()
        if i % 97 == 50:
            print('{"custom_id": "broken"')
            continue
        request = {"custom_id": f"r-{i}", "max_tokens": rng.randrange(1, 32),
                   "prompt": [rng.randrange(320) for _ in range(rng.randrange(1, 20))],
                   "temperature": rng.choice([0, 1]), "n": rng.choice([1, 1, 1, 2])}
        if i % 3 == 0:
            request["return_token_ids"] = True
        print(json.dumps(request))


def read_lines(path):
    """The whole lines of a file, with the same time in all."""
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")[:-1]
    return [re.sub(rb'"created": [0-9]+', b'"created": 0', line) for line in lines]


def name(line):
    return json.loads(line)["custom_id"]


def check(path, whole, in_order, is_done):
    lines = read_lines(path) if os.path.exists(path) else []
    if in_order and lines != whole[:len(lines)]:
        return f"{len(lines)} lines that are no beginning of the undisturbed run's"
    known = set(whole)
    if len(set(lines)) != len(lines):
        return "a result twice"
    if not known.issuperset(lines):
        return "a result that the undisturbed run has not"
    if is_done and len(lines) != len(whole):
        return f"{len(lines)} results of {len(whole)}"
    return None


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(word) for word in f.read().split()]
    except OSError:
        return []


def kill(run, rng):
    """Returns whether there was something to kill."""
    how = os.environ.get("SLUICE_KILL", "")
    victim = run.pid
    if how == "rank":
        ranks = children(run.pid)
        if not ranks:
            return False
        victim = rng.choice(ranks)
    try:
        os.kill(victim, signal.SIGKILL)
    except OSError:
        return False
    return True


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(run, was_killed):
    """The exit status.  mpirun (4.1 with PMIx 4.2) can hang in its own end when a rank was killed while
    it was starting: all ranks being gone is what counts then."""
    try:
        return run.wait(timeout=15 if was_killed else 300)
    except subprocess.TimeoutExpired:
        if not was_killed or any(is_running(pid) for pid in children(run.pid)):
            raise
    run.kill()
    return run.wait()


def kill_runs(whole_path, n_kills, seconds, command):
    rng = random.Random(n_kills)
    whole = read_lines(whole_path)
    in_order = "finish" not in command
    names = [name(line) for line in whole]
    assert len(set(names)) == len(names)
    if not in_order:
        whole.sort()
    killed, jobs, runs, out = 0, 0, 0, None
    while killed < n_kills or out:
        if not out:
            jobs += 1
            out = f"killed-{jobs}.jsonl"
        before = len(read_lines(out)) if os.path.exists(out) else 0
        if killed == n_kills and command[0] == "mpirun":
            command = command[command.index("-n") + 2:]
        with open("killed.err", "wb") as err:
            run = subprocess.Popen([out if word == "OUT" else word for word in command],
                                   stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        runs += 1
        was_killed = False
        if killed < n_kills:
            try:
                run.wait(rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                was_killed = kill(run, rng)
        status = wait_for_end(run, was_killed)
        killed += was_killed
        is_done = status == ANSWERED_STATUS
        if not is_done and not was_killed:
            with open("killed.err", encoding="utf-8", errors="replace") as err:
                return f"run {runs} ended with status {status}: {err.read()[-1500:]}"
        fault = check(out, whole, in_order, is_done)
        if fault:
            return f"{out} after run {runs} and {killed} kills: {fault}"
        if len(read_lines(out) if os.path.exists(out) else []) < before:
            return f"{out} has lost results in run {runs}"
        if is_done:
            os.remove(out)
            os.remove(out + ".sluice")
            out = None
    print(f"{killed} kills in {runs} runs of {jobs} jobs: every result once")
    return None


def main():
    if sys.argv[1] == "requests":
        print_requests(int(sys.argv[2]))
        return 0
    if sys.argv[1] == "kill":
        whole, n_kills, seconds, dashes, *command = sys.argv[2:]
        assert dashes == "--"
        fault = kill_runs(whole, int(n_kills), float(seconds), command)
        if fault:
            print("FAILED: " + fault)
        return 1 if fault else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
