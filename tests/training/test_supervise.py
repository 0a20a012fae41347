"""Tests of training/supervise.py, with small programs in place of the training."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import programs
import pytest
from programs import CHECKOUT, PATIENCE

from training import supervise
from training.runs import supervisor
from training.runs.run_checkpoints import RunCheckpoint, RunCheckpoints

# What each worker begins with: it knows who it is, and how often its like have been started.
BEGINNING = """
import json, os, signal, sys, time
from pathlib import Path
config = os.environ.get("TF_CONFIG")
index = json.loads(config)["task"]["index"] if config else 0
starts = Path(f"starts-{index}")
with open(starts, "a") as file:
    file.write((config or "none") + "\\n")
attempt = len(starts.read_text().splitlines())
Path(f".pid-{index}").write_text(str(os.getpid()))
os.rename(f".pid-{index}", f"pid-{index}-{attempt}")  # never half written
def wait_for_all():  # until each worker of this attempt runs
    while len([*Path().glob(f"pid-*-{attempt}")]) < len(json.loads(config)["cluster"]["worker"]):
        time.sleep(0.01)
def checkpoint(step):
    import shutil
    folder = Path("run/checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path("prepared").glob(f"step-*{step}.*"):
        shutil.copy(path, folder)
"""
SUPERVISE = """
import json, sys
from pathlib import Path
from training.supervise import supervise
options = json.loads(sys.argv[1])
sys.exit(supervise([sys.executable, "worker.py"], Path("run"), **options))
"""


class Supervised:
    """`supervise` in a process of its own, in a folder, with a worker's program there."""

    def __init__(self, folder: Path, worker: str, workers: int | None = 2, env=(), **options):
        self.folder = folder
        (folder / "worker.py").write_text(BEGINNING + worker)
        options = {"workers": workers, "backoff": 0.05, "grace": PATIENCE, **options}
        environment = {k: v for k, v in os.environ.items() if not re.match("TF_CONFIG|SLURM", k)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, json.dumps(options)],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(CHECKOUT), **dict(env)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error; no worker is left."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        self.assert_no_workers()
        return self.process.returncode, out, err

    def wait_for(self, *names: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all((self.folder / name).exists() for name in names):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def starts(self, index: int) -> list[str]:
        """The TF_CONFIG of each start of a worker."""
        return (self.folder / f"starts-{index}").read_text().splitlines()

    def assert_no_workers(self) -> None:
        pids = [int(path.read_text()) for path in self.folder.glob("pid-*")]
        assert pids
        deadline = time.monotonic() + PATIENCE
        while any(_runs(pid) for pid in pids):
            assert time.monotonic() < deadline, "a worker is left"
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state[0] not in "ZX"


# ---- starting


def test_each_worker_has_its_tf_config(tmp_path):
    run = Supervised(tmp_path, "print('hello from', index, sys.stdin.read())", workers=3)
    assert run.end()[0] == 0
    found = [json.loads(run.starts(i)[0]) for i in range(3)]
    assert [config["task"] for config in found] == [
        {"type": "worker", "index": i} for i in range(3)
    ]
    addresses = found[0]["cluster"]["worker"]
    assert all(config["cluster"] == {"worker": addresses} for config in found)
    assert len({*addresses}) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", address) for address in addresses)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_know_nothing_of_a_cluster_around_them(monkeypatch, workers):
    """Or each would wait for the tasks of the Slurm step in which they all are."""
    names = "SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_STEP_NODELIST SLURM_NTASKS_PER_NODE"
    names += " SLURM_LOCALID OMPI_COMM_WORLD_RANK PMI_RANK PMIX_NAMESPACE"
    for name in [*names.split(), "TF_CONFIG", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "PMI"]:
        monkeypatch.setenv(name, "5")
    for environment in supervisor._environments(workers):
        assert not {*names.split()} & environment.keys()
        assert environment.get("TF_CONFIG") != "5"
        assert {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "PMI", "PATH"} <= environment.keys()
    assert supervisor._environments(None) == [dict(os.environ)]


def test_a_disk_that_cannot_tell_is_no_progress_and_no_end(tmp_path, monkeypatch):
    checkpoints = RunCheckpoints(tmp_path, keep=1)
    checkpoints.save(RunCheckpoint(7, {}, {}))
    assert supervisor._reached(checkpoints, []) == [7]

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listdir", fail)
    assert supervisor._reached(checkpoints, [3]) == [3]


def test_a_single_worker_has_none(tmp_path):
    run = Supervised(tmp_path, "print('as', 'it is')", workers=1, env={"TF_CONFIG": "{}"})
    assert run.end() == (0, "as it is\n", "")
    assert run.starts(0) == ["none"]


def test_a_schedulers_environment_is_untouched(tmp_path):
    config = json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1}})
    run = Supervised(
        tmp_path,
        "print(sorted(v for v in os.environ if v.startswith('SLURM'))); sys.exit(attempt < 2)",
        workers=None,
        env={"TF_CONFIG": config, "SLURM_PROCID": "1"},
    )
    status, out, err = run.end()
    assert (status, out) == (0, "['SLURM_PROCID']\n" * 2)
    assert run.starts(1) == [config] * 2
    assert "the worker ended with exit status 1. All start anew" in err


