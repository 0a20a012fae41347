"""What is missing or does not fit together is told in one line, with what to type."""

import os
import socket
import subprocess
import sys
from importlib import metadata

import keras
import pytest

import keras_cvt
from keras_cvt import _backend
from keras_cvt._commands import command


def installed(monkeypatch, **versions):
    names = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return names[name]

    monkeypatch.setattr(metadata, "version", version)


def test_a_report_names_what_is_installed(monkeypatch):
    installed(monkeypatch, keras="3.14.0", tensorflow_tpu="2.20.0", libtpu="0.0.30")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    lines = _backend.environment().splitlines()
    assert lines[0].startswith(f"Python {sys.version.split()[0]}, ")
    assert lines[1:] == [
        "keras 3.14.0, tensorflow-tpu 2.20.0, libtpu 0.0.30",
        "KERAS_BACKEND tensorflow",
    ]


def test_one_tensorflow_is_right(monkeypatch):
    for versions in (
        {},
        {"tensorflow": "2.19.1"},
        {"tensorflow": "2.21.0", "libtpu": "0.0.52"},  # which nothing loads
        {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.30"},
        {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.23.1"},
    ):
        installed(monkeypatch, **versions)
        _backend.check_tensorflow()


def test_two_tensorflows_in_one_folder_are_refused(monkeypatch):
    installed(monkeypatch, tensorflow="2.21.0", tensorflow_tpu="2.20.0")
    with pytest.raises(
        _backend.InstallationError, match="pip uninstall -y tensorflow tensorflow-tpu"
    ):
        _backend.check_tensorflow()


@pytest.mark.parametrize("version", ["0.0.32.1", "0.0.52", "0.1.0"])
def test_a_libtpu_that_aborts_is_refused(monkeypatch, version):
    installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu=version)
    with pytest.raises(_backend.InstallationError, match=r'pip install "libtpu<=0\.0\.30"'):
        _backend.check_tensorflow()


def test_what_is_refused_is_told_by_a_program(monkeypatch, capsys):
    installed(monkeypatch, tensorflow="2.21.0", tensorflow_tpu="2.20.0")
    assert command("one", {})(lambda argv: _backend.check_tensorflow())([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("one: error: tensorflow 2.21.0 and tensorflow-tpu 2.20.0 are both")


def test_a_missing_package_is_told_by_a_program(capsys):
    def main(argv):
        raise ModuleNotFoundError(
            "No module named 'tensorflow_datasets'", name="tensorflow_datasets"
        )

    for expected in ({}, {ImportError: 3}):
        status = command("one", expected)(main)([])
        assert status == (3 if expected else 2)
        assert capsys.readouterr().err == (
            "one: error: tensorflow_datasets is not installed: "
            'pip install ".[train]", in a checkout of keras_cvt.\n'
        )


def test_a_module_of_ours_that_is_missing_keeps_its_traceback():
    def main(argv):
        raise ModuleNotFoundError("No module named 'keras_cvt.gone'", name="keras_cvt.gone")

    with pytest.raises(ModuleNotFoundError, match="gone"):
        command("one", {})(main)([])


def test_the_library_without_its_backend():
    """The module is importable; what needs Keras says what to install."""
    program = "import keras_cvt\ntry: keras_cvt.CvT13\nexcept ModuleNotFoundError as e: print(e)"
    (other,) = {"jax", "torch"} - {keras.backend.backend(), "torch"} or {"torch"}
    if other in sys.modules:
        pytest.skip(f"{other} is installed here")
    environment = {**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert run.stdout.startswith(f"Keras has no backend: {other} is not installed. pip install")
    assert len(run.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--model", "a.keras", "a.jpg"),
        ("predict", "--model", "cvt13", "a.jpg"),
        ("explain", "--model", "a.keras", "a.jpg", "--output", "a.png"),
        ("export", "--model", "a.keras", "--format", "savedmodel", "--output", "a"),
        ("convert", "a.pth", "a.keras"),
        ("summary", "cvt13"),
        ("draw", "cvt13", "--output", "a.svg"),
    ],
    ids=" ".join,
)
def test_no_command_imports_keras_before_what_is_installed_was_checked(arguments, tmp_path):
    """Else TensorFlow's messages bury those of the command, and what does not fit is not named."""
    program = (
        "import sys\nfrom keras_cvt import _backend, cli\n"
        "def started(): sys.exit(f'Keras is there: {\"keras\" in sys.modules}')\n"
        "_backend.start_quietly = started\ncli.main(sys.argv[1:])"
    )
    (tmp_path / "a.jpg").touch()
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.stderr == "Keras is there: False\n"


def test_no_metadata_server_is_not_waited_for(monkeypatch, capsys):
    installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu="0.0.30")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(_backend, "_METADATA_SERVER", server.getsockname())
        _backend._find_no_tpu_quickly()
    assert "TPU_SKIP_MDS_QUERY" not in os.environ  # there is one: this is a TPU VM
    _backend._find_no_tpu_quickly()
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert "TPU_SKIP_MDS_QUERY=1" in capsys.readouterr().err
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's wheels")
def test_a_host_without_xla_is_not_asked_for_it(monkeypatch):
    """TensorFlow's TPU wheel has none, and Keras would compile `predict` and `fit`."""
    stages = [keras_cvt.StageConfig(8, 1, 2, class_token=True)]
    model = keras_cvt.CvT(stages, classes=2, input_shape=(16, 16, 3))
    assert all(layer.supports_jit for layer in model.layers) == _backend.xla_on_host()
    monkeypatch.setattr("keras_cvt.layers.composite.xla_on_host", lambda: False)
    assert not all(layer.supports_jit for layer in model.layers)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's wheels")
def test_the_probe_runs_although_a_function_is_being_traced():
    """As where training's augmentation asks. Within the graph it would find XLA everywhere."""
    import tensorflow as tf

    answers = []

    @tf.function
    def traced():
        answers.append(_backend.xla_on_host.__wrapped__())
        return tf.constant(0)

    graph = traced.get_concrete_function().graph
    assert answers == [_backend.xla_on_host()]
    assert {operation.type for operation in graph.get_operations()} == {"Const", "Identity"}
