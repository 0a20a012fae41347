"""Jobs on a real Ray cluster of two nodes on this machine (keras_cvt/inference/ray_engine.py)."""

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from export_cases import LABELS, small
from PIL import Image

import keras_cvt
from keras_cvt import export
from keras_cvt.inference import ray_engine
from keras_cvt.inference.jobs import Done, run_locally
from keras_cvt.inference.listing import find_images
from keras_cvt.inference.parts import Parts
from keras_cvt.inference.ray_engine import RayError, Workers, answer_dataset, connected, resolved
from keras_cvt.inference.tasks import Predict, Work, exported_work

ray = pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("openvino")

MB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in two runtimes; and a hundred real photos, hard links of twenty, one of them broken."""
    folder = tmp_path_factory.mktemp("ray")
    model = keras_cvt.with_class_names(small(), LABELS)
    model.save(folder / "small.keras")
    export.to_openvino(model, folder / "small.xml")
    data = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    (folder / "photos").mkdir()
    for number in range(5):
        for photo in sorted(data.glob("imagenet_*.jpg")):
            link = folder / "photos" / f"{number}-{photo.name}"
            try:
                os.link(photo, link)
            except OSError:  # another file system
                link.write_bytes(photo.read_bytes())
    (folder / "photos" / "2-broken.jpg").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def sources(folder):
    """All photos, and one that is not there."""
    return [*find_images([folder / "photos"]).images, str(folder / "photos" / "none.jpg")]


@pytest.fixture(scope="module")
def expected(folder, sources):
    """What the local engine writes."""
    parts = Parts(str(folder / "local"))
    work = exported_work("openvino", folder / "small.xml")
    parts.begin(sources, work.options(), 8)
    list(run_locally(work, parts, 8))
    return parquet.read_table(parts.url)


@pytest.fixture
def cluster():
    """Two nodes with a processor each, which are all taken by the workers."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 80 * MB}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    with connected(cluster.address):
        yield cluster
    cluster.shutdown()


def assert_same(found, expected):
    """The same rows, of which none is missing or comes twice, and the same probabilities."""
    assert found.column("path").to_pylist() == expected.column("path").to_pylist()
    for name in ("ids", "labels", "error"):
        assert found.column(name).to_pylist() == expected.column(name).to_pylist()
    scores = [table.column("scores").to_pylist() for table in (found, expected)]
    assert [row is None for row in scores[0]] == [row is None for row in scores[1]]
    both = [np.array([row for row in rows if row is not None]) for rows in scores]
    np.testing.assert_allclose(*both, atol=1e-5)


