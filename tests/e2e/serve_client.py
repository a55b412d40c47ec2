#!/usr/bin/env python3
"""Speaks to a running `sluice serve` as its clients do, with http.client alone.

Usage: serve_client.py PORT same REQUESTS RESULTS   answers are those that `sluice run` gave
       serve_client.py PORT errors LIMIT            refusals (the body limit in bytes)
       serve_client.py PORT auth TOKEN              nothing without the token
       serve_client.py PORT text                    text, chat and streams of a model with a tokenizer
       serve_client.py PORT storm SECONDS           30 clients at once, a third of them broken
The exit status is the verdict.
"""
import http.client
import json
import random
import socket
import sys
import threading
import time

PORT = int(sys.argv[1])


def request(method, path, body=None, headers=None, timeout=120):
    """(status, headers, bytes) of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=timeout)
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    result = response.status, response.headers, response.read()
    connection.close()
    return result


def post(path, body, expect=200):
    status, headers, data = request("POST", path, body)
    assert status == expect, (status, data[:500])
    assert headers["Content-Type"] == "application/json"
    return json.loads(data)


def stream(path, body):
    """The objects of a streamed answer, after a check of the framing."""
    status, headers, data = request("POST", path, dict(body, stream=True))
    assert status == 200, (status, data[:500])
    assert headers["Content-Type"].startswith("text/event-stream")
    assert data.endswith(b"\n\n")
    events = data.decode().split("\n\n")[:-1]
    assert all(e.startswith("data: ") and "\n" not in e for e in events), events
    assert events[-1] == "data: [DONE]"
    return [json.loads(e[6:]) for e in events[:-1]]


def plain(choice):
    """What of a choice has to be the same in every answer: all of it."""
    return {k: choice[k] for k in sorted(choice)}


def check_same(requests_path, results_path):
    with open(requests_path, encoding="utf-8") as f:
        bodies = [json.loads(line) for line in f if line.strip()]
    with open(results_path, encoding="utf-8") as f:
        results = [json.loads(line)["response"]["body"] for line in f]
    answers = [None] * len(bodies)

    def ask(i):
        answers[i] = post("/v1/completions", bodies[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for body, answer, result in zip(bodies, answers, results):
        assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
        assert answer["usage"] == result["usage"], (body, answer["usage"], result["usage"])
        for mine, theirs in zip(answer["choices"], result["choices"]):
            # Log-probabilities may differ in their last digits between blocks of other shapes.
            mine_lp, their_lp = mine.pop("logprobs"), theirs.pop("logprobs")
            assert plain(mine) == plain(theirs), (body, mine, theirs)
            assert (mine_lp is None) == (their_lp is None)
            if mine_lp is None:
                continue
            assert mine_lp["tokens"] == their_lp["tokens"]
            for a, b in zip(mine_lp["token_logprobs"], their_lp["token_logprobs"]):
                assert a == b or abs(a - b) < 1e-3, (a, b)
            check_greedy(body, mine_lp)
        is_single = isinstance(body["prompt"], str) or isinstance(body["prompt"][0], int)
        if body.get("n", 1) == 1 and body.get("logprobs") is None and is_single:
            pieces = stream("/v1/completions", body)
            text = "".join(p["choices"][0]["text"] for p in pieces)
            assert text == result["choices"][0]["text"], (body, text)
            ids = [i for p in pieces for i in p["choices"][0].get("token_ids", [])]
            assert ids == result["choices"][0].get("token_ids", []), (body, ids)
            assert pieces[-1]["choices"][0]["finish_reason"] == result["choices"][0]["finish_reason"]


def check_greedy(body, logprobs):
    """What lm-evaluation-harness does: a token is greedy if its number equals the largest one."""
    entries = list(zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]))
    n_generated = body.get("max_tokens", 16)
    for i, (name, value, top) in enumerate(entries):
        if value is None:
            assert i == 0 and top is None
            continue
        assert top[name] == value
        if body.get("temperature") == 0 and body["logprobs"] > 0 and i >= len(entries) - n_generated:
            assert value == max(top.values()), (i, value, top)


def check_errors(limit):
    def refused(status, path, body, method="POST", param=None, headers=None):
        found, _, data = request(method, path, body, headers)
        assert found == status, (path, str(body)[:80], found, data[:300])
        error = json.loads(data)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"], error
        if param:
            assert error["param"] == param, error

    refused(400, "/v1/completions", b"{\"prompt\": ")
    refused(400, "/v1/completions", b"\xff\xfe")
    refused(400, "/v1/completions", b"")
    refused(400, "/v1/completions", b"[" * 60000)
    refused(400, "/v1/completions", [1])
    refused(400, "/v1/completions", {"prompt": {}}, param="prompt")
    refused(400, "/v1/completions", {"prompt": [1], "temperature": "hot"}, param="temperature")
    refused(400, "/v1/completions", {"prompt": [1], "stream": "yes"}, param="stream")
    refused(400, "/v1/completions", {"prompt": [10**9]})
    refused(400, "/v1/completions", {"prompt": [1], "max_tokens": 10**8})
    refused(400, "/v1/completions", {"prompt": [1], "max_tokens": 10**8, "stream": True})
    refused(400, "/v1/completions", {"prompt": [1], "n": 2, "best_of": 4, "stream": True}, param="best_of")
    refused(404, "/v1/completions", {"prompt": [1], "model": "another"}, param="model")
    refused(400, "/v1/chat/completions", {"messages": "hi"}, param="messages")
    refused(400, "/tokenize", {"prompt": 3})
    refused(400, "/detokenize", {"tokens": "a"})
    refused(404, "/v1/nothing", {})
    refused(404, "/", None, method="GET")
    refused(405, "/v1/completions", None, method="GET")
    refused(405, "/health", {}, method="PUT")
    refused(413, "/v1/completions", b" " * (limit + 1))
    refused(413, "/v1/completions", b" " * (3 * limit))
    refused(413, "/v1/completions", b"", headers={"Content-Length": str(1 << 40), "Expect": "100-continue"})
    status, _, data = request("GET", "/v1/models")
    assert status == 200 and json.loads(data)["data"][0]["object"] == "model"
    status, headers, data = request("GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nsluice:request_refused_total{" in data
    assert request("GET", "/health")[0] == 200


def check_auth(token):
    body = {"prompt": [1], "max_tokens": 1}
    for header in (None, "Bearer", "Bearer ", "Bearer x" + token, "Bearer " + token + "x", "Bearer " + token[:-1],
                   "Basic " + token):
        status, headers, data = request("POST", "/v1/completions", body, {"Authorization": header} if header else {})
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer", (header, status)
        assert json.loads(data)["error"]["code"] == "invalid_api_key"
    assert request("GET", "/metrics")[0] == 401
    assert request("GET", "/no/such/route")[0] == 401
    assert request("GET", "/health")[0] == 200
    assert request("POST", "/v1/completions", body, {"Authorization": "Bearer " + token})[0] == 200


def check_text():
    chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    whole = post("/v1/chat/completions", dict(chat, max_completion_tokens=24, logprobs=True, top_logprobs=2))
    message = whole["choices"][0]["message"]
    assert whole["object"] == "chat.completion" and message["role"] == "assistant"
    assert "Paris" in message["content"], message
    assert all(len(t["top_logprobs"]) == 2 for t in whole["choices"][0]["logprobs"]["content"])
    pieces = stream("/v1/chat/completions", dict(chat, max_tokens=24, stream_options={"include_usage": True}))
    assert all(p["object"] == "chat.completion.chunk" for p in pieces)
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(c["delta"].get("content", "") for p in pieces for c in p["choices"])
    assert text == message["content"], (text, message)
    assert pieces[-1]["choices"] == [] and pieces[-1]["usage"] == whole["usage"]
    assert pieces[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    # The chat is the completion of its template's text.
    ids = post("/tokenize", {"messages": chat["messages"]})["tokens"]
    text = post("/detokenize", {"tokens": ids})["prompt"]
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n"), text
    same = post("/v1/completions", {"prompt": ids, "max_tokens": 24, "temperature": 0})
    assert same["choices"][0]["text"] == message["content"]
    # A stop string that spans tokens never shows, in a stream neither.
    answer = message["content"]
    stop = answer[len(answer) // 2:][:5]
    cut = stream("/v1/completions", {"prompt": ids, "max_tokens": 24, "temperature": 0, "stop": stop})
    assert "".join(p["choices"][0]["text"] for p in cut) == answer[:answer.index(stop)]
    assert cut[-1]["choices"][0]["finish_reason"] == "stop"
    post("/v1/chat/completions", dict(chat, tools=[{"type": "function"}]), expect=400)
    post("/v1/chat/completions", dict(chat, messages=[]), expect=400)
    tokens = post("/tokenize", {"prompt": "Hello world", "add_special_tokens": False})
    assert tokens["count"] == len(tokens["tokens"]) == 2
    assert post("/detokenize", {"tokens": tokens["tokens"]})["prompt"] == "Hello world"


# ---- many clients ----

def good_client(rng):
    length = rng.randrange(1, 40)
    body = {"prompt": [rng.randrange(100) for _ in range(rng.randrange(1, 60))], "max_tokens": length,
            "temperature": 0, "ignore_eos": True}
    if rng.random() < 0.3:
        pieces = stream("/v1/completions", dict(body, stream_options={"include_usage": True}))
        assert pieces[-1]["usage"]["completion_tokens"] == length
    elif rng.random() < 0.2:
        assert request("GET", rng.choice(["/health", "/metrics", "/v1/models"]))[0] == 200
    else:
        assert post("/v1/completions", body)["usage"]["completion_tokens"] == length


def open_raw():
    s = socket.create_connection(("127.0.0.1", PORT), timeout=30)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return s


def head(n_bytes):
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % n_bytes


def broken_client(rng):
    """Does one thing wrong; whatever the server answers is right."""
    body = json.dumps({"prompt": [1, 2], "max_tokens": 400, "temperature": 0, "ignore_eos": True,
                       "stream": rng.random() < 0.5, "logprobs": 5}).encode()
    kind = rng.randrange(7)
    s = open_raw()
    try:
        if kind == 0:  # half a head
            s.sendall(head(10)[:rng.randrange(1, 40)])
        elif kind == 1:  # half a body
            s.sendall(head(len(body)) + body[:len(body) // 2])
            time.sleep(rng.random() * 0.2)
        elif kind == 2:  # gone before the answer
            s.sendall(head(len(body)) + body)
            time.sleep(rng.random() * 0.3)
        elif kind == 3:  # a slow reader that leaves half way
            s.sendall(head(len(body)) + body)
            for _ in range(8):
                if not s.recv(64):
                    break
                time.sleep(0.05)
        elif kind == 4:  # not HTTP
            s.sendall(bytes(rng.randrange(256) for _ in range(200)) + b"\r\n\r\n")
            s.recv(1000)
        elif kind == 5:  # reset instead of an orderly end
            s.sendall(head(len(body)) + body)
            time.sleep(rng.random() * 0.1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:  # lies about its length, byte by byte
            for byte in (head(20) + b"{\"prompt\": [1]}    x" * 3)[:90]:
                s.sendall(bytes([byte]))
    except OSError:
        pass
    finally:
        s.close()


def storm(seconds):
    end, failures, counts = time.monotonic() + seconds, [], [0, 0]
    lock = threading.Lock()

    def work(number):
        rng = random.Random(number)
        is_broken = number % 3 == 0
        while time.monotonic() < end and not failures:
            try:
                (broken_client if is_broken else good_client)(rng)
            except Exception as e:  # whatever it is, the test has failed
                with lock:
                    if not is_broken:
                        failures.append(f"client {number}: {type(e).__name__}: {e}")
            with lock:
                counts[is_broken] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{counts[0]} answers, {counts[1]} broken clients")
    assert not failures, failures[:5]
    assert counts[0] >= 20 and counts[1] >= 10, counts
    # What the broken ones left behind has left the engine.
    deadline = time.monotonic() + 20
    while True:
        text = request("GET", "/metrics")[2].decode()
        running = [line.split()[-1] for line in text.split("\n") if line.startswith("sluice:num_requests_")]
        if running == ["0", "0"]:
            break
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


if __name__ == "__main__":
    mode, rest = sys.argv[2], sys.argv[3:]
    if mode == "same":
        check_same(*rest)
    elif mode == "errors":
        check_errors(int(rest[0]))
    elif mode == "auth":
        check_auth(rest[0])
    elif mode == "text":
        check_text()
    elif mode == "storm":
        storm(float(rest[0]))
    else:
        sys.exit(__doc__)
