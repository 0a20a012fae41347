"""Keeps a training run going: `python -m training.supervise --workers N -- ARGS`.

ARGS are those of training.train, such as `--config digits --set epochs=20`. On this machine, N
processes train together (`MultiWorkerMirroredStrategy`), or with N = 1 one does alone. When one dies,
the others can't go on: all are stopped and started anew, after a pause that doubles each time, and
training.train goes on from the last checkpoint of its run folder. If that happens `--restarts` times
without a new checkpoint, that's the end of it.

On a cluster whose scheduler starts this command on each machine (TF_CONFIG is set, or SLURM's
variables are), leave out --workers: it keeps this machine's one worker going, with the environment
that the scheduler has made. When another machine's worker dies, this one fails too, and both are
started anew by their own supervisors. The run folder must be one that all machines share.

Exit status: 0 when all workers are done; that of a worker, 2 (can't be done as asked), 3 (can't go on,
nor if started anew) or 130 (interrupted), at once; 130 or 143 after SIGINT or SIGTERM, which stop the
workers; else that of the worker that failed last.

A single worker writes to the terminal as if started by hand. Of several, each line begins with which
it is; all have their standard error shown, but only worker 0, the chief, its standard output, for the
others say the same. Workers don't outlive their supervisor, even if it is killed (on Linux).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_cvt._commands import WRONG_USE, Parser, command, integer, number
from training.config import ConfigError
from training.runs.folder import default_folder, run_folder
from training.runs.supervisor import supervise


@command("training.supervise", {ConfigError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see above."""
    options, args = _parse(sys.argv[1:] if argv is None else argv)
    workers = _choose_workers(options.workers)
    run_dir = _check_args(args, workers)
    command = [sys.executable, "-m", "training.train", *args]
    return supervise(command, run_dir, workers, options.restarts, options.backoff)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's options, and what comes after `--`."""

    parser = Parser(
        prog="training.supervise",
        usage="%(prog)s [--workers N] [--restarts N] [--backoff SECONDS] -- ARGS",
        description="Trains in several processes, and starts them anew when one dies.",
        epilog="ARGS are those of training.train.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers",
        type=integer(1),
        metavar="N",
        help="processes on this machine; default: 1, or what a cluster's scheduler has set",
    )
    parser.add_argument(
        "--restarts",
        type=integer(0),
        default=10,
        metavar="N",
        help="give up after so many without a new checkpoint; default %(default)s",
    )
    parser.add_argument(
        "--backoff",
        type=number(0),
        default=5.0,
        metavar="SECONDS",
        help="pause before a restart, doubled for each without a new checkpoint; default %(default)s",
    )
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:end])
    if not argv[end + 1 :]:
        parser.error("the arguments of training.train must come after `--`")
    return options, argv[end + 1 :]


def _choose_workers(asked: int | None) -> int | None:
    """The number of workers; None for one, in the environment that a scheduler has made."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    scheduler = None
    if "TF_CONFIG" in os.environ:
        scheduler = "TF_CONFIG is"
    elif "SLURM_PROCID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        scheduler = "SLURM_PROCID and SLURM_STEP_NUM_TASKS are"
    if scheduler and asked is not None and asked > 1:
        raise ConfigError(
            f"{scheduler} set, which says that a scheduler starts the workers: leave out --workers, or "
            "unset that."
        )
    return asked or (None if scheduler else 1)


def _check_args(args: list[str], workers: int | None) -> Path:
    """The run folder that training.train will use, by its rules.

    Raises:
        ConfigError: if the arguments don't say one, or are not for several workers.
    """
    parser = Parser(prog="training.supervise", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--run-dir", type=run_folder)
    parser.add_argument("--strategy")
    parser.add_argument("--set", action="append", default=[])
    options, _ = parser.parse_known_args(args)
    settings = dict(text.split("=", 1) for text in options.set if "=" in text)
    for strategy in (options.strategy, settings.get("strategy")):
        if (workers or 1) > 1 and strategy not in (None, "auto", "multi_worker"):
            raise ConfigError(
                f"with --workers {workers} the strategy must be multi_worker or auto. Received "
                f"{strategy!r}."
            )
    if not (options.run_dir or options.config):
        raise ConfigError(
            "the arguments of training.train must have --config NAME or --run-dir DIR"
        )
    return options.run_dir or default_folder(options.config)


if __name__ == "__main__":
    sys.exit(main())
