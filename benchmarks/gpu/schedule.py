"""In which order contenders are started, compiled and measured, so that little time is lost."""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.gpu import cases
from benchmarks.gpu.cases import Case, Job
from benchmarks.gpu.processes import Worker, WorkerError

PROFILED_BATCHES = 3


@dataclasses.dataclass
class Turns:
    """A case whose contenders have been started.

    Attributes:
        reserved: whether they may compile and compute: there is memory for all of them.
        rates: images per second of each round, by contender.
        profiles: what `kernels.table` returns, by contender.
    """

    case: Case
    workers: list[Worker]
    reserved: bool = False
    rates: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    profiles: dict[str, dict] = dataclasses.field(default_factory=dict)

    @property
    def settled(self) -> bool:
        return all(worker.state in ("ready", "failed") for worker in self.workers)


class Schedule:
    """Runs cases until they or the time are at an end.

    Contenders of the cases to come start and compile while others do, and stop for as long as a case
    is measured: then nothing else uses the GPU or the processor. The compiler of JAX chooses among
    kernels by trying them, so it is let do that for few contenders at a time.

    Args:
        waiting: what to do, in this order.
        options: "device", "threads", "rounds", "seconds" of a turn, "processes" at once, "compilers"
            of JAX at once, "patience" in seconds, and "memory" of the GPU in GB, None for no limit.
        largest: of a case without a batch, its batch; None if that can't be told.
        record: is given each case that has been measured.
    """

    def __init__(
        self,
        waiting: Sequence[Case],
        options: dict,
        largest: Callable[[Case], int | None],
        record: Callable[[Turns], None],
    ):
        self.waiting = list(waiting)
        self.options, self.largest, self.record = options, largest, record
        self.active: list[Turns] = []

    def run(self, minutes: float) -> list[Case]:
        """Returns the cases for which there was no time."""
        end = time.monotonic() + 60 * minutes
        try:
            while (self.waiting or self.active) and time.monotonic() < end:
                self._start()
                self._let_on()
                for turns in self.active:
                    for worker in turns.workers:
                        worker.poll(self.options["patience"])
                settled = next((t for t in self.active if t.reserved and t.settled), None)
                if settled is None:
                    time.sleep(0.05)
                else:
                    self._measure(settled)
            return [turns.case for turns in self.active] + self.waiting
        finally:
            for turns in self.active:
                for worker in turns.workers:
                    worker.stop()

    def _start(self) -> None:
        while self.waiting:
            case = self.waiting[0]
            started = sum(len(turns.workers) for turns in self.active)
            if self.active and started + len(case.contenders) > self.options["processes"]:
                return
            batch = case.batch
            if batch is None:
                if self.active:  # among which may be the case that tells it
                    return
                batch = self.largest(case)
            self.waiting.pop(0)
            if batch is None:
                continue
            if case.batch is None:
                case = dataclasses.replace(case, batch=batch, note=f"largest, {case.contenders[0]}")
            self.active.append(Turns(case, [self._worker(case, name) for name in case.contenders]))

    def _worker(self, case: Case, name: str) -> Worker:
        return Worker(
            Job(
                name,
                case.task,
                case.model,
                case.size,
                case.dtype,
                case.batch,
                self.options["device"],
                self.options["threads"],
            )
        )

    def _let_on(self) -> None:
        """Lets contenders compile and compute for which there are compilers and memory."""
        free = self.options["compilers"] - sum(
            worker.state == "compiling" and worker.job.framework == "jax"
            for turns in self.active
            for worker in turns.workers
        )
        limit = self.options["memory"]
        taken, full = 0.0, False
        for turns in self.active:
            needed = turns.case.memory * len(turns.workers)
            if not turns.reserved:
                # Once one has to wait, so do those after it: it might wait for ever.
                full = full or bool(taken and limit is not None and taken + needed > limit)
                turns.reserved = not full
            taken += needed * turns.reserved
            for worker in turns.workers:
                compiles_apart = worker.job.framework == "jax"
                if worker.state == "lowered" and compiles_apart and free > 0:
                    free -= 1
                    worker.go_on("compiling")
                # torch compiles while it computes.
                elif worker.state == "lowered" and not compiles_apart and turns.reserved:
                    worker.go_on("compiling")
                elif worker.state == "compiled" and turns.reserved:
                    worker.go_on("warming")

    def _measure(self, turns: Turns) -> None:
        others = [
            w for t in self.active if t is not turns for w in t.workers if w.state != "failed"
        ]
        ready = [worker for worker in turns.workers if worker.state == "ready"]
        for worker in others:
            worker.pause()
        try:
            if ready:
                time.sleep(0.2)  # what they had begun on the GPU ends
                self._take_turns(turns, ready)
        finally:
            for worker in others:
                worker.resume()
            for worker in turns.workers:
                if worker.state == "failed":
                    print(
                        f"{worker.job.contender}: {worker.error}\n{worker.log()}", file=sys.stderr
                    )
                worker.stop()
            self.active.remove(turns)
        self._try_smaller(turns)
        self.record(turns)

    def _take_turns(self, turns: Turns, ready: list[Worker]) -> None:
        seconds = self.options["seconds"]
        for worker in ready:
            turns.rates[worker.job.contender] = []
        for number in range(self.options["rounds"] + 1):
            # In another order each time, so that none always follows the same one.
            for worker in random.sample(ready, len(ready)):
                if worker.state == "failed":
                    continue
                batches = max(1, round(seconds / worker.seconds))
                try:
                    spent = worker.run(batches)
                except WorkerError:
                    continue
                worker.seconds = spent / batches
                if number:  # the first tells how many batches a turn has
                    turns.rates[worker.job.contender].append(turns.case.batch * batches / spent)
        for worker in ready:
            if worker.job.contender in turns.case.profiled and worker.state == "ready":
                try:
                    turns.profiles[worker.job.contender] = worker.profile(PROFILED_BATCHES)
                except WorkerError as error:
                    print(f"No profile of {worker.job.contender}: {error}", file=sys.stderr)
                    worker.state = "ready"  # its figures are good

    def _try_smaller(self, turns: Turns) -> None:
        """A largest batch that did not fit is halved."""
        case = turns.case
        error = turns.workers[0].error
        if (
            case.note.startswith("largest")
            and ("memory" in error.lower() or "RESOURCE_EXHAUSTED" in error)
            and case.batch > 1
        ):
            self.waiting.insert(0, dataclasses.replace(case, batch=case.batch // 2))


def largest_batch(known: int, memory: float, available: float) -> int:
    """The largest power of two of images that fits, if `known` images need so much memory."""
    batch = 1
    while 2 * batch * memory / known <= available:
        batch *= 2
    return batch


def peak_cases(selected: Sequence[Case]) -> list[Case]:
    """The products that a run measures in any case, before what is selected."""
    products = [case for case in cases.all_cases() if case.task == "product"]
    return products + [case for case in selected if case.task != "product"]
