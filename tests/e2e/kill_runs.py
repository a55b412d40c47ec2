#!/usr/bin/env python3
"""Kills runs of a job at random moments and looks at what they leave.  Standard library only.

kill_runs.py requests N                      prints N requests for a model of 320 ids, some malformed
kill_runs.py kill WHOLE KILLS SECONDS -- COMMAND...
    starts COMMAND again and again until KILLS of its runs were killed with SIGKILL, each at a random
    moment of up to SECONDS, and the last job is done.  COMMAND holds OUT where the output's name
    goes.  A job that is done before is begun anew.  WHOLE is the output of an undisturbed run.
    SLUICE_KILL=rank kills one of mpirun's ranks instead, SLUICE_KILL=launcher mpirun alone; the last
    run is then one without mpirun.  RANKS in COMMAND is a number from 2 to 4, another in each run.
    A killed run has to end within ten seconds, and after four more no process and no shared memory
    of it may be left.  A killed rank has to be named, with its host, in one message.
    SLUICE_KILL_TOKENS=any compares an output with WHOLE by custom_id, kind of answer (result or
    error) and number of choices only: tokens differ where placement and batch round sums.
Exit status: 0 when every output held what it should after every kill, and the same as WHOLE in the end.
"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid

ANSWERED_STATUS = 3  # some requests are malformed
END_WITHIN_S, LINGER_S = 10, 4


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


def outline(line):
    """What of a result does not hang on its tokens, as a line again."""
    result = json.loads(line)
    body = (result["response"] or {}).get("body", {})
    kind = "result" if "choices" in body else "error"
    return json.dumps({"custom_id": result["custom_id"], "kind": kind,
                       "n_choices": len(body.get("choices", []))}).encode()


def read_lines(path):
    """The whole lines of a file, with the same time in all, or what is compared of them."""
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")[:-1]
    if os.environ.get("SLUICE_KILL_TOKENS") == "any":
        return [outline(line) for line in lines]
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


def environment(pid):
    """Variables that a process was started with; none when it is a zombie or gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            words = f.read().split(b"\0")
    except OSError:
        return {}
    return dict(word.decode(errors="replace").split("=", 1) for word in words if b"=" in word)


class Run:
    """One run of the command, whose processes bear a mark in their environment."""

    def __init__(self, command):
        self.mark = uuid.uuid4().hex
        self.victim, self.jobs = None, set()
        with open("killed.err", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                            env=dict(os.environ, SLUICE_TEST_RUN=self.mark))

    def kill(self, rng):
        """Returns whether there was something to kill."""
        ranks = {pid: environment(pid) for pid in children(self.process.pid)}
        ranks = {pid: env for pid, env in ranks.items() if "OMPI_COMM_WORLD_RANK" in env}
        self.jobs = {int(env.get("PMIX_NAMESPACE", 0)) for env in ranks.values()}
        victim = self.process.pid
        if os.environ.get("SLUICE_KILL") == "rank":
            if not ranks:
                return False
            victim = rng.choice(list(ranks))
            self.victim = ranks[victim]["OMPI_COMM_WORLD_RANK"]
        try:
            os.kill(victim, signal.SIGKILL)
        except OSError:
            return False
        self.killed_at = time.monotonic()
        return True

    def wait(self, was_killed):
        """Exit status and seconds since the kill."""
        status = self.process.wait(timeout=60 if was_killed else 300)
        return status, time.monotonic() - self.killed_at if was_killed else 0

    def left_over(self):
        """What is still there of the run some seconds after its end."""
        until = time.monotonic() + LINGER_S
        while True:
            left = [f"process {pid}" for pid in filter(str.isdigit, os.listdir("/proc"))
                    if environment(pid).get("SLUICE_TEST_RUN") == self.mark]
            for name in os.listdir("/dev/shm"):
                if any(f".{job:x}." in name for job in self.jobs):
                    left.append(f"/dev/shm/{name}")
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.05)

    def fault_in_message(self):
        """A killed rank is named by us, or by mpirun where ranks did not watch each other yet."""
        if self.victim is None:
            return None
        with open("killed.err", encoding="utf-8", errors="replace") as err:
            text = err.read()
        ours = re.findall(r"^sluice: (?!note:)(.*)$", text, re.MULTILINE)
        host = re.escape(socket.gethostname())
        if len(ours) > 1:
            return f"{len(ours)} messages: {ours}"
        if ours and not re.match(rf"rank {self.victim} on {host}: died", ours[0]):
            return f"rank {self.victim} was killed, the message is {ours[0]}"
        theirs = rf"process rank {self.victim} with PID \d+ on node {host} exited on\s+signal 9"
        if not ours and not re.search(theirs, text):
            return f"rank {self.victim} was killed, and nothing says so: {text[-1500:]}"
        return None


def kill_runs(whole_path, n_kills, seconds, command):
    rng = random.Random(n_kills)
    whole = read_lines(whole_path)
    in_order = "finish" not in command
    names = [name(line) for line in whole]
    assert len(set(names)) == len(names)
    if not in_order:
        whole.sort()
    killed, jobs, runs, out, slowest, named = 0, 0, 0, None, 0, 0
    while killed < n_kills or out:
        if not out:
            jobs += 1
            out = f"killed-{jobs}.jsonl"
        before = len(read_lines(out)) if os.path.exists(out) else 0
        if killed == n_kills and command[0] == "mpirun":
            command = command[command.index("-n") + 2:]
        words = {"OUT": out, "RANKS": str(rng.randrange(2, 5))}
        run = Run([words.get(word, word) for word in command])
        runs += 1
        was_killed = False
        if killed < n_kills:
            try:
                run.process.wait(rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                was_killed = run.kill(rng)
        status, took = run.wait(was_killed)
        slowest = max(slowest, took)
        # A rank that is killed after the first one has answered all is missed by nobody: no kill.
        came_late = was_killed and status == ANSWERED_STATUS
        killed += was_killed and not came_late
        if was_killed:
            fault = None if came_late else run.fault_in_message()
            if took > END_WITHIN_S:
                fault = f"it went on for {took:.1f} s"
            elif run.victim is not None and status == 0:
                fault = "status 0"
            left = run.left_over()
            if left:
                fault = f"it left {left}"
            if fault:
                return f"run {runs}, killed: {fault}"
            with open("killed.err", encoding="utf-8", errors="replace") as err:
                named += not came_late and run.victim is not None and \
                    "\nsluice: rank" in "\n" + err.read()
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
    print(f"{killed} kills in {runs} runs of {jobs} jobs: every result once; the slowest end took "
          f"{slowest:.1f} s" + (f"; {named} ranks named by us, {killed - named} by mpirun alone"
                                if os.environ.get("SLUICE_KILL") == "rank" else ""))
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