def test_output_is_passed_through_live(tmp_path):
    run = Supervised(
        tmp_path,
        """
print("out", index)
print("err", index, file=sys.stderr)
sys.stdout.buffer.write(b"no UTF-8: \\xff")
while not Path("go on").exists(): time.sleep(0.01)
""",
    )
    assert run.process.stdout.readline() == "[worker 0] out 0\n"  # while it runs
    lines = {run.process.stderr.readline() for _ in range(2)}
    assert lines == {"[worker 0] err 0\n", "[worker 1] err 1\n"}
    (tmp_path / "go on").touch()
    assert run.end() == (0, "[worker 0] no UTF-8: \ufffd\n", "")


# ---- restarting


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("sys.exit(4)", "worker 1 ended with exit status 4"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "worker 1 was killed by SIGKILL"),
        ("raise KeyError", "worker 1 ended with exit status 1"),
    ],
)
def test_all_start_anew_when_one_dies(tmp_path, death, message):
    run = Supervised(
        tmp_path,
        f"""
if attempt == 1:
    wait_for_all()
    if index == 1:
        {death}
    time.sleep(2 * 3600)
print("done")
""",
    )
    status, out, err = run.end()
    assert (status, out) == (0, "[worker 0] done\n")
    assert (
        f"training.supervise: {message}. All start anew in 0.05 s (no checkpoint; restart 1 of at "
        "most 10 without a new one).\n"
    ) in err
    assert len(run.starts(0)) == len(run.starts(1)) == 2
    assert run.starts(0)[0] != run.starts(0)[1]  # other ports


def test_giving_up(tmp_path):
    run = Supervised(tmp_path, "sys.exit(5 if index else 0)", restarts=3, backoff=0.01)
    status, _, err = run.end()
    assert status == 5
    assert re.findall(r"anew in ([\d.]+) s", err) == ["0.01", "0.02", "0.04"]
    assert err.endswith(
        "training.supervise: worker 1 ended with exit status 5. Gave up after 3 restarts without "
        "progress: no checkpoint.\n"
    )
    assert len(run.starts(1)) == 4


def test_killed_to_the_last(tmp_path):
    run = Supervised(
        tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)", workers=1, restarts=0, backoff=0
    )
    status, _, err = run.end()
    assert status == 128 + signal.SIGSEGV
    assert "the worker was killed by SIGSEGV. Gave up" in err


