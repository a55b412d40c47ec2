"""The table of tests/bench/scaling.sh from its reports; --last: only what the last one says."""
import json
import sys


def exposed(report):
    return max(k["exposed_wire_s"] / (k.get("run_s") or k["sweep_s"]) for k in report["ranks"])


def describe(report):
    p, s = report["policy"], report["scaling"]
    plan = report.get("plan") or report.get("expected") or {}
    return ("%-8s %s ranks %-9s %-6s total %8.1f tok/s  expected %8s  decode %8.1f  prefill %6.2f s  "
            "decode %6.2f s  exposed wire %.1f %%  block %d x %d, %d in flight, start %.1f s" % (
                s["name"], s["ranks"], s["how"], s["kind"], report["total_tokens_per_s"],
                "%.1f" % plan["tokens_per_s"] if plan.get("tokens_per_s") else "-",
                report.get("decode_tokens_per_s") or 0, report["prefill_s"], report["decode_s"],
                100 * exposed(report), p["micro_batch"], p["num_micro_batches"],
                p["blocks_in_flight"], report.get("open_s", 0)))


def of(value, one):
    return "%8.1f %6s" % (value, "%.2fx" % (value / one) if one else "") if value else "%15s" % "-"


def print_table(reports):
    print("%-8s %5s %-9s %15s %9s %6s %15s %8s" % (
        "model", "ranks", "", "total tok/s", "expected", "error", "decode tok/s", "exposed"))
    rows = {}
    for r in reports:
        rows.setdefault((r["scaling"]["name"], int(r["scaling"]["ranks"])), {})[
            r["scaling"]["kind"]] = r
    for (name, ranks), row in rows.items():
        one = rows.get((name, 1), {})

        def rate(of_row, kind, key):
            return of_row[kind].get(key) if kind in of_row else None

        total, decode = (("total", "total_tokens_per_s"), ("decode", "decode_tokens_per_s"))
        report = row["total"]
        plan = report.get("plan") or report.get("expected") or {}
        expected = plan.get("tokens_per_s")
        print("%-8s %5d %-9s %s %9s %6s %s %7.1f%%" % (
            name, ranks, report["scaling"]["how"], of(rate(row, *total), rate(one, *total)),
            "%.1f" % expected if expected else "-",
            "%+.1f%%" % (100 * (expected / report["total_tokens_per_s"] - 1)) if expected else "",
            of(rate(row, *decode), rate(one, *decode)), 100 * exposed(report)))


def main():
    last = sys.argv[1] == "--last"
    reports = [json.loads(line) for path in sys.argv[1 + last:] for line in open(path)]
    if last:
        print(describe(reports[-1]), flush=True)
    else:
        print_table(reports)


if __name__ == "__main__":
    main()
