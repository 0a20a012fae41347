"""What all comparisons share: contenders that take turns, their ratios, and the machine's name."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, TORCH_EAGER, Job
from keras_cvt._commands import WRONG_USE, integer, number
from keras_cvt._files import check_file, write_json
from keras_cvt._tables import markdown
from training import startup

ROOT = Path(__file__).parents[1]
CORES = startup.cores()
# Whose packages a contender needs; each environment is also the name of a backend of Keras.
ENVIRONMENTS = {"tensorflow": ".venv", "torch": ".venv-torch", "jax": ".venv-jax"}

NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


class BenchmarkError(Exception):
    """What keeps a comparison from being made. The message is one line."""


# The exit status of what is expected to go wrong in all comparisons.
STATUSES = {BenchmarkError: WRONG_USE, OSError: WRONG_USE}


class Contender:
    """A process that computes batches when it is asked to: see `benchmarks.contenders`.

    Attributes:
        rates: images per second of each turn.
        facts: what the process says of itself: versions of its packages, for one.
        bytes: the most memory that its batches needed, beside what was taken before the first.
    """

    def __init__(self, job: Job):
        self.job = job
        self.environment = CONTENDERS[job.task][job.name][0]
        self.rates: list[float] = []
        self.bytes = 0
        python = ROOT / ENVIRONMENTS[self.environment] / "bin/python"
        if not python.exists():
            raise BenchmarkError(
                f"{python} is missing, which {job.name!r} needs: `make peers` makes all environments."
            )
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.contenders", json.dumps(dataclasses.asdict(job))],
            cwd=ROOT,
            env={
                **os.environ,
                "KERAS_BACKEND": self.environment,
                "OMP_NUM_THREADS": str(job.threads),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **NO_GPU,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.facts = self._line()
            self.seconds = min(self._ask(1) for _ in range(2))
        except BaseException:
            self.stop()
            raise

    def take_turn(self, seconds: float) -> None:
        """Computes for about so long, one batch at least."""
        batches = max(1, round(seconds / self.seconds))
        time.sleep(0.1)  # the threads of the one before spin for a while
        self.rates.append(self.job.batch * batches / self._ask(batches))

    def _ask(self, batches: int) -> float:
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the empty answer says
            print(batches, file=self.process.stdin, flush=True)
        answer = self._line()
        self.bytes = answer["bytes"]
        return answer["seconds"]

    def _line(self) -> dict[str, Any]:
        if not (line := self.process.stdout.readline()):
            status = self.process.wait()
            if status == -signal.SIGKILL:
                raise BenchmarkError(
                    f"{self.job.name!r} was killed. All contenders are in memory at once: if that was "
                    "too little, take a smaller --batch, or fewer of them by --only."
                )
            raise BenchmarkError(
                f"{self.job.name!r} ended with status {status}. To see why: KERAS_BACKEND="
                f"{self.environment} {' '.join(map(repr, map(str, self.process.args)))}"
            )
        return json.loads(line)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def take_turns(jobs: Sequence[Job], rounds: int, seconds: float) -> list[Contender]:
    """Lets contenders compute in turn, round after round, and ends them."""
    contenders: list[Contender] = []
    try:
        # One after the other: OpenMP's threads wait for each other for ever when they share cores.
        for job in jobs:
            contenders.append(Contender(job))
        for _ in range(rounds):
            # In another order each time, so that none always follows the same one.
            for contender in random.sample(contenders, len(contenders)):
                contender.take_turn(seconds)
    finally:
        for contender in contenders:
            contender.stop()
    return contenders


def summarize(contenders: Sequence[Contender], base: str) -> dict[str, dict[str, Any]]:
    """By name the median speed, and the ratio to the base's of the same round: median, quartiles."""
    (against,) = (c.rates for c in contenders if c.job.name == base)
    figures = {}
    for contender in contenders:
        rates = contender.rates
        ratios = [a / b for a, b in zip(rates, against, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[contender.job.name] = {
            "images_per_second": statistics.median(rates),
            "ratio": middle,
            "quartiles": [low, high],
            "best": max(rates),
            "ratio_of_best": max(rates) / max(against),
            "bytes_per_image": contender.bytes / contender.job.batch,
            "rounds": rates,
        }
    return figures


def table(title: str, base: str, figures: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    heads = [title, "images/s", f"to {base}", "half of the rounds", "best", "to its best"]
    lines = [[*heads, "MB an image"]]
    for name, row in figures.items():
        low, high = row["quartiles"]
        cells = [name, f"{row['images_per_second']:.1f}", f"{row['ratio']:.2f}"]
        cells += [f"{low:.2f}-{high:.2f}", f"{row['best']:.1f}", f"{row['ratio_of_best']:.2f}"]
        lines.append([*cells, f"{row['bytes_per_image'] / 1e6:.0f}"])
    return "\n".join(markdown(lines))


def machine() -> dict[str, str]:
    """The processor's name, the cores that this process may use, its fast products; the date."""
    name, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(
            (part.strip() for part in line.split(":", 1))
            for line in cpuinfo.read_text().splitlines()
            if ":" in line
        )
        name, flags = facts.get("model name", name), facts.get("flags", "")
    fast = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags.split()]
    return {
        "processor": name,
        "cores": str(CORES),
        "instructions": " ".join(fast) or "unknown",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def print_facts(facts: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


def compare(task: str, arguments: argparse.Namespace, sizes: Sequence[int] = (224,)) -> dict:
    """Measures the contenders of a task, and prints a table for each size of images and batch.

    Returns:
        Threads, versions, and under "tables" all figures by title and name.
    """
    known = CONTENDERS[task]
    names = [name for name in known if name in {TORCH_EAGER, *arguments.only}]
    report: dict = {"task": task, "threads": arguments.threads, "versions": {}, "tables": {}}
    for size, batch in itertools.product(sizes, arguments.batch):
        jobs = [Job(task, name, batch, size, arguments.threads) for name in names]
        contenders = take_turns(jobs, arguments.rounds, arguments.seconds)
        for contender in contenders:
            report["versions"].update(contender.facts)
        title = f"batch {batch}" if size == 224 else f"batch {batch} of {size}x{size}"
        report["tables"][title] = figures = summarize(contenders, TORCH_EAGER)
        print(f"\n{table(title, 'PyTorch eager', figures)}\n", flush=True)
    print_facts(report["versions"])
    return report


def add_arguments(parser: argparse.ArgumentParser, task: str | None = None) -> None:
    """The arguments that all comparisons have; with a task, one that chooses among its contenders."""
    parser.add_argument("--rounds", type=integer(3), default=11, metavar="N", help="default: 11")
    parser.add_argument(
        "--threads",
        type=integer(1),
        default=CORES,
        metavar="N",
        help="of each contender, on the processor",
    )
    parser.add_argument(
        "--seconds",
        type=number(above=0),
        default=1.0,
        metavar="S",
        help="of a contender in a round",
    )
    if task:
        names = list(CONTENDERS[task])
        parser.add_argument(
            "--only",
            nargs="+",
            default=names,
            choices=names,
            metavar="NAME",
            help=f"besides {TORCH_EAGER!r}; of {', '.join(map(repr, names))}",
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")


def run(arguments: argparse.Namespace, measure: Callable[[argparse.Namespace], dict]) -> None:
    """Measures, and writes the figures where asked.

    Raises:
        BenchmarkError: If something that the comparison needs is missing.
        OSError: If the figures can't be written; known before the work.
    """
    if arguments.json:
        check_file(arguments.json)
    facts = machine()
    print_facts({**facts, "threads": arguments.threads})
    report = {"machine": facts, **measure(arguments)}
    if arguments.json:
        write_json(arguments.json, report, indent=1)
