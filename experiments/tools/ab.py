# SPDX-License-Identifier: GPL-2.0-only
"""ab, of Apache: so many requests, each with a connection of its own; one thread."""
import csv
import io
import lzma
import re
from collections import Counter

from . import base


def percentile(values, percent):
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def rows_of(requests):
    """Rows of the file that ab -g wrote, compressed."""
    return csv.DictReader(io.StringIO(lzma.decompress(requests).decode()), delimiter="\t")


def latency_counts(requests):
    """CSV of the same: how many requests had which time.

    Columns: of which time, connect or total; ms; requests. Sorted, so that it is all that
    is in the two columns that are used, in a hundredth of the space.
    """
    counts = Counter()
    for row in rows_of(requests):
        counts["connect", int(row["ctime"])] += 1
        counts["total", int(row["ttime"])] += 1
    return "".join(["time,ms,requests\n", *(f"{name},{ms},{number}\n" for (name, ms), number
                                            in sorted(counts.items()))]).encode()


def mean_of_percentiles(latency, total):
    """Mean, ms, from ab's percentiles 0 to 99, texts, or None where some are missing.

    total: of all requests in whole ms, sorted, which on a fast host are 0: good for the slowest
    hundredth only, of which the percentiles say nothing.
    """
    if not all(str(percent) in latency for percent in range(100)):
        return None
    edges = [float(latency[str(percent)]) for percent in range(100)]
    slowest = total[-max(len(total) // 100, 1):]
    return (sum((low + high) / 2 for low, high in zip(edges, edges[1:]))
            + max(sum(slowest) / len(slowest), edges[-1])) / 100


class Ab(base.Tool):
    name = "ab"
    package = "apache2-utils"
    latency = "from opening the connection"
    from_opening = True
    # Its -e, and its -g. A failed ab writes neither.
    files = ("percentiles", "requests.xz")

    def commands(self, task):
        return [base.ab_command(task, "-e", "percentiles", "-g", "requests")]

    def parse(self, load):
        out = load["tool"].decode(errors="replace")
        if not re.search(r"^Requests per second:", out, re.M):
            return {}, f"ab failed: {base.last_line(out, 'no output')}"

        def number(label):
            found = re.search(rf"^{label}: +([\d.]+)", out, re.M)
            return float(found[1]) if found else 0

        latency = {row[0]: row[1] for row in csv.reader(io.StringIO(load["percentiles"].decode()))}
        connect, total = zip(*((int(row["ctime"]), int(row["ttime"]))
                               for row in rows_of(load["requests"])))
        connect, total = sorted(connect), sorted(total)
        return {
            "requests": int(number("Complete requests")),
            "failed": int(number("Failed requests") + number("Non-2xx responses")),
            "time_s": number("Time taken for tests"),
            "throughput_rps": number("Requests per second"),
            "latency_p50_ms": float(latency["50"]),
            "latency_p90_ms": float(latency["90"]),
            "latency_p99_ms": float(latency["99"]),
            "latency_p999_ms": percentile(total, 99.9),
            "latency_max_ms": total[-1],
            "latency_mean_ms": round(mean_of_percentiles(latency, total)
                                     or sum(total) / len(total), 3),
            "connect_p99_ms": percentile(connect, 99),
        }, None

    def kept(self, load):
        rest = {name: content for name, content in load.items()
                if name not in ("percentiles", "requests")}
        kept = {**super().kept(rest), "percentiles.csv": load.get("percentiles", b"")}
        try:
            kept["latencies.csv"] = latency_counts(load["requests"])
        except (LookupError, ValueError, TypeError, EOFError, lzma.LZMAError):
            pass    # What ab has said of its end is kept, and parse() tells it.
        return kept


TOOL = Ab()
