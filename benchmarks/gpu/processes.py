"""Contenders in processes of their own, which are made ready side by side and measured alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Job
from benchmarks.measure import ENVIRONMENTS, NO_GPU, ROOT

ANSWER = 60.0  # seconds that an answer may take


class WorkerError(Exception):
    """A contender that has failed. The message is one line."""


class Worker:
    """The process of a contender.

    Attributes:
        state: "starting", "lowered" (it waits to be told to compile), "compiling", "compiled" (it waits
            to be told to compute, which takes memory), "warming", "ready" or "failed".
        error: why it failed.
        facts: versions and the device.
        seconds: of a batch.
        spent: seconds until it was lowered and that it took to compile.
        memory: bytes that its batches need.
        multiply_adds: of an image, if it is this library's; else 0.
    """

    def __init__(self, job: Job):
        self.job = job
        self.state, self.error = "starting", ""
        self.facts: dict[str, str] = {}
        self.spent = [0.0, 0.0]
        self.seconds = self.memory = 0.0
        self.multiply_adds = 0
        self._since = time.monotonic()
        self._log: list[str] = []
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [
                _python(job.framework),
                "-m",
                "benchmarks.gpu.worker",
                json.dumps(dataclasses.asdict(job)),
            ],
            cwd=ROOT,
            env=_environment(job),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group, to be stopped and ended with its own processes
        )
        for target in (self._read_answers, self._read_log):
            threading.Thread(target=target, daemon=True).start()

    def poll(self, limit: float) -> None:
        """Takes notice of what it says. It fails if it starts or compiles for longer than so long."""
        with contextlib.suppress(queue.Empty):
            while self.state not in ("ready", "failed"):
                self._notice(self._answers.get_nowait())
        if (
            self.state in ("starting", "compiling", "warming")
            and time.monotonic() - self._since > limit
        ):
            self.fail(f"{self.state} for more than {limit:.0f} s")

    def go_on(self, state: str) -> None:
        """Lets it get on from "lowered" to "compiling", or from "compiled" to "warming"."""
        self.state, self._since = state, time.monotonic()
        self._tell(state, 0)

    def run(self, batches: int) -> float:
        """Computes so many batches; returns the seconds that it took.

        Raises:
            WorkerError: it did not.
        """
        answer = self._ask("run", batches)
        self.memory = answer["memory"]
        return answer["seconds"]

    def profile(self, batches: int) -> dict[str, Any]:
        return self._ask("profile", batches)["profile"]

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()

    def fail(self, error: str) -> None:
        self.state, self.error = "failed", error
        self.stop()

    def log(self) -> str:
        return "".join(self._log[-40:])

    def _ask(self, command: str, batches: int) -> dict[str, Any]:
        self._tell(command, batches)
        try:
            answer = self._answers.get(timeout=ANSWER)
        except queue.Empty:
            answer = {"state": "error", "error": f"no answer within {ANSWER:.0f} s"}
        if answer is None or answer["state"] == "error":
            self._notice(answer)
            self.fail(self.error or answer["error"])
            raise WorkerError(self.error)
        return answer

    def _notice(self, answer: dict[str, Any] | None) -> None:
        if answer is None:
            status = self.process.wait()
            self.fail(f"ended with status {status}")
        elif answer["state"] == "error":
            self.fail(answer["error"])
        elif answer["state"] == "lowered":
            self.state = "lowered"
            self.spent[0] = answer["seconds"]
        elif answer["state"] == "compiled":
            self.state = "compiled"
        elif answer["state"] == "ready":
            self.state = "ready"
            self.facts, self.seconds = answer["facts"], answer["seconds"]
            self.spent[1] = answer["compile_seconds"]
            self.multiply_adds = answer["multiply_adds"]

    def _tell(self, command: str, batches: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its answers say
            print(json.dumps([command, batches]), file=self.process.stdin, flush=True)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _read_answers(self) -> None:
        for line in self.process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def _read_log(self) -> None:
        for line in self.process.stderr:
            self._log.append(line[:400])


def _python(framework: str) -> str:
    """The framework's environment as `make peers` makes it, or the one that runs this."""
    path = Path(ROOT, ENVIRONMENTS[framework], "bin/python")
    return str(path) if path.exists() else sys.executable


def _environment(job: Job) -> dict[str, str]:
    values = {
        **os.environ,
        "KERAS_BACKEND": job.framework,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TORCHINDUCTOR_COMPILE_THREADS": os.environ.get("TORCHINDUCTOR_COMPILE_THREADS", "4"),
    }
    if job.device == "cpu":
        values |= {**NO_GPU, "OMP_NUM_THREADS": str(job.threads)}
    elif job.framework == "torch":
        values["JAX_PLATFORMS"] = "cpu"  # should a package import JAX, it takes no memory there
    return values
