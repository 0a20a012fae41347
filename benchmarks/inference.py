"""Images per second of CvT-13 at 224x224 against its peers: `python -m benchmarks.inference`.

Each contender is a process of its own; all are asked in turn for some batches, round after round. The
speed of a shared machine changes from minute to minute, so what counts is each contender's speed as a
ratio to the official PyTorch code's in the same round: its median over the rounds, and its quartiles.
Where other programs take the cores from time to time, the best round of each says more.

Needs the environments `.venv` and `.venv-torch` that `make venv .venv-torch/made` makes. Takes some
minutes. Exit status: 0 if done, 2 if it can't be done as asked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders import SIZE, TENSORFLOW, TORCH, TORCH_EAGER
from training.files import write_text

ROOT = Path(__file__).parents[1]
NAMES = [*TORCH, *TENSORFLOW]


class BenchmarkError(Exception):
    """What keeps a comparison from being made. The message is one line."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.inference", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="at least 3")
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="of each contender, one for each core"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="of a contender in a round"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=NAMES,
        metavar="NAME",
        help=f"besides {TORCH_EAGER!r}; of {', '.join(map(repr, NAMES))}",
    )
    parser.add_argument(
        "--torch-python", type=Path, default=ROOT / ".venv-torch/bin/python", metavar="FILE"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")
    arguments = parser.parse_args(argv)
    if min(*arguments.batch, arguments.threads) < 1 or arguments.seconds <= 0:
        parser.error("--batch, --threads and --seconds must be above 0.")
    if arguments.rounds < 3:
        parser.error(f"--rounds must be at least 3. Received {arguments.rounds}.")
    if unknown := set(arguments.only) - set(NAMES):
        parser.error(f"--only knows {', '.join(map(repr, NAMES))}. Received {unknown.pop()!r}.")
    try:
        report = measure(arguments)
    except BenchmarkError as error:
        print(f"benchmarks.inference: error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        write_text(arguments.json, json.dumps(report, indent=1) + "\n")
    return 0


def measure(arguments: argparse.Namespace) -> dict:
    """Measures and prints what the command is asked for.

    Returns:
        The machine, the versions, and for each batch size and contender all figures.

    Raises:
        BenchmarkError: if a contender can't be started or ends early.
    """
    if not arguments.torch_python.exists():
        raise BenchmarkError(
            f"{arguments.torch_python} is missing: `make .venv-torch/made` makes it, or name another "
            "with --torch-python."
        )
    names = [name for name in NAMES if name in {TORCH_EAGER, *arguments.only}]
    report = {"machine": machine(), "threads": arguments.threads, "size": SIZE, "batches": {}}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for batch in arguments.batch:
        contenders = []
        try:
            for name in names:
                python = arguments.torch_python if name in TORCH else Path(sys.executable)
                contenders.append(Contender(name, python, batch, arguments.threads))
            for _ in range(arguments.rounds):
                # In another order each time, so that none always follows the same one.
                for contender in random.sample(contenders, len(contenders)):
                    contender.take_turn(arguments.seconds)
        finally:
            for contender in contenders:
                contender.stop()
        report["versions"] = {k: v for c in contenders for k, v in c.versions.items()}
        report["batches"][batch] = figures = summarize({c.name: c.rates for c in contenders})
        print_table(batch, figures)
    print(", ".join(f"{key} {value}" for key, value in report["versions"].items()))
    return report


class Contender:
    """A process that computes batches when it is asked to.

    Attributes:
        rates: images per second of each turn.
    """

    def __init__(self, name: str, python: Path, batch: int, threads: int):
        self.name, self.batch = name, batch
        self.rates: list[float] = []
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.contenders", name, str(batch), str(threads)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions = json.loads(self._line())
        self.seconds = min(self._ask(1) for _ in range(2))

    def take_turn(self, seconds: float) -> None:
        batches = max(1, round(seconds / self.seconds))
        time.sleep(0.1)  # the threads of the one before spin for a while
        self.rates.append(self.batch * batches / self._ask(batches))

    def _ask(self, batches: int) -> float:
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the empty answer says
            print(batches, file=self.process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        if not (line := self.process.stdout.readline()):
            status = self.process.wait()
            raise BenchmarkError(
                f"{self.name!r} ended with status {status}. To see why: "
                f"{' '.join(map(repr, map(str, self.process.args)))}"
            )
        return line

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def summarize(rates: dict[str, list[float]]) -> dict[str, dict]:
    """Median speed, and the ratio to PyTorch's of the same round: median and quartiles."""
    figures = {}
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, rates[TORCH_EAGER], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {
            "images_per_second": statistics.median(own),
            "best": max(own),
            "ratio_of_best": max(own) / max(rates[TORCH_EAGER]),
            "ratio": middle,
            "quartiles": [low, high],
            "rounds": own,
        }
    return figures


def print_table(batch: int, figures: dict[str, dict]) -> None:
    print(
        f"\n| batch {batch} | images/s | to PyTorch eager | half of the rounds | best | to its best |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in figures.items():
        low, high = row["quartiles"]
        print(
            f"| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f} | {low:.2f}-{high:.2f} | "
            f"{row['best']:.1f} | {row['ratio_of_best']:.2f} |"
        )
    print(flush=True)


def machine() -> dict[str, str]:
    """The processor's name, the cores that this process may use, and which fast products it has."""
    name, flags = platform.processor(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(
            (part.strip() for part in line.split(":", 1))
            for line in cpuinfo.read_text().splitlines()
            if ":" in line
        )
        name, flags = facts.get("model name", name), facts.get("flags", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fast = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    return {
        "processor": name,
        "cores": str(cores),
        "instructions": " ".join(fast) or "unknown",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
