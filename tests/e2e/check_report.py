#!/usr/bin/env python3
"""Checks a page that --report wrote against the numbers of --metrics-json, and in a browser.

Usage: check_report.py page REPORT.html METRICS.json [CHART...]     without a browser
       check_report.py browser REPORT.html CHROMIUM FOLDER [CHART...]  with one; FOLDER for its files
CHART: names of drawings that must be there, the only ones that may be words instead left out
("speed queues moment ranks links memory plan prefix").  The exit status is the verdict.
"""
import html.parser
import json
import os
import re
import subprocess
import sys

ALL = ["speed", "queues", "moment", "links", "memory", "plan", "prefix"]
VOID = {"meta", "link", "br"}


class Page(html.parser.HTMLParser):
    """Figures by name: the tags in each, and the words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figure, self.figures, self.words, self.tags = [], None, {}, {}, set()
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        for name in ("src", "href", "style", "onload"):
            assert name not in values or values[name] == "data:,", (tag, attrs)
        for name in ("x", "y", "width", "height", "x1", "x2", "y1", "y2"):
            assert name not in values or re.fullmatch(r"-?[0-9]+\.[0-9]", values[name]), (tag, attrs)
        if tag == "figure":
            self.figure = values["id"].removeprefix("chart-")
            self.figures[self.figure], self.words[self.figure] = [], ""
        elif self.figure:
            self.figures[self.figure].append((tag, values.get("class", "")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open, tag)
        self.open.pop()
        if tag == "figure":
            self.figure = None

    def handle_data(self, data):
        self.words[self.figure] = self.words.get(self.figure, "") + data


def read_page(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
    assert "http" not in text and "@import" not in text and "url(" not in text, "the page is not self-contained"
    return Page(text)


def count(page, chart, classes):
    return sum(1 for tag, name in page.figures[chart] if tag == "rect" and name in classes)


def check_page(page_path, metrics_path, wanted):
    page = read_page(page_path)
    with open(metrics_path, encoding="utf-8") as f:
        m = json.load(f)
    assert "script" not in page.tags
    for chart in wanted or ALL:
        assert any(tag == "svg" for tag, _ in page.figures[chart]), f"chart {chart} has no drawing"
    words = page.words[None]
    for number in (m["n_prefill_rows"], m["n_pure_decode_rows"], m["n_generated_tokens"], m["n_requests"]):
        assert re.search(rf"\b{number}\b", words), f"{number} is not on the page"
    assert f"{m['total_tokens_per_s']:.1f}" in words
    assert f"{m['n_shared_tokens']}" in page.words["prefix"]
    n_links = n_measured = n_tiers = 0
    for rank in m["ranks"]:
        for name, queue in rank["queues"].items():
            if queue["bytes"] and queue["busy_s"] > 0:
                n_links += 1
                n_measured += "measured_bytes_per_s" in queue
                assert abs(queue["bytes_per_s"] - queue["bytes"] / queue["busy_s"]) < 1e-6 * queue["bytes_per_s"]
                assert f"{queue['bytes_per_s'] * 1e-9:.3g}" in page.words["links"], (name, queue)
        for tier in ("gpu", "cpu", "disk"):
            n_tiers += rank[f"{tier}_budget_bytes"] > 0 or rank[f"{tier}_peak_bytes"] > 0
        line = rank["timeline"]
        for name, busy in line["busy_s"].items():
            assert len(busy) <= 128 and abs(sum(busy) - rank["queues"][name]["busy_s"]) < \
                0.02 * rank["queues"][name]["busy_s"] + 0.01, (name, sum(busy), rank["queues"][name])
    assert count(page, "links", ["blue"]) == n_links + (n_links > 0), "a bar for each link, and the key"
    assert count(page, "links", ["mark"]) == n_measured + (n_links > 0 and "plan" in m)
    assert count(page, "memory", ["green", "red"]) == n_tiers + 1
    history = m["history"]
    assert sum(history["requests"]) == m["n_requests"], (sum(history["requests"]), m["n_requests"])
    for series, total in (("prefill_tokens", "n_prefill_rows"), ("decode_tokens", "n_decode_rows"),
                          ("admitted_tokens", "n_admitted_tokens"), ("shared_tokens", "n_shared_tokens")):
        assert abs(sum(history[series]) - m[total]) < 1e-6 * (1 + m[total]), (series, sum(history[series]), m[total])
    n = len(history["requests"])
    assert (n - 1) * history["bin_s"] < history["end_s"] - history["start_s"] + 1e-9 <= n * history["bin_s"] + 1e-6


# ---- in a browser ----

PROBE = """<script>
addEventListener("error", e => { document.documentElement.dataset.error = e.message; });
addEventListener("load", () => {
  document.documentElement.dataset.boxes = JSON.stringify([...document.querySelectorAll("figure")].map(f => {
    const svg = f.querySelector("svg"), box = svg && svg.getBoundingClientRect();
    return {name: f.id.slice(6), box: box && [box.x + scrollX, box.y + scrollY, box.width, box.height],
            texts: svg ? svg.querySelectorAll("text").length : 0};
  }));
  document.documentElement.dataset.height = document.documentElement.scrollHeight;
});
</script>
"""


def chromium(program, folder, url, *options):
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-dev-shm-usage", "--force-device-scale-factor=1", f"--user-data-dir={folder}/profile",
               "--enable-logging=stderr", "--v=0", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in done.stderr.split("\n") if "CONSOLE" in line]
    assert not said, said
    return done.stdout


def check_browser(page_path, program, folder, wanted):
    from PIL import Image
    with open(page_path, encoding="utf-8") as f:
        text = f.read()
    probe = os.path.join(folder, "probe.html")
    with open(probe, "w", encoding="utf-8") as f:
        f.write(text.replace("</head>", PROBE + "</head>", 1))
    dom = chromium(program, folder, "file://" + probe, "--window-size=1060,1000", "--dump-dom")
    found = re.search(r'<html[^>]*data-boxes="([^"]*)"', dom)
    assert found, dom[:500]
    assert "data-error" not in dom[:dom.index(">", dom.index("<html"))]
    charts = {c["name"]: c for c in json.loads(html.unescape(found.group(1)))}
    height = int(re.search(r'<html[^>]*data-height="([0-9]+)"', dom).group(1))
    picture = os.path.join(folder, "report.png")
    chromium(program, folder, "file://" + os.path.realpath(page_path), f"--window-size=1060,{height + 100}",
             f"--screenshot={picture}")
    image = Image.open(picture).convert("RGB")
    for name in wanted or ALL:
        chart = charts[name]
        assert chart["box"] and chart["texts"] > 0, chart
        x, y, w, h = chart["box"]
        assert w >= 500 and h >= 40 and y + h <= image.height, chart
        part = image.crop((int(x), int(y), int(x + w), int(y + h)))
        # What is drawn has colours; scales, tracks and text are grey.
        coloured = sum(n for n, (r, g, b) in part.getcolors(part.width * part.height)
                       if max(r, g, b) - min(r, g, b) > 40)
        share = coloured / (part.width * part.height)
        print(f"{name}: {part.width} x {part.height} pixels, {100 * share:.1f} % coloured")
        assert share > 0.004, f"chart {name} is empty"


if __name__ == "__main__":
    if sys.argv[1] == "page":
        check_page(sys.argv[2], sys.argv[3], sys.argv[4:])
    elif sys.argv[1] == "browser":
        check_browser(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
    else:
        sys.exit(__doc__)
