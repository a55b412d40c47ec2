#!/usr/bin/env python3
"""Perplexity of a model on a text for pairs of precisions of weights and cache.

Usage: perplexity.py SLUICE MODEL [TEXT] [options] [-- options of `sluice run`]

Cuts the text into windows at the ends of paragraphs, has `sluice run` score each of them (echo, no
new tokens) under each pair, and prints a table: perplexity, and its cost against the first pair with
the standard error of that cost, taken from the windows' differences.  The same tokens are scored
under every pair.  Standard library only.

Without TEXT it is Jane Austen's Persuasion (1818, public domain), taken from the Debian and Ubuntu
package r-cran-janeaustenr, which apt-get downloads but does not install; the text is kept in
${XDG_CACHE_HOME:-~/.cache}/sluice.
"""
import argparse
import glob
import json
import math
import os
import subprocess
import sys
import tempfile
import zlib

PACKAGE = "r-cran-janeaustenr"
FIRST_LINE = "Persuasion"  # of the book, among the six in the package
PAIRS = "f16/f16,q8/f16,q4/f16,f16/q8,f16/q4,q8/q8,q4/q4"


# ---- the text ----

def strings_of(record):
    """The lines of a character vector that R serialised (XDR, version 3): each is a header whose low
    byte is 9, a length and the bytes."""
    at = record.index(b"UTF-8") + 5  # the native encoding ends the header
    at += 4                          # flags of the vector
    n = int.from_bytes(record[at:at + 4], "big")
    at += 4
    lines = []
    for _ in range(n):
        if record[at + 3] != 9:
            raise ValueError("not a vector of strings")
        length = int.from_bytes(record[at + 4:at + 8], "big")
        lines.append(record[at + 8:at + 8 + length].decode("utf-8"))
        at += 8 + length
    return lines


def books(database):
    """R's lazy-load database: compressed records one after another, a length before each."""
    at = 0
    while at < len(database):
        inflate = zlib.decompressobj()
        record = inflate.decompress(database[at + 4:])
        at = len(database) - len(inflate.unused_data)
        yield strings_of(record)


def paragraphs_of(lines):
    """Undoes the line breaks within paragraphs, which empty lines separate."""
    text = "\n".join(line.strip() for line in lines)
    return "\n\n".join(p.replace("\n", " ").strip() for p in text.split("\n\n") if p.strip())


def fetched_text():
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sluice")
    target = os.path.join(cache, "persuasion.txt")
    if os.path.exists(target):
        return target
    with tempfile.TemporaryDirectory() as folder:
        print(f"fetching {PACKAGE}", file=sys.stderr)
        subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg-deb", "-x", *glob.glob(folder + "/*.deb"), folder], check=True)
        found = glob.glob(folder + "/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
        with open(found[0], "rb") as f:
            book = next(b for b in books(f.read()) if b[0].strip() == FIRST_LINE)
    os.makedirs(cache, exist_ok=True)
    with open(target + ".part", "w", encoding="utf-8") as f:
        f.write(paragraphs_of(book) + "\n")
    os.rename(target + ".part", target)
    return target


def cut(text, window_chars, max_chars):
    """Windows of whole paragraphs, each of at least window_chars."""
    windows, window = [], ""
    for paragraph in text.split("\n\n"):
        window += ("\n\n" if window else "") + paragraph
        if len(window) >= window_chars:
            windows.append(window)
            window = ""
        if sum(map(len, windows)) >= max_chars:
            break
    return windows


# ---- scores ----

def scores(options, windows, pair):
    """Sum and number of the log-probabilities of each window under "WEIGHTS/CACHE"."""
    weights, cache = pair.split("/")
    with tempfile.TemporaryDirectory() as folder:
        requests, results = folder + "/requests.jsonl", folder + "/results.jsonl"
        with open(requests, "w", encoding="utf-8") as f:
            for window in windows:
                f.write(json.dumps({"prompt": window, "max_tokens": 0, "echo": True, "logprobs": 0,
                                    "temperature": 0}) + "\n")
        subprocess.run([options.sluice, "run", "--model", options.model, "--weights", weights,
                        "--cache", cache, "--input", requests, "--output", results, "--quiet",
                        *options.run_options], check=True)
        out = []
        with open(results, encoding="utf-8") as f:
            for line in f:
                body = json.loads(line)["response"]["body"]
                if "choices" not in body:
                    sys.exit(f"{pair}: {body['error']['message']}")
                found = body["choices"][0]["logprobs"]["token_logprobs"]
                found = [x for x in found if x is not None]  # the first token has none
                out.append((sum(found), len(found)))
    return out


def cost(base, other):
    """Relative cost in perplexity in percent, and its standard error by the delete-one jackknife."""
    def of(skipped):
        kept = [i for i in range(len(base)) if i != skipped]
        n = sum(base[i][1] for i in kept)
        return 100 * math.expm1(sum(base[i][0] - other[i][0] for i in kept) / n)
    n = len(base)
    without = [of(i) for i in range(n)] if n > 1 else [0.0]
    mean = sum(without) / len(without)
    return of(None), math.sqrt((n - 1) / n * sum((x - mean) ** 2 for x in without))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice")
    parser.add_argument("model")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--tokens", type=int, default=20000, help="tokens to score (20000)")
    parser.add_argument("--window-chars", type=int, default=4400,
                        help="shortest window, in characters (4400, some 1000 tokens)")
    parser.add_argument("--pairs", default=PAIRS, help=f"weights/cache,... ({PAIRS})")
    own, run_options = sys.argv[1:], []
    if "--" in own:
        own, run_options = own[:own.index("--")], own[own.index("--") + 1:]
    options = parser.parse_args(own)
    options.run_options = run_options

    path = options.text or fetched_text()
    with open(path, encoding="utf-8") as f:
        windows = cut(f.read(), options.window_chars, options.tokens * 5)
    pairs = options.pairs.split(",")
    base = scores(options, windows, pairs[0])
    n = next((i + 1 for i in range(len(base)) if sum(c for _, c in base[:i + 1]) >= options.tokens),
             None)
    if n is None:
        sys.exit(f"{path}: {sum(c for _, c in base)} tokens in whole windows, "
                 f"expected {options.tokens}")
    windows, base = windows[:n], base[:n]
    n_tokens = sum(c for _, c in base)
    print(f"{os.path.basename(options.model)}, {os.path.basename(path)}: {n_tokens} tokens in {n} windows")
    print("\n| weights | cache | perplexity | cost |\n|---|---|---|---|", flush=True)
    for pair in pairs:
        found = base if pair == pairs[0] else scores(options, windows, pair)
        if [c for _, c in found] != [c for _, c in base]:
            sys.exit(f"{pair}: other numbers of tokens than {pairs[0]}")
        perplexity = math.exp(-sum(s for s, _ in found) / n_tokens)
        percent, error = cost(base, found)
        weights, cache = pair.split("/")
        told = "" if pair == pairs[0] else f"{percent:+.2f} % (± {error:.2f})"
        print(f"| {weights} | {cache} | {perplexity:.3f} | {told} |", flush=True)


main()
