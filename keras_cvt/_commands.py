"""What all command lines share: their parser, the types of their arguments, errors in one line.

A program's `main` is written as if nothing could go wrong, and says which errors are expected:

    @command("training.prepare", {ConfigError: 2}, interrupted="The same command goes on from here.")
    def main(argv: Sequence[str] | None = None) -> int | None:
        arguments = parser().parse_args(argv)
        ...

    if __name__ == "__main__":
        sys.exit(main())
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keras_cvt import _backend
from keras_cvt._files import check_folder, check_new, is_disk_fault
from keras_cvt._messages import one_line
from keras_cvt.images.preprocessing import LARGEST_SIDE, SMALLEST_CROP

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
CLOSED = 141  # as of a program that SIGPIPE ends

Main = Callable[[Sequence[str] | None], int | None]


class UsageError(ValueError):
    """Arguments that can't be understood. The message is one line.

    Args:
        message: What is wrong, and what would be right.
        program: Which program says it; "" for the one that runs.
    """

    def __init__(self, message: str, program: str = "") -> None:
        super().__init__(message)
        self.program = program


class Parser(argparse.ArgumentParser):
    """A command line of which a mistake is a `UsageError`, told in one line without the usage."""

    def error(self, message: str):
        raise UsageError(message, self.prog)


def command(
    program: str, statuses: Mapping[type[Exception], int], interrupted: str = ""
) -> Callable[[Main], Callable[[Sequence[str] | None], int]]:
    """Makes of a function the `main` of a program, which returns its exit status.

    The function takes the arguments (None for those of the process) and returns None or a status.
    Wrong arguments have the status 2, Ctrl-C has 130. A disk that is full or fails, or too many open
    files, have 1 whatever kind of error that is: the same command may work later. When nobody reads
    the standard output any more (`| head`), the status is 141, as for other programs, and nothing is
    said.

    Args:
        program: Its name, which begins the line that tells an error.
        statuses: The exit status of each kind of error that is expected. The first kind that fits
            decides. Any other error is a fault of the program, and keeps its traceback.
        interrupted: What follows "Interrupted." after Ctrl-C. The function can say something else
            by raising `KeyboardInterrupt(...)` itself.
    """

    def decorate(main: Main) -> Callable[[Sequence[str] | None], int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            return exit_status(program, lambda: main(argv), statuses, interrupted)

        return run

    return decorate


def exit_status(
    program: str,
    function: Callable[[], int | None],
    statuses: Mapping[type[Exception], int],
    interrupted: str = "",
) -> int:
    """Does what `command` does, at once."""
    statuses = {UsageError: WRONG_USE, **statuses}
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_AS_IT_CAN_BE)
    try:
        status = function() or 0
        sys.stdout.flush()  # while there is somebody to tell that it fails
        return status
    except KeyboardInterrupt as stop:
        said = f"Interrupted. {stop if stop.args else interrupted}"
        _tell(f"\n{program}: {said.rstrip()}")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return CLOSED
    except Exception as error:
        try:
            sys.stdout.flush()
        except OSError:
            _abandon_output()
        known = [status for kind, status in statuses.items() if isinstance(error, kind)]
        told = _backend.missing(error) if isinstance(error, ImportError) else ""
        if told:
            known.append(WRONG_USE)
        if is_disk_fault(error):
            known = [FAILED]
        if not known:
            raise
        _tell(f"{getattr(error, 'program', '') or program}: error: {told or one_line(error)}")
        return known[0]


def _open_closed_streams() -> None:
    """Gives a process that was started without standard output or error (`>&-`) one that takes all.

    Otherwise the next file that is opened would be in its place, and be written into.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _as_it_can_be(error: UnicodeError) -> tuple[str | bytes, int]:
    """Writes what an encoding lacks: bytes of a file's name that are not UTF-8 as they are, and other
    letters escaped, such as an emoji where the output is Latin-1."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


_AS_IT_CAN_BE = "keras_cvt.as_it_can_be"
codecs.register_error(_AS_IT_CAN_BE, _as_it_can_be)


def _tell(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        print(message, file=sys.stderr)


def _abandon_output() -> None:
    """Keeps Python from trying once more, at its end, to write what can't be written."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---- types of arguments, for `add_argument(type=...)`


def integer(minimum: int) -> Callable[[str], int]:
    """An integer of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"must be an integer, at least {minimum}. Received {text!r}."
            )
        return value

    return parse


def number(minimum: float | None = None, above: float | None = None) -> Callable[[str], float]:
    """A finite number of at least `minimum`, or larger than `above`."""
    right = f"at least {minimum:g}" if above is None else f"above {above:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        fits = value >= minimum if above is None else value > above
        if not (fits and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"must be a number, {right}. Received {text!r}.")
        return value

    return parse


def image_size(text: str) -> tuple[int, int]:
    """(height, width) in pixels, from "384" or "384x512"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither SIZE nor HEIGHTxWIDTH, as in 384x512"
        )
    # By the digits first: Python refuses to read thousands of them.
    if not all(len(part) < 9 and 1 <= int(part) <= LARGEST_SIDE for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be from 1 to {LARGEST_SIDE} pixels a side. Received {text!r}."
        )
    return int(parts[0]), int(parts[-1])


def crop(text: str) -> float | str:
    """A share of a picture's side, from 0.01 to 1; or "official" or "none"."""
    if text in ("official", "none"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not SMALLEST_CROP <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be official, none, or from {SMALLEST_CROP:g} to 1. Received {text!r}."
        )
    return value


def check_suffix(path: Path, suffixes: Sequence[str], option: str = "--output") -> None:
    """Refuses a file with another ending.

    Raises:
        UsageError: Which names the right ones.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} must end in {' or '.join(suffixes)}. Received {path.name}.")


def check_new_file(path: Path, suffixes: Sequence[str]) -> None:
    """Refuses a path where the work's result could not be written, or something would be lost.

    Raises:
        UsageError: For another ending than one of `suffixes`.
        OSError: If its folder does not exist, or the file does.
    """
    check_folder(path)
    check_suffix(path, suffixes)
    check_new(path)


# ---- files that are named by arguments


def read_labels(path: str | os.PathLike[str] | None) -> list[str] | None:
    """The names in a file, one on each line; None for no file.

    Raises:
        ValueError: If it is not text in UTF-8.
        OSError: If it can't be read.
    """
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from None
    return [line.strip() for line in lines]
