"""Measures training's data at its real size: as many images as ImageNet has, small ones.

    python -m benchmarks.full_size --folder DIR [--images N] [--more N ...] [--epoch SOURCE]
                                   [--json FILE] [--validation N]

DIR gets N (1,281,167) training and N (50,000) validation images in 1000 class folders: names of a few
hundred JPEGs of 64x64 pixels, about 3 KB each, so that it takes little room but for the record files,
4 GB each. What is there already is not made again; nothing is removed.

Each step is a process of its own, of which are measured: the time, by the clock and of the processors;
and the most memory. Steps are to list the folder; `training.prepare` to TFRecord and ArrayRecord; and
for each of the three the first batch of a run, and of one that goes on in the middle of an epoch.
`--epoch tfrecord` trains a tiny model for one epoch of them. `--more 2800000` lists the folder and
starts from it with so many images too, and says what 14.2 million, ImageNet-22k's, would need if it
grows in proportion.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from keras_cvt._commands import FAILED, Parser, command, integer
from keras_cvt._files import check_file, write_json
from keras_cvt._tables import aligned
from training import configs, startup
from training.config import Config

IMAGENET_1K, IMAGENET_22K = 1_281_167, 14_197_122  # training images
VALIDATION = 50_000
CLASSES = 1000
DISTINCT = 512  # files; file systems limit the names of one: ext4 to 65,000
SOURCES = ("folder", "tfrecord", "array_record")

# A network that costs next to nothing, with the recipe of ImageNet's config.
TINY = (
    "image_size=32",
    "model=custom",
    "dims=8,8,16",
    "depths=1,1,1",
    "heads=1,1,1",
    "batch_size=512",
    "epochs=1",
    "warmup_epochs=0",
    "cooldown_epochs=0",
)


@command("benchmarks.full_size", {measure.BenchmarkError: FAILED, OSError: FAILED})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 1 failed."""
    arguments = _parser().parse_args(argv)
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](*arguments.given)))
        return
    if arguments.json:
        check_file(arguments.json)
    facts = measure.machine()
    measure.print_facts(facts)
    steps = []
    for step in _measured(arguments):
        print("  ".join(_cells(step)), flush=True)
        steps.append(step)
        if arguments.json:
            write_json(arguments.json, {"machine": facts, "steps": steps}, indent=1)
    print("\n" + "\n".join(aligned([_HEAD, *map(_cells, steps)], right=(1, 2, 3, 4))))
    for line in _extrapolated(steps):
        print(line)


def _parser() -> Parser:
    parser = Parser(prog="benchmarks.full_size", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=integer(CLASSES), default=IMAGENET_1K, metavar="N")
    parser.add_argument("--validation", type=integer(1), default=VALIDATION, metavar="N")
    parser.add_argument("--more", type=integer(CLASSES), nargs="+", default=[], metavar="N")
    parser.add_argument("--epoch", choices=SOURCES, help="train an epoch of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")
    parser.add_argument("--step", choices=STEPS, help="for its own use")
    parser.add_argument("given", nargs="*", metavar="ARGUMENT", help="for its own use")
    return parser


def _measured(arguments: Any) -> Iterator[dict[str, Any]]:
    """Measures step by step."""
    for images in (arguments.images, *arguments.more):
        folder = arguments.folder / str(images)
        yield _step("make", images, folder, str(arguments.validation))
        yield _step("list", images, folder)
        yield _step("start", images, folder, "folder")
        yield _step("resume", images, folder, "folder")
    folder, images = arguments.folder / str(arguments.images), arguments.images
    for file_format in SOURCES[1:]:
        yield _command(
            f"prepare {file_format}",
            images,
            "training.prepare",
            f"folder:{folder / 'folder'}",
            f"--output={folder / file_format}",
            f"--format={file_format}",
        )
        yield _step("start", images, folder, file_format)
        yield _step("resume", images, folder, file_format)
    if arguments.epoch:
        settings = (*TINY, f"source={_source(folder, arguments.epoch)}")
        yield _command(
            f"train {arguments.epoch}",
            images,
            "training.train",
            "--config=cvt13_imagenet_224",
            *(f"--set={text}" for text in settings),
            f"--run-dir={folder / f'run-{arguments.epoch}'}",
        )


_HEAD = ("step", "images", "seconds", "of processors", "MB", "MB during it")


def _cells(step: dict[str, Any]) -> list[str]:
    during = " ".join(f"{mb:.0f}" for mb in step.get("megabytes_during", ()))
    return [
        step["step"],
        f"{step['images']:,}",
        f"{step['seconds']:.1f}",
        f"{step['processor_seconds']:.1f}",
        f"{step['megabytes']:.0f}",
        during,
    ]


