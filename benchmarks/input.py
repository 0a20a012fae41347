"""Measures the input pipeline, step by step, and a Pillow pipeline doing the same beside it.

    python -m benchmarks.input --config NAME [--set key=value ...] [--seconds 10] [--photos N]
                               [--rounds 9]

Images are the config's, or with --photos so many JPEGs of 500x375 pixels, quality 90, that are made
from real photos of installed packages. Each line is the speed with all steps so far. Then training's
own pipeline, and as many processes with Pillow as there are cores, take turns. These hand each batch
over in the cheapest way that processes have: a copy into memory shared with the one that trains. (What
that one has to do then is left out.)

"of the processor" is what the cores would do if they did nothing else: images per second of processor
time, times the cores.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import CORES
from keras_cvt import _commands
from keras_cvt._commands import WRONG_USE, Parser, command
from training import configs, startup
from training.config import Config, ConfigError

PHOTO_SIZE = (500, 375)
PILLOW_BATCH = 64
PILLOW_FILES = 1024  # at most

Speed = tuple[float, float]  # images per second, of the clock and of the processor


@command("benchmarks.input", {ConfigError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    arguments = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        sets = list(arguments.set)
        if arguments.photos:
            make_photos(Path(folder), arguments.photos)
            sets += [f"source=folder:{folder}", "train_split=none"]
        config = configs.load(arguments.config, sets)
        startup.quiet_tensorflow()
        benchmark(config, arguments.seconds, arguments.rounds)


def _parser() -> Parser:
    parser = Parser(prog="benchmarks.input", description=__doc__.split("\n")[0])
    configs.add_options(parser)
    parser.add_argument(
        "--seconds",
        type=_commands.number(above=0),
        default=10.0,
        metavar="S",
        help="for each number",
    )
    parser.add_argument(
        "--photos", type=_commands.integer(1), metavar="N", help="make so many photos"
    )
    parser.add_argument(
        "--rounds", type=_commands.integer(2), default=9, metavar="N", help="of the comparison"
    )
    return parser


def make_photos(folder: Path, count: int) -> None:
    """Writes JPEGs into class folders: parts of scikit-learn's photos, and of foolbox's if there."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from benchmarks import colour

    photos = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    with contextlib.suppress(ImportError):
        photos += [Image.open(path).convert("RGB") for path in colour.photos()]
    random = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        scale = min(photo.width / PHOTO_SIZE[0], photo.height / PHOTO_SIZE[1])
        width, height = (int(side * scale * random.uniform(0.8, 1)) for side in PHOTO_SIZE)
        left, top = (
            random.integers(photo.width - width + 1),
            random.integers(photo.height - height + 1),
        )
        photo = photo.resize(
            PHOTO_SIZE, Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        )
        file = folder / "train" / str(number % 2) / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.save(file, quality=90)


def benchmark(config: Config, seconds: float, rounds: int) -> None:
    """Prints all that the module says.

    Raises:
        ConfigError: if the config's images can't be loaded, or have no colours.
    """
    import PIL
    import tensorflow as tf

    from training import data, distribute
    from training.data import sources

    asked = config.data
    source = sources.load(asked.source, "train", asked.train_split, asked.data_dir)
    if source.channels != 3:
        raise ConfigError("`source` must have photos in colour; --photos makes some.")
    # A batch is one group, and there are enough of them.
    group = config.augmentation.mix_images or config.optimization.batch_size
    config = config.replace(batch_size=group, accumulation=1, epochs=None, steps=10**9)
    both = data.RunData(source, source)
    data.steps_per_epoch(config, both)

    measure.print_facts(
        {**measure.machine(), "load before the start": round(os.getloadavg()[0], 1)}
    )
    measure.print_facts({"TensorFlow": tf.__version__, "Pillow": PIL.__version__})
    print(
        f"{source.count} images of {asked.source}, {asked.image_size} pixels, groups of {group}\n"
    )
    print(f"{'images/s':34}{'clock':>8}{'of the processor':>18}")
    steps = _steps(config, source, group)
    for name, (dataset, count) in steps.items():
        _print(name, _measured(data.finished(dataset), count, seconds))

    # Exactly as training has it, which takes what a strategy gives.
    startup.make_deterministic()
    device = tf.distribute.OneDeviceStrategy("CPU:0")

    def whole() -> Any:
        damaged = data.Damaged(config.data.max_damaged)
        return distribute.distributed(
            device, lambda **part: data.training_batches(config, both, damaged, **part)
        )

    print()
    with tempfile.TemporaryDirectory() as folder, _pillow(config, source, Path(folder)) as pillow:
        mine, theirs = [], []
        for _ in range(rounds):
            mine.append(_measured(whole(), group, seconds))
            theirs.append(pillow(seconds))
    for name, speeds in (
        ("+ mixing: training's pipeline", mine),
        (f"Pillow, {CORES} processes", theirs),
    ):
        _print(name, [statistics.median(values) for values in zip(*speeds, strict=True)])
    ratios = [
        [a / b for a, b in zip(*pair, strict=True)] for pair in zip(mine, theirs, strict=True)
    ]
    for name, number in (
        ("ratio in a round", 1),
        ("  a quarter is below", 0),
        ("  a quarter is above", 2),
    ):
        values = [statistics.quantiles(column, n=4)[number] for column in zip(*ratios, strict=True)]
        _print(name, values, digits=2)
    print(f"medians of {rounds} rounds in turns; load {os.getloadavg()[0]:.1f} at the end")


