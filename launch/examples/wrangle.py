#!/usr/bin/env python3
"""Data wrangling with a language model: entity matching, imputation, and error detection.

Usage: wrangle.py make [--limit N] > requests.jsonl     N requests of each task
       sluice run --model MODEL --input requests.jsonl --output results.jsonl
       wrangle.py score results.jsonl

Rows of a table are written as "column: value" with a few solved examples before them, as FlexGen's
application does after Narayan et al., "Can Foundation Models Wrangle Your Data?" (2022).  The tables
in data/ are made up; telephone codes of cities are real.
"""
import random

from jobs import main, read_data


def row(record, columns):
    return ". ".join(f"{c}: {record[c]}" for c in columns if record[c])


# ---- entity matching: do two shops' rows mean the same product? ----

def other_spelling(p, rng):
    """The product as another shop would list it."""
    title = rng.choice([f"{p['brand']} {p['kind']} {p['model']}", f"{p['model']} {p['kind']} by {p['brand']}",
                        f"{p['brand']} {p['model']} ({p['kind']}, {p['size']})"])
    price = f"{float(p['price']) * rng.uniform(0.9, 1.1):.2f}"
    return {"title": title.lower() if rng.random() < 0.3 else title, "maker": p["brand"] if rng.random() < 0.5 else "",
            "price": price}


def pair_prompt(a, b):
    columns = ("title", "maker", "price")
    return (f"Product A is {row(a, columns)}. Product B is {row(b, columns)}. "
            "Are Product A and Product B the same? Yes or No?")


def matching(rng):
    products = read_data("products.jsonl")
    pairs = []
    for i, p in enumerate(products):
        a = {"title": f"{p['brand']} {p['kind']} {p['model']} {p['size']}", "maker": p["brand"], "price": p["price"]}
        pairs.append((pair_prompt(a, other_spelling(p, rng)), "Yes"))
        # The hard ones: the same brand or kind, but another model.
        near = [q for q in products if q is not p and (q["brand"] == p["brand"] or q["kind"] == p["kind"])]
        pairs.append((pair_prompt(a, other_spelling(rng.choice(near or products[:i] + products[i + 1:]), rng)), "No"))
    return with_examples(rng.sample(pairs, len(pairs)), 6)


# ---- imputation: which city, by telephone code and name? ----

def city_prompt(r):
    return f"{row(r, ('name', 'kind', 'phone'))}. What is the city?"


def imputation(rng):
    """The examples show each city's code once."""
    rows = read_data("restaurants.jsonl")
    shown = list({r["city"]: r for r in rows}.values())
    asked = [r for r in rows if r not in shown]
    return with_examples([(city_prompt(r), r["city"]) for r in shown + rng.sample(asked, len(asked))], len(shown))


# ---- error detection: is a value misspelled? ----

def misspell(word, rng):
    i = rng.randrange(1, len(word) - 1)
    return word[:i] + rng.choice([c for c in "abcdefghiklmnoprstuvwxyz" if c != word[i].lower()]) + word[i + 1:]


def errors(rng):
    items = []
    for r in read_data("restaurants.jsonl"):
        column = rng.choice(["city", "kind"])
        is_wrong = rng.random() < 0.5
        shown = dict(r, **{column: misspell(r[column], rng)}) if is_wrong else r
        items.append((f"{row(shown, ('name', 'kind', 'city'))}. Is there a spelling error in {column}: "
                      f"{shown[column]}?", "Yes" if is_wrong else "No"))
    return with_examples(items, 8)


def with_examples(items, n):
    """The first n are solved at the beginning of every other one's prompt."""
    head = "".join(f"{prompt} {answer}\n\n" for prompt, answer in items[:n])
    return [(f"{head}{prompt}", answer) for prompt, answer in items[n:]]


if __name__ == "__main__":
    main({"matching": matching(random.Random(1)), "imputation": imputation(random.Random(2)),
          "errors": errors(random.Random(3))},
         {"matching": 3, "imputation": 8, "errors": 3}, __doc__)
