"""Keeps the workers of this machine running: starts them, and restarts all when one fails."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from training.runs.folder import RunFolder
from training.runs.run_checkpoints import RunCheckpoints

_LONGEST_PAUSE = 300.0  # seconds

_PASSED_ON = (2, 3, 130)  # starting anew wouldn't change it, or isn't wanted

_LOOK_EVERY = 0.05  # seconds

# What schedulers tell each process of a cluster: which of how many it is, and where the others are.
_OF_CLUSTER = re.compile(
    "TF_CONFIG|SLURM_(STEP_.*|PROCID|LOCALID|NODEID|NTASKS.*|NPROCS|TASKS_PER_NODE|NNODES)"
    "|OMPI_.*|PMIX?_.*|MPI_LOCALRANKID"
)

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def supervise(
    command: Sequence[str],
    run_dir: Path,
    workers: int | None,
    restarts: int = 10,
    backoff: float = 5.0,
    grace: float = 10.0,
) -> int:
    """Runs workers until all are done, restarting all of them when one fails.

    To be called in the main thread: SIGINT and SIGTERM are handled meanwhile.

    Args:
        command: Program and arguments of a worker.
        run_dir: The run's folder, whose checkpoints show progress: it resets the count of restarts and
            the pause.
        workers: How many, each with its own TF_CONFIG. 1: one, that knows of no cluster. None: one, in
            the environment as it is.
        restarts: The most restarts without progress, at least 0. Defaults to 10.
        backoff: Seconds before the first restart, doubled for each without progress, up to 5 minutes.
            Defaults to 5.
        grace: Seconds from SIGTERM to SIGKILL for a worker that is to stop. Defaults to 10.

    Returns:
        The exit status that `training.supervise` documents.
    """
    checkpoints = RunFolder(run_dir).read_checkpoints()
    with _signals() as received:
        failures, pause, reached = 0, 0.0, _reached(checkpoints, [])
        while not received:
            status, what = _run_together(command, workers, received, grace)
            if received:
                break
            if status in (0, *_PASSED_ON):
                return status

            before, reached = reached, _reached(checkpoints, reached)
            failures = 1 if reached > before else failures + 1
            progress = (
                f"the last checkpoint is of step {reached[0]}" if reached else "no checkpoint"
            )
            if failures > restarts:
                _say(f"{what}. Gave up after {restarts} restarts without progress: {progress}.")
                return status
            pause = min(backoff if failures == 1 else 2 * pause, _LONGEST_PAUSE)
            _say(
                f"{what}. All start anew in {pause:g} s ({progress}; restart {failures} of at most "
                f"{restarts} without a new one)."
            )
            _wait(pause, received)
        _say(f"stopped by {received[0].name}")
        return 128 + received[0]


def _reached(checkpoints: RunCheckpoints, before: list[int]) -> list[int]:
    """The step of the last checkpoint, if there is one; as `before` while the disk can't tell."""
    try:
        return checkpoints.steps()[-1:]
    except OSError:
        return before


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # training goes on when the terminal is gone
        print(f"training.supervise: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM, instead of being ended by them."""
    received: list[signal.Signals] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _wait(seconds: float, received: list[signal.Signals]) -> None:
    """Waits, but not after a signal."""
    end = time.monotonic() + seconds
    while not received and time.monotonic() < end:
        time.sleep(min(_LOOK_EVERY, seconds))


def _run_together(
    command: Sequence[str], workers: int | None, received: list[signal.Signals], grace: float
) -> tuple[int, str]:
    """Starts all workers, and returns when none is left: all done, or stopped because one failed.

    Returns:
        The exit status of the one that failed first, or 0; and what happened to it.
    """
    processes: list[subprocess.Popen] = []
    output: list[threading.Thread] = []
    try:
        for environment in _environments(workers):
            processes.append(_start(command, environment, len(processes), workers or 1))
        # Only now, for a process with threads isn't to fork.
        output = [thread for i, p in enumerate(processes) for thread in _pass_on(p, f"worker {i}")]
        while not received:
            codes = [process.poll() for process in processes]
            failed = next((i for i, code in enumerate(codes) if code), None)
            if failed is not None:
                name = f"worker {failed}" if len(codes) > 1 else "the worker"
                return _explain(name, codes[failed])
            if None not in codes:
                return 0, "all are done"
            time.sleep(_LOOK_EVERY)
        return 128 + received[0], "interrupted"
    finally:
        _stop(processes, received[0] if received else signal.SIGTERM, grace)
        for thread in output:
            thread.join(timeout=5)  # a process that a worker has left behind may keep it open


def _explain(name: str, code: int) -> tuple[int, str]:
    """The exit status as a shell has it, and in words."""
    if code > 0:
        return code, f"{name} ended with exit status {code}"
    return 128 - code, f"{name} was killed by {signal.Signals(-code).name}"


def _environments(workers: int | None) -> list[dict[str, str]]:
    """Of each worker."""
    if workers is None:
        return [dict(os.environ)]
    environment = {k: value for k, value in os.environ.items() if not _OF_CLUSTER.fullmatch(k)}
    if workers == 1:
        return [environment]
    environment.setdefault("PYTHONUNBUFFERED", "1")  # lines come when they are written
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    cluster = {"worker": addresses}
    return [
        environment
        | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})}
        for i in range(workers)
    ]


def _free_ports(count: int) -> list[int]:
    # Open all at once, to get different ones. Another process may take one before its worker does:
    # that worker fails then, and all start anew, with other ports.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(
    command: Sequence[str], environment: dict[str, str], index: int, workers: int
) -> subprocess.Popen:
    supervisor = os.getpid()

    def die_with_supervisor() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:  # it died before that
                os._exit(1)

    stdout, stderr = None, None
    if workers > 1:
        stdout = subprocess.PIPE if index == 0 else subprocess.DEVNULL
        stderr = subprocess.PIPE
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=die_with_supervisor,
        start_new_session=True,  # Ctrl-C is for the supervisor; a worker is stopped with its own
    )


def _pass_on(process: subprocess.Popen, name: str) -> list[threading.Thread]:
    """Copies what a worker writes to pipes, line by line, until it ends."""

    def copy(source: BinaryIO, target: BinaryIO) -> None:
        for line in source:
            with contextlib.suppress(OSError, ValueError):  # as in _say
                target.write(f"[{name}] ".encode() + line.rstrip(b"\n") + b"\n")
                target.flush()

    threads = [
        threading.Thread(target=copy, args=(source, target.buffer), daemon=True)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        if source is not None
    ]
    for thread in threads:
        thread.start()
    return threads


def _stop(processes: list[subprocess.Popen], number: signal.Signals, grace: float) -> None:
    """Ends processes, and all that they have started; after the grace period by force."""
    for process in processes:
        _signal_group(process, number)
    end = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
