"""Tests of training.runs.run_checkpoints: whatever happens in between, a run keeps its state."""

from __future__ import annotations

import errno
import itertools
import os
import re
import subprocess
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import programs
import pytest
import safetensors.numpy
from run_checkpoint_cases import assert_same, checkpoint

from training.config import ConfigError
from training.runs import run_checkpoints
from training.runs.run_checkpoints import (
    DiskError,
    RunCheckpoint,
    RunCheckpointError,
    RunCheckpoints,
)

DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bool", ml_dtypes.bfloat16),
]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(*steps: int) -> list[str]:
    return [f"step-{s:08d}.{ending}" for s in steps for ending in ("json", "safetensors")]


def script(code: str, *arguments: object) -> subprocess.Popen:
    """Another process, for which the functions of this module are there as `t`."""
    paths = "import sys; sys.path.append('tests/support')\n"
    code = paths + "import tests.training.runs.test_run_checkpoints as t\n" + code
    return programs.start("-c", code, *arguments, stderr=subprocess.PIPE)


# ---- what is kept


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_dtype_and_shape_comes_back(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 2, 24).astype(dtype)
    arrays = {
        "scalar": values[1].reshape(()),
        "vector": values,
        "empty": values[:0].reshape(0, 3),
        "transposed": values.reshape(2, 3, 4).transpose(2, 0, 1),
        "every other": values[::2],
        "big-endian": values.astype(values.dtype.newbyteorder(">")),
        "na/me ü": values.reshape(1, 24),
    }
    run = RunCheckpoints(tmp_path / "new" / "folder", keep=1)
    run.save(RunCheckpoint(0, arrays, {}))
    assert_same(
        run.read(0),
        RunCheckpoint(0, {k: a.astype(dtype, order="C") for k, a in arrays.items()}, {}),
    )
    for array in run.read(0).arrays.values():
        array[...] = 1  # one's own, to write to


def test_special_floats_keep_their_bits(tmp_path):
    bits = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001], "uint32")
    run = RunCheckpoints(tmp_path, keep=1)
    state = {"loss": float("inf"), "long": 2**70, "text": "ü", "third": 1 / 3, "none": None}
    run.save(RunCheckpoint(123456789, {"x": bits.view("float32")}, state))
    found = run.latest()
    assert found.step == 123456789 and found.state == state
    np.testing.assert_array_equal(found.arrays["x"].view("uint32"), bits)


def test_files_are_safetensors(run, tmp_path):
    found = safetensors.numpy.load_file(tmp_path / "step-00000020.safetensors")
    assert_same(RunCheckpoint(20, found, checkpoint(20).state), checkpoint(20))


def test_files_of_the_safetensors_package_are_read(tmp_path):
    arrays = checkpoint(5).arrays
    safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata={"by": "the package"})
    with open(tmp_path / "theirs", "rb") as file:
        found = run_checkpoints.read_arrays(file)
    assert_same(RunCheckpoint(5, found, checkpoint(5).state), checkpoint(5))


@pytest.mark.parametrize(
    "content",
    [
        ({"x": np.array(["text"])}, {}, RunCheckpointError, "'x'.*<U4"),
        ({"x": np.array([1j])}, {}, RunCheckpointError, "'x'.*complex128"),
        ({"__metadata__": np.zeros(2)}, {}, RunCheckpointError, "__metadata__"),
        ({}, {"array": np.zeros(2)}, TypeError, "ndarray is not JSON serializable"),
    ],
    ids=["text", "complex", "name", "state"],
)
def test_what_cannot_be_stored_is_refused_first(run, tmp_path, content):
    arrays, state, error, message = content
    with pytest.raises(error, match=message):
        run.save(RunCheckpoint(30, arrays, state))
    assert files(tmp_path) == names(10, 20)