def workers_of_this_test():
    """The processes of Ray that this process or its raylets started and that compute chunks."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ChunkWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def finish_after(running, chunks, kill):
    """Goes on with a job until so many chunks are done, kills something, and finishes."""
    done = [next(running) for _ in range(chunks)]
    kill()
    done += running
    assert len({each.chunk for each in done}) == len(done)
    return done


@pytest.mark.slow("ray")
def test_a_node_is_lost_in_the_middle(cluster, folder, sources, expected, tmp_path):
    """The node that is left has room for one worker only: Ray alone would wait for the other."""
    work = exported_work("openvino", folder / "small.xml")
    parts = Parts(str(tmp_path / "answers"))
    parts.begin(sources, work.options(), 2, chunk=4)
    assert parts.chunks == 26
    assert resolved(Workers()) == Workers(2, 1, 0)
    lines = []
    finish_after(
        ray_engine.run(work, parts, 2, say=lines.append),
        3,
        lambda: cluster.remove_node(cluster.second, allow_graceful=False),
    )
    assert parts.unfinished() == [] and resolved(Workers()).count == 1
    assert_same(parquet.read_table(parts.url), expected)
    assert any("workers were lost; " in line for line in lines)


@pytest.mark.slow("ray")
def test_a_worker_is_killed_in_the_middle(cluster, folder, sources, expected, tmp_path):
    work = exported_work("openvino", folder / "small.xml")
    parts = Parts(str(tmp_path / "answers"))
    parts.begin(sources, work.options(), 2, chunk=4)
    killed = []

    def kill():
        killed.append(workers_of_this_test()[0])
        killed[0].kill()

    lines = []
    finish_after(ray_engine.run(work, parts, 2, say=lines.append), 2, kill)
    assert_same(parquet.read_table(parts.url), expected)
    assert not killed[0].is_running() and any("workers were lost; " in line for line in lines)


@pytest.mark.slow("ray")
def test_the_driver_is_killed_and_goes_on(folder, sources, expected, tmp_path):
    """With a Ray of its own, and the command line."""
    output = tmp_path / "answers"
    command = [sys.executable, "-m", "keras_cvt", "predict", str(folder / "photos")]
    command += [str(folder / "photos" / "none.jpg"), "--model", str(folder / "small.xml")]
    command += ["--engine", "ray", "--batch-size", "2", "--output", str(output)]
    command += ["--workers", "1", "--cpus-per-worker", "1"]
    first = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    while not (parts := sorted(output.glob("part-*.parquet"))):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert Parts(str(output)).chunks == 2
    before = {part: part.stat().st_mtime_ns for part in parts}
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1, again.stderr  # two images have no answer
    assert "102 images, " in again.stdout and "; 2 without an answer; 2 parts" in again.stdout
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    assert_same(parquet.read_table(output), expected)


@pytest.mark.slow("ray")
def test_keras_in_workers_and_a_dataset_of_ones_own(cluster, folder, sources, tmp_path):
    from keras_cvt.cli import main

    photos = [str(path) for path in sorted((folder / "photos").glob("0-*"))]
    command = ["predict", *photos, "--model", str(folder / "small.keras")]
    local, there = tmp_path / "local", tmp_path / "ray"
    assert main([*command, "--output", str(local)]) == 0
    assert main([*command, "--output", str(there), "--engine", "ray", "--address", "auto"]) == 0
    expected = parquet.read_table(local)
    assert_same(parquet.read_table(there), expected)

    work = exported_work("openvino", folder / "small.xml")
    # One of the two processors reads.
    dataset = ray.data.read_binary_files(photos, include_paths=True)
    answered = answer_dataset(dataset, work).to_pandas()
    answered = answered.sort_values("path")
    assert list(answered.columns) == ["path", "ids", "labels", "scores", "error"]
    assert list(answered["path"]) == photos
    np.testing.assert_allclose(
        np.stack(answered["scores"].to_list()),
        np.array(expected.column("scores").to_pylist()),
        atol=1e-5,
    )

    with pytest.raises(RayError, match=r"No node has room for a worker of 2 CPUs and 0 GPUs"):
        resolved(Workers(cpus=2))
    with pytest.raises(RayError, match=r"of 1 CPUs and 1 GPUs"):
        resolved(Workers(gpus=1))
    assert resolved(Workers(count=9)).count == 2


def test_a_worker_tells_of_a_full_disk(tmp_path, monkeypatch):
    """In the row that it returns, so that the driver says it in one line and once."""
    monkeypatch.chdir(tmp_path)  # as a worker does, in a process of its own
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    task = Predict(keras_cvt.images.preprocessing.Preprocessing(8), (("0", "all"),), 1)
    work = Work(task, "keras", lambda images, batch_size: np.ones((len(images), 1)))
    parts = Parts(str(tmp_path / "answers"))
    parts.begin([str(tmp_path / "a.png")], work.options(), 8)
    monkeypatch.setattr(ray_engine, "_opened", lambda *arguments: work.runtime)

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    worker = ray_engine._ChunkWorker(parts.url, task, "keras", None, 8, 1, {}, tmp_path)
    row = worker({"chunk": np.array([0])})
    assert "No space left on device" in row["failed"][0] and "part-000000" in row["failed"][0]
    assert row["full"] == [True]

    def fails(*arguments):
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr(ray_engine, "_opened", fails)
    worker = ray_engine._ChunkWorker(parts.url, task, "openvino", None, 8, 1, {}, tmp_path)
    row = worker({"chunk": np.array([0])})
    assert row["failed"] == ["a worker can't open the model: No module named 'openvino'"]
    worker = ray_engine._ChunkWorker(parts.url, task, "keras", None, 8, 1, {}, tmp_path / "no")
    assert f"A node has no folder {tmp_path / 'no'}" in worker({"chunk": [0]})["failed"][0]


def test_a_ray_of_ones_own_tells_nobody(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    given = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected(stored=1000):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert given["address"] == "local" and given["object_store_memory"] > 2000

    def refused(**options):
        raise ConnectionError("nobody\nlistens")

    monkeypatch.setattr(ray, "init", refused)
    said = "^--address auto can't be reached: nobody listens$"
    with pytest.raises(RayError, match=said), connected("auto"):
        pass


def test_parts_that_are_written_elsewhere_end_the_job(tmp_path, monkeypatch):
    """Workers whose folder of the same name is on another machine."""
    work = Work(
        Predict(keras_cvt.images.preprocessing.Preprocessing(8), (("0", "all"),), 1),
        "keras",
        lambda images, batch_size: np.ones((len(images), 1)),
        paths=(),
    )
    parts = Parts(str(tmp_path / "answers"))
    parts.begin([str(tmp_path / "a.png")], work.options(), 8)
    monkeypatch.setattr(ray, "put", lambda files: None)
    monkeypatch.setattr(ray_engine, "resolved", lambda workers: Workers(1, 1))
    monkeypatch.setattr(ray_engine, "_pass", lambda *arguments: iter([Done(0, 1, 0)]))
    with pytest.raises(RayError, match="is not the same folder on all nodes: 1 parts"):
        list(ray_engine.run(work, parts, 8))

    lines = []
    monkeypatch.setattr(ray_engine, "_pass", lambda *arguments: iter([]))
    with pytest.raises(RayError, match="Every worker of 1 CPUs is lost before it finishes"):
        list(ray_engine.run(work, parts, 8, say=lines.append))
    assert lines == ["workers were lost; 1 of 1 chunks are computed again"] * 2
