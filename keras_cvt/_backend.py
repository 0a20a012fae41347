"""What a program needs to be installed: whether it is there, fits together, and starts quietly.

Nothing here imports Keras or a backend before it is called.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import socket
import sys
import tempfile
from importlib import metadata

# By the name of a module, the extra of setup.py that brings it.
_EXTRAS = {
    "tensorflow": "tensorflow",
    "jax": "jax",
    "torch": "torch",
    "tensorflow_datasets": "train",
    "importlib_resources": "train",  # needed by tensorflow_datasets, which does not say so
    "keras_cv": "train",
    "sklearn": "train",
    "matplotlib": "plot",
    "keras_hub": "hub",
    "optuna": "search",
    "tensorboard": "train",
    "ai_edge_litert": "export",
    "tf2onnx": "export",
    "onnx": "export",
    "onnxruntime": "export",
    "openvino": "export",
    "pyarrow": "parquet",
    "ray": "ray",
}
_BACKENDS = ("tensorflow", "jax", "torch")

# Distributions that all unpack TensorFlow into one folder: the last one installed wins, in part.
_TENSORFLOWS = (
    "tensorflow",
    "tensorflow-tpu",
    "tensorflow-cpu",
    "tensorflow-intel",
    "tf-nightly",
    "tf-nightly-tpu",
)

# With a later libtpu, importing tensorflow-tpu 2.20 aborts the process.
LAST_LIBTPU = (0, 0, 30)

_METADATA_SERVER = ("metadata.google.internal", 80)


# What decides how the library behaves: what a report of a fault must tell.
_REPORTED = ("keras", "numpy", "h5py", "huggingface_hub", "safetensors", "pillow")


class InstallationError(ImportError):
    """What is installed does not fit together. The message says in one line what to type."""


def environment() -> str:
    """Tells what is installed, for reports of faults: Python, the system, and versions of packages."""
    versions = {
        name: _version(name)
        for name in (*_REPORTED, *_TENSORFLOWS, "libtpu", "jax", "jaxlib", "torch")
    }
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    backend = os.environ.get("KERAS_BACKEND", "not set")
    system = f"Python {platform.python_version()}, {platform.platform()}"
    return f"{system}\n{found}\nKERAS_BACKEND {backend}"


def missing(error: ImportError) -> str:
    """What to type, if an import failed for what is installed, or not; "" if that is not known.

    Args:
        error: As `import` raises it.
    """
    if isinstance(error, InstallationError):
        return str(error)
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.partition(".")[0]
    if name not in _EXTRAS:
        return ""
    advice = f'pip install ".[{_EXTRAS[name]}]", in a checkout of keras_cvt.'
    if name not in _BACKENDS:
        return f"{name} is not installed: {advice}"
    return (
        f"Keras has no backend: {name} is not installed. {advice} Where another backend is "
        f"installed, set KERAS_BACKEND to one of {', '.join(_BACKENDS)}."
    )


def check_tensorflow() -> None:
    """Checks that the TensorFlow that is installed can be one. Does not import it.

    Raises:
        InstallationError: If several distributions share its folder, or its libtpu would abort the
            process.
    """
    found = {name: _version(name) for name in _TENSORFLOWS}
    found = {name: version for name, version in found.items() if version}
    if len(found) > 1:
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        raise InstallationError(
            f"{both} are both installed, in the same folder, so neither is whole. "
            f"pip uninstall -y {' '.join(found)}; then install the one that you want."
        )
    libtpu = _version("libtpu")
    if "tensorflow-tpu" in found and libtpu and _numbers(libtpu) > LAST_LIBTPU:
        right = ".".join(map(str, LAST_LIBTPU))
        raise InstallationError(
            f"libtpu {libtpu} aborts tensorflow-tpu {found['tensorflow-tpu']} when it is imported: "
            f'pip install "libtpu<={right}"'
        )


def start_quietly() -> None:
    """Imports Keras and its backend, with only what matters said on standard error.

    Errors reach Python as exceptions whatever the log level. Setting TF_CPP_MIN_LOG_LEVEL oneself
    brings every message back. For programs only: a library leaves such things alone.

    Raises:
        InstallationError: If what is installed can't work.
        ModuleNotFoundError: If the backend is not installed; see `missing`.
    """
    if "keras" in sys.modules:
        return
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        check_tensorflow()
        _find_no_tpu_quickly()
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import keras

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # The first messages come before TensorFlow reads its log level: they are caught on their way
    # out, and shown only if the import fails.
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            import keras  # noqa: F401
        except ModuleNotFoundError:
            raise
        except BaseException:
            caught.seek(0)
            os.write(stderr, caught.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].get_logger().setLevel("ERROR")


@functools.cache
def xla_on_host() -> bool:
    """Whether TensorFlow can compile for the processor with XLA. Its TPU wheel can't."""
    import tensorflow as tf

    try:
        # Within a function that is being traced, the probe would become a part of it, and not run.
        with tf.init_scope(), tf.device("CPU:0"):
            tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))
    except tf.errors.OpError:
        return False
    return True


def _find_no_tpu_quickly() -> None:
    """Spares eight minutes of waiting for Google's metadata server where there is none."""
    if not _version("tensorflow-tpu") or "TPU_SKIP_MDS_QUERY" in os.environ:
        return
    try:
        socket.create_connection(_METADATA_SERVER, timeout=3).close()
    except OSError:
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        print(
            "No metadata server answers, so this is no TPU VM of Google's: TensorFlow is told not to "
            "ask it (TPU_SKIP_MDS_QUERY=1), which would take minutes.",
            file=sys.stderr,
        )


def _version(distribution: str) -> str:
    """The version of an installed distribution; "" if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
