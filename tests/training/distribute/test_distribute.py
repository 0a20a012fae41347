"""Tests of training/distribute, and that several devices and machines train as one device does.

The trainings are in tests/support/distributed_runs.py: a process can arrange its devices only once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf

import keras_cvt
from keras_cvt._backend import xla_on_host
from training import configs, distribute
from training.config import ConfigError
from training.distribute.replicas import GlobalDropPath
from training.engine.devices import devices_for, policy_for
from training.runs.run_checkpoints import RunCheckpoints

TESTS = programs.CHECKOUT / "tests" / "support"
ENVIRONMENT = ("TF_CONFIG", "TPU_NAME", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def start(what: str, folder: Path, **environment: str) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment = {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return programs.start(TESTS / "distributed_runs.py", what, folder, environment=environment)


def finish(processes: list[subprocess.Popen]) -> None:
    """Waits for all; none is left over when one fails."""
    try:
        for process in processes:
            programs.finish(process)
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def devices(tmp_path_factory) -> Path:
    """The folder of what one device and two did."""
    folder = tmp_path_factory.mktemp("devices")
    finish([start("devices", folder)])
    return folder


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Path:
    """The folder of what two processes did together."""
    folder = tmp_path_factory.mktemp("workers")
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    tasks = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(2)
    ]
    finish([start("worker", folder, TF_CONFIG=json.dumps(task)) for task in tasks])
    return folder


def assert_same_run(found_path: Path, expected_path: Path) -> dict[str, np.ndarray]:
    """All that a checkpoint has, and all that `fit` tells, to 1e-5."""
    with np.load(found_path) as found, np.load(expected_path) as expected:
        found, expected = dict(found), dict(expected)
    assert found.keys() == expected.keys()
    assert any("moving_variance" in name for name in found)
    assert any(name.startswith("optimizer/") for name in found)
    assert {"history/loss", "history/top5", "history/val_loss", "history/val_top1"} <= found.keys()
    for name, values in expected.items():
        if name in ("norms", "history/gradient_norm"):
            # What is not finite is inf or nan by chance.
            assert np.isfinite(found[name]).tolist() == np.isfinite(values).tolist()
            found[name], values = (np.nan_to_num(v, posinf=0) for v in (found[name], values))
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    return expected


# ---- several devices


@pytest.mark.slow("devices")
@pytest.mark.parametrize("variant", ["adamw", "sgd", "all"])
def test_two_devices_learn_what_one_does(devices, variant):
    """Weights, statistics, averages, optimizer, seeds and metrics, with the same drop path."""
    run = assert_same_run(
        devices / f"mirrored-{variant}.npz", devices / f"one_device-{variant}.npz"
    )
    assert len(run["norms"]) == 6 and run["history/loss"].shape == (2,)
    if variant in ("sgd", "all"):
        assert np.nanmin(run["norms"]) > 0.5  # clipping had something to do
    assert any(name.endswith(".average") for name in run) == (variant == "all")
    assert any(name.startswith("seeds/") for name in run) == (variant == "adamw")


@pytest.mark.slow("devices")
def test_one_devices_gradient_that_overflows_stops_the_step_on_both(devices):
    run = assert_same_run(devices / "mirrored-all.npz", devices / "one_device-all.npz")
    assert np.isfinite(run["norms"]).tolist() == [True, False, True, True, False, True]
    steps = [v for name, v in run.items() if "adamw" in name and name.endswith("/iteration")]
    assert steps == [4]
    scales = [v for name, v in run.items() if name.endswith("/dynamic_scale")]
    assert scales == [2.0**28]


@pytest.mark.slow("devices")
def test_dropout_differs_between_devices_and_steps(devices):
    with np.load(devices / "mirrored-masks.npz") as found:
        masks = [*found["dropout0"], *found["dropout1"]]
    with np.load(devices / "one_device-masks.npz") as found:
        alone = found["dropout0"][0]
    for i, mask in enumerate(masks):
        assert 8 < np.count_nonzero(mask) < 24
        assert not any(np.array_equal(mask, other) for other in masks[:i])
    # A single device has other ones for its second half, and both are as good.
    assert len(alone) == 64 and len(masks[0]) == 32


@pytest.mark.slow("devices")
def test_drop_path_drops_what_one_device_drops(devices):
    with np.load(devices / "mirrored-masks.npz") as found:
        two = [found[f"path{step}"] for step in range(2)]
    with np.load(devices / "one_device-masks.npz") as found:
        one = [found[f"path{step}"] for step in range(2)]
    for both, alone in zip(two, one, strict=True):
        assert both.shape == (2, 32) and 16 < np.count_nonzero(both) < 48
        np.testing.assert_array_equal(both.ravel(), alone.ravel())
    assert not np.array_equal(*one)


def test_drop_path_compiles_for_replicas_that_know_their_number_only_at_run_time(monkeypatch):
    """As on TPUs: XLA must know the length of a replica's part of the mask."""
    layer = keras_cvt.DropPath(0.5, seed=1)
    layer.__class__ = GlobalDropPath

    def mask(replica, replicas):
        layer.seed_generator.state.assign([1, 0])
        context = SimpleNamespace(num_replicas_in_sync=replicas, replica_id_in_sync_group=replica)
        with monkeypatch.context() as patch:
            patch.setattr(tf.distribute, "get_replica_context", lambda: context)
            return layer.draw_mask(12 // replicas)

    compiled = tf.function(mask, jit_compile=xla_on_host())
    whole = compiled(tf.constant(0), 1).numpy()
    parts = [compiled(tf.constant(replica), 3).numpy() for replica in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert set(whole) == {0, 2}


@pytest.mark.slow("devices")
def test_what_the_devices_are_and_what_they_refuse(devices):
    told = json.loads((devices / "devices.json").read_text())
    assert told["described"] == [
        "OneDeviceStrategy on 1 device: CPU:0",
        "MirroredStrategy on 2 devices: CPU:0, CPU:1",
    ]
    assert told["chief"] == [True, True] and told["agreed"] == [7, 7]
    assert "number of devices, 2, times `accumulation`, 1. Received 15." in told["batch"]
    assert "number of devices, 2, times `accumulation`, 6. Received 18." in told["parts"]
    assert told["jit"] == "`jit_compile` works on one device only. Received true."
    assert "can't be split into 3" in told["split"]


# ---- several processes


@pytest.mark.slow("devices")
def test_two_processes_learn_what_one_device_does(devices, workers):
    for number in range(2):
        run = assert_same_run(workers / f"worker{number}.npz", devices / "one_device-all.npz")
    assert np.isfinite(run["norms"]).tolist() == [True, False, True, True, False, True]
    told = [json.loads((workers / f"worker{number}.json").read_text()) for number in range(2)]
    assert [t["chief"] for t in told] == [True, False]
    assert [t["agreed"] for t in told] == [7, 7]
    assert [t["alike"] for t in told] == [[True, False]] * 2
    assert all(t["described"].startswith("2 workers, each with ") for t in told)


@pytest.mark.slow
def test_the_digits_are_learned_alike_on_any_devices(tmp_path):
    """By the commands that users give, and with the config's own model, to 1e-5 after 20 steps."""
    asked = ["--config", "digits", *programs.settings("max_steps=20", "ema=0.9")]
    arrays = {}
    for devices, program in programs.TRAIN_ON.items():
        programs.run(*program, *asked, "--run-dir", str(tmp_path / devices))
        checkpoint = RunCheckpoints(tmp_path / devices / "checkpoints", keep=1).latest()
        assert checkpoint.step == 20
        arrays[devices] = checkpoint.arrays
    one = arrays.pop("one_device")
    assert any("moving_variance" in name for name in one)
    assert any(name.endswith(".average") for name in one)
    for other in arrays.values():
        assert other.keys() == one.keys()
        for name, values in one.items():
            if not name.startswith("means/"):  # sums over hundreds of images
                np.testing.assert_allclose(other[name], values, rtol=0, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_allclose(other[name], values, rtol=1e-5, err_msg=name)


# ---- the choice of devices, without any


def choose(*overrides: str) -> tf.distribute.Strategy:
    return devices_for(configs.load("digits", overrides))


def two_workers(**changes) -> str:
    cluster = {"worker": ["localhost:1", "localhost:2"]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}} | changes)


def test_by_itself_it_is_one_device():
    assert choose().num_replicas_in_sync == 1
    assert distribute.is_chief(choose())


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        two_workers(task={}),
        two_workers(task={"type": "worker", "index": 2}),
        two_workers(task={"type": "worker", "index": "first"}),
        two_workers(task={"type": "chief", "index": 0}),
        two_workers(cluster="localhost:1"),
        two_workers(cluster={"worker": [1, 2]}),
        two_workers(cluster=["localhost:1"]),
    ],
)
def test_a_malformed_tf_config_is_an_error_in_one_line(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    for strategy in ("auto", "multi_worker"):
        with pytest.raises(
            ConfigError, match="does not say who the workers are.*TF_CONFIG"
        ) as error:
            choose(f"strategy={strategy}")
        assert "\n" not in str(error.value)
    # Who asks for this machine alone needs no cluster.
    assert choose("strategy=one_device").num_replicas_in_sync == 1


@pytest.mark.parametrize("alone", [None, two_workers(cluster={"worker": ["localhost:1"]})])
def test_several_workers_are_asked_for_and_not_there(alone, monkeypatch):
    if alone is not None:
        monkeypatch.setenv("TF_CONFIG", alone)
    with pytest.raises(ConfigError, match="multi_worker needs several workers"):
        choose("strategy=multi_worker")
    assert choose().num_replicas_in_sync == 1


@pytest.fixture
def resolver_of_choice(monkeypatch):
    """A function: the cluster that `choose` would join, of which nothing is started."""

    def resolve(*overrides):
        joined = []

        class Strategy:
            def __init__(self, resolver):
                joined.append(resolver)
                self.cluster_resolver = resolver
                self.num_replicas_in_sync = 2

        monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", Strategy)
        strategy = choose(*overrides)
        assert [strategy.cluster_resolver] == joined
        return joined[0], distribute.is_chief(strategy)

    return resolve


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
@pytest.mark.parametrize(
    ("cluster", "task", "chief"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), True),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("chief", 0), True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("worker", 0), False),
    ],
)
def test_tf_config_says_who_the_workers_are(
    strategy, cluster, task, chief, monkeypatch, resolver_of_choice
):
    asked = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(asked))
    resolver, is_chief = resolver_of_choice(f"strategy={strategy}")
    assert resolver.cluster_spec().as_dict() == cluster
    assert (resolver.task_type, resolver.task_id) == task
    assert is_chief == chief


