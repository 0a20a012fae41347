"""Figures of a GPU: what a report has of each case, and its tables."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.gpu import cases
from benchmarks.gpu.cases import Case
from benchmarks.gpu.schedule import Turns, largest_batch

# How much more a step computes than an answer: the gradients of weights and of activations.
PASSES = {"inference": 1, "training": 3}


def new() -> dict[str, Any]:
    """A report without figures: "runs" are when and where, "cases" what was measured in which."""
    return {"runs": [], "cases": [], "not_reached": []}


def add(report: dict[str, Any], turns: Turns) -> dict[str, Any]:
    """Puts a case's figures into the report, in place of those that it had; returns them."""
    run = report["runs"][-1]
    case = turns.case
    for worker in turns.workers:
        run["versions"].update(worker.facts)
    if case.task == "product":
        figures = _summary(turns, 0, None)
        for name, row in figures.items():
            if "images_per_second" in row:
                peak = 2 * case.size**3 * row["images_per_second"]
                run["peaks"].setdefault(case.dtype, {})[name.partition("/")[2]] = peak
        return {"title": case.title, "contenders": figures}
    cost = max(worker.multiply_adds for worker in turns.workers)
    peaks = run["peaks"].get(case.dtype, {})
    record = {
        "title": case.title,
        "task": case.task,
        "model": case.model,
        "size": case.size,
        "dtype": case.dtype,
        "batch": case.batch,
        "note": case.note,
        "run": len(report["runs"]) - 1,
        "multiply_adds": cost,
        "contenders": _summary(
            turns, 2 * cost * PASSES[case.task], max(peaks.values(), default=None)
        ),
        "profiles": turns.profiles,
    }
    report["cases"] = [r for r in report["cases"] if r["title"] != case.title] + [record]
    return record


def _summary(turns: Turns, flops: float, peak: float | None) -> dict[str, dict[str, Any]]:
    """By contender: median and quartiles of images per second, and of ratios to the first's."""
    base = turns.rates.get(turns.case.contenders[0], [])
    figures: dict[str, dict[str, Any]] = {}
    for worker in turns.workers:
        name = worker.job.contender
        rates = turns.rates.get(name, [])
        row: dict[str, Any] = {"prepare_seconds": worker.spent[0]}
        figures[name] = row
        if worker.error:
            row["error"] = worker.error
        if len(rates) < 2:
            continue
        row |= {
            "compile_seconds": worker.spent[1],
            "images_per_second": statistics.median(rates),
            "quartiles": _quartiles(rates),
            "rounds": rates,
            "memory": worker.memory,
        }
        if len(base) == len(rates):
            ratios = [a / b for a, b in zip(rates, base, strict=True)]
            row |= {"ratio": statistics.median(ratios), "ratio_quartiles": _quartiles(ratios)}
        if flops and name not in cases.PEERS:
            row["flops"] = flops * row["images_per_second"]
            if peak:
                row["share"] = row["flops"] / peak
    return figures


def _quartiles(values: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def batch_that_fits(report: dict[str, Any], case: Case, available: float) -> int | None:
    """The largest power of two of images that fits into so many bytes, as another batch tells."""
    (name,) = case.contenders
    for record in report["cases"]:
        row = record["contenders"].get(name, {})
        same = all(record[key] == getattr(case, key) for key in ("task", "model", "size", "dtype"))
        if same and row.get("memory"):
            return largest_batch(record["batch"], row["memory"], available)
    return None


def tables(report: dict[str, Any]) -> str:
    """All figures as Markdown."""
    parts = []
    for run in report["runs"]:
        facts = {"date": run["date"], "device": run["device"], **run["versions"]}
        peaks = [
            f"{dtype} product in {framework}: {peak / 1e12:.1f} TFLOP/s"
            for dtype, frameworks in run["peaks"].items()
            for framework, peak in frameworks.items()
        ]
        parts.append(", ".join([f"{k} {v}" for k, v in facts.items() if v] + peaks))
    for record in report["cases"]:
        parts.append(_table(record))
    for record in report["cases"]:
        for name, profile in record["profiles"].items():
            parts.append(_profile(f"{record['title']}: {name}", profile))
    if report["not_reached"]:
        parts.append("No time was left for: " + "; ".join(report["not_reached"]) + ".")
    return "\n\n".join(parts)


def _table(record: dict[str, Any]) -> str:
    rows = list(record["contenders"])
    heads = ["images/s", "half of the rounds", f"to {rows[0]}", "half of the rounds"]
    heads += ["TFLOP/s", "of the peak", "GB"]
    lines = [[record["title"], *heads], ["---"] * (len(heads) + 1)]
    for name, row in record["contenders"].items():
        if "images_per_second" not in row:
            lines.append([name, row.get("error", "no figures"), *[""] * 6])
            continue
        speed = row["images_per_second"]
        digits = 0 if speed >= 100 else 1
        line = [f"{speed:.{digits}f}", "-".join(f"{q:.{digits}f}" for q in row["quartiles"])]
        if "ratio" in row:
            line += [f"{row['ratio']:.2f}", "-".join(f"{q:.2f}" for q in row["ratio_quartiles"])]
        else:
            line += ["", ""]
        line.append(f"{row['flops'] / 1e12:.1f}" if "flops" in row else "")
        line.append(f"{row['share']:.1%}" if "share" in row else "")
        line.append(f"{row['memory'] / 1e9:.1f}" if row["memory"] else "")
        accuracy = f" ({cases.PEERS[name]} %)" if name in cases.PEERS else ""
        lines.append([name + accuracy, *line])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _profile(title: str, profile: dict[str, Any]) -> str:
    kinds = ", ".join(f"{kind} {ms:.2f}" for kind, ms in profile["kinds"].items())
    lines = [
        f"{title}: {profile['milliseconds']:.2f} ms of {profile['kernels']:.0f} kernels in a batch: "
        f"{kinds}.",
        "",
        "| kernel | from | ms | calls |",
        "| --- | --- | --- | --- |",
    ]
    for row in profile["longest"]:
        lines.append(
            f"| {row['name'][:70]} | {row['source'][-70:]} | {row['milliseconds']:.3f} "
            f"| {row['calls']:.0f} |"
        )
    return "\n".join(lines)