def test_progress_resets_the_limit(tmp_path):
    for step in (10, 20):
        RunCheckpoints(tmp_path / "prepared", keep=9).save(
            RunCheckpoint(step, {"x": np.zeros(3)}, {})
        )
    worker = "checkpoint({2: 10, 4: 20, 5: 10}.get(attempt)); sys.exit(1)"
    run = Supervised(tmp_path, worker, workers=1, restarts=2, backoff=0.01)
    status, _, err = run.end()
    assert status == 1
    assert re.findall(r"anew in (\S+) s \((.*?); restart (\d)", err) == [
        ("0.01", "no checkpoint", "1"),
        ("0.01", "the last checkpoint is of step 10", "1"),
        ("0.02", "the last checkpoint is of step 10", "2"),
        ("0.01", "the last checkpoint is of step 20", "1"),
        ("0.02", "the last checkpoint is of step 20", "2"),
    ]
    assert "Gave up after 2 restarts without progress: the last checkpoint is of step 20." in err


def test_the_pause_has_a_limit(tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(supervisor, "_wait", lambda pause, _: pauses.append(pause))
    command = [sys.executable, "-S", "-c", "raise SystemExit(1)"]
    assert supervisor.supervise(command, tmp_path, workers=1, restarts=4, backoff=100) == 1
    assert pauses == [100, 200, 300, 300]


@pytest.mark.parametrize("status", [2, 3, 130])
def test_some_statuses_are_passed_on_at_once(tmp_path, status):
    run = Supervised(
        tmp_path, f"wait_for_all()\nif index: sys.exit({status})\ntime.sleep(2 * 3600)"
    )
    assert run.end() == (status, "", "")
    assert len(run.starts(0)) == 1


# ---- stopping


def test_the_worker_that_does_not_stop_is_killed(tmp_path):
    run = Supervised(
        tmp_path,
        """
if attempt == 1:
    if index == 0:
        signal.signal(signal.SIGTERM, lambda *_: Path("asked").touch())
        Path("ready").touch()
        while True: time.sleep(2 * 3600)
    while not Path("ready").exists(): time.sleep(0.01)
    sys.exit(1)
""",
        grace=2,  # for the signal to arrive on a busy machine
    )
    assert run.end()[0] == 0
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_stops_all(tmp_path, number, workers):
    # The worker's own child is stopped too.
    worker = """
import subprocess
try:
    child = subprocess.Popen(["sleep", "7200"])
    Path(f"pid-of-child-{index}").write_text(str(child.pid))
    Path(f"ready-{index}").touch()
    time.sleep(2 * 3600)
except KeyboardInterrupt:
    Path(f"interrupted-{index}").touch()
"""
    run = Supervised(tmp_path, worker, workers=workers)
    run.wait_for(*(f"ready-{i}" for i in range(workers)))
    run.process.send_signal(number)
    status, _, err = run.end()
    assert status == 128 + number
    assert err == f"training.supervise: stopped by {number.name}\n"
    # The workers get the same signal, and can end as they like.
    interrupted = len([*tmp_path.glob("interrupted-*")])
    assert interrupted == (workers if number == signal.SIGINT else 0)


def test_a_signal_ends_the_pause(tmp_path):
    run = Supervised(tmp_path, "sys.exit(1)", workers=1, backoff=200)
    assert "All start anew in 200 s" in run.process.stderr.readline()
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (143, "", "training.supervise: stopped by SIGTERM\n")
    assert len(run.starts(0)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no PR_SET_PDEATHSIG")
@pytest.mark.parametrize("workers", [None, 2])
def test_workers_do_not_outlive_a_killed_supervisor(tmp_path, workers):
    worker = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(2 * 3600)"
    run = Supervised(tmp_path, worker, workers=workers)
    run.wait_for(*(f"pid-{i}-1" for i in range(workers or 1)))
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL


def test_the_supervisor_starts_without_tensorflow():
    """Else it would hold some seconds and hundreds of megabytes beside each run."""
    code = "import sys, training.supervise\nprint({'keras', 'tensorflow'} & {*sys.modules})"
    assert programs.run("-c", code) == "set()\n"


# ---- the command line


@pytest.fixture
def started(monkeypatch) -> list:
    """What `main` starts; nothing really."""
    started = []
    monkeypatch.setattr(supervise, "supervise", lambda *args: started.append(args) or 0)
    for name in ("TF_CONFIG", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return started


@pytest.mark.parametrize(
    ("args", "run_dir"),
    [
        ("--config digits", "runs/digits"),
        ("--config=digits --set epochs=2 --set strategy=auto", "runs/digits"),
        ("--config digits --run-dir a/b", "a/b"),
        ("--run-dir=a/b --config digits --strategy multi_worker", "a/b"),
        ("--config digits --run-dir first --run-dir last", "last"),
        ("--config digits --set strategy=multi_worker --unknown x", "runs/digits"),
    ],
)
def test_the_run_folder_is_that_of_train(started, args, run_dir):
    assert supervise.main(["--workers", "2", "--", *args.split()]) == 0
    command = [sys.executable, "-m", "training.train", *args.split()]
    assert started == [(command, Path(run_dir), 2, 10, 5.0)]


@pytest.mark.parametrize(
    ("environment", "options", "workers"),
    [
        ({}, "", 1),
        ({}, "--workers=3", 3),
        ({"TF_CONFIG": "{}"}, "", None),
        ({"TF_CONFIG": "{}"}, "--workers 1", 1),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "", None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, "", 1),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "--workers 2", 2),  # of salloc: a shell, and not a task
    ],
)
def test_who_starts_the_workers(started, monkeypatch, environment, options, workers):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    argv = [*options.split(), "--restarts", "0", "--backoff", "0.5", "--", "--config", "digits"]
    assert supervise.main(argv) == 0
    assert started[0][2:] == (workers, 0, 0.5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "the arguments of training.train must come after `--`"),
        ("--workers 2 --", "the arguments of training.train must come after `--`"),
        ("--workers 2 --config digits", "unrecognized arguments: --config digits"),
        (
            "--workers 0 -- --config digits",
            "--workers: must be an integer, at least 1. Received '0'",
        ),
        ("--workers two -- --config digits", "--workers: must be an integer, at least 1"),
        ("--restarts -1 -- --config digits", "--restarts: must be an integer, at least 0"),
        ("--backoff nan -- --config digits", "--backoff: must be a number, at least 0"),
        ("--backoff inf -- --config digits", "--backoff: must be a number, at least 0"),
        ("--work 2 -- --config digits", "unrecognized arguments: --work 2"),
        ("--workers 2 -- --set epochs=2", "must have --config NAME or --run-dir DIR"),
        ("--workers 2 -- --config", "--config: expected one argument"),
        (
            "--workers 2 -- --config d --strategy mirrored",
            "multi_worker or auto. Received 'mirrored'",
        ),
        ("--workers 2 -- --config d --set strategy=one_device", "Received 'one_device'"),
    ],
)
def test_mistakes_are_answered_in_one_line(started, capsys, argv, message):
    assert supervise.main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("training.supervise: error: ") and message in err
    assert err.count("\n") == 1 and out == ""
    assert not started


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"TF_CONFIG": "{}"}, "TF_CONFIG is set"),
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"},
            "SLURM_PROCID and SLURM_STEP_NUM_TASKS are set",
        ),
    ],
)
def test_not_both_a_scheduler_and_workers(started, monkeypatch, capsys, environment, name):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert supervise.main(["--workers", "2", "--", "--config", "digits"]) == 2
    assert re.search(f"error: {name}.*leave out --workers", capsys.readouterr().err)


def test_a_mistake_for_train_is_its_to_answer(tmp_path):
    args = ["--config", "digitss", "--run-dir", str(tmp_path / "run")]
    process = programs.start(*programs.TRAIN_ON["two_processes"], *args)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert re.search(r"\[worker [01]\] training.train: error: --config must be one of", said)
