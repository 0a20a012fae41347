"""Reads thousands of damaged copies of checkpoint files; only a CheckpointError may come of it.

    python tests/support/fuzz_checkpoints.py --runs 5000 FILE [FILE ...]

Each copy is read in a process of its own with limited processor time, so that a crash, a hang or a
huge allocation is seen and counted and ends nothing else. For a zip archive, half of the copies get
the damage inside one of its members and a correct checksum around it, as an attacker would do it. A
finding is printed with its seed; `--seed N --runs 1` repeats it. Needs `os.fork` (Linux, macOS).
"""

import argparse
import collections
import io
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

from keras_cvt import checkpoints

ABSURD = (0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """A copy with one to twenty damages: bits, bytes, integers, moved pieces, a lost end."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        if not data:
            break
        # Indexes stand at the start or at the end of a file, so these are hit more often.
        size = draw.choice([len(data), min(len(data), 4096)])
        at = draw.choice([0, len(data) - size]) + draw.randrange(size)
        kind = draw.random()
        if kind < 0.35:
            data[at] ^= 1 << draw.randrange(8)
        elif kind < 0.55:
            data[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif kind < 0.75:
            width = draw.choice([1, 2, 4, 8])
            number = draw.choice([*ABSURD, len(data), draw.randrange(len(data))])
            data[at : at + width] = (number % 256**width).to_bytes(width, "little")
        elif kind < 0.9:
            source, length = draw.randrange(len(data)), draw.randrange(1, 64)
            data[at : at + draw.choice([0, length])] = data[source : source + length]
        elif kind < 0.97:
            del data[at : at + draw.randrange(1, 16)]
        else:
            del data[at:]
    return bytes(data)


def mutate_member(data: bytes, draw: random.Random) -> bytes:
    """A copy of a zip archive with damage in one member, and otherwise in order."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w") as new:
        indexes = [name for name in old.namelist() if name.endswith((".pkl", ".h5"))]
        victim = draw.choice(indexes * 20 + old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutate(content, draw) if name == victim else content)
    return result.getvalue()


def attempt(data: bytes, seed: int, path: Path) -> str:
    """What becomes of reading one damaged copy, in this process."""
    draw = random.Random(seed)
    inside = data.startswith(b"PK") and draw.random() < 0.5
    path.write_bytes((mutate_member if inside else mutate)(data, draw))
    start = time.process_time()
    try:
        with checkpoints.read(path) as checkpoint:
            for name in checkpoint:
                try:
                    array = checkpoint[name]
                    assert (array.shape, array.dtype) == checkpoint.info(name)
                except checkpoints.CheckpointError:
                    pass
        outcome = "read"
    except checkpoints.CheckpointError:
        outcome = "refused"
    return outcome if time.process_time() - start < 2 else "slow"


def attempt_apart(data: bytes, seed: int, path: Path) -> tuple[str, int]:
    """The same in a process of its own: what became of it, and its peak memory in bytes."""
    outcomes = ["read", "refused", "slow", "raised"]
    child = os.fork()
    if child == 0:
        code = outcomes.index("raised")
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (20, 21))  # of this process: it starts at 0
            code = outcomes.index(attempt(data, seed, path))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    path.unlink(missing_ok=True)
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}", usage.ru_maxrss * 1024
    return outcomes[os.WEXITSTATUS(status)], usage.ru_maxrss * 1024


def main() -> int:
    """Fuzzes the files named on the command line; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            data, counts, most = file.read_bytes(), collections.Counter(), 0
            for seed in range(options.seed, options.seed + options.runs):
                outcome, memory = attempt_apart(data, seed, Path(folder, "damaged"))
                counts[outcome] += 1
                most = max(most, memory)
                if outcome not in ("read", "refused"):
                    bad += 1
                    print(f"{file}, seed {seed}: {outcome}", flush=True)
            print(f"{file}: {dict(counts)}, at most {most >> 20} MiB in a process", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