def _extrapolated(steps: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Says what ImageNet-22k would need, of the steps that were measured with several numbers."""
    for name in dict.fromkeys(step["step"] for step in steps):
        of_step = [step for step in steps if step["step"] == name]
        images = [step["images"] for step in of_step]
        if len({*images}) < 2:
            continue
        seconds, megabytes = (
            statistics.linear_regression(images, [step[key] for step in of_step])
            for key in ("processor_seconds", "megabytes")
        )
        at_22k = [slope * IMAGENET_22K + start for slope, start in (seconds, megabytes)]
        yield f"{name}, {IMAGENET_22K:,} images: {at_22k[0]:.0f} s of processors and {at_22k[1]:.0f} MB"


# ---- Processes


def _step(name: str, images: int, folder: Path, *given: str) -> dict[str, Any]:
    """Runs one of `STEPS` in a process of its own."""
    this = [sys.executable, "-m", "benchmarks.full_size", f"--folder={folder}", f"--step={name}"]
    ran = subprocess.run(
        [*this, str(images), str(folder), *given],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise measure.BenchmarkError(f"The step {name!r} has failed: see above.")
    shown = " ".join((name, *(text for text in given if text in SOURCES)))
    return {"step": shown, "images": images, **json.loads(ran.stdout)}


def _command(name: str, images: int, *command: str) -> dict[str, Any]:
    """Runs a command of the project; its memory includes TensorFlow's."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", *command], stdout=sys.stderr) as process:
        during: list[float] = []
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, during, ended))
        watch.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watch.join()
    if process.returncode:
        raise measure.BenchmarkError(f"The step {name!r} has failed: see above.")
    places = np.linspace(0, len(during), 8, endpoint=False, dtype=int)[1:]
    return {
        "step": name,
        "images": images,
        "seconds": time.perf_counter() - began,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
        "megabytes_during": [during[place] for place in places] if during else [],
    }


def _watch(process: int, megabytes: list[float], ended: threading.Event) -> None:
    """Notes each second how much memory a process has; not on systems without /proc."""
    status = Path(f"/proc/{process}/status")
    while not ended.wait(1):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        megabytes += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]


class _Used:
    """Tells what this process has used since a moment."""

    def __init__(self):
        self._then = self._now()

    def since(self) -> dict[str, float]:
        return {name: now - self._then[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter(),
            "processor_seconds": time.process_time(),
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


# ---- Steps. Each returns what it used, beside what the imported programs have taken.


def make(images: str, folder: str, validation: str) -> dict[str, float]:
    """Gives the distinct files as many names as are missing."""
    used = _Used()
    root = Path(folder)
    files = _distinct(root / "distinct")
    for part, count in (("train", int(images)), ("val", int(validation))):
        for label in range(CLASSES):
            of_class = root / "folder" / part / f"n{label:08}"
            of_class.mkdir(parents=True, exist_ok=True)
            there = {entry.name for entry in os.scandir(of_class)}
            for number in range(label, count, CLASSES):
                name = f"n{label:08}_{number // CLASSES}.JPEG"
                if name not in there:
                    os.link(files[number % DISTINCT], of_class / name)
    return used.since()


def _distinct(folder: Path) -> list[Path]:
    """Parts of photos of installed packages."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    folder.mkdir(parents=True, exist_ok=True)
    photos = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    random, files = np.random.default_rng(0), []
    for number in range(DISTINCT):
        photo = photos[number % len(photos)]
        left, top = random.integers(photo.width - 160), random.integers(photo.height - 160)
        content = io.BytesIO()
        part = photo.resize((64, 64), Image.Resampling.BICUBIC, (left, top, left + 160, top + 160))
        part.save(content, "JPEG", quality=92)
        files.append(folder / f"{number}.jpg")
        if not files[-1].exists():
            files[-1].write_bytes(content.getvalue())
    return files


def list_images(images: str, folder: str) -> dict[str, float]:
    """Finds the images of the folder, as a run does."""
    config, data = _imported(folder, "folder")
    used = _Used()
    found = data.load(config)
    assert found.train.count == int(images)
    return used.since()


def start(images: str, folder: str, source: str, part: float = 0.0) -> dict[str, float]:
    """Finds the images, and prepares the first batch; of a run that is at some part of its epoch."""
    config, data = _imported(folder, source)
    used = _Used()
    found = data.load(config)
    first_step = int(part * data.steps_per_epoch(config, found))
    batches = data.training_batches(config, found, data.Damaged(0), first_step)
    next(iter(batches))
    return used.since()


def resume(images: str, folder: str, source: str) -> dict[str, float]:
    """Does what `start` does, in the middle of an epoch."""
    return start(images, folder, source, part=0.5)


def _imported(folder: str, source: str) -> tuple[Config, Any]:
    """The config and `training.data`."""
    config = configs.load("cvt13_imagenet_224", [*TINY, f"source={_source(Path(folder), source)}"])
    startup.quiet_tensorflow()
    from training import data

    return config, data


def _source(folder: Path, source: str) -> str:
    return f"{'folder' if source == 'folder' else 'tfds'}:{folder / source}"


STEPS = {"make": make, "list": list_images, "start": start, "resume": resume}


if __name__ == "__main__":
    sys.exit(main())