@pytest.mark.parametrize(
    ("rank", "nodes", "tasks", "expected"),
    [
        ("0", "n[9-10]", "1(x2)", ["n9:8888", "n10:8888"]),
        ("1", "n[9-10]", "1(x2)", ["n9:8888", "n10:8888"]),
        ("2", "gpu,cpu7", "2,1", ["gpu:8888", "gpu:8889", "cpu7:8888"]),
    ],
)
def test_slurm_says_who_the_workers_are(
    rank, nodes, tasks, expected, monkeypatch, resolver_of_choice
):
    """In the order of the tasks' numbers, and on machines without GPUs too."""
    monkeypatch.setenv("SLURM_PROCID", rank)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(len(expected)))
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    resolver, is_chief = resolver_of_choice()
    assert resolver.cluster_spec().as_dict() == {"worker": expected}
    assert (resolver.task_type, resolver.task_id) == ("worker", int(rank))
    assert resolver.num_accelerators() == {"GPU": len(tf.config.list_physical_devices("GPU"))}
    assert is_chief == (rank == "0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_STEP_NUM_TASKS", "two"),
        ("SLURM_STEP_NODELIST", "n[1-"),
        ("SLURM_STEP_NODELIST", None),
        ("SLURM_STEP_TASKS_PER_NODE", "1"),
        ("SLURM_PROCID", "5"),
        ("SLURM_PROCID", None),
    ],
)
def test_malformed_slurm_variables_are_an_error_in_one_line(name, value, monkeypatch):
    variables = {
        "SLURM_PROCID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }
    for key, text in (variables | {name: value}).items():
        if text is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, text)
    with pytest.raises(ConfigError, match="does not say who the workers are") as error:
        choose()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_tpu_that_is_not_there_is_an_error_in_one_line(name, monkeypatch):
    """At once: the machine itself is asked without the network, and a name just once."""
    asked = []

    def no_network(request, *_, **__):
        asked.append(request)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    if name is not None:
        monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(
        ConfigError, match=f"finds no TPU: TPU_NAME is {name or 'not set'}, "
    ) as error:
        choose("strategy=tpu")
    assert "\n" not in str(error.value)
    assert len(asked) == (0 if name is None else 1)


