#!/usr/bin/env python3
"""Prints each prompt with its answers.  Usage: show.py PROMPTS.jsonl RESULTS.jsonl

The prompts are simple JSONL or OpenAI batch lines, the results are what `sluice run` wrote for them
in input order.
"""
import json
import sys
import textwrap


def read_lines(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def show(text, indent):
    for line in text.splitlines() or [""]:
        print(textwrap.fill(line, 96, initial_indent=indent, subsequent_indent=indent) or indent)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    requests, results = read_lines(sys.argv[1]), read_lines(sys.argv[2])
    if len(requests) != len(results):
        sys.exit(f"{len(requests)} prompts, but {len(results)} results")
    n_failed = 0
    for request, result in zip(requests, results):
        print()
        show(str(request.get("body", request).get("prompt", "")), "> ")
        response = result.get("response") or {}
        body = response.get("body") or {}
        if response.get("status_code") != 200:
            error = result.get("error") or body.get("error") or {}
            show("error: " + str(error.get("message", error)), "  ")
            n_failed += 1
            continue
        for choice in body["choices"]:
            show(choice["text"].strip(), "  ")
    if n_failed:
        print(f"\n{n_failed} of {len(results)} prompts got an error")


main()