def _steps(config: Config, source: Any, group: int) -> dict[str, tuple[Any, int]]:
    """By name a data set with all steps so far, and how many images an element of it has."""
    import tensorflow as tf

    from training import augment
    from training.data.reading import read_good

    size, seed, asked = config.data.image_size, config.run.seed, config.augmentation
    rows = source.rows(augment.key(seed)).repeat().enumerate()

    def read(number, row):
        return source.example(row)["image"]

    def decoded(number, row):
        key = augment.key(seed, number)
        box = asked.crop_scale and (lambda h, w: augment.crop_box(h, w, key, asked.crop_scale))
        return read_good(source, row, box)["image"]

    def transformed(augmenter: str, erase: float) -> Callable:
        transform = augment.train_transform(
            size,
            seed,
            crop=False,
            augmenter=augmenter,
            flip_probability=asked.flip,
            erase_probability=erase,
            mean=source.mean,
            std=source.std,
        )
        return lambda number, row: transform(number, decoded(number, row))

    def resized(number, row):
        image = augment.resize(decoded(number, row), size)
        return augment.flip(image, augment.key(seed, number), asked.flip)

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    whole = rows.map(transformed(asked.augmenter, asked.erase), **parallel)
    return {
        "read": (rows.map(read, **parallel), 1),
        "+ decode the crop": (rows.map(decoded, **parallel), 1),
        "+ resize, flip": (rows.map(resized, **parallel), 1),
        "+ normalize": (rows.map(transformed("none", 0.0), **parallel), 1),
        f"+ RandAugment ({asked.augmenter})": (
            rows.map(transformed(asked.augmenter, 0.0), **parallel),
            1,
        ),
        "+ erase": (whole, 1),
        f"+ batch of {group}": (whole.batch(group, drop_remainder=True), group),
    }


def _measured(dataset: Any, images: int, seconds: float) -> Speed:
    """The speed of a data set whose elements have so many images."""
    iterator = iter(dataset)
    for _ in range(max(2, 64 // images)):  # until all of it runs, and the buffers are full
        next(iterator)
    start, processor, elements = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < start + seconds:
        next(iterator)
        elements += 1
    taken, processor = time.perf_counter() - start, time.process_time() - processor
    del iterator
    gc.collect()  # ends its threads
    return elements * images / taken, elements * images / processor * CORES


@contextlib.contextmanager
def _pillow(config: Config, source: Any, folder: Path) -> Iterator[Callable[[float], Speed]]:
    """Processes that wait to be measured for some seconds, with files of the same images."""
    from training import augment

    count = min(source.count, PILLOW_FILES)
    examples = source.examples(augment.key(0))
    files = []
    for number, example in enumerate(examples.take(count).as_numpy_iterator()):
        files.append(folder / str(number))
        files[-1].write_bytes(example["image"])

    # Started anew: copies of a process that has TensorFlow's threads may hang.
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for number in range(CORES):
        end, other = context.Pipe()
        shared = context.RawArray("f", PILLOW_BATCH * config.data.image_size**2 * 3)
        arguments = (other, shared, files, config.data.image_size, source.mean, source.std, number)
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
        other.close()  # so that a process that has died is noticed
        ends.append(end)

    def measured(seconds: float) -> Speed:
        try:
            for end in ends:
                end.send(seconds)
            results = [end.recv() for end in ends]
        except (EOFError, ConnectionError):
            raise ConfigError("A process with Pillow has failed: see above.") from None
        by_clock, by_processor = (sum(values) for values in zip(*results, strict=True))
        return by_clock, by_processor

    try:
        measured(0.1)  # everything is imported
        yield measured
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(
    end: Any,
    shared: Any,
    files: list[Path],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> None:
    """A process with Pillow: for each number of seconds that it is sent, it sends its speed."""
    from benchmarks import pillow_recipe

    handed_over = np.frombuffer(shared, np.float32).reshape(PILLOW_BATCH, size, size, 3)
    random = np.random.default_rng(seed)
    while True:
        seconds = end.recv()
        start, processor, images = time.perf_counter(), time.process_time(), 0
        while images == 0 or time.perf_counter() < start + seconds:
            chosen = [files[number] for number in random.integers(len(files), size=PILLOW_BATCH)]
            handed_over[:] = pillow_recipe.batch(chosen, size, mean, std, random)[0]
            images += PILLOW_BATCH
        taken, processor = time.perf_counter() - start, time.process_time() - processor
        end.send((images / taken, images / processor))


def _print(name: str, speed: Sequence[float], digits: int = 0) -> None:
    print(f"{name:34}{speed[0]:8.{digits}f}{speed[1]:18.{digits}f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
