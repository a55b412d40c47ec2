#!/usr/bin/env python3
"""Many clients of a running `sluice serve` at once, a third of them broken; asyncio alone.

Usage: client_storm.py PORT PID CLIENTS SECONDS [--max-body BYTES] [--max-queue N] [--idle-timeout SECONDS]
  PID         the server's process, whose memory and open files are watched
  The options are those that the server was started with.

Well-formed requests have to be answered, with the tokens that a quiet server gave; 429 with Retry-After
counts only where there are more clients than --max-queue, and is tried again.  Broken clients send half
requests, nonsense, huge bodies and wrong types, read slowly, or leave in the middle of an answer.
Afterwards nothing of them may be left: sequences, connections, memory.  Prints latency percentiles and
throughput.  The exit status is the verdict.
"""
import argparse
import asyncio
import json
import os
import random
import socket
import struct
import sys
import time

PROMPTS = 40
READ_S = 120  # an answer takes no longer, whatever the load


class Refused(Exception):
    """429 or 503, with Retry-After."""


class Counts:
    def __init__(self):
        self.first_s, self.whole_s, self.other_s = [], [], []
        self.n_tokens = self.n_refused = 0
        self.broken = {}
        self.failures = []


# ---- HTTP ----

def head(method, path, n_bytes, extra=""):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {n_bytes}\r\n{extra}\r\n".encode()


def message(path, body, extra=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, len(data), extra) + data


async def read_head(reader):
    """(status, headers); lines end as the standard says."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = text[:-4].split("\r\n")
    version, status, _ = lines[0].split(" ", 2)
    assert version == "HTTP/1.1", lines[0]
    return int(status), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}


async def read_chunks(reader, on_chunk):
    """A chunked body, piece by piece."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        data = await reader.readexactly(size + 2)
        assert data[-2:] == b"\r\n"
        if size == 0:
            return
        on_chunk(data[:-2])


async def read_answer(reader, on_chunk=None):
    """(status, headers, body)."""
    status, headers = await read_head(reader)
    if headers.get("transfer-encoding") == "chunked":
        pieces = []

        def keep(data):
            pieces.append(data)
            if on_chunk:
                on_chunk(data)
        await read_chunks(reader, keep)
        body = b"".join(pieces)
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return status, headers, body


class Connection:
    """Kept for several requests, as clients' pools do."""

    def __init__(self, o):
        self.o, self.reader, self.writer, self.last_s = o, None, None, 0

    async def ask(self, data, on_chunk=None):
        was_idle = self.writer is not None and time.monotonic() - self.last_s > 0.9 * self.o.idle_timeout
        try:
            status, headers, body = await self.try_once(data, on_chunk)
        except (ConnectionError, asyncio.IncompleteReadError) as e:
            # The server may close a connection that has been idle for its time just when we ask again, which
            # every client has to know: then the question was not heard.  Nothing else is forgiven.
            self.close()
            if not was_idle or getattr(e, "partial", b""):
                raise
            status, headers, body = await self.try_once(data, on_chunk)
        self.last_s = time.monotonic()
        if headers.get("connection", "").lower() == "close":
            self.close()
        if status in (429, 503):
            assert headers["retry-after"].isdigit(), headers
            raise Refused(status)
        return status, headers, body

    async def try_once(self, data, on_chunk):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.o.port)
        self.writer.write(data)
        await self.writer.drain()
        return await asyncio.wait_for(read_answer(self.reader, on_chunk), READ_S)

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = None


# ---- clients that do it right ----

def request_of(number):
    rng = random.Random(1000 + number)
    return {"prompt": [7, 8, 9] * (number % 5) + [rng.randrange(3, 300) for _ in range(rng.randrange(1, 60))],
            "max_tokens": rng.randrange(1, 40), "temperature": 0, "ignore_eos": True, "return_token_ids": True}


async def ask_whole(c, body, counts):
    start_s = time.monotonic()
    status, headers, data = await c.ask(message("/v1/completions", body))
    assert status == 200 and headers["content-type"] == "application/json", (status, data[:300])
    answer = json.loads(data)
    counts.whole_s.append(time.monotonic() - start_s)
    ids = answer["choices"][0]["token_ids"]
    assert answer["usage"]["completion_tokens"] == len(ids) == body["max_tokens"], answer["usage"]
    return ids


