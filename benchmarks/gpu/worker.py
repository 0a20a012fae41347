"""A contender's process: `python -m benchmarks.gpu.worker JOB`, which `processes` starts.

Lines of JSON in and out. It makes its contender, says "lowered", and waits: compilers try kernels
out, and few contenders at a time should do that. Told to go on it compiles, says "compiled", and waits
for memory. Told again it computes batches, says "ready" with its facts and the seconds of one, and
then answers "run" and "profile". An "error" is the last that it says.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

from benchmarks.gpu import cases
from benchmarks.gpu.cases import Job


def main(argv: list[str] | None = None) -> None:
    (text,) = argv or sys.argv[1:]
    job = Job(**json.loads(text))
    # Whatever libraries print goes to the standard error: the standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(state: str, **values: Any) -> None:
        print(json.dumps({"state": state, **values}), file=answers)

    try:
        _serve(job, say)
    except Exception as error:
        message = str(error).partition("\n")[0].partition(". ")[0]
        say("error", error=f"{type(error).__name__}: {message}"[:200])
        raise


def _serve(job: Job, say: Any) -> None:
    begun = time.perf_counter()
    if job.framework == "jax":
        from benchmarks.gpu import on_jax as framework
    else:
        from benchmarks.gpu import on_torch as framework
    facts = framework.facts(job)
    program = framework.make(job)
    say("lowered", seconds=time.perf_counter() - begun)
    sys.stdin.readline()
    begun = time.perf_counter()
    program.compile()
    compiled = time.perf_counter() - begun
    say("compiled")
    sys.stdin.readline()
    program.run(2)
    begun = time.perf_counter()
    program.run(1)
    batch = time.perf_counter() - begun
    say(
        "ready",
        compile_seconds=compiled,
        seconds=batch,
        facts=facts,
        multiply_adds=_multiply_adds(job),
    )
    for line in sys.stdin:
        command, batches = json.loads(line)
        if command == "profile":
            say("profiled", profile=program.profile(batches))
            continue
        begun = time.perf_counter()
        program.run(batches)
        say("ran", seconds=time.perf_counter() - begun, memory=program.memory)


def _multiply_adds(job: Job) -> int:
    if not job.contender.startswith("Keras/"):
        return 0
    from keras_cvt import complexity
    from keras_cvt.architecture import VARIANTS

    return complexity(VARIANTS[job.model], (job.size, job.size, 3), cases.CLASSES).computed


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
