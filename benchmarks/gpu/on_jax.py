"""Contenders that JAX computes: this library's models, and others that are written for Keras."""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from benchmarks.gpu import cases, kernels
from benchmarks.gpu.cases import Job


def facts(job: Job) -> dict[str, str]:
    device = jax.devices()[0]
    if job.device == "gpu" and device.platform != "gpu":
        raise RuntimeError(f"JAX finds no GPU, but {device.platform}; --device cpu tries this out.")
    return {"jax": jax.__version__, "keras": keras.__version__, "device": device.device_kind}


class Program:
    """A function of JAX that is compiled when told to, and then computes batches.

    Attributes:
        memory: bytes of arguments, answers and what lies between; known when it is compiled.
    """

    def __init__(self, function: Callable, state: Any, data: tuple, donate: bool = False):
        self.state, self.data, self.donate = state, data, donate
        self._lowered = jax.jit(function, donate_argnums=0 if donate else ()).lower(state, *data)
        self.memory = 0

    def compile(self) -> None:
        self._compiled = self._lowered.compile()
        analysis = self._compiled.memory_analysis()
        if analysis is not None:
            self.memory = (
                analysis.temp_size_in_bytes
                + analysis.argument_size_in_bytes
                + analysis.output_size_in_bytes
                - analysis.alias_size_in_bytes
            )

    def run(self, batches: int) -> None:
        for _ in range(batches):
            if self.donate:
                self.state, answer = self._compiled(self.state, *self.data)
            else:
                answer = self._compiled(self.state, *self.data)
        answer.block_until_ready()

    def profile(self, batches: int) -> dict[str, Any]:
        """The kernels of so many batches: see `kernels.table`."""
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                self.run(batches)
            (path,) = Path(folder).rglob("*.xplane.pb")
            if (keep := kernels.kept("xplane.pb.gz")) is not None:
                keep.write_bytes(gzip.compress(path.read_bytes()))
                hlo = self._compiled.as_text().encode()
                kernels.kept("hlo.gz").write_bytes(gzip.compress(hlo))
            found = jax.profiler.ProfileData.from_file(str(path))
        return kernels.table(_kernels(found), batches, _sources(self._compiled.as_text()))


def _kernels(profile: Any) -> Iterator[tuple[str, str, float]]:
    """(kernel, operation of XLA, milliseconds) of each that ran on the GPU."""
    for plane in profile.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                yield event.name, str(stats.get("hlo_op", "")), event.duration_ns / 1e6


def _sources(hlo: str) -> dict[str, str]:
    """Which part of the model each operation of XLA comes from, by the operation's name."""
    found = re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name=\"([^\"]+)\"", hlo, re.MULTILINE)
    return {name: source for name, source in found}


def make(job: Job) -> Program:
    """The contender of this name, not compiled yet."""
    if job.task == "product":
        return _product(job)
    images = np.random.default_rng(0).normal(size=(job.batch, job.size, job.size, 3))
    images = jax.device_put(images.astype("float32"))
    model = _model(job)
    if job.task == "training":
        return _training(model, images)

    def function(weights, images):
        trainable, others = weights
        return model.stateless_call(trainable, others, images, training=False)[0]

    return Program(
        function, _values(model.trainable_variables, model.non_trainable_variables), (images,)
    )


def _values(*lists: Any) -> list[list[jax.Array]]:
    return [[variable.value for variable in variables] for variables in lists]


def _training(model: keras.Model, images: jax.Array) -> Program:
    """A step with AdamW as Keras' own loop makes it, in one function that updates its state."""
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05)
    optimizer.build(model.trainable_variables)
    labels = jax.numpy.arange(len(images)) % cases.CLASSES

    def loss(trainable, others, images, labels):
        logits, others = model.stateless_call(trainable, others, images, training=True)
        losses = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return losses.mean(), others

    def step(state, images, labels):
        trainable, others, moments = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(
            trainable, others, images, labels
        )
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, others, moments), value

    state = _values(model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    # The step gives its state's memory away, which the model's and optimizer's variables have, too.
    state = jax.tree.map(lambda value: jax.numpy.array(value, copy=True), tuple(state))
    return Program(step, state, (images, labels), donate=True)


def _model(job: Job) -> keras.Model:
    dtype = "mixed_bfloat16" if job.dtype == "bfloat16" else "float32"
    shape = (job.size, job.size, 3)
    if job.contender.startswith("ConvNeXt-T"):
        keras.config.set_dtype_policy(dtype)
        return keras.applications.ConvNeXtTiny(
            weights=None, input_shape=shape, classifier_activation=None
        )
    if job.contender.startswith("Swin-T"):
        return _swin(shape, dtype)
    import keras_cvt

    constructor = getattr(keras_cvt, job.model)
    model = constructor(
        weights=None,
        input_shape=shape,
        classes=cases.CLASSES,
        classifier_activation=None,
        dtype=dtype,
    )
    return keras_cvt.deploy(model) if ", deployed" in job.contender else model


def _swin(shape: tuple[int, int, int], dtype: str) -> keras.Model:
    import keras_hub

    backbone = keras_hub.models.SwinTransformerBackbone(
        image_shape=shape,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        dtype=dtype,
    )
    x = backbone.output
    x = keras.ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
    return keras.Model(backbone.input, keras.layers.Dense(cases.CLASSES)(x))


def _product(job: Job) -> Program:
    size = job.size
    dtype = "bfloat16" if job.dtype == "bfloat16" else "float32"
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size)).astype(dtype) for key in keys)
    return Program(lambda a, b: a @ b, a, (b,))
