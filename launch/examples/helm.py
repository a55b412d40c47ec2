#!/usr/bin/env python3
"""Jobs in the forms of HELM's scenarios: facts, multiple choice, and patterns.

Usage: helm.py make [--limit N] > requests.jsonl     N requests of each scenario
       sluice run --model MODEL --input requests.jsonl --output results.jsonl
       helm.py score results.jsonl

The prompts are built as HELM's adapters build them for WikiFact, MMLU and synthetic reasoning, with
five solved examples before each question; the questions are our own, from data/countries.jsonl and
from a generator.  For HELM itself, or any harness, point it at `sluice serve`.
"""
import random

from jobs import main, read_data

N_EXAMPLES = 5


def facts(rng, column):
    """WikiFact: "subject, relation" and the object to be named."""
    rows = [r for r in read_data("countries.jsonl") if r[column]]
    rows = rng.sample(rows, len(rows))
    items = [(f"The {column} of {r['country']} is", r[column]) for r in rows]
    head = "".join(f"{prompt} {answer}\n\n" for prompt, answer in items[:N_EXAMPLES])
    return [(head + prompt, answer) for prompt, answer in items[N_EXAMPLES:]]


def choice(rng):
    """MMLU: four answers, of which a letter is to be given."""
    rows = read_data("countries.jsonl")
    items = []
    for r in rng.sample(rows, len(rows)):
        wrong = rng.sample(sorted({o["capital"] for o in rows if o is not r}), 3)
        answers = rng.sample(wrong + [r["capital"]], 4)
        lines = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", answers))
        items.append((f"Question: What is the capital of {r['country']}?\n{lines}Answer:",
                      "ABCD"[answers.index(r["capital"])]))
    head = "The following are multiple choice questions (with answers) about geography.\n\n"
    head += "".join(f"{prompt} {answer}\n\n" for prompt, answer in items[:N_EXAMPLES])
    return [(head + prompt, answer) for prompt, answer in items[N_EXAMPLES:]]


def patterns(rng, n=60):
    """Synthetic reasoning: a rule of symbols, to be filled in with words."""
    words = ["apple", "river", "stone", "cloud", "tiger", "lemon", "violin", "garden", "silver", "winter"]
    rules = ["X Y X", "X X Y", "Y X Y", "Y Y X"]
    cases = [(x, y, rule) for x in words for y in words if x != y for rule in rules]
    items = []
    for x, y, rule in rng.sample(cases, n):
        items.append((f"Rule: {rule}. X = {x}, Y = {y}. Result:", rule.replace("X", x).replace("Y", y)))
    head = "".join(f"{prompt} {answer}\n\n" for prompt, answer in items[:N_EXAMPLES])
    return [(head + prompt, answer) for prompt, answer in items[N_EXAMPLES:]]


if __name__ == "__main__":
    main({"capital": facts(random.Random(1), "capital"), "continent": facts(random.Random(2), "continent"),
          "language": facts(random.Random(3), "language"), "choice": choice(random.Random(4)),
          "patterns": patterns(random.Random(5))},
         {"capital": 8, "continent": 8, "language": 8, "choice": 2, "patterns": 16}, __doc__)
