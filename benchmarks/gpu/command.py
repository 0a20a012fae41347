"""The command `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import gpu, measure
from benchmarks.gpu import kernels, report
from benchmarks.gpu.cases import Case, all_cases
from benchmarks.gpu.schedule import Schedule, Turns, peak_cases
from keras_cvt._commands import Parser, UsageError, command, integer, number
from keras_cvt._files import check_file, write_json


@command("benchmarks.gpu", measure.STATUSES)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    arguments = _parser().parse_args(argv)
    if arguments.table:
        print(_tables(arguments.table))
        return
    _check(arguments)
    selected = [
        case
        for case in dict.fromkeys(_resized(case, arguments) for case in all_cases())
        if re.search(arguments.cases, case.title)
    ]
    if arguments.list:
        print("\n".join(f"{case.title}: {'; '.join(case.contenders)}" for case in selected))
        return
    found = report.new()
    if arguments.resume and arguments.json.exists():
        found = json.loads(arguments.json.read_text())
        done = {
            (record["title"], name)
            for record in found["cases"]
            for name, row in record["contenders"].items()
            if "error" not in row
        }
        selected = [
            case
            for case in selected
            if not all((case.title, name) in done for name in case.contenders)
        ]
    _run(arguments, found, selected)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="benchmarks.gpu", description=gpu.__doc__.split("\n\n")[0])
    add = parser.add_argument
    add(
        "--minutes",
        type=number(above=0),
        default=6.0,
        metavar="M",
        help="begin nothing after so long",
    )
    add("--rounds", type=integer(3), default=5, metavar="N", help="at least 3")
    add(
        "--seconds",
        type=number(above=0),
        default=0.3,
        metavar="S",
        help="of a contender in a round",
    )
    add("--cases", default="", metavar="REGEX", help="only those whose title it is found in")
    add("--list", action="store_true", help="print the cases' titles and contenders")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="cpu is for trying it out")
    add("--batch", type=integer(1), metavar="N", help="images in all batches")
    add("--size", type=integer(1), metavar="PIXELS", help="of all images")
    add(
        "--threads",
        type=integer(1),
        default=measure.CORES,
        metavar="N",
        help="of each with --device cpu",
    )
    add(
        "--processes",
        type=integer(1),
        default=measure.CORES,
        metavar="N",
        help="to get ready at once",
    )
    add(
        "--compilers",
        type=integer(1),
        default=2,
        metavar="N",
        help="of JAX at once, which try kernels out",
    )
    add("--patience", type=number(above=0), default=180.0, metavar="S", help="for one to get ready")
    add("--json", type=Path, metavar="FILE", help="write all figures to it, case by case")
    add("--resume", action="store_true", help="do what the figures of --json lack")
    add("--profiles", type=Path, metavar="FOLDER", help="keep JAX's whole profiles there")
    add("--table", type=Path, metavar="FILE", help="print what --json has written, and end")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what can't be done before the work begins.

    Raises:
        UsageError: For arguments that don't go together.
        OSError: If the figures could not be written.
    """
    if arguments.resume and arguments.json is None:
        raise UsageError("--resume needs --json.")
    try:
        re.compile(arguments.cases)
    except re.error as error:
        raise UsageError(
            f"--cases {arguments.cases!r} is no regular expression: {error}."
        ) from None
    if arguments.json is not None:
        check_file(arguments.json)


def _resized(case: Case, arguments: argparse.Namespace) -> Case:
    size = arguments.size or case.size
    if case.task == "product":
        # As large a product takes minutes on a processor.
        return dataclasses.replace(case, size=1024 if arguments.device == "cpu" else case.size)
    batch = arguments.batch if arguments.batch and case.batch else case.batch
    return dataclasses.replace(case, size=size, batch=batch)


def _tables(path: Path) -> str:
    """The figures that an earlier --json has written, as Markdown."""
    try:
        return report.tables(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not what --json writes: {error!r}.") from None


def _run(arguments: argparse.Namespace, found: dict[str, Any], selected: list[Case]) -> None:
    device = _gpu() if arguments.device == "gpu" else {"device": measure.machine()["processor"]}
    memory = float(device.pop("memory", 0)) or None
    driver = {"driver": device["driver"]} if "driver" in device else {}
    found["runs"].append(
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device["device"],
            "versions": driver,
            "peaks": {},
        }
    )
    measure.print_facts(device)

    def save() -> None:
        if arguments.json:
            write_json(arguments.json, _rounded(found), indent=1)

    def record(turns: Turns) -> None:
        print(_lines(report.add(found, turns)), flush=True)
        save()

    options = {
        **vars(arguments),
        # The frameworks themselves, a context in each process, and what memory's pieces leave unused.
        "memory": memory and 0.9 * memory / 1e9,
    }
    schedule = Schedule(
        [_resized(case, arguments) for case in peak_cases(selected)],
        options,
        lambda case: report.batch_that_fits(found, case, (memory or 8e9) * 0.8),
        record,
    )
    with _caches(arguments.profiles):
        left = schedule.run(arguments.minutes)
    done = {case["title"] for case in found["cases"]}
    found["not_reached"] = [case.title for case in left if case.title not in done]
    save()
    for title in found["not_reached"]:
        print(f"no time was left for {title}")


def _lines(record: dict[str, Any]) -> str:
    lines = [record["title"]]
    for name, row in record["contenders"].items():
        text = row.get("error", "")
        if "images_per_second" in row:
            text = f"{row['images_per_second']:.1f}/s"
            text += f", ratio {row['ratio']:.2f}" if "ratio" in row else ""
            text += f", {row['flops'] / 1e12:.1f} TFLOP/s" if "flops" in row else ""
            text += f", {row['share']:.0%} of the peak" if "share" in row else ""
            text += f", {row['memory'] / 1e9:.1f} GB"
            text += f" (ready in {row['prepare_seconds']:.0f} + {row['compile_seconds']:.0f} s)"
        lines.append(f"  {name}: {text}")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    """The same with numbers of five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _gpu() -> dict[str, str]:
    """The first GPU's name, driver and memory in bytes."""
    query = "--query-gpu=name,driver_version,memory.total"
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise measure.BenchmarkError(
            f"nvidia-smi finds no GPU ({error}); --device cpu tries this out."
        ) from error
    name, driver, memory = (part.strip() for part in answer.split(","))
    return {"device": name, "driver": driver, "memory": str(float(memory) * 2**20)}


@contextmanager
def _caches(profiles: Path | None) -> Iterator[None]:
    """What compilers have made once, contenders of later cases find again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/jax")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/torch")
        if profiles is not None:
            profiles.mkdir(parents=True, exist_ok=True)
            os.environ[kernels.FOLDER] = str(profiles.absolute())
        yield
