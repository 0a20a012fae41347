"""Images per second of each engine and runtime, in turns: `python -m benchmarks.scale_out`.

CvT-13 with random weights and the twenty real photos that foolbox brings, again and again, with Keras
and with OpenVINO:

    model alone     on images that are decoded, in this process
    local           `keras-cvt predict --output`
    Ray, 1 worker   the same with --engine ray, on all processors
    Ray, 2 workers  each on half of them

An engine's rate is that after its workers have finished their first chunks: the start, which is said
beside it, takes as long for a hundred million images.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measure as shared
from benchmarks.measure import BenchmarkError
from benchmarks.predict import batches, photos
from keras_cvt._commands import WRONG_USE, Parser, command, integer
from keras_cvt._tables import markdown
from training import startup

MODEL, LOCAL = "model alone", "local"
WORKERS = {"Ray, 1 worker": 1, "Ray, 2 workers": 2}


@command("benchmarks.scale_out", {BenchmarkError: WRONG_USE, ImportError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = Parser(prog="benchmarks.scale_out", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=integer(1), default=3, metavar="N", help="default: 3")
    parser.add_argument("--batch-size", type=integer(1), default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--images", type=integer(64), default=160, metavar="N", help="in a turn; default: 160"
    )
    parser.add_argument(
        "--runtimes", nargs="+", choices=("keras", "openvino"), default=["keras", "openvino"]
    )
    arguments = parser.parse_args(argv)
    import ray  # noqa: F401

    startup.quiet_tensorflow()
    shared.print_facts({**shared.machine(), "batch": arguments.batch_size})
    from keras_cvt.inference import ray_engine

    with tempfile.TemporaryDirectory() as folder, ray_engine.connected(stored=2**27):
        sources = list(
            itertools.islice(itertools.cycle(photos(Path(folder), 512)), arguments.images)
        )
        for runtime in arguments.runtimes:
            measure(runtime, sources, arguments, Path(folder))


def measure(
    runtime: str, sources: Sequence[str], arguments: argparse.Namespace, folder: Path
) -> None:
    """Measures the engines with a runtime, and prints a table."""
    work = work_of(runtime, folder)
    names = (MODEL, LOCAL, *WORKERS)
    rates: dict[str, list[float]] = {name: [] for name in names}
    starts: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds + 1):  # the first one warms up what is in this process
        for name in names if number else names[:2]:
            if name == MODEL:
                start, rate = 0.0, model_alone(work, sources, arguments.batch_size)
            else:
                output = folder / f"{runtime}-{number}-{name}"
                start, rate = engine(name, work, sources, arguments.batch_size, output)
            if number:
                print(f"{runtime}, {name}: {rate:.1f} images/s, {start:.1f} s to start", flush=True)
                rates[name].append(rate)
                starts[name].append(start)
    lines = [[runtime, "images/s", f"to {LOCAL}", "lowest-highest", "start, s"]]
    for name in names:
        ratios = [a / b for a, b in zip(rates[name], rates[LOCAL], strict=True)]
        cells = [name, f"{statistics.median(rates[name]):.1f}", f"{statistics.median(ratios):.2f}"]
        cells += [f"{min(ratios):.2f}-{max(ratios):.2f}", f"{statistics.median(starts[name]):.1f}"]
        lines.append(cells)
    print("", *markdown(lines), sep="\n", flush=True)


def work_of(runtime: str, folder: Path):
    """CvT-13 with random weights."""
    import keras_cvt
    from keras_cvt import classification, export
    from keras_cvt.classes import labels_of
    from keras_cvt.inference import tasks

    model = keras_cvt.CvT13(weights=None)
    if runtime == "openvino":
        return tasks.exported_work(
            runtime, export.to_openvino(model, folder / "cvt13.xml", tolerance=1).path
        )
    model = classification.with_probabilities(model)
    preprocessing = classification.preprocessing_for(model, (224, 224), "official")
    return tasks.keras_work(model, tasks.Predict(preprocessing, tuple(labels_of(model)), 5))


def model_alone(work, sources: Sequence[str], batch_size: int) -> float:
    import numpy as np

    from keras_cvt.inference.decoding import decode

    ready = np.stack(
        [decode(source, work.task.preprocessing).image for source in sources[:batch_size]]
    )
    start = time.perf_counter()
    for some in batches(sources, batch_size):
        work.runtime(ready[: len(some)], batch_size)
    return len(sources) / (time.perf_counter() - start)


def engine(
    name: str, work, sources: Sequence[str], batch_size: int, output: Path
) -> tuple[float, float]:
    """Seconds until every worker has finished its first chunk, and images per second afterwards."""
    from keras_cvt.inference.jobs import run_locally
    from keras_cvt.inference.parts import Parts

    parts = Parts(str(output))
    parts.begin(sources, work.options(), batch_size, chunk=2 * batch_size)
    workers = WORKERS.get(name, 1)
    begin = time.perf_counter()
    done = (
        run_locally(work, parts, batch_size)
        if name == LOCAL
        else on_ray(work, parts, name, batch_size)
    )
    times = [(time.perf_counter(), chunk.images) for chunk in done]
    first = times[workers - 1][0]
    return first - begin, sum(images for _, images in times[workers:]) / (times[-1][0] - first)


def on_ray(work, parts, name: str, batch_size: int) -> Iterator:
    from keras_cvt.inference import ray_engine

    workers = WORKERS[name]
    cpus = max(1, shared.CORES // workers)
    return ray_engine.run(work, parts, batch_size, ray_engine.Workers(workers, cpus))


if __name__ == "__main__":
    sys.exit(main())
