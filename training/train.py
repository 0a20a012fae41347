"""Trains a CvT: `python -m training.train --config NAME [--set key=value ...] [--run-dir DIR]`.

A run lives in one folder:

    config.json    what was asked
    labels.txt     the names of the classes, in label order
    images.txt.gz  the names of the images
    checkpoints/   the latest, one after each epoch and each `checkpoint_steps`
    tensorboard/   curves: `tensorboard --logdir DIR`
    history.csv    the epochs' numbers
    model.keras    the trained model: from normalized images to probabilities
    curves.png     loss, accuracy and learning rate over the epochs
    report.json    the result; written last, so a run that has it is finished

A run begins with the first of these that there is:

1. the folder's report: the run is finished; says so, and trains no more;
2. the folder's newest checkpoint that is complete and not damaged: whatever stopped the run, it ends
   with the same weights as if nothing had, bit for bit, on the same devices;
3. with `--resume FOLDER`, the newest checkpoint in that other run's folder, which must have the same
   config: for going on elsewhere;
4. the config's `weights`;
5. random weights.

A folder with a run of another config, or with other classes or images, is left alone: an error names
what differs. So is one that another process is writing.

On several machines, start the same command on each, with one run folder that all can reach; see
`training.distribute`, and `training.supervise` for restarting workers that died.

Exit status: 0 done, or stopped as asked; 1 failed, as when the disk is full, a file can't be read or
images stop coming; 2 can't be done as asked; 3 can't go on, nor if started again (diverged, too many
damaged images, too little memory); 75 another worker is gone, and all are to be started again; 130
interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_cvt._commands import FAILED, WRONG_USE, Parser, command
from training import configs, startup
from training.config import STRATEGIES, Config, ConfigError
from training.engine.errors import DataLost, RunError, WorkerLost
from training.locking import FolderLock
from training.runs.folder import default_folder, open_run, other_run, run_folder
from training.runs.report import summary
from training.runs.run_checkpoints import RunCheckpoints

CANNOT_GO_ON = 3
WORKER_LOST = 75  # "temporary failure" among the conventional exit statuses


STATUSES = {
    ConfigError: WRONG_USE,
    RunError: CANNOT_GO_ON,
    WorkerLost: WORKER_LOST,
    DataLost: FAILED,
    OSError: FAILED,
}


@command(
    "training.train",
    STATUSES,
    interrupted="The same command goes on after the last checkpoint.",
)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    with startup.output_may_close():
        _train(_parser().parse_args(argv))


def _train(arguments: argparse.Namespace) -> None:
    """Trains, and says what has come of it."""
    run_dir = arguments.run_dir or default_folder(arguments.config)
    strategy = [] if arguments.strategy is None else [f"strategy={arguments.strategy}"]
    with _removed_if_empty(run_dir):
        config = configs.load(arguments.config, arguments.set + strategy)
        resume = other_run(config, arguments.resume)
        report = open_run(config, run_dir)
        if report is not None:
            print(f"{run_dir} is finished already: nothing to train.")
        else:
            check_compilation(config)
            print(f"Run {run_dir}: starting TensorFlow.", flush=True)
            startup.quiet_tensorflow()
            startup.make_deterministic()
            report = train(config, run_dir, resume)
    if report is not None:
        print(summary(report, run_dir))


def check_compilation(config: Config) -> None:
    """Refuses what `startup.make_deterministic` would make Keras pass over.

    Raises:
        ConfigError: If XLA is asked for.
    """
    if config.run.jit_compile and config.run.strategy != "tpu":
        raise ConfigError(
            "`jit_compile` must be false, but on TPUs: a run is to give the same bits each time, and "
            "Keras does without XLA where TensorFlow's operations are deterministic. Received True."
        )


@contextlib.contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Removes the folders that the body makes for a run that can't be, if it raises."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError):  # it is not empty, or not there
            for place in new:
                place.rmdir()
        raise


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="training.train",
        description="Trains a CvT, or goes on with it where it was stopped.",
        epilog="The keys of --set are the fields of training.config.Config, which says what they mean.",
        allow_abbrev=False,
    )
    configs.add_options(parser)
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="the devices; the same as --set strategy=..., see training.distribute",
    )
    parser.add_argument(
        "--resume", type=run_folder, metavar="DIR", help="another run's folder to go on from"
    )
    parser.add_argument("--run-dir", type=run_folder, metavar="DIR", help="default: runs/NAME")
    return parser


def train(
    config: Config, run_dir: Path, resume: Sequence[RunCheckpoints] = ()
) -> dict[str, Any] | None:
    """Trains until the run is finished, or until `config.run.max_steps`.

    Args:
        config: of the run.
        run_dir: folder of the run, that exists.
        resume: of other runs, to go on from if this one has no checkpoint.

    Returns:
        The report, or None if the run stopped before its end.

    Raises:
        ConfigError: if the run can't be done as asked; nothing has been written then.
        RunError: if it can't go on: diverged, too many images are damaged, or too little memory.
        WorkerLost: if another worker does not answer.
        DataLost: if the training images stop coming.
        OSError: if a file of the run can't be written; `DiskError` for a checkpoint.
    """
    from training import distribute
    from training.engine.devices import devices_for
    from training.engine.loop import train_run

    strategy = devices_for(config)
    if distribute.is_chief(strategy):
        with FolderLock(run_dir):
            return train_run(config, run_dir, resume, strategy)
    return train_run(config, run_dir, resume, strategy)


if __name__ == "__main__":
    status = main()
    if status == WORKER_LOST:
        # Not the usual way out: TensorFlow would wait for the other worker.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