async def ask_stream(c, body, counts):
    start_s, first_s = time.monotonic(), []
    status, headers, data = await c.ask(message("/v1/completions", dict(body, stream=True)),
                                        lambda _: first_s or first_s.append(time.monotonic() - start_s))
    assert status == 200 and headers["content-type"].startswith("text/event-stream"), (status, data[:300])
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], events[-2:]
    pieces = [json.loads(e.removeprefix("data: ")) for e in events[:-2]]
    counts.whole_s.append(time.monotonic() - start_s)
    counts.first_s.append(first_s[0])
    assert pieces[-1]["choices"][0]["finish_reason"] == "length", pieces[-1]
    return [i for p in pieces for i in p["choices"][0].get("token_ids") or []]


async def ask_other(c, rng, counts):
    start_s = time.monotonic()
    status, _, data = await c.ask(head("GET", rng.choice(["/health", "/metrics", "/v1/models"]), 0))
    assert status == 200 and data
    counts.other_s.append(time.monotonic() - start_s)


async def good_client(o, rng, expected, counts, is_over):
    c = Connection(o)
    try:
        while not is_over() and not counts.failures:
            number = rng.randrange(PROMPTS)
            try:
                if rng.random() < 0.1:
                    await ask_other(c, rng, counts)
                    continue
                ids = await (ask_stream if rng.random() < 0.4 else ask_whole)(c, request_of(number), counts)
                assert ids == expected[number], (number, ids, expected[number])
                counts.n_tokens += len(ids)
            except Refused as e:
                assert e.args[0] == 429 and o.max_queue < o.clients, f"refused with {e.args[0]}"
                counts.n_refused += 1
                await asyncio.sleep(0.2 + rng.random())
            if rng.random() < 0.2:
                c.close()
    finally:
        c.close()


# ---- clients that do not ----

LONG = {"prompt": [1, 2], "max_tokens": 200, "temperature": 0, "ignore_eos": True, "logprobs": 5}
WRONG = [({"prompt": {}}, 400), ({"prompt": [1], "temperature": "hot"}, 400), ([1], 400), (b"{\"prompt\": ", 400),
         (b"\xff\xfe\x00", 400), (b"[" * 5000, 400), ({"prompt": [10**9]}, 400), ({"prompt": [1], "stream": "yes"}, 400),
         ({"prompt": [1], "n": 10**6}, 400), ({"prompt": [1], "model": "another"}, 404), (b"", 400),
         ({"prompt": [[1]] * 3000, "n": 100}, 400)]