# ---- precision, seeds


@pytest.mark.parametrize(
    ("asked", "capabilities", "strategy", "expected"),
    [
        ("auto", [], "auto", "float32"),
        ("auto", [(8, 0)], "auto", "mixed_bfloat16"),
        ("auto", [(9, 0), (7, 5)], "auto", "float32"),
        ("auto", [], "tpu", "mixed_bfloat16"),
        ("float32", [(8, 0)], "auto", "float32"),
        ("bfloat16", [], "auto", "mixed_bfloat16"),
        ("float16", [(7, 5)], "auto", "mixed_float16"),
    ],
)
def test_the_precision_is_what_all_devices_are_good_at(
    asked, capabilities, strategy, expected, monkeypatch
):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: capabilities)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda capability: {"compute_capability": capability},
    )
    config = configs.load("digits", [f"precision={asked}", f"strategy={strategy}"])
    assert policy_for(config) == expected


def test_reseeding_changes_the_draws_and_is_repeatable():
    def draws(number):
        layers = [keras.layers.Dropout(0.5, seed=3), keras_cvt.DropPath(0.5, seed=3)]
        model = keras.Sequential([keras.Input((8,)), *layers])
        model(tf.ones((4, 8)), training=True)
        if number:
            distribute.reseed(model, number)
        assert len(distribute.seed_generators(model)) == 2
        return model(tf.ones((4, 8)), training=True).numpy()

    assert not np.array_equal(draws(0), draws(1))
    assert not np.array_equal(draws(1), draws(2))
    np.testing.assert_array_equal(draws(2), draws(2))