def test_no_second_copy_in_memory(tmp_path):
    size = 32 << 20
    big = RunCheckpoint(
        1, {"a": np.ones(size // 8, "float32"), "b": np.ones(size // 8, "int32")}, {}
    )
    run = RunCheckpoints(tmp_path, keep=1)
    tracemalloc.start()
    try:
        run.save(big)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        tracemalloc.reset_peak()
        found = run.latest()
        assert tracemalloc.get_traced_memory()[1] < size + (2 << 20)
    finally:
        tracemalloc.stop()
    assert_same(found, big)


# ---- which are kept


def test_the_latest_are_kept(run, tmp_path):
    assert run.steps() == [10, 20]
    assert_same(run.latest(), checkpoint(20))
    run.save(checkpoint(30))
    assert run.steps() == [20, 30]
    assert files(tmp_path) == names(20, 30)
    RunCheckpoints(tmp_path, keep=1).save(checkpoint(100_000_000))
    assert files(tmp_path) == names(100_000_000)
    assert_same(run.latest(), checkpoint(100_000_000))


def test_no_checkpoint(tmp_path, warnings):
    run = RunCheckpoints(tmp_path / "none", keep=2, warn=warnings.append)
    assert run.latest() is None
    assert run.steps() == warnings == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(RunCheckpointError, match=r"step-00000007.json is missing: step 7 has no"):
        run.read(7)


def test_the_step_that_is_asked_for(run):
    assert_same(run.read(10), checkpoint(10))


def test_a_step_saved_again_is_replaced(tmp_path):
    run = RunCheckpoints(tmp_path, keep=1)
    for value in (1, 2, 3):
        again = RunCheckpoint(10, checkpoint(value).arrays, {"value": value})
        run.save(again)
        assert_same(run.latest(), again)
        assert len(files(tmp_path)) == 2


def test_other_files_are_left_alone(run, tmp_path):
    others = [".partial-mine", "mine", "step-1.safetensors", "step-best.safetensors"]
    for name in others:
        (tmp_path / name).write_text("not a checkpoint")
    run.save(checkpoint(30))
    assert files(tmp_path) == sorted(others + names(20, 30))
    assert run.steps() == [20, 30]


# ---- damage


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "data truncated": (
        lambda d, j: os.truncate(d, 5000),
        r"safetensors is damaged: it has 5000 of",
    ),
    "data longer": (lambda d, j: os.truncate(d, 9999), r"safetensors is damaged: it has 9999 of"),
    "bit of an array": (lambda d, j: _flip(d, -1), r"safetensors is damaged: its SHA-256"),
    "bit of the header": (lambda d, j: _flip(d, 30), r"safetensors is damaged: its SHA-256"),
    "bit of its length": (lambda d, j: _flip(d, 7), r"safetensors is damaged: its SHA-256"),
    "no data": (lambda d, j: d.unlink(), r"safetensors can't be read: No such file"),
    "data a folder": (lambda d, j: (d.unlink(), d.mkdir()), r"safetensors is damaged: it has"),
    "no json": (lambda d, j: j.unlink(), r"json is missing"),
    "json empty": (lambda d, j: os.truncate(j, 0), r"json is damaged"),
    "json truncated": (lambda d, j: os.truncate(j, 100), r"json is damaged"),
    "json garbage": (lambda d, j: j.write_bytes(os.urandom(300)), r"json is damaged"),
    "json a list": (lambda d, j: j.write_text("[1]"), r"json is damaged"),
    "json without end": (lambda d, j: j.write_text("[" * 99999), r"json is damaged"),
    "json of something else": (lambda d, j: j.write_text('{"format": 1}'), r"json is damaged"),
    "json a folder": (lambda d, j: (j.unlink(), j.mkdir()), r"json can't be read: Is a directory"),
    "number in json": (
        lambda d, j: j.write_text(j.read_text().replace('"loss": 6.', '"loss": 5.')),
        r"json is damaged: its checksum",
    ),
    "json of another step": (
        lambda d, j: j.write_text((j.parent / "step-00000010.json").read_text()),
        r"json is damaged: its checksum or step",
    ),
    "no format": (
        lambda d, j: j.write_text(j.read_text().replace('"format": 1', '"format": "one"')),
        r"json is damaged: its checksum",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_passed_over(run, tmp_path, warnings, kind):
    damage, message = DAMAGE[kind]
    damage(*(tmp_path / name for name in reversed(names(20))))
    assert_same(run.latest(), checkpoint(10))
    assert len(warnings) == 1 and re.search(f"step-00000020.{message}", warnings[0])
    assert "\n" not in warnings[0] and len(warnings[0]) < 300
    with pytest.raises(RunCheckpointError, match=message):
        run.read(20)


@pytest.mark.parametrize("kind", sorted(DAMAGE.keys() - {"data a folder", "json a folder"}))
def test_the_run_goes_on_over_damage(run, tmp_path, kind):
    DAMAGE[kind][0](*(tmp_path / name for name in reversed(names(20))))
    run.save(checkpoint(15))
    assert_same(run.latest(), checkpoint(15))
    run.save(checkpoint(20))
    assert_same(run.latest(), checkpoint(20))
    assert run.steps() == [15, 20]
    run.save(checkpoint(25))
    assert run.steps() == [20, 25] and len(files(tmp_path)) == 4


def test_what_a_newer_version_has_written_is_not_passed_over(run, tmp_path, warnings):
    record = tmp_path / "step-00000020.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    # A run that began anew would replace what years of computing may have made.
    with pytest.raises(
        ConfigError, match=r"00000020.json has format 2, and this .* reads 1: .* new"
    ):
        run.latest()
    assert warnings == [] and run.steps() == [10]
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_nothing_but_damage(run, tmp_path, warnings):
    for path in tmp_path.glob("*.json"):
        path.write_text("{}")
    assert run.latest() is None
    assert ["00000020" in warnings[0], "00000010" in warnings[1]] == [True, True]
    assert files(tmp_path) == names(10, 20)


def test_warnings_go_to_standard_error_by_default(run, tmp_path, capsys):
    (tmp_path / "step-00000020.json").unlink()
    assert_same(RunCheckpoints(tmp_path, keep=2).latest(), checkpoint(10))
    assert re.match(r"Warning: \S*step-00000020.json is missing.*\n$", capsys.readouterr().err)


# ---- killed


# A process is forked again and again, each time to be killed while it does nothing but save: after
# a random time on the processor, which doesn't depend on what else the machine does. What it leaves
# is checked, and the next one goes on from it.
KILLED_AT_RANDOM = """
import os, random, signal, sys
from pathlib import Path
folder = Path(sys.argv[1])
random.seed(0)
cut_off = 0
for attempt in range(40):
    run = t.RunCheckpoints(folder, keep=1, warn=lambda message: None)
    before = run.latest()
    moment = random.uniform(0.005, 0.04)
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, moment)  # SIGPROF kills like SIGKILL, asking nobody
        step = before.step if before else 0
        while True:
            step += 1
            run.save(t.checkpoint(step, numbers=100_000))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGPROF
    after = run.latest()
    if before:
        assert after.step >= before.step
    if after:
        t.assert_same(after, t.checkpoint(after.step, numbers=100_000))
    # More than the files of one checkpoint: it was in the middle of the next.
    cut_off += len(t.files(folder)) > 2 if folder.exists() else 0
print(cut_off, after.step)
"""


def test_killed_at_random_moments(tmp_path):
    out, err = script(KILLED_AT_RANDOM, tmp_path / "checkpoints").communicate()
    assert err == ""
    cut_off, steps = map(int, out.split())
    assert cut_off >= 10 and steps >= 10
    run = RunCheckpoints(tmp_path / "checkpoints", keep=1)
    run.save(checkpoint(steps + 1))
    assert files(tmp_path / "checkpoints") == names(steps + 1)  # no leftovers


# The same, at every single moment: a forked process ends itself at its n-th call that changes the
# folder. The step that is saved is a new one, or replaces the only one.
KILLED_AT_EACH_CALL = """
import os, shutil, sys
from pathlib import Path
folder, step = Path(sys.argv[1]), int(sys.argv[2])
def ending(function, countdown):
    def call(*args, **kwargs):
        countdown[0] -= 1
        if countdown[0] == 0:
            os._exit(9)
        return function(*args, **kwargs)
    return call
old, new = t.checkpoint(10), t.RunCheckpoint(step, t.checkpoint(20).arrays, {"new": True})
outcomes = []
for moment in range(1, 100):
    shutil.rmtree(folder, ignore_errors=True)
    run = t.RunCheckpoints(folder, keep=1, warn=lambda message: None)
    run.save(old)
    child = os.fork()
    if not child:
        countdown = [moment]
        for module, names in ((os, ("fsync", "replace", "unlink", "open")), (t.Path, ("unlink",))):
            for name in names:
                setattr(module, name, ending(getattr(module, name), countdown))
        run.save(new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = run.latest()
    is_new = found.state == new.state
    t.assert_same(found, new if is_new else old)
    outcomes.append(is_new)
    if status == 0:
        break
    t.RunCheckpoints(folder, keep=1).save(t.checkpoint(30))
    assert t.files(folder) == t.names(30), t.files(folder)
assert status == 0
print(*(int(o) for o in outcomes))
"""


@pytest.mark.parametrize("step", [20, 10], ids=["a new step", "the same step"])
def test_killed_at_each_moment(tmp_path, step):
    out, err = script(KILLED_AT_EACH_CALL, tmp_path / "checkpoints", step).communicate()
    assert err == ""
    outcomes = out.split()
    assert len(outcomes) >= 8
    assert outcomes == sorted(outcomes) and set(outcomes) == {"0", "1"}  # the old one, then the new


# ---- full disk


def test_too_little_space_is_said_before_writing(run, tmp_path, monkeypatch):
    full = run_checkpoints.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(run_checkpoints.shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(run_checkpoints, "write_arrays", lambda *_: pytest.fail("wrote"))
    with pytest.raises(
        DiskError,
        match=r"^The checkpoint of step 30 can't be written to \S+: no space \(.*\): 1.1 MB are "
        r"needed, 1.0 MB available. The checkpoint of step 20 is kept.$",
    ) as caught:
        run.save(checkpoint(30))
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == names(10, 20)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", range(4), ids=["data", "folder", "json", "folder again"])
def test_an_error_while_writing(run, tmp_path, monkeypatch, number, call):
    calls = itertools.count()
    fsync = os.fsync

    def failing(file):
        if next(calls) == call:
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError) as caught:
        run.save(checkpoint(30))
    monkeypatch.undo()
    message = str(caught.value)
    assert os.strerror(number) in message and ("no space" in message) == (number != errno.EIO)
    # Only if the very last call failed, the new one is there already.
    kept = [10, 20, 30] if call == 3 else [10, 20]
    assert f"step {kept[-1]} is kept" in message
    assert files(tmp_path) == names(*kept)
    assert_same(run.latest(), checkpoint(kept[-1]))
    run.save(checkpoint(30))
    assert run.steps() == [20, 30] and len(files(tmp_path)) == 4


FILE_SIZE_LIMIT = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    t.RunCheckpoints(Path(sys.argv[1]), keep=2).save(t.checkpoint(30, numbers=100_000))
except t.DiskError as error:
    print(error)
"""


def test_a_file_that_may_not_get_so_large(run, tmp_path):
    out, err = script(FILE_SIZE_LIMIT, tmp_path).communicate()
    assert err == ""
    assert re.search(r"no space \(File too large\): 1.6 MB are needed.* step 20 is kept", out)
    assert files(tmp_path) == names(10, 20)
    assert_same(run.latest(), checkpoint(20))


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DiskError, match=r"Not a directory. There is no earlier one.$"):
        RunCheckpoints(tmp_path / "file" / "checkpoints", keep=1).save(checkpoint(1))
    assert (tmp_path / "file").read_text() == "mine"


def test_tensorflow_is_not_needed():
    code = "import sys, training.runs.run_checkpoints\n"
    code += "print({'keras', 'tensorflow'} & {*sys.modules})"
    assert programs.start("-c", code, stderr=subprocess.PIPE).communicate() == ("set()\n", "")