def reset(writer):
    """Leaves with a reset instead of an orderly end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def half_head(o, rng, r, w):
    data = message("/v1/completions", LONG)
    w.write(data[:rng.randrange(1, 60)])
    await asyncio.sleep(rng.random())


async def half_body(o, rng, r, w):
    data = message("/v1/completions", LONG)
    w.write(data[:-rng.randrange(1, 60)])
    await asyncio.sleep(rng.random())


async def byte_by_byte(o, rng, r, w):
    for byte in message("/v1/completions", LONG)[:rng.randrange(20, 120)]:
        w.write(bytes([byte]))
        await w.drain()
        await asyncio.sleep(0.02)


async def idle(o, rng, r, w):
    """Says nothing at all: the server closes."""
    if rng.random() < 0.5:
        w.write(b"POST /v1/comp")
    data = await asyncio.wait_for(r.read(1000), o.idle_timeout + 10)
    assert data == b"" or data.startswith(b"HTTP/1.1 408"), data


async def slow_reader(o, rng, r, w):
    """Reads a few bytes now and then, and leaves, or stays to the end."""
    w.write(message("/v1/completions", dict(LONG, stream=rng.random() < 0.7, n=rng.randrange(1, 5))))
    for _ in range(rng.randrange(4, 40)):
        if not await r.read(100):
            return
        await asyncio.sleep(0.1)


async def deaf(o, rng, r, w):
    """Asks for much in one go and reads nothing of it."""
    w.write(b"".join(message("/v1/completions", dict(LONG, stream=True)) for _ in range(8)))
    await asyncio.sleep(1 + 2 * rng.random())


async def leaves(o, rng, r, w):
    w.write(message("/v1/completions", dict(LONG, n=rng.randrange(1, 9))))
    await asyncio.sleep(rng.random() * 0.5)
    reset(w)


async def leaves_in_stream(o, rng, r, w):
    w.write(message("/v1/completions", dict(LONG, stream=True)))
    status, _ = await asyncio.wait_for(read_head(r), READ_S)
    assert status in (200, 429, 503), status
    await r.read(rng.randrange(1, 2000))
    if rng.random() < 0.5:
        reset(w)


async def nonsense(o, rng, r, w):
    w.write(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 3000))) + b"\r\n\r\n")
    await asyncio.wait_for(r.read(1000), o.idle_timeout + 10)


async def many_headers(o, rng, r, w):
    w.write(b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 200) for i in range(1000)) + b"\r\n")
    await asyncio.wait_for(r.read(1000), READ_S)


async def bad_chunks(o, rng, r, w):
    w.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
            rng.choice([b"5\r\n{\"pro\r\n", b"zz\r\n", b"ffffffffffffffff\r\nx", b"-1\r\n\r\n", b"3\r\n{}\n\r\n0\r\n\r\n"]))
    await asyncio.sleep(rng.random())


async def announced_body(o, rng, r, w):
    w.write(head("POST", "/v1/completions", 1 << 40, "Expect: 100-continue\r\n"))
    status, _ = await asyncio.wait_for(read_head(r), READ_S)
    assert status == 413, status


async def huge_body(o, rng, r, w):
    """Sends it, more or less of it, whatever the server says."""
    n = o.max_body * rng.choice([1, 2, 3, 20]) + 1
    w.write(head("POST", "/v1/completions", n))
    sent = 0
    while sent < n and not r.at_eof():
        w.write(b" " * min(65536, n - sent))
        sent += min(65536, n - sent)
        await w.drain()
    if n < 4 * o.max_body:  # is read to its end
        status, _ = await asyncio.wait_for(read_head(r), READ_S)
        assert status == 413, status


async def wrong_types(o, rng, r, w):
    """A request that is wrong is answered, with what is wrong."""
    for body, expect in rng.sample(WRONG, 4):
        w.write(message("/v1/completions", body))
        status, headers, data = await asyncio.wait_for(read_answer(r), READ_S)
        # What only the engine can know to be wrong waits for its turn like anything else.
        is_full = status == 429 and o.max_queue < o.clients
        assert (status == expect or is_full) and json.loads(data)["error"]["message"], (status, expect, data[:300])
        if headers.get("connection", "").lower() == "close":
            return


BROKEN = [half_head, half_body, byte_by_byte, idle, slow_reader, deaf, leaves, leaves_in_stream, nonsense, many_headers,
          bad_chunks, announced_body, huge_body, wrong_types]
STRICT = {wrong_types, announced_body, idle}  # these have to see the answer that they expect


async def broken_client(o, rng, counts, is_over):
    while not is_over() and not counts.failures:
        what = rng.choice(BROKEN)
        r, w = await asyncio.open_connection("127.0.0.1", o.port)
        w.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await what(o, rng, r, w)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            # What a broken client is answered does not matter, as long as it gets what it came for.
            if what in STRICT and what is not idle:
                raise
        finally:
            w.close()
        counts.broken[what.__name__] = counts.broken.get(what.__name__, 0) + 1


# ---- what the server holds ----

def memory_mib(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def n_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def metrics_of(o):
    c = Connection(o)
    try:
        _, _, data = await c.ask(head("GET", "/metrics", 0))
    finally:
        c.close()
    return {line.split("{")[0]: float(line.split()[-1]) for line in data.decode().split("\n")
            if line.startswith("sluice:")}


async def watch(o, samples, is_over):
    start_s = time.monotonic()
    while not is_over():
        samples.append((time.monotonic() - start_s, memory_mib(o.pid), n_files(o.pid)))
        await asyncio.sleep(min(1, o.seconds / 50))


async def until_quiet(o, files_before):
    """Waits until sequences and connections are gone."""
    end_s = time.monotonic() + o.idle_timeout + 20
    while True:
        # Pages of what was given up are free again with the next block.
        c = Connection(o)
        await c.ask(message("/v1/completions", {"prompt": [1], "max_tokens": 1}))
        c.close()
        m = await metrics_of(o)
        left = (m["sluice:num_requests_running"], m["sluice:num_requests_waiting"], m["sluice:kv_cache_usage_perc"])
        files = n_files(o.pid) - files_before
        if left[:2] == (0, 0) and left[2] < 0.02 and files <= 2:  # of this very question
            return files
        assert time.monotonic() < end_s, f"left behind: {left}, {files} files"
        await asyncio.sleep(0.2)


def percentiles(name, values):
    v = sorted(values)
    if v:
        at = [v[min(len(v) - 1, int(len(v) * p))] for p in (0.5, 0.9, 0.99)]
        print(f"  {name}: {len(v)}, seconds at 50/90/99 %: {at[0]:.3f} / {at[1]:.3f} / {at[2]:.3f}, most {v[-1]:.3f}")


def median(values):
    return sorted(values)[len(values) // 2]


async def storm(o, counts, samples, expected):
    end_s = time.monotonic() + o.seconds

    def is_over():
        return time.monotonic() >= end_s

    async def guarded(number):
        rng = random.Random(number)
        try:
            if number % 3 == 0:
                await broken_client(o, rng, counts, is_over)
            else:
                await good_client(o, rng, expected, counts, is_over)
        except Exception as e:  # whatever it is, the test has failed
            counts.failures.append(f"client {number}: {type(e).__name__}: {e}")

    await asyncio.gather(watch(o, samples, is_over), *(guarded(n) for n in range(o.clients)))


async def main(o):
    counts, quiet, samples = Counts(), Counts(), []
    c = Connection(o)
    expected = [await ask_whole(c, request_of(n), quiet) for n in range(PROMPTS)]
    c.close()
    await asyncio.sleep(0.5)
    files_before = n_files(o.pid)
    start_s = time.monotonic()
    await storm(o, counts, samples, expected)
    spent_s = time.monotonic() - start_s
    assert not counts.failures, counts.failures[:5]
    n_left = await until_quiet(o, files_before)
    # From when all kinds of clients have been there, to the end: what is kept for later use may grow a little.
    warm = median([s[1] for s in samples if s[0] >= 0.2 * o.seconds][:max(3, len(samples) // 10)])
    end = median([s[1] for s in samples][-max(3, len(samples) // 10):])
    rest = memory_mib(o.pid)
    print(f"{o.clients} clients, {o.clients - o.clients * 2 // 3} of them broken, {spent_s:.0f} s")
    percentiles("answers", counts.whole_s)
    percentiles("first pieces of streams", counts.first_s)
    percentiles("health, metrics, models", counts.other_s)
    print(f"  {len(counts.whole_s) / spent_s:.1f} answers/s, {counts.n_tokens / spent_s:.1f} tokens/s to good clients, "
          f"{counts.n_refused} times 429")
    print(f"  broken: {sum(counts.broken.values())} ({', '.join(f'{k} {v}' for k, v in sorted(counts.broken.items()))})")
    print(f"  memory: {warm:.1f} MiB warm, {end:.1f} MiB at the end, {rest:.1f} MiB at rest; files: "
          f"{files_before} before, {max(s[2] for s in samples)} at most, {n_left} more after")
    assert len(counts.whole_s) > o.clients, "too few answers to tell"
    if o.seconds >= 20:
        assert set(counts.broken) == {b.__name__ for b in BROKEN}, "not every kind of broken client was there"
    assert max(end, rest) < 1.1 * warm + 8, f"memory grows: {[round(s[1], 1) for s in samples]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, kind in (("port", int), ("pid", int), ("clients", int), ("seconds", float)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--max-body", type=int, default=16 << 20)
    parser.add_argument("--max-queue", type=int, default=1024)
    parser.add_argument("--idle-timeout", type=float, default=60)
    options = parser.parse_args()
    if options.clients < 3:
        sys.exit("clients: expected at least 3")
    asyncio.run(main(options))
