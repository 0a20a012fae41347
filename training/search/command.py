"""Searches for an architecture: `python -m training.search --config NAME [--max-macs N] [--set ...]`.

A search lives in one folder:

    shared/              the run of the network whose weights all candidates share: a folder as that of
                         `training.train`
    study.journal        what was evaluated, for Optuna
    trials.csv           the same as a table
    front.csv            candidates than which none is more accurate at lower cost
    front.png            all of them, accuracy against multiply-adds
    stages.json          the most accurate candidate, for `training.train --set stages=FILE`,
                         `keras-cvt summary FILE` and others
    stages-chance.json   the most accurate of those that were chosen by chance
    report.json          the result; written last, so a search that has it is finished

Stopped anywhere, the same command goes on: the network's training as `training.train` does, and the
search after the last candidate that was evaluated. The result is that of a search without a stop.

The images by which candidates are compared are a part of the training images that the network is not
shown. Validation and test images are not used.

Exit status: as of `training.train`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from keras_cvt._commands import Parser, command, number
from keras_cvt._files import write_json
from keras_cvt.architecture import stages_to_json
from training import configs, startup, train
from training.config import CUSTOM, STRATEGIES, Config, ConfigError
from training.locking import FolderLock
from training.runs.folder import default_folder, open_run, run_folder
from training.search.folder import SearchFolder
from training.search.space import Candidate, Space

# TensorFlow and Optuna take seconds to import: only after the command line is understood.


@command(
    "training.search",
    train.STATUSES,
    interrupted="The same command goes on where it was interrupted.",
)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    with startup.output_may_close():
        arguments = _parser().parse_args(argv)
        strategy = [] if arguments.strategy is None else [f"strategy={arguments.strategy}"]
        config = configs.load(arguments.config, arguments.set + strategy)
        train.check_compilation(config)
        space = Space.of(config)
        config = shared_config(config, space)
        folder = SearchFolder(arguments.run_dir or default_folder(f"{arguments.config}-search"))
        _check_optuna()
        open_run(config, folder.shared.path)
        print(f"Search {folder.path}: {space.size:,} candidates. Starting TensorFlow.", flush=True)
        startup.quiet_tensorflow()
        startup.make_deterministic()
        from training.search.results import summary
        from training.search.study import Limits

        with FolderLock(folder.path):
            limits = Limits(arguments.max_macs, arguments.max_params)
            report = search(config, space, limits, folder)
        if report is not None:
            print(summary(report, folder))


def _parser() -> Parser:
    parser = Parser(
        prog="training.search",
        description="Searches for an architecture, or goes on with it where it was stopped.",
        epilog="The keys of --set are the fields of training.config.Config; those of the search begin "
        "with search_.",
        allow_abbrev=False,
    )
    configs.add_options(parser)
    parser.add_argument(
        "--max-macs",
        type=number(above=0),
        metavar="N",
        help="the most multiply-adds for one image, such as 4.1e9, as keras-cvt summary counts them",
    )
    parser.add_argument(
        "--max-params", type=number(above=0), metavar="N", help="the most parameters, such as 18e6"
    )
    parser.add_argument("--strategy", choices=STRATEGIES, help="the devices")
    parser.add_argument(
        "--run-dir", type=run_folder, metavar="DIR", help="default: runs/NAME-search"
    )
    return parser


def _check_optuna() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna  # noqa: F401 - says in one line, before the work, what is missing


def shared_config(config: Config, space: Space) -> Config:
    """The run of the network whose weights the candidates share.

    It has the space's largest stages, starts from random weights, and is validated with the training
    images that are held out.

    Raises:
        ConfigError: If the config takes only some training images, or what a search has no use for.
    """
    part = config.data.train_split or "train"
    if "[" in part or "+" in part:
        raise ConfigError(
            "`train_split` must be a whole part, of which `search_held_out` percent are held out. "
            f"Received {part!r}."
        )
    for key, value in (("weights", config.model.weights), ("recompute", config.model.recompute)):
        if value:
            raise ConfigError(f"`{key}` can't be used in a search. Received {value!r}.")
    if config.run.strategy == "multi_worker":
        raise ConfigError(
            "A search has the devices of one machine. Received strategy=multi_worker."
        )
    seen = 100 - config.search.held_out
    return config.replace(
        model=CUSTOM,
        dims=(),
        depths=(),
        heads=(),
        stages=space.largest_stages,
        train_split=f"{part}[:{seen}%]",
        validation_source=None,
        validation_split=f"{part}[{seen}%:]",
    )


def search(
    config: Config, space: Space, limits: Any, folder: SearchFolder
) -> dict[str, Any] | None:
    """Trains the shared network, and compares candidates with its weights.

    Args:
        config: `shared_config`.
        space: What the candidates are.
        limits: `Limits` of what the chosen one may cost.
        folder: Exists.

    Returns:
        The report; or None if the training stopped at `max_steps`.

    Raises:
        ConfigError, RunError, DataLost, OSError: As `training.train.train`.
    """
    from training import data
    from training.engine.devices import devices_for
    from training.runs.report import versions
    from training.search import results
    from training.search.study import CHANCE, EVOLUTION, Studies, best, front

    asked, strategy = config.search, devices_for(config)
    images = data.load(config)
    size = config.data.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls constraints experimental
        studies = Studies(
            folder.journal,
            space,
            (size, size, images.channels),
            len(images.class_names),
            limits,
            asked.population,
            config.run.seed,
        )
        if not _train_shared(config, space, folder, strategy):
            return None
        evaluate = _evaluate(config, space, folder, images, strategy)
        for name in (EVOLUTION, CHANCE):
            _compare(studies, name, asked.trials, evaluate, images.validation.count)
    found = {name: studies.evaluated(name) for name in (EVOLUTION, CHANCE)}
    chosen = {name: best(evaluated) for name, evaluated in found.items()}
    best_ones = front(found[EVOLUTION])
    results.write_table(space, found, folder.trials)
    results.write_table(space, {EVOLUTION: best_ones}, folder.front)
    results.draw(found, best_ones, folder.picture)
    write_json(folder.stages, stages_to_json(space.stages(chosen[EVOLUTION].candidate)))
    write_json(folder.chance, stages_to_json(space.stages(chosen[CHANCE].candidate)))
    report = {
        name: {
            "evaluated": len(found[name]),
            "accuracy": one.accuracy,
            "multiply_adds": one.cost.multiply_adds,
            "parameters": one.cost.parameters,
            "stages": stages_to_json(space.stages(one.candidate)),
        }
        for name, one in chosen.items()
    }
    report |= {
        "candidates": space.size,
        "held_out_images": images.validation.count,
        "max_multiply_adds": limits.multiply_adds,
        "max_parameters": limits.parameters,
        "seed": config.run.seed,
        **versions(),
    }
    write_json(folder.report, report)
    return report


def _train_shared(config: Config, space: Space, folder: SearchFolder, strategy: Any) -> bool:
    """Trains the shared network to its end, if that is not done; whether it is, then."""
    from training.engine.loop import train_run
    from training.search.trainer import SharedTrainer

    trainer = functools.partial(
        SharedTrainer,
        space=space,
        random=config.search.random,
        teacher=config.search.teacher,
        seed=config.run.seed,
    )
    if folder.shared.report.exists():
        return True
    with FolderLock(folder.shared.path):
        return train_run(config, folder.shared.path, (), strategy, trainer) is not None


def _evaluate(
    config: Config, space: Space, folder: SearchFolder, images: Any, strategy: Any
) -> Callable[[Candidate], float]:
    """What tells the accuracy of a candidate. The network is loaded when it is needed."""

    @functools.cache
    def evaluate() -> Any:
        from keras_cvt._model_files import load_model
        from training.search.evaluator import CandidateEvaluator

        weights = load_model(folder.shared.model).get_weights()
        return CandidateEvaluator(config, space, weights, images, strategy)

    def accuracy(candidate: Candidate) -> float:
        counted = evaluate().evaluate(candidate)
        return counted.hits / counted.images

    return accuracy


def _compare(
    studies: Any, name: str, trials: int, evaluate: Callable[[Candidate], float], images: int
) -> None:
    """Evaluates as many candidates as are asked for, and says how it goes."""
    from tqdm import tqdm

    known = len(studies.evaluated(name))
    with tqdm(total=trials, initial=known, desc=name, unit="candidate", disable=None) as bar:
        for number, evaluated in enumerate(studies.search(name, trials, evaluate), start=known + 1):
            bar.update()
            if bar.disable and number % 50 == 0:
                print(
                    f"{name}: {number} of {trials}, the last {evaluated.accuracy:.2%} of {images}",
                    flush=True,
                )
